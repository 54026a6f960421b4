"""Packets kept while another server has the call: which of them it did not have."""

from __future__ import annotations

import pytest

from rtcstt.call.held import MAX_HELD, HeldPackets
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
