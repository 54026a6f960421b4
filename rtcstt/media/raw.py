"""Raw audio bytes, whose encoding somebody has to state, as float samples; a core."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcstt.media.g711 import ALAW, MULAW

ENCODINGS = {
    "pcm_s16le": "<i2",
    "pcm_s16be": ">i2",
    "pcm_s32le": "<i4",
    "pcm_s8": "i1",
    "pcm_u8": "u1",
    "pcm_f16le": "<f2",
    "pcm_f32le": "<f4",
    "pcm_f64le": "<f8",
    "pcm_mulaw": "u1",
    "pcm_alaw": "u1",
}


def width(encoding: str) -> int:
    """Bytes of a sample."""
    return np.dtype(ENCODINGS[encoding]).itemsize


def samples(encoding: str, data: bytes) -> NDArray[np.float32]:
    """Whole samples in one of `ENCODINGS`, as -1 to 1; what is no number is silence."""
    numbers = np.frombuffer(data, ENCODINGS[encoding])
    floats: NDArray[Any]
    if encoding in ("pcm_mulaw", "pcm_alaw"):
        floats = (MULAW if encoding == "pcm_mulaw" else ALAW)[numbers] / np.float32(32768)
    elif encoding == "pcm_u8":
        floats = numbers / np.float32(128) - 1
    elif numbers.dtype.kind == "i":
        floats = numbers / -float(np.iinfo(numbers.dtype).min)
    else:
        return clean(numbers.astype(np.float32))
    return floats.astype(np.float32)


def clean(floats: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples of -1 to 1, those that are no number as silence; in place."""
    np.nan_to_num(floats, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(floats, -1.0, 1.0, out=floats)
