"""Words to transcripts: txt, json, srt, vtt."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rtcstt import captions
from rtcstt.batch.audio import CUE, Block
from rtcstt.batch.engines import NAME, Recognised, Word
from rtcstt.events import AnyEvent, TurnEnd
from rtcstt.media.pcm import SAMPLE_RATE

TURN_PAUSE_S = 1.0  # a longer silence between words begins another turn


# --- text out -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """What one channel said without a long pause. ``text`` is verbatim, its outer spaces included."""

    channel: int
    text: str
    start: float
    end: float
    words: Sequence[Word]


def turns_of(block: Block, heard: Recognised) -> list[Turn]:
    """Cuts what was heard at its long pauses; the turns' texts together are the whole text."""
    offset = block.start / SAMPLE_RATE
    words = [Word(w.word, round(w.start + offset, 3), round(w.end + offset, 3)) for w in heard.words]
    if not heard.text.strip():
        return []
    whole = Turn(block.channel, heard.text, offset, offset + len(block.samples) / SAMPLE_RATE, words)
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
        pieces.append(Turn(turn.channel, text, said[0].start, said[-1].end, said))
    return pieces


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


@dataclass(frozen=True, slots=True)
class Transcript:
    """``turns`` by the time they begin."""

    name: str
    duration_s: float
    channels: int
    turns: Sequence[Turn]

    def speaker(self, turn: Turn) -> str | None:
        return f"Speaker {turn.channel + 1}" if self.channels > 1 else None


def as_text(transcript: Transcript) -> str:
    """One channel: its text as it is. Several: a line for each turn."""
    if transcript.channels == 1:
        return "".join(turn.text for turn in transcript.turns).strip("\n") + "\n"
    return "".join(f"{transcript.speaker(turn)}: {turn.text.strip()}\n" for turn in transcript.turns)


def as_json(transcript: Transcript) -> str:
    turns = [
        {
            "speaker": transcript.speaker(turn),
            "start": turn.start,
            "end": turn.end,
            "transcript": turn.text,
            "words": [{"word": word.word, "start": word.start, "end": word.end} for word in turn.words],
        }
        for turn in transcript.turns
    ]
    whole = {"file": transcript.name, "duration": round(transcript.duration_s, 3), "turns": turns}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def as_events(transcript: Transcript) -> list[AnyEvent]:
    """What `captions` makes cues of: pieces short enough for one, so that each has the times of its words."""
    room = CUE - NAME if transcript.channels > 1 else CUE
    pieces = [piece for turn in transcript.turns for piece in cut(turn, _cue_starts(turn.words, room))]
    return [
        TurnEnd(
            seq=number,
            call=transcript.name,
            time=piece.end,
            track=str(piece.channel + 1),
            turn=number,
            start=piece.start,
            end=piece.end,
            transcript=piece.text,
        )
        for number, piece in enumerate(pieces)
    ]


def _cue_starts(words: Sequence[Word], room: int) -> list[int]:
    """Before which words another cue begins: where it would get too long, or has room and a sentence ends."""
    starts = []
    letters = 0
    for index, word in enumerate(words):
        size = len(word.word.strip()) + 1
        sentence_ended = index > 0 and words[index - 1].word.strip().endswith((".", "?", "!"))
        if letters + size > room or (letters > room / 2 and sentence_ended):
            starts.append(index)
            letters = 0
        letters += size
    return [start for start in starts if start > 0]


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_text,
    "json": as_json,
    "srt": lambda transcript: captions.srt(as_events(transcript)),
    "vtt": lambda transcript: captions.vtt(as_events(transcript)),
}
