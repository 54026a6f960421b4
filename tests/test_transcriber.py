"""`Transcriber` as a program embeds it: on a peer connection, a track, RTP or PCM of its own."""

from __future__ import annotations

import asyncio
import fractions
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

import rtcstt
from rtcstt.commands.demo import bundled_recording
from rtcstt.errors import ConfigError, RemoteProtocolError
from rtcstt.media.files import read
from rtcstt.media.pcm import Samples
from rtcstt.testing import ScriptedCaller, ScriptedUpstream, run_virtual, silence, speech, transcript
from rtcstt.webrtc import aiortc_private
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.connection import transports_of
from rtcstt.webrtc.playback import opus_packets

WORDS = "it was the best of times"
AUDIO = np.concatenate([silence(0.3), speech(WORDS), silence(1.0)])


async def collect(transcriber: rtcstt.Transcriber) -> list[rtcstt.Event]:
    return [event async for event in transcriber]


def check(events: list[rtcstt.Event]) -> None:
    assert [event.seq for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("session.start", "session.end")
    ledger = events[-1].fields["ledger"]["0"]
    heard = ledger["received"] + ledger["recovered"] + ledger["concealed"] + ledger["silence"]
    assert ledger["sent"] == heard - ledger["discarded"]


def test_pcm_becomes_its_words() -> None:
    async def main() -> list[rtcstt.Event]:
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
    async def main() -> list[rtcstt.Event]:
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
    async def main() -> list[rtcstt.Event]:
        samples = np.repeat(AUDIO, rate // 16000)
        async with ScriptedUpstream() as stt:
            return await collect(rtcstt.Transcriber.from_track(Track(samples, rate, layout), stt=stt))

    events = run_virtual(main())
    check(events)
    assert events[-1].fields["reason"] == "track ended"
    assert events[-1].fields["ledger"]["0"]["sent"] == pytest.approx(len(AUDIO) / 16, abs=200)
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
        assert events[-1].fields["ledger"]["0"]["received"] >= 460
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
    heard = []
    hanging_up = asyncio.create_task(hang_up(caller))
    async for event in owner.transcriber:
        if event.type == "turn.end":
            heard.append(event.transcript or "")
    await hanging_up
    await owner.pc.close()
    await stt.close()
    assert "it was the worst of times" in "".join(heard).lower()


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
