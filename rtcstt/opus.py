"""Opus by libopus itself, where it can be found: PyAV's wheels ship it.

PyAV decodes Opus too, but its interface reaches neither in-band FEC nor packet loss concealment,
and libopus decodes straight to 16 kHz mono, which saves a resampler. Without a libopus
`load` gives None and `codecs` falls back to PyAV.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16000
MAX_SAMPLES = RATE * 120 // 1000  # the longest packet
_STEP = RATE // 400  # concealment comes in multiples of 2.5 ms


class OpusError(Exception):
    """libopus refused a packet."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None where there is none. Loaded once per process."""
    for path in _candidates():
        try:
            return _declare(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue
    return None


def _candidates() -> list[str]:
    found = []
    spec = importlib.util.find_spec("av")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        for folder in (package.parent / "av.libs", package / ".dylibs", package):
            found += [str(path) for path in sorted(folder.glob("libopus[-.]*"))]
    system = ctypes.util.find_library("opus")
    return [*found, system] if system else found


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.opus_decoder_create.restype = pointer
    library.opus_decoder_create.argtypes = [ctypes.c_int32, integer, ctypes.POINTER(integer)]
    library.opus_decoder_destroy.restype = None
    library.opus_decoder_destroy.argtypes = [pointer]
    library.opus_decode.restype = integer
    library.opus_decode.argtypes = [pointer, ctypes.c_char_p, ctypes.c_int32, pointer, integer, integer]
    library.opus_packet_has_lbrr.restype = integer
    library.opus_packet_has_lbrr.argtypes = [ctypes.c_char_p, ctypes.c_int32]
    return library


class OpusDecoder:
    """One stream's decoder; int16 mono at 16 kHz. Raises `OpusError` where libopus refuses."""

    def __init__(self, library: ctypes.CDLL) -> None:
        error = ctypes.c_int()
        self._library = library
        self._state = library.opus_decoder_create(RATE, 1, ctypes.byref(error))
        if not self._state:
            raise OpusError(f"libopus gives no decoder ({error.value})")
        weakref.finalize(self, library.opus_decoder_destroy, self._state)
        self._pcm = np.zeros(MAX_SAMPLES, np.int16)
        self._address = self._pcm.ctypes.data

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        return self._run(payload, MAX_SAMPLES, fec=0)

    def has_fec(self, payload: bytes) -> bool:
        """Whether the packet carries the frame before it once more (RFC 6716 section 2.1.7)."""
        return bool(payload) and self._library.opus_packet_has_lbrr(payload, len(payload)) == 1

    def recover(self, payload: bytes, samples: int) -> NDArray[np.int16]:
        """The ``samples`` before ``payload``, from its FEC."""
        return self._run(payload, samples, fec=1)

    def conceal(self, samples: int) -> NDArray[np.int16]:
        """What might have been in ``samples`` (a multiple of 2.5 ms) that never came."""
        return self._run(None, max(_STEP, samples - samples % _STEP), fec=0)

    def _run(self, payload: bytes | None, samples: int, *, fec: int) -> NDArray[np.int16]:
        length = len(payload) if payload is not None else 0
        count = self._library.opus_decode(self._state, payload, length, self._address, samples, fec)
        if count < 0:
            raise OpusError(f"libopus refused a packet ({count})")
        return self._pcm[:count].copy()
