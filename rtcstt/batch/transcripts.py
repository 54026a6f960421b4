"""A recording's transcript: turns of words with their times, and what is missing; a core."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rtcstt.batch.audio import Block
from rtcstt.batch.words import Recognised, Word
from rtcstt.media.tracks import Gap

TURN_PAUSE_S = 1.0  # a longer silence between words begins another turn


@dataclass(frozen=True, slots=True)
class Turn:
    """What one channel said without a long pause. ``text`` is verbatim, its outer spaces included. Times are
    in s. ``speaker``: where there are several."""

    channel: int
    text: str
    start: float
    end: float
    words: Sequence[Word]
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Transcription:
    """A recording's transcript. ``turns`` by the time they begin; ``gaps``: stretches whose audio was lost.
    ``version``: rtcstt's; ``notes``: what a user should know of how the recording was read."""

    name: str
    language: str | None
    model: str
    version: str
    duration: float
    channels: int
    turns: Sequence[Turn]
    gaps: Sequence[Gap] = ()
    notes: Sequence[str] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        """All that was said: one channel's verbatim; of several, a line for each turn with its speaker."""
        if self.channels == 1:
            return "".join(turn.text for turn in self.turns).strip()
        return "\n".join(f"{turn.speaker}: {turn.text.strip()}" for turn in self.turns)

    @property
    def words(self) -> list[Word]:
        return [word for turn in self.turns for word in turn.words]

    @property
    def complete(self) -> bool:
        """Whether no audio was lost."""
        return not self.gaps

    def shifted(self, offset: float) -> Transcription:
        """With all times later by so many seconds."""
        if not offset:
            return self
        gaps = [Gap(gap.start + offset, gap.end + offset, gap.reason) for gap in self.gaps]
        return replace(self, turns=[_later(turn, offset) for turn in self.turns], gaps=gaps)

    def as_dict(self) -> dict[str, object]:
        """As `docs/transcript.schema.json` has it."""
        turns = [
            {
                "speaker": turn.speaker,
                "channel": turn.channel,
                "start": round(turn.start, 3),
                "end": round(turn.end, 3),
                "transcript": turn.text,
                "words": [asdict(word) for word in turn.words],
            }
            for turn in self.turns
        ]
        return {
            "file": self.name,
            "text": self.text,
            "language": self.language,
            "model": self.model,
            "version": self.version,
            "duration": round(self.duration, 3),
            "channels": self.channels,
            "complete": self.complete,
            "gaps": [asdict(gap) for gap in self.gaps],
            "notes": list(self.notes),
            "turns": turns,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Transcription:
        """The inverse of `as_dict`. `KeyError` or `TypeError` for anything else."""
        whole: Mapping[str, Any] = values
        turns = [
            Turn(
                turn["channel"],
                turn["transcript"],
                turn["start"],
                turn["end"],
                [Word(**word) for word in turn["words"]],
                turn["speaker"],
            )
            for turn in whole["turns"]
        ]
        names = ("language", "model", "version", "duration", "channels")
        return cls(
            name=whole["file"],
            turns=turns,
            gaps=[Gap(**gap) for gap in whole["gaps"]],
            notes=tuple(whole["notes"]),
            **{name: whole[name] for name in names},
        )


def _later(turn: Turn, offset: float) -> Turn:
    words = [
        replace(word, start=round(word.start + offset, 3), end=round(word.end + offset, 3))
        for word in turn.words
    ]
    return replace(turn, start=round(turn.start + offset, 3), end=round(turn.end + offset, 3), words=words)


def turns_of(block: Block, found: Recognised, speaker: str | None = None) -> list[Turn]:
    """Cuts what was recognised at its long pauses; the turns' texts together are the whole text."""
    if not found.text.strip():
        return []
    whole = Turn(block.channel, found.text, 0.0, block.end_s - block.start_s, found.words, speaker)
    words = _later(whole, block.start_s).words
    whole = replace(whole, start=block.start_s, end=block.end_s, words=words)
    return cut(whole, [n for n in range(1, len(words)) if words[n].start - words[n - 1].end > TURN_PAUSE_S])


def cut(turn: Turn, firsts: Sequence[int]) -> list[Turn]:
    """A turn in pieces, each beginning with a word of these indices; whole where its words cannot be
    found in its text. The pieces' texts together are the turn's."""
    places = _places(turn.text, turn.words)
    if not places:
        return [turn]
    bounds = [0, *(places[first] for first in firsts), len(turn.text)]
    pieces = []
    for index, (first, last) in enumerate(itertools.pairwise([0, *firsts, len(places)])):
        said = turn.words[first:last]
        text = turn.text[bounds[index] : bounds[index + 1]]
        pieces.append(replace(turn, text=text, start=said[0].start, end=said[-1].end, words=said))
    return pieces


def sentences(turn: Turn) -> list[Turn]:
    """A turn in its sentences, as far as its words can be found in its text."""
    words = turn.words
    return cut(
        turn, [n for n in range(1, len(words)) if words[n - 1].word.rstrip().endswith((".", "?", "!"))]
    )


def _places(text: str, words: Sequence[Word]) -> list[int]:
    """Where each word begins in the text; nothing when they do not match."""
    places = []
    at = 0
    for word in words:
        bare = word.word.strip()
        at = text.find(bare, at)
        if at < 0:
            return []
        places.append(at)
        at += len(bare)
    return places


def join(turns: list[Turn], more: list[Turn]) -> None:
    """Adds a block's turns. Each block was a request of its own, so the space between two is ours to put."""
    if more and any(turn.channel == more[0].channel for turn in turns) and not more[0].text[:1].isspace():
        more[0] = replace(more[0], text=" " + more[0].text)
    turns += more
