"""`Transcriber` as a program embeds it: on a peer connection, a track, RTP or PCM of its own."""

from __future__ import annotations

import asyncio
import fractions
import inspect
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

import rtcstt
from rtcstt.commands.demo import bundled_recording
from rtcstt.errors import ConfigError, RemoteProtocolError, UpstreamError
from rtcstt.events import AnyEvent, AudioLedger, SessionEnd
from rtcstt.media.files import read
from rtcstt.media.pcm import Samples
from rtcstt.testing import (
    ConnectionScript,
    ScriptedCaller,
    ScriptedUpstream,
    run_virtual,
    silence,
    speech,
    transcript,
)
from rtcstt.webrtc import aiortc_private
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.connection import transports_of
from rtcstt.webrtc.playback import opus_packets

WORDS = "it was the best of times"
AUDIO = np.concatenate([silence(0.3), speech(WORDS), silence(1.0)])


def ledger_of(events: Sequence[AnyEvent]) -> AudioLedger:
    end = events[-1]
    assert isinstance(end, SessionEnd)
    return end.ledger["0"]


async def collect(transcriber: rtcstt.Transcriber) -> list[AnyEvent]:
    return [event async for event in transcriber]


def check(events: list[AnyEvent]) -> None:
    assert [event.seq for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("session.start", "session.end")
    ledger = ledger_of(events)
    received = ledger["received"] + ledger["recovered"] + ledger["concealed"] + ledger["silence"]
    assert ledger["sent"] == received - ledger["discarded"]


def test_pcm_becomes_its_words() -> None:
    async def main() -> list[AnyEvent]:
        async with ScriptedUpstream() as stt, rtcstt.Transcriber.from_pcm(16000, stt=stt) as transcriber:
            collecting = asyncio.create_task(collect(transcriber))
            for start in range(0, len(AUDIO), 320):
                await asyncio.sleep(0.02)
                transcriber.push(AUDIO[start : start + 320].tobytes())
            await transcriber.close()
            return await collecting

    events = run_virtual(main())
    check(events)
    assert transcript(events) == WORDS


@pytest.mark.parametrize("as_bytes", [False, True])
def test_rtp_becomes_its_words(as_bytes: bool) -> None:
    async def main() -> list[AnyEvent]:
        codecs = {96: rtcstt.Codec("L16", 16000)}
        async with ScriptedUpstream() as stt:
            transcriber = rtcstt.Transcriber.from_rtp(codecs, stt=stt)
            collecting = asyncio.create_task(collect(transcriber))
            loop = asyncio.get_running_loop()
            begin = loop.time()
            for arrival, packet in ScriptedCaller().say(AUDIO).packets():
                await asyncio.sleep(begin + arrival - loop.time())
                transcriber.push(bytes(packet) if as_bytes else packet)
            await transcriber.close()
            await transcriber.close()
            return await collecting

    events = run_virtual(main())
    check(events)
    assert transcript(events) == WORDS


class Track(MediaStreamTrack):
    """Somebody's own track: frames of 20 ms in real time, then its end."""

    kind = "audio"

    def __init__(self, samples: Samples, rate: int, layout: str) -> None:
        super().__init__()
        self._samples = samples
        self._rate = rate
        self._layout = layout
        self._position = 0

    async def recv(self) -> Any:
        size = self._rate // 50
        if self._position + size > len(self._samples):
            raise MediaStreamError
        await asyncio.sleep(0.02)
        mono = self._samples[self._position : self._position + size]
        self._position += size
        interleaved = np.repeat(mono, 2) if self._layout == "stereo" else mono
        frame = av.AudioFrame.from_ndarray(interleaved[None], "s16", self._layout)
        frame.sample_rate = self._rate
        frame.time_base = fractions.Fraction(1, self._rate)
        return frame


@pytest.mark.parametrize(("rate", "layout"), [(16000, "mono"), (16000, "stereo"), (48000, "stereo")])
def test_a_bare_track_becomes_its_words_and_ends_the_session(rate: int, layout: str) -> None:
    async def main() -> list[AnyEvent]:
        samples = np.repeat(AUDIO, rate // 16000)
        async with ScriptedUpstream() as stt:
            return await collect(rtcstt.Transcriber.from_track(Track(samples, rate, layout), stt=stt))

    events = run_virtual(main())
    check(events)
    assert events[-1].fields["reason"] == "track ended"
    assert ledger_of(events)["sent"] == pytest.approx(len(AUDIO) / 16, abs=200)
    if rate == 16000:  # the words of `speech` do not survive resampling
        assert transcript(events) == WORDS


class Owner:
    """A program with a connection of its own, as in the README; `Caller` takes it for a peer."""

    def __init__(self, stt: Any, **options: Any) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.transcriber = rtcstt.Transcriber(self.pc, stt=stt, **options)

    async def answer(self, text: str) -> str:
        await self.pc.setRemoteDescription(RTCSessionDescription(text, "offer"))
        for dtls in transports_of(self.pc):
            aiortc_private.shape_gathering(dtls, timeout_s=1, hosts=("127.0.0.1",), loopback=True)
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        return str(self.pc.localDescription.sdp)


@pytest.mark.real
async def test_on_a_connection_of_ones_own() -> None:
    before = asyncio.all_tasks()
    async with ScriptedUpstream() as stt:
        owner = Owner(stt)
        caller = Caller(opus_packets(np.zeros(24000, np.int16)), hosts=("127.0.0.1",))
        await caller.dial(owner)
        collecting = asyncio.create_task(collect(owner.transcriber))
        await caller.played()
        await caller.close()
        async with asyncio.timeout(60):
            events = await collecting
        check(events)
        assert events[-1].fields["reason"] == "connection closed"
        assert ledger_of(events)["received"] >= 460
        assert caller.received == []  # its channels are its own affair
        await owner.transcriber.close()
        await owner.pc.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.real
async def test_real_speech_on_a_connection_of_ones_own() -> None:
    """The snippet of the README, with the embedded recogniser."""
    stt = rtcstt.Embedded()
    await stt.preload()
    owner = Owner(stt)
    caller = Caller(opus_packets(read(bundled_recording())[: 5 * 48000]), hosts=("127.0.0.1",))
    await caller.dial(owner)
    received = []
    hanging_up = asyncio.create_task(hang_up(caller))
    async for event in owner.transcriber:
        if event.type == "turn.end":
            received.append(event.transcript)
    await hanging_up
    await owner.pc.close()
    await stt.close()
    assert "it was the worst of times" in "".join(received).lower()


async def hang_up(caller: Caller) -> None:
    await caller.played()
    await caller.close()


@pytest.mark.real
async def test_events_go_to_the_callers_channels_when_asked() -> None:
    async with ScriptedUpstream() as stt:
        owner = Owner(stt, channels=True, mode="manual")
        caller = Caller(opus_packets(np.zeros(9600, np.int16)), hosts=("127.0.0.1",))
        await caller.dial(owner)
        await caller.played()
        await caller.hang_up()
        types = [event["type"] for _, event in caller.received]
        assert (types[0], types[-1]) == ("session.start", "session.end")
        await owner.transcriber.close()
        await owner.pc.close()


async def test_what_cannot_be_is_said() -> None:
    async with ScriptedUpstream() as stt:
        with pytest.raises(ConfigError, match="sample rate of 0"):
            rtcstt.Transcriber.from_pcm(0, stt=stt)
        transcriber = rtcstt.Transcriber.from_rtp({}, stt=stt)
        with pytest.raises(RemoteProtocolError):
            transcriber.push(b"not RTP")
        await transcriber.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "sometimes"}, "mode"),
        ({"keyterms": "hello world"}, "keyterms"),
        ({"keyterms": [1]}, "keyterms"),
        ({"turn": {"end_timeout_ms": 900}}, "turn"),
        ({"turn": rtcstt.TurnSettings(start_threshold=2.0)}, "start_threshold"),
        ({"chunk_ms": 1}, "chunk_ms"),
    ],
)
async def test_settings_that_cannot_be_are_named(options: dict[str, Any], named: str) -> None:
    async with ScriptedUpstream() as stt:
        with pytest.raises(ConfigError, match=named):
            rtcstt.Transcriber(RTCPeerConnection(), stt=stt, **options)


def test_outside_of_an_event_loop_it_says_so() -> None:
    with pytest.raises(rtcstt.UsageError, match="async function"):
        rtcstt.Transcriber.from_pcm(stt=ScriptedUpstream())


@pytest.mark.parametrize(
    "data",
    ["text", [0, 1], np.zeros((2, 2), np.int16), np.zeros(4, np.int32), np.zeros(4, np.uint8), None],
)
async def test_data_that_is_no_pcm_is_refused(data: Any) -> None:
    async with ScriptedUpstream() as stt, rtcstt.Transcriber.from_pcm(stt=stt) as transcriber:
        with pytest.raises(TypeError, match="PCM"):
            transcriber.push(data)


async def test_audio_in_the_wrong_place_is_refused() -> None:
    async with ScriptedUpstream() as stt:
        pc = RTCPeerConnection()
        receiving = rtcstt.Transcriber(pc, stt=stt)
        with pytest.raises(rtcstt.UsageError, match="from_pcm"):
            receiving.push(b"")
        await receiving.close()
        await pc.close()
        transcriber = rtcstt.Transcriber.from_pcm(stt=stt)
        with pytest.raises(rtcstt.UsageError, match="async function"):
            await asyncio.to_thread(transcriber.push, b"")
        with pytest.raises(rtcstt.UsageError, match="event loop"):
            await asyncio.to_thread(lambda: asyncio.run(transcriber.send(b"")))
        rtp = rtcstt.Transcriber.from_rtp({}, stt=stt)
        with pytest.raises(TypeError, match="RTP packet"):
            rtp.push(AUDIO)
        for each in (transcriber, rtp):
            await each.close()
            with pytest.raises(rtcstt.UsageError, match="closed"):
                each.push(b"")


PIECES = {
    "odd bytes": lambda pcm: (pcm.tobytes()[i : i + 641] for i in range(0, 2 * len(pcm), 641)),
    "floats": lambda pcm: ((pcm[i : i + 320] / 32767.0).astype(np.float64) for i in range(0, len(pcm), 320)),
    "memoryview": lambda pcm: (memoryview(pcm[i : i + 320].tobytes()) for i in range(0, len(pcm), 320)),
}


@pytest.mark.parametrize("form", PIECES)
def test_pcm_in_every_form(form: str) -> None:
    async def main() -> list[AnyEvent]:
        async with ScriptedUpstream() as stt, rtcstt.Transcriber.from_pcm(16000, stt=stt) as transcriber:
            for piece in PIECES[form](AUDIO):
                transcriber.push(piece)
                await asyncio.sleep(0.02)
            await transcriber.close()
            return await collect(transcriber)

    events = run_virtual(main())
    assert transcript(events) == WORDS
    assert ledger_of(events)["received"] == pytest.approx(len(AUDIO) / 16, abs=1)


def test_send_waits_for_room() -> None:
    """A long recording at once, without a gap."""
    words = [f"w{n}" for n in range(250)]  # 65 s

    async def main() -> list[AnyEvent]:
        async with ScriptedUpstream() as stt, rtcstt.Transcriber.from_pcm(16000, stt=stt) as transcriber:
            await transcriber.send(np.concatenate([speech(words), silence(1.0)]))
            await transcriber.close()
            return await collect(transcriber)

    events = run_virtual(main())
    assert transcript(events).split() == words
    assert isinstance(events[-1], SessionEnd) and events[-1].complete


@pytest.mark.parametrize("script", [ConnectionScript(refuse=401), ConnectionScript(refuse=503)])
def test_the_iteration_raises_when_the_stt_refused_or_was_never_there(script: ConnectionScript) -> None:
    async def main() -> list[AnyEvent]:
        events: list[AnyEvent] = []
        async with ScriptedUpstream(script) as stt, rtcstt.Transcriber.from_pcm(stt=stt) as transcriber:
            sending = asyncio.create_task(transcriber.send(AUDIO))
            ending = asyncio.create_task(close_after(sending, transcriber))
            with pytest.raises(UpstreamError) as refusal:
                async for event in transcriber:
                    events.append(event)
            assert refusal.value.status == script.refuse
            await ending
        return events

    async def close_after(sending: asyncio.Task[None], transcriber: rtcstt.Transcriber) -> None:
        await sending
        await transcriber.close()

    events = run_virtual(main())
    last = "error" if script.refuse == 401 else "session.end"
    assert events[-1].type == last


async def test_the_face_is_typed() -> None:
    signature = inspect.signature(rtcstt.Transcriber)
    assert {"mode", "turn", "keyterms", "language", "fallback"} <= signature.parameters.keys()
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            {"pc": None},
            "pc must be an RTCPeerConnection; from_track, from_rtp and from_pcm take other sources",
        ),
        ({"stt": "embedded"}, r"stt must be an Stt such as rtcstt.Embedded\(\), not str"),
        ({"fallback": "embedded"}, r"fallback must be an Stt such as rtcstt.Embedded\(\), not str"),
        ({"language": "English"}, "language must be an ISO 639 code such as en"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_cannot_be_is_named_when_the_transcriber_is_made(
    words: dict[str, Any], named: str
) -> None:
    usual = {"stt": rtcstt.Embedded()}
    make = rtcstt.Transcriber if "pc" in words else rtcstt.Transcriber.from_pcm
    with pytest.raises(ConfigError, match=named):
        make(**usual | words)
    with pytest.raises(TypeError, match="pc"):
        rtcstt.Transcriber(stt=rtcstt.Embedded())  # type: ignore[call-arg]


async def test_floats_of_another_scale_are_refused() -> None:
    async with rtcstt.Transcriber.from_pcm(16000, stt=rtcstt.Embedded()) as transcriber:
        transcriber.push(np.full(160, 1.2, np.float32))  # a little too loud
        with pytest.raises(ValueError, match="from -1 to 1, not up to 3277: divide by 32768"):
            transcriber.push(np.full(160, -3276.7, np.float32))
        with pytest.raises(ValueError, match="from -1 to 1"):
            await transcriber.send(np.full(160, np.inf, np.float64))
