"""Raw audio bytes, in the encodings of the wire protocol, as float samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtcstt.media.g711 import ALAW, MULAW
from rtcstt.wire.handshake import ENCODINGS


class AudioDecoder:
    """Raw audio bytes in one of `ENCODINGS` -> float32 samples of -1 to 1; any cutting of the bytes
    into messages gives the same samples (what is left of a sample waits for its rest)."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._width = ENCODINGS[encoding]
        self._rest = b""

    def decode(self, data: bytes) -> NDArray[np.float32]:
        data = self._rest + data
        whole = len(data) - len(data) % self._width
        self._rest = data[whole:]
        return _samples(self._encoding, data[:whole])


def _samples(encoding: str, data: bytes) -> NDArray[np.float32]:
    match encoding:
        case "pcm_s16le":
            return (np.frombuffer(data, "<i2") / np.float32(32768)).astype(np.float32)
        case "pcm_s32le":
            return (np.frombuffer(data, "<i4") / 2147483648).astype(np.float32)
        case "pcm_mulaw":
            return (MULAW[np.frombuffer(data, np.uint8)] / np.float32(32768)).astype(np.float32)
        case "pcm_alaw":
            return (ALAW[np.frombuffer(data, np.uint8)] / np.float32(32768)).astype(np.float32)
    floats = np.frombuffer(data, "<f2" if encoding == "pcm_f16le" else "<f4").astype(np.float32)
    return np.clip(np.nan_to_num(floats, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
