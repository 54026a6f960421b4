"""Passing a request on to the process that must answer it: plain requests, event streams and WebSockets.

What is passed on carries the fleet's secret and the caller's address; whoever receives a good secret answers
by itself, so that nothing goes round in circles. The path, the query, the body and the caller's own headers
stay as they are, and the receiver checks the caller's token itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, WSMsgType, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from rtcstt.errors import CallerError, RtcsttError
from rtcstt.http.giving_way import GivingWay

SECRET, CALLER, NODE = "X-Rtcstt-Secret", "X-Rtcstt-Caller", "X-Rtcstt-Node"
_OURS = frozenset(name.lower() for name in (SECRET, CALLER, NODE))
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade "
    "expect".split()
)  # RFC 9110 section 7.6.1
_HANDSHAKE = frozenset(
    "sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-protocol".split()
)
CONNECT_S = 2.0
ANSWER_S = 60.0  # event streams say something every 15 s
MAX_MESSAGE = 20 * 1024 * 1024  # of a WebSocket; the endpoints have limits of their own
MAX_REFUSAL = 64 * 1024
MISDIRECTED = 421  # RFC 9110 section 15.5.20


class Unreachable(RtcsttError):
    """Nobody listens there, or does not answer; nothing of the request was worked on."""


class Busy(RtcsttError):
    """The process there takes nothing more now."""


@dataclass(frozen=True, slots=True)
class Target:
    """A process: ``url`` as this machine reaches it, by the local ``socket`` where it is a worker here.
    ``node``: its name in the fleet, when the url leads to several processes."""

    url: str
    socket: Path | None = None
    node: str | None = None


@dataclass(slots=True)
class _Refused(Exception):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


def sender(request: web.Request, secrets: set[str]) -> tuple[str, str | None] | None:
    """Of a request that another process of the fleet passed on: the caller's address, and the node it is
    for. None for a request from outside; `CallerError` 403 for one that only claims to be from inside."""
    if not any(name in request.headers for name in (SECRET, CALLER, NODE)):
        return None
    given = request.headers.get(SECRET, "").encode("utf-8", "surrogateescape")
    if not any([hmac.compare_digest(given, secret.encode()) for secret in secrets]):
        raise CallerError(403, "forbidden", "Forbidden", "These headers are for the fleet's own requests.")
    return request.headers.get(CALLER, ""), request.headers.get(NODE)


class Proxy:
    """Connections to the other processes, made when they are needed. `close` it at the end.

    ``secret`` is that of the workers behind one port, ``fleet_secret`` that of all servers.
    """

    def __init__(self, secret: str, fleet_secret: str | None = None) -> None:
        self._secret = secret
        self.fleet_secret = fleet_secret or secret
        self._before: str | None = None
        self._sessions: dict[Path | None, aiohttp.ClientSession] = {}  # by the local socket; None: by TCP
        self._active: set[asyncio.Task[object]] = set()

    @property
    def secrets(self) -> set[str]:
        """What other processes may show."""
        return {self._secret, self.fleet_secret, self._before or self.fleet_secret}

    def renew(self, fleet_secret: str) -> None:
        """All servers show another secret now, or will in a moment."""
        self._before, self.fleet_secret = self.fleet_secret, fleet_secret

    @property
    def active(self) -> int:
        """Requests that are being passed on."""
        return len(self._active)

    async def wait_idle(self, timeout_s: float) -> None:
        """Until nothing is being passed on, or the time is over."""
        if self._active:
            await asyncio.wait(self._active, timeout=timeout_s)

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def pass_on(
        self, request: web.Request, target: Target, *, body: bytes | None = None, if_free: bool = False
    ) -> web.StreamResponse:
        """The other process's answer, sent on to the caller as it comes. ``body``: what was read of the
        request already. `Unreachable`; with ``if_free`` also `Busy`, on a 429 or 503."""
        with self._counted():
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request, target, if_free)
            return await self._plain(request, target, body, if_free)

    async def get(self, target: Target, path: str, caller: web.Request | None = None) -> tuple[int, bytes]:
        """A short answer of another process, asked for on behalf of a ``caller`` or of nobody."""
        headers = self._headers(caller, target) if caller is not None else self._own_headers("", target)
        with _reached(target):
            async with asyncio.timeout(CONNECT_S):
                async with self._session(target).get(
                    target.url + path, headers=headers, allow_redirects=False
                ) as response:
                    return response.status, await response.read()

    async def _plain(
        self, request: web.Request, target: Target, body: bytes | None, if_free: bool
    ) -> web.StreamResponse:
        data = body if body is not None else request.content if request.can_read_body else None
        headers = self._headers(request, target)
        with _reached(target):
            sent = self._session(target).request(
                request.method,
                self._url(request, target),
                headers=headers,
                data=data,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
            response = await sent.__aenter__()
        async with response:
            _check_directed(response.status, target)
            if if_free and response.status in (429, 503):
                raise Busy(f"{response.status}")
            answer = web.StreamResponse(
                status=response.status, reason=response.reason, headers=_kept(response.headers)
            )
            await answer.prepare(request)
            try:
                async for data in response.content.iter_any():
                    await answer.write(data)
                await answer.write_eof()
            except (aiohttp.ClientError, TimeoutError):  # it died: the caller must not take this for the end
                if request.transport is not None:
                    request.transport.abort()
            return answer

    async def _websocket(self, request: web.Request, target: Target, if_free: bool) -> web.StreamResponse:
        headers = self._headers(request, target)
        for name in _HANDSHAKE:
            headers.popall(name, None)
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        protocols = [name.strip() for name in offered.split(",") if name.strip()]
        try:
            with _reached(target):
                upstream = await self._session(target).ws_connect(
                    self._url(request, target),
                    headers=headers,
                    protocols=protocols,
                    autoping=False,
                    max_msg_size=MAX_MESSAGE,
                )
        except _Refused as refused:
            _check_directed(refused.status, target)
            if if_free and refused.status in (429, 503):
                raise Busy(f"{refused.status}") from None
            return web.Response(status=refused.status, headers=_kept(refused.headers), body=refused.body)
        async with upstream:
            chosen = (upstream.protocol,) if upstream.protocol else ()
            socket = web.WebSocketResponse(
                protocols=chosen, autoping=False, max_msg_size=MAX_MESSAGE, compress=False
            )
            for name in ("X-Request-Id", "Location", "Link"):
                if name in upstream._response.headers:
                    socket.headers[name] = upstream._response.headers[name]
            await socket.prepare(request)
            await _join(socket, upstream)
        return socket

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        try:
            yield
        finally:
            self._active.discard(task)

    def _session(self, target: Target) -> aiohttp.ClientSession:
        if target.socket not in self._sessions:
            connector = (
                aiohttp.UnixConnector(str(target.socket), limit=0)
                if target.socket is not None
                else aiohttp.TCPConnector(limit=0)
            )
            self._sessions[target.socket] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(_keep_refusals,),
            )
        return self._sessions[target.socket]

    def _url(self, request: web.Request, target: Target) -> URL:
        return URL(target.url + request.rel_url.raw_path_qs, encoded=True)

    def _headers(self, request: web.Request, target: Target) -> CIMultiDict[str]:
        headers = _kept(request.headers)
        headers.update(self._own_headers(request.remote or "", target))
        return headers

    def _own_headers(self, caller: str, target: Target) -> CIMultiDict[str]:
        secret = self._secret if target.socket is not None else self.fleet_secret
        headers = CIMultiDict({SECRET: secret, CALLER: caller})
        if target.node is not None:
            headers[NODE] = target.node
        return headers


async def _keep_refusals(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """A refused WebSocket handshake has a body that says why; aiohttp throws it away."""
    response = await handler(request)
    if request.headers.get("Upgrade", "").lower() == "websocket" and response.status != 101:
        body = await response.content.read(MAX_REFUSAL)
        response.close()
        raise _Refused(response.status, response.headers, body)
    return response


def _check_directed(status: int, target: Target) -> None:
    """`Unreachable` where another process answers than the one that was meant, which has ended."""
    if status == MISDIRECTED and target.node is not None:
        raise Unreachable(f"{target.node} is not at {target.url}")


@contextlib.contextmanager
def _reached(target: Target) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unreachable(f"{target.url} does not answer: {type(error).__name__}") from error


def _kept(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Without those that are for one connection, and without ours, which callers may not set."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    left_out = _HOP_BY_HOP | _OURS | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


async def _join(one: web.WebSocketResponse, other: aiohttp.ClientWebSocketResponse) -> None:
    """Pass messages both ways until either end closes; then close the other with the same code."""
    pumps = [asyncio.create_task(_pump(one, other)), asyncio.create_task(_pump(other, one))]
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        code, reason = next(iter(done)).result()
    except asyncio.CancelledError:
        code, reason = 1001, ""
        raise
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await asyncio.gather(
            one.close(code=code, message=reason.encode()), other.close(code=code, message=reason.encode())
        )


async def _pump(source: _Socket, sink: _Socket) -> tuple[int, str]:
    """Until the source closes; its code, as it can be sent on, and its reason."""
    passing: dict[WSMsgType, Callable[[object], Awaitable[None]]] = {
        WSMsgType.TEXT: sink.send_str,  # type: ignore[dict-item]
        WSMsgType.BINARY: sink.send_bytes,  # type: ignore[dict-item]
        WSMsgType.PING: sink.ping,  # type: ignore[dict-item]
        WSMsgType.PONG: sink.pong,  # type: ignore[dict-item]
    }
    others = GivingWay()
    with contextlib.suppress(ConnectionError):
        while (message := await source.receive()).type in passing:
            await others.turn()
            await passing[message.type](message.data)
        if message.type is WSMsgType.CLOSE and message.data not in (None, 1005, 1006, 1015):
            return int(message.data), str(message.extra or "")
        if message.type is WSMsgType.CLOSE and message.data == 1005:
            return 1000, ""
    return 1001, ""
