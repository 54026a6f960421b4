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
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

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

LINE = 42  # columns
LINES = 2
LONGEST_S = 7.0  # of speech in one cue, so that no word is shown long before it is said
SHORTEST_S = 0.8
CLAUSE_ENDS = (".", "?", "!", "\u2026", ",", ";", ":", "\u2013", "\u3001", "\u3002")
READ_PER_S = 20.0  # characters that can be read in a second
SHOWN_GAP_S = 1.0  # shorter ones are in `transcript.json` alone


Mark = tuple[int, float]  # so many letters (spaces do not count) of a turn's text, and a time


@dataclass(frozen=True, slots=True)
class Layout:
    """Of a cue: how wide its lines are (a double-width character counts twice), how many, and how many
    words."""

    width: int = LINE
    lines: int = LINES
    words: int | None = None


USUAL = Layout()


@dataclass(frozen=True, slots=True)
class Turn:
    """One stretch of speech. ``text`` is verbatim, its outer spaces included. ``words``: when each of its
    words (as its spaces part them) begins and ends, where that is known.

    ``complete``: all that had been said at a time was so much of the text (an eager end).
    ``published``: so much of it was known then, and more may have been said.
    """

    track: str
    speaker: str
    turn: int
    text: str
    start: float
    end: float
    final: bool
    complete: tuple[Mark, ...] = ()
    published: tuple[Mark, ...] = ()
    words: tuple[tuple[float, float], ...] = ()
    gap: str = ""
    "Why there is no text, where the turn stands for audio without: see `with_gaps`."

    @property
    def letters(self) -> int:
        return _letters(self.text)

    @property
    def pace_s(self) -> float:
        """Per letter."""
        return (self.end - self.start) / max(1, self.letters)


@dataclass(frozen=True, slots=True)
class Cue:
    """``times``: when each word of its lines begins."""

    start: float
    end: float
    speaker: str
    lines: tuple[str, ...]
    times: tuple[float, ...] = ()
    gap: str = ""

    @property
    def letters(self) -> int:
        return sum(map(len, self.lines))


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
        self._letters = before + _letters(event.transcript[len(self._text) if known else 0 :])
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


def transcript(events: Sequence[AnyEvent]) -> dict[str, Any]:
    """The call's text and turns, as `transcript.json` has them. ``ended``: the call is over; ``complete``: so
    far nothing is ``missing``, and nothing more can be."""
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


def cues(spoken: Iterable[Turn], layout: Layout = USUAL, *, named: bool = False) -> list[Cue]:
    """In the order of their beginning; those of one track never overlap, but for a gap's. ``named``: the
    speaker is part of the text."""
    tracks: dict[str, list[Cue]] = {}
    missing: list[Cue] = []
    for turn in spoken:
        if turn.gap:
            missing.append(Cue(turn.start, turn.end, turn.speaker, (turn.text,), (turn.start,), turn.gap))
        else:
            tracks.setdefault(turn.track, []).extend(_cues_of(turn, layout, named))
    found = [*missing, *(cue for track in tracks.values() for cue in _readable(track))]
    return sorted(found, key=lambda cue: cue.start)


def _readable(track: list[Cue]) -> Iterator[Cue]:
    """Each cue stays for as long as it takes to read, or until the next one begins."""
    for index, cue in enumerate(track):
        next_start = track[index + 1].start if index + 1 < len(track) else math.inf
        wanted = cue.start + max(SHORTEST_S, cue.letters / READ_PER_S)
        yield replace(cue, end=max(cue.start, min(next_start, max(cue.end, wanted))))


_Word = tuple[str, float, float]  # and when it begins and ends


def _cues_of(turn: Turn, layout: Layout, named: bool) -> Iterator[Cue]:
    name = [f"{_clipped(turn.speaker, layout.width // 2)}:"] if named and turn.speaker else []
    for group in _groups(_timed_words(turn, layout), layout, name):
        start, end = group[0][1], group[-1][2]
        lines = _lines([*name, *(word for word, _, _ in group)], layout.width)
        times = (*(start for _ in name), *(word[1] for word in group))
        yield Cue(start, max(start, end), turn.speaker, tuple(lines), times)


def _timed_words(turn: Turn, layout: Layout) -> list[_Word]:
    """The words with their times: those that are known, else what the turn's marks say."""
    words = _words(turn.text, layout.width)
    if turn.words and len(turn.words) == len(words):
        return [(word, start, end) for word, (start, end) in zip(words, turn.words, strict=True)]
    when, pace_s = _when_said(turn), turn.pace_s
    found = []
    said = 0
    for word in words:
        end = when(said + len(word))  # there may be a pause before it
        found.append((word, max(when(said), round(end - len(word) * pace_s, 6)), end))
        said += len(word)
    return found


def _when_said(turn: Turn) -> Callable[[int], float]:
    """At what time so many letters of the turn's text had been said."""
    sure = _rising([(0, turn.start), *turn.complete, (max(1, turn.letters), turn.end)], turn.end)
    late = 0.0  # how long after it was said the first text came; there was no pause before
    if turn.published:
        count, time = turn.published[0]
        late = max(0.0, time - turn.start - count * turn.pace_s)
    marks = dict([*((count, time - late) for count, time in turn.published), *sure])
    rising = _rising(sorted(marks.items()), turn.end)
    letters, times = map(np.array, zip(*_with_pauses(rising, turn.pace_s), strict=True))
    return lambda count: round(float(np.interp(count, letters, times)), 6)


def _with_pauses(marks: Sequence[Mark], pace_s: float) -> Iterator[tuple[float, float]]:
    """More time between two marks than their letters take was a pause, and that came first."""
    for (count, time), (next_count, next_time) in pairwise(marks):
        yield count, time
        yield count + 0.5, max(time, next_time - (next_count - count - 0.5) * pace_s)
    yield marks[-1]


def _rising(marks: Iterable[Mark], end: float) -> list[Mark]:
    """The marks in order, without those that go back; no time is beyond the end."""
    rising: list[Mark] = []
    for count, time in marks:
        time = min(time, end)
        if not rising or (count > rising[-1][0] and time >= rising[-1][1]):
            rising.append((count, time))
    return rising


def _letters(text: str) -> int:
    return sum(map(len, text.split()))


def _words(text: str, width: int) -> list[str]:
    """Cut where they are too long for a line; without characters that no parser wants."""
    shown = "".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc")
    found = []
    for word in shown.split():
        while columns(word) > width:
            part = _clipped(word, width) or word[0]
            found.append(part)
            word = word[len(part) :]
        found += [word] if word else []
    return found


def columns(text: str) -> int:
    """How wide a text is shown: East Asian characters take two columns, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _clipped(text: str, width: int) -> str:
    """As much of its beginning as so many columns hold."""
    length = len(text) if columns(text) <= width else 0
    while length < len(text) and columns(text[: length + 1]) <= width:
        length += 1
    return text[:length]


def _groups(words: Sequence[_Word], layout: Layout, name: Sequence[str]) -> Iterator[list[_Word]]:
    """Words for one cue each: as many as the layout and the time allow, or to the end of a sentence; what
    does not fit is cut behind a comma where there is one late enough."""
    group: list[_Word] = []
    for word in words:
        while group and (kept := _kept(group, word, layout, name)):
            yield group[:kept]
            group = group[kept:]
        group.append(word)
    if group:
        yield group


def _kept(group: Sequence[_Word], word: _Word, layout: Layout, name: Sequence[str]) -> int:
    """How many words of the group are a cue that ends before the next word; 0: it goes on."""
    texts = [text for text, _, _ in group]
    letters = sum(map(columns, texts))
    sentence_ended = letters > layout.width and texts[-1].endswith((".", "?", "!", "\u2026"))
    if sentence_ended or len(group) == layout.words:
        return len(group)
    too_long = word[2] - group[0][1] > LONGEST_S
    if not too_long and len(_lines([*name, *texts, word[0]], layout.width)) <= layout.lines:
        return 0
    for count in range(len(group), 0, -1):
        if 3 * sum(map(columns, texts[:count])) < letters:
            break
        if texts[count - 1].endswith(CLAUSE_ENDS):
            return count
    return len(group)


def _lines(words: Sequence[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        if not lines[-1]:
            lines[-1] = word
        elif columns(lines[-1]) + 1 + columns(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def stamp(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds behind the ``point``."""
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
