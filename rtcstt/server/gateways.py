"""Calls whose audio comes from a gateway's fork as PCM: over a WebSocket, in two common forms.

* `serve_pcm`: binary messages are audio, the text messages that come back are events. What FreeSWITCH's
  mod_audio_stream sends, and whatever is written for it.
* `serve_media_stream`: JSON messages with base64 audio, as Twilio and those who follow it send them.

Audio comes over TCP, so nothing is lost, but it may come in bursts, or as fast as the line allows: what is
ahead of real time by more than `Timing.ahead_s` is left in the socket until its time has come. What makes no
sense is ignored and counted; who sends much of it is let go.

A connection that ends without a word (no close frame, no `stop`) is lost: its gateway may come back for a
while. One that is closed, or silent for too long, has ended, and the call with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from rtcstt import logs
from rtcstt.call import Call
from rtcstt.errors import CallerError, bad_request
from rtcstt.events import AudioIgnored, Dtmf, ErrorEvent
from rtcstt.http.giving_way import GivingWay
from rtcstt.server.intake import TIMING, Intake, Timing
from rtcstt.server.media_formats import (
    NO_OBJECT,
    Key,
    Media,
    Message,
    Other,
    Start,
    Stop,
    Unreadable,
    media_message,
    pcm_message,
    reason,
)
from rtcstt.server.returning import GatewayLink
from rtcstt.server.stated_formats import Form, Stated

MAX_MESSAGE = 256 * 1024
MAX_BAD = 100  # messages that make no sense, of one connection
UNREAD_S = 60.0  # a client who reads nothing for so long gets no more events
MAX_TRACKS = 8  # of one media stream
MAX_EARLY = 500  # messages before the one that says what they are; they are kept till then
MAX_EARLY_SIZE = 4 << 20  # bytes of their audio: 10 s of any that is taken
MEDIA_STREAM = Form("pcm_mulaw", 8000)  # where a media stream does not say what it is
SUBPROTOCOLS = ("audio.jambonz.org", "audio.drachtio.org", "media")
ENDED: web.ResponseKey[bool] = web.ResponseKey("ended", bool)
"""The socket was closed, by either end, or its audio has ended; anything else is a loss."""
LOST = {1001, 1006, 1011, 1012, 1013, 1014}  # close codes of an end that had no choice: no hanging up


def check_websocket(request: web.Request) -> None:
    """`CallerError` 426 when the request asks for none."""
    if not web.WebSocketResponse().can_prepare(request).ok:
        raise CallerError(426, "websocket_needed", "A WebSocket is needed", "This address is a WebSocket's.")


Begin = Callable[[Start], Awaitable[Call]]
AdmitTrack = Callable[[Call, int], bool]
Attach = Callable[[Call, Callable[[], None]], GatewayLink]
"""Makes a connection that of a call; what it is given drops the connection."""


def _websocket(request: web.Request) -> web.WebSocketResponse:
    """Of the subprotocols that the client offers the first known one is selected, else the first: clients
    hang up where none is, and what they send is read all the same (RFC 6455 section 4.2.2)."""
    offered = [
        one.strip()
        for one in request.headers.get("Sec-WebSocket-Protocol", "")[:1000].split(",")
        if one.strip()
    ]
    chosen = [one for one in offered if one in SUBPROTOCOLS][:1] or offered[:1]
    return web.WebSocketResponse(max_msg_size=MAX_MESSAGE, protocols=chosen, compress=False)


async def serve_pcm(
    request: web.Request,
    call: Call,
    attach: Attach,
    stated: Stated,
    admit_track: AdmitTrack,
    timing: Timing = TIMING,
) -> web.WebSocketResponse:
    """One fork until it ends. ``stated``: what the URL says of the audio; a text before it may say the rest.
    The call is over when its socket is closed, or the other way round, or when no message came for
    ``timing.silent_s``."""
    socket = _websocket(request)
    async with _held(call, request, socket, attach):
        await socket.prepare(request)
        fork = _Fork(call, stated, admit_track, timing)
        async with _ending_with(call, socket, tell=True):
            try:
                async for message in _received(socket, timing.silent_s):
                    if message.type is WSMsgType.BINARY:
                        await fork.intake().push(message.data)
                    elif message.type is WSMsgType.TEXT:
                        fork.obey(message.data)
                    elif (broken := _broken(message)) is not None:
                        call.publish(AudioIgnored(track="0", reason=broken.problem))
                        fork.intake().drop(broken.size)
            except CallerError as error:
                socket[ENDED] = True
                call.refuse(error)
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason(error))
    return socket


class _Fork:
    """Binary audio whose form is stated by the URL, and by texts before it."""

    def __init__(self, call: Call, stated: Stated, admit_track: AdmitTrack, timing: Timing) -> None:
        self._call = call
        self._stated = stated
        self._admit_track = admit_track
        self._timing = timing
        self._intake: Intake | None = None

    def intake(self) -> Intake:
        if self._intake is None:
            form = self._stated.form()
            if form.channels > 1 and not self._admit_track(self._call, form.channels):
                raise bad_request("No speech-to-text stream is free for the second channel.", "full")
            names = [str(channel) for channel in range(form.channels)]
            self._intake = Intake(self._call, names, form, self._timing)
        return self._intake

    def obey(self, text: str) -> None:
        """Commands are those of the data channel. `CallerError` 400 where the audio is stated in a way that
        is not taken, or otherwise than before."""
        try:
            message = pcm_message(text)
        except CallerError as error:
            if error.code == NO_OBJECT:
                return  # some text of a dialplan's own
            if not error.message.startswith("dtmf"):
                raise
            self._call.refuse(error)
            return
        match message:
            case Start(stated=stated, about=about, refused=refused):
                if refused is not None:
                    self._call.refuse(refused)
                self._stated = self._stated.agreeing(stated, "the first message")
                if self._intake is not None and self._stated.form() != self._intake.form:
                    raise bad_request("The audio's format is stated after the audio began.")
                self._call.metadata = self._call.metadata or about.metadata
            case Key(digit=digit, duration_ms=duration_ms):
                self._call.publish(Dtmf(track="0", digit=digit, duration_ms=duration_ms))
            case Other(value=value) if value:
                self._call.command(json.dumps(value))


async def serve_media_stream(
    request: web.Request,
    begin: Begin,
    attach: Attach,
    admit_track: AdmitTrack,
    stated: Stated | None = None,
    timing: Timing = TIMING,
) -> web.WebSocketResponse:
    """One media stream until it ends. ``begin`` makes its call from what the `start` message says, or finds
    the one that goes on with it, or raises `CallerError`; ``admit_track`` tells whether it may have so many
    tracks; ``stated``: what the URL says of the audio. Nothing but audio's own messages is known to the other
    end, so no events go back."""
    socket = _websocket(request)
    await socket.prepare(request)
    early: list[Message | CallerError] = []
    try:
        async with asyncio.timeout(timing.start_s):
            start = await _start_of(socket, timing.silent_s, early)
        form = (stated or Stated()).agreeing(start.stated, "start").form(MEDIA_STREAM)
        call = await begin(start)
    except _Lost:
        pass
    except TimeoutError:
        problems = [one.message for one in early if isinstance(one, CallerError)]
        error = bad_request("; ".join(["no start message came", *problems[:1]]))
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason(error))
    except CallerError as error:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason(error))
    else:
        async with _held(call, request, socket, attach), _ending_with(call, socket, tell=False):
            stream = _MediaStream(call, form, admit_track, timing, start.tag)
            try:
                for message in early:
                    await stream.take(message)
                async for message in _messages(socket, timing.silent_s):
                    if isinstance(message, Stop) and stream.stops(message):
                        socket[ENDED] = True
                        break
                    await stream.take(message)
            except CallerError as error:
                socket[ENDED] = True
                call.refuse(error)
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason(error))
            finally:
                await stream.flush()
    return socket


class _MediaStream:
    """JSON messages with audio of one or more tracks."""

    def __init__(
        self, call: Call, form: Form, admit: AdmitTrack, timing: Timing, tag: str | None = None
    ) -> None:
        self._call = call
        self._form = form
        self._tags = {tag}  # of the streams that have begun
        self._admit_track = admit
        self._timing = timing
        self._intakes: dict[str | None, Intake | None] = {}
        self._ignored: set[str] = set()

    async def take(self, message: Message | CallerError) -> None:
        """`CallerError` where the audio is stated again, and otherwise."""
        match message:
            case CallerError():
                self._ignore(message.message)
            case Start(stated=stated, tag=tag):
                if stated.form(self._form) != self._form:
                    raise bad_request("start states another format than before.")
                if tag in self._tags or len(self._tags) < MAX_TRACKS:
                    self._tags.add(tag)
                else:
                    self._ignore(f"start.tag: there are more than {MAX_TRACKS} streams.")
            case Key(track=track, digit=digit, duration_ms=duration_ms):
                self._call.publish(Dtmf(track=track or "inbound", digit=digit, duration_ms=duration_ms))
            case Media(track=track, data=data):
                intake = self._intake(track)
                if intake is not None:
                    await intake.push_chunk(message)
                elif track in self._intakes:
                    self._call.leave_out(track or "inbound", self._form.duration_s(len(data)))
                else:
                    self._ignore(f"media.track: there are more than {MAX_TRACKS} tracks.")
                    self._call.leave_out("", self._form.duration_s(len(data)))
            case Unreadable(problem=problem, track=track, size=size):
                self._ignore(problem)
                if track is None and self._intakes:
                    track = next(iter(self._intakes))  # nobody knows whose it was
                if (intake := self._intake(track)) is not None:
                    intake.drop(size)
                else:
                    self._call.leave_out("", self._form.duration_s(size))

    def stops(self, stop: Stop) -> bool:
        """Whether it was the last stream of this connection."""
        self._tags.discard(stop.tag)
        return stop.tag is None or not self._tags

    def _intake(self, track: str | None) -> Intake | None:
        """None where there is no room for it."""
        if track not in self._intakes and len(self._intakes) < MAX_TRACKS:
            self._intakes[track] = self._admitted(track)
        return self._intakes.get(track)

    def _ignore(self, reason: str) -> None:
        """Said once for each reason."""
        if reason not in self._ignored:
            self._ignored.add(reason)
            self._call.publish(AudioIgnored(track="", reason=reason))

    async def flush(self) -> None:
        for intake in self._intakes.values():
            if intake is not None:
                await intake.flush()

    def _admitted(self, track: str | None) -> Intake | None:
        """Of two channels in one track the first is who calls, the second who is called."""
        names = [track or "inbound"]
        if self._form.channels == 2:
            names = [f"{track}.0", f"{track}.1"] if track else ["inbound", "outbound"]
        count = sum(intake.form.channels for intake in self._intakes.values() if intake) + len(names)
        if not self._admit_track(self._call, count):
            _refuse(self._call, names[0])
            return None
        return Intake(self._call, names, self._form, self._timing)


class _Lost(Exception):
    """The other end is gone, and has not said that it goes."""


async def _received(socket: web.WebSocketResponse, silent_s: float) -> AsyncIterator[WSMessage]:
    """The messages, until the socket is closed, or none came for ``silent_s`` while one was waited for.
    `_Lost` when it breaks."""
    closing: set[asyncio.Task[bool]] = set()  # `receive(timeout=...)` would drop the connection

    def give_up() -> None:
        told = socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"nothing came for too long")
        closing.add(asyncio.create_task(told))

    loop, others = asyncio.get_running_loop(), GivingWay()
    try:
        while not socket.closed:
            await others.turn()
            overdue = loop.call_later(silent_s, give_up)
            try:
                message = await socket.receive()
            except ConnectionError:  # a client who left, to whom a ping was to be answered
                raise _Lost from None
            finally:
                overdue.cancel()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                yield message
            elif _is_lost(message):
                raise _Lost
            else:
                break
        socket[ENDED] = True
    finally:
        await asyncio.gather(*closing, return_exceptions=True)


def _is_lost(end: WSMessage) -> bool:
    if end.type is WSMsgType.ERROR:
        return not isinstance(end.data, WebSocketError)  # which is for what makes no sense
    return end.type is WSMsgType.CLOSED or (end.type is WSMsgType.CLOSE and end.data in LOST)


async def _start_of(
    socket: web.WebSocketResponse, silent_s: float, early: list[Message | CallerError]
) -> Start:
    """``early`` takes what came before, and is to be told."""
    size = 0
    async for message in _messages(socket, silent_s):
        if isinstance(message, Start):
            return message
        if isinstance(message, Media):
            size += len(message.data)
        if len(early) >= MAX_EARLY or size > MAX_EARLY_SIZE:
            raise bad_request(f"start did not come within {len(early)} messages.")
        early.append(Other() if isinstance(message, Other) else message)
    raise bad_request("The stream ended before its start message.")


def _refuse(call: Call, track: str) -> None:
    title = "The server is full"
    message = "No speech-to-text stream is free for this track: its audio is left out."
    call.publish(ErrorEvent(track=track, title=title, message=message, error_code="full", status_code=503))


async def _messages(socket: web.WebSocketResponse, silent_s: float) -> AsyncIterator[Message | CallerError]:
    """What came, and why it is not understood; ends when the socket does, or after too much of that. A
    `start` that is not understood is refused by raising `CallerError`."""
    bad = 0
    async for message in _received(socket, silent_s):
        understood: Message | CallerError
        try:
            understood = _understood(message)
        except CallerError as error:
            if error.message.startswith("start"):
                raise
            understood = error
        yield understood
        if isinstance(understood, Unreadable | CallerError):
            bad += 1
            if bad > MAX_BAD:
                problem = understood.message if isinstance(understood, CallerError) else understood.problem
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason(bad_request(problem)))


def _understood(message: WSMessage) -> Message:
    if message.type is WSMsgType.TEXT:
        return media_message(message.data)
    if message.type is WSMsgType.BINARY:
        return Unreadable("Audio comes in JSON here, not as binary messages.", size=len(message.data))
    return _broken(message) or Other()


def _broken(message: WSMessage) -> Unreadable | None:
    """What ended the connection in the midst of a message, which may have held audio."""
    error = message.data
    if message.type is not WSMsgType.ERROR or not isinstance(error, WebSocketError):
        return None
    if error.code == WSCloseCode.MESSAGE_TOO_BIG:
        return Unreadable(f"a message has more than {MAX_MESSAGE} bytes", size=MAX_MESSAGE)
    return Unreadable(f"a message breaks the WebSocket protocol: {error}"[:200])


@asynccontextmanager
async def _held(
    call: Call, request: web.Request, socket: web.WebSocketResponse, attach: Attach
) -> AsyncIterator[None]:
    """The call has this connection. When it breaks, the gateway may come back; whatever else ends it ends the
    call, whose last words are still for those who listen to it."""

    def drop() -> None:
        if request.transport is not None:
            request.transport.abort()

    link, lost = attach(call, drop), False
    with logs.about_call(call.id):
        try:
            yield
        except _Lost:
            lost = True
        except asyncio.CancelledError:
            lost = request.transport is None  # aiohttp cancels this when a client has left
            raise
        finally:
            link.close(lost=lost and not socket.get(ENDED, False))


@asynccontextmanager
async def _ending_with(call: Call, socket: web.WebSocketResponse, *, tell: bool) -> AsyncIterator[None]:
    """Close the socket when the call has ended, after its events where they are told."""
    task = asyncio.create_task(_tell(call, socket) if tell else _watch(call, socket))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tell(call: Call, socket: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):  # they have left, or do not read
        async for event in call.caller_events():
            async with asyncio.timeout(UNREAD_S):
                await socket.send_str(event.to_json())
    await _watch(call, socket)


async def _watch(call: Call, socket: web.WebSocketResponse) -> None:
    await call.wait_closed()
    await socket.close()
