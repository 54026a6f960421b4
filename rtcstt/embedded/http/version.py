"""The version of the API that a request asks for."""

from __future__ import annotations

import re

from aiohttp import web

from rtcstt import wire

_VERSION = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")


def version_of(request: web.Request) -> str:
    """What a header or the query names, or nothing; the query wins. `CallerError` 400 unless it is a date."""
    version = request.query.get("cartesia_version") or request.headers.get("Cartesia-Version")
    if version and not _VERSION.fullmatch(version):
        raise wire.bad_request("Cartesia-Version must be a date such as 2026-03-01.", "invalid_version")
    return version or ""
