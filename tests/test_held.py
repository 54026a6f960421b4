"""Small cores of a track: packets kept while another server has the call, whether this process stood still,
and how much of a turn was made up."""

from __future__ import annotations

import pytest

from rtcstt.call.concealed import Concealed
from rtcstt.call.held import MAX_HELD, HeldPackets
from rtcstt.call.stall import LONGEST_S, Stall
from rtcstt.events import TurnEnd, TurnStart
from rtcstt.media.rtp import Codec, Packet

OPUS = Codec("opus", 48000, 2)
STEP = 960  # of a timestamp, in 20 ms


def packet(number: int, *, first: int = 0, ssrc: int = 1, payload_type: int = 111) -> Packet:
    return Packet(ssrc, number, (first + number * STEP) % 2**32, payload_type, b"\0")


def sent_after(time: float, came: list[tuple[Packet, float]]) -> list[tuple[int, float]]:
    held = HeldPackets()
    for one, at in came:
        held.add(one, at)
    return [(one.sequence, round(at, 3)) for one, at in held.after(time, {111: OPUS})]


@pytest.mark.parametrize("first", [0, 2**32 - 3 * STEP])
def test_what_came_late_at_once_was_sent_in_its_time(first: int) -> None:
    on_time = [(packet(number, first=first), number * 0.02) for number in range(3)]
    burst = [(packet(number, first=first), 0.2) for number in range(3, 11)]
    assert sent_after(0.11, on_time + burst) == [(number, number * 0.02) for number in range(6, 11)]


def test_a_pause_that_timestamps_do_not_tell_is_none_that_was_late() -> None:
    before = [(packet(number), number * 0.02) for number in range(3)]
    after = [(packet(number), 1 + number * 0.02) for number in range(3, 6)]
    assert sent_after(0.5, before + after) == [(3, 1.06), (4, 1.08), (5, 1.1)]


def test_each_source_has_timestamps_of_its_own_and_what_was_not_agreed_has_none() -> None:
    came = [
        (packet(0), 0.0),
        (packet(50, ssrc=2), 0.02),
        (packet(60, payload_type=5), 0.04),
        (packet(1), 0.06),
    ]
    assert sent_after(-1.0, came) == [(0, 0.0), (50, 0.02), (60, 0.04), (1, 0.06)]


def test_the_oldest_packets_make_room() -> None:
    held = HeldPackets()
    assert held.since is None
    for number in range(MAX_HELD + 2):
        held.add(packet(number), number * 0.02)
    assert len(held) == MAX_HELD and held.since == 0.04


def test_a_process_that_stood_still_reads_for_as_long() -> None:
    stall = Stall()
    stall.note(1.0, 1.09)
    assert not stall.lasts(1.09)
    stall.note(2.0, 2.3)
    assert stall.lasts(2.59) and not stall.lasts(2.61)
    stall.note(10.0, 70.0)
    assert not stall.lasts(70.0 + LONGEST_S)


def test_a_process_that_is_too_slow_waits_no_longer() -> None:
    """Each timer is late: silence goes out all the same, and turns end."""
    stall = Stall()
    for number in range(5):
        stall.note(1.0 + 0.2 * number, 1.18 + 0.2 * number)
        assert stall.lasts(1.18 + 0.2 * number)
    for number in range(5, 50):
        stall.note(1.0 + 0.2 * number, 1.18 + 0.2 * number)
        assert not stall.lasts(1.18 + 0.2 * number)
    stall.note(20.0, 20.3)
    assert stall.lasts(20.5)


def test_what_was_made_up_counts_for_the_turn_in_which_it_was() -> None:
    concealed = Concealed()
    concealed.note(16_000, 0)
    concealed.note(32_000, 480)
    concealed.note(48_000, 480)
    ends = [
        TurnEnd(track="0", turn=0, transcript="", start=start, end=start + 0.9) for start in (5.0, 6.0, 7.0)
    ]
    told = [concealed.told(end, lambda: 5.0) for end in ends]
    assert [end.concealed for end in told if isinstance(end, TurnEnd)] == [None, 30.0, None]
    start = TurnStart(track="0", turn=0, start=5.0, end=5.0)
    assert concealed.told(start, lambda: 5.0) is start
