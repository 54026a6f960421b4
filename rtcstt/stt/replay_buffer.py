"""The audio of one track that the STT may have to receive (again): a bounded ring.

Audio goes in at the live edge and stays until the text of it is finished (`release`). A connection
reads at its own cursor, so the same ring is the send queue, the replay after a reconnect, and the
buffer while there is no connection at all.

When the ring is full, what goes first is audio that a live connection has been sent already; then
chunks in which nothing is said; speech nobody has received goes last, and is counted.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Samples
from rtcstt.stt.activity import SpeechActivity

# A pause keeps its first 0.7 s and its last 0.2 s when it is shortened, so that the STT still receives
# that a turn ended (`end_threshold` is reached after about 0.6 s) and no word loses its quiet onset.
_KEEP_AFTER_SPEECH = round(0.7 * SAMPLE_RATE)
_KEEP_BEFORE_SPEECH = round(0.2 * SAMPLE_RATE)
_DECIDED = _KEEP_BEFORE_SPEECH + round(0.05 * SAMPLE_RATE)


@dataclass(slots=True, eq=False)
class Piece:
    """A chunk in the ring; ``quiet`` once it is known that it lies deep in a pause, ``taken`` once a
    connection was sent it."""

    start: int
    samples: Samples
    quiet: bool = False
    taken: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


class ReplayBuffer:
    """``capacity_s`` bounds the audio held; positions are samples of the track, from ``begin`` on.

    Whatever leaves the ring is handed out by the method that removed it, so that it can be accounted for.
    """

    def __init__(self, activity: SpeechActivity, *, capacity_s: float, begin: int = 0) -> None:
        self._activity = activity
        self._capacity = round(capacity_s * SAMPLE_RATE)
        self._pieces: list[Piece] = []
        self._undecided = 0
        self.held = 0
        self.end = begin

    @property
    def begin(self) -> int:
        """The oldest sample held."""
        return self._pieces[0].start if self._pieces else self.end

    @property
    def taken(self) -> int:
        """Of the samples held, those that a connection was sent."""
        return sum(len(piece.samples) for piece in self._pieces if piece.taken)

    def append(self, chunk: Chunk) -> None:
        """At the live edge; `make_room` afterwards."""
        self._pieces.append(Piece(chunk.start, chunk.samples))
        self.held += len(chunk.samples)
        self.end = chunk.start + len(chunk.samples)

    def is_quiet(self, piece: Piece) -> bool:
        """Whether it is known that a piece of the ring lies deep in a pause."""
        if not self._undecided or piece.start > self._pieces[self._undecided - 1].start:
            self._decide()
        return piece.quiet

    def is_quiet_at_the_end(self, piece: Piece) -> bool:
        """The same when nothing will follow any more."""
        return piece.quiet or not self._activity.speech(
            piece.start - _KEEP_AFTER_SPEECH, piece.end + _KEEP_BEFORE_SPEECH
        )

    def _decide(self) -> None:
        position = self._activity.position
        while self._undecided < len(self._pieces):
            piece = self._pieces[self._undecided]
            if piece.end + _DECIDED > position:
                return
            piece.quiet = self._activity.quiet(
                piece.start - _KEEP_AFTER_SPEECH, piece.end + _KEEP_BEFORE_SPEECH
            )
            self._undecided += 1

    def next(self, cursor: int) -> Piece | None:
        """The piece that holds ``cursor``, or the first one behind it."""
        if cursor >= self.end:
            return None
        if self._pieces and self._pieces[-1].start <= cursor:  # all but who is behind
            return self._pieces[-1]
        index = bisect.bisect_right(self._pieces, cursor, key=lambda piece: piece.end)
        return self._pieces[index] if index < len(self._pieces) else None

    def samples(self, start: int, end: int) -> Samples:
        """What is held of the samples ``start`` to ``end``."""
        first = bisect.bisect_right(self._pieces, start, key=lambda piece: piece.end)
        held = [
            piece.samples[max(0, start - piece.start) : end - piece.start]
            for piece in takewhile(lambda piece: piece.start < end, self._pieces[first:])
        ]
        return np.concatenate(held) if held else np.zeros(0, np.int16)

    def release(self, position: int) -> Iterator[Piece]:
        """Forget the audio before ``position``, to the sample: its text is finished."""
        while self._pieces and self._pieces[0].end <= position:
            yield self._remove(0)
        if self._pieces and self._pieces[0].start < position:
            first = self._pieces[0]
            size = position - first.start
            before = Piece(first.start, first.samples[:size], first.quiet, first.taken)
            first.start, first.samples = position, first.samples[size:]
            self.held -= size
            yield before

    def make_room(self, sent: int) -> Iterator[Piece]:
        """Drop what does not fit. ``sent``: the live connection has been sent everything before it."""
        while self.held > self._capacity:
            index = 0
            if self._pieces[0].end > sent:
                index = next(self._quiet(sent), 0)
            yield self._remove(index)

    def _quiet(self, sent: int) -> Iterator[int]:
        self._decide()
        return (i for i, piece in enumerate(self._pieces) if piece.quiet and piece.start >= sent)

    def _remove(self, index: int) -> Piece:
        piece = self._pieces.pop(index)
        self.held -= len(piece.samples)
        if index < self._undecided:
            self._undecided -= 1
        return piece
