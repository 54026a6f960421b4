"""Several SSRCs that send in turns: every word is transcribed or missing, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from test_missing import CODECS, GAP_S, WORD_S, Said, end_of

from rtcstt.call import Call
from rtcstt.events import SessionEnd
from rtcstt.media.pcm import Samples
from rtcstt.media.rtp import Packet
from rtcstt.testing import ScriptedUpstream, run_virtual, speech

FRAME = 320
NEW = 0  # a new source each time


@dataclass(frozen=True)
class Way:
    """``sources`` take turns, every ``run`` packets; sequence numbers and timestamps are those of one sender,
    or each source has its own."""

    sources: int
    run: int
    own_numbers: bool = True
    own_timestamps: bool = True

    def packets(self, samples: Samples) -> Iterator[tuple[float, Packet]]:
        sent = dict[int, int]()
        for count, at in enumerate(range(0, len(samples), FRAME)):
            turn = count // self.run
            ssrc = 1000 + (turn % self.sources if self.sources else turn)
            own = sent.get(ssrc, 0)
            sent[ssrc] = own + 1
            number = (own + 1000 * ssrc if self.own_numbers else count) & 0xFFFF
            timestamp = FRAME * (own if self.own_timestamps else count)
            yield 0.02 * (count + 1), Packet(ssrc, number, timestamp, 96, _l16(samples[at : at + FRAME]))


def _l16(samples: Samples) -> bytes:
    return samples.astype(">i2").tobytes()


def received(way: Way) -> tuple[Said, SessionEnd, float]:
    """What was said, how it ended, and how many ms of words are nowhere."""

    async def main() -> tuple[Said, SessionEnd, float]:
        said = Said()
        samples = speech(said.phrase(20, 0.0), word_s=WORD_S, gap_s=GAP_S)
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track, begin = call.add_track("0", CODECS), asyncio.get_running_loop().time()
            for at, packet in way.packets(samples):
                await asyncio.sleep(begin + at - asyncio.get_running_loop().time())
                track.push(packet)
            await call.close()
        return said, end_of(call), said.unaccounted_ms(list(call.feed.history))

    return run_virtual(main())


@pytest.mark.parametrize("way", [Way(n, run, False, False) for n in (2, 3, NEW) for run in (1, 7)])
def test_a_sender_that_changes_nothing_but_its_ssrc_is_one_source(way: Way) -> None:
    _, end, unaccounted_ms = received(way)
    assert unaccounted_ms == 0 and end.missing == [] and end.complete


@pytest.mark.parametrize(
    "way",
    [
        Way(n, run, True, own)
        for own in (True, False)
        for n, run in [(2, 10), (2, 25), (4, 5), (6, 1), (NEW, 3)]
    ]
    + [Way(2, 1, False, True), Way(6, 5, False, True)],
)
def test_no_word_is_lost_unsaid_however_many_take_turns(way: Way) -> None:
    _, end, unaccounted_ms = received(way)
    assert unaccounted_ms == 0
    assert sum(gap["end"] - gap["start"] for gap in end.missing) < 2.0


@pytest.mark.parametrize("way", [Way(2, 1), Way(3, 2, True, False)])
def test_who_sends_in_turns_is_received_in_that_order(way: Way) -> None:
    """But for the moment that it takes to know, which is missing."""
    _, end, unaccounted_ms = received(way)
    assert unaccounted_ms == 0
    (gap,) = end.missing
    assert gap["reason"] == "network" and gap["start"] < 0.3 and gap["end"] < 1.0
