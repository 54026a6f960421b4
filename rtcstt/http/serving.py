"""Connections of an HTTP server: a bound on them, time-outs, a stop that lets work finish.

aiohttp's own server accepts whatever comes: connections that never ask for anything hold a file descriptor
each, and when there is none left asyncio logs a traceback for each attempt. Here connections are bounded;
when there is no room, the oldest one that waits for nothing of ours makes room for the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from aiohttp import web
from aiohttp.http import HttpProcessingError

from rtcstt.errors import CallerError, ConfigError
from rtcstt.http.errors import forget_frames, refusal, refusal_of
from rtcstt.http.giving_way import GivingWay

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

HEADERS_S = 15.0  # a connection that has asked for nothing by then is closed
DEAD_S = 15  # without an answer of the other side's TCP, though something was sent, or it was asked
KEEPALIVE_S = 75.0  # between requests: more than proxies wait
HANDSHAKE_S = 10.0  # TLS
READ_AT_ONCE = 16 * 1024  # bytes, before others run; asyncio's 256 kB may be 40,000 chunks or messages
PAUSE_S = 0.25  # without a descriptor to accept with
BACKLOG = 1024
MAX_CONNECTIONS = 2000
MAX_DESCRIPTORS = 65_536
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EXPECTATION = CallerError(417, "http_error", "Expectation Failed", "Only 100-continue can be expected.")
_NO_LOG = logging.getLogger("rtcstt.http.access_log")  # of each request: proxies have one
_NO_LOG.disabled = True
RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(web.RequestHandler):
    """One client's TCP connection."""

    __slots__ = ("_headers_due", "busy", "served")

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, headers_s: float) -> None:
        super().__init__(
            server, loop=loop, access_log=_NO_LOG, keepalive_timeout=KEEPALIVE_S, auto_decompress=False
        )
        self.busy = False
        self.served = 0
        self._headers_due = loop.call_later(headers_s, self._check_served)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if hasattr(transport, "max_size"):  # asyncio's own, without TLS
            transport.max_size = READ_AT_ONCE
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._headers_due.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is refused; aiohttp's answer would tell its version."""
        response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = "rtcstt"
        if exc is not None:
            forget_frames(exc)
        return response

    def _check_served(self) -> None:
        if not self.served and not self.busy:
            self.force_close()


class Connections:
    """The connections of a server, at most ``most`` of them."""

    def __init__(self, server: web.Server, most: int, *, headers_s: float = HEADERS_S) -> None:
        self._server = server
        self._most = most
        self._headers_s = headers_s
        self._open: dict[Connection, None] = {}  # the oldest first
        self._accepting: dict[socket.socket, asyncio.Task[None]] = {}
        self._entering: set[asyncio.Task[None]] = set()
        self.closed_for_others = 0
        self.refused = 0
        server.request_handler = self._counted(server.request_handler)

    @property
    def busy(self) -> int:
        """Those that wait for an answer."""
        return sum(one.busy for one in self._open)

    def listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take connections, until `close`."""
        listening.listen(BACKLOG)
        listening.setblocking(False)
        self._accepting[listening] = asyncio.create_task(self._accept(listening, tls))

    async def close(self) -> None:
        """Take no more; those that were taken are the server's."""
        tasks = [*self._accepting.values(), *self._entering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._accepting:
            listening.close()
        self._accepting.clear()

    async def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        async for client in accepted(listening, self._make_room):
            if self._is_full() and not self._make_room():
                self.refused += 1
                client.close()
                continue
            task = asyncio.create_task(self._enter(client, tls))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        connection = Connection(self._server, loop, self._headers_s)
        try:
            await loop.connect_accepted_socket(
                lambda: connection, client, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
            )
        except (OSError, asyncio.CancelledError) as error:  # they have left, or speak no TLS
            client.close()
            connection.connection_lost(None)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._prune()
        self._open[connection] = None

    def _is_full(self) -> bool:
        if len(self._open) + len(self._entering) < self._most:
            return False
        self._prune()
        return len(self._open) + len(self._entering) >= self._most

    def _prune(self) -> None:
        alive = set(self._server.connections)
        self._open = {one: None for one in self._open if one in alive and one.transport is not None}

    def _make_room(self) -> bool:
        """Close the oldest connection that has asked for nothing, else the oldest that is idle."""
        self._prune()
        idle = [one for one in self._open if not one.busy]
        victim = next((one for one in idle if not one.served), idle[0] if idle else None)
        if victim is None:
            return False
        del self._open[victim]
        victim.force_close()
        self.closed_for_others += 1
        return True

    def _counted(self, handler: RequestHandler) -> RequestHandler:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, Connection)
            connection.busy = True
            connection.served += 1
            try:
                if request.headers.get("Expect", "100-continue").lower() != "100-continue":
                    return refusal(_EXPECTATION)  # aiohttp would repeat it, whatever bytes it is of
                return await handler(request)
            except web.HTTPException as error:  # of what comes before the middlewares
                return refusal_of(error)
            finally:
                connection.busy = False
                if connection in self._open:  # is the newest of the idle ones now
                    del self._open[connection]
                    self._open[connection] = None

        return handle


async def accepted(
    listening: socket.socket, make_room: Callable[[], bool] = lambda: False
) -> AsyncIterator[socket.socket]:
    """The connections that come. Without file descriptors it waits, and says so once; ``make_room`` may close
    something, and tells whether it did."""
    loop, others = asyncio.get_running_loop(), GivingWay()
    short = False
    while True:
        await others.turn()  # who came first is read before they have to make room for who came last
        try:
            client, _ = await loop.sock_accept(listening)
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                if not short:
                    log.error("cannot accept connections: %s; trying again", error.strerror)
                short = True
                await asyncio.sleep(0 if make_room() else PAUSE_S)
            elif listening.fileno() == -1:
                return
            continue  # else the client has left already
        short = False
        client.setblocking(False)
        _notice_death(client)
        yield client


def _notice_death(client: socket.socket) -> None:
    """A machine that vanished, without a word, loses its connection after `DEAD_S`, where the system can tell
    (Linux; elsewhere as its administrator has set it)."""
    options = {"TCP_KEEPIDLE": DEAD_S // 3, "TCP_KEEPINTVL": DEAD_S // 3, "TCP_KEEPCNT": 2}
    options["TCP_USER_TIMEOUT"] = 1000 * DEAD_S
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
    max_connections: int | None = None,
) -> None:
    """Serve until SIGTERM, SIGHUP or SIGINT, then shut down in order (aiohttp's on_shutdown and on_cleanup).

    ``sockets``: bound already, in place of those of ``host`` and ``port``; ``local`` ones are served without
    TLS. ``drain`` is awaited first, but after SIGINT; that, or a second signal, ends it. ``max_connections``:
    default 2000, and no more than half of the file descriptors, since calls need some, too.
    """
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    stop, at_once = asyncio.Event(), asyncio.Event()

    def signalled(number: signal.Signals) -> None:
        if stop.is_set() or number is signal.SIGINT:
            at_once.set()
        stop.set()

    with on_stop_signals(signalled):
        runner = web.AppRunner(app, shutdown_timeout=2.0, handler_cancellation=True)
        await runner.setup()
        assert runner.server is not None
        connections = Connections(runner.server, max_connections or default_connections())
        try:
            listening = list(sockets) if sockets is not None else await listen(host, port)
            for one in listening:
                connections.listen(one, tls)
            for one in local:
                connections.listen(one, None)
            url = f"{'https' if tls else 'http'}://{host}:{listening[0].getsockname()[1]}"
            if sockets is None:  # else it is said by whoever bound them
                log.info("listening on %s", url)
            ready(url)
            await stop.wait()
            log.info("stopping")
            if drain is not None:
                await _first_of(drain(), at_once.wait())
        finally:
            await connections.close()
            await runner.cleanup()


@contextlib.contextmanager
def on_stop_signals(signalled: Callable[[signal.Signals], None]) -> Iterator[None]:
    """In the block, `stop_signals` call ``signalled`` in the running event loop, also on Windows, whose
    event loops take no signals."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in stop_signals()}
    by_loop = True
    for number in before:
        try:
            loop.add_signal_handler(number, signalled, number)
        except NotImplementedError:
            by_loop = False
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(signalled, signal.Signals(n)))
    try:
        yield
    finally:
        for number, handler in before.items():
            if by_loop:
                loop.remove_signal_handler(number)
            else:
                signal.signal(number, handler)


def stop_signals() -> list[signal.Signals]:
    """What stops a server: also that its terminal was closed (SIGHUP), unless it was started to outlive it
    (`nohup`)."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        numbers.append(hang_up)
    return numbers


async def _first_of(*works: Awaitable[object]) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def listen(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Bound sockets, one for each address of ``host``; `ConfigError` when it cannot be. ``reuse_port``: other
    processes bind the same, and the system shares connections out."""
    found: list[socket.socket] = []
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            one = socket.socket(family, kind, protocol)
            found.append(one)
            if os.name == "posix":  # on Windows it would share the port with whoever has it
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(found) > 1:  # one port, whatever the address
                address = (address[0], found[0].getsockname()[1], *address[2:])
            one.bind(address)
    except OSError as error:
        for one in found:
            one.close()
        raise cannot_listen(host, port, error) from error
    return found


def cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}")


def default_connections() -> int:
    if resource is None:
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(MAX_CONNECTIONS, soft // 2))


def raise_descriptor_limit() -> None:
    """To what the system allows: calls, connections and recordings hold a file descriptor each."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        log.debug("file descriptors: %d, before %d", wanted, soft)


def _is_ours(record: logging.LogRecord) -> bool:
    """What is no HTTP is refused, but is not worth a traceback with a stranger's bytes in the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
