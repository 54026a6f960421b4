"""Recordings of any kind that FFmpeg reads."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from rtcstt.errors import ConfigError
from rtcstt.media.pcm import Samples

OPUS_RATE = 48000


def read(path: str | Path, rate: int = OPUS_RATE) -> Samples:
    """The first audio stream of a file of any kind that FFmpeg opens, as mono int16.

    Raises `ConfigError` when there is no such file, or no audio in it.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    parts: list[Samples] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ConfigError(f"cannot read audio from {path}: {error}") from error
    if not parts:
        raise ConfigError(f"there is no audio in {path}")
    return np.concatenate(parts)
