"""The kinds of recordings that are read: one list for the command, the server and the caller.

FFmpeg may open a file only as one of these. Not among them is what reads other files or addresses (playlists,
`concat`, SDP), devices, images, and raw audio that nobody has described.
"""

from __future__ import annotations

import mmap
from typing import BinaryIO

# FFmpeg's names of demuxers
DEMUXERS = (
    # sound
    "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,dts,dtshd,mlp,truehd,loas,latm,amr,amrnb,amrwb,wv,tta,ape,tak,"
    "mpc,mpc8,dsf,iff,shn,qcp,sox,voc,ircam,nistsphere,pvf,paf,avr,oma,xwma,bonk,osq,qoa,rka,wavarc,dss,act,apc,"
    "g722,g723_1,g729,gsm,ilbc,sln,lc3,codec2,vqf,wve,rso,sbc,aea,rm,hcom,mmf,tta,iamf,spdif,"
    # film, with sound
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,asf_o,mpeg,mpegts,wtv,mxf,nut,dv,gxf,nsv,ivr,kux,live_flv"
)
# A stated length of these can be believed, so that what is missing at the end is known.
WITH_LENGTH = {"wav", "w64", "aiff", "caf", "au", "flac", "wv", "tta", "ape", "mov,mp4,m4a,3gp,3g2,mj2"}
# The clock of these begins at 0, so a first time of 2 s is two seconds of silence; others begin anywhere.
FROM_ZERO = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}

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
)


def guess(beginning: bytes) -> str | None:
    """What a file that is no recording looks like, for people."""
    if not beginning.strip(b"\0"):
        return "nothing but zero bytes" if beginning else "an empty file"
    for magic, kind in _BEGINNINGS:
        if beginning.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic):
            return kind
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
    magic = file.read(4)
    if magic == b"OggS":
        bounds = [*_ogg_links(file), size]
    elif magic in (b"RIFF", b"RF64"):
        bounds = [*_riffs(file, begin, size), size]
    else:
        bounds = [begin, size]
    return list(zip(bounds, bounds[1:], strict=False))


def _tag(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    length = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(length)
    return length if file.read(4) in (b"RIFF", b"RF64", b"OggS", b"FORM", b"caff", b".snd") else 0


def _riffs(file: BinaryIO, begin: int, size: int) -> list[int]:
    """Where WAVE files begin that were put one behind the other."""
    found = [begin]
    while True:
        file.seek(found[-1])
        head = file.read(12)
        after = found[-1] + 8 + int.from_bytes(head[4:8], "little")
        file.seek(after)
        following = file.read(12)
        if head[:4] != b"RIFF" or after >= size or following[:4] != b"RIFF" or following[8:] != b"WAVE":
            return found
        found.append(after)


_BEGINS = 2  # flag of a stream's first Ogg page (RFC 3533 section 6)
MOST_LINKS = 10000


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
