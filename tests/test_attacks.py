"""What callers and strangers tried against a live server, and do in vain: each was found to work once."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSServerHandshakeError
from test_server import SECRET, TONE, Resuming, events_of, refusal, serving, token

from rtcstt.call import Call
from rtcstt.events import TurnEnd, TurnUpdate
from rtcstt.http.access import Authenticator
from rtcstt.limits import Slots
from rtcstt.server import audiosocket
from rtcstt.server.admission import Limits
from rtcstt.server.calls import QUIET_S
from rtcstt.server.intake import Timing
from rtcstt.server.signaling_routes import MAX_OFFER
from rtcstt.stt.cartesia import Cartesia
from rtcstt.testing import speech
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets
from tests.descriptions import AUDIO, SESSION

pytestmark = pytest.mark.real

PATIENCE_S = 30.0
OFFER = SESSION + AUDIO
WORDS = speech("it was the best of times")
ALL = {"Authorization": "Bearer a static token of the test"}
GUARDED = Authenticator(("a static token of the test",), SECRET)
DEEP = "[" * 975 + "]" * 975


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def offer(tracks: int = 1) -> str:
    mids = [AUDIO.replace("a=mid:0", f"a=mid:{mid}") for mid in range(tracks)]
    return SESSION.replace("BUNDLE 0", "BUNDLE " + " ".join(map(str, range(tracks)))) + "".join(mids)


# -- one GET that stopped the server -------------------------------------------------------------------


@pytest.mark.parametrize("cursor", ["1", "999", "999999999", "-1", "-999999999"])
@pytest.mark.parametrize("ended", [False, True])
async def test_any_cursor_of_an_event_stream_is_answered(cursor: str, ended: bool) -> None:
    async with serving() as (client, calls):
        call = calls.begin()
        if ended:
            await calls.hang_up(call.id)
        async with asyncio.timeout(PATIENCE_S):
            async with client.get(f"/calls/{call.id}/events", headers={"Last-Event-ID": cursor}) as response:
                assert response.status == 200
                assert (await client.get("/healthz")).status == 200
                await calls.hang_up(call.id)
                text = await response.text()
        first = text.partition("\n")[0].removeprefix("id: ")
        assert first == "0" if cursor.startswith("-") else first in ("", "1", "2")


@pytest.mark.parametrize("cursor", ["x", "1e3", "9" * 10, "9" * 5000, "\u0663", "1.5", "--1"])
async def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    async with serving() as (client, calls):
        call = calls.begin()
        query = {"last_event_id": cursor}
        await refusal(await client.get(f"/calls/{call.id}/events", params=query), 400)


# -- offers that cost much -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sdp",
    [
        "v=0\r\n" + "a=x:" + "y" * MAX_OFFER,
        OFFER + "m=audio 9 U 0\r\n" * 6800,
        OFFER + "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n" * 2000,
    ],
)
async def test_an_offer_beyond_the_limit_is_refused_unread(sdp: str) -> None:
    async with serving() as (client, calls):
        body = {"type": "offer", "sdp": sdp}
        await refusal(await client.post("/offer", json=body), 413, "offer_too_big")
        whip = {"Content-Type": "application/sdp"}
        await refusal(await client.post("/whip", data=sdp, headers=whip), 413, "offer_too_big")
        assert calls.all() == []


async def test_numbers_of_any_length_are_no_server_error() -> None:
    async with serving() as (client, _):
        for old, new in (("111", "1" * 5000), ("48000", "4" * 5000), ("a=mid:0", "a=mid:" + "0" * 5000)):
            body = {"type": "offer", "sdp": OFFER.replace(old, new)}
            response = await client.post("/offer", json=body)
            assert response.status < 500, await response.text()
        body_text = '{"type": "offer", "sdp": "v=0", "metadata": {"x": ' + "1" * 5000 + "}}"
        await refusal(await client.post("/offer", data=body_text), 400, "bad_json")


# -- admission -----------------------------------------------------------------------------------------


async def test_a_call_gets_a_stream_for_each_track_or_is_refused() -> None:
    """One caller with eight tracks left the next one admitted, and transcribed by nobody."""
    streams = Slots(lambda: 3)
    async with serving(streams=streams) as (client, calls):
        placed = await client.post("/offer", json={"type": "offer", "sdp": offer(2)})
        assert placed.status == 200 and streams.used == 2
        response = await client.post("/offer", json={"type": "offer", "sdp": offer(2)})
        await refusal(response, 503, "full")
        assert int(response.headers["Retry-After"]) > 0
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect("/pcm?channels=2")
        assert refused.value.status == 503
        assert streams.used == 2 and len(calls.all()) == 1, "nothing is left of those that were refused"
        async with client.ws_connect("/pcm"):
            assert streams.used == 3
        await until(lambda: streams.used == 2)
        await calls.hang_up((await placed.json())["call"])
        await until(lambda: streams.used == 0)


async def test_a_resumed_call_needs_a_stream_for_each_track_that_is_new() -> None:
    streams = Slots(lambda: 2)
    async with serving(streams=streams, grace_s=PATIENCE_S) as (client, calls):
        placed = await (await client.post("/offer", json={"type": "offer", "sdp": offer(1)})).json()
        await until(lambda: calls.find(placed["call"]).tracks)
        other = OFFER.replace("a=mid:0", "a=mid:other")
        for sdp, status, used in ((OFFER, 200, 1), (other, 200, 2), (offer(2), 503, 2)):
            response = await client.post("/offer", json={"type": "offer", "sdp": sdp, "call": placed["call"]})
            assert (response.status, streams.used) == (status, used), await response.text()


async def test_a_media_streams_second_track_needs_a_stream_too() -> None:
    streams = Slots(lambda: 1)
    start = {"event": "start", "start": {"tracks": ["inbound"]}}

    def media(track: str) -> dict[str, Any]:
        return {"event": "media", "media": {"track": track, "payload": "//8="}}

    async with serving(streams=streams) as (client, calls), client.ws_connect("/media-stream") as socket:
        await socket.send_json(start)
        for track in ("inbound", "outbound", "outbound"):
            await socket.send_json(media(track))
        await until(lambda: calls.all() and "error" in types(calls.all()[0]))
        (call,) = calls.all()
        assert list(call.tracks) == ["inbound"] and types(call).count("error") == 1


def types(call: Call) -> list[str]:
    return [event.type for event in call.feed.history]


@pytest.mark.parametrize("by", ["address", "token"])
async def test_one_address_or_token_has_so_many_calls(by: str) -> None:
    limits = Limits(resume_grace_s=0, **{f"max_calls_per_{by}": 2})
    async with serving(limits=limits, authenticator=GUARDED) as (client, calls):
        for path in ("/pcm", "/pcm"):
            await client.ws_connect(path, headers=ALL)
        body = {"type": "offer", "sdp": OFFER}
        response = await client.post("/offer", json=body, headers=ALL)
        await refusal(response, 429, "too_many_calls")
        assert response.headers["Retry-After"] == "10"
        other = await client.post("/offer", json=body, headers=token(sub="another"))
        assert other.status == (429 if by == "address" else 200)
        await calls.hang_up(calls.all()[0].id)
        await until(lambda: calls.open < 2 + (other.status == 200))
        assert (await client.post("/offer", json=body, headers=ALL)).status == 200


def test_by_default_only_strangers_are_limited() -> None:
    limits = Limits()
    assert limits.calls_of("192.0.2.1", gateway=False) == 32
    for address, gateway in (("127.0.0.1", False), ("::1", False), ("", False), ("192.0.2.1", True)):
        assert limits.calls_of(address, gateway=gateway) is None


async def test_a_gateway_of_which_nothing_comes_gives_its_place_back() -> None:
    streams = Slots(lambda: 2)
    async with serving(streams=streams, timing=Timing(silent_s=0.2)) as (client, calls):
        pcm = await client.ws_connect("/pcm")
        media = await client.ws_connect("/media-stream")
        await media.send_json({"event": "start", "start": {}})
        await until(lambda: len(calls.all()) == 2 and streams.used == 0)
        assert {call.state for call in calls.all()} == {"closed"}
        while (message := await pcm.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        await pcm.close()
        await media.close()


async def test_an_audiosocket_of_which_nothing_comes_gives_its_place_back() -> None:
    async with serving() as (_, calls):
        ports: asyncio.Queue[int] = asyncio.Queue()
        address = audiosocket.Address.parse("127.0.0.1:0", ())
        run = audiosocket.during(calls, address, ports.put_nowait, timing=Timing(silent_s=0.2))(
            aiohttp.web.Application()
        )
        await anext(run)
        reader, writer = await asyncio.open_connection("127.0.0.1", await ports.get())
        writer.write(bytes((1, 0, 16)) + uuid.uuid4().bytes)
        await until(lambda: calls.all() and calls.all()[0].state == "closed")
        assert await reader.read() in (b"", bytes(3))
        writer.close()
        with pytest.raises(StopAsyncIteration):
            await anext(run)


async def test_ended_calls_push_out_those_that_ended_before_and_first_those_without_audio() -> None:
    """Offers that nobody connects pushed every transcript out within minutes; and the call that began first
    was forgotten first, even when it had just ended."""
    async with serving(limits=Limits(keep_ended=3, resume_grace_s=0.0)) as (_, calls):
        spoken = [calls.begin() for _ in range(4)]
        for call in spoken:
            call.add_track("0").push_pcm(WORDS, 16000)
            await until(lambda call=call: call.time > 0)
        for call in spoken[1:3]:
            await calls.hang_up(call.id)
        for _ in range(5):
            await calls.hang_up(calls.begin().id)
        await calls.hang_up(spoken[0].id)
        assert [call.id for call in calls.all()] == [call.id for call in spoken]
        await calls.hang_up(spoken[3].id)
        assert [call.id for call in calls.all()] == [spoken[i].id for i in (0, 2, 3)]


# -- metadata ------------------------------------------------------------------------------------------

BAD_METADATA = {
    "infinite": '{"x": 1e999}',
    "not a number": '{"x": NaN}',
    "deep": f'{{"x": {DEEP}}}',
    "nine levels": '{"x": ' + "[" * 8 + "]" * 8 + "}",
    "long": json.dumps({"x": "y" * 4096}),
    "a long number": '{"x": ' + "1" * 5000 + "}",
}


@pytest.mark.parametrize("kind", BAD_METADATA)
async def test_metadata_that_cannot_be_shown_gets_in_nowhere(kind: str) -> None:
    async with serving() as (client, calls):
        body = f'{{"type": "offer", "sdp": {json.dumps(OFFER)}, "metadata": {BAD_METADATA[kind]}}}'
        await refusal(await client.post("/offer", data=body), 400)
        assert calls.all() == []
        async with client.ws_connect("/pcm") as socket:
            await socket.send_str(BAD_METADATA[kind])
            await socket.send_str('{"type": "close"}')  # which is obeyed after it
            await until(lambda: calls.all() and calls.all()[0].state == "closed")
            assert calls.all()[0].metadata == {}
        parameters = BAD_METADATA[kind]
        start = f'{{"event": "start", "start": {{"streamSid": "x", "customParameters": {parameters}}}}}'
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_str(start)
            await socket.send_str('{"event": "stop"}')
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        text = await (await client.get("/calls")).text()
        assert "NaN" not in text and "Infinity" not in text and len(text) < 10_000
        json.loads(text)


async def test_metadata_within_the_limits_is_taken() -> None:
    whole = {"ticket": 77, "list": [[[[[[1.5]]]]]], "text": "x" * 4000}
    async with serving() as (client, calls):
        response = await client.post("/offer", json={"type": "offer", "sdp": OFFER, "metadata": whole})
        assert response.status == 200 and calls.all()[0].metadata == whole


# -- who may have what was said ------------------------------------------------------------------------


async def test_floods_of_keys_and_of_what_is_wrong_do_not_fill_the_history() -> None:
    async with serving() as (client, calls), client.ws_connect("/pcm") as socket:
        await until(lambda: calls.all())
        (call,) = calls.all()
        for _ in range(2000):
            await socket.send_str('{"event": "dtmf", "dtmf": {"digit": "1"}}')
            await socket.send_str('{"metadata": {"x": 1e999}}')
        await socket.send_str('{"type": "close"}')
        await until(lambda: call.state == "closed")
        assert call.feed.published < 600 and call.counts.ignored_commands > 1000


def spoken(events: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events if event["type"].startswith(("turn.", "transcript"))]


def publish_only() -> dict[str, str]:
    return token(**{"may-listen": False})


async def test_who_may_not_listen_gets_no_words_by_websocket() -> None:
    async with serving(authenticator=GUARDED) as (client, calls):
        async with client.ws_connect("/pcm?sample_rate=16000", headers=publish_only()) as socket:
            await socket.send_bytes(WORDS.tobytes())
            await until(lambda: any(kind.startswith("turn.") for kind in types(calls.all()[0])))
            await socket.send_str('{"type": "close"}')
            events = [message.json() async for message in socket if message.type is aiohttp.WSMsgType.TEXT]
        assert events[0]["type"] == "session.start" and events[-1]["type"] == "session.end"
        assert spoken(events) == []
        (call,) = calls.all()
        assert spoken([event for _, event in await events_of(client, call.id, **ALL)])


async def test_who_may_not_listen_gets_no_words_on_a_data_channel_nor_by_hanging_up() -> None:
    async with serving(authenticator=GUARDED) as (client, calls):
        caller = Caller(opus_packets(TONE[:48_000]), loopback=True)
        publish = publish_only()
        try:
            await caller.dial(str(client.make_url("/offer")), token=publish["Authorization"].split()[1])
            await caller.played()
            call = calls.find(str(caller.call))
            call.publish(TurnUpdate(track="0", turn=0, start=0.0, end=0.5, transcript="what was"))
            call.publish(TurnEnd(track="0", turn=0, start=0.0, end=1.0, transcript="what was said"))
            for headers, has_turns in ((publish, False), (ALL, True)):
                ended = await (await client.delete(f"/calls/{call.id}", headers=headers)).json()
                assert ended["state"] == "closed" and ("turns" in ended) == has_turns
            async for _ in caller.events():
                pass
        finally:
            await caller.close()
        received = [event for _, event in caller.received]
        assert received[-1]["type"] == "session.end" and spoken(received) == []


async def test_a_call_is_resumed_by_who_placed_it_alone() -> None:
    """A token that may not listen took over a stranger's call, and got its whole history."""
    ada, eve = token(sub="ada"), token(sub="eve", **{"may-listen": False})
    async with serving(grace_s=PATIENCE_S, authenticator=GUARDED) as (client, calls):
        caller = Caller(opus_packets(TONE[: 48_000 * 2]), loopback=True)
        again = Caller(opus_packets(TONE[:48_000]), loopback=True)
        try:
            await caller.dial(str(client.make_url("/offer")), token=ada["Authorization"].split()[1])
            call = calls.find(str(caller.call))
            await until(lambda: call.tracks and call.silent_s() < QUIET_S)
            caller.vanish()
            await until(lambda: call.silent_s() > QUIET_S)
            body = {"type": "offer", "sdp": OFFER, "call": call.id}
            for wrong in ({}, {"resume": "guess"}, {"resume": 7}, {"resume": ""}):
                response = await client.post("/offer", json=body | wrong, headers=eve)
                await refusal(response, 403, "not_your_call")
            secret = calls.entry(call.id).secret
            assert secret not in await (await client.get(f"/calls/{call.id}", headers=ALL)).text()
            renewed = token(sub="ada")

            class Again(Resuming):
                async def answer(self, text: str) -> str:
                    async with client.post("/offer", json=body | {"sdp": text}, headers=renewed) as response:
                        found: dict[str, str] = await response.json()
                        assert response.status == 200 and found["resume"] == secret
                        return found["sdp"]

            await again.dial(Again(client, call.id))
            assert call.state == "open"
        finally:
            await again.close()
            await caller.close()


async def test_the_secret_of_a_call_resumes_it_whatever_the_token() -> None:
    async with serving(grace_s=PATIENCE_S, authenticator=GUARDED) as (client, calls):
        first = await client.post("/offer", json={"type": "offer", "sdp": OFFER}, headers=token())
        placed = await first.json()
        body = {"type": "offer", "sdp": OFFER, "call": placed["call"]}
        await refusal(await client.post("/offer", json=body, headers=token()), 403, "not_your_call")
        response = await client.post(
            "/offer", json=body | {"resume": placed["resume"]}, headers=token(x=None) | ALL
        )
        assert response.status == 200 and calls.open == 1


# -- what the log says ---------------------------------------------------------------------------------


async def test_the_key_of_the_stt_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """`rtcstt -v` logged `> Authorization: Bearer KEY`."""
    from rtcstt import wire

    key = "the key that nobody may see"
    caplog.set_level(logging.DEBUG)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Exception, match="."):
        await Cartesia(api_key=key, base_url=f"http://127.0.0.1:{port}").connect(
            wire.Handshake(endpoint="turns")
        )
    server.close()
    assert key not in caplog.text


# -- imports in a call ---------------------------------------------------------------------------------

FIRST_CALL = """
import asyncio, sys
from aiohttp import web
from rtcstt.http.serving import Connections, listen
from rtcstt.server.assembly import application
from rtcstt.server.settings import Settings
from rtcstt.testing import speech
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets
import numpy, urllib.request

async def main():
    async with application(Settings(model="tiny-en"), {}) as app:
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        connections = Connections(runner.server, 100)
        (listening,) = await listen("127.0.0.1", 0)
        connections.listen(listening, None)
        tone = (numpy.sin(numpy.arange(48000) / 20) * 8000).astype(numpy.int16)
        before = set(sys.modules)
        caller = Caller(opus_packets(tone), loopback=True)
        await caller.dial(f"http://127.0.0.1:{listening.getsockname()[1]}/offer")
        await caller.played()
        await caller.hang_up()
        await caller.close()
        print("late:", *sorted(set(sys.modules) - before))
        await connections.close()
        await runner.cleanup()

asyncio.run(main())
"""


def test_nothing_is_imported_while_a_call_runs() -> None:
    """Without file descriptors `numpy.fft` could not be imported at the first pause: words were lost."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, timeout=180, check=False
    )
    if "rtcstt models" in done.stderr:
        pytest.skip("the recogniser's model is not here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "late:", done.stdout
