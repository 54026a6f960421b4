"""Whole recordings into text: cut at pauses, decoded piece by piece; a core, with bounded memory.

A piece is as much as fits into `LONGEST_S`, cut where the voice pauses: the recogniser does better with
whole sentences than with snippets. Moonshine gives no word times; words are laid over the voiced
stretches of their piece by their length in characters, which is right within a few tenths of a second.
Whisper says where words are; but those before and after a pause it stretches into it, which is undone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rtcstt.embedded.hypothesis import FRAME, Audio, Spoken
from rtcstt.embedded.listener import MIN_VOICED, TRIM, Recogniser, Voice
from rtcstt.media.pcm import SAMPLE_RATE

LONGEST = 15 * SAMPLE_RATE
PAUSE = int(1.5 * SAMPLE_RATE)  # a pause this long always ends a piece
BEFORE = int(0.2 * SAMPLE_RATE)  # decoded before the first voice
VOICE, STILL_VOICE = 0.5, 0.35


@dataclass(frozen=True, slots=True)
class Word:
    """Times in seconds from the recording's beginning."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A recording's text, its length in seconds, its words with their times, and its language."""

    text: str
    duration: float
    words: tuple[Word, ...]
    language: str = "en"


class BatchListener:
    """`hear` the recording in blocks, then `finish`; both give the words that are done."""

    def __init__(self, recogniser: Recogniser, voice: Voice) -> None:
        self._recogniser = recogniser
        self._voice = voice
        self._audio = np.zeros(0, np.float32)  # not decoded yet
        self._start = 0  # the sample of the recording at which it begins
        self._marked = 0  # samples of it that the voice detector has seen
        self._runs: list[tuple[int, int]] = []  # voiced stretches of it
        self._voiced = False
        self.heard = 0
        self.language = "en"

    def hear(self, samples: Audio) -> Iterator[Word]:
        self._audio = np.concatenate((self._audio, samples))
        self.heard += len(samples)
        while len(self._audio) - self._marked >= FRAME:
            self._mark(self._audio[self._marked : self._marked + FRAME])
            yield from self._decode_due()

    def finish(self) -> Iterator[Word]:
        yield from self._decode(self._runs)

    def _mark(self, frame: Audio) -> None:
        """Note whether the next frame is voiced."""
        self._voiced = self._voice.probability(frame) > (STILL_VOICE if self._voiced else VOICE)
        begin, end = self._marked, self._marked + FRAME
        if self._voiced and self._runs and self._runs[-1][1] == begin:
            self._runs[-1] = (self._runs[-1][0], end)
        elif self._voiced:
            self._runs.append((begin, end))
        self._marked = end

    def _decode_due(self) -> Iterator[Word]:
        if not self._runs:
            self._drop(self._marked - BEFORE - FRAME)
        elif self._marked - self._runs[-1][1] >= PAUSE:
            yield from self._decode(self._runs)
        elif self._marked - self._runs[0][0] >= LONGEST:
            yield from self._decode(self._until_longest_pause())

    def _until_longest_pause(self) -> list[tuple[int, int]]:
        """The voiced stretches before the longest pause in the latter half; all where there is none."""
        runs = self._runs
        pauses = [
            (after[0] - before[1], index) for index, (before, after) in enumerate(itertools.pairwise(runs))
        ]
        late = [pause for pause in pauses if runs[pause[1]][1] - runs[0][0] >= LONGEST // 3]
        return runs[: max(late)[1] + 1] if late else list(runs)

    def _decode(self, runs: Sequence[tuple[int, int]]) -> Iterator[Word]:
        if not runs:
            return
        begin, end = max(0, runs[0][0] - BEFORE), min(len(self._audio), runs[-1][1] + TRIM)
        words: list[Word] = []
        if sum(stop - start for start, stop in runs) >= MIN_VOICED:
            found = self._recogniser.decode(self._audio[begin:end])
            words = timed_words(
                self._recogniser.tokens.text(found.ids), found.words, begin, runs, self._start
            )
            self.language = found.language if words else self.language
        done = runs[-1][1]
        self._runs = [run for run in self._runs if run[0] >= done]
        self._drop(min(done, self._marked))
        yield from words

    def _drop(self, count: int) -> None:
        if count > 0:
            self._audio = self._audio[count:]
            self._start += count
            self._marked -= count
            self._runs = [(start - count, stop - count) for start, stop in self._runs]


def timed_words(
    text: str, spoken: Sequence[Spoken], begin: int, runs: Sequence[tuple[int, int]], start: int
) -> list[Word]:
    """The words of a piece whose audio begins at ``begin``: where the model says, else spread."""
    if [word.word for word in spoken] != text.split():
        return spread(text.split(), runs, start)
    return [
        _word(word, _voiced_part(runs, begin + from_, begin + until), start) for word, from_, until in spoken
    ]


def _voiced_part(runs: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    """The part of a word that is in one voiced stretch, where it has most of itself."""
    parts = [(max(begin, first), min(end, last)) for first, last in runs]
    first, last = max(parts, key=lambda part: part[1] - part[0])
    return (first, last) if last > first else (begin, end)


def spread(words: Sequence[str], runs: Sequence[tuple[int, int]], start: int) -> list[Word]:
    """Words over voiced stretches (in samples, counted from ``start``), each as long as it is written."""
    voiced = sum(stop - begin for begin, stop in runs)
    letters = sum(len(word) + 1 for word in words)
    edges = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
    spots = [edge / letters * voiced for edge in edges] if letters else []
    return [
        _word(word, _voiced_part(runs, _at(runs, first), _at(runs, last, closing=True)), start)
        for word, (first, last) in zip(words, itertools.pairwise(spots), strict=True)
    ]


def _at(runs: Sequence[tuple[int, int]], voiced: float, *, closing: bool = False) -> int:
    """The sample at which so many voiced samples have passed; at a pause its beginning when ``closing``."""
    for begin, stop in runs:
        length = stop - begin
        if voiced < length or (closing and voiced <= length):
            return round(begin + voiced)
        voiced -= length
    return runs[-1][1]


def _word(word: str, samples: tuple[int, int], start: int) -> Word:
    begin, end = samples
    return Word(word, round((start + begin) / SAMPLE_RATE, 3), round((start + end) / SAMPLE_RATE, 3))
