"""Silero: the probability of speech in each 32 ms of audio. One model, a state per stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rtcstt.embedded.engines.onnx import session
from rtcstt.embedded.hypothesis import Audio
from rtcstt.embedded.levelling import START_DB, Leveller
from rtcstt.media.pcm import SAMPLE_RATE

_CONTEXT = 64


class Vad:
    """The model; safe to use from many threads."""

    def __init__(self, folder: Path) -> None:
        self._session = session(folder / "silero_vad.onnx")

    def stream(self, level_db: float = START_DB) -> VadStream:
        """``level_db``: of the voice, as far as it is known."""
        return VadStream(self._session, level_db)


class VadStream:
    """One stream's state; its frames must come in order, one at a time."""

    def __init__(self, model: Any, level_db: float = START_DB) -> None:
        self._model = model
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros((1, _CONTEXT), np.float32)
        self._rate = np.array(SAMPLE_RATE, np.int64)
        self._leveller = Leveller(level_db)

    def probability(self, frame: Audio) -> float:
        """Of speech in the next `FRAME` samples."""
        audio = np.concatenate((self._context, self._leveller.level(frame)[None]), axis=1)
        out, self._state = self._model.run(None, {"input": audio, "state": self._state, "sr": self._rate})
        self._context = audio[:, -_CONTEXT:]
        probability = float(out[0, 0])
        self._leveller.note(frame, probability)
        return probability
