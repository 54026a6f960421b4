"""The audio clock: exactly 1.00 s of 16 kHz mono PCM out per 1.00 s of call.

Decoded audio goes in as it comes, in bursts, with holes, at the sender's pace; chunks come out at
ours. The schedule is fixed by the first packet: the chunk that ends at sample n of the call is due
n/16000 s after the call's beginning, plus a small delay that covers the network's jitter. What
happens then depends on what is there:

- Enough audio: the chunk goes out.
- Not enough, but not late yet beyond the cap: wait. Nothing is inserted into speech that is merely late.
- Not enough, and the cap is over (mute, hold, a stall), or the sender said that it pauses: the chunk
  is filled with silence, and from then on silence goes out on schedule until audio comes again.

The rest is about keeping the two ends of the queue together. ``ahead`` is the audio sent or queued,
less the time that has passed when the newest of it arrived; its `_Lead`, the highest of the last
seconds, belongs to the packets that the network held up least, and should be zero.

- A pause is over that no timestamps told: the silence that the pause still lacks goes before the audio.
- Lead > 0 (a stall whose packets came after all in a burst, when silence had gone out meanwhile; or a
  fast clock): the words are real, so they are sent late; the lag is won back by discarding quiet
  stretches, with a margin on both sides so that no edge of a word is touched. Concealment for which
  silence went out already is discarded first.
- Lead < 0 in lasting speech (the sender's clock is slow): silence is put where it is quiet.

Behind schedule, chunks leave at most 1.25 times as fast as real time, and never ahead of it: on
average the STT gets one second per second.

No I/O and no clock here: ``now`` is an argument, in s of any monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TypedDict

import numpy as np

from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples

MAX_CATCH_UP = 1.25  # times real time
MAX_LATE_PULL_S = 0.2  # chunks overdue by no more go out together: the timer was late, not the audio
MAX_QUEUED = 30 * SAMPLE_RATE  # beyond it the oldest half is discarded: one hole instead of many
TOLERATED_S = 0.01  # lead or lack of it that is left alone
LEAD_WINDOW_S = 1.0
MARGIN = int(0.12 * SAMPLE_RATE)  # quiet that is kept before and after speech when lag is won back
QUIET = 40.0  # root mean square of int16 samples; about -58 dB of full scale
LOWEST_FLOOR = 5.0  # digital silence says nothing about the room
SAMPLED = 10  # one of so many frames is looked at to know the noise floor
FLOOR_FRAMES = 50  # the noise floor is learned from so many: 10 s at 20 ms, where nothing else is asked
MAX_RUN = SAMPLE_RATE // 50
MOMENT = 5  # packets or less, to know whether what came last was a word
POLL_S = 0.005  # while a chunk waits for late audio


class ClockState(TypedDict):
    """A clock's counts in samples: ``counts`` by `Label`, ``discarded`` by reason. ``lag``: audio goes out so
    much later than on a call without trouble."""

    counts: dict[str, int]
    discarded: dict[str, int]
    sent: int
    hole: int
    lag: int


class AudioClock:
    """One track's audio, from what comes to what is due.

    `begin` once, `push` and `pause` as frames come, `pull` whenever `next_due` says, `close` at the
    end. ``arrival`` is when the packet came, which may be a little before it is pushed here.
    ``max_delay_s`` caps how far the output may fall behind while it waits for late audio.
    """

    def __init__(self, *, chunk_ms: int = 100, max_delay_s: float = 0.2) -> None:
        self._chunk = chunk_ms * SAMPLE_RATE // 1000
        self._max_delay_s = max_delay_s
        self._loudness = _Loudness()
        self._queue = _Queue(self._loudness)
        self._last: deque[Samples] = deque(maxlen=MOMENT)  # of what came
        self._origin: float | None = None
        self._delay = 0.0
        self._not_before = -math.inf  # the catch-up limit
        self._injected = 0  # silence sent since the last audio that came, not yet accounted for
        self._lead = _Lead()
        self._hole = 0  # samples that were dropped for want of room: their time has passed all the same
        self._overflow: tuple[int, int] | None = None  # where they were, not yet asked for
        self.ledger = Ledger()

    @property
    def origin(self) -> float | None:
        """When the call's time began; None before."""
        return self._origin

    @property
    def end(self) -> int:
        """The sample after the last one that was sent or is queued."""
        return self.ledger.sent + self._hole + self._queue.length

    @property
    def next(self) -> int:
        """Where audio belongs that comes now: silence may have gone out for it."""
        return self.end - self._injected

    @property
    def position(self) -> int:
        """The next sample to go out, counted from the call's beginning."""
        return self.ledger.sent + self._hole

    def state(self) -> ClockState:
        """What another server needs to go on counting, besides `origin`. For JSON."""
        counts = {label.value: count for label, count in self.ledger.counts.items()}
        discarded = dict(self.ledger.discarded)
        return {
            "counts": counts,
            "discarded": discarded,
            "sent": self.ledger.sent,
            "hole": self._hole,
            "lag": round(self.lag_s * SAMPLE_RATE),
        }

    def restore(self, state: ClockState, origin: float) -> None:
        """Go on from what `state` gave on another server. What had not gone out there is lost."""
        counts = {Label(name): count for name, count in state["counts"].items()}
        self.ledger = Ledger(counts, state["sent"], dict(state["discarded"]))
        self._hole = state["hole"]
        if self.ledger.queued:
            self.ledger.discard("server", self.ledger.queued)
        self._origin = origin

    def skip(self, now: float, lag_s: float = 0.0) -> None:
        """Nothing was received until ``now``; nothing stands for that time. ``lag_s``: what had been received
        before went out so late, and so does what comes."""
        self._hole += max(0, round((lag_s - self.ahead(now)) * SAMPLE_RATE))

    def take_overflow(self) -> tuple[int, int] | None:
        """From where to where audio was dropped because it came faster than it may go out; each is told
        once."""
        overflow, self._overflow = self._overflow, None
        return overflow

    @property
    def lag_s(self) -> float:
        """How much later than on a call without trouble audio goes out now."""
        return max(0.0, self._lead.value)

    @property
    def ends_in_sound(self) -> bool:
        """Whether there is sound in the last moment of what came: it ends in a word, or shortly after."""
        return any(not self._loudness.is_quiet(samples, learns=False) for samples in self._last)

    def begin(self, origin: float) -> None:
        """The call's time begins at ``origin``: when the first sample was spoken, as far as known
        (the arrival of the first frame, less its duration)."""
        self._origin = origin

    def ahead(self, at: float) -> float:
        """Audio sent or queued, less the time that had passed ``at``; in s."""
        if self._origin is None:
            return 0.0
        return self.end / SAMPLE_RATE - (at - self._origin)

    def push(self, samples: Samples, label: Label, arrival: float) -> None:
        """Audio that came, or that stands for what was lost."""
        if not self._injected:
            self._append(samples, label)
        elif label in (Label.CONCEALED, Label.SILENCE):
            self._append(samples[self.cover(len(samples), label) :], label)
        else:
            self.resume(arrival, len(samples))
            self._append(samples, label)
        if label is Label.RECEIVED:
            self._lead.note(self.ahead(arrival), arrival)

    def pause(self, count: int, arrival: float) -> int:
        """The sender left out ``count`` samples of silence before the audio that arrived now. How many of
        them are to be pushed: less what was injected already, and no more than leads to the present, or
        keeps words apart."""
        covered = min(count, self._injected)
        self._injected -= covered
        lacking = max(2 * MARGIN, round(-self.ahead(arrival) * SAMPLE_RATE))
        return max(0, min(count - covered, lacking, MAX_QUEUED - self._queue.length))

    def cover(self, count: int, label: Label) -> int:
        """How many of ``count`` samples that come now silence has gone out for already; they are not to be
        pushed. None of what was received: it goes out late."""
        if label not in (Label.CONCEALED, Label.SILENCE):
            return 0
        covered = min(count, self._injected)
        self._injected -= covered
        if label is not Label.SILENCE:
            self.ledger.counts[label] += covered
            self.ledger.discard("covered by silence", covered)
        return covered

    def pull(
        self,
        now: float,
        delay: float = 0.0,
        *,
        expects_nothing: bool = False,
        expected_until: float = -math.inf,
    ) -> list[Chunk]:
        """The chunks due at ``now``. ``delay``: the jitter to be expected, in s.
        ``expects_nothing``: the sender said that it pauses, so do not wait. ``expected_until``: audio is on
        its way, however late, so put no silence in before."""
        if self._origin is None:
            return []
        self._delay = min(delay, self._max_delay_s)
        chunks = []
        while (due := self._due()) <= now:
            may_fill = expects_nothing or (now >= expected_until and self._may_fill(now))
            if self._queue.length < self._chunk and not may_fill:
                self._not_before = now  # it is the audio that is late, not the timer
                break
            chunks.append(self._send(self._chunk, self._surplus()))
            overdue = max(due, now - MAX_LATE_PULL_S)
            self._not_before = overdue + self._chunk / SAMPLE_RATE / MAX_CATCH_UP
        return chunks

    def next_due(self, now: float) -> float:
        """When `pull` is worth calling again; soon while a chunk waits for audio that is late."""
        if self._origin is None:
            return math.inf
        due = self._due()
        return due if due > now else now + POLL_S

    def close(self, now: float) -> list[Chunk]:
        """All that is queued, and silence up to ``now``, at once; the last chunk may be short."""
        if self._origin is not None:
            self._queue_silence(round(-self.ahead(now) * SAMPLE_RATE))
        return self.hand_over()

    def hand_over(self) -> list[Chunk]:
        """All that is queued, at once; the last chunk may be short."""
        chunks = []
        while self._queue.length:
            chunks.append(self._send(min(self._chunk, self._queue.length)))
        return chunks

    def _on_time(self) -> float:
        """When the next chunk would be complete on a network without jitter."""
        assert self._origin is not None
        return self._origin + (self.position + self._chunk) / SAMPLE_RATE

    def _due(self) -> float:
        return max(self._on_time() + self._delay, self._not_before)

    def _may_fill(self, now: float) -> bool:
        """Whether a chunk that lacks audio is filled: in a silence that has begun, or past the cap."""
        return self._injected > 0 or now >= self._on_time() + self._max_delay_s

    def _send(self, count: int, surplus: int = 0) -> Chunk:
        samples, missing, cut = self._queue.take(count, surplus, watch=self._lead.excess() != 0)
        if cut:
            self.ledger.discard("lag", cut)
            self._lead.shift(-cut / SAMPLE_RATE)
        self._injected += missing
        self.ledger.counts[Label.SILENCE] += missing
        chunk = Chunk(samples, self.position)
        self.ledger.sent += count
        return chunk

    def _surplus(self) -> int:
        """Samples to be discarded where it is quiet. A lack of them is made good here, if it is quiet."""
        surplus = round(self._lead.excess() * SAMPLE_RATE)
        if surplus < 0 and self._queue.continues_quiet():
            self._queue.insert_silence(-surplus)
            self.ledger.counts[Label.SILENCE] -= surplus
            self._lead.shift(-surplus / SAMPLE_RATE)
        return max(0, surplus)

    def _append(self, samples: Samples, label: Label) -> None:
        if not len(samples):
            return
        self.ledger.counts[label] += len(samples)
        self._last.append(samples if len(samples) <= MAX_RUN else samples[-MAX_RUN:].copy())
        if label is Label.SILENCE and not samples.any():  # others may be mixed in
            self._queue.append(samples, True)
        else:
            self._loudness.sample(samples)
            self._queue.append(samples, None)
        if self._queue.length > MAX_QUEUED:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Make room. What is kept stays where it is on the call's clock."""
        dropped = self._queue.drop_oldest(MAX_QUEUED // 2)
        self.ledger.discard("overflow", dropped)
        start = self._overflow[0] if self._overflow else self.position
        self._hole += dropped
        self._overflow = start, self.position

    def resume(self, arrival: float, count: int) -> None:
        """Audio comes again after a silence: what the silence still lacks goes out before it."""
        self._injected = 0
        self._queue_silence(round(-self.ahead(arrival) * SAMPLE_RATE) - count)

    def _queue_silence(self, count: int) -> None:
        count = min(count, MAX_QUEUED - self._queue.length)
        if count > 0:
            self._append(np.zeros(count, np.int16), Label.SILENCE)


class _Lead:
    """The highest ``ahead`` of the last one to two windows."""

    def __init__(self) -> None:
        self._begin = -math.inf
        self._last = 0.0
        self._this = 0.0

    @property
    def value(self) -> float:
        return max(self._last, self._this)

    def excess(self) -> float:
        """What is to be won back (> 0) or filled in (< 0); 0 within the tolerance."""
        value = self.value
        return value if abs(value) > TOLERATED_S else 0.0

    def note(self, ahead: float, at: float) -> None:
        if at - self._begin < LEAD_WINDOW_S:
            self._this = max(self._this, ahead)
            return
        # After a pause one packet says little: it may be late, and is no reason yet to put silence in.
        self._last = self._this if at - self._begin < 2 * LEAD_WINDOW_S else max(ahead, 0.0)
        self._this = ahead
        self._begin = at

    def shift(self, seconds: float) -> None:
        self._last += seconds
        self._this += seconds


class _Queue:
    """Runs of samples, each quiet or not, in the order of the call. Whether one is quiet is found out when
    that is asked for: where time is to be won back or to be filled in, which is seldom."""

    def __init__(self, loudness: _Loudness) -> None:
        self.length = 0
        self._loudness = loudness
        self._runs: deque[tuple[Samples, bool | None]] = deque()
        self._quiet_sent = 0  # quiet samples that went out last, as far as known

    def append(self, samples: Samples, quiet: bool | None) -> None:
        if len(samples) <= MAX_RUN:
            self._runs.append((samples, quiet))
        else:
            for start in range(0, len(samples), MAX_RUN):
                self._runs.append((samples[start : start + MAX_RUN], quiet))
        self.length += len(samples)

    def insert_silence(self, count: int) -> None:
        """At the head."""
        self._runs.appendleft((np.zeros(count, np.int16), True))
        self.length += count

    def continues_quiet(self) -> bool:
        """Whether it has been quiet for the margin, and is so at the head."""
        return self._quiet_sent >= MARGIN and bool(self._runs) and self._is_quiet(0)

    def drop_oldest(self, keep: int) -> int:
        """Drop whole runs until no more than ``keep`` samples are left; how many samples went."""
        before = self.length
        while self.length > keep:
            self.length -= len(self._runs.popleft()[0])
        return before - self.length

    def take(self, count: int, surplus: int, *, watch: bool) -> tuple[Samples, int, int]:
        """``count`` samples; how many of them are zeros for want of others; and how many samples (up
        to ``surplus``) were discarded from quiet stretches on the way. ``watch``: find out what is quiet."""
        parts: list[Samples] = []
        wanted, cut = count, 0
        while wanted and self._runs:
            if watch:
                self._is_quiet(0)
            samples, quiet = self._runs.popleft()
            if quiet and cut < surplus:
                spare = min(self._spare(len(samples)), surplus - cut, max(0, self.length - count))
                self.length -= spare
                cut += spare
                samples = samples[spare:]
            if len(samples) > wanted:
                self._runs.appendleft((samples[wanted:], quiet))
                samples = samples[:wanted]
            parts.append(samples)
            wanted -= len(samples)
            self._quiet_sent = self._quiet_sent + len(samples) if quiet else 0
        self.length -= count - wanted
        if wanted:
            parts.append(np.zeros(wanted, np.int16))
            self._quiet_sent += wanted
        return (np.concatenate(parts) if len(parts) > 1 else parts[0]), wanted, cut

    def _spare(self, size: int) -> int:
        """How much of a quiet run of ``size`` samples, just taken from the head, may be discarded."""
        if self._quiet_sent < MARGIN:
            return 0
        following = 0
        for index in range(len(self._runs)):
            if not self._is_quiet(index):
                return 0
            following += len(self._runs[index][0])
            if following >= MARGIN:
                return size
        return size // 4  # what follows is not known yet: shorten the quiet, but keep of each part most

    def _is_quiet(self, index: int) -> bool:
        samples, quiet = self._runs[index]
        if quiet is None:
            quiet = self._loudness.is_quiet(samples)
            self._runs[index] = samples, quiet
        return quiet


class _Loudness:
    """Tells quiet from sound by level: near the noise floor, a low percentile of the last frames, and
    far below the loudest recently.

    Only used to find where time may be won or lost unheard; it never decides what is speech.
    """

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=FLOOR_FRAMES)
        self._frames = self._seen = 0
        self._floor = QUIET / 2
        self._peak = 300.0

    def sample(self, samples: Samples) -> None:
        """Some of what comes, to know the room and the voice when it is asked what is quiet."""
        self._seen += 1
        if self._seen % SAMPLED == 0:
            self.is_quiet(samples)

    def is_quiet(self, samples: Samples, *, learns: bool = True) -> bool:
        """``learns``: not where the same is asked again and again, which would make it the room."""
        floats = samples.astype(np.float32)
        level = math.sqrt(float(np.vdot(floats, floats)) / len(floats))
        if learns:
            self._learn(level)
        return level <= QUIET or level < min(2 * self._floor, 0.1 * self._peak)

    def _learn(self, level: float) -> None:
        self._peak = max(level, self._peak * 0.999)
        if level >= LOWEST_FLOOR:
            self._levels.append(level)
        self._frames += 1
        if self._frames % 5 == 0 and self._levels:
            self._floor = sorted(self._levels)[len(self._levels) // 10]
