"""Dictated numbers, none of them left out. A core.

In a long row of numbers a model leaves some out, and is sure of the others: of "one, one, one, one" it
writes three, of "fourteen, fifteen, sixteen" two. In pieces of a few words it does not. So where numbers are
dictated the audio is also decoded in pieces, four times, cut at different places. Numbers that two of these
have behind a dictated one, where the whole has nothing, are put in. Nothing is taken away or replaced.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from rtcstt.embedded.cuts import quietest
from rtcstt.embedded.hypothesis import Audio, Hypothesis, Recogniser, Vocabulary
from rtcstt.embedded.wording import letters
from rtcstt.media.pcm import SAMPLE_RATE

DIGITS = tuple("zero one two three four five six seven eight nine".split())
NUMBERS = frozenset(DIGITS) | frozenset(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty"
    " fifty sixty seventy eighty ninety hundred thousand".split()
)
SOUNDS_LIKE = {"for": "four", "to": "two", "too": "two", "oh": "zero", "o": "zero"}  # among numbers
FEWEST = 4  # numbers in a row are dictated
PIECE, NEAR = int(2.4 * SAMPLE_RATE), SAMPLE_RATE // 2  # how long pieces are, and how far that may be missed
SHORTEST = SAMPLE_RATE // 10
FIRST = (1.0, 0.75, 0.5, 0.25)  # of the first piece's length, each time
AGREED = 2  # of these


class Unit(NamedTuple):
    """A word, or a digit of several written together. ``value``: how it is spelled, ``number``: is it one;
    ``start``, ``end``: its tokens, marks behind it left out."""

    value: str
    number: bool
    start: int
    end: int


Missing = dict[int, tuple[str, ...]]
"""Before which unit of the whole which numbers are missing."""


def units(vocabulary: Vocabulary, ids: Sequence[int]) -> list[Unit]:
    found = []
    for start, end in _parts(vocabulary, ids):
        bare = letters(vocabulary.text(ids[start:end])).casefold()
        digits = [letters(vocabulary.text([token])) for token in ids[start:end]]
        if bare.isdecimal() and bare.isascii() and all(len(digit) <= 1 for digit in digits):
            for index, digit in enumerate(digits):
                if digit:
                    first = not any(digits[:index])
                    begin = start if first else start + index
                    found.append(Unit(DIGITS[int(digit)], True, begin, start + index + 1))
        elif bare:
            found.append(Unit(SOUNDS_LIKE.get(bare, bare), bare in NUMBERS, start, end))
    return found


def _parts(vocabulary: Vocabulary, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Tokens that are a word, or a part of one between marks ("twenty-one")."""
    start = 0
    for index, token in enumerate(ids):
        mark = vocabulary.is_punctuation(token)
        if index > start and (mark or vocabulary.starts_word(token)):
            yield start, index
            start = index
        if mark:
            start = index + 1
    if start < len(ids):
        yield start, len(ids)


def _runs(whole: Sequence[Unit]) -> Iterator[range]:
    """Where numbers are dictated."""
    for number, group in itertools.groupby(range(len(whole)), lambda index: whole[index].number):
        run = list(group)
        if number and len(run) >= FEWEST:
            yield range(run[0], run[-1] + 1)


def before(vocabulary: Vocabulary, ids: Sequence[int], known: int = 0) -> int:
    """How many tokens there are before the first row of dictated numbers that is not within the ``known``
    ones; all if there is none."""
    whole = units(vocabulary, ids)
    return next((whole[run.start].start for run in _runs(whole) if whole[run.stop - 1].end > known), len(ids))


def missing(whole: Sequence[Unit], others: Sequence[Sequence[Sequence[Unit]]]) -> Missing:
    """The numbers missing in the whole by enough of the ``others``, and by more than have none there. These
    are in pieces, and what has none just where it was cut does not count."""
    behind = {index + 1 for run in _runs(whole) for index in run}
    votes, against = Counter[tuple[int, tuple[str, ...]]](), Counter[int]()
    for pieces in others:
        other = [(unit, number) for number, piece in enumerate(pieces) for unit in piece]
        values = [unit.value for unit, _ in other]
        matcher = SequenceMatcher(None, [unit.value for unit in whole], values, autojunk=False)
        for tag, at, _, begin, end in matcher.get_opcodes():
            numbers = all(unit.number for unit, _ in other[begin:end])
            if tag == "insert" and at in behind and numbers:
                votes[at, tuple(values[begin:end])] += 1
        for first, begin, length in matcher.get_matching_blocks():
            against.update(
                first + index
                for index in range(1, length)
                if other[begin + index - 1][1] == other[begin + index][1]
            )
    return {
        at: values
        for (at, values), count in reversed(votes.most_common())
        if count >= AGREED and count > against[at]
    }


def completed(found: Hypothesis, recogniser: Recogniser, audio: Audio, published: int = 0) -> Hypothesis:
    """What was found in audio, with the numbers that it left out behind the first ``published`` tokens.
    Word times are asked for where it had some."""
    vocabulary = recogniser.tokens
    whole = units(vocabulary, found.ids)
    last = max((run.stop for run in _runs(whole)), default=0)
    if not found.finished or len(found.odds) != len(found.ids) or not last:
        return found
    if whole[last - 1].end < published or len(audio) < PIECE:
        return found
    pieces = [[recogniser.decode(piece) for piece in _pieces(audio, first)] for first in FIRST]
    others = [[units(vocabulary, piece.ids) for piece in row] for row in pieces]
    spelled = _Spelled(vocabulary, [found, *itertools.chain(*pieces)])
    ids, odds = list(found.ids), list(found.odds)
    for at, values in sorted(missing(whole, others).items(), reverse=True):
        place = whole[at - 1].end
        more = spelled.behind(found.ids, whole, at, values)
        if place >= published and more:
            ids[place:place] = more
            odds[place:place] = [float(np.mean(found.odds))] * len(more)
    if len(ids) == len(found.ids):
        return found
    words = recogniser.decode(audio, ids, timed=True).words if found.words else ()
    return replace(found, ids=tuple(ids), odds=tuple(odds), words=words)


def _pieces(audio: Audio, first: float) -> Iterator[Audio]:
    """Audio in pieces, cut where it is quiet; the first one is shorter than the others."""
    begin, end = 0, int(first * PIECE)
    while len(audio) - end > PIECE // 2:
        cut = quietest(audio, max(begin + SHORTEST, end - NEAR), min(len(audio), end + NEAR))
        yield audio[begin:cut]
        begin, end = cut, cut + PIECE
    yield audio[begin:]


class _Spelled:
    """How numbers are written, in the hypotheses."""

    def __init__(self, vocabulary: Vocabulary, hypotheses: Sequence[Hypothesis]) -> None:
        self._vocabulary = vocabulary
        self._ways: dict[tuple[str, bool], list[tuple[int, ...]]] = {}
        for found in hypotheses:
            for unit in units(vocabulary, found.ids):
                ids = tuple(found.ids[unit.start : unit.end])
                if self._is_digit(ids):  # without the space before the first one
                    ids = ids[-1:]
                self._ways.setdefault((unit.value, self._is_digit(ids)), []).append(ids)

    def _is_digit(self, ids: Sequence[int]) -> bool:
        return letters(self._vocabulary.text(ids)).isdecimal()

    def behind(self, ids: Sequence[int], whole: Sequence[Unit], at: int, values: Sequence[str]) -> list[int]:
        """The tokens of these numbers, as those before them are written; none if that is not known."""
        last = whole[at - 1]
        digits = self._is_digit(ids[last.start : last.end])
        near = [*whole[max(0, at - 2) : at], *whole[at : at + 1]]
        gaps = [
            ids[one.end : other.start]
            for one, other in itertools.pairwise(near)
            if one.number and other.number
        ]
        between = list(next(filter(None, gaps), ()))
        more = list[int]()
        for value in values:
            ways = self._ways.get((value, digits), [])
            if not digits:
                ways = [way for way in ways if self._vocabulary.starts_word(way[0])]
            lower = [way for way in ways if digits or self._vocabulary.text(way).islower()]
            if not ways:
                return []
            more += [*between, *Counter(lower or ways).most_common(1)[0][0]]
        return more
