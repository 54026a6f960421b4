"""Events into captions and transcripts: WebVTT, SRT, JSON and plain text; a core.

The text is verbatim: what turns (or final transcripts) say, joined as it came. Captions are cues of at
most two lines of 42 characters and, as spoken, seven seconds; a turn too long for one cue is split
between words, after a sentence where one ends, and its time is shared out by characters. A cue stays
until it can be read, unless the same speaker's next one begins. A turn that is still open gives cues
as well, so captions grow while somebody speaks.
"""

from __future__ import annotations

import html
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcstt.feed import Event

LINE = 42  # characters
LINES = 2
LONGEST_S = 7.0  # of speech in one cue, so that no word is shown long before it is said
SHORTEST_S = 0.8
READ_PER_S = 20.0  # characters that can be read in a second


@dataclass(frozen=True, slots=True)
class Turn:
    """One stretch of speech. ``text`` is verbatim, its outer spaces included."""

    track: str
    speaker: str
    turn: int
    text: str
    start: float
    end: float
    final: bool


@dataclass(frozen=True, slots=True)
class Cue:
    start: float
    end: float
    speaker: str
    lines: tuple[str, ...]

    @property
    def letters(self) -> int:
        return sum(map(len, self.lines))


def turns(events: Iterable[Event]) -> list[Turn]:
    """The turns of a call in the order of their beginning, the open ones with their text so far."""
    found: dict[tuple[str, int], Turn] = {}
    speakers: dict[str, str] = {}
    for event in events:
        if event.type == "track.start" and event.track is not None:
            speakers[event.track] = f"Speaker {len(speakers) + 1}"
        text = event.transcript
        if text is None or event.turn is None or event.track is None:
            continue
        is_final = event.type == "turn.end" or (
            event.type == "transcript" and event.fields.get("is_final") is True
        )
        start = event.start if event.start is not None else event.time
        end = event.end if event.end is not None else event.time
        found[event.track, event.turn] = Turn(
            track=event.track,
            speaker=speakers.get(event.track, f"Speaker {event.track}"),
            turn=event.turn,
            text=text,
            start=start,
            end=max(start, end),
            final=is_final,
        )
    return sorted(found.values(), key=lambda turn: turn.start)


def text(events: Iterable[Event]) -> str:
    """The full transcript: one track verbatim; several as a line for each turn, with its speaker."""
    return _joined(turns(events))


def _joined(spoken: Sequence[Turn]) -> str:
    final = [turn for turn in spoken if turn.final]
    if len({turn.track for turn in final}) <= 1:
        return "".join(turn.text for turn in final)
    return "".join(f"{turn.speaker}: {turn.text.strip()}\n" for turn in final if turn.text.strip())


def transcript(events: Sequence[Event]) -> dict[str, Any]:
    """The call's text and turns, as `transcript.json` has them."""
    last = events[-1] if events else None
    spoken = turns(events)
    tracks = dict.fromkeys(turn.track for turn in spoken)
    return {
        "call": last.call if last else None,
        "complete": last is not None and last.type == "session.end",
        "text": _joined(spoken),
        "tracks": {track: _joined([turn for turn in spoken if turn.track == track]) for track in tracks},
        "turns": [
            {
                "track": turn.track,
                "speaker": turn.speaker,
                "turn": turn.turn,
                "start": round(turn.start, 3),
                "end": round(turn.end, 3),
                "final": turn.final,
                "transcript": turn.text,
            }
            for turn in spoken
        ],
    }


def vtt(events: Iterable[Event]) -> str:
    """WebVTT, with the speaker of each cue."""
    blocks = ["WEBVTT"]
    for cue in cues(turns(events)):
        spoken = html.escape("\n".join(cue.lines), quote=False)
        voice = html.escape(cue.speaker, quote=False)
        blocks.append(f"{_stamp(cue.start, '.')} --> {_stamp(cue.end, '.')}\n<v {voice}>{spoken}")
    return "\n\n".join(blocks) + "\n"


def srt(events: Iterable[Event]) -> str:
    """SubRip; it knows no speakers."""
    blocks = [
        f"{number}\n{_stamp(cue.start, ',')} --> {_stamp(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(turns(events)), 1)
    ]
    return "\n".join(blocks)


def transcript_json(events: Sequence[Event]) -> str:
    return json.dumps(transcript(events), ensure_ascii=False)


RENDERERS: Mapping[str, Callable[[Sequence[Event]], str]] = {
    "captions.vtt": vtt,
    "captions.srt": srt,
    "transcript.txt": text,
    "transcript.json": transcript_json,
}


def cues(spoken: Iterable[Turn]) -> list[Cue]:
    """In the order of their beginning; those of one track never overlap."""
    tracks: dict[str, list[Cue]] = {}
    for turn in spoken:
        tracks.setdefault(turn.track, []).extend(_cues_of(turn))
    found = [cue for track in tracks.values() for cue in _readable(track)]
    return sorted(found, key=lambda cue: cue.start)


def _readable(track: list[Cue]) -> Iterator[Cue]:
    """Each cue stays for as long as it takes to read, or until the next one begins."""
    for index, cue in enumerate(track):
        next_start = track[index + 1].start if index + 1 < len(track) else math.inf
        wanted = cue.start + max(SHORTEST_S, cue.letters / READ_PER_S)
        yield replace(cue, end=max(cue.start, min(next_start, max(cue.end, wanted))))


def _cues_of(turn: Turn) -> Iterator[Cue]:
    words = _words(turn.text)
    letters = sum(map(len, words))
    pace_s = (turn.end - turn.start) / letters if letters else 0.0
    start = turn.start
    for group in _groups(words, LONGEST_S / pace_s if pace_s else math.inf):
        end = start + pace_s * sum(map(len, group))
        yield Cue(start, end, turn.speaker, tuple(_lines(group)))
        start = end


def _words(text: str) -> list[str]:
    """Cut where they are too long for a line; without characters that no parser wants."""
    shown = "".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc")
    return [word[begin : begin + LINE] for word in shown.split() for begin in range(0, len(word), LINE)]


def _groups(words: Sequence[str], most_letters: float) -> Iterator[list[str]]:
    """Words for one cue each: as many as its lines hold and its time allows, or to the end of a sentence."""
    group: list[str] = []
    for word in words:
        letters = sum(map(len, group))
        sentence_ended = letters > LINE and group[-1].endswith((".", "?", "!", "\u2026"))
        too_many = len(_lines([*group, word])) > LINES or letters + len(word) > most_letters
        if group and (sentence_ended or too_many):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _lines(words: Sequence[str]) -> list[str]:
    lines = [""]
    for word in words:
        if not lines[-1]:
            lines[-1] = word
        elif len(lines[-1]) + 1 + len(word) <= LINE:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _stamp(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
