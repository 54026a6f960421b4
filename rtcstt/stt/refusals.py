"""What a speech-to-text server says when it refuses a request, as an error; a core."""

from __future__ import annotations

from rtcstt import wire
from rtcstt.errors import UpstreamError
from rtcstt.wire import strict_json

LONGEST_WAIT_S = 600.0  # that a server may ask for
WAIT_UNTIL_S = 60.0  # for one that gives a date


def refusal(status: int, body: bytes, retry_after: str | None = None) -> UpstreamError:
    """``retry_after``: the header of that name (RFC 9110 section 10.2.3)."""
    try:
        told = strict_json.load_object(body)
    except ValueError:
        told = {}
    code = told.get("error_code")
    return UpstreamError(
        f"HTTP {status}: {told.get('message') or told.get('title') or 'the STT refused the request'}",
        status=status,
        code=str(code) if code else None,
        retryable=wire.retryable(status),
        retry_after_s=_seconds(retry_after),
    )


def _seconds(header: str | None) -> float | None:
    if header is None:
        return None
    return min(float(header), LONGEST_WAIT_S) if header.isascii() and header.isdigit() else WAIT_UNTIL_S
