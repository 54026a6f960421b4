"""Where recordings begin and end in a file that holds several, one behind the other, of one kind or of
several; a core.

FFmpeg reads the first and stops, or takes the others for its sound. Where a recording's own structure tells
its end (sizes of chunks, boxes, blocks and pages) another begins there or not at all; where none does, at
bytes that hardly are anything else. ADTS is looked through frame by frame, because FFmpeg leaves out what it
cannot read of it without a word.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable

Data = bytes | mmap.mmap

MOST = 10000  # recordings in one file
_TAGGED = (
    b"RIFF",
    b"RF64",
    b"OggS",
    b"FORM",
    b"caff",
    b".snd",
)  # what has no ID3 tag, before which one may be
# How a recording begins: what is looked for, how far behind its beginning, and what else is there.
_BEGINNINGS: tuple[tuple[bytes, int, re.Pattern[bytes]], ...] = tuple(
    (core, offset, re.compile(pattern, re.DOTALL))
    for core, offset, pattern in (
        (b"WAVE", 8, rb"(?:RIFF|RF64).{4}WAVE(?:[a-zA-Z ]{3}|$)"),
        (b"AVI LIST", 8, rb"RIFF.{4}AVI LIST"),
        (b"FORM", 0, rb"FORM.{4}AIF[FC]"),
        (b"fLaC\0\0\0\x22", 0, rb"fLaC"),
        (b"OggS\0\x02\0\0\0\0\0\0\0\0", 0, rb"OggS"),
        (b"TTA1", 0, rb"TTA1[\x01\x02]\0"),
        (b"caff\0\x01\0\0desc", 0, rb"caff"),
        (b"FLV\x01", 0, rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0"),
        (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0", 0, rb"riff"),  # Wave64
        (b"\x1aE\xdf\xa3", 0, rb"\x1aE\xdf\xa3.{1,60}?\x42\x82.(?:matroska|webm)"),
        (b"ftyp", 4, rb"\0\0\0[\x10-\x80]ftyp[\x20-\x7e]{4}"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", 0, rb"0&"),  # ASF
        (b"Creative Voice File\x1a", 0, rb"C"),
        (b".snd\0\0", 0, rb"\.snd\0\0.{6}\0\0\0[\x01-\x1b]\0[\0-\x03].{2}\0\0\0[\x01-\x20]"),
        (b"wvpk", 0, rb"wvpk.{4}.\x04.{6}\0\0\0\0[^\0].{3}"),
        (b"ID3", 0, rb"ID3[\x02-\x04]\0.[\0-\x7f]{4}"),  # and a row of frames behind it
    )
)
_ADTS_RATES = 13
_LOST_FRAMES = 9  # of ADTS, a fifth of a second: less is not worth another beginning
_OGG_BEGINS = 2  # flag of a stream's first page (RFC 3533 section 6)


def parts(data: Data) -> list[tuple[int, int]]:
    """Beginning and end (in bytes) of each recording, without what is before the first: an ID3 tag before a
    format that has none. What lies between the end of one and the next is lost."""
    size = len(data)
    found: list[tuple[int, int]] = []
    begin: int | None = _behind_tag(data)
    while begin is not None and begin < size and len(found) < MOST:
        end, following = _until(data, begin)
        found.append((begin, end))
        begin = following
    if not found:
        return [(0, size)]
    last, end = found[-1]
    if begin is not None:  # more than are looked for
        end = size
    if end == size and _row_begins(data, _tag_end(data, last)):
        end = max(last + 1, _tags_behind(data, last))
    found[-1] = last, end
    return found


def _behind_tag(data: Data) -> int:
    end = _tag_end(data, 0)
    return end if data[end : end + 4] in _TAGGED else 0


def _tag_end(data: Data, at: int) -> int:
    """Of an ID3 tag (version 2) that begins there, if one does."""
    head = data[at : at + 10]
    if len(head) < 10 or head[:3] != b"ID3":
        return at
    return at + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _tags_behind(data: Data, begin: int) -> int:
    """Where tags begin that are at the end of the file: of ID3 (version 1), Lyrics3, and APE."""
    end = len(data)
    while end > begin:
        if data[end - 128 : end - 125] == b"TAG":
            end -= 128
        elif data[end - 9 : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
            end -= 15 + int(data[end - 15 : end - 9])
        elif data[end - 32 : end - 24] == b"APETAGEX":
            end -= max(32, _number(data, end - 20, "<I"))
            end -= 32 * (data[end - 32 : end - 24] == b"APETAGEX")  # not each has a header
        else:
            break
    return max(begin, end)


def _until(data: Data, begin: int) -> tuple[int, int | None]:
    """The end of the recording that begins there, and where the next one does."""
    size = len(data)
    try:
        end = _end(data, begin)
    except (struct.error, IndexError):  # it is cut
        end = size
    if isinstance(end, tuple):
        return end
    if end is None:
        following = _find(data, begin + 1)
    elif end >= size:
        following = None
    else:
        following = next((at for at in (end, end + 1) if _begins(data, at)), None)
        following = _find(data, end) if following is None else following
    return (size, None) if following is None else (following, following)


def _find(data: Data, after: int) -> int | None:
    """Where the next recording begins, of those that are known by their first bytes."""
    found = [at for one in _BEGINNINGS if (at := _find_kind(data, after, *one)) is not None]
    return min(found, default=None)


def _find_kind(data: Data, after: int, core: bytes, offset: int, pattern: re.Pattern[bytes]) -> int | None:
    at = data.find(core, after + offset)
    while at >= 0:
        begin = at - offset
        if pattern.match(data[begin : begin + 80]) and (
            core != b"ID3" or _row_begins(data, _tag_end(data, begin))
        ):
            return begin
        at = data.find(core, at + 1)
    return None


def _begins(data: Data, at: int) -> bool:
    """Whether a recording of any kind begins exactly there."""
    head = data[at : at + 80]
    known = (
        pattern.match(head) and head.startswith(core, offset) for core, offset, pattern in _BEGINNINGS[:-1]
    )
    return any(known) or _row_begins(data, _tag_end(data, at))


def _row_begins(data: Data, at: int) -> bool:
    """A row of frames or packets: two of them, one behind the other."""
    if data[at : at + 1] == b"\x47":
        return all(data[at + 188 * n : at + 188 * n + 1] == b"\x47" for n in (1, 2))
    for length_of in (adts_length, _mpeg_length, _ac3_length):
        length = length_of(data, at)
        if length and length_of(data, at + length):
            return True
    return False


def adts_length(data: Data, at: int) -> int:
    """Bytes of a frame that begins there (ISO/IEC 13818-7); 0 where none does."""
    head = data[at : at + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 >= _ADTS_RATES:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0


_KBIT = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBIT_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)


def _mpeg_length(data: Data, at: int) -> int:
    """The same of MPEG audio layer III (ISO/IEC 11172-3, 13818-3)."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate, full = head[1] >> 3 & 3, head[2] >> 2 & 3, head[1] >> 3 & 3 == 3
    kbit = (_KBIT if full else _KBIT_LOW)[head[2] >> 4]
    if version == 1 or rate == 3 or not kbit:
        return 0
    hz = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if full else 72) * kbit * 1000 // hz + (head[2] >> 1 & 1)


_AC3_KBIT = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def _ac3_length(data: Data, at: int) -> int:
    """The same of AC-3 and E-AC-3 (ETSI TS 102 366)."""
    head = data[at : at + 6]
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >= 38:
        return 0
    kbit = _AC3_KBIT[code // 2]
    return (4 * kbit, 2 * (320 * kbit // 147 + code % 2), 6 * kbit)[rate]


def _end(data: Data, begin: int) -> int | None | tuple[int, int | None]:
    """Where the recording ends by its own structure, None where nothing tells; or that and where the next
    one begins."""
    head = data[begin : begin + 20]
    for magic, look in _ENDS:
        if head.startswith(magic):
            return look(data, begin)
    if head[4:8] == b"ftyp":
        return _movie(data, begin)
    first = _tag_end(data, begin)
    if adts_length(data, first) and _row_begins(data, first):
        return _adts(data, first)
    return None if _row_begins(data, first) and data[first] != 0x47 else len(data)  # MPEG-TS may be a film


def _adts(data: Data, at: int) -> tuple[int, int | None]:
    """Frames as far as they follow each other, and where they go on."""
    size, frames, begin = len(data), 0, at
    while at < size:
        if length := adts_length(data, at):
            at += length
            frames += 1
            continue
        if (behind := _tag_end(data, at)) > at:  # as in segments that were put one behind the other
            at = behind
            continue
        if _begins(data, at):
            return at, at
        following = _next_adts(data, at)
        if following is None:
            return (at, None) if data[at : at + 3] == b"TAG" else (size, None)
        if (following - at) * frames >= _LOST_FRAMES * (at - begin):
            return at, following
        at = following
    return size, None


def _next_adts(data: Data, at: int) -> int | None:
    while (at := data.find(b"\xff", at + 1)) >= 0:
        if (length := adts_length(data, at)) and adts_length(data, at + length):
            return at
    return None


def _chunks(data: Data, begin: int) -> int:
    """A RIFF or AIFF file is one chunk, a long film several."""
    order = ">" if data[begin : begin + 4] == b"FORM" else "<"
    end = begin + 8 + _number(data, begin + 4, order + "I")
    while data[end : end + 4] == b"RIFF" and data[end + 8 : end + 12] == b"AVIX":  # more of it (OpenDML)
        end += 8 + _number(data, end + 4, "<I")
    return end


def _wave64(data: Data, begin: int) -> int:
    return begin + max(40, _number(data, begin + 16, "<Q"))


def _movie(data: Data, begin: int) -> int:
    """Boxes; the next movie begins with a box ``ftyp``."""
    at = begin
    while at + 16 <= len(data):
        if at > begin and _begins(data, at):
            return at
        length = _number(data, at, ">I")
        if length == 1:
            length = _number(data, at + 8, ">Q")
        if length < 8:  # to the end, or no box
            return len(data) if length == 0 else at
        at += length
    return at


def _wavpack(data: Data, begin: int) -> int:
    """Blocks; another file begins at one whose first sample is none of those that come next."""
    at, last = begin, 0
    while data[at : at + 4] == b"wvpk" or data[at : at + 8] == b"APETAGEX":
        head = data[at : at + 32]
        if head[:1] == b"A":
            at += 32 + _number(data, at + 12, "<I")
            continue
        first = _number(data, at + 16, "<I")
        if _number(data, at + 20, "<I"):  # else it holds a checksum and the like
            if first < last:
                return at
            last = first
        at += 8 + _number(data, at + 4, "<I")
    return at


def _ogg(data: Data, begin: int) -> tuple[int, int | None]:
    """Pages, until some begin streams again (a chained file), or something else begins."""
    at, started = begin, False
    while at < len(data):
        if data[at : at + 5] != b"OggS\0":
            if _begins(data, at):
                return at, at
            at = data.find(b"OggS\0", at)
            if at < 0:
                break
        begins = bool(data[at + 5] & _OGG_BEGINS)
        if begins and started:
            return at, at
        started = started or not begins
        following = at + 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
        at = following if data[following : following + 1] else len(data)
    return len(data), None


def first_page(data: Data, begin: int, place: int) -> int:
    """Where the first page with sound is, damaged or not, of the Ogg stream that has a page at this place."""
    at = begin
    while 0 <= (at := data.find(b"OggS\0", at, place)):
        if data[at + 14 : at + 18] == data[place + 14 : place + 18] and _number(data, at + 6, "<q") > 0:
            return at
        at += 5
    return place


def _matroska(data: Data, begin: int) -> int:
    """One segment behind the header, unless a live one, which has no length."""
    at = begin
    for name in (b"\x1aE\xdf\xa3", b"\x18\x53\x80\x67"):
        if data[at : at + 4] != name:
            return len(data)
        width = 9 - data[at + 4].bit_length()
        value = int.from_bytes(data[at + 4 : at + 4 + width], "big") & ((1 << 7 * width) - 1)
        if value == (1 << 7 * width) - 1:
            return len(data)
        at += 4 + width + value
    return at


def _asf(data: Data, begin: int) -> int:
    """Objects: header, data, indexes; that of the data has no length in a broadcast."""
    at = begin
    for _ in range(2):
        length = _number(data, at + 16, "<Q")
        if length < 24:
            return len(data)
        at += length
    while (
        not _begins(data, at) and data[at : at + 16] and 24 <= _number(data, at + 16, "<Q") <= len(data) - at
    ):
        at += _number(data, at + 16, "<Q")
    return at


def _caf(data: Data, begin: int) -> int | None:
    at = begin + 8
    while at < len(data) and not _begins(data, at):
        length = _number(data, at + 4, ">q")
        if length < 0:
            return None
        at += 12 + length
    return at


def _flash(data: Data, begin: int) -> int:
    """Tags of a size; a film that was damaged goes on behind what is none."""
    at = begin + 13
    while at + 11 < len(data) and data[at] & 0xDF in (8, 9, 18):
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return at


def _sun(data: Data, begin: int) -> int | None:
    length = _number(data, begin + 8, ">I")
    return None if length == 0xFFFFFFFF else begin + _number(data, begin + 4, ">I") + length


def _voice(data: Data, begin: int) -> int:
    """Blocks of a kind and a size of 24 bits; kind 0 ends the file."""
    at = begin + _number(data, begin + 20, "<H")
    while at < len(data) and data[at]:
        at += 4 + (_number(data, at, "<I") >> 8)
    return at + 1


def _untold(data: Data, begin: int) -> None:
    return None


_ENDS: tuple[tuple[bytes, Callable[[Data, int], int | None | tuple[int, int | None]]], ...] = (
    (b"OggS", _ogg),
    (b"RIFF", _chunks),
    (b"FORM", _chunks),
    (b"riff", _wave64),
    (b"wvpk", _wavpack),
    (b"\x1aE\xdf\xa3", _matroska),
    (b"\x30\x26\xb2\x75", _asf),
    (b"caff", _caf),
    (b"FLV\x01", _flash),
    (b".snd", _sun),
    (b"Creative Voice File", _voice),
    (b"fLaC", _untold),
    (b"TTA1", _untold),
)


def _number(data: Data, place: int, form: str) -> int:
    """Raises `struct.error` behind the end."""
    value: int = struct.unpack(form, data[place : place + struct.calcsize(form)])[0]
    return value
