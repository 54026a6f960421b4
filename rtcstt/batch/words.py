"""What an engine recognised, made sure of: other servers' words may have no times, or impossible ones; a
core."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rtcstt.embedded.batch import Word as Word

ROUNDING_S = 0.05  # by which words may overlap, or be longer than the audio


@dataclass(frozen=True, slots=True)
class Recognised:
    """``language``: ISO 639 code, where the engine says."""

    text: str
    words: Sequence[Word]
    language: str | None = None


def parse(answer: object, duration: float) -> Recognised:
    """A batch endpoint's JSON answer on audio of ``duration`` s. `ValueError` when it has no text.

    Words keep their text whatever their times are: what is no time between 0 and the end of the audio, or
    goes back, is filled in from the words around it.
    """
    if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
        raise ValueError("the answer has no text")
    given = answer.get("words")
    words = [word for word in map(_word, given if isinstance(given, list) else []) if word is not None]
    language = answer.get("language")
    return Recognised(
        valid(answer["text"]),
        timed(words, duration),
        valid(language) if isinstance(language, str) else None,
    )


def valid(text: str) -> str:
    """The text as Unicode: halves of a surrogate pair are joined, lone ones replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _word(given: object) -> Word | None:
    """A word with its times as far as they are numbers, NaN else."""
    if not isinstance(given, Mapping):
        return Word(valid(given), math.nan, math.nan) if isinstance(given, str) else None
    text = given.get("word", given.get("text"))
    if not isinstance(text, str) or not text.strip():
        return None
    confidence = _number(given.get("confidence", given.get("probability")))
    return Word(
        valid(text),
        _number(given.get("start")),
        _number(given.get("end")),
        confidence if 0 <= confidence <= 1 else None,
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def timed(words: Sequence[Word], duration: float) -> list[Word]:
    """The words with times that are numbers, rise, and are within the audio."""
    times = _usable(words, duration)
    found: list[Word] = []
    for is_known, group in itertools.groupby(range(len(words)), key=lambda index: times[index] is not None):
        indices = list(group)
        first, last = indices[0], indices[-1]
        part = words[first : last + 1]
        if is_known:
            known = [time for time in times[first : last + 1] if time is not None]
            found += [replace(w, start=begin, end=end) for w, (begin, end) in zip(part, known, strict=True)]
        else:
            begin = found[-1].end if found else 0.0
            following = next((time[0] for time in times[last + 1 :] if time is not None), duration)
            found += _spread(part, begin, max(begin, following))
    return found


def _usable(words: Sequence[Word], duration: float) -> list[tuple[float, float] | None]:
    """The times of each word; None where they are no times, or before those of the words before it."""
    times: list[tuple[float, float] | None] = []
    at = 0.0
    for word in words:
        if not at - ROUNDING_S <= word.start <= duration + ROUNDING_S:  # a NaN as well
            times.append(None)
            continue
        start = min(max(word.start, at), duration)
        at = min(word.end, duration) if word.end >= start else start
        times.append((start, at))
    return times


def _spread(words: Sequence[Word], begin: float, end: float) -> list[Word]:
    """The words over a stretch, each as long as it is written."""
    letters = sum(len(word.word) + 1 for word in words)
    found = []
    at = begin
    for word in words:
        until = at + (end - begin) * (len(word.word) + 1) / letters
        found.append(replace(word, start=round(at, 3), end=round(until, 3)))
        at = until
    return found
