"""The embedded STT over HTTP: both WebSocket endpoints, batch, and short-lived tokens, on aiohttp.

Who may use them is checked by the `Guard` that they are mounted with, before a handler here is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from socket import SO_RCVBUF, SOL_SOCKET

from aiohttp import WSCloseCode, WSMsgType, web

from rtcstt import wire
from rtcstt.embedded.http import speech
from rtcstt.embedded.http.limits import LIMITS, HttpLimits
from rtcstt.embedded.http.recordings import RecordingRoutes
from rtcstt.embedded.http.version import version_of
from rtcstt.embedded.service import (
    GOING_AWAY,
    Service,
    Session,
    concurrency_limited,
    too_big,
)
from rtcstt.errors import CallerError, ConnectionLost
from rtcstt.http.access import Permission
from rtcstt.http.bodies import parse_object, read_body
from rtcstt.http.giving_way import GivingWay
from rtcstt.http.guard import GRANT, Guard, Route
from rtcstt.limits import Slots

log = logging.getLogger(__name__)

# A longer message is not even received (`_Socket`); the session refuses what is shorter but too long.
MAX_MESSAGE = 20 * 1024 * 1024
MAX_BODY = 16 * 1024  # of a JSON request
RECEIVE_BUFFER = 32 * 1024  # bytes: a second of 16 kHz audio
PING_S = 5.0
DRAIN_S = 5.0  # for the open streams, when the server stops


def add_routes(
    app: web.Application,
    services: Callable[[], Awaitable[Service]],
    guard: Guard,
    speaker: speech.Speaker | None = None,
    *,
    streams: Slots | None = None,
    limits: HttpLimits = LIMITS,
) -> None:
    """Mount the endpoints. ``services`` gives the service, once it is loaded. With a ``speaker`` text can
    be made speech as well, for clients that want something to listen to. ``streams``, where others draw
    from the same: one is reserved for each WebSocket."""
    handlers = SttRoutes(services, guard, speaker, streams or Slots(lambda: None), limits)
    guard.add_routes(app, handlers.table())
    app.on_shutdown.append(handlers.shut)
    app.on_cleanup.append(handlers.close)


class SttRoutes:
    """The handlers, and the conversations that are going on."""

    def __init__(
        self,
        services: Callable[[], Awaitable[Service]],
        guard: Guard,
        speaker: speech.Speaker | None,
        streams: Slots,
        limits: HttpLimits,
    ) -> None:
        self._services = services
        self._guard = guard
        self._speaker = speaker
        self._streams = streams
        self._limits = limits
        self._open: dict[web.WebSocketResponse, tuple[Session, asyncio.Task[object]]] = {}
        self._recordings = RecordingRoutes(services, limits)

    def table(self) -> list[Route]:
        speech_to_text = partial(Route, permission=Permission.TRANSCRIBE, any_origin=True)
        tokens = "A short-lived token for the requests above, for a browser that must not have the key"
        return [
            speech_to_text(
                method="GET",
                path=wire.PATHS["turns"],
                handler=self.turns,
                summary="WebSocket: audio to turns",
            ),
            speech_to_text(
                method="GET",
                path=wire.PATHS["manual"],
                handler=self.manual,
                summary="WebSocket: audio to text, ended by the client",
            ),
            *self._recordings.table(),
            speech_to_text(
                method="POST",
                path="/tts/bytes",
                handler=self.speak,
                summary="Text to speech, with `rtcstt stt --with-tts`",
            ),
            Route(
                method="POST",
                path="/access-token",
                handler=self.access_token,
                permission=Permission.ISSUE,
                summary=tokens,
                any_origin=True,
            ),
        ]

    async def turns(self, request: web.Request) -> web.StreamResponse:
        return await self._socket(request, "turns")

    async def manual(self, request: web.Request) -> web.StreamResponse:
        return await self._socket(request, "manual")

    async def access_token(self, request: web.Request) -> web.StreamResponse:
        """`POST /access-token`: something short-lived for a browser, which must not have the key."""
        wanted = await _json(request)
        return web.json_response({"token": self._guard.authenticator.issue(request[GRANT], wanted)})

    async def speak(self, request: web.Request) -> web.StreamResponse:
        """`POST /tts/bytes`: text to speech, where that was asked for at the start."""
        version_of(request)
        if self._speaker is None:
            message = "Speech is made by `rtcstt stt --with-tts` alone."
            raise CallerError(404, "not_found", "Not found", message)
        wanted = speech.Wanted.parse(await _json(request))
        audio = await self._speaker.say(wanted)
        return web.Response(body=audio, content_type=speech.TYPES[wanted.container])

    async def shut(self, app: web.Application) -> None:
        """What clients have sent so far is recognised and answered; then their sockets close with 1001."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                tasks = [task for _, task in self._open.values()]
                sessions = [session for session, _ in self._open.values()]
                await asyncio.gather(*(session.wind_up(GOING_AWAY, "server stops") for session in sessions))
                await asyncio.gather(*map(asyncio.shield, tasks), return_exceptions=True)
        for socket in list(self._open):
            with contextlib.suppress(ConnectionError):
                await socket.close(code=WSCloseCode.GOING_AWAY, message=b"server stops")

    async def close(self, app: web.Application) -> None:
        """End the processes that read recordings."""
        await self._recordings.close()

    async def _socket(self, request: web.Request, endpoint: wire.Endpoint) -> web.StreamResponse:
        version = version_of(request)
        handshake = wire.Handshake.parse(endpoint, request.query.items())
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise CallerError(426, "upgrade_required", "Upgrade required", "This is a WebSocket endpoint.")
        reserved = self._streams.reserve()
        if reserved is None:
            raise concurrency_limited(f"{self._streams.capacity} streams are in use or reserved already.")
        try:
            session = await (await self._services()).open(handshake, version=version)
            return await self._serve(request, session)
        finally:
            reserved.release()

    async def _serve(self, request: web.Request, session: Session) -> web.StreamResponse:
        socket = _Socket(session, request.transport, self._limits)
        socket.headers["X-Request-Id"] = session.request_id
        task = asyncio.current_task()
        assert task is not None
        try:
            await socket.prepare(request)
            _bound_unread(request.transport)
            self._open[socket] = session, task
            socket.alive_at = asyncio.get_running_loop().time()
            await _converse(socket, session)
        finally:
            self._open.pop(socket, None)
            await session.close()
        return socket


class _Socket(web.WebSocketResponse):
    """What aiohttp will not receive gets an error event before the close, as any other bad message does.

    On its own aiohttp sends a close frame at best, and drops the connection while the message is still
    coming: the client meets a reset (1006), which looks like a fault of the network, and tries again.
    """

    def __init__(self, session: Session, transport: asyncio.Transport | None, limits: HttpLimits) -> None:
        # Not compressed: to inflate 20 kB to the largest message would hold the event loop for 100 ms.
        super().__init__(max_msg_size=MAX_MESSAGE, autoping=False, timeout=limits.linger_s, compress=False)
        self.limits = limits
        self._session = session
        self._transport = transport
        self.unreadable = False
        self.alive_at = asyncio.get_running_loop().time()
        """When the client last gave a sign of life; infinite while it is held back, and so cannot."""

    def cut_off(self) -> None:
        """Drop the connection, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        problem = _UNREADABLE.get(code)
        if problem is not None and not self._session.is_over:
            self.unreadable = True
            await self._session.refuse(problem, code)  # so `_converse` sends the event, and closes
            return False
        return await super().close(code=code, message=message, drain=drain)


_UNREADABLE: dict[int, CallerError] = {
    WSCloseCode.MESSAGE_TOO_BIG: too_big("Send audio in chunks of 50 to 200 ms."),
    WSCloseCode.INVALID_TEXT: wire.bad_request("The text is not UTF-8.", "invalid_message"),
    WSCloseCode.PROTOCOL_ERROR: wire.bad_request("This is not the WebSocket protocol.", "invalid_message"),
}


def _bound_unread(transport: asyncio.Transport | None) -> None:
    """So that a client can tell that the recogniser is behind: what is sent is not all taken at once."""
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is not None:
        connected.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER)


async def _json(request: web.Request) -> object:
    return parse_object(await read_body(request, MAX_BODY), code="invalid_request")


async def _converse(socket: _Socket, session: Session) -> None:
    """Both ways at once; the session says when it is over."""
    tasks = [asyncio.create_task(work(socket, session)) for work in (_receive, _watch)]
    try:
        while True:
            text = await session.recv()
            async with asyncio.timeout(socket.limits.silent_s):
                await socket.send_str(text)
    except TimeoutError:  # nobody reads
        socket.cut_off()
    except ConnectionLost as lost:
        if socket.unreadable:
            await asyncio.sleep(socket.limits.linger_s)
        # With nobody in `receive`, aiohttp reads on until the client closes too; else it would drop the
        # connection, and reset a client that is still sending before they have seen why.
        await _cancelled(tasks[0])
        await socket.close(code=lost.close_code, message=lost.reason.encode()[:120])
    except ConnectionError:  # the client has left
        pass
    finally:
        for task in tasks:
            await _cancelled(task)


async def _watch(socket: _Socket, session: Session) -> None:
    """Ask for signs of life, and end the session without any; who does not even read is cut off."""
    clock, silent_s = asyncio.get_running_loop(), socket.limits.silent_s
    while clock.time() - socket.alive_at < silent_s:
        await asyncio.sleep(min(PING_S, silent_s / 3))
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(PING_S):
                await socket.ping()
    log.info("session %s: no sign of life for %g s", session.request_id, silent_s)
    message = f"Nothing came for {silent_s:g} s, not even the answer to a ping."
    problem = CallerError(408, "silent_client", "No sign of life", message)
    await session.refuse(problem, WSCloseCode.POLICY_VIOLATION)
    await asyncio.sleep(socket.limits.linger_s)
    socket.cut_off()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _receive(socket: _Socket, session: Session) -> None:
    others = GivingWay()
    try:
        async for message in socket:
            await others.turn()
            socket.alive_at = math.inf
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await session.send(message.data)
            elif message.type is WSMsgType.PING:
                async with asyncio.timeout(socket.limits.silent_s):
                    await socket.pong(message.data)
            elif socket.unreadable:
                break
            socket.alive_at = asyncio.get_running_loop().time()
    except (ConnectionLost, ConnectionError):
        pass  # the session is over, and what is left of it still being sent; or the client has left
    except TimeoutError:  # nobody reads
        socket.cut_off()
    except Exception:
        log.exception("session %s failed", session.request_id)
    finally:
        await session.close()  # the client closed, or left: nobody waits for the rest
