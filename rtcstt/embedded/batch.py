"""Whole recordings into text: cut at pauses, decoded piece by piece; a core, with bounded memory.

A piece is as much as fits into `LONGEST_S`, cut where the voice pauses: the recogniser does better with
whole sentences than with snippets. Moonshine gives no word times; words are laid over the voiced
stretches of their piece by their length in characters, which is right within a few tenths of a second.
Whisper says where words are; but those before and after a pause it stretches into it, which is undone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rtcstt.embedded.cuts import part
from rtcstt.embedded.dictated import completed
from rtcstt.embedded.hypothesis import FRAME, Audio, Recogniser, Spoken
from rtcstt.embedded.listener import Voice
from rtcstt.embedded.segments import MIN_VOICED, TRIM, Run, Segment, word_odds
from rtcstt.media.pcm import SAMPLE_RATE

LONGEST = 15 * SAMPLE_RATE
PAUSE = int(1.5 * SAMPLE_RATE)  # a pause this long always ends a piece
BEFORE = int(0.2 * SAMPLE_RATE)  # decoded before the first voice
VOICE, STILL_VOICE = 0.5, 0.35


@dataclass(frozen=True, slots=True)
class Word:
    """Times in seconds from the recording's beginning. ``confidence``: the mean probability of its tokens,
    where the recogniser gives it."""

    word: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A recording's text, its length in seconds, its words with their times, and its language."""

    text: str
    duration: float
    words: tuple[Word, ...]
    language: str = "en"


class BatchListener:
    """`receive` the recording in blocks, then `finish`; both give the words that are done."""

    def __init__(self, recogniser: Recogniser, voice: Voice, *, timed: bool = True) -> None:
        """``timed``: the recogniser is asked when each word was said; else that is guessed."""
        self._recogniser = recogniser
        self._timed = timed
        self._voice = voice
        self._audio = np.zeros(0, np.float32)  # not decoded yet
        self._segment = Segment(0)  # where it begins in the recording, and the voice in it
        self._marked = 0  # samples of it that the voice detector has seen
        self._voiced = False
        self.received = 0
        self.language = "en"

    def receive(self, samples: Audio) -> Iterator[Word]:
        self._audio = np.concatenate((self._audio, samples))
        self.received += len(samples)
        while len(self._audio) - self._marked >= FRAME:
            self._mark(self._audio[self._marked : self._marked + FRAME])
            yield from self._decode_due()

    def finish(self) -> Iterator[Word]:
        yield from self._decode(self._segment.runs)

    def _mark(self, frame: Audio) -> None:
        """Note whether the next frame is voiced."""
        probability = self._voice.probability(frame)
        self._voiced = probability > (STILL_VOICE if self._voiced else VOICE)
        begin, self._marked = self._marked, self._marked + FRAME
        if self._voiced:
            self._segment.voice(begin, self._marked, probability)

    def _decode_due(self) -> Iterator[Word]:
        runs = self._segment.runs
        if not runs:
            self._drop(self._marked - BEFORE - FRAME)
        elif self._marked - runs[-1][1] >= PAUSE:
            yield from self._decode(runs)
        elif self._marked - runs[0][0] >= LONGEST:
            yield from self._decode(self._until_longest_pause())

    def _until_longest_pause(self) -> list[Run]:
        """The voiced stretches before the longest pause in the latter half; all where there is none."""
        runs = self._segment.runs
        pauses = [
            (after[0] - before[1], index) for index, (before, after) in enumerate(itertools.pairwise(runs))
        ]
        late = [pause for pause in pauses if runs[pause[1]][1] - runs[0][0] >= LONGEST // 3]
        return runs[: max(late)[1] + 1] if late else list(runs)

    def _decode(self, runs: Sequence[Run]) -> Iterator[Word]:
        if not runs:
            return
        done = runs[-1][1]
        if sum(stop - start for start, stop in runs) >= MIN_VOICED:
            yield from self._words(max(0, runs[0][0] - BEFORE), min(len(self._audio), done + TRIM), runs)
        self._drop(min(done, self._marked))

    def _words(self, begin: int, end: int, runs: Sequence[Run]) -> Iterator[Word]:
        """What was said between two samples, in the voiced stretches there; in parts where it has to be."""
        runs = [(max(start, begin), min(stop, end)) for start, stop in runs if start < end and stop > begin]
        audio = self._audio[begin:end]
        found = self._recogniser.decode(audio, timed=self._timed)
        if not runs or not self._segment.believes(found, self._recogniser.tokens):
            return
        at = 0 if found.finished else part(audio)
        if at:
            yield from self._words(begin, begin + at, runs)
            yield from self._words(begin + at, end, runs)
            return
        found = completed(found, self._recogniser, audio)
        text = self._recogniser.tokens.text(found.ids)
        self.language = found.language if text else self.language
        odds = word_odds(self._recogniser.tokens, found.ids, found.odds)
        yield from timed_words(text, found.words, begin, runs, self._segment.start, odds)

    def _drop(self, count: int) -> None:
        if count > 0:
            self._audio = self._audio[count:]
            self._marked -= count
            self._segment = self._segment.rest(count)


def timed_words(
    text: str,
    spoken: Sequence[Spoken],
    begin: int,
    runs: Sequence[Run],
    start: int,
    odds: Sequence[float] = (),
) -> list[Word]:
    """The words of a piece whose audio begins at ``begin``: where the model says, else spread. ``odds``: of
    each word, if they are known."""
    if [word.word for word in spoken] == text.split():
        words = [_word(word, _voiced_part(runs, begin + at, begin + end), start) for word, at, end in spoken]
    else:
        words = spread(text.split(), runs, start)
    return (
        [replace(word, confidence=round(odd, 3)) for word, odd in zip(words, odds, strict=True)]
        if odds
        else words
    )


def _voiced_part(runs: Sequence[Run], begin: int, end: int) -> tuple[int, int]:
    """The part of a word that is in one voiced stretch, where it has most of itself."""
    parts = [(max(begin, first), min(end, last)) for first, last in runs]
    first, last = max(parts, key=lambda part: part[1] - part[0])
    return (first, last) if last > first else (begin, end)


def spread(words: Sequence[str], runs: Sequence[Run], start: int) -> list[Word]:
    """Words over voiced stretches (in samples, counted from ``start``), each as long as it is written."""
    voiced = sum(stop - begin for begin, stop in runs)
    letters = sum(len(word) + 1 for word in words)
    edges = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
    spots = [edge / letters * voiced for edge in edges] if letters else []
    return [
        _word(word, _voiced_part(runs, _at(runs, first), _at(runs, last, closing=True)), start)
        for word, (first, last) in zip(words, itertools.pairwise(spots), strict=True)
    ]


def _at(runs: Sequence[Run], voiced: float, *, closing: bool = False) -> int:
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
