"""What a recogniser is given and what it says; imported by cores, so without onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FRAME = 512  # samples that the voice detector judges at once; 32 ms

Audio = NDArray[np.float32]


class Spoken(NamedTuple):
    """A word, and the samples between which it was said."""

    word: str
    start: int
    end: int


class Device(NamedTuple):
    """What a recogniser runs on: ``cpu`` or ``cuda``. ``compute_type``: of CTranslate2 (int8, float16 and
    others); None: what is usual there."""

    name: str = "cpu"
    compute_type: str | None = None


CPU = Device()


class Terms(NamedTuple):
    """Terms that are expected in a stream, and how strongly: 1 is what was measured to be good for most, 0
    nothing."""

    texts: tuple[str, ...] = ()
    strength: float = 1.0


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens, those that were forced included. ``finished``: the model said that this was all;
    otherwise it looped or did not stop, so what follows in the audio is missing."""

    ids: tuple[int, ...]
    finished: bool
    logprob: float
    """Mean log-probability of the tokens that were not forced."""
    stop: float | None = 0.0
    """How probable the model finds it that the sentence ends after the last word. It writes a full stop
    behind nearly everything, but behind half a sentence with less conviction. None: not known."""
    language: str = "en"
    words: tuple[Spoken, ...] = ()
    """Where in the audio the words are, from models that know."""
    odds: tuple[float, ...] = ()
    """How probable each token was that was not forced."""


class Vocabulary(Protocol):
    """What tokens mean."""

    def text(self, ids: Sequence[int]) -> str: ...

    def starts_word(self, token: int) -> bool: ...

    def is_punctuation(self, token: int) -> bool: ...


class Recogniser(Protocol):
    """What `moonshine.MoonshineStream` and `whisper.WhisperStream` are to a listener."""

    @property
    def tokens(self) -> Vocabulary: ...

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis: ...


@runtime_checkable
class Streaming(Recogniser, Protocol):
    """One that takes audio as it comes, and never takes back what it has said (`streaming.StreamingStream`).
    Nothing is decoded twice, so segments may be long."""

    def so_far(self, audio: Audio) -> Hypothesis: ...
