"""What became of every sample that a track's STT was to get.

A sample is *taken* once a connection was sent it, on whichever connection first; what none took is
*discarded* with a reason. Apart from that sum, a stretch that may have held speech and will have no text is a
*gap*; taken samples in a gap are *unanswered*.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypedDict

from rtcstt.media.pcm import SAMPLE_RATE, Chunk
from rtcstt.stt.activity import SpeechActivity
from rtcstt.stt.floor import Floor
from rtcstt.stt.replay_buffer import Piece, ReplayBuffer
from rtcstt.stt.speech_times import LOOK_BACK

_SAID_AT = 10 * SAMPLE_RATE  # a gap that grows is said in parts of this length
_SAID_AFTER = 2 * SAMPLE_RATE  # and when it has not grown for so long
_SILENCE_KEPT = 2 * SAMPLE_RATE  # however sure the energy track is that nothing was said
_LOOK_EVERY = 3 * SAMPLE_RATE  # for silence to forget
_CLEAR_AFTER = 3 * SAMPLE_RATE
_GIVEN_UP_KEPT = SAMPLE_RATE  # audio that nobody will get is kept so long, to know what of it was silence


@dataclass(slots=True)
class Loss:
    """Samples ``start`` to ``end`` of the track, and why they have no text (a `GapReason`)."""

    start: int
    end: int
    reason: str


class AccountState(TypedDict):
    """The counts of an `Account`."""

    taken: int
    unanswered: int
    missing: int
    discarded: dict[str, int]


class AudioState(TypedDict):
    """Of an `AccountedAudio`, in samples: where its ring began, how much it held, how much of that a
    connection had been sent, and up to where the text was settled."""

    account: AccountState
    begin: int
    held: int
    taken: int
    settled: int


@dataclass(slots=True)
class Account:
    """Counts in samples. ``due`` hands out the gaps, each once, as few and long as their news allows."""

    taken: int = 0
    discarded: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    missing: int = 0
    _growing: Loss | None = None
    _asked: int = 0  # `missing` when `take_missing` was last asked
    _grown: tuple[int, int] = (0, 0)  # up to where, and where the audio was then
    _due: list[Loss] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        """A connection was sent the piece."""
        if not piece.taken:
            piece.taken = True
            self.taken += len(piece.samples)

    def leave(self, piece: Piece, reason: str) -> None:
        """The piece is no longer held; ``reason`` counts where no connection was sent it."""
        if not piece.taken:
            self.discard(len(piece.samples), reason)

    def discard(self, count: int, reason: str) -> None:
        self.discarded[reason] = self.discarded.get(reason, 0) + count

    def lose(self, start: int, end: int, reason: str, *, taken: bool) -> None:
        """The audio from ``start`` to ``end`` will have no text."""
        if end <= start:
            return
        self.missing += end - start
        self.unanswered += (end - start) if taken else 0
        last = self._growing
        if last is not None and last.end == start and last.reason == reason:
            last.end = end
        else:
            self._put_by()
            self._growing = Loss(start, end, reason)

    def take_missing(self) -> int:
        """How much is missing since this was last asked."""
        news, self._asked = self.missing - self._asked, self.missing
        return news

    def due(self, position: int, *, everything: bool = False) -> list[Loss]:
        """The gaps to be said when the audio has come to ``position``."""
        last = self._growing
        if last is not None:
            if last.end != self._grown[0]:
                self._grown = last.end, position
            is_over = position - self._grown[1] >= _SAID_AFTER
            if everything or is_over or last.end - last.start >= _SAID_AT:
                self._put_by()
        due, self._due = self._due, []
        return due

    def _put_by(self) -> None:
        if self._growing is not None:
            self._due.append(self._growing)
            self._growing = None

    def as_dict(self) -> AccountState:
        """The counts, for another server (gaps have been said)."""
        return {
            "taken": self.taken,
            "unanswered": self.unanswered,
            "missing": self.missing,
            "discarded": dict(self.discarded),
        }


class AccountedAudio:
    """The ring of a track and the account of what leaves it."""

    def __init__(
        self, buffer: ReplayBuffer, floor: Floor, account: Account, activity: SpeechActivity
    ) -> None:
        self.buffer, self.account = buffer, account
        self.replayed = 0
        "Samples that were sent more than once."
        self._floor, self._activity = floor, activity
        self._furthest = 0
        self._begin = self._lacking = 0  # where a restored ring began, and what of it has not been fed again
        self._looked = 0  # cursor when `follow_silence` last looked
        self._evicted = _Stretches()  # of audio that was sent, and left the ring before it had its text
        self.given_up = False

    def append(self, chunk: Chunk, sent: int) -> bool:
        """The next audio. ``sent``: the living connection has been sent everything before it. Whether audio
        was lost for want of room."""
        self.buffer.append(chunk)
        if self.given_up:
            return self._lose(self.buffer.release(self.buffer.end - _GIVEN_UP_KEPT), 0, "stt")
        return self._lose(self.buffer.make_room(sent), sent, "stt")

    def state(self) -> AudioState:
        """What `restore` wants, for JSON."""
        return {
            "account": self.account.as_dict(),
            "begin": self.buffer.begin,
            "held": self.buffer.held,
            "taken": self.buffer.taken,
            "settled": self._floor.settled,
        }

    def restore(self, state: AudioState) -> None:
        """Go on from what `state` gave on another server: what was held there is fed again, and taken
        again."""
        self._begin, self._lacking = state["begin"], state["held"]
        self.account.taken -= state["taken"]

    def replayable(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Of the audio that was kept, what was held. What was held and was not kept is discarded."""
        for chunk in chunks:
            samples = chunk.samples[max(0, self._begin - chunk.start) :]
            if len(samples):
                self._lacking -= len(samples)
                yield Chunk(samples, max(self._begin, chunk.start))
        if self._lacking > 0:
            self.account.discard(self._lacking, "server")

    def take(self, piece: Piece) -> bytes:
        """The piece as a connection gets it."""
        self.account.take(piece)
        self.replayed += max(0, min(self._furthest, piece.end) - piece.start)
        self._furthest = max(self._furthest, piece.end)
        return piece.samples.astype("<i2", copy=False).tobytes()

    def follow_silence(self, cursor: int, turns: bool, *, at_once: bool = False) -> None:
        """Between turns the floor follows the connection's ``cursor``, well behind, as long as nothing is
        said. ``at_once``: not only now and then."""
        if cursor < self._looked + _LOOK_EVERY and not at_once:
            return
        self._looked = cursor
        reference = self._floor.reference
        if reference.text:  # it ended, but nobody knew exactly where; after a while that is clear
            since = reference.position
            quiet = self._activity.last_speech(cursor) <= since < cursor - _CLEAR_AFTER
            if quiet and turns:
                self._floor.finish(since)
            return
        first = next(self._activity.stretches(self._floor.position), None)
        quiet_until = first.start - LOOK_BACK if first else cursor
        self._floor.advance(min(quiet_until, cursor - _SILENCE_KEPT))

    def release(self) -> None:
        """Let go of the audio below the floor: it has its text, or was passed over as a pause."""
        for piece in self.buffer.release(self._floor.position):
            self.account.leave(piece, "silence")

    def lose_evicted(self, reason: str = "stt") -> None:
        """The connection that could have answered what it was sent is gone."""
        for start, end, taken in self._evicted.take_after(self._floor.settled):
            self.account.lose(start, end, reason, taken=taken)

    def give_up(self) -> None:
        """There will be no connection any more: what has no text gets none, nor does what still comes."""
        self.given_up = True
        self.lose_evicted()
        self._lose(self.buffer.release(self.buffer.end - _GIVEN_UP_KEPT), 0, "stt")

    def end(self, reason: str | None) -> None:
        """Nothing more comes. What is left has been answered or, with a ``reason``, will not be."""
        if reason is None:
            self._floor.finish(self.buffer.end)
            self.release()
        else:
            self.given_up = True
            self.lose_evicted(reason)
            self._lose(self.buffer.release(self.buffer.end), 0, reason)

    def _lose(self, pieces: Iterable[Piece], sent: int, reason: str) -> bool:
        """Audio that leaves the ring before it has its text; whether any of it is lost already."""
        lost = False
        for piece in pieces:
            quiet = self.buffer.is_quiet_at_the_end(piece) if self.given_up else piece.quiet
            self.account.leave(piece, "silence" if quiet and not self.given_up else reason)
            if quiet or piece.end <= self._floor.settled:
                continue
            if piece.end <= sent:
                self._evicted.add(piece)  # it may still be answered
            else:
                self._lose_piece(piece, reason)
                lost = True
        self._evicted.forget(self._floor.settled)
        return lost

    def _lose_piece(self, piece: Piece, reason: str) -> None:
        start = max(piece.start, self._floor.settled)
        self.account.lose(start, piece.end, reason, taken=piece.taken)


class _Stretches:
    """Where pieces were, in their order: those that follow each other are one stretch. Their audio is not
    kept."""

    def __init__(self) -> None:
        self._stretches: deque[tuple[int, int, bool]] = deque()  # from where to where, and whether taken

    def add(self, piece: Piece) -> None:
        start = piece.start
        if self._stretches and self._stretches[-1][1:] == (start, piece.taken):
            start = self._stretches.pop()[0]
        self._stretches.append((start, piece.end, piece.taken))

    def forget(self, position: int) -> None:
        """What ends before it."""
        while self._stretches and self._stretches[0][1] <= position:
            self._stretches.popleft()

    def take_after(self, position: int) -> Iterator[tuple[int, int, bool]]:
        """What is after it."""
        stretches, self._stretches = self._stretches, deque()
        for start, end, taken in stretches:
            yield max(start, position), end, taken
