"""The kinds of recordings that are read: one list for the command, the server and the caller.

FFmpeg may open a file only as one of these. Not among them is what reads other files or addresses (playlists,
`concat`, SDP), devices, images, and raw audio that nobody has described.
"""

from __future__ import annotations

import itertools
import mmap
import re
from typing import BinaryIO, Literal

# FFmpeg's names of demuxers
DEMUXERS = (
    # sound
    "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,dts,dtshd,mlp,truehd,loas,latm,amr,amrnb,amrwb,wv,tta,ape,tak,"
    "mpc,mpc8,dsf,iff,shn,qcp,sox,voc,ircam,nistsphere,pvf,paf,avr,oma,xwma,bonk,osq,qoa,rka,wavarc,dss,act,apc,"
    "g722,g723_1,g729,gsm,ilbc,sln,lc3,codec2,vqf,wve,rso,sbc,aea,rm,hcom,mmf,iamf,spdif,epaf,sds,sdx,nsp,aa,adx,wsd,"
    # film, with sound
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,asf_o,mpeg,mpegts,wtv,mxf,nut,dv,gxf,nsv,ivr,kux,live_flv,"
    "dhav,nuv,pva,siff,smjpeg,swf,ty,vivo"
)
MOST_LINKS = 10000  # recordings in one file
# Of these FFmpeg tells the length that their header states, so that what is missing at the end is known;
WITH_LENGTH = {"aiff", "au", "flac", "wv", "tta", "ape", "smjpeg"}
# of these it does for some codecs, or unless they come in fragments, else it tells that of what is there;
WITH_LENGTH_OR_NOT = {"wav", "w64", "rm", "mov,mp4,m4a,3gp,3g2,mj2"}
# of these only that of the whole: it is compared with how far any stream goes.
FILMS_WITH_LENGTH = {"matroska,webm", "flv"}
FILMS = FILMS_WITH_LENGTH | {"avi", "asf"}
# The clock of these begins at 0, so a first time of 2 s is two seconds of silence; others begin anywhere.
FROM_ZERO = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}

# FFmpeg counts the clock of these from sizes and a rate in the header, which some writers state wrongly.
COUNTED = {"avi"}
# Frames of equal length one behind the other: the size of a bad one tells how long it is.
FRAMES = {"mp3", "aac", "ac3", "eac3", "loas", "dts", "truehd", "mlp"}

_CUT = "{} that is damaged or was not written to its end"
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"#EXTM3U", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"ffconcat", "a list of files"),
    (b"v=0", "a session description"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE", "HTML"),
    (b"<html", "HTML"),
    (b"{", "JSON or text"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"MThd", "MIDI: notes, not sound"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"WEBVTT", "captions"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"caff", _CUT.format("a CAF file")),
    (b"nut/multimedia container", _CUT.format("a NUT file")),
    (b"\xb7\xd8\x00 7I\xda\x11", _CUT.format("a WTV file")),
    (b"\x1aE\xdf\xa3", _CUT.format("a Matroska or WebM file")),
    (b"OggS", _CUT.format("an Ogg file")),
    (b"fLaC", _CUT.format("a FLAC file")),
)


def guess(beginning: bytes) -> str | None:
    """What a file that is no recording looks like, for people."""
    if not beginning.strip(b"\0"):
        return "nothing but zero bytes" if beginning else "an empty file"
    for magic, kind in _BEGINNINGS:
        if beginning.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic):
            return kind
    if beginning[4:8] == b"ftyp":
        return "an MP4 without its index (moov), so it was not written to its end"
    try:
        text = beginning[:-3].decode("utf-8")  # a character may be cut at the end
    except UnicodeDecodeError:
        return None
    return "text" if text and all(c.isprintable() or c in "\r\n\t" for c in text) else None


def parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Beginning and end (in bytes) of each of the recordings that a file is joined of, without what is before
    the first: an ID3 tag before a format that has none. One, where it is not joined or in a way unknown
    here."""
    file.seek(0, 2)
    size = file.tell()
    begin = _tag(file)
    file.seek(begin)
    head = file.read(12)
    if head[:4] == b"OggS":
        bounds = _ogg_links(file)
    elif head[:4] in (b"RIFF", b"RF64", b"FORM"):
        bounds = _chunks(file, begin, size)
    elif head[4:8] == b"ftyp":
        bounds = _movies(file, begin, size)
    elif head[:4] == b"wvpk":
        bounds = _wavpacks(file, begin, size)
    else:
        bounds = [begin, *_beginnings(file, head, begin + 1)]
    return list(itertools.pairwise([*bounds, size]))


def _tag(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    length = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(length)
    return length if file.read(4) in (b"RIFF", b"RF64", b"OggS", b"FORM", b"caff", b".snd") else 0


def _chunks(file: BinaryIO, begin: int, size: int) -> list[int]:
    """Where RIFF or AIFF files begin that were put one behind the other."""
    found = [begin]
    while len(found) < MOST_LINKS:
        file.seek(found[-1])
        head = file.read(12)
        order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
        after = found[-1] + 8 + int.from_bytes(head[4:8], order)
        file.seek(after)
        following = file.read(12)
        alike = following[:4] == head[:4] and following[8:] == head[8:]
        if head[:4] not in (b"RIFF", b"FORM") or after >= size or not alike:
            return found
        found.append(after)
    return found


def _movies(file: BinaryIO, begin: int, size: int) -> list[int]:
    """Where MP4 files begin that were put one behind the other: at a box ``ftyp`` after others."""
    found, at = [begin], begin
    while at + 16 <= size and len(found) < MOST_LINKS:
        file.seek(at)
        head = file.read(16)
        if head[4:8] == b"ftyp" and at > begin:
            found.append(at)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # to the end, or no box
            break
        at += length
    return found


def _wavpacks(file: BinaryIO, begin: int, size: int) -> list[int]:
    """Where WavPack files begin: at a block whose first sample is none of those that come next."""
    found, at, last = [begin], begin, 0
    while at + 32 <= size and len(found) < MOST_LINKS:
        file.seek(at)
        head = file.read(32)
        if head[:8] == b"APETAGEX":
            at += 32 + int.from_bytes(head[12:16], "little")
            continue
        if head[:4] != b"wvpk":
            break
        first = int.from_bytes(head[16:20], "little")
        if int.from_bytes(head[20:24], "little"):  # else it holds a checksum and the like
            if first < last:
                found.append(at)
            last = first
        at += 8 + int.from_bytes(head[4:8], "little")
    return found


# How files of a kind begin that have no length at their beginning: nothing else in them is likely to be that.
_JOINED = {
    b"fLaC": re.compile(rb"fLaC\0\0\0\x22"),
    b"TTA1": re.compile(rb"TTA1[\x01\x02]\0"),
    b"caff": re.compile(rb"caff\0\x01\0\0desc"),
    b"FLV\x01": re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0"),
    b"riff": re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"),  # Wave64
}


def _beginnings(file: BinaryIO, head: bytes, after: int) -> list[int]:
    """Where others of the same kind begin."""
    pattern = _JOINED.get(head[:4])
    if pattern is None:
        return []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [match.start() for match in itertools.islice(pattern.finditer(data, after), MOST_LINKS)]


_BEGINS = 2  # flag of a stream's first Ogg page (RFC 3533 section 6)


def _ogg_links(file: BinaryIO) -> list[int]:
    """Where the links of a chained Ogg file begin: at pages that begin streams, after one that does not."""
    found: list[int] = []
    beginning = False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(b"OggS\0")
        while at >= 0 and at + 5 < len(data) and len(found) < MOST_LINKS:
            begins = bool(data[at + 5] & _BEGINS)
            if begins and not beginning:
                found.append(at)
            beginning = begins
            at = data.find(b"OggS\0", at + 5)
    return found or [0]
