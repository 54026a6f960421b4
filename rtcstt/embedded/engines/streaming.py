"""Recognisers that take audio as it comes, once, and never take back what they have said: streaming
transducers and CTC models.

A listener asks them as it asks any other: what was said in this audio, from a segment's beginning? When the
audio is what they were given before and more, only the rest is given to them; else they begin again. What
they say lags behind by a chunk of audio. In a pause silence is put in behind the speech, so that the last
word comes out. The model goes on from there if the speaker does; words have their times without that silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from rtcstt.embedded.engines.timed import Said, Words, hypothesis
from rtcstt.embedded.hypothesis import NO_TERMS, Audio, Hypothesis, Terms
from rtcstt.media.pcm import SAMPLE_RATE


class Online(Protocol):
    """A library's stream: 16 kHz audio in, all that was said so far out."""

    def accept(self, samples: Audio) -> None: ...

    def said(self) -> Said: ...


class StreamingEngine:
    """A model, loaded once; `stream` gives what listens. ``open_stream`` may be called by many threads, for a
    language or for any; ``padding``: samples of silence that bring out the last word."""

    live = True

    def __init__(
        self,
        name: str,
        library: str,
        languages: tuple[str, ...],
        open_stream: Callable[[str | None], Online],
        padding: int,
    ) -> None:
        self.name, self.languages, self.padding = name, languages, padding
        self.open_stream = open_stream
        self._library = library

    def describe(self) -> str:
        return f"{self.name} on {self._library}; text comes as it is said"

    def stream(self, language: str | None = None, keyterms: Terms = NO_TERMS) -> StreamingStream:
        """Terms are not expected by these models."""
        return StreamingStream(self, language)


class StreamingStream:
    """What one stream asks."""

    def __init__(self, engine: StreamingEngine, language: str | None) -> None:
        self._engine = engine
        self._language = language
        self._online: Online | None = None
        self._audio = np.zeros(0, np.float32)  # all that it was given, but for the silence
        self._silences: list[int] = []  # samples of the audio that each was put in behind
        self.tokens = Words()

    def so_far(self, audio: Audio) -> Hypothesis:
        """What was said, as far as it has come out. More of the same audio follows."""
        return self._said(self._given(audio))

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        """All that was said. Nothing can be ``forced``, nor has to be."""
        online = self._given(audio)
        if not self._silences or self._silences[-1] < len(audio):
            online.accept(np.zeros(self._engine.padding, np.float32))
            self._silences.append(len(audio))
        return self._said(online)

    def _given(self, audio: Audio) -> Online:
        known = len(self._audio)
        if self._online is None or len(audio) < known or not np.array_equal(audio[:known], self._audio):
            self._online, self._silences, known = self._engine.open_stream(self._language), [], 0
        if len(audio) > known:
            self._online.accept(audio[known:])
        self._audio = audio
        return self._online

    def _said(self, online: Online) -> Hypothesis:
        said = online.said()
        said = replace(said, starts_s=[self._without_silence_s(at) for at in said.starts_s])
        return hypothesis(said, self.tokens, len(self._audio), self._language or self._engine.languages[0])

    def _without_silence_s(self, at_s: float) -> float:
        """When that is in the audio, without what was put in."""
        at = at_s * SAMPLE_RATE
        for place in self._silences:
            if at > place:
                at = max(place, at - self._engine.padding)
        return at / SAMPLE_RATE
