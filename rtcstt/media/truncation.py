"""What a file's own structure says of audio behind its end: sizes of chunks, boxes and pages, frame counts.

FFmpeg takes most lengths from what is there, so a file that was cut looks whole to it. Kinds that are not
here state nothing that could be compared: `docs/recordings.md` names them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

UNKNOWN = (0x7FFFFFFF, 0xFFFFFFFF)  # sizes by those who write without knowing how long it gets
NEAR_UNKNOWN = 4096  # some subtract their header from it
MOST_CHUNKS = 400_000
OGG_PAGE = 27 + 255 + 255 * 255  # bytes, at most (RFC 3533 section 6)
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


@dataclass(frozen=True, slots=True)
class Stated:
    """``share``: how many times as much audio as is there the file says it has, more than 1 if its end is
    missing; infinite: it is cut, and nothing says how much is missing. ``seconds``: its length as stated."""

    share: float = 1.0
    seconds: float | None = None


def stated(file: BinaryIO, begin: int, end: int, kind: str) -> Stated:
    """Of the recording between these bytes of a file; ``kind``: FFmpeg's name of its container."""
    look = _LOOKS.get(kind)
    try:
        return look(_Bytes(file, begin, end)) if look else Stated()
    except (struct.error, IndexError, OverflowError):  # it ends within what would say it
        return Stated()


class _Bytes:
    """A part of a file; places count from its beginning."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        self._file = file
        self._begin = begin
        self.size = end - begin

    def at(self, place: int, count: int) -> bytes:
        self._file.seek(self._begin + place)
        return self._file.read(max(0, min(count, self.size - place)))

    def number(self, place: int, form: str) -> int:
        """Raises `struct.error` behind the end."""
        value: int = struct.unpack(form, self.at(place, struct.calcsize(form)))[0]
        return value


def _share(there: int, said: int) -> Stated:
    """Of bytes of audio that begin before the end."""
    if said <= there or any(abs(said - unknown) < NEAR_UNKNOWN for unknown in UNKNOWN):
        return Stated()
    return Stated(said / there if there > 0 else math.inf)


def _chunk(data: _Bytes, place: int, order: str, wanted: bytes) -> Stated:
    """Chunks of a name and a size of 32 bits, filled up to an even length (EA IFF 85, RIFF)."""
    for _ in range(MOST_CHUNKS):
        length = data.number(place + 4, order + "I")
        if data.at(place, 4) == wanted:
            return _share(data.size - place - 8, length)
        place += 8 + length + length % 2
    return Stated()


def _wave(data: _Bytes) -> Stated:
    if data.at(0, 4) == b"RIFF":
        return _chunk(data, 12, "<", b"data")
    return Stated()  # of RF64, FFmpeg takes the length that is stated


def _aiff(data: _Bytes) -> Stated:
    return _chunk(data, 12, ">", b"SSND")


def _wave64(data: _Bytes) -> Stated:
    place = 40
    for _ in range(MOST_CHUNKS):
        length = data.number(place + 16, "<Q")
        if data.at(place, 16) == _W64_DATA:
            return _share(data.size - place - 24, length - 24)
        place += max(24, length + -length % 8)
    return Stated()


def _caf(data: _Bytes) -> Stated:
    place = 8
    for _ in range(MOST_CHUNKS):
        length = data.number(place + 4, ">q")
        if data.at(place, 4) == b"data":
            return _share(data.size - place - 12, length)
        place += 12 + max(0, length)
    return Stated()


def _avi(data: _Bytes) -> Stated:
    """The lists of media, each in a RIFF chunk of its own (OpenDML); the index behind them is not media."""
    place = 0
    while place + 12 <= data.size:
        length = data.number(place + 4, "<I")
        if data.at(place, 4) == b"RIFF":
            place += 12
        elif data.at(place, 4) == b"LIST" and data.at(place + 8, 4) == b"movi":
            if place + 8 + length > data.size:
                return _share(data.size, place + 8 + length)
            place += 8 + length + length % 2
        else:
            place += 8 + length + length % 2
    return Stated()


def _voc(data: _Bytes) -> Stated:
    """Blocks of a kind and a size of 24 bits; kind 0 ends the file."""
    place = data.number(20, "<H")
    while place < data.size and data.at(place, 1) != b"\0":
        place += 4 + (data.number(place, "<I") >> 8)
    return Stated(math.inf) if place > data.size else Stated()


def _real(data: _Bytes) -> Stated:
    place = 0
    while place + 8 <= data.size:
        length = data.number(place + 4, ">I")
        if data.at(place, 4) == b"DATA":
            return _share(data.size - place, length)
        place += max(8, length)
    return Stated()


def _asf(data: _Bytes) -> Stated:
    """The object "file properties" of the header (Advanced Systems Format, 3.2); not of a broadcast, whose
    lengths mean nothing."""
    place = 30
    for _ in range(data.number(24, "<I")):
        if data.at(place, 16) == _ASF_FILE:
            if data.number(place + 88, "<I") & 1:
                break
            length, preroll = data.number(place + 64, "<Q") / 1e7, data.number(place + 80, "<Q") / 1e3
            return Stated(_share(data.size, data.number(place + 40, "<Q")).share, max(0.0, length - preroll))
        place += max(24, data.number(place + 16, "<Q"))
    return Stated()


def _movie(data: _Bytes) -> Stated:
    """Boxes of fragments (ISO/IEC 14496-12). Of a movie without, FFmpeg tells the length that is stated."""
    place = 0
    fragmented = False
    while place + 8 <= data.size:
        length, name = data.number(place, ">I"), data.at(place + 4, 4)
        if length == 1:
            length = data.number(place + 8, ">Q")
        if length < 8:  # to the end
            return Stated()
        fragmented = fragmented or name == b"moof"
        if place + length > data.size:
            return Stated(math.inf) if fragmented and name != b"mfra" else Stated()
        place += length
    return Stated(math.inf) if fragmented and place < data.size else Stated()


def _ogg(data: _Bytes) -> Stated:
    """The last page is cut. That it is none that ends its stream says nothing: recorders of streams end
    anywhere."""
    begin = max(0, data.size - OGG_PAGE)
    tail = data.at(begin, OGG_PAGE)
    place = tail.rfind(b"OggS\0")
    if place < 0:
        return Stated()
    page = tail[place:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return Stated(math.inf)
    return Stated(math.inf) if len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]) else Stated()


def _mp3(data: _Bytes) -> Stated:
    """The first frame may tell the number of frames (Xing, LAME: Info; Fraunhofer: VBRI)."""
    begin = 0
    head = data.at(0, 10)
    if head[:3] == b"ID3" and len(head) == 10:
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    first = data.at(begin, 4096)
    for name, behind in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        place = first.find(name)
        if place >= 0 and (name == b"VBRI" or first[place + 7] & 1):
            each = [_frame_s(first, place - side) for side in (36, 21, 13) if place >= side]
            if any(each):
                return Stated(seconds=max(filter(None, each)) * data.number(begin + place + behind, ">I"))
    return Stated()


def _frame_s(data: bytes, place: int) -> float | None:
    """How long a frame of MPEG audio layer III is; None if there is none (ISO/IEC 11172-3, 13818-3)."""
    version, rate = data[place + 1] >> 3 & 3, data[place + 2] >> 2 & 3
    if data[place] != 0xFF or data[place + 1] & 0xE6 != 0xE2 or version == 1 or rate == 3:
        return None
    samples = 1152 if version == 3 else 576
    return samples * {3: 1, 2: 2, 0: 4}[version] / (44100, 48000, 32000)[rate]


def _matroska(data: _Bytes) -> Stated:
    """Elements of the segment, as far as their sizes are told: those of a live stream are not."""
    place, whole = 0, data.size
    for _ in range(MOST_CHUNKS):
        if place >= whole:
            break
        name = data.at(place, 4)
        start, length = _element(data, place)
        if length is None:
            if name not in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"):  # segment, cluster
                break
            length = 0
        elif name == b"\x18\x53\x80\x67":
            return _share(data.size, start + length)
        place = start + length
    return Stated(math.inf) if place > whole else Stated()


def _element(data: _Bytes, place: int) -> tuple[int, int | None]:
    """Where an element's content begins and how long it is, if that is told (RFC 8794)."""
    name = 9 - data.at(place, 1)[0].bit_length()
    first = data.at(place + name, 1)[0]
    width = 9 - first.bit_length()
    value = int.from_bytes(data.at(place + name, width), "big") & ((1 << 7 * width) - 1)
    return place + name + width, None if value == (1 << 7 * width) - 1 else value


def _adx(data: _Bytes) -> Stated:
    samples, rate = data.number(12, ">I"), data.number(8, ">I")
    return Stated(seconds=samples / rate if rate else None)


def _sox(data: _Bytes) -> Stated:
    """Samples of 32 bits of all channels together, behind the header."""
    order = "<" if data.at(0, 4) == b".SoX" else ">"
    header = data.number(4, order + "I")
    return _share(data.size - header, 4 * data.number(8, order + "Q"))


_LOOKS: dict[str, Callable[[_Bytes], Stated]] = {
    "wav": _wave,
    "w64": _wave64,
    "aiff": _aiff,
    "caf": _caf,
    "avi": _avi,
    "voc": _voc,
    "rm": _real,
    "asf": _asf,
    "mov,mp4,m4a,3gp,3g2,mj2": _movie,
    "ogg": _ogg,
    "mp3": _mp3,
    "matroska,webm": _matroska,
    "adx": _adx,
    "sox": _sox,
}
