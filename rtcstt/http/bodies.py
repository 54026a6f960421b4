"""What requests carry, read and parsed within bounds."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from rtcstt.errors import CallerError, bad_request
from rtcstt.wire import strict_json

BODY_S = 15.0  # for a small body to arrive in
MAX_METADATA = 4096  # bytes of JSON
MAX_DEPTH = 8
BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)
"""What was read of a request already, to find out whom it is for."""


async def read_body(request: web.Request, most: int, *, code: str = "too_big") -> bytes:
    """The body, of at most ``most`` bytes; `CallerError` 413 when it has more, 408 when it does not come."""
    if (request.content_length or 0) > most:
        raise too_big(most, code)
    body = bytearray(request.get(BODY, b""))
    if len(body) > most:
        raise too_big(most, code)
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_chunked(1 << 14):
                body += chunk
                if len(body) > most:
                    raise too_big(most, code)
    except TimeoutError:
        message = f"The body did not arrive within {BODY_S:g} s."
        raise CallerError(408, "body_timeout", "Request timeout", message) from None
    except web.RequestPayloadError:
        raise bad_request("The body is broken.") from None
    read = request[BODY] = bytes(body)
    return read


def parse_object(text: str | bytes, *, code: str = "bad_json") -> dict[str, object]:
    """A JSON object (RFC 8259): no NaN and no infinity. `CallerError` 400 for anything else."""
    try:
        value = strict_json.loads(text)
    except ValueError:
        raise bad_request("The body is not JSON.", code) from None
    if not isinstance(value, dict):
        raise bad_request("The body is not a JSON object.", code)
    return value


def checked_metadata(value: object) -> dict[str, object]:
    """An object that may be shown to everybody who lists calls: `CallerError` 400 unless it is JSON of at
    most `MAX_METADATA` bytes and `MAX_DEPTH` levels."""
    if not isinstance(value, dict):
        raise bad_request("metadata must be an object.")
    if _depth(value) > MAX_DEPTH:
        raise bad_request(f"metadata may be nested {MAX_DEPTH} deep at most.")
    try:
        size = len(json.dumps(value, allow_nan=False, separators=(",", ":")))
    except (ValueError, TypeError):
        raise bad_request("metadata must be JSON.") from None
    if size > MAX_METADATA:
        raise bad_request(f"metadata may have {MAX_METADATA} bytes of JSON at most.")
    return value


def _depth(value: object) -> int:
    """Levels of lists and objects, counted no further than needed."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        depth += any(isinstance(one, dict | list) for one in level)
        level = inner
    return depth


def too_big(most: int, code: str = "too_big") -> CallerError:
    return CallerError(413, code, "Too big", f"At most {most >> 10} kB are taken.")
