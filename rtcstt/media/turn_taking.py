"""Whether several sources (SSRCs) send in turns, and none of them is whole without the others.

Some senders change their SSRC every few packets, and some have several sources of which only one sends at a
time. Each of them for itself has holes that the others fill; mixed, as sources that send at once are, their
words would be torn. What tells: together they send about one second per second, none of them does so alone,
and there are several of them all the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.media.sequence import signed16

WINDOW_S = 0.6
LOOK_S = 0.1  # between two looks at it
LONGEST_DOUBT = round(1.5 * SAMPLE_RATE)
# Seconds of all sources per second where one of them sends at a time: in the window, and in each moment
ONCE = 0.6, 1.5
MOMENT_S = 0.1
AT_ONCE = 1.4
ALONE = 0.85  # the share of one that is whole by itself
SOME = 0.2  # of each half of the window, what is at least not of its main source
PACE = 0.4  # of the duration of a packet, by which it may come early or late
PAUSE_S = 0.1
SWAPPED = round(0.12 * SAMPLE_RATE)  # around packets that may have been swapped
MAX_PACKETS = 200  # in the window; more are of several that send at once
FAR = 50  # sequence numbers between two packets of a source: more is a new start


@dataclass(slots=True)
class _Came:
    ssrc: int
    sequence: int
    arrival: float
    duration_s: float


class TurnTaking:
    """`note` every packet of speech, from the first one on that is not of the only source. ``at``: where on
    the track's clock lies what comes ``now``."""

    def __init__(self, now: float, at: int) -> None:
        self.in_turns = False
        "How they send; at first at once."
        self.sources = 2
        "How many there were in the last moment."
        self._clear = self._clear_before = at  # where it was last certain how they send
        self._told = at
        self._packets: deque[_Came] = deque(maxlen=MAX_PACKETS)
        self._next_look = now + WINDOW_S

    def note(
        self, ssrc: int, sequence: int, duration_s: float, now: float, at: int
    ) -> tuple[int, int] | None:
        """A packet came. From where to where the words may be torn, where that is known with it: it was not
        clear how they send, or whose turn it was."""
        came = _Came(ssrc, sequence, now, duration_s)
        is_doubtful = self.in_turns and self._is_out_of_pace(came)
        self._packets.append(came)
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            if self._has_changed(now, at):
                self.in_turns = not self.in_turns
                return self._torn(max(self._clear_before, at - LONGEST_DOUBT), at)
        return self._torn(at - SWAPPED, at + SWAPPED // 2) if is_doubtful else None

    def _torn(self, start: int, end: int) -> tuple[int, int]:
        """Each sample is told once."""
        span = max(start, self._told), end
        self._told = max(end, self._told)
        return span

    def _is_out_of_pace(self, came: _Came) -> bool:
        """Whether a packet of another source than the last one came so early or late that the network may
        have swapped them. A pause is longer."""
        last = self._packets[-1]
        early_s = last.duration_s - (came.arrival - last.arrival)
        return came.ssrc != last.ssrc and PACE * last.duration_s < abs(early_s) < PAUSE_S

    def _has_changed(self, now: float, at: int) -> bool:
        while self._packets[0].arrival < now - WINDOW_S:
            self._packets.popleft()
        self.sources = len({came.ssrc for came in self._packets})
        in_turns = self._look(now)
        if in_turns is None:
            return False
        self._clear_before, self._clear = self._clear, at
        return in_turns is not self.in_turns

    def _look(self, now: float) -> bool | None:
        """Whether they send in turns; None where it is not certain."""
        sent = self._sent()
        both = _by_source(sent)
        total, most = sum(both.values()) / WINDOW_S, max(both.values()) / WINDOW_S
        if total >= AT_ONCE:
            return False
        if most >= ALONE:
            return self.in_turns
        middle = now - WINDOW_S / 2
        halves = [one for one in sent if one.arrival <= middle], [one for one in sent if one.arrival > middle]
        are_several = all(_others(_by_source(half)) >= SOME * WINDOW_S / 2 for half in halves)
        return True if are_several and total >= ONCE[0] and _fullest(sent, now) <= ONCE[1] else None

    def _sent(self) -> list[_Came]:
        """What came, each for as long as it and what was lost before it last."""
        numbers = {came.sequence for came in self._packets}
        last: dict[int, int] = {}
        sent = []
        for came in self._packets:
            before = last.get(came.ssrc, came.sequence - 1)
            passed = signed16(came.sequence - before)
            missing = range(before + 1, before + passed) if passed <= FAR else ()
            count = 1 + sum(number & 0xFFFF not in numbers for number in missing)
            sent.append(_Came(came.ssrc, came.sequence, came.arrival, count * came.duration_s))
            last[came.ssrc] = came.sequence
        return sent


def _by_source(sent: list[_Came]) -> dict[int, float]:
    """How many seconds of each."""
    seconds: dict[int, float] = {}
    for came in sent:
        seconds[came.ssrc] = seconds.get(came.ssrc, 0.0) + came.duration_s
    return seconds


def _others(seconds: dict[int, float]) -> float:
    return sum(seconds.values()) - max(seconds.values(), default=0.0)


def _fullest(sent: list[_Came], now: float) -> float:
    """The most that came in any of the moments up to now, in seconds per second."""
    moments = [0.0] * round(WINDOW_S / MOMENT_S)
    for came in sent:
        moments[min(len(moments) - 1, int((now - came.arrival) / MOMENT_S))] += came.duration_s
    return max(moments) / MOMENT_S
