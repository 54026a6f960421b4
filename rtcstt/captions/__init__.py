"""Events into captions and transcripts: WebVTT, SRT, JSON and plain text; a core.

The text is verbatim: what turns (or final transcripts) say, joined as it came. Captions are cues of at
most two lines of 42 characters and, as spoken, seven seconds; a turn too long for one cue is split
between words, after a sentence where one ends. When its words were said is known from when they
were published, less how late this recogniser usually is; between those moments time is shared out by
characters. A cue stays until it can be read, unless the same speaker's next one begins. A turn that
is still open gives cues as well, so captions grow while somebody speaks.

Where audio that may have held speech has no text for a second or more (`transcript.gap`), captions and
plain text say so: ``[1.2 s not heard]``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

from rtcstt.captions.cutting import (
    CLAUSE_ENDS,
    LINE,
    LINES,
    LONGEST_S,
    READ_PER_S,
    SHORTEST_S,
    USUAL,
    Cue,
    Layout,
    Mark,
    Turn,
    columns,
    cues,
    letters_of,
)
from rtcstt.events import (
    AnyEvent,
    Gap,
    SessionEnd,
    TrackNamed,
    TrackStart,
    Transcript,
    TranscriptGap,
    TurnEagerEnd,
    TurnEnd,
    TurnUpdate,
    merged,
)

__all__ = [
    "CLAUSE_ENDS",
    "Cue",
    "LINE",
    "LINES",
    "LONGEST_S",
    "Layout",
    "Mark",
    "READ_PER_S",
    "RENDERERS",
    "SHORTEST_S",
    "SHOWN_GAP_S",
    "Turn",
    "TurnEntry",
    "USUAL",
    "WholeTranscript",
    "columns",
    "cues",
    "gap_mark",
    "gaps",
    "srt",
    "stamp",
    "subrip",
    "text",
    "transcript",
    "transcript_json",
    "turns",
    "vtt",
    "webvtt",
    "with_gaps",
]

SHOWN_GAP_S = 1.0  # shorter ones are in `transcript.json` alone


class _Speakers(dict[str, str]):
    """The names of the tracks: those that were given last, else by the order in which they began."""

    def __init__(self, events: Sequence[AnyEvent]) -> None:
        super().__init__()
        for event in events:
            if isinstance(event, TrackStart):
                self[event.track] = f"Speaker {len(self) + 1}"
        numbered = self.copy()
        for event in events:
            if isinstance(event, TrackNamed):
                self[event.track] = event.speaker or numbered.get(event.track, f"Speaker {event.track}")

    def __missing__(self, track: str) -> str:
        return f"Speaker {track}"


def turns(events: Sequence[AnyEvent]) -> list[Turn]:
    """The turns of a call in the order of their beginning, the open ones with their text so far."""
    found: dict[tuple[str, int], _Growing] = {}
    speakers = _Speakers(events)
    for event in events:
        if isinstance(event, TurnUpdate | TurnEagerEnd | TurnEnd | Transcript):
            found.setdefault((event.track, event.turn), _Growing()).add(event)
    grown = [growing.turn(speakers) for growing in found.values()]
    return sorted(grown, key=lambda turn: turn.start)


class _Growing:
    """A turn as its events come; each costs as much as it adds."""

    def __init__(self) -> None:
        self._last: TurnUpdate | TurnEagerEnd | TurnEnd | Transcript | None = None
        self._text, self._letters = "", 0
        self._complete: list[Mark] = []
        self._published: list[Mark] = []

    def add(self, event: TurnUpdate | TurnEagerEnd | TurnEnd | Transcript) -> None:
        self._last = event
        if not isinstance(event, TurnUpdate | TurnEagerEnd):
            return
        known = event.transcript.startswith(self._text)
        before = self._letters if known else 0
        self._letters = before + letters_of(event.transcript[len(self._text) if known else 0 :])
        self._text = event.transcript
        marks = self._complete if isinstance(event, TurnEagerEnd) else self._published
        marks.append((self._letters, event.end))

    def turn(self, speakers: Mapping[str, str]) -> Turn:
        event = self._last
        assert event is not None
        return Turn(
            track=event.track,
            speaker=speakers[event.track],
            turn=event.turn,
            text=event.transcript,
            start=event.start,
            end=max(event.start, event.end),
            final=event.ends_turn,
            complete=tuple(self._complete),
            published=tuple(self._published),
        )


def gaps(events: Iterable[AnyEvent]) -> list[Gap]:
    """Where audio that may have held speech has no text, as far as it is known."""
    found = (event for event in events if isinstance(event, TranscriptGap))
    return merged(Gap(track=e.track, start=e.start, end=e.end, reason=e.reason) for e in found)


def with_gaps(events: Sequence[AnyEvent]) -> list[Turn]:
    """The `turns`, and between them one for each gap of a second or more."""
    speakers = _Speakers(events)
    missing = [
        Turn(
            track=gap["track"],
            speaker=speakers[gap["track"]],
            turn=-1,
            text=gap_mark(gap["end"] - gap["start"]),
            start=gap["start"],
            end=gap["end"],
            final=True,
            gap=gap["reason"],
        )
        for gap in gaps(events)
        if gap["end"] - gap["start"] >= SHOWN_GAP_S
    ]
    return sorted([*turns(events), *missing], key=lambda turn: turn.start)


def gap_mark(seconds: float) -> str:
    """The mark of a gap."""
    return f"[{seconds:.1f} s not heard]"


def text(events: Sequence[AnyEvent], *, open_too: bool = False) -> str:
    """The full transcript: one track verbatim; several as a line for each turn, with its speaker. What is
    missing is marked. ``open_too``: with what was said so far of turns that have not ended."""
    return _joined(with_gaps(events), open_too=open_too)


def _joined(spoken: Sequence[Turn], *, open_too: bool = False) -> str:
    final = [turn for turn in spoken if turn.final or open_too]
    if len({turn.track for turn in final}) <= 1:
        return _verbatim(final)
    return "".join(f"{turn.speaker}: {turn.text.strip()}\n" for turn in final if turn.text.strip())


def _verbatim(spoken: Sequence[Turn]) -> str:
    """The texts joined with nothing between; only a gap's mark stands apart."""
    whole = ""
    after_gap = False
    for turn in spoken:
        apart = bool(whole) and (turn.gap or after_gap) and not whole[-1].isspace()
        whole += " " + turn.text if apart and not turn.text[:1].isspace() else turn.text
        after_gap = bool(turn.gap)
    return whole


class TurnEntry(TypedDict):
    """A turn in `transcript.json`; times in s of the call."""

    track: str
    speaker: str | None
    turn: int
    start: float
    end: float
    final: bool
    transcript: str


class WholeTranscript(TypedDict):
    """What `transcript.json` holds. ``ended``: the call is over; ``complete``: so far nothing is ``missing``,
    and nothing more can be; ``tracks``: the text of each."""

    call: str | None
    ended: bool
    complete: bool
    missing: list[Gap]
    text: str
    tracks: dict[str, str]
    turns: list[TurnEntry]


def transcript(events: Sequence[AnyEvent]) -> WholeTranscript:
    """The call's text and turns, as `transcript.json` has them."""
    last = events[-1] if events else None
    ended = isinstance(last, SessionEnd)
    missing = last.missing if isinstance(last, SessionEnd) else gaps(events)
    spoken = turns(events)
    tracks = dict.fromkeys(turn.track for turn in spoken)
    return {
        "call": last.call if last else None,
        "ended": ended,
        "complete": ended and not missing,
        "missing": missing,
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


def vtt(events: Sequence[AnyEvent]) -> str:
    """WebVTT, with the speaker of each cue. What is missing is a cue of class ``gap``, after a note."""
    return webvtt(with_gaps(events))


def srt(events: Sequence[AnyEvent]) -> str:
    """SubRip."""
    return subrip(with_gaps(events))


def webvtt(spoken: Iterable[Turn], layout: Layout = USUAL, *, word_times: bool = False) -> str:
    """Turns as WebVTT, with the speaker of each cue, if it has one, and if asked for the times of words."""
    blocks = ["WEBVTT"]
    for cue in cues(spoken, layout):
        voice = f"<v {html.escape(cue.speaker, quote=False)}>" if cue.speaker else ""
        timed = word_times and not cue.gap
        lines = _timed_lines(cue) if timed else [html.escape(line, quote=False) for line in cue.lines]
        if cue.gap:
            blocks.append(f"NOTE No text from {stamp(cue.start, '.')} to {stamp(cue.end, '.')} ({cue.gap})")
            lines = [f"<c.gap>{line}</c>" for line in lines]
        blocks.append(f"{stamp(cue.start, '.')} --> {stamp(cue.end, '.')}\n{voice}" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _timed_lines(cue: Cue) -> list[str]:
    """With a cue timestamp (W3C WebVTT section 4.2.2) before each word but the first."""
    times = iter(cue.times)
    last = cue.start
    lines = []
    for line in cue.lines:
        words = []
        for word in line.split():
            time = next(times, last)
            mark = f"<{stamp(time, '.')}>" if last < time < cue.end else ""
            last = max(last, time)
            words.append(mark + html.escape(word, quote=False))
        lines.append(" ".join(words))
    return lines


def subrip(spoken: Sequence[Turn], layout: Layout = USUAL) -> str:
    """Turns as SubRip. It has no way to say who speaks, so where several do, each cue begins with its
    speaker."""
    named = len({turn.track for turn in spoken if turn.text.strip()}) > 1
    blocks = [
        f"{number}\n{stamp(cue.start, ',')} --> {stamp(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(spoken, layout, named=named), 1)
    ]
    return "\n".join(blocks)


def transcript_json(events: Sequence[AnyEvent]) -> str:
    return json.dumps(transcript(events), ensure_ascii=False)


RENDERERS: Mapping[str, Callable[[Sequence[AnyEvent]], str]] = {
    "captions.vtt": vtt,
    "captions.srt": srt,
    "transcript.txt": text,
    "transcript.json": transcript_json,
}


def stamp(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds behind the ``point``."""
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
