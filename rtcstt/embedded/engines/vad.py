"""Silero: the probability of speech in each 32 ms of audio. One model, a state or two per stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rtcstt.embedded.engines.onnx import session
from rtcstt.embedded.hypothesis import Audio
from rtcstt.embedded.levelling import START_DB, Leveller, Search
from rtcstt.media.pcm import SAMPLE_RATE

_CONTEXT = 64
_RATE = np.array(SAMPLE_RATE, np.int64)


class Vad:
    """The model; safe to use from many threads."""

    def __init__(self, folder: Path) -> None:
        self._session = session(folder / "silero_vad.onnx")

    def stream(self, level_db: float = START_DB) -> VadStream:
        """``level_db``: of the voice, as far as it is known."""
        return VadStream(self._session, level_db)


class VadStream:
    """One stream's voice; its frames must come in order, one at a time."""

    def __init__(self, model: Any, level_db: float = START_DB) -> None:
        self._model = model
        self._usual = _State()
        self._leveller = Leveller(level_db)
        self._search: Search | None = Search() if level_db >= START_DB else None
        self._quiet = _State()  # with the gain of the search

    def probability(self, frame: Audio) -> float:
        """Of speech in the next `FRAME` samples."""
        probability = self._run(self._usual, self._leveller, frame)
        if self._search is None:
            return probability
        quiet = None
        if self._search.looks_at(frame):
            quiet = self._run(self._quiet, self._search.leveller, frame)
        else:
            self._quiet = _State()
        self._search.note(probability, quiet)
        if self._search.found:
            self._usual, self._leveller = self._quiet, self._search.leveller
        if self._search.over:
            self._search = None
        return max(probability, quiet or 0.0)

    def _run(self, state: _State, leveller: Leveller, frame: Audio) -> float:
        audio = np.concatenate((state.context, leveller.level(frame)[None]), axis=1)
        out, state.memory = self._model.run(None, {"input": audio, "state": state.memory, "sr": _RATE})
        state.context = audio[:, -_CONTEXT:]
        probability = float(out[0, 0])
        leveller.note(frame, probability)
        return probability


class _State:
    """What the model remembers between frames."""

    def __init__(self) -> None:
        self.memory = np.zeros((2, 1, 128), np.float32)
        self.context = np.zeros((1, _CONTEXT), np.float32)
