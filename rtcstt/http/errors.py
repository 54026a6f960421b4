"""Refusals as JSON, of every HTTP server of rtcstt."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from rtcstt.errors import CallerError, EngineError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TITLES = {404: "not_found", 405: "method_not_allowed", 413: "too_big", 415: "unsupported_media_type"}


@web.middleware
async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error becomes a JSON object with the right status; one that nobody expected is logged."""
    try:
        return await handler(request)
    except CallerError as error:
        return refusal(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return refusal_of(error)
    except EngineError as error:
        log.error("the recogniser: %s", error)
        return refusal(CallerError(503, "engine_unavailable", "Recogniser unavailable", f"{error}"))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        ours = CallerError(500, "internal_error", "Internal error", "Something went wrong here.")
        log.exception("request %s failed", ours.request_id)
        return refusal(ours)


def refusal_of(error: web.HTTPException) -> web.Response:
    """aiohttp's own refusal in our form."""
    forget_frames(error)
    code = _TITLES.get(error.status, "http_error")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return refusal(CallerError(error.status, code, error.reason, f"{error.reason}."), headers)


def forget_frames(error: BaseException) -> None:
    """aiohttp keeps some errors. By their frames they keep the connection, in a cycle that the garbage
    collector alone could free; many at once hold the event loop for 100 ms."""
    chain: BaseException | None = error
    while chain is not None:
        chain.__traceback__ = None
        chain = chain.__context__


def refusal(error: CallerError, headers: dict[str, str] | None = None) -> web.Response:
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.as_dict(), status=error.status, headers=extra)


def too_often(wait_s: float, message: str, code: str = "too_many_requests") -> CallerError:
    """429: whoever asks has to wait for ``wait_s``."""
    return CallerError(429, code, "Too many requests", message, retry_after_s=math.ceil(wait_s))
