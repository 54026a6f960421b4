"""Audio that came from outside and is not transcribed, on every way in: all of it is in `missing`.

In virtual time. A sentence is said in real time; a part of it, or all, comes in a form that cannot be taken.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from test_missing import GAP_S, WORD_S, Said, end_of

from rtcstt.call import Call
from rtcstt.call.call import MAX_TRACKS
from rtcstt.events import AudioIgnored, SessionEnd, TranscriptGap
from rtcstt.media.losses import MAIN, SAID_AT, Unread
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.signals import Lost
from rtcstt.server import audiosocket
from rtcstt.server.gateways import MAX_TRACKS as MAX_STREAM_TRACKS
from rtcstt.server.gateways import _Fork, _MediaStream
from rtcstt.server.intake import TIMING
from rtcstt.server.media_formats import media_message
from rtcstt.server.stated_formats import Form, Stated
from rtcstt.testing import ScriptedUpstream, run_virtual, silence, speech
from rtcstt.webrtc.playback import opus_packets

FRAME = 320
CODECS = {
    96: Codec("L16", SAMPLE_RATE),
    0: Codec("PCMU", 8000),
    111: Codec("opus", 48000, 2),
    121: Codec("red", 8000),
}
PARTS = {
    "all": (0.0, 99.0),
    "first": (0.0, 2.0),
    "middle": (2.0, 4.0),
    "last": (4.0, 99.0),
    "short": (2.0, 2.4),
}


@dataclass
class Talk:
    """A sentence in frames of 20 ms, of which those from ``start`` to ``end`` (s) are impaired."""

    call: Call
    samples: Samples
    start: float
    end: float

    def frames(self) -> Iterator[tuple[int, Samples, bool]]:
        for number, at in enumerate(range(0, len(self.samples), FRAME)):
            yield number, self.samples[at : at + FRAME], self.start <= at / SAMPLE_RATE < self.end


Way = Callable[[Talk], Awaitable[None]]


async def until_frame(begin: float, number: int) -> None:
    await asyncio.sleep(begin + 0.02 * (number + 1) - asyncio.get_running_loop().time())


def l16(samples: Samples) -> bytes:
    return samples.astype(">i2").tobytes()


def rtp(impair: Callable[[Packet], Packet]) -> Way:
    async def play(talk: Talk) -> None:
        track, begin = talk.call.add_track("0", CODECS), asyncio.get_running_loop().time()
        for number, samples, is_impaired in talk.frames():
            await until_frame(begin, number)
            packet = Packet(7, number, number * FRAME, 96, l16(samples))
            track.push(impair(packet) if is_impaired else packet)

    return play


def opus(packet: Packet, payload: bytes) -> Packet:
    return replace(packet, timestamp=3 * packet.timestamp, payload_type=111, payload=payload)


OPUS = opus_packets(np.repeat(speech("a word"), 3))[10]


async def beside(talk: Talk) -> None:
    """Another source speaks; its payloads are cut."""
    track, begin = talk.call.add_track("0", CODECS), asyncio.get_running_loop().time()
    for number, samples, is_impaired in talk.frames():
        await until_frame(begin, number)
        track.push(Packet(7, number, number * FRAME, 96, bytes(2 * FRAME)))
        track.push(Packet(8, number, number * FRAME, 96, b"\1" if is_impaired else l16(samples)))


async def fifth_source(talk: Talk) -> None:
    track, begin = talk.call.add_track("0", CODECS), asyncio.get_running_loop().time()
    for number, samples, is_impaired in talk.frames():
        await until_frame(begin, number)
        for ssrc in range(4):
            quiet = is_impaired or ssrc
            payload = bytes(2 * FRAME) if quiet else l16(samples)
            track.push(Packet(ssrc, number, (number + 1000 * ssrc) * FRAME, 96, payload))
        if is_impaired:
            track.push(Packet(9, number, number * FRAME, 96, l16(samples)))


async def one_track_too_many(talk: Talk) -> None:
    tracks = [talk.call.add_track(f"{number}", CODECS) for number in range(MAX_TRACKS + 1)]
    begin = asyncio.get_running_loop().time()
    for number, samples, is_impaired in talk.frames():
        await until_frame(begin, number)
        tracks[0].push(Packet(7, number, number * FRAME, 96, l16(silence(0.02) if is_impaired else samples)))
        if is_impaired:
            tracks[-1].push(Packet(8, number, number * FRAME, 96, l16(samples)))


def media(samples: Samples, **changes: object) -> str:
    payload = base64.b64encode(samples.astype("<i2").tobytes()).decode()
    return json.dumps({"event": "media", "media": {"track": "0", "payload": payload, **changes}})


def media_stream(impair: Callable[[Samples], str], *, admitted: int = 99, others: int = 0) -> Way:
    """What a media stream's connection gets, one message after the other; of ``others``, first, a moment."""

    async def play(talk: Talk) -> None:
        form = Form("pcm_s16le", SAMPLE_RATE)
        stream = _MediaStream(talk.call, form, lambda call, count: count <= admitted, TIMING)
        begin = asyncio.get_running_loop().time()
        for other in range(others):
            await stream.take(media_message(media(silence(0.02), track=f"{other}")))
        for number, samples, is_impaired in talk.frames():
            await until_frame(begin, number)
            await stream.take(media_message(impair(samples) if is_impaired else media(samples)))
        await stream.flush()

    return play


async def binary_in_a_media_stream(talk: Talk) -> None:
    from aiohttp import WSMessage, WSMsgType

    from rtcstt.server.gateways import _understood

    stream = _MediaStream(talk.call, Form("pcm_s16le", SAMPLE_RATE), lambda call, count: True, TIMING)
    begin = asyncio.get_running_loop().time()
    for number, samples, is_impaired in talk.frames():
        await until_frame(begin, number)
        data = samples.astype("<i2").tobytes()
        message = WSMessage(WSMsgType.BINARY, data, "") if is_impaired else None
        await stream.take(_understood(message) if message else media_message(media(samples)))


def frame(kind: int, data: bytes) -> bytes:
    return bytes((kind,)) + len(data).to_bytes(2, "big") + data


async def audiosocket_of_later_version(talk: Talk) -> None:
    reader = asyncio.StreamReader()
    receiving = asyncio.create_task(audiosocket._receive(talk.call, reader, TIMING))
    begin = asyncio.get_running_loop().time()
    for number, samples, is_impaired in talk.frames():
        await until_frame(begin, number)
        reader.feed_data(frame(0x1F if is_impaired else 0x12, samples.astype("<i2").tobytes()))
    reader.feed_data(frame(audiosocket.TERMINATE, b""))
    await receiving


async def hung_up_while_much_waits(talk: Talk) -> None:
    """A file, sent at once, of which most waits for its time."""
    fork = _Fork(talk.call, Stated(sample_rate=SAMPLE_RATE), lambda call, count: True, TIMING)
    pushing = asyncio.create_task(fork.intake().push(np.tile(talk.samples, 5).tobytes()))
    await asyncio.sleep(10.0)
    talk.call.hang_up("asked")
    await pushing


WAYS: dict[str, Way] = {
    "half a sample of L16": rtp(lambda packet: replace(packet, payload=b"\1")),
    "no Opus": rtp(lambda packet: opus(packet, b"\xff\0")),
    "Opus that is cut": rtp(lambda packet: opus(packet, b"\x4b\xbf" + OPUS)),
    "not agreed": rtp(lambda packet: replace(packet, payload_type=77)),
    "not agreed, of another source": rtp(lambda packet: replace(packet, payload_type=77, ssrc=9)),
    "broken redundancy": rtp(lambda packet: replace(packet, payload_type=121, payload=b"\x80\0")),
    "beside another source": beside,
    "no base64": media_stream(lambda samples: media(samples, payload="!" * 856)),
    "no payload": media_stream(lambda samples: media(samples, payload=None)),
    "no object": media_stream(lambda samples: '{"event": "media", "media": ["payload"]}'),
    "cut JSON": media_stream(lambda samples: media(samples)[:-9]),
    "no event": media_stream(lambda samples: media(samples).replace('"event"', '"events"')),
    "binary": binary_in_a_media_stream,
    "AudioSocket of a later version": audiosocket_of_later_version,
}


def played(way: Way, part: str) -> tuple[Said, SessionEnd, list[object]]:
    async def main() -> tuple[Said, SessionEnd, list[object]]:
        said = Said()
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            samples = speech(said.phrase(24, 0.0), word_s=WORD_S, gap_s=GAP_S)
            await way(Talk(call, samples, *PARTS[part]))
            await call.close()
        return said, end_of(call), list(call.feed.history)

    return run_virtual(main())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", WAYS)
def test_what_is_not_understood_is_missing(name: str, part: str) -> None:
    said, last, events = played(WAYS[name], part)
    start, end = PARTS[part]
    whole_s = 24 * (WORD_S + GAP_S)
    assert said.unaccounted_ms(events, slack_s=0.0) == 0  # type: ignore[arg-type]
    assert last.complete is False
    assert {gap["reason"] for gap in last.missing} == {"network"}
    assert last.missing[0]["start"] == pytest.approx(start, abs=0.05)
    assert last.missing[-1]["end"] == pytest.approx(min(end, whole_s), abs=0.1)
    missing_s = sum(gap["end"] - gap["start"] for gap in last.missing)
    assert missing_s == pytest.approx(min(end, whole_s) - start, abs=0.1), "and no more than that"
    assert [event for event in events if isinstance(event, AudioIgnored)]


TOO_MUCH: dict[str, Way] = {
    "a fifth source": fifth_source,
    "more tracks than a call has": one_track_too_many,
    "no stream is free": media_stream(lambda samples: media(samples, track="1"), admitted=1),
    "more tracks than a media stream has": media_stream(
        lambda samples: media(samples, track="9"), others=MAX_STREAM_TRACKS
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_there_is_no_room_for_is_missing(name: str) -> None:
    said, last, events = played(TOO_MUCH[name], "middle")
    gaps = [event for event in events if isinstance(event, TranscriptGap)]
    assert said.unaccounted_ms(events, slack_s=0.1) == 0  # type: ignore[arg-type]
    assert {gap.reason for gap in gaps} == {"overflow"} and not last.complete
    assert min(gap.start for gap in gaps) == pytest.approx(2.0, abs=0.3)
    assert max(gap.end for gap in gaps) == pytest.approx(4.0, abs=0.3)


def test_what_waits_for_its_time_at_the_hang_up_is_missing() -> None:
    said, last, events = played(hung_up_while_much_waits, "all")
    assert said.unaccounted_ms(events) == 0  # type: ignore[arg-type]
    (gap,) = last.missing
    assert gap["reason"] == "overflow" and gap["start"] < 20
    assert gap["end"] == pytest.approx(5 * 24 * (WORD_S + GAP_S), abs=0.1)


def test_a_short_run_is_concealed_and_only_counted() -> None:
    def impair(packet: Packet) -> Packet:
        return replace(packet, payload=b"\1") if packet.sequence < 109 else packet

    _, last, events = played(rtp(impair), "middle")
    assert last.complete and [event for event in events if isinstance(event, AudioIgnored)]


def test_error_correction_beside_the_audio_is_no_gap() -> None:
    """Packets of a type that was not agreed, while what was agreed comes whole."""

    async def play(talk: Talk) -> None:
        track, begin = talk.call.add_track("0", CODECS), asyncio.get_running_loop().time()
        for number, samples, _ in talk.frames():
            await until_frame(begin, number)
            track.push(Packet(7, 2 * number, number * FRAME, 96, l16(samples)))
            track.push(Packet(7, 2 * number + 1, number * FRAME, 116, bytes(100)))

    said, last, events = played(play, "all")
    assert last.complete and said.unaccounted_ms(events) == 0  # type: ignore[arg-type]


def test_comfort_noise_is_understood_though_nobody_agreed_to_it() -> None:
    """Payload type 13 is static: the sender pauses, and nothing is missing."""

    async def play(talk: Talk) -> None:
        track, begin = talk.call.add_track("0", CODECS), asyncio.get_running_loop().time()
        for number, samples, is_pause in talk.frames():
            await until_frame(begin, number)
            if not is_pause:
                track.push(Packet(7, number, number * FRAME, 96, l16(samples)))
            elif number % 10 == 0:
                track.push(Packet(7, number, number * FRAME, 13, b"\x40" * 11))

    _, last, events = played(play, "last")
    assert last.complete
    assert not [event for event in events if isinstance(event, AudioIgnored)]


# -- the core ----------------------------------------------------------------------------------------


def test_stretches_grow_and_are_told_once_they_are_over() -> None:
    unread = Unread()
    for start in range(0, 8000, 320):
        unread.note(MAIN, start, start + 320)
        unread.note("other", start, start + 320, "overflow", least=0)
    assert unread.due(8000) == []
    unread.over(MAIN)
    assert unread.due(8000) == [Lost(0, 8000, "network")]
    assert unread.due(30_000) == [Lost(0, 8000, "overflow")]
    assert unread.due(99_000, everything=True) == []


def test_a_long_stretch_is_told_in_parts() -> None:
    unread, told = Unread(), list[Lost]()
    for start in range(0, 25 * SAMPLE_RATE, 320):
        unread.note(MAIN, start, start + 320)
        told += unread.due(start)
    told += unread.due(0, everything=True)
    assert [lost.start for lost in told] == [0, SAID_AT, 2 * SAID_AT] and told[-1].end == 25 * SAMPLE_RATE


def test_short_and_apart() -> None:
    unread = Unread()
    unread.note(MAIN, 0, 3200)
    unread.note(MAIN, 9000, 9100, "overflow", least=0)
    unread.note(MAIN, 20_000, 20_000)
    assert unread.due(0, everything=True) == [Lost(9000, 9100, "overflow")]
