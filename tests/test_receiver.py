"""A whole track in virtual time: packets through a network, chunks to the STT."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.signals import Ignored, Lost, Muted, Resumed, SeveralSources, Signal, Stalled, Unmuted

# L16 at 16 kHz decodes to itself, so that every sample can be told.
L16 = Codec("L16", 16000)
CODECS = {96: L16, 0: Codec("PCMU", 8000), 13: Codec("CN", 8000), 111: Codec("opus", 48000, 2)}
FRAME = 320
LOUD_FROM = 2000
START = 10.0

Arrivals = list[tuple[float, Packet]]
Told = Callable[[AudioReceiver, float], None]


def loud(mark: int, count: int = FRAME) -> bytes:
    """Sound of the amplitude ``LOUD_FROM + mark``."""
    samples = np.full(count, LOUD_FROM + mark, ">i2")
    samples[1::2] *= -1
    return samples.tobytes()


def quiet(count: int = FRAME) -> bytes:
    return (np.arange(count) % 2 * 12).astype(">i2").tobytes()


def packet(i: int, payload: bytes | None = None, *, frame: int = FRAME, **fields: int) -> Packet:
    values: dict[str, Any] = {"ssrc": 7, "sequence": (65000 + i) & 0xFFFF, "payload_type": 96}
    values |= {"timestamp": (i * frame - 99) & 0xFFFFFFFF} | fields
    return Packet(payload=loud(i, frame) if payload is None else payload, **values)


def stream(
    count: int, *, frame: int = FRAME, payload: Callable[[int], bytes | None] = lambda i: None
) -> Arrivals:
    return [(START + i * frame / SAMPLE_RATE, packet(i, payload(i), frame=frame)) for i in range(count)]


def shaken(arrivals: Arrivals, *, jitter: float = 0.0, loss: float = 0.0, seed: int = 1) -> Arrivals:
    chance = random.Random(seed)
    return [(at + jitter * chance.random(), p) for at, p in arrivals if chance.random() >= loss]


@dataclass
class Received:
    """What came of a call."""

    end: float
    receiver: AudioReceiver
    chunks: list[tuple[float, Chunk]] = field(default_factory=list)
    signals: list[tuple[float, Signal]] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.receiver.ledger

    @property
    def sound(self) -> Samples:
        return np.concatenate([chunk.samples for _, chunk in self.chunks] or [np.zeros(0, np.int16)])

    def marks(self) -> set[int]:
        """Every frame that is there; concealment before it may blend into its first samples."""
        levels, counts = np.unique(np.abs(self.sound.astype(int)), return_counts=True)
        marks = zip(levels - LOUD_FROM, counts, strict=True)
        return {int(mark) for mark, count in marks if mark >= 0 and count >= FRAME // 2}

    def latency(self) -> dict[int, float]:
        """For each mark, from its packet's sending to the leaving of its first sample."""
        found: dict[int, float] = {}
        for at, chunk in self.chunks:
            for level in np.unique(np.abs(chunk.samples.astype(int))):
                if level >= LOUD_FROM:
                    mark = int(level) - LOUD_FROM
                    found.setdefault(mark, at - START - mark * FRAME / SAMPLE_RATE)
        return found

    def check(self, *, chunk_ms: int, lag_s: float = 0.0) -> None:
        """What holds for every call: contiguous, never faster than real time, as long as the call, and
        every sample accounted for."""
        start, origin, hole = 0, self.receiver.origin, 0
        for at, chunk in self.chunks:
            hole += chunk.start - start
            start = chunk.start + len(chunk.samples)
            if at < self.end:
                assert origin is not None
                assert len(chunk.samples) == chunk_ms * 16
                assert start <= (at - origin) * SAMPLE_RATE + 1
        assert hole == self.ledger.discarded.get("overflow", 0)
        assert start == self.ledger.sent + hole
        values: dict[str, Any] = self.ledger.as_dict()
        came = sum(float(values[label.value]) for label in Label)
        assert came == values["sent"] + values["discarded"]
        if origin is not None:
            assert start / SAMPLE_RATE == pytest.approx(self.end - origin + lag_s, abs=chunk_ms / 1000 + 1e-6)


def call(
    arrivals: Iterable[tuple[float, Packet]],
    end: float,
    *,
    chunk_ms: int = 20,
    tick: Callable[[], float] = lambda: 0.0,
    codecs: Mapping[int, Codec] = CODECS,
    told: Mapping[float, Told] | None = None,
) -> Received:
    """Push packets as they arrive, pull when due (or ``tick`` seconds later), close at ``end``. ``told``:
    what else the receiver is told, and when."""
    receiver = AudioReceiver(codecs, chunk_ms=chunk_ms)
    received = Received(end, receiver)
    come: list[tuple[float, Packet | Told]] = [*arrivals, *(told or {}).items()]
    pending = sorted(((at, p) for at, p in come if at < end), key=lambda pair: pair[0], reverse=True)
    due = math.inf
    while pending or due < end:
        if pending and pending[-1][0] <= due:
            now, arrived = pending.pop()
            receiver.push(arrived, now) if isinstance(arrived, Packet) else arrived(receiver, now)
            if due < math.inf:
                continue
        else:
            now = due
            received.chunks += [(now, chunk) for chunk in receiver.pull(now)]
            received.signals += [(now, signal) for signal in receiver.signals()]
        due = max(now, receiver.next_due(now)) + tick()
    received.chunks += [(end, chunk) for chunk in receiver.close(end)]
    received.signals += [(end, signal) for signal in receiver.signals() if isinstance(signal, Lost)]
    return received


def after(count: int, frame: int = FRAME) -> float:
    return START + count * frame / SAMPLE_RATE


class TestGoodNetwork:
    @pytest.mark.parametrize("chunk_ms", [20, 100, 200])
    def test_all_arrives_in_time(self, chunk_ms: int) -> None:
        received = call(stream(500), after(500), chunk_ms=chunk_ms)
        received.check(chunk_ms=chunk_ms)
        assert received.marks() == set(range(500))
        assert received.signals == []
        assert received.ledger.discarded == {}
        steps = np.diff([at for at, _ in received.chunks if START + 1 < at < received.end])
        assert steps == pytest.approx(chunk_ms / 1000)

    def test_latency(self) -> None:
        delays = sorted(call(stream(500), after(500)).latency().values())
        assert delays[250] <= 0.010
        assert delays[490] <= 0.090  # at the start, where earlier packets may still come

    @pytest.mark.parametrize("frame", [160, 640, 960, 1920, 6400])
    def test_packet_times(self, frame: int) -> None:
        received = call(stream(100, frame=frame), after(100, frame), chunk_ms=100)
        received.check(chunk_ms=100)
        assert received.ledger.counts[Label.RECEIVED] == 100 * frame

    def test_narrowband_through_the_resampler(self) -> None:
        arrivals = [
            (START + 0.02 * i, packet(i, b"\x90" * 160, frame=160, payload_type=0)) for i in range(500)
        ]
        received = call(arrivals, after(500), chunk_ms=20)
        received.check(chunk_ms=20)
        assert received.ledger.counts[Label.RECEIVED] == 500 * FRAME

    def test_an_hour_in_seconds(self) -> None:
        """In packets of 120 ms; the sender's clock is 100 ppm fast and the network rough."""
        arrivals = [
            (START + (at - START) / 1.0001, p)
            for at, p in stream(30_000, frame=1920, payload=lambda i: quiet(1920) if i % 20 > 14 else None)
        ]
        arrivals = [(at, p) for at, p in arrivals]
        end = START + 3600 / 1.0001
        received = call(shaken(arrivals, jitter=0.02), end, chunk_ms=100)
        received.check(chunk_ms=100)
        assert received.receiver.stats()["lag_ms"] < 50
        assert received.receiver.stats()["late"] == 0


class TestBadNetwork:
    @pytest.mark.parametrize("loss", [0.01, 0.02, 0.05, 0.1, 0.2])
    @pytest.mark.parametrize("jitter", [0.0, 0.03, 0.08])
    def test_no_good_packet_is_thrown_away(self, loss: float, jitter: float) -> None:
        sent = stream(1000)
        arrivals = shaken(sent, loss=loss, jitter=jitter)
        received = call(arrivals, after(1006))
        received.check(chunk_ms=20)
        assert received.receiver.stats()["late"] == 0
        assert received.ledger.counts[Label.RECEIVED] == len(arrivals) * FRAME
        assert received.marks() >= {(p.sequence - 65000) & 0xFFFF for _, p in arrivals}

    def test_latency_with_loss(self) -> None:
        received = call(shaken(stream(1500), loss=0.02), after(1500))
        delays = sorted(received.latency().values())
        assert delays[len(delays) // 2] <= 0.025
        assert delays[int(0.95 * len(delays))] <= 0.06

    def test_latency_with_jitter(self) -> None:
        """No later than the slowest packets, the margin and what the first packet was late."""
        received = call(shaken(stream(1500), jitter=0.03), after(1502))
        delays = sorted(received.latency().values())
        assert delays[len(delays) // 2] <= 0.075

    def test_one_hiccup_does_not_delay_all_that_follows(self) -> None:
        arrivals = [(max(at, after(205)) if at >= after(200) else at, p) for at, p in stream(400)]
        received = call(arrivals, after(400))
        delays = received.latency()
        assert delays[200] == pytest.approx(0.1, abs=0.01)
        assert delays[300] <= 0.01
        assert received.marks() == set(range(400))

    def test_nothing_is_inserted_into_late_speech(self) -> None:
        """One packet in fifty is 150 ms late: far more than any before, less than the cap."""
        arrivals = [(at + 0.15 * (i % 50 == 49), p) for i, (at, p) in enumerate(stream(320))]
        received = call(arrivals, after(320))
        received.check(chunk_ms=20)
        assert received.ledger.counts[Label.SILENCE] <= 1.5 * FRAME  # the end of the call
        assert received.ledger.discarded == {}

    @pytest.mark.parametrize("stall_s", [0.3, 0.45])
    def test_a_stall_in_a_word_puts_no_silence_into_it(self, stall_s: float) -> None:
        back = after(100) + stall_s
        arrivals = [(max(at, back) if at > after(100) else at, p) for at, p in stream(200)]
        received = call(arrivals, after(200), chunk_ms=100)
        assert received.marks() == set(range(200))
        assert received.ledger.counts[Label.SILENCE] <= FRAME, "at the end"

    def test_who_speaks_softly_after_a_stall_in_a_loud_word_is_received(self) -> None:
        """The time that was lost is not won back from them: the loud voice is not the room."""

        def voice(i: int) -> bytes:
            loud, pause = i < 115, i % 20 >= 15 if i < 90 else i >= 115 and i % 45 >= 35
            level = 12 if pause else 4000 if loud else 250
            return np.where(np.arange(FRAME) % 2, -level, level).astype(">i2").tobytes()

        back = after(100) + 0.9
        arrivals = [(max(at, back) if at > after(103) else at, p) for at, p in stream(300, payload=voice)]
        received = call(arrivals, after(300), chunk_ms=100)
        said = sum(i % 45 < 35 for i in range(115, 300))
        assert np.count_nonzero(np.abs(received.sound.astype(int)) == 250) == said * FRAME

    @pytest.mark.parametrize("pace", [0.9, 0.96])
    def test_a_slow_clock_puts_no_silence_into_a_word(self, pace: float) -> None:
        """Two seconds of speech, and as much of a pause: there the sender's clock is made up for."""
        talk = stream(600, payload=lambda i: quiet() if i % 200 >= 100 else None)
        arrivals = [(START + (at - START) / pace, p) for at, p in talk]
        received = call(arrivals, arrivals[-1][0] + 0.02, chunk_ms=100)
        is_loud = np.abs(received.sound.astype(int)) >= LOUD_FROM
        assert np.count_nonzero(np.diff(is_loud.astype(int)) > 0) <= 3, "words, each in one piece"
        assert received.ledger.counts[Label.RECEIVED] == 600 * FRAME

    def test_a_sender_of_half_the_audio_is_not_waited_for_for_ever(self) -> None:
        arrivals = [(START + 2 * (at - START), p) for at, p in stream(500)]
        received = call(arrivals, arrivals[-1][0], chunk_ms=100)
        last = received.chunks[-1][1]
        assert last.start + len(last.samples) >= (received.end - START - 2.5) * SAMPLE_RATE

    def test_a_burst_after_a_stall(self) -> None:
        """Words are sent late; the pauses between them give the time back."""
        talk = stream(1500, payload=lambda i: quiet() if i % 50 >= 25 else None)
        arrivals = [(max(at, START + 6) if at > START + 4 else at, p) for at, p in talk]
        received = call(arrivals, after(1500), chunk_ms=100)
        received.check(chunk_ms=100)
        assert received.marks() == {i for i in range(1500) if i % 50 < 25}
        assert [type(signal) for _, signal in received.signals] == [Stalled, Resumed]
        assert received.latency()[1474] < 0.15

    @pytest.mark.parametrize("seed", range(4))
    def test_few_good_packets_are_thrown_away_when_all_come_later_than_before(self, seed: int) -> None:
        """The way grows longer by more than any delay allows: for some seconds the fastest packets known are
        none to compare with."""
        later = [(at + min(0.3, max(0.0, (i - 200) * 0.004)), p) for i, (at, p) in enumerate(stream(500))]
        received = call(shaken(later, jitter=0.06, seed=seed), after(520), chunk_ms=100)
        assert received.receiver.stats()["late"] <= 8

    def test_a_stall_whose_packets_are_lost(self) -> None:
        arrivals = [(at, p) for at, p in stream(500) if not START + 4 < at < START + 6]
        received = call(arrivals, after(500), chunk_ms=100)
        received.check(chunk_ms=100)
        # 100 ms after the words are made up; when they come, silence has gone out for them.
        assert received.ledger.counts[Label.CONCEALED] <= 0.13 * SAMPLE_RATE
        assert received.latency()[450] < 0.11


class TestSilence:
    @pytest.mark.parametrize("chunk_ms", [20, 100])
    def test_a_removed_track_that_returns(self, chunk_ms: int) -> None:
        """`replaceTrack(null)` for 4 s: only arrival times show it."""
        arrivals = [(at + 4 * (i >= 250), p) for i, (at, p) in enumerate(stream(500))]
        received = call(arrivals, after(500) + 4, chunk_ms=chunk_ms)
        received.check(chunk_ms=chunk_ms)
        assert received.marks() == set(range(500))
        assert received.ledger.counts[Label.SILENCE] == pytest.approx(4 * SAMPLE_RATE, abs=2 * FRAME)
        assert received.ledger.discarded == {}
        assert [type(signal) for _, signal in received.signals] == [Stalled, Resumed]

    @pytest.mark.parametrize(("soft_from", "wait_s"), [(98, 0.2), (103, 0.5)])
    def test_the_tail_is_out_when_packets_stop(self, soft_from: int, wait_s: float) -> None:
        """Later where they stop in a word: that may be a stall, and no silence is to be put into the word."""
        sent = stream(103, payload=lambda i: quiet() if i >= soft_from else None)
        received = call(sent, after(103) + 1.0, chunk_ms=100)
        tail = next(at for at, chunk in received.chunks if chunk.start + len(chunk.samples) >= 103 * FRAME)
        assert after(103) + wait_s - 0.03 <= tail <= after(103) + 0.1 + wait_s

    def dtx(self, *, jitter: float = 0.0, loss: float = 0.0) -> tuple[Arrivals, float]:
        """Opus as browsers send it: two seconds of packets, then every 400 ms one, and a 1-byte one."""
        arrivals: Arrivals = []
        position = sequence = 0
        for number in range(500):
            for payload, passed in self.dtx_packets(number):
                fields = {"sequence": sequence, "timestamp": position, "payload_type": 111}
                arrivals.append((START + position / 48000, packet(0, payload, **fields)))
                sequence += 1
                position += passed
        return shaken(arrivals, jitter=jitter, loss=loss), START + position / 48000

    def dtx_packets(self, number: int) -> list[tuple[bytes, int]]:
        if number % 125 < 100:
            return [(b"\x78" + bytes(40), 960)]
        return [(b"\x78" + bytes(30), 960), (b"\x78", 19200)]

    @pytest.mark.parametrize(("jitter", "loss"), [(0, 0), (0.03, 0), (0, 0.05), (0.03, 0.05)])
    def test_dtx(self, jitter: float, loss: float) -> None:
        arrivals, end = self.dtx(jitter=jitter, loss=loss)
        received = call(arrivals, end, chunk_ms=100)
        received.check(chunk_ms=100)
        assert received.signals == []
        assert received.ledger.counts[Label.CONCEALED] <= len(arrivals) * loss * 1.5 * FRAME
        if not loss:
            silence = 100 * (19200 - 960) // 3 + (0.1 + jitter) * SAMPLE_RATE
            assert received.ledger.counts[Label.SILENCE] == pytest.approx(silence, abs=0.2 * SAMPLE_RATE)

    def test_dtx_goes_out_evenly(self) -> None:
        arrivals, end = self.dtx()
        received = call(arrivals, end, chunk_ms=20)
        steps = np.diff([at for at, _ in received.chunks if START + 1 < at < end])
        assert max(steps) <= 0.0201

    def test_bare_sound_without_packets(self) -> None:
        """PCM of 100 ms at a time, with a pause."""
        receiver = AudioReceiver({}, chunk_ms=20)
        received, now, due = Received(26.0, receiver), 10.0, math.inf
        for i in range(160):
            now += 0.1
            while due < now:
                received.chunks += [(due, chunk) for chunk in receiver.pull(due)]
                received.signals += [(due, signal) for signal in receiver.signals()]
                due = receiver.next_due(due)
            if not 50 <= i < 80:
                receiver.push_pcm(np.frombuffer(loud(i, 1600), ">i2").astype(np.int16), now)
                due = min(due, receiver.next_due(now))
        received.chunks += [(26.0, chunk) for chunk in receiver.close(26.0)]
        received.check(chunk_ms=20)
        assert received.marks() == set(range(160)) - set(range(50, 80))
        assert [type(signal) for _, signal in received.signals] == [Stalled, Resumed]


class TestSignals:
    @pytest.mark.parametrize("chunk_ms", [20, 200])
    def test_a_stall_is_told_within_half_a_second(self, chunk_ms: int) -> None:
        arrivals = [(at + 4 * (i >= 250), p) for i, (at, p) in enumerate(stream(300))]
        received = call(arrivals, after(300) + 4, chunk_ms=chunk_ms)
        (at, stalled), (later, resumed) = received.signals
        assert at <= after(249) + 0.5
        assert stalled == Stalled(after(249))
        assert later <= after(250) + 4 + chunk_ms / 1000
        assert isinstance(resumed, Resumed)
        assert resumed.stalled_s == pytest.approx(4.02)

    def test_keep_alives_put_it_off_but_end_no_stall(self) -> None:
        """An SFU that sends empty packets for a muted sender, and a gateway that sends one now and then."""
        steady = [*stream(50), *((START + 1 + 0.02 * i, packet(50 + i, b"")) for i in range(200))]
        assert call(steady, START + 5).signals == []
        rare = [*stream(50), (START + 3, packet(50, b"")), (START + 5, packet(51, b""))]
        assert [type(signal) for _, signal in call(rare, START + 6).signals] == [Stalled]

    def test_comfort_noise_announces_the_pause(self) -> None:
        sounds = [(START + 0.02 * i, packet(i, b"\x90" * 160, frame=160, payload_type=0)) for i in range(50)]
        noise = (START + 1.0, packet(50, b"\x40", frame=160, payload_type=13))
        assert call([*sounds, noise], START + 2.4).signals == []

    def test_a_pause_that_never_ends_is_a_stall(self) -> None:
        arrivals = [*stream(0), (START, packet(0, b"\x78" + bytes(30), payload_type=111))]
        arrivals.append((START + 0.02, packet(1, b"\x78", frame=960, payload_type=111)))
        assert [type(signal) for _, signal in call(arrivals, START + 5).signals] == [Stalled]


class TestTheEnd:
    """What was lost after the last packet is told by none that follows."""

    @staticmethod
    def lost(received: Received) -> list[tuple[float, float]]:
        losses = [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert {loss.reason for loss in losses} <= {"network"}
        return [(round(loss.start / 16000, 2), round(loss.end / 16000, 2)) for loss in losses]

    @pytest.mark.parametrize("tail_s", [0.3, 0.6, 5.0])
    def test_packets_that_stopped_unannounced_are_lost(self, tail_s: float) -> None:
        (loss,) = self.lost(call(stream(100), after(100) + tail_s))
        assert loss == (2.0, pytest.approx(2.0 + tail_s, abs=0.03))

    def test_a_moment_is_no_loss(self) -> None:
        assert self.lost(call(stream(100), after(100) + 0.18)) == []

    @pytest.mark.parametrize(("reason", "at"), [("hold", 0.01), ("bye", 0.1)])
    def test_who_said_that_they_stop_lost_nothing(self, reason: str, at: float) -> None:
        def stop(receiver: AudioReceiver, now: float) -> None:
            receiver.bye(7, now) if reason == "bye" else receiver.mute(reason)

        assert self.lost(call(stream(100), after(100) + 3, told={after(100) + at: stop})) == []

    @pytest.mark.parametrize(
        ("sent", "missing_s"),
        [
            ([1050, 1100], 0.0),
            ([1050, 1105], 0.0),
            ([1050, 1125], 3.0),
            ([1050, 1130, 1180], 3.0),
            ([1100], 3.0),
            ([], 3.0),
        ],
    )
    @pytest.mark.parametrize("bye", [True, False])
    def test_sender_reports_tell(self, sent: list[int], missing_s: float, bye: bool) -> None:
        """A source that had sent 1000 packets before; its first report comes at half time."""
        times = [after(100) + 1] if len(sent) == 1 else [after(50), after(100) + 1, after(100) + 1.7]
        told: dict[float, Told] = {}
        for count, at in zip(sent, times, strict=False):
            told[at] = partial(lambda count, receiver, now: receiver.report(7, count, now), count)
        if bye:
            told[after(100) + 2] = lambda receiver, now: receiver.bye(7, now)
        lost = self.lost(call(stream(100), after(100) + 3, told=told))
        missing = [missing_s] if missing_s else []
        assert [round(end - start, 1) for start, end in lost] == missing

    @pytest.mark.parametrize("bye_s", [0.021, 0.023])
    def test_a_bye_while_packets_wait(self, bye_s: float) -> None:
        """The last ones have overtaken each other, or it one of them; the next source comes after a pause."""
        old = stream(100)
        (at, late), (last, next_to_it) = old[-2], old[-1]
        old[-2:] = [(at + 0.022, late), (last, next_to_it)]
        new = [(after(200 + i), packet(200 + i, ssrc=9)) for i in range(50)]
        told: dict[float, Told] = {at + bye_s: lambda receiver, now: receiver.bye(7, now)}
        received = call([*old, *new], after(250), chunk_ms=100, told=told)
        assert self.lost(received) == []
        assert received.marks() == {*range(100), *range(200, 250)}

    @pytest.mark.parametrize("late_s", [0.0, 0.05, 0.09, 0.15])
    def test_a_source_that_says_bye_and_goes_on(self, late_s: float) -> None:
        """At once, and then the way becomes longer: no silence comes into its words."""
        told: dict[float, Told] = {after(50) + 0.005: lambda receiver, now: receiver.bye(7, now)}
        arrivals = [(at + (late_s if i > 55 else 0.0), p) for i, (at, p) in enumerate(stream(150))]
        received = call(arrivals, after(150) + late_s, chunk_ms=20, told=told)
        assert received.marks() == set(range(150))
        spoken = np.flatnonzero(received.sound)
        assert spoken[-1] - spoken[0] < 150 * FRAME, "without a hole"

    @pytest.mark.parametrize("goes_on", [False, True])
    def test_a_bye_that_overtakes_packets_is_one(self, goes_on: bool) -> None:
        """They unmute nothing, unless its source goes on."""
        told: dict[float, Told] = {after(98) - 0.001: lambda receiver, now: receiver.bye(7, now)}
        received = call(stream(150 if goes_on else 100), after(150) + 2.0, chunk_ms=20, told=told)
        assert received.marks() == set(range(150 if goes_on else 100))
        told_of = [signal for _, signal in received.signals]
        assert told_of[0] == Muted("bye") and told_of[1:2] == ([Unmuted()] if goes_on else [])

    def test_a_bye_after_losses_in_mid_call(self) -> None:
        """The next source begins, and what was lost before the BYE is said."""
        other = [(after(150 + i), packet(150 + i, ssrc=9)) for i in range(50)]
        told: dict[float, Told] = {
            after(50): lambda receiver, now: receiver.report(7, 50, now),
            after(120): lambda receiver, now: receiver.report(7, 120, now),
            after(121): lambda receiver, now: receiver.bye(7, now),
        }
        assert self.lost(call([*stream(100), *other], after(200), told=told)) == [(2.0, 3.0)]


class TestBadInput:
    def test_bad_payloads_end_nothing(self) -> None:
        arrivals = stream(200)
        for i in range(50, 60):
            arrivals[i] = (arrivals[i][0], packet(i, b"\x01"))  # half a sample
        received = call(arrivals, after(200))
        received.check(chunk_ms=20)
        assert received.receiver.stats()["bad_payloads"] == 10
        assert received.marks() >= set(range(50)) | set(range(60, 200))

    def test_what_cannot_be_read_is_told_and_is_missing(self) -> None:
        arrivals = stream(200)
        for i in range(50, 75):
            arrivals[i] = (arrivals[i][0], packet(i, b"\x01"))
        received = call(arrivals, after(200))
        ignored, lost = (signal for _, signal in received.signals)
        assert ignored == Ignored("payloads arrive that cannot be read as L16")
        assert isinstance(lost, Lost) and lost.reason == "network"
        assert (lost.start / SAMPLE_RATE, lost.end / SAMPLE_RATE) == pytest.approx((1.0, 1.5), abs=0.03)

    def test_another_codec_in_mid_call(self) -> None:
        narrow = [
            (after(100 + i), packet(100 + i, b"\x90" * 160, timestamp=i * 160, payload_type=0))
            for i in range(100)
        ]
        received = call([*stream(100), *narrow], after(200))
        received.check(chunk_ms=20)
        assert received.ledger.counts[Label.RECEIVED] == 200 * FRAME
        assert received.receiver.stats()["codec"] is None  # closed

    def test_a_sender_twice_as_fast_as_real_time(self) -> None:
        arrivals = [(START + 0.01 * i, packet(i % 20000, sequence=i & 0xFFFF)) for i in range(9000)]
        received = call(arrivals, START + 90, chunk_ms=100)
        last = received.chunks[-1][1]
        lag_s = (last.start + len(last.samples)) / SAMPLE_RATE - 90
        assert 0 < lag_s <= 91  # the audio is as long as its sender says
        received.check(chunk_ms=100, lag_s=lag_s)
        lost = [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert sum(each.end - each.start for each in lost) == received.ledger.discarded["overflow"] > 0

    def test_a_stray_packet_long_before_the_call_begins_is_no_part_of_it(self) -> None:
        strays = [(START, packet(0, payload_type=77)), (START + 9.9, packet(1, payload_type=77))]
        received = call([*strays, *((at + 10, p) for at, p in stream(200))], after(200) + 10)
        assert not [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert received.marks() == set(range(200)) and received.ledger.sent <= 201 * FRAME

    def test_only_what_is_inaudible(self) -> None:
        received = call([(START + 0.02 * i, packet(i, payload_type=77)) for i in range(50)], START + 2)
        assert received.ledger.counts[Label.SILENCE] == received.ledger.sent > 0
        reason = "packets of payload type 77 arrive, 96, 0, 111 was agreed"
        ignored, lost = (signal for _, signal in received.signals)
        assert ignored == Ignored(reason, 77), "once"
        assert lost == Lost(0, 50 * FRAME, "network"), "it may have been speech"
        assert received.receiver.stats()["unknown_type"] == 50

    def test_another_peer_connection_takes_over(self) -> None:
        """After `renegotiate`, from another source with other payload types."""
        receiver = AudioReceiver({96: L16}, chunk_ms=20)
        for at, arrived in stream(50):
            receiver.push(arrived, at)
        receiver.renegotiate({100: L16})
        for i in range(50, 100):
            receiver.push(packet(i, ssrc=8, payload_type=100), after(i) + 1)
        received = Received(after(100) + 1, receiver, [(0.0, c) for c in receiver.close(after(100) + 1)])
        assert received.marks() >= set(range(50, 100))


garbage = st.builds(
    Packet,
    ssrc=st.sampled_from([1, 2]),
    sequence=st.integers(0, 60) | st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 60000) | st.integers(0, 0xFFFFFFFF),
    payload_type=st.sampled_from([0, 13, 96, 111, 127]),
    payload=st.binary(max_size=4) | st.binary(min_size=320, max_size=1500),
    marker=st.booleans(),
)


@settings(max_examples=100)
@given(
    packets=st.lists(st.tuples(st.floats(0, 0.6), garbage), max_size=60),
    chunk_ms=st.sampled_from([20, 100]),
)
def test_any_packets_are_survived(packets: list[tuple[float, Packet]], chunk_ms: int) -> None:
    at, arrivals = START, []
    for passed, arrived in packets:
        at += passed
        arrivals.append((at, arrived))
    received = call(arrivals, at + 1.0, chunk_ms=chunk_ms)
    ahead = (received.ledger.sent / SAMPLE_RATE) - (received.end - (received.receiver.origin or received.end))
    received.check(chunk_ms=chunk_ms, lag_s=max(0.0, ahead))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 400),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    jitter=st.sampled_from([0.0, 0.01, 0.08]),
    twice=st.sampled_from([0.0, 0.3]),
    chunk_ms=st.sampled_from([20, 50, 100, 200]),
    frame=st.sampled_from([160, 320, 960]),
    timer=st.sampled_from([0.0, 0.004, 0.05, 0.15]),
)
def test_any_network_and_any_timer(
    seed: int, count: int, loss: float, jitter: float, twice: float, chunk_ms: int, frame: int, timer: float
) -> None:
    """The timeline is contiguous and as long as the call, the ledger is exact, and every packet that came
    within the playout delay is received."""
    chance = random.Random(seed)
    sent = stream(count, frame=frame, payload=lambda i: loud(i % 20000, frame))
    arrivals = shaken(sent, jitter=jitter, loss=loss, seed=seed)
    arrivals += [(at + jitter * chance.random(), p) for at, p in arrivals if chance.random() < twice]
    end = after(count, frame) + jitter
    received = call(arrivals, end, chunk_ms=chunk_ms, tick=lambda: timer * chance.random())
    lag_s = max(0.0, (received.ledger.sent / SAMPLE_RATE) - (end - (received.receiver.origin or end)))
    assert lag_s <= jitter + 0.001
    received.check(chunk_ms=chunk_ms, lag_s=lag_s)
    stats = received.receiver.stats()
    assert received.ledger.counts[Label.RECEIVED] == frame * (
        stats["received"] - stats["duplicate"] - stats["late"]
    )
    if jitter < 0.08 or count < 25:
        assert stats["late"] == 0
    assert received.ledger.discarded.keys() <= {"lag", "covered by silence"}


def other_source(ssrc: int, begin: int, count: int) -> Arrivals:
    """Frames of another source, which keeps its own counts, at the times of the frames from ``begin`` on."""
    return [
        (
            START + (begin + i) * 0.02 + 0.001 * ssrc,
            packet(begin + i, ssrc=ssrc, sequence=100 + i, timestamp=70_000 * ssrc + i * FRAME),
        )
        for i in range(count)
    ]


class TestOtherSources:
    def test_who_sends_after_the_first_one_fell_silent_takes_its_place(self) -> None:
        """And gives it back: both are whole, though nobody said BYE."""
        arrivals = [*stream(150), *other_source(9, 100, 150)]
        received = call(arrivals, START + 5.2)
        assert set(range(99)) <= received.marks() and set(range(155, 250)) <= received.marks()
        assert any(isinstance(signal, SeveralSources) for _, signal in received.signals)
        assert received.receiver.stats()["sources"] >= 1

    @pytest.mark.parametrize("others", [2, 3])
    @pytest.mark.parametrize("begin", [50, 20])
    def test_several_that_begin_at_once_are_all_received(self, others: int, begin: int) -> None:
        """After the first one has ended, or beside it. Their packets come in turns, and each pushed the
        other's out."""
        new = [one for ssrc in range(20, 20 + others) for one in other_source(ssrc, begin, 100)]
        received = call([*stream(50), *new], after(155))
        stats = received.receiver.stats()
        assert (stats["stray"], stats["lost"], stats["late"]) == (0, 0, 0)
        assert received.ledger.counts[Label.RECEIVED] == FRAME * (50 + 100 * others)
        assert [s for _, s in received.signals if isinstance(s, SeveralSources)]

    def test_a_long_loss_of_one_is_told_while_another_goes_on(self) -> None:
        """Whichever of them the track follows at that time."""
        lost = range(60, 110)
        speaker = [one for i, one in enumerate(stream(200)) if i not in lost]
        silent = [(at, replace(p, payload=quiet())) for at, p in other_source(9, 20, 180)]
        received = call([*speaker, *silent], after(205))
        (told,) = [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert told.reason == "network"
        assert (told.start, told.end) == pytest.approx((60 * FRAME, 110 * FRAME), abs=0.2 * SAMPLE_RATE)

    def test_a_short_loss_beside_another_is_not(self) -> None:
        speaker = [one for i, one in enumerate(stream(200)) if i not in range(60, 66)]
        silent = [(at, replace(p, payload=quiet())) for at, p in other_source(9, 20, 180)]
        received = call([*speaker, *silent], after(205))
        assert not [signal for _, signal in received.signals if isinstance(signal, Lost)]

    def test_more_than_can_be_mixed_are_counted_and_said(self) -> None:
        arrivals = [*stream(150), *(one for ssrc in range(20, 26) for one in other_source(ssrc, 20, 100))]
        received = call(arrivals, after(150))
        assert set(range(19)) <= received.marks()
        told = [signal for _, signal in received.signals if isinstance(signal, Ignored)]
        assert [signal.reason for signal in told] == ["more than 4 sources send at once"]
        assert received.receiver.stats()["stray"] > 0

    @pytest.mark.parametrize("others", [0, 1])
    def test_another_ssrc_in_a_word_puts_no_silence_into_it(self, others: int) -> None:
        """It begins where the first one ends, beside a quiet source or none; the timer asks a bit later."""
        new = [(at + 0.003, p) for at, p in other_source(9, 100, 100)]
        beside = [(at, replace(p, ssrc=20, payload=quiet())) for at, p in other_source(11, 20, 180) if others]
        received = call([*stream(100), *new, *beside], after(200), chunk_ms=100)
        assert received.marks() >= set(range(200))
        sound = np.abs(received.sound.astype(int)) >= LOUD_FROM
        assert np.count_nonzero(np.diff(sound.astype(int)) > 0) <= 1

    @pytest.mark.parametrize("says_bye", [True, False])
    def test_the_last_words_of_a_second_source_are_whole(self, says_bye: bool) -> None:
        """The main one stops at the same time: what is stored goes on without a hole."""
        silent = [(at, replace(p, payload=quiet())) for at, p in stream(102)]
        gone = after(100) + 0.03
        told: dict[float, Told] = {gone: lambda receiver, now: receiver.bye(9, now)} if says_bye else {}
        received = call([*silent, *other_source(9, 20, 80)], after(200), chunk_ms=100, told=told)
        loud_at = np.flatnonzero(np.abs(received.sound.astype(int)) >= LOUD_FROM - 12)
        assert len(loud_at) >= 79 * FRAME and np.count_nonzero(np.diff(loud_at) > 1) == 0

    def test_what_one_lost_before_it_goes_on_with_another_ssrc_is_told(self) -> None:
        silent = [(at, replace(p, payload=quiet())) for at, p in other_source(9, 5, 195)]
        new = [(at, replace(p, ssrc=11)) for at, p in other_source(11, 140, 60)]
        received = call([*stream(60), *silent, *new], after(205))
        (told,) = [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert (told.start, told.end) == pytest.approx((60 * FRAME, 140 * FRAME), abs=0.3 * SAMPLE_RATE)

    @pytest.mark.parametrize("lost", [0, 7])
    def test_who_sends_all_twice_with_two_ssrcs_is_received_once(self, lost: int) -> None:
        """RFC 7198: what is lost of one comes with the other."""
        twice = [(at + 0.005, replace(p, ssrc=9)) for at, p in stream(200)]
        once = [one for i, one in enumerate(stream(200)) if not lost or i % lost]
        received = call(sorted(once + twice, key=lambda pair: pair[0]), after(200) + 0.01)
        assert received.marks() == set(range(200))
        assert received.ledger.counts[Label.RECEIVED] == 200 * FRAME
        assert received.ledger.discarded == {} and received.signals == []

    @pytest.mark.parametrize("late_s", [0.05, 0.1, 0.18])
    def test_the_last_packet_of_an_ssrc_that_is_no_more_comes_late(self, late_s: float) -> None:
        """After another one has taken its place."""
        old = stream(100)
        old[-1] = (old[-1][0] + late_s, old[-1][1])
        received = call([*old, *other_source(9, 100, 400)], after(500), chunk_ms=100)
        assert not [signal for _, signal in received.signals if isinstance(signal, Lost)]

    @pytest.mark.parametrize("seed", range(8))
    def test_ssrcs_that_follow_each_other_on_a_rough_network(self, seed: int) -> None:
        """The first packets of one overtake the last ones of another: nothing was lost."""
        arrivals = [(at, replace(p, ssrc=100 + i // 100)) for i, (at, p) in enumerate(stream(400))]
        numbered = [(at, replace(p, sequence=(997 * p.ssrc + p.sequence) & 0xFFFF)) for at, p in arrivals]
        received = call(shaken(numbered, jitter=0.06, seed=seed), after(405), chunk_ms=100)
        assert not [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert received.marks() == set(range(400))

    def test_three_that_are_silent_make_room_for_who_sends(self) -> None:
        """Each SSRC sends for half a second; four have done so in the last two seconds."""
        arrivals = [(at, replace(p, ssrc=100 + i // 20)) for i, (at, p) in enumerate(stream(300))]
        received = call(arrivals, after(300))
        assert received.ledger.counts[Label.RECEIVED] == 300 * FRAME
        assert not [signal for _, signal in received.signals if isinstance(signal, Lost | Ignored)]

    def test_a_second_source_that_leaves_says_nothing_of_the_first(self) -> None:
        arrivals = [*stream(150), *other_source(9, 20, 50)]
        gone = START + 70 * 0.02 + 0.05
        received = call(arrivals, after(150), told={gone: lambda receiver, now: receiver.bye(9, now)})
        assert set(range(85, 150)) <= received.marks(), "its last words are still mixed in at first"
        assert not any(isinstance(signal, Muted) for _, signal in received.signals)


class TestOddSenders:
    """Each sample is as long as it is said to be, or told as missing."""

    @pytest.mark.parametrize(
        "timestamp",
        [
            lambda i: 0,
            lambda i: 20 * i,
            lambda i: 640 * (i // 2),  # two packets with the same one
            lambda i: round(FRAME * (i + 0.2 * math.sin(37 * i))),  # of a clock on the wall
            lambda i: random.Random(i).randrange(2**32),
        ],
    )
    def test_timestamps_put_no_silence_between_packets(self, timestamp: Callable[[int], int]) -> None:
        arrivals = [
            (at, replace(p, timestamp=timestamp(i) & 0xFFFFFFFF)) for i, (at, p) in enumerate(stream(200))
        ]
        received = call(arrivals, after(200))
        received.check(chunk_ms=20)
        assert received.marks() == set(range(200))
        assert received.ledger.counts[Label.SILENCE] <= 2 * FRAME

    @pytest.mark.parametrize(
        "number", [lambda i: random.Random(i).randrange(2**16), lambda i: 0, lambda i: 60_000 - i]
    )
    def test_numbers_without_order_are_missing(self, number: Callable[[int], int]) -> None:
        arrivals = [(at, replace(p, sequence=number(i))) for i, (at, p) in enumerate(stream(200))]
        received = call(arrivals, after(200))
        lost = [signal for _, signal in received.signals if isinstance(signal, Lost)]
        assert sum(one.end - one.start for one in lost) > 150 * FRAME
        assert max(one.end for one in lost) <= 210 * FRAME

    def test_a_source_for_each_second_is_received_and_nothing_is_missing(self) -> None:
        arrivals = [(at, replace(p, ssrc=100 + i // 50)) for i, (at, p) in enumerate(stream(300))]
        received = call(arrivals, after(300))
        assert received.ledger.counts[Label.RECEIVED] == 300 * FRAME
        assert not [signal for _, signal in received.signals if isinstance(signal, Lost | SeveralSources)]
