"""Packets in any order become frames in order, or gaps with their cause."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.errors import RemoteProtocolError
from rtcstt.media.candidates import MAX_PACKETS, MAX_SOURCES
from rtcstt.media.playout import Cause, Frame, Gap, Playout
from rtcstt.media.rtp import Codec, Packet, opus_duration
from rtcstt.media.sequence import MAX_REMEMBERED, MAX_WAITING

OPUS, PCMU, G722 = Codec("opus", 48000, 2), Codec("PCMU", 8000), Codec("G722", 8000)
EVENTS, NOISE = Codec("telephone-event", 8000), Codec("CN", 8000)
CODECS = {111: OPUS, 0: PCMU, 9: G722, 126: EVENTS, 13: NOISE}
SSRC = 0x5EED
TOC_20_MS = 0x78  # mono, CELT, one frame of 20 ms


def opus(number: int, *, size: int = 40) -> bytes:
    """An Opus payload of 20 ms that can be told from others."""
    return bytes([TOC_20_MS]) + number.to_bytes(4, "big") + bytes(size - 5)


def number_of(frame: Frame) -> int:
    return int.from_bytes(frame.payload[1:5], "big")


def packet(
    number: int, *, sequence: int = 100, timestamp: int = 5000, step: int = 960, **fields: object
) -> Packet:
    """The packet ``number`` of a stream that begins with the given sequence number and timestamp."""
    values: dict[str, object] = {
        "ssrc": SSRC,
        "sequence": (sequence + number) & 0xFFFF,
        "timestamp": (timestamp + number * step) & 0xFFFFFFFF,
        "payload_type": 111,
        "payload": opus(number),
    }
    return Packet(**(values | fields))  # type: ignore[arg-type]


def drain(playout: Playout, now: float) -> list[Frame | Gap]:
    items = []
    while (item := playout.pop(now)) is not None:
        items.append(item)
    return items


def play(arrivals: Iterable[tuple[float, Packet]], playout: Playout | None = None) -> list[Frame | Gap]:
    """Push each packet when it comes, pop at once and every 5 ms, flush at the end."""
    playout = playout or Playout(CODECS)
    items: list[Frame | Gap] = []
    now = None
    for arrival, arrived in sorted(arrivals, key=lambda pair: pair[0]):
        while now is not None and now + 0.005 < arrival:
            now += 0.005
            items += drain(playout, now)
        now = arrival
        playout.push(arrived, now)
        items += drain(playout, now)
    return items + playout.flush()


def numbers(items: Iterable[Frame | Gap]) -> list[int]:
    return [number_of(item) for item in items if isinstance(item, Frame)]


def holes(items: Iterable[Frame | Gap]) -> list[tuple[Cause, int]]:
    return [(item.cause, item.duration) for item in items if isinstance(item, Gap)]


def steady(count: int, *, start: float = 10.0, skip: Iterable[int] = ()) -> list[tuple[float, Packet]]:
    missing = set(skip)
    return [(start + 0.02 * i, packet(i)) for i in range(count) if i not in missing]


def assert_contiguous(items: Iterable[Frame | Gap], *, clock_rate: int = 48000) -> int:
    """No overlap and no hole that is not said to be one; the position after the last item."""
    end = 0
    for item in items:
        assert item.position == end
        assert item.codec.clock_rate == clock_rate
        end += item.duration if isinstance(item, Gap) else item.codec.duration(item.payload)
    return end


class TestParse:
    def test_round_trip(self) -> None:
        original = packet(3, marker=True)
        assert Packet.parse(bytes(original)) == original

    def test_contributors_extension_and_padding_are_not_payload(self) -> None:
        header = bytes([0x80 | 0x20 | 0x10 | 2, 0x80 | 111]) + (7).to_bytes(2, "big")
        header += (960).to_bytes(4, "big") + SSRC.to_bytes(4, "big") + bytes(8)
        extension = b"\xbe\xde" + (1).to_bytes(2, "big") + b"\x10\xff\x00\x00"
        parsed = Packet.parse(header + extension + b"sound" + b"\x00\x00\x03")
        assert parsed == Packet(SSRC, 7, 960, 111, b"sound", marker=True)

    def test_padding_only(self) -> None:
        data = bytes([0xA0]) + bytes(packet(0))[1:12] + b"\x00\x00\x00\x04"
        assert Packet.parse(data).payload == b""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            bytes(11),
            bytes(12),  # version 0
            bytes([0x8F]) + bytes(11),  # fifteen contributors in no room
            bytes([0x90]) + bytes(11),  # an extension in no room
            bytes([0x90]) + bytes(11) + b"\xbe\xde\xff\xff",  # a longer extension than the packet
            bytes([0xA0]) + bytes(11) + b"\x09",  # more padding than there is
            bytes([0xA0]) + bytes(11) + b"\x00",  # padding of no length
        ],
    )
    def test_refuses(self, data: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            Packet.parse(data)

    @given(st.binary(max_size=60))
    def test_any_bytes_are_a_packet_or_refused(self, data: bytes) -> None:
        for candidate in (data, b"\x80" + data, b"\xb3" + data):
            try:
                parsed = Packet.parse(candidate)
            except RemoteProtocolError:
                continue
            assert candidate.endswith(parsed.payload) or candidate[0] & 0x20


@pytest.mark.parametrize(
    ("payload", "ms"),
    [
        (b"", 0),
        (b"\x78", 20),  # CELT 5 ms steps: config 15 is hybrid 20 ms
        (b"\x08", 20),
        (b"\x00", 10),
        (b"\x18", 60),
        (b"\x80", 2.5),
        (b"\xf9", 40),  # two frames
        (b"\xfb\x03", 60),  # three frames
        (b"\xfb", 0),  # code 3 without its count
        (b"\x1b\x02", 120),
        (b"\x1b\x3f", 0),  # longer than an Opus packet may be: it is none
    ],
)
def test_opus_duration(payload: bytes, ms: float) -> None:
    assert opus_duration(payload) == 48 * ms


class TestOrder:
    def test_packets_in_turn_pass_at_once(self) -> None:
        playout = Playout(CODECS)
        for arrival, arrived in steady(50):
            playout.push(arrived, arrival)
            if arrival >= 10.08:  # the first packet waits for earlier ones
                assert number_of(drain(playout, arrival)[-1]) == (arrived.timestamp - 5000) // 960  # type: ignore[arg-type]

    def test_the_first_packet_may_be_overtaken(self) -> None:
        arrivals = [(10.06, packet(0)), (10.02, packet(1)), (10.04, packet(2)), (10.09, packet(3))]
        items = play(arrivals)
        assert numbers(items) == [0, 1, 2, 3]
        assert holes(items) == []

    def test_a_swap_while_the_jitter_is_unknown(self) -> None:
        arrivals = steady(20, skip=[7]) + [(10.14 + 0.09, packet(7))]
        assert numbers(play(arrivals)) == list(range(20))

    def test_a_lost_packet_is_a_gap_and_tells_what_follows(self) -> None:
        items = play(steady(60, skip=[40]))
        assert holes(items) == [(Cause.LOST, 960)]
        gap = next(item for item in items if isinstance(item, Gap))
        assert gap.position == 40 * 960
        assert gap.next_payload == opus(41)
        assert assert_contiguous(items) == 60 * 960

    def test_a_loss_holds_nothing_up_once_the_network_is_known(self) -> None:
        playout = Playout(CODECS)
        for arrival, arrived in steady(101, skip=[100]):
            playout.push(arrived, arrival)
            drain(playout, arrival)
        playout.push(packet(101), 12.02)
        assert drain(playout, 12.024) == []
        assert holes(drain(playout, 12.026)) == [(Cause.LOST, 960)]

    def test_two_packets_may_change_places_on_the_quietest_network(self) -> None:
        arrivals = steady(120, skip=[100]) + [(12.024, packet(100))]
        assert numbers(play(arrivals)) == list(range(120))

    def test_a_gap_is_declared_only_when_something_came_after_it(self) -> None:
        playout = Playout(CODECS)
        for arrival, arrived in steady(50):
            playout.push(arrived, arrival)
            drain(playout, arrival)
        assert drain(playout, 1e6) == []

    def test_duplicates_are_dropped_and_counted(self) -> None:
        playout = Playout(CODECS)
        twice = [(at + extra, arrived) for at, arrived in steady(60) for extra in (0.0, 0.001)]
        assert numbers(play(twice, playout)) == list(range(60))
        assert playout.counters.duplicate == 60

    def test_late_packets_are_dropped_and_counted(self) -> None:
        playout = Playout(CODECS)
        arrivals = steady(80, skip=[50]) + [(10.0 + 1.0 + 0.3, packet(50)), (11.4, packet(50))]
        items = play(arrivals, playout)
        assert 50 not in numbers(items)
        assert (playout.counters.late, playout.counters.duplicate, playout.counters.lost) == (1, 1, 1)

    def test_a_late_packet_is_not_given_up_with_the_lost_one_before_it(self) -> None:
        """50 is lost, 51 and 52 are late, but not too late for this network."""
        rough = [(at + (0.06 if i % 10 == 0 else 0.0), p) for i, (at, p) in enumerate(steady(50))]
        after = [(11.02 + 0.06, packet(51)), (11.04 + 0.055, packet(52))]
        after += [(10.0 + 0.02 * i, packet(i)) for i in range(53, 80)]
        items = play(rough + after)
        assert numbers(items) == [i for i in range(80) if i != 50]

    def test_numbers_wrap(self) -> None:
        arrivals = [
            (10.0 + 0.02 * i, packet(i, sequence=65500, timestamp=0xFFFFFFFF - 9600)) for i in range(100)
        ]
        items = play(arrivals)
        assert numbers(items) == list(range(100))
        assert assert_contiguous(items) == 100 * 960

    @pytest.mark.parametrize("ptime", [10, 20, 40, 60, 120])
    def test_packet_times(self, ptime: int) -> None:
        step = 8 * ptime
        arrivals = [
            (10 + ptime / 1000 * i, packet(i, step=step, payload_type=0, payload=bytes(step)))
            for i in range(60)
            if i != 40
        ]
        items = play(arrivals)
        assert holes(items) == [(Cause.LOST, step)]
        assert assert_contiguous(items, clock_rate=8000) == 60 * step


class TestPauses:
    def test_dtx(self) -> None:
        """Timestamps advance 400 ms, no number is missing."""
        playout = Playout(CODECS)
        arrivals = steady(40) + [(10.8, packet(40, payload=b"\x78"))]
        play(arrivals, playout)
        assert playout.paused
        playout.push(packet(41, timestamp=5000 + 19 * 960), 11.2)
        items = drain(playout, 11.2)
        assert holes(items) == [(Cause.PAUSE, 19 * 960)]
        assert not playout.paused

    def test_a_packet_lost_in_dtx_is_not_concealed_for_400_ms(self) -> None:
        arrivals = steady(40) + [(11.2, packet(41, timestamp=5000 + 19 * 960))]
        assert holes(play(arrivals)) == [(Cause.LOST, 960), (Cause.PAUSE, 19 * 960)]

    def test_a_long_loss_is_concealed_at_both_ends_and_silent_between(self) -> None:
        items = play(steady(200, skip=range(60, 120)))
        assert holes(items) == [(Cause.LOST, 4800), (Cause.PAUSE, 60 * 960 - 4800 - 960), (Cause.LOST, 960)]
        assert [item.next_payload for item in items if isinstance(item, Gap)] == [None, None, opus(120)]
        assert assert_contiguous(items) == 200 * 960

    def test_a_removed_track_that_returns_is_no_gap(self) -> None:
        """`replaceTrack(null)`: after 4 s the next number and the next timestamp."""
        arrivals = steady(50) + [(at + 4.0, p) for at, p in steady(100)[50:]]
        playout = Playout(CODECS)
        items = play(arrivals, playout)
        assert holes(items) == []
        assert numbers(items) == list(range(100))
        assert playout.delay < 0.02  # the pause is not taken for jitter

    def test_what_is_no_speech_takes_its_number_and_its_time(self) -> None:
        """A telephone event of 60 ms among PCMU."""
        sounds = [(10 + 0.02 * i, packet(i, step=160, payload_type=0, payload=bytes(160))) for i in range(60)]
        for i in (30, 31, 32):
            event = packet(
                i, timestamp=5000 + 30 * 160, step=0, payload_type=126, payload=b"\x05\x0a\x01\xe0"
            )
            sounds[i] = (sounds[i][0], event)
        playout = Playout(CODECS)
        items = play(sounds, playout)
        assert holes(items) == [(Cause.PAUSE, 480)]
        assert (playout.counters.not_speech, playout.counters.lost) == (3, 0)
        assert len([item for item in items if isinstance(item, Frame)]) == 57

    def test_comfort_noise_announces_a_pause(self) -> None:
        playout = Playout(CODECS)
        sounds = [(10 + 0.02 * i, packet(i, step=160, payload_type=0, payload=bytes(160))) for i in range(30)]
        play([*sounds, (10.6, packet(30, step=160, payload_type=13, payload=b"\x40"))], playout)
        assert playout.paused
        assert playout.counters.not_speech == 1

    def test_empty_payloads_are_neither_speech_nor_loss(self) -> None:
        arrivals = steady(60, skip=[40, 41]) + [
            (10.8, packet(40, payload=b"")),
            (10.82, packet(41, payload=b"")),
        ]
        playout = Playout(CODECS)
        items = play(arrivals, playout)
        assert holes(items) == [(Cause.PAUSE, 1920)]
        assert (playout.counters.lost, playout.counters.not_speech) == (0, 2)

    def test_an_unknown_payload_type_is_not_lost(self) -> None:
        arrivals = steady(60, skip=[40]) + [(10.8, packet(40, payload_type=77))]
        playout = Playout(CODECS)
        assert holes(play(arrivals, playout)) == [(Cause.PAUSE, 960)]
        assert (playout.counters.lost, playout.counters.unknown_type) == (0, 1)

    def test_another_codec_in_mid_call(self) -> None:
        """Timestamps of another clock rate say nothing about a hole."""
        arrivals = steady(50)
        arrivals += [
            (11 + 0.02 * i, packet(50 + i, timestamp=77, step=160, payload_type=0, payload=bytes(160)))
            for i in range(50)
        ]
        items = play(arrivals)
        assert holes(items) == []
        assert [item.codec for item in items] == [OPUS] * 50 + [PCMU] * 50
        assert items[50].position == 50 * 160

    def test_what_payload_types_mean_is_settled_at_arrival(self) -> None:
        playout = Playout({96: PCMU})
        playout.push(packet(0, payload_type=96, payload=bytes(160)), 10.0)
        playout.codecs = {96: OPUS}
        assert [item.codec for item in playout.flush()] == [PCMU]


class TestSources:
    def test_another_source_takes_over_when_the_first_is_silent(self) -> None:
        other = [(11.0 + 0.02 * i, packet(1000 + i, ssrc=9, sequence=7, timestamp=1)) for i in range(50)]
        playout = Playout(CODECS)
        items = play(steady(50) + other, playout)
        assert numbers(items) == [*range(50), *range(1000, 1050)]
        assert playout.counters.restarts == 1
        assert assert_contiguous(items) == 100 * 960

    def test_no_packet_is_lost_when_sources_change_on_a_rough_network(self) -> None:
        chance = random.Random(3)
        first = [(at + 0.08 * chance.random(), p) for at, p in steady(100)]
        second = [
            (12.0 + 0.02 * i + 0.08 * chance.random(), packet(1000 + i, ssrc=9, sequence=60000))
            for i in range(100)
        ]
        items = play(first + second)
        assert numbers(items) == [*range(100), *range(1000, 1100)]

    def test_a_stray_packet_takes_nothing_over(self) -> None:
        playout = Playout(CODECS)
        strays = [
            (10.0 + 0.02 * i + 0.001, packet(i, ssrc=i + 1, payload=opus(9999))) for i in range(0, 60, 3)
        ]
        assert numbers(play(steady(60) + strays, playout)) == list(range(60))
        assert playout.counters.restarts == 0

    def test_two_sources_at_once_do_not_take_turns(self) -> None:
        playout = Playout(CODECS)
        other = [(10.005 + 0.02 * i, packet(5000 + i, ssrc=9)) for i in range(1000)]
        assert numbers(play(steady(1000) + other, playout)) == list(range(1000))
        assert playout.counters.stray > 900

    def test_what_another_source_sent_at_the_same_time_is_not_received_afterwards(self) -> None:
        playout = Playout(CODECS)
        other = [(10.005 + 0.02 * i, packet(5000 + i, ssrc=9)) for i in range(150)]
        got = numbers(play(steady(100) + other, playout))
        assert got[:100] == list(range(100))
        assert got[100] == pytest.approx(5100, abs=11)  # no more than the cap before the change
        assert got[-1] == 5149

    def test_a_thousand_sources_need_little_memory(self) -> None:
        playout = Playout(CODECS)
        for i in range(20_000):
            playout.push(packet(i, ssrc=i % 1000), 10 + 0.001 * i)
            drain(playout, 10 + 0.001 * i)
        assert len(playout.candidates) <= MAX_SOURCES * MAX_PACKETS
        assert len(playout._ready) == 0

    def test_a_stray_packet_of_long_ago_is_no_beginning(self) -> None:
        playout = Playout(CODECS)
        old = [(10.005, packet(5000, ssrc=9))]
        new = [(13.005 + 0.02 * i, packet(5001 + i, ssrc=9)) for i in range(4)]
        play(steady(160) + old + new, playout)
        assert playout.take_rival(13.1) == [] and playout.counters.stray == 1

    @pytest.mark.parametrize(("jump", "leap"), [(20_000, 123_456_789), (-1_000, 0), (-30_000, 1 << 31)])
    def test_a_sender_that_restarts_goes_on(self, jump: int, leap: int) -> None:
        again = [
            (11.5 + 0.02 * i, packet(2000 + i, sequence=100 + jump, timestamp=5000 + leap)) for i in range(50)
        ]
        items = play(steady(50) + again)
        assert numbers(items) == [*range(50), *range(2000, 2050)]
        assert assert_contiguous(items) == 100 * 960

    @pytest.mark.parametrize("leap", [24 * 3600 * 48000, -24 * 3600 * 48000, 1 << 31, -5000])
    def test_timestamps_that_leap_alone_make_no_hole(self, leap: int) -> None:
        arrivals = steady(50)
        arrivals += [(11 + 0.02 * i, packet(50 + i, timestamp=5000 + leap)) for i in range(100)]
        playout = Playout(CODECS)
        items = play(arrivals, playout)
        assert numbers(items) == list(range(150))
        assert holes(items) == []
        assert playout.delay < 0.15


class TestDelay:
    def test_it_starts_near_one_packet_and_shrinks_on_a_quiet_network(self) -> None:
        playout = Playout(CODECS)
        assert playout.delay == 0.02
        play(steady(60), playout)
        assert playout.delay < 0.01

    @pytest.mark.parametrize("seed", range(5))
    def test_bounded_jitter_loses_nothing(self, seed: int) -> None:
        chance = random.Random(seed)
        arrivals = [(at + 0.08 * chance.random(), p) for at, p in steady(3000) if chance.random() > 0.1]
        playout = Playout(CODECS)
        items = play(arrivals, playout)
        assert numbers(items) == sorted(numbers([Frame(p.payload, OPUS, 0) for _, p in arrivals]))
        assert playout.counters.late == 0
        assert 0.07 < playout.delay < 0.1

    def test_it_shrinks_again(self) -> None:
        chance = random.Random(1)
        arrivals = [(at + (0.08 * chance.random() if at < 14 else 0), p) for at, p in steady(600)]
        playout = Playout(CODECS)
        play(arrivals, playout)
        assert playout.delay < 0.01

    def test_it_is_capped(self) -> None:
        chance = random.Random(1)
        playout = Playout(CODECS, max_delay_s=0.12)
        arrivals = sorted(((at + 0.5 * chance.random(), p) for at, p in steady(1000)), key=lambda a: a[0])
        play(arrivals[:900], playout)
        assert playout.delay == 0.12

    def test_a_stall_is_not_jitter(self) -> None:
        arrivals = [(max(at, 14.0) if at > 12.0 else at, p) for at, p in steady(400)]
        playout = Playout(CODECS)
        assert numbers(play(arrivals, playout)) == list(range(400))
        assert playout.delay < 0.05

    def test_a_pause_without_timestamps_does_not_end_the_patience(self) -> None:
        """After it, packets overtake each other as before."""
        chance = random.Random(2)
        arrivals = [
            (at + (0.7 if i >= 200 else 0) + 0.07 * chance.random(), p)
            for i, (at, p) in enumerate(steady(400))
        ]
        assert numbers(play(arrivals)) == list(range(400))

    def test_a_single_hiccup_is_waited_for_but_does_not_delay_the_rest(self) -> None:
        arrivals = [(at + (0.1 if i == 300 else 0), p) for i, (at, p) in enumerate(steady(400))]
        playout = Playout(CODECS)
        play(arrivals, playout)
        assert playout.delay > 0.1
        assert playout.usual_delay < 0.01

    def test_clock_drift_is_not_jitter(self) -> None:
        playout = Playout(CODECS)
        play([(10 + 0.02 * 1.001 * i, packet(i)) for i in range(3000)], playout)
        assert playout.delay < 0.02


@pytest.mark.parametrize(
    ("name", "clock_rate", "channels"),
    [("opus", 1, 2), ("opus", 8000, 2), ("PCMU", 1, 1), ("PCMU", 4_000_000_000, 1), ("G722", 10**300, 1)]
    + [("PCMA", 8000, 99), ("L16", 16000, 0), ("telephone-event", 1, 1)],
)
def test_a_codec_that_no_speech_has_cannot_be_made(name: str, clock_rate: int, channels: int) -> None:
    """A packet of 12 bytes stood for 96 minutes of silence."""
    with pytest.raises(ValueError, match="no clock rate"):
        Codec(name, clock_rate, channels)


def test_what_nobody_takes_is_bounded() -> None:
    playout = Playout(CODECS)
    for i in range(2 * MAX_WAITING):
        playout.push(packet(i), 10 + 0.02 * i)
    assert playout.counters.overflow == MAX_WAITING
    assert len(drain(playout, math.inf)) == MAX_WAITING


def test_a_hole_of_thousands_is_remembered_in_part() -> None:
    playout = Playout(CODECS)
    for step in range(50):
        playout.push(packet(2900 * step), 10 + 0.02 * step)
        drain(playout, 10 + 0.02 * step)
    assert len(playout._source._gaps) <= MAX_REMEMBERED  # type: ignore[union-attr]


@st.composite
def network(draw: st.DrawFn) -> tuple[list[tuple[float, Packet]], set[int]]:
    """A stream through loss, duplication and jitter of up to 80 ms; and the numbers that arrived."""
    count = draw(st.integers(1, 120))
    jitter = draw(st.sampled_from([0.0, 0.005, 0.03, 0.08]))
    chance = random.Random(draw(st.integers(0, 2**32)))
    loss = draw(st.sampled_from([0.0, 0.05, 0.3]))
    sequence, timestamp = draw(st.integers(0, 0xFFFF)), draw(st.integers(0, 0xFFFFFFFF))
    arrivals, arrived = [], set()
    for i in range(count):
        if chance.random() < loss:
            continue
        arrived.add(i)
        for _ in range(1 + (chance.random() < 0.1)):
            at = 5 + 0.02 * i + jitter * chance.random()
            arrivals.append((at, packet(i, sequence=sequence, timestamp=timestamp)))
    return arrivals, arrived


@settings(max_examples=200)
@given(network())
def test_frames_are_in_order_and_cover_the_time(
    schedule: tuple[list[tuple[float, Packet]], set[int]],
) -> None:
    arrivals, arrived = schedule
    playout = Playout(CODECS)
    items = play(arrivals, playout)
    got = numbers(items)
    assert got == sorted(set(got))
    counters = playout.counters
    assert len(got) == len(arrivals) - counters.duplicate - counters.late
    if arrived:
        assert assert_contiguous(items) == 960 * (max(got) - min(got) + 1)
        assert counters.lost == max(got) - min(got) + 1 - len(got)


garbage = st.builds(
    Packet,
    ssrc=st.sampled_from([1, 2, 0xFFFFFFFF]),
    sequence=st.integers(0, 40) | st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 40000) | st.integers(0, 0xFFFFFFFF),
    payload_type=st.sampled_from([0, 9, 13, 111, 126, 127]),
    payload=st.binary(max_size=3) | st.binary(min_size=1400, max_size=1500),
    marker=st.booleans(),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(0, 0.5), garbage), max_size=60))
def test_any_packets_are_survived(schedule: list[tuple[float, Packet]]) -> None:
    playout = Playout(CODECS)
    now, items = 0.0, []
    for passed, arrived in schedule:
        now += passed
        playout.push(arrived, now)
        items += drain(playout, now)
    items += playout.flush()
    assert playout.counters.received == len(schedule)
    assert all(item.codec.is_speech for item in items)
    assert all(item.payload for item in items if isinstance(item, Frame))
    assert all(item.duration > 0 for item in items if isinstance(item, Gap))
    assert 0 <= playout.delay <= 0.2


def test_what_nobody_takes_any_more_is_bounded_too() -> None:
    playout = Playout(CODECS)
    for i in range(3 * MAX_WAITING):
        playout.push(packet(i), 10 + 0.02 * i)
        if i == 10:
            drain(playout, 10 + 0.02 * i)
    assert playout.counters.overflow > MAX_WAITING
    assert len(playout._ready) <= MAX_WAITING
