"""Channel layouts at which FFmpeg 8.0 writes beyond its memory: the orders of Apple's (Core Audio's
``AudioChannelLayoutTag``) that are not its own, in AIFF, CAF and QuickTime files. They are hidden from it;
then the order of the channels is unknown, and all of them count alike. A core.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping

UNKNOWN = b"\xff\xff\0\0"
# Tags that FFmpeg has in its own order: one channel and pairs, quadraphonic, 3.0, 4.0, 5.0, 5.1, 2.1, 2.2.
_SAFE = {0x6C0004, 0x710003, 0x730004, 0x750005, 0x790006, 0x830003, 0x840004}
_FIRST, _FIRST_OF_MORE, _BEHIND = 0x640000, 0x6B0000, 0x1100000
MOST_CHUNKS = 10_000

Data = bytes | mmap.mmap


def hidden(data: Data, begin: int, end: int) -> Mapping[int, bytes]:
    """What FFmpeg is to get in place of four bytes, by their places counted from ``begin``."""
    try:
        places = [place for place in _tags(data, begin, end) if _is_unsafe(data, place)]
    except struct.error:  # it is cut
        return {}
    return {place - begin: UNKNOWN for place in places}


def _is_unsafe(data: Data, place: int) -> bool:
    tag = _number(data, place, ">I")
    return _FIRST <= tag < _BEHIND and not (tag < _FIRST_OF_MORE or tag in _SAFE)


def _tags(data: Data, begin: int, end: int) -> Iterator[int]:
    """Where such tags are."""
    head = data[begin : begin + 12]
    if head[:4] == b"FORM":
        yield from (place + 8 for place in _chunks(data, begin + 12, end, b"CHAN", ">I", 2))
    elif head[:4] == b"caff":
        yield from (place + 12 for place in _chunks(data, begin + 8, end, b"chan", ">q", 1))
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        for movie in _boxes(data, begin, end, b"moov"):
            stop = min(end, movie + _number(data, movie, ">I"))
            place = data.find(b"chan", movie, stop)
            while 0 <= place:
                if data[place + 4 : place + 8] == bytes(4):  # version and flags
                    yield place + 8
                place = data.find(b"chan", place + 4, stop)


def _chunks(data: Data, at: int, end: int, name: bytes, size: str, even: int) -> Iterator[int]:
    for _ in range(MOST_CHUNKS):
        if at + 4 > end:
            return
        if data[at : at + 4] == name:
            yield at
        length = _number(data, at + 4, size)
        if length < 0:
            return
        at += 4 + struct.calcsize(size) + length + length % even


def _boxes(data: Data, at: int, end: int, name: bytes) -> Iterator[int]:
    while at + 16 <= end:
        length = _number(data, at, ">I")
        if data[at + 4 : at + 8] == name:
            yield at
        if length == 1:
            length = _number(data, at + 8, ">Q")
        if length < 8:
            return
        at += length


def _number(data: Data, place: int, form: str) -> int:
    """Raises `struct.error` behind the end."""
    value: int = struct.unpack(form, data[place : place + struct.calcsize(form)])[0]
    return value
