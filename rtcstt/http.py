"""What every HTTP server of rtcstt has in common: refusals as JSON, and a stop that lets work finish."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http import HttpProcessingError

from rtcstt.errors import CallerError, ConfigError, EngineError

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
        code = _TITLES.get(error.status, "http_error")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return refusal(CallerError(error.status, code, error.reason, f"{error.reason}."), headers)
    except EngineError as error:
        log.error("the recogniser: %s", error)
        return refusal(CallerError(503, "engine_unavailable", "Recogniser unavailable", f"{error}"))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        ours = CallerError(500, "internal_error", "Internal error", "Something went wrong here.")
        log.exception("request %s failed", ours.request_id)
        return refusal(ours)


def refusal(error: CallerError, headers: dict[str, str] | None = None) -> web.Response:
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.as_dict(), status=error.status, headers=extra)


async def run_until_stopped(
    app: web.Application,
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then shut down in order (aiohttp's on_shutdown, then on_cleanup)."""
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        url = f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}"
        log.info("listening on %s", url)
        ready(url)
        await stop.wait()
        log.info("stopping")
    finally:
        await runner.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _is_ours(record: logging.LogRecord) -> bool:
    """What is no HTTP is refused, but is not worth a traceback with a stranger's bytes in the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
