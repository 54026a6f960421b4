"""The kinds of recordings that are read: one list for the command, the server and the caller.

FFmpeg may open a file only as one of these. Not among them is what reads other files or addresses (playlists,
`concat`, SDP), devices, images, and raw audio that nobody has described.
"""

from __future__ import annotations

# FFmpeg's names of demuxers
DEMUXERS = (
    # sound
    "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,dts,dtshd,mlp,truehd,loas,latm,amr,amrnb,amrwb,wv,tta,ape,tak,"
    "mpc,mpc8,dsf,iff,shn,qcp,sox,voc,ircam,nistsphere,pvf,paf,avr,oma,xwma,bonk,osq,qoa,rka,wavarc,dss,act,apc,"
    "aptx,aptx_hd,g722,g723_1,g729,gsm,ilbc,sln,lc3,codec2,vqf,wve,rso,sbc,aea,rm,hcom,mmf,iamf,spdif,epaf,sds,"
    "sdx,nsp,aa,adx,wsd,"
    # film, with sound
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,asf_o,mpeg,mpegts,wtv,mxf,nut,dv,gxf,nsv,ivr,kux,live_flv,"
    "dhav,nuv,pva,siff,smjpeg,swf,ty,vivo"
)
# Of these FFmpeg tells the length that their header states, so that what is missing at the end is known;
WITH_LENGTH = {"aiff", "au", "flac", "wv", "tta", "ape", "smjpeg"}
# of these it does for some codecs, or unless they come in fragments, else it tells that of what is there;
WITH_LENGTH_OR_NOT = {"wav", "w64", "rm", "mov,mp4,m4a,3gp,3g2,mj2"}
# of these only that of the whole: it is compared with how far any stream goes.
FILMS_WITH_LENGTH = {"matroska,webm", "flv", "wtv"}
FILMS = FILMS_WITH_LENGTH | {"avi", "asf"}
# The clock of these begins at 0, so a first time of 2 s is two seconds of silence; others begin anywhere.
FROM_ZERO = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv"}
# FFmpeg counts the clock of these from sizes and a rate in the header, which some writers state wrongly.
COUNTED = {"avi"}
# The clock of these only counts what can be read: the size of what cannot tells how long it is.
UNTIMED = {"mp3", "aac", "ac3", "eac3", "loas", "dts", "truehd", "mlp", "wav", "w64", "sbc", "spdif"}
# Nothing can be left out of these but by damage.
WITHOUT_PAUSES = {"flac", "tta", "wv", "ape", "tak"}
# These end with their last packet: no index, no tag is behind it.
NOTHING_BEHIND = {"mpegts", "mpeg", "voc", "sbc"}
# In the order of these FFmpeg reads what their index says, whatever lies between.
INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2"}

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
