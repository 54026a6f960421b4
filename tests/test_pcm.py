"""1.00 s out per 1.00 s of call, whatever comes in when; and every sample accounted for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.media.clock import MARGIN, MAX_QUEUED, AudioClock
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
from rtcstt.media.receiver import AudioReceiver

FRAME = 320  # 20 ms
LOUD_FROM = 2000


def loud(mark: int, count: int = FRAME) -> Samples:
    """Sound that can be told from other sound: its amplitude is ``LOUD_FROM + mark``."""
    samples = np.full(count, LOUD_FROM + mark, np.int16)
    samples[1::2] *= -1
    return samples


def quiet(count: int = FRAME) -> Samples:
    samples = np.full(count, 9, np.int16)
    samples[1::2] *= -1
    return samples


def marks(samples: Samples) -> list[int]:
    """The marks of loud sound, in order, each once."""
    levels = np.abs(samples.astype(int))
    found = levels[levels >= LOUD_FROM] - LOUD_FROM
    return [int(found[i]) for i in range(len(found)) if i == 0 or found[i] != found[i - 1]]


def balance(ledger: Ledger) -> float:
    """What is missing from the ledger's equation (docs/ledger.md), in ms."""
    values: dict[str, Any] = ledger.as_dict()
    came = sum(float(values[label.value]) for label in Label)
    return came - float(values["discarded"]) - float(values["sent"])


@dataclass
class Run:
    """A clock in virtual time that begins at 0: what is `feed` arrives then, pulls are made when due."""

    clock: AudioClock = field(default_factory=lambda: AudioClock(chunk_ms=20))
    delay: float = 0.005
    now: float = 0.0
    chunks: list[tuple[float, Chunk]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock.begin(0.0)

    def until(self, time: float, *, expects_nothing: bool = False) -> None:
        while (due := self.clock.next_due(self.now)) <= time:
            self.now = due
            pulled = self.clock.pull(due, self.delay, expects_nothing=expects_nothing)
            self.chunks += [(due, chunk) for chunk in pulled]
        self.now = time

    def feed(
        self, samples: Samples, at: float, label: Label = Label.RECEIVED, *, expects_nothing: bool = False
    ) -> None:
        self.until(at, expects_nothing=expects_nothing)
        self.clock.push(samples, label, at)

    def pause(self, count: int, arrival: float) -> None:
        silence = np.zeros(self.clock.pause(count, arrival), np.int16)
        self.clock.push(silence, Label.SILENCE, arrival)

    def talk(self, first: int, last: int, *, shift: float = 0.0, like: Samples | None = None) -> None:
        """The frames ``first`` to ``last`` of a steady sender, each as it is complete."""
        for i in range(first, last):
            self.feed(loud(i) if like is None else like, (i + 1) * FRAME / SAMPLE_RATE + shift)

    def close(self, at: float) -> Samples:
        """All that was sent in the whole call; checks what always holds."""
        self.until(at)
        self.chunks += [(at, chunk) for chunk in self.clock.close(at)]
        start = hole = 0
        for time, chunk in self.chunks:
            hole += chunk.start - start
            start = chunk.start + len(chunk.samples)
            assert time == at or start <= time * SAMPLE_RATE + 1, "sent faster than real time"
        assert hole == self.clock.ledger.discarded.get("overflow", 0)
        assert start == self.clock.ledger.sent + hole
        assert balance(self.clock.ledger) == 0
        assert self.clock.ledger.queued == 0
        return self.sound()

    def sound(self) -> Samples:
        return np.concatenate([chunk.samples for _, chunk in self.chunks] or [np.zeros(0, np.int16)])

    def latency(self, mark: int) -> float:
        """From the end of a marked frame to its leaving."""
        left = next(at for at, chunk in self.chunks if mark in marks(chunk.samples))
        return left - (mark + 1) * FRAME / SAMPLE_RATE


class TestPace:
    @pytest.mark.parametrize("chunk_ms", [20, 100, 200])
    def test_a_steady_sender_at_an_even_pace(self, chunk_ms: int) -> None:
        run = Run(AudioClock(chunk_ms=chunk_ms))
        run.talk(0, 500)
        times = [at for at, _ in run.chunks]
        steps = np.diff(times)
        assert steps == pytest.approx(chunk_ms / 1000)
        assert marks(run.close(10.0)) == list(range(500))
        assert all(len(chunk.samples) == chunk_ms * 16 for _, chunk in run.chunks)

    def test_without_jitter_a_frame_leaves_almost_at_once(self) -> None:
        run = Run()
        run.talk(0, 100)
        run.until(2.1)
        assert run.latency(50) == pytest.approx(run.delay)

    def test_the_last_chunk_may_be_short(self) -> None:
        run = Run(AudioClock(chunk_ms=100))
        run.talk(0, 7)
        assert len(run.close(0.14)) == 7 * FRAME

    def test_nothing_before_the_beginning(self) -> None:
        clock = AudioClock()
        assert clock.pull(5.0) == []
        assert clock.close(6.0) == []
        assert clock.lag_s == 0.0
        assert balance(clock.ledger) == 0

    def test_late_audio_is_waited_for_without_silence(self) -> None:
        run = Run()
        run.talk(0, 50)
        run.talk(50, 60, shift=0.15)
        run.talk(60, 200)
        sound = run.close(4.0)
        assert run.clock.ledger.counts[Label.SILENCE] == 0
        assert marks(sound) == list(range(200))

    def test_catching_up_is_bounded(self) -> None:
        run = Run()
        run.talk(0, 50)
        for i in range(50, 59):
            run.feed(loud(i), 1.19)
        run.talk(59, 200)
        after = [at for at, _ in run.chunks if at > 1.18]
        assert min(np.diff(after)[1:]) >= 0.02 / 1.25 - 1e-9
        assert run.latency(150) == pytest.approx(run.delay)

    def test_a_late_timer_is_not_late_audio(self) -> None:
        """Asked only every 150 ms, everything still goes out."""
        clock = AudioClock(chunk_ms=20)
        clock.begin(0.0)
        sent = 0
        for i in range(1, 501):
            clock.push(loud(i), Label.RECEIVED, i * 0.02)
            if i % 7 == 0:
                sent += len(clock.pull(i * 0.02 + 0.001))
                assert sent >= i - 1

    def test_a_blocked_process_catches_up_slowly(self) -> None:
        clock = AudioClock(chunk_ms=20)
        clock.begin(0.0)
        for i in range(250):
            clock.push(loud(i), Label.RECEIVED, 5.0)
        assert len(clock.pull(5.0)) <= 13  # a quarter of a second, not five


class TestSilence:
    @pytest.mark.parametrize("chunk_ms", [20, 100, 200])
    def test_when_nothing_comes(self, chunk_ms: int) -> None:
        run = Run(AudioClock(chunk_ms=chunk_ms))
        run.talk(0, 53)
        run.until(10.0)
        assert len(run.sound()) >= (10.0 - 0.01 - chunk_ms / 1000) * SAMPLE_RATE
        assert max(np.diff([at for at, _ in run.chunks])) <= 0.2 + chunk_ms / 1000 + 1e-6
        run.close(10.0)
        assert run.clock.ledger.counts[Label.SILENCE] == 10 * SAMPLE_RATE - 53 * FRAME

    def test_the_tail_is_out_within_the_cap(self) -> None:
        run = Run(AudioClock(chunk_ms=100))
        run.talk(0, 53)
        run.until(1.06 + 0.1 + 0.2)
        assert marks(run.sound()) == list(range(53))

    @pytest.mark.parametrize("chunk_ms", [20, 100, 200])
    def test_audio_after_a_pause_is_in_its_place_and_on_time_again(self, chunk_ms: int) -> None:
        run = Run(AudioClock(chunk_ms=chunk_ms))
        run.talk(0, 103)
        run.talk(303, 500)
        sound = run.close(10.0)
        assert run.latency(450) <= run.delay + chunk_ms / 1000
        assert len(sound) == 10 * SAMPLE_RATE
        assert run.clock.ledger.counts[Label.SILENCE] == 200 * FRAME
        assert not sound[103 * FRAME : 303 * FRAME].any()
        assert marks(sound[303 * FRAME :]) == list(range(303, 500))

    def test_a_pause_that_was_announced_is_not_waited_for(self) -> None:
        run = Run()
        run.talk(0, 50)
        run.until(1.4, expects_nothing=True)
        assert max(np.diff([at for at, _ in run.chunks])) <= 0.02 + 1e-6
        run.pause(20 * FRAME, 1.42)
        run.talk(70, 100)
        assert run.clock.ledger.counts[Label.SILENCE] == 20 * FRAME
        assert len(run.close(2.0)) == 2 * SAMPLE_RATE

    def test_a_pause_that_nobody_had_time_to_fill(self) -> None:
        run = Run()
        run.talk(0, 50)
        run.pause(5 * FRAME, 1.12)
        run.talk(55, 100)
        sound = run.close(2.0)
        assert not sound[50 * FRAME : 55 * FRAME].any()
        assert marks(sound) == [*range(50), *range(55, 100)]

    def test_a_pause_that_leads_beyond_the_present_is_shortened(self) -> None:
        run = Run()
        run.talk(0, 50)
        run.pause(3600 * SAMPLE_RATE, 1.02)
        assert run.clock.ledger.counts[Label.SILENCE] == 2 * MARGIN


class TestStall:
    def stalled(self, *, sounds_quiet: bool) -> Run:
        """Two seconds of packets come in one burst; from then on there is talk with pauses, or without."""
        run = Run()
        run.talk(0, 100)
        for i in range(100, 200):
            run.feed(loud(i), 4.0)
        for i in range(200, 700):
            silent = sounds_quiet and i % 50 >= 25
            run.feed(quiet() if silent else loud(i), (i + 1) * 0.02)
        return run

    def test_what_comes_late_is_sent_late(self) -> None:
        run = self.stalled(sounds_quiet=False)
        assert run.clock.lag_s == pytest.approx(1.98, abs=0.03)
        assert marks(run.close(14.0)) == list(range(700))
        assert run.clock.ledger.discarded == {}

    def test_the_lag_is_won_back_in_the_pauses(self) -> None:
        run = self.stalled(sounds_quiet=True)
        assert run.clock.lag_s <= 0.02
        assert run.latency(674) < 0.05
        assert marks(run.close(14.0)) == [i for i in range(700) if i < 200 or i % 50 < 25]
        assert run.clock.ledger.discarded["lag"] > 1.9 * SAMPLE_RATE

    def test_no_edge_of_a_word_is_touched(self) -> None:
        sound = self.stalled(sounds_quiet=True).close(14.0)
        is_loud = np.abs(sound.astype(int)) >= LOUD_FROM
        edges = np.flatnonzero(np.diff(is_loud.astype(int)))
        pauses = [end - begin for begin, end in zip(edges[1::2], edges[2::2], strict=False)]
        assert min(pauses) >= 0.2 * SAMPLE_RATE

    def test_concealment_of_what_silence_covered_already_is_discarded(self) -> None:
        run = Run()
        run.talk(0, 100)
        run.until(3.0)
        run.feed(loud(9000, 5 * FRAME), 3.02, Label.CONCEALED)
        run.pause(45 * FRAME, 3.02)
        run.feed(loud(150), 3.02)
        run.talk(151, 200)
        sound = run.close(4.0)
        assert 9000 not in marks(sound)
        assert run.clock.ledger.discarded == {"covered by silence": 5 * FRAME}
        assert len(sound) == pytest.approx(4 * SAMPLE_RATE, abs=FRAME)

    def test_what_was_recovered_is_kept(self) -> None:
        run = Run()
        run.talk(0, 100)
        run.feed(loud(5000), 3.0, Label.RECOVERED)
        assert 5000 in marks(run.close(3.1))

    def test_the_queue_is_bounded(self) -> None:
        run = Run()
        for i in range(4000):
            run.clock.push(loud(i), Label.RECEIVED, 0.02 * i / 4)
        assert run.clock.ledger.queued <= MAX_QUEUED
        assert run.clock.ledger.discarded["overflow"] % FRAME == 0
        kept = marks(run.close(20.0))
        assert kept == list(range(kept[0], 4000))


class TestDrift:
    @pytest.mark.parametrize("ppm", [-300, -50, 50, 300])
    def test_an_hour_of_a_wrong_clock(self, ppm: int) -> None:
        """Talk and pauses of a second each, in frames of 60 ms to be quick."""
        clock = AudioClock(chunk_ms=100)
        run = Run(clock)
        step = 0.06 * (1 + ppm / 1e6)
        talk, hush = loud(1, 3 * FRAME), quiet(3 * FRAME)
        for i in range(60_000):
            run.feed(hush if (i // 16) % 2 else talk, step * (i + 1))
        assert abs(clock.lag_s) <= 0.05
        sound = run.close(step * 60_000)
        assert len(sound) == pytest.approx(step * 60_000 * SAMPLE_RATE, abs=clock._chunk)
        corrected = clock.ledger.discarded.get("lag", 0) + clock.ledger.counts[Label.SILENCE]
        assert corrected == pytest.approx(abs(ppm) * 3600e-6 * SAMPLE_RATE, rel=0.2)
        is_loud = np.abs(sound.astype(int)) >= LOUD_FROM
        assert np.count_nonzero(is_loud) == 30_000 * 3 * FRAME
        assert np.count_nonzero(np.diff(is_loud)) == 60_000 // 16 - 1  # nothing was put into the talk

    def test_a_slow_clock_without_any_pause(self) -> None:
        run = Run()
        for i in range(6000):
            run.feed(loud(i % 7), 0.0202 * (i + 1))
        assert len(run.close(0.0202 * 6000)) == pytest.approx(0.0202 * 6000 * SAMPLE_RATE, abs=FRAME)


def test_the_first_packets_may_be_the_slowest() -> None:
    """Then everything goes out later than need be, until it is quiet for the first time."""
    run = Run(delay=0.07)
    for i in range(200):
        run.feed(quiet() if i > 100 else loud(i), (i + 1) * 0.02 - (0.06 if i else 0.0))
    assert run.clock.lag_s < 0.02
    assert run.clock.ledger.discarded["lag"] == pytest.approx(0.06 * SAMPLE_RATE, abs=FRAME)


def test_a_pause_that_is_not_over_yet_is_only_shortened() -> None:
    """What follows it is not known: it may be the soft beginning of a word."""
    run = Run()
    for i in range(200):
        run.feed(quiet() if 100 <= i < 110 else loud(i), (i + 1) * 0.02 - (0.06 if i else 0.0))
    is_loud = np.abs(run.close(4.0).astype(int)) >= LOUD_FROM
    fell, rose = np.flatnonzero(np.diff(is_loud.astype(int)))[:2]
    assert 0.18 * SAMPLE_RATE < rose - fell < 0.2 * SAMPLE_RATE


@settings(max_examples=60)
@given(
    chunk_ms=st.sampled_from([20, 30, 100, 200]),
    delay=st.sampled_from([0.0, 0.005, 0.05, 0.2]),
    seed=st.integers(0, 2**32),
    frames=st.integers(0, 400),
    loudness=st.floats(0, 1),
)
def test_any_schedule_adds_up(chunk_ms: int, delay: float, seed: int, frames: int, loudness: float) -> None:
    """Any labels, bursts, pauses and pulls: contiguous, no faster than real time, every sample accounted for,
    no sound of the network's lost, and as long as the call but for the lag."""
    chance = random.Random(seed)
    run = Run(AudioClock(chunk_ms=chunk_ms), delay)
    at, received = 0.02, 0
    for i in range(frames):
        at += chance.choice([0.0, 0.02, 0.02, 0.02, 0.03, 0.1, 0.7])
        label = chance.choice([Label.RECEIVED] * 6 + [Label.RECOVERED, Label.CONCEALED, Label.SILENCE])
        if chance.random() < 0.05:
            run.pause(chance.randrange(8000), at)
        sounds = label is not Label.SILENCE and chance.random() < loudness
        received += sounds and label in (Label.RECEIVED, Label.RECOVERED)
        made_up = 0 if label in (Label.RECEIVED, Label.RECOVERED) else 5000
        run.feed(loud(i + made_up) if sounds else quiet(), at, label)
    end = at + chance.random()
    run.until(end)
    surplus = max(0.0, run.clock.ahead(end))
    sound = run.close(end)
    assert len(marks(sound)) <= frames
    assert np.count_nonzero((abs(sound) >= LOUD_FROM) & (abs(sound) < LOUD_FROM + 5000)) == received * FRAME
    assert len(sound) == pytest.approx((end + surplus) * SAMPLE_RATE, abs=2)


@pytest.mark.parametrize("pace", [0.5, 0.8])
def test_pcm_that_comes_slower_than_real_time_has_no_hole_in_a_word(pace: float) -> None:
    """Two tracks of a media stream that share one clock, say. Silence goes where it is quiet."""
    receiver = AudioReceiver({}, chunk_ms=20)
    word, pause = np.full(320 * 40, 5000, np.int16), np.zeros(320 * 40, np.int16)
    word[1::2] *= -1
    spoken = np.concatenate([word, pause, word, pause])
    chunks, now, at = [], 10.0, 10.0
    for start in range(0, len(spoken), 320):
        at = 10.0 + start / SAMPLE_RATE / pace
        while now + 0.005 < at:
            now += 0.005
            chunks += receiver.pull(now)
        receiver.push_pcm(spoken[start : start + 320], at)
    chunks += receiver.close(at)
    sound = np.concatenate([chunk.samples for chunk in chunks])
    loud = np.flatnonzero(np.abs(sound) > 0)
    edges = np.flatnonzero(np.diff(loud) > 1)
    assert len(loud) == 2 * len(word)
    assert len(edges) == 1, "two words, each whole"
    assert not receiver.ledger.queued
