"""What of a track is finished, and what has been published beyond it.

Plain data: with the audio from the floor on it is all that another connection, or another server, needs to go
on with the track. `Progress.as_dict` and `Progress.from_dict` carry it there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypedDict, cast

from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.alignment import TranscriptAligner, words

TEXT_LAG = 4 * SAMPLE_RATE  # text is published at most so long after its audio was sent
USUAL_TEXT_LAG = 2 * SAMPLE_RATE  # and nearly always so long


@dataclass(slots=True)
class Turn:
    """A turn as the listener has it; positions are samples of the track."""

    index: int
    start: int
    end: int
    text: str = ""
    eager_ended: bool = False
    known: int = 0  # the connection had been sent so much when it last spoke of the turn
    resumed: int = 0  # where its speech had ended when it was last resumed: it ends later than that


@dataclass(slots=True)
class Reference:
    """Text published from the audio behind the floor, and when which part of it was published."""

    text: str = ""
    marks: list[tuple[int, int]] = field(default_factory=list)  # (length of the text, cursor)
    optional: int = 0  # so many words at its beginning may have been spoken before the floor

    def add(self, text: str, cursor: int) -> None:
        if text:
            self.text += text
            self.marks.append((len(self.text), cursor))

    @property
    def position(self) -> int:
        """All its words were spoken before this sample; 0 when it is empty."""
        return self.marks[-1][1] if self.marks else 0

    def words_until(self, position: int) -> int:
        """How many of its words were published when a connection had been sent up to ``position``."""
        length = max((size for size, cursor in self.marks if cursor <= position), default=0)
        return len(words(self.text[:length]))

    def forget(self, position: int) -> None:
        """Drop what was published before ``position``: its audio is gone."""
        gone = max((size for size, cursor in self.marks if cursor <= position), default=0)
        self.optional = max(0, self.optional - len(words(self.text[:gone])))
        self.text = self.text[gone:]
        self.marks = [(size - gone, cursor) for size, cursor in self.marks if size > gone]


@dataclass(slots=True)
class Floor:
    """The sample up to which the text is finished, and the text published from the audio behind it."""

    position: int = 0
    reference: Reference = field(default_factory=Reference)

    def finish(self, position: int) -> None:
        """All text up to ``position`` is finished."""
        self.advance(position)
        self.reference = Reference()

    def advance(self, position: int) -> None:
        self.position = max(self.position, position)

    def begin_turn_again(self, position: int, text: str, cursor: int, optional: int) -> None:
        """A turn ended, and nobody knows exactly where: its text may be repeated from ``position`` on."""
        self.reference = Reference(text, [(len(text), cursor)] if text else [], optional)
        self.advance(position)

    def aligner(self, start: int) -> TranscriptAligner | None:
        """For a connection whose audio begins at ``start``; None where it has nothing to repeat."""
        if not words(self.reference.text):
            return None
        first, last = 0, self.reference.optional
        if start > self.position:
            first = self.reference.words_until(start)
            last = max(last, self.reference.words_until(start + TEXT_LAG))
        return TranscriptAligner(self.reference.text, first=first, last=last)

    @property
    def settled(self) -> int:
        """What was said before it has its text, finished or published; a little may have text beyond it."""
        return max(self.position, self.reference.position - USUAL_TEXT_LAG)


class TurnState(TypedDict):
    """The fields of a `Turn`."""

    index: int
    start: int
    end: int
    text: str
    eager_ended: bool
    known: int
    resumed: int


class ReferenceState(TypedDict):
    """The fields of a `Reference`."""

    text: str
    marks: list[tuple[int, int]]
    optional: int


class FloorState(TypedDict):
    """The fields of a `Floor`."""

    position: int
    reference: ReferenceState


class ProgressState(TypedDict):
    """The fields of a `Progress`."""

    floor: FloorState
    turn: TurnState | None
    turns: int
    last_text: str
    last_end: int
    flushes: list[int]


@dataclass(slots=True)
class Progress:
    """How far a track's transcription has come, and what the listener was told last."""

    floor: Floor = field(default_factory=Floor)
    turn: Turn | None = None  # the listener's open one
    turns: int = 0  # begun so far
    last_text: str = ""  # of the turn that ended last
    last_end: int = 0
    flushes: list[int] = field(default_factory=list)  # positions of unanswered finalizes, oldest first

    @property
    def waits(self) -> bool:
        """Whether a turn is open, or a `finalize` has no answer."""
        return self.turn is not None or bool(self.flushes)

    def as_dict(self) -> ProgressState:
        """For JSON."""
        return cast(ProgressState, dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: ProgressState) -> Progress:
        """The same again from JSON. ``values`` were made by `as_dict`."""
        floor, turn = values["floor"], values["turn"]
        reference = Reference(**floor["reference"])
        reference.marks = [(size, cursor) for size, cursor in reference.marks]
        return cls(
            floor=Floor(floor["position"], reference),
            turn=Turn(**turn) if turn is not None else None,
            turns=values["turns"],
            last_text=values["last_text"],
            last_end=values["last_end"],
            flushes=values["flushes"],
        )
