"""A recording that comes by HTTP: the form it is in, and its audio as the recogniser wants it.

The file is written to disk as it arrives and decoded a second at a time, so memory does not grow with
its length. Everything about it is a stranger's: sizes are bounded, and FFmpeg may open it only as one of
`FORMATS`, because its playlist formats read other files of this machine into the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any

import av
import numpy as np
from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError
from av.error import FFmpegError, InvalidDataError

from rtcstt import wire
from rtcstt.embedded.audio import AudioInput
from rtcstt.embedded.hypothesis import Audio
from rtcstt.errors import CallerError
from rtcstt.media.pcm import SAMPLE_RATE

MAX_UPLOAD = 512 * 1024 * 1024
MAX_HOURS = 24  # of audio, since a file of silence can be very small
MAX_FIELD = 4096  # characters of one field of the form
MAX_FIELDS = 256
BLOCK = SAMPLE_RATE
FORMATS = "wav,flac,mp3,ogg,matroska,webm,mov,mp4,m4a,mpeg,aac,aiff,caf,amr"  # FFmpeg's names of containers


async def read_form(request: web.Request, file: IO[bytes]) -> dict[str, list[str]]:
    """Write the part named file into ``file``, which ends up at its beginning; return the other fields.

    `CallerError` 400, 413 or 415.
    """
    if request.content_type != "multipart/form-data":
        message = "Send multipart/form-data."
        raise CallerError(415, "unsupported_media_type", "Unsupported media type", message)
    if (request.content_length or 0) > MAX_UPLOAD + MAX_FIELD * MAX_FIELDS:
        raise _too_big()
    fields: dict[str, list[str]] = {}
    try:
        await _read_parts(request, file, fields)
    except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as error:
        raise wire.bad_request("The form is broken.") from error
    if not file.tell():
        raise wire.bad_request("The form has no file, or an empty one.", "no_file")
    file.seek(0)
    return fields


async def _read_parts(request: web.Request, file: IO[bytes], fields: dict[str, list[str]]) -> None:
    count = 0
    async for part in await request.multipart():
        count += 1
        if count > MAX_FIELDS:
            raise wire.bad_request(f"The form has more than {MAX_FIELDS} fields.")
        if not isinstance(part, BodyPartReader):
            raise wire.bad_request("The form has a part within a part.")
        if part.name == "file":
            await _store(part, file)
        else:
            fields.setdefault((part.name or "").removesuffix("[]"), []).append(await _text(part))


async def _store(part: BodyPartReader, file: IO[bytes]) -> None:
    while chunk := await part.read_chunk(1 << 16):
        if file.tell() + len(chunk) > MAX_UPLOAD:
            raise _too_big()
        file.write(chunk)


async def _text(part: BodyPartReader) -> str:
    data = b""
    while chunk := await part.read_chunk(MAX_FIELD):
        data += chunk
        if len(data) > MAX_FIELD:
            raise wire.bad_request("A field of the form is too long.")
    return data.decode("utf-8", "replace")


def blocks(file: IO[bytes], query: Mapping[str, str]) -> Iterator[Audio]:
    """The recording as blocks of 16 kHz mono float32; raw audio when the query declares an encoding.

    `CallerError` 400 at the first block when the file cannot be read, 413 when it is too long. What can
    be read of a damaged or truncated file is.
    """
    heard = 0
    source = _raw(file, query) if "encoding" in query else _decoded(file)
    for block in _regrouped(source):
        heard += len(block)
        if heard > MAX_HOURS * 3600 * SAMPLE_RATE:
            raise CallerError(
                413, "audio_too_long", "Audio too long", f"At most {MAX_HOURS} hours are taken."
            )
        yield block


def _regrouped(parts: Iterator[Audio]) -> Iterator[Audio]:
    """The same samples in blocks of a second or more: each is one trip to a worker thread."""
    waiting: list[Audio] = []
    length = 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        if length >= BLOCK:
            yield np.concatenate(waiting)
            waiting, length = [], 0
    if length:
        yield np.concatenate(waiting)


def _decoded(file: IO[bytes]) -> Iterator[Audio]:
    shape: Any = None
    converter: Any = None
    found = False
    for frame in _frames(file):
        found = True
        its_shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if its_shape != shape:  # at first, and where files were put one behind the other
            yield from _converted(converter, None)
            shape = its_shape
            converter = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        yield from _converted(converter, frame)
    yield from _converted(converter, None)
    if not found:
        raise _no_audio()


def _frames(file: IO[bytes]) -> Iterator[av.AudioFrame]:
    try:
        container = av.open(file, "r", options={"format_whitelist": FORMATS})
    except (FFmpegError, EOFError, ValueError) as error:
        raise _no_audio() from error
    with container:
        if not container.streams.audio:
            raise _no_audio()
        packets = container.demux(container.streams.audio[0])
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, EOFError):
                return  # truncated here
            if packet is None:
                return
            try:
                frames = packet.decode()
            except (InvalidDataError, EOFError):
                continue  # damaged here; what comes after may still be speech
            except FFmpegError as error:
                raise _no_audio() from error
            yield from frames


def _converted(converter: Any, frame: av.AudioFrame | None) -> Iterator[Audio]:
    """None drains the converter."""
    for converted in converter.resample(frame) if converter is not None else ():
        yield converted.to_ndarray()[0].astype(np.float32)


def _raw(file: IO[bytes], query: Mapping[str, str]) -> Iterator[Audio]:
    declared = wire.Handshake.parse("turns", {"model": "ink-2", **query}.items())
    audio = AudioInput(declared.encoding, declared.sample_rate)
    while data := file.read(1 << 16):
        yield audio.receive(data)
    yield audio.flush()


def _no_audio() -> CallerError:
    return wire.bad_request("The file is no audio that can be read.", "invalid_audio")


def _too_big() -> CallerError:
    return CallerError(413, "file_too_big", "File too big", f"At most {MAX_UPLOAD >> 20} MB are taken.")
