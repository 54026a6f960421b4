"""What one connection has been sent of a track, and what it is to be sent next."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rtcstt import wire
from rtcstt.events import SttBehind, SttCaughtUp
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.activity import FRAME, SpeechActivity, has_voice
from rtcstt.stt.replay_buffer import Piece, ReplayBuffer

_BURST_S = 0.25  # audio that may go out at once before the pace binds
_BEHIND = SAMPLE_RATE // 20  # a word that ends with its vowel is looked at to its very end
_LOOKED_AT = SAMPLE_RATE  # of energy without words, for a voice: it takes time
_UNANSWERED = SAMPLE_RATE // 8  # so much is a click, of which an STT has nothing to say; no word is shorter
_LAG_TO_SKIP = SAMPLE_RATE // 2  # pauses are shortened only while at least this much is unsent


@dataclass(slots=True)
class Sending:
    """One connection's place in the ring: it reads at its own cursor, never faster than ``catch_up`` times
    real time, and may pass over pauses to win back time.

    Its sample 0 is a known sample of the track, and where it passed over a pause that is written down, so
    every moment of it is a moment of the track. ``cursor`` is the next sample of the track to send."""

    client: wire.TurnsClient | wire.ManualClient
    cursor: int
    catch_up: float
    due: float
    answered: int = 0  # cursor when the STT last said something
    reached: int = 0  # how far the STT had come when it last said something, as it says; else the cursor
    trusted_until: int = 0  # cursor up to which it cannot have stalled
    sent: int = 0
    skipped: int = 0
    closing: bool = False
    flushes: deque[float] = field(default_factory=deque)  # when `finalize` was sent, unanswered ones
    _jumps: list[tuple[int, int]] = field(default_factory=list)  # (sample of the connection, of the track)

    def __post_init__(self) -> None:
        self._jumps.append((0, self.cursor))
        self.answered = self.reached = self.cursor

    def note_answer(self, position_s: float | None) -> None:
        """The STT said something, of its first ``position_s`` of audio where it says so."""
        self.answered = self.trusted_until = self.reached = self.cursor
        if position_s is not None:
            self.reached = min(self.cursor, self.track_sample(round(position_s * SAMPLE_RATE)))

    def track_sample(self, sample: int) -> int:
        """The sample of the track that was this connection's ``sample``."""
        base = self._jumps[max(0, bisect_right(self._jumps, sample, key=_first) - 1)]
        return base[1] + sample - base[0]

    def next_piece(self, buffer: ReplayBuffer, now: float, may_skip: Callable[[int], bool]) -> Piece | None:
        """The audio that may go out now; it counts as sent. ``may_skip`` tells whether a pause may be passed
        over where the cursor stands."""
        if now < self.due - _BURST_S:
            return None
        piece = buffer.next(self.cursor)
        while (
            piece
            and buffer.end - self.cursor > _LAG_TO_SKIP
            and buffer.is_quiet(piece)
            and may_skip(self.cursor)
        ):
            self.skipped += piece.end - max(piece.start, self.cursor)
            self.cursor = piece.end
            piece = buffer.next(self.cursor)
        if piece is None:
            return None
        if self.track_sample(self.sent) != piece.start:
            self._jumps.append((self.sent, piece.start))
        self.sent += len(piece.samples)
        self.cursor = piece.end
        self.due = max(self.due, now) + len(piece.samples) / SAMPLE_RATE / self.catch_up
        return piece

    def next_send(self, end: int) -> float | None:
        """When there will be more to send of a track that reaches to ``end``; None: when more comes in."""
        return None if self.closing or self.cursor >= end else self.due - _BURST_S

    def due_flushes(self, positions: list[int], now: float) -> list[str]:
        """`finalize` for those ``positions`` that have been reached."""
        data = []
        while len(self.flushes) < len(positions) and positions[len(self.flushes)] <= self.cursor:
            data.append(self.client.send(wire.Finalize()))
            self.flushes.append(now)
        return data

    def has_answered(self, activity: SpeechActivity, buffer: ReplayBuffer, since: int) -> bool:
        """Whether the STT, before it closed, said all that was due of the audio from ``since`` on. Nothing is
        due of a second of noise without a voice; of more, words may be."""
        if isinstance(self.client, wire.ManualClient):
            if self.client.done:
                return True
        else:
            since = max(since, self.answered)
        loud = unanswered = 0
        for stretch in activity.stretches(since):
            start, end = max(since, stretch.start), min(self.cursor, stretch.end)
            loud += max(0, end - start)
            if start < end and (loud > _LOOKED_AT or has_voice(buffer.samples(start - FRAME, end + _BEHIND))):
                unanswered += end - start
        return unanswered <= _UNANSWERED

    def is_stalled(self, activity: SpeechActivity, now: float, patience_s: float) -> bool:
        """Whether the STT was sent more than ``patience_s`` of speech since its last message; manual: a
        `finalize` is older."""
        if isinstance(self.client, wire.ManualClient):
            return bool(self.flushes) and now - self.flushes[0] > patience_s
        if self.cursor <= self.trusted_until:
            return False
        patience = round(patience_s * SAMPLE_RATE)
        unanswered = activity.speech(self.answered, self.cursor)
        self.trusted_until = self.cursor + patience - unanswered  # there cannot be more before
        return unanswered > patience


def _first(jump: tuple[int, int]) -> int:
    return jump[0]


class LagWatch:
    """Says when the STT is behind: at ``threshold_s``, again each time the lag has doubled, and when it is
    over."""

    def __init__(self, track: str, *, threshold_s: float = 2.0) -> None:
        self._track = track
        self._threshold_s = threshold_s
        self._said = 0.0

    def note(self, lag_s: float) -> SttBehind | SttCaughtUp | None:
        """What is to be said now."""
        if lag_s > max(self._threshold_s, 2 * self._said):
            self._said = lag_s
            return SttBehind(track=self._track, lag=round(lag_s, 3))
        if self._said and lag_s < self._threshold_s / 2:
            self._said = 0.0
            return SttCaughtUp(track=self._track)
        return None
