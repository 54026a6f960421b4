"""What every HTTP server of rtcstt has in common: refusals as JSON, and a stop that lets work finish."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

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
    sockets: Sequence[socket.socket] | None = None,
    local: Sequence[socket.socket] = (),
    drain: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then shut down in order (aiohttp's on_shutdown, then on_cleanup).

    ``sockets``: bound already, in place of those of ``host`` and ``port``; ``local`` ones are served without
    TLS. ``drain`` is awaited first after SIGTERM; SIGINT, or a second signal, ends it.
    """
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    stop, at_once = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled(number: signal.Signals) -> None:
        if stop.is_set() or number is signal.SIGINT:
            at_once.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, handler_cancellation=True)
    await runner.setup()
    try:
        sites = [web.SockSite(runner, one, ssl_context=tls) for one in sockets or ()]
        sites += [web.SockSite(runner, one) for one in local]
        try:
            for site in sites if sockets else [web.TCPSite(runner, host, port, ssl_context=tls)]:
                await site.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        url = f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}"
        if sockets is None:  # else it is said by whoever bound them
            log.info("listening on %s", url)
        ready(url)
        await stop.wait()
        log.info("stopping")
        if drain is not None:
            await _first_of(drain(), at_once.wait())
    finally:
        await runner.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _first_of(*works: Awaitable[object]) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def listen(host: str, port: int) -> list[socket.socket]:
    """Bound sockets, one for each address of ``host``; `ConfigError` when it cannot be."""
    found: list[socket.socket] = []
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            one = socket.socket(family, kind, protocol)
            found.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port == 0 and len(found) > 1:
                address = (address[0], found[0].getsockname()[1], *address[2:])
            one.bind(address)
    except OSError as error:
        for one in found:
            one.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return found


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
