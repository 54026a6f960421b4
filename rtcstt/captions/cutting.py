"""Cues of captions: turns cut into what is shown at a time; a core."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

LINE = 42  # columns
LINES = 2
LONGEST_S = 7.0  # of speech in one cue, so that no word is shown long before it is said
SHORTEST_S = 0.8
CLAUSE_ENDS = (".", "?", "!", "\u2026", ",", ";", ":", "\u2013", "\u3001", "\u3002")
READ_PER_S = 20.0  # characters that can be read in a second

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
        return letters_of(self.text)

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


def letters_of(text: str) -> int:
    """How many characters it has besides spaces."""
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
