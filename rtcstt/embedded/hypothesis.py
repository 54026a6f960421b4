"""What a recogniser says of some audio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


class Spoken(NamedTuple):
    """A word, and the samples between which it was said."""

    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens, those that were forced included. ``finished``: the model said that this was all;
    otherwise it looped or did not stop, and the end is not to be trusted."""

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


FRAME = 512  # samples; 32 ms
