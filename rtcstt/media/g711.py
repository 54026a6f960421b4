"""ITU-T G.711: the 256 code words of mu-law and A-law as 16-bit samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _mulaw() -> NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = ((code & 0x70) >> 4).astype(np.int32), (code & 0x0F).astype(np.int32)
    magnitude = (((step << 3) + 0x84) << segment) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment, step = ((code & 0x70) >> 4).astype(np.int32), (code & 0x0F).astype(np.int32)
    magnitude = (step << 4) + 8
    magnitude = np.where(segment > 0, (magnitude + 0x100) << np.maximum(segment - 1, 0), magnitude)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


MULAW = _mulaw()
ALAW = _alaw()
