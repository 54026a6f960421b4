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
BLOCK = 8 * MAX_SAMPLES  # a buffer for many packets, so that none is copied
STEP = RATE // 400  # every duration is a multiple of 2.5 ms

_Frames = ctypes.POINTER(ctypes.c_ubyte) * 48
_Sizes = ctypes.c_int16 * 48


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
    library.opus_packet_parse.restype = integer
    library.opus_packet_parse.argtypes = [
        *(ctypes.c_char_p, ctypes.c_int32, pointer, ctypes.POINTER(_Frames)),
        *(ctypes.POINTER(_Sizes), pointer),
    ]
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
        self._decode = library.opus_decode
        self._block = np.empty(0, np.int16)  # what is decoded next is written into it, and given out as it is
        self._address = self._used = 0
        self._speaks = False  # the last packet was in a mode for speech, not in the one for music

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        if not payload:
            raise OpusError("an empty packet")  # libopus would take it for a lost one
        samples = self._run(payload, MAX_SAMPLES, fec=0)
        self._speaks = _is_silk(payload)
        return samples

    def recoverable(self, payload: bytes) -> int:
        """How many samples before ``payload`` its FEC restores; 0 where it carries none.

        That is one Opus frame, though a packet may hold several. libopus restores nothing in the
        music mode, nor right after it.
        """
        if not self._speaks or not has_fec(self._library, payload):
            return 0
        return _frame_samples(payload)

    def recover(self, payload: bytes) -> NDArray[np.int16]:
        """The `recoverable` samples before ``payload``, which is still to be decoded after."""
        return self._run(payload, _frame_samples(payload), fec=1)

    def conceal(self, samples: int) -> NDArray[np.int16]:
        """What might have been in ``samples`` (a multiple of `STEP`) that never came."""
        return self._run(None, samples, fec=0)

    def _run(self, payload: bytes | None, samples: int, *, fec: int) -> NDArray[np.int16]:
        length = len(payload) if payload is not None else 0
        begin = self._used
        if begin + samples > len(self._block):
            self._block, begin = np.empty(BLOCK, np.int16), 0
            self._address = self._block.ctypes.data
        count = self._decode(self._state, payload, length, self._address + 2 * begin, samples, fec)
        if count < 0:
            raise OpusError(f"libopus refused a packet ({count})")
        self._used = begin + count
        return self._block[begin : begin + count]


def has_fec(library: ctypes.CDLL, payload: bytes) -> bool:
    """Whether a packet carries the frame before it once more (RFC 6716 section 2.1.7).

    SILK and hybrid frames begin with a bit of voice activity for every 20 ms and then the LBRR flag,
    first for the middle channel, then for the side (section 4.2.3). They are range coded, but at
    even odds, which leaves them readable as they are. libopus says it only since 1.5.
    """
    if not _is_silk(payload):
        return False
    frames, sizes = _Frames(), _Sizes()
    count = library.opus_packet_parse(payload, len(payload), None, frames, sizes, None)
    if count <= 0 or sizes[0] == 0:
        return False
    flags = frames[0][0]  # points into `payload`
    bits = max(1, _frame_samples(payload) * 50 // RATE)  # of voice activity
    middle = flags >> (7 - bits) & 1
    side = flags >> (6 - 2 * bits) & 1 if payload[0] & 0x04 else 0
    return bool(middle | side)


def _is_silk(payload: bytes) -> bool:
    """Whether a packet is in the SILK or hybrid mode (RFC 6716 section 3.1)."""
    return bool(payload) and payload[0] < 0x80


def _frame_samples(payload: bytes) -> int:
    """The length of each frame of a SILK or hybrid packet (RFC 6716 section 3.1)."""
    config = payload[0] >> 3
    ms = (10, 20, 40, 60)[config & 3] if config < 12 else (10, 20)[config & 1]
    return ms * RATE // 1000
