"""A recording that comes by HTTP: the form it is in, whose file is written to disk as it arrives.

Everything about it is a stranger's, so all sizes are bounded. The audio is read by `rtcstt.reading`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import IO, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http import HttpProcessingError

from rtcstt import wire
from rtcstt.embedded.http.limits import HttpLimits
from rtcstt.errors import CallerError
from rtcstt.http.giving_way import GivingWay
from rtcstt.media.tracks import RawAudio, ReadSettings
from rtcstt.wire import strict_json

MAX_FIELD = 4096  # characters of one field of the form
WRITTEN_AT_ONCE = 1 << 20  # bytes
MAX_PROMPT = 64 * 1024  # of this one
MIN_BYTES_PER_S = 16 * 1024  # an upload that comes more slowly is given up
_INDEX = re.compile(r"\[[0-9]*\]$")  # of a list's field, as some clients write it


@dataclass(slots=True)
class Form:
    """The fields of a form but for its file: each name with its values, in order. ``name``: the file's."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    name: str = ""

    def one(self, name: str, default: str = "") -> str:
        """The first value of a field."""
        return self.fields.get(name, [default])[0]

    def several(self, name: str) -> list[str]:
        """A field's values, given one by one, with commas, or as a JSON list."""
        found: list[str] = []
        for value in self.fields.get(name, []):
            found += _listed(value)
        return [value.strip() for value in found if value.strip()]

    def flag(self, name: str) -> bool:
        value = self.one(name, "false").lower()
        if value not in ("true", "false", "1", "0", ""):
            raise refused(name, "must be true or false.")
        return value in ("true", "1")


def _listed(value: str) -> list[str]:
    if value.lstrip().startswith("["):
        try:
            return [one for one in strict_json.loads(value) if isinstance(one, str)]
        except ValueError:
            pass
    return value.split(",")


class FieldError(CallerError):
    """A field of the form is wrong. ``field`` is its name."""

    def __init__(self, field: str, message: str, code: str = "invalid_request", status: int = 400) -> None:
        super().__init__(status, code, "Invalid request", message)
        self.field = field


def refused(name: str, why: str, code: str = "invalid_request") -> FieldError:
    return FieldError(name, f"{name} {why}", code)


async def read_form(request: web.Request, file: IO[bytes], limits: HttpLimits) -> Form:
    """Write the part named file into ``file``; return the other fields.

    `CallerError` 400, 408 for one that comes too slowly, 413 or 415.
    """
    if request.content_type != "multipart/form-data":
        message = "Send multipart/form-data."
        raise CallerError(415, "unsupported_media_type", "Unsupported media type", message)
    if (request.content_length or 0) > limits.upload + MAX_FIELD * limits.fields:
        raise _too_big(limits)
    form = Form()
    try:
        async with asyncio.timeout(limits.upload_stall_s) as limit:
            await _read_parts(request, file, form, _Arrivals(limit), limits)
    except TimeoutError as error:
        message = f"Send at least {MIN_BYTES_PER_S >> 10} kB a second: an upload holds a place meanwhile."
        raise CallerError(408, "body_timeout", "Request timeout", message) from error
    except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as error:
        raise wire.bad_request("The form is broken.") from error
    if not file.tell():
        raise FieldError("file", "The form has no file, or an empty one.", "no_file")
    file.flush()
    return form


class _Content:
    """What aiohttp's readers of forms call of a request's body. They skip lines and look for boundaries
    without a pause for as long as there is something to read."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._others = GivingWay()
        self.unread_data, self.at_eof = content.unread_data, content.at_eof

    async def read(self, size: int = -1) -> bytes:
        await self._others.turn()
        return await self._content.read(size)

    async def readline(self, **limits: int) -> bytes:
        await self._others.turn()
        return await self._content.readline(**limits)


class _Arrivals:
    """Puts a time limit off as bytes arrive, at `MIN_BYTES_PER_S`."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit

    def count(self, arrived: int) -> None:
        when = self._limit.when()
        if when is not None:
            self._limit.reschedule(when + arrived / MIN_BYTES_PER_S)


async def _read_parts(
    request: web.Request, file: IO[bytes], form: Form, arrivals: _Arrivals, limits: HttpLimits
) -> None:
    count = 0
    content = cast("StreamReader", _Content(request.content))
    async for part in MultipartReader(request.headers, content):
        count += 1
        if count > limits.fields:
            raise wire.bad_request(f"The form has more than {limits.fields} fields.")
        if not isinstance(part, BodyPartReader):
            raise wire.bad_request("The form has a part within a part.")
        if part.name == "file":
            form.name = part.filename or ""
            await _store(part, file, arrivals, limits)
        else:
            name = _INDEX.sub("", part.name or "")
            form.fields.setdefault(name, []).append(await _text(part, name))


async def _store(part: BodyPartReader, file: IO[bytes], arrivals: _Arrivals, limits: HttpLimits) -> None:
    waiting = bytearray()
    while chunk := await part.read_chunk(1 << 16):
        arrivals.count(len(chunk))
        waiting += chunk
        if file.tell() + len(waiting) > limits.upload:
            raise _too_big(limits)
        if len(waiting) >= WRITTEN_AT_ONCE:
            await asyncio.to_thread(file.write, bytes(waiting))  # a slow disk must hold up nobody else
            waiting.clear()
    await asyncio.to_thread(file.write, bytes(waiting))


async def _text(part: BodyPartReader, name: str) -> str:
    limit = MAX_PROMPT if name == "prompt" else MAX_FIELD
    data = b""
    while chunk := await part.read_chunk(MAX_FIELD):
        data += chunk
        if len(data) > limit:
            raise refused(name[:60], f"is too long; at most {limit} bytes are taken.")
    return data.decode("utf-8", "replace")


def read_settings(query: Mapping[str, str], form: Form, limits: HttpLimits) -> ReadSettings:
    """How to read the file: as raw audio when the query declares an encoding."""
    raw = None
    if "encoding" in query:
        declared = wire.Handshake.parse("turns", {"model": "ink-2", **query}.items())
        raw = RawAudio(declared.encoding, declared.sample_rate)
    return ReadSettings(raw=raw, max_s=limits.audio_s, ending=PurePath(form.name).suffix[:16])


def _too_big(limits: HttpLimits) -> CallerError:
    return CallerError(413, "file_too_big", "File too big", f"At most {limits.upload >> 20} MB are taken.")
