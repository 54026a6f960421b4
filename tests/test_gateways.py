"""Gateways: PCM over WebSockets, with real sockets; no word is lost, bad input is contained."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp import WSMsgType, WSServerHandshakeError
from test_recordings import wav_in
from test_server import Client, events_of, refusal, serving

from rtcstt.call import Call
from rtcstt.http.access import Authenticator
from rtcstt.media import g711
from rtcstt.media.pcm import Samples
from rtcstt.recordings import Recordings
from rtcstt.server import gateways
from rtcstt.server.calls import Calls
from rtcstt.server.intake import Timing
from rtcstt.testing import silence, speech

pytestmark = pytest.mark.real

WORDS = "it was the best of times"
AUDIO = np.concatenate([speech(WORDS), silence(0.8)])
PCM = "/pcm?encoding=pcm_s16le&sample_rate=16000"


async def play(socket: aiohttp.ClientWebSocketResponse, samples: Samples, *, rate: int = 16000) -> None:
    """Binary messages of 20 ms, in real time."""
    loop = asyncio.get_running_loop()
    begin, size = loop.time(), len(samples) // (len(samples) * 50 // rate)
    for number, start in enumerate(range(0, len(samples), size)):
        await asyncio.sleep(begin + number * size / rate - loop.time())
        await socket.send_bytes(samples[start : start + size].tobytes())


async def told(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    """The events to their end, which is that of the socket."""
    async with asyncio.timeout(60):
        return [json.loads(message.data) async for message in socket]


def text(events: list[dict[str, Any]], track: str = "0") -> str:
    ended = [event for event in events if event["type"] == "turn.end" and event["track"] == track]
    return "".join(event["transcript"] for event in ended)


async def ended(calls: Calls) -> Call:
    (call,) = calls.all()
    await asyncio.wait_for(calls.entries[call.id].life, 60)  # type: ignore[arg-type]
    return call


async def test_pcm_goes_in_and_events_come_out() -> None:
    async with serving() as (client, calls):
        async with client.ws_connect(PCM + "&label=desk") as socket:
            await socket.send_str('{"uuid": "a-b-c"}')  # as FreeSWITCH does
            await play(socket, AUDIO)
            await socket.send_str('{"type": "close"}')
            events = await told(socket)
        assert [event["seq"] for event in events] == list(range(len(events)))
        assert events[0]["label"] == "desk" and events[-1]["type"] == "session.end"
        assert text(events) == WORDS
        ledger = events[-1]["ledger"]["0"]
        assert ledger["received"] == len(AUDIO) / 16
        call = await ended(calls)
        assert call.metadata == {"uuid": "a-b-c"}
        listed = (await (await client.get("/calls")).json())["calls"]
        assert [one["call"] for one in listed] == [events[0]["call"]]


async def test_two_channels_are_two_speakers() -> None:
    other = speech("a tale of two cities once more")
    length = max(len(AUDIO), len(other))
    both = np.stack([np.pad(one, (0, length - len(one))) for one in (AUDIO, other)], axis=1)
    async with serving() as (client, _), client.ws_connect(PCM + "&channels=2") as socket:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for start in range(0, length, 320):
            await asyncio.sleep(begin + start / 16000 - loop.time())
            await socket.send_bytes(both[start : start + 320].tobytes())
        await socket.send_str('{"type": "close"}')
        events = await told(socket)
    assert text(events, "0") == WORDS and text(events, "1") == "a tale of two cities once more"


async def test_who_sends_at_once_loses_no_word() -> None:
    timing = Timing(ahead_s=0.4, piece_s=0.2, wait_s=0.05)
    async with serving(timing=timing) as (client, calls), client.ws_connect(PCM) as socket:
        await socket.send_bytes(AUDIO.tobytes())
        await asyncio.sleep(0.3)
        (call,) = calls.all()
        assert call.tracks["0"].queued_s < 0.7, "the rest waits in the socket"
        await socket.send_str('{"type": "close"}')
        events = await told(socket)
    assert text(events) == WORDS
    assert set(events[-1]["ledger"]["0"]["discarded_by_reason"]) <= {"lag"}


async def test_a_closed_socket_ends_the_call_and_keeps_its_words() -> None:
    async with serving(grace_s=30.0) as (client, calls):
        async with client.ws_connect(PCM) as socket:
            await play(socket, AUDIO)
        call = await ended(calls)
        assert "".join(e.transcript or "" for e in call.feed.history if e.type == "turn.end") == WORDS
        assert call.feed.history[-1].fields["reason"] == "hung up"


async def test_hanging_up_elsewhere_ends_the_socket_after_the_last_event() -> None:
    async with serving() as (client, calls), client.ws_connect(PCM) as socket:
        await play(socket, AUDIO)
        (call,) = calls.all()
        assert (await client.delete(f"/calls/{call.id}")).status == 200
        events = await told(socket)
        assert events[-1]["type"] == "session.end" and text(events) == WORDS


async def test_what_makes_no_sense_is_contained() -> None:
    dice = random.Random(1)
    async with serving() as (client, calls):
        async with client.ws_connect(PCM) as socket:
            for number in range(50):
                await socket.send_bytes(dice.randbytes(number))  # odd lengths, too
                await socket.send_str(dice.choice(['{"type": 1}', "nonsense", "[", "[]", "[" * 20000]))
            await socket.send_bytes(AUDIO[:1600].tobytes())
            await socket.send_str('{"type": "close"}')
            events = await told(socket)
        assert events[-1]["type"] == "session.end"
        async with client.ws_connect(PCM) as socket:
            await socket.send_bytes(bytes(gateways.MAX_MESSAGE + 1))
            async for _ in socket:
                pass
            assert socket.close_code == 1009
        assert calls.find(events[0]["call"]).state == "closed"


@pytest.mark.parametrize(
    ("query", "status"),
    [("encoding=opus", 400), ("sample_rate=1", 400), ("sample_rate=x", 400), ("channels=3", 400)],
)
async def test_a_form_that_is_not_taken_is_refused(query: str, status: int) -> None:
    async with serving() as (client, calls):
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(f"/pcm?{query}")
        assert refused.value.status == status and calls.all() == []


async def test_limits_and_tokens_hold_for_sockets_too() -> None:
    async with serving(authenticator=Authenticator(("secret",)), max_calls=1) as (client, calls):
        await refusal(await client.get("/pcm?access_token=secret"), 426, "websocket_needed")
        for url, status in (("/pcm", 401), ("/pcm?access_token=wrong", 401)):
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect(url)
            assert refused.value.status == status
        async with client.ws_connect("/pcm?access_token=secret"):
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect("/pcm?access_token=secret")
            assert refused.value.status == 503
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect("/pcm?access_token=secret", origin="https://elsewhere.example")
        assert refused.value.status == 403
        assert len(calls.all()) == 1


# -- media streams -----------------------------------------------------------------------------------


def start(encoding: str = "audio/x-mulaw", rate: int = 8000, **parameters: Any) -> dict[str, Any]:
    return {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "streamSid": "MZ1",
            "callSid": "CA1",
            "tracks": ["inbound", "outbound"],
            "mediaFormat": {"encoding": encoding, "sampleRate": rate, "channels": 1},
            "customParameters": parameters,
        },
    }


def media(data: bytes, track: str = "inbound") -> dict[str, Any]:
    return {"event": "media", "media": {"track": track, "payload": base64.b64encode(data).decode()}}


async def stream(
    socket: aiohttp.ClientWebSocketResponse, frames: dict[str, list[bytes]], *, stops: bool = True
) -> None:
    """Each track's frames of 20 ms in real time, then `stop`."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(max(map(len, frames.values()))):
        await asyncio.sleep(begin + 0.02 * number - loop.time())
        for track, its in frames.items():
            if number < len(its):
                await socket.send_json(media(its[number], track))
    if stops:
        await socket.send_json({"event": "stop"})


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


async def of_call(client: Client, call: Call) -> list[dict[str, Any]]:
    return [event for _, event in await events_of(client, call.id)]


async def test_a_media_stream_with_both_sides_of_a_call() -> None:
    async with serving() as (client, calls):
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
            await socket.send_json(start("audio/x-l16", 16000, label="desk"))
            other = np.concatenate([speech("how may I help"), silence(0.8)])
            await stream(
                socket, {"inbound": cut(AUDIO.tobytes(), 640), "outbound": cut(other.tobytes(), 640)}
            )
            assert await told(socket) == [], "the other end knows none of our events"
        call = await ended(calls)
        events = await of_call(client, call)
        assert text(events, "inbound") == WORDS and text(events, "outbound") == "how may I help"
        assert call.label == "desk" and call.metadata["callSid"] == "CA1"


async def test_mu_law_arrives_as_it_was_sent(tmp_path: Path) -> None:
    samples = (np.sin(np.arange(16000) * 2 * np.pi * 440 / 8000) * 8000).astype(np.int16)
    codes = np.array([int(np.argmin(np.abs(g711.MULAW - s.astype(int)))) for s in samples], np.uint8)
    recordings = Recordings(tmp_path)
    async with serving(recordings=recordings) as (client, calls):
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json(start())
            await stream(socket, {"inbound": cut(codes.tobytes(), 160)})
            await told(socket)
        call = await ended(calls)
    recordings.close()
    assert call.label == "CA1" and call.ledgers()["inbound"]["received"] == 2000.0
    received, _ = soundfile.read(wav_in(tmp_path), dtype="int16")
    middle = received[4000:20000].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(int(np.argmax(spectrum)) * 16000 / len(middle) - 440) < 2
    assert abs(np.sqrt(np.mean(middle**2)) - 8000 / np.sqrt(2)) < 200


async def test_a_media_streams_token_may_come_with_its_start() -> None:
    async with serving(authenticator=Authenticator(("secret",))) as (client, calls):
        for first in (start(), start(access_token="wrong")):
            async with client.ws_connect("/media-stream") as socket:
                await socket.send_json(first)
                assert await told(socket) == [] and socket.close_code == 1008
        assert calls.all() == []
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json(start(access_token="secret"))
            await stream(socket, {"inbound": [bytes(160)]})
            await told(socket)
        assert "secret" not in json.dumps((await ended(calls)).snapshot())


async def test_a_media_stream_of_nonsense_is_let_go() -> None:
    nonsense = ["", "[", "[]", '{"event": 1}', '{"event": "start"}', '{"event": "start", "start": []}']
    async with serving(timing=Timing(start_s=0.3)) as (client, calls):
        async with client.ws_connect("/media-stream") as socket:
            for one in nonsense:
                await socket.send_str(one)
            assert await told(socket) == [] and socket.close_code == 1008
        assert calls.all() == []
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json(start())
            wrong: tuple[object, ...] = ("?", "YQ", "YQ===", 7, None, [], "é")
            for payload in wrong:
                await socket.send_json({"event": "media", "media": {"payload": payload}})
            await socket.send_json({"event": "media", "media": []})
            await socket.send_json(media(bytes(160)))
            for _ in range(gateways.MAX_BAD + 1):
                await socket.send_bytes(b"audio that is not expected here")
            assert await told(socket) == [] and socket.close_code == 1008
        call = await ended(calls)
        assert call.ledgers()["inbound"]["received"] == 20.25, "and two bytes without their padding"


async def test_audio_before_its_start_is_kept_till_then() -> None:
    frames = [media(part) for part in cut(AUDIO.tobytes(), 640)]
    async with serving() as (client, calls), client.ws_connect("/media-stream") as socket:
        for message in [*frames[:20], start("audio/x-l16", 16000), *frames[20:], {"event": "stop"}]:
            await socket.send_json(message)
        await told(socket)
        assert text(await of_call(client, await ended(calls)), "inbound") == WORDS


async def test_what_is_not_understood_in_a_media_stream_is_told_once() -> None:
    async with serving() as (client, calls), client.ws_connect("/media-stream") as socket:
        await socket.send_json(start())
        for _ in range(3):
            await socket.send_json({"event": "media", "media": {"payload": "!!!"}})
            await socket.send_bytes(b"audio")
            await socket.send_json({"event": "dtmf", "dtmf": {"digit": "x"}})
        for number in range(gateways.MAX_TRACKS + 2):
            await socket.send_json(media(bytes(160), f"t{number}"))
        await socket.send_json({"event": "stop"})
        await told(socket)
        events = await of_call(client, await ended(calls))
    assert [event["reason"] for event in events if event["type"] == "audio.ignored"] == [
        "media.payload is no base64.",
        "Audio comes in JSON here, not as binary messages.",
        "dtmf.digit is no key.",
        "media.track: there are more than 8 tracks.",
    ]


async def test_a_second_start_must_state_the_same() -> None:
    async with serving() as (client, calls), client.ws_connect("/media-stream") as socket:
        for message in [start(), media(bytes(160)), start(), media(bytes(160)), start(rate=16000)]:
            await socket.send_json(message)
        assert await told(socket) == [] and socket.close_code == 1008
        assert (await ended(calls)).ledgers()["inbound"]["received"] == 40.0


async def test_streams_of_one_connection_end_one_by_one_and_what_comes_twice_counts_once() -> None:
    frames = cut(AUDIO.tobytes(), 640)
    async with serving() as (client, calls), client.ws_connect("/media-stream") as socket:
        for tag in ("a", "b"):
            form = {"encoding": "PCM16", "sampleRate": 16000}
            await socket.send_json({"event": "start", "start": {"tag": tag, "mediaFormat": form}})
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await socket.send_json({"event": "stop", "stop": {"tag": "b"}})
        for number, data in enumerate(frames):
            await asyncio.sleep(begin + 0.02 * number - loop.time())
            payload = base64.b64encode(data).decode()
            message = {"event": "media", "media": {"tag": "a", "chunk": number + 1, "payload": payload}}
            for _ in range(2 if number % 3 == 0 else 1):
                await socket.send_json(message)
        await socket.send_json({"event": "stop", "stop": {"tag": "a"}})
        assert await told(socket) == []
        call = await ended(calls)
        events = await of_call(client, call)
    assert text(events, "a") == WORDS
    assert call.ledgers()["a"]["received"] == len(AUDIO) / 16
    assert [e["reason"] for e in events if e["type"] == "audio.ignored"] == [
        "media.chunk: messages come twice; each is taken once"
    ]


async def test_what_cannot_be_taken_beside_the_format_ends_no_call() -> None:
    """A key that is none, and more metadata than is kept: the audio is what was stated."""
    async with serving() as (client, _), client.ws_connect("/pcm") as socket:
        await socket.send_json({"sampleRate": 16000, "customer": "x" * 5000})
        await socket.send_json({"event": "websocket:dtmf", "digit": "?"})
        await socket.send_str("DTMF_END digit:?")
        await play(socket, AUDIO)
        await socket.send_json({"type": "close"})
        events = await told(socket)
    assert text(events) == WORDS and events[-1]["complete"]
    errors = [event["message"] for event in events if event["type"] == "error"]
    assert [message.split()[0] for message in errors] == ["metadata", "dtmf.digit", "dtmf.digit"]


async def test_streams_that_begin_without_end_are_not_all_remembered() -> None:
    async with serving() as (client, calls), client.ws_connect("/media-stream") as socket:
        for tag in range(50):
            await socket.send_json({"event": "start", "start": {"tag": f"t{tag}"}})
        await socket.send_json({"event": "stop"})
        assert await told(socket) == []
        events = await of_call(client, await ended(calls))
    assert [e["reason"] for e in events if e["type"] == "audio.ignored"] == [
        f"start.tag: there are more than {gateways.MAX_TRACKS} streams."
    ]


async def test_what_comes_before_the_start_is_kept_within_bounds() -> None:
    """Fewer messages than may come, but large ones."""
    payload = base64.b64encode(bytes(180_000)).decode()
    async with serving() as (client, calls), client.ws_connect("/media-stream") as socket:
        for _ in range(24):
            await socket.send_json({"event": "media", "media": {"payload": payload}})
        message = await asyncio.wait_for(socket.receive(), 60)
        assert message.data == 1008 and message.extra == "start did not come within 23 messages."
        assert calls.all() == []


async def test_who_states_nothing_is_told_what_was_not_understood() -> None:
    async with (
        serving(timing=Timing(start_s=0.3)) as (client, _),
        client.ws_connect("/media-stream") as socket,
    ):
        await socket.send_json({"type": "open", "parameters": {}})
        message = await socket.receive()
        assert message.data == 1008 and message.extra == "no start message came; event is missing."


async def test_jambonz_speech_protocol_states_its_audio() -> None:
    async with serving() as (client, _), client.ws_connect("/pcm") as socket:
        await socket.send_json({"type": "start", "encoding": "LINEAR16", "sampleRateHz": 16000})
        await play(socket, AUDIO)
        await socket.send_json({"type": "stop"})
        events = await told(socket)
    assert text(events) == WORDS and events[-1]["complete"]


# -- what gateways state, with inputs that were reported ----------------------------------------------

CASES = Path(__file__).parent / "fixtures" / "media"


def case(name: str) -> list[dict[str, Any]]:
    with gzip.open(CASES / f"{name}.ws.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


async def send_at_once(socket: aiohttp.ClientWebSocketResponse, messages: list[dict[str, Any]]) -> None:
    for message in messages:
        if "binary_hex" in message:
            await socket.send_bytes(bytes.fromhex(message["binary_hex"]))
        else:
            await socket.send_json(message)


def shares_of_low_sound(folder: Path) -> list[float]:
    """Of each recorded channel, the share of its power below 1.5 kHz: of speech most, of noise little."""
    shares = []
    for path in folder.rglob("*.wav"):
        samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
        for channel in samples.T:
            power = np.abs(np.fft.rfft(channel)) ** 2 + 1e-9
            shares.append(float(power[: int(1500 * len(channel) / rate)].sum() / power.sum()))
    return shares


@pytest.mark.parametrize(
    ("name", "url", "tracks", "seconds"),
    [
        ("telnyx_pcma", "/media-stream", ["inbound"], 3.4),
        ("media_channels2", "/media-stream", ["inbound", "outbound"], 3.4),
        ("tracks_inbound_track_outbound_track", "/media-stream", ["inbound", "outbound"], 3.4),
        ("vonage_rate_16000_url_without", "/pcm", ["0"], 3.4),
        ("pcm_split_at_odd_bytes", "/pcm?sample_rate=16000", ["0"], 3.4),
    ],
)
async def test_audio_as_it_is_stated(
    name: str, url: str, tracks: list[str], seconds: float, tmp_path: Path
) -> None:
    recordings = Recordings(tmp_path)
    async with serving(recordings=recordings) as (client, calls):
        async with client.ws_connect(url) as socket:
            await send_at_once(socket, case(name))
            if url.startswith("/pcm"):
                await socket.send_json({"type": "close"})
            await told(socket)
        call = await ended(calls)
    recordings.close()
    assert sorted(call.tracks) == tracks
    for track in tracks:
        assert call.ledgers()[track]["received"] == pytest.approx(1000 * seconds, abs=100)
    assert max(shares_of_low_sound(tmp_path)) > 0.7, "speech, not noise"
    assert not [event for event in call.feed.history if event.type == "audio.suspect"]


@pytest.mark.parametrize(
    ("url", "first", "named"),
    [
        ("/pcm?sample_rate=8000", {"content-type": "audio/l16;rate=16000"}, "sample_rate is 16000"),
        ("/pcm", {"content-type": "audio/opus"}, "content-type"),
        ("/media-stream", start("audio/x-gsm"), "start.mediaFormat.encoding"),
        ("/media-stream?sample_rate=16000", start(), "sample_rate is 8000 in start"),
    ],
)
async def test_what_is_not_taken_is_refused_by_the_name_of_its_field(
    url: str, first: dict[str, Any], named: str
) -> None:
    async with serving() as (client, _):
        async with client.ws_connect(url) as socket:
            await socket.send_json(first)
            message = await socket.receive()
            while message.type is WSMsgType.TEXT:  # events
                message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)
            assert named in (message.extra or "")


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["audio.jambonz.org"], "audio.jambonz.org"),
        (["media"], "media"),
        (["x", "audio.drachtio.org"], "audio.drachtio.org"),
        (["other"], "other"),
        ([], None),
    ],
)
async def test_a_subprotocol_that_is_offered_is_selected(offered: list[str], selected: str | None) -> None:
    async with serving() as (client, _):
        for url in ("/pcm", "/media-stream"):
            async with client.ws_connect(url, protocols=offered) as socket:
                assert socket.protocol == selected


async def test_keys_are_events() -> None:
    async with serving() as (client, calls):
        async with client.ws_connect(PCM) as socket:
            await socket.send_json({"event": "websocket:dtmf", "digit": "7", "duration": 260})
            await socket.send_str("DTMF_END digit:# duration_ms:90")
            await socket.send_json({"type": "close"})
            keys = [(e["digit"], e["duration_ms"]) for e in await told(socket) if e["type"] == "dtmf"]
        assert keys == [("7", 260), ("#", 90)]
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json(start())
            await socket.send_json({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "1"}})
            await socket.send_json({"event": "stop"})
            await told(socket)
        call = calls.all()[-1]
        await asyncio.wait_for(call.wait_closed(), 20)
        told_keys = [e.as_dict() for e in call.feed.history if e.type == "dtmf"]
        assert [(key["track"], key["digit"]) for key in told_keys] == [("inbound", "1")]


async def test_a_client_who_leaves_before_the_answer_to_a_ping_has_left() -> None:
    class Socket:
        closed = False

        async def receive(self) -> object:
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    socket: Any = Socket()
    with pytest.raises(gateways._Lost):
        await anext(gateways._received(socket, 60.0))
