"""Events into captions and transcripts: WebVTT, SRT, JSON and plain text; a core.

The text is verbatim: what turns (or final transcripts) say, joined as it came. Captions are cues of at
most two lines of 42 characters. A turn too long for one cue is split between words, and its time is
shared out by characters. A turn that is still open gives cues as well, so captions grow while somebody
speaks.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcstt.feed import Event


LINE = 42  # characters
LINES = 2
SHORTEST_S = 0.5  # a cue is never shorter, where the next one leaves room


@dataclass(frozen=True, slots=True)
class Turn:
    """One stretch of speech. ``text`` is verbatim, its outer spaces included."""

    track: str
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


def turns(events: Iterable[Event]) -> list[Turn]:
    """The turns of a call in the order of their beginning, the open ones with their text so far."""
    found: dict[tuple[str, int], Turn] = {}
    for event in events:
        text = event.transcript
        if text is None or event.turn is None or event.track is None:
            continue
        is_final = event.type == "turn.end" or (
            event.type == "transcript" and event.fields.get("is_final") is True
        )
        start = event.start if event.start is not None else event.time
        end = event.end if event.end is not None else event.time
        found[event.track, event.turn] = Turn(event.track, event.turn, text, start, max(start, end), is_final)
    return sorted(found.values(), key=lambda turn: turn.start)


def text(events: Iterable[Event]) -> str:
    """The full transcript: one track verbatim; several as a line for each turn, with its speaker."""
    final = [turn for turn in turns(events) if turn.final]
    tracks = {turn.track for turn in final}
    if len(tracks) <= 1:
        return "".join(turn.text for turn in final)
    return "".join(f"{turn.track}: {turn.text.strip()}\n" for turn in final if turn.text.strip())


def transcript(events: Sequence[Event]) -> dict[str, Any]:
    """The call's text and turns, as `transcript.json` has them."""
    last = events[-1] if events else None
    return {
        "call": last.call if last else None,
        "complete": last is not None and last.type == "session.end",
        "text": text(events),
        "turns": [
            {
                "track": turn.track,
                "turn": turn.turn,
                "start": round(turn.start, 3),
                "end": round(turn.end, 3),
                "final": turn.final,
                "transcript": turn.text,
            }
            for turn in turns(events)
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


def cues(spoken: Sequence[Turn]) -> list[Cue]:
    found = [cue for turn in spoken for cue in _cues_of(turn)]
    return sorted(found, key=lambda cue: cue.start)


def _cues_of(turn: Turn) -> list[Cue]:
    lines = textwrap.wrap(turn.text, LINE, break_on_hyphens=False)
    groups = [lines[index : index + LINES] for index in range(0, len(lines), LINES)]
    letters = sum(len(line) for line in lines)
    found, said = [], 0
    length = max(turn.end - turn.start, SHORTEST_S)
    for group in groups:
        start = turn.start + length * said / letters
        said += sum(len(line) for line in group)
        end = turn.start + length * said / letters
        found.append(Cue(start, end, f"Speaker {turn.track}", tuple(group)))
    return found


def _stamp(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
