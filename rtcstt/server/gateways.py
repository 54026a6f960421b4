"""Calls whose audio comes from a gateway's fork as PCM: over a WebSocket, in two common forms.

* `serve_pcm`: binary messages are audio, the text messages that come back are events. What FreeSWITCH's
  mod_audio_stream sends, and whatever is written for it.
* `serve_media_stream`: JSON messages with base64 audio, as Twilio and those who follow it send them.

Audio comes over TCP, so nothing is lost, but it may come in bursts, or as fast as the line allows: what is
ahead of real time by more than `AHEAD_S` is left in the socket until its time has come. What makes no
sense is ignored and counted; who sends much of it is let go.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from rtcstt import logs
from rtcstt.call import Call
from rtcstt.errors import CallerError
from rtcstt.events import ErrorEvent
from rtcstt.http.bodies import checked_metadata, parse_object
from rtcstt.media import g711
from rtcstt.media.pcm import Samples
from rtcstt.wire import bad_request

AHEAD_S = 5.0
LONGEST_S = 1.0  # of audio given to a call at once
WAIT_S = 0.1
MAX_MESSAGE = 256 * 1024
MAX_BAD = 100  # messages that make no sense, of one connection
START_S = 10.0  # a media stream has to say by then what it is
SILENT_S = 15.0  # a gateway of which no message came for so long is gone
UNREAD_S = 60.0  # a client who reads nothing for so long gets no more events
SAMPLE_RATES = (8000, 96000)


def _linear(data: bytes) -> Samples:
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2")


def _by_table(table: Samples) -> Callable[[bytes], Samples]:
    return lambda data: np.asarray(table[np.frombuffer(data, np.uint8)])


DECODERS: Mapping[str, Callable[[bytes], Samples]] = {
    "pcm_s16le": _linear,
    "pcm_mulaw": _by_table(g711.MULAW),
    "pcm_alaw": _by_table(g711.ALAW),
}
_MEDIA_ENCODINGS = {"audio/x-mulaw": "pcm_mulaw", "audio/x-alaw": "pcm_alaw", "audio/x-l16": "pcm_s16le"}


@dataclass(frozen=True, slots=True)
class Form:
    """What the bytes of a fork are. Two channels are interleaved, and are two speakers."""

    encoding: str = "pcm_s16le"
    sample_rate: int = 8000
    channels: int = 1

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Form:
        """Raises `CallerError` 400 when it is none of those that are taken."""
        encoding = query.get("encoding", "pcm_s16le")
        rate, channels = query.get("sample_rate", "8000"), query.get("channels", "1")
        low, high = SAMPLE_RATES
        if encoding not in DECODERS:
            raise bad_request(f"encoding must be one of {', '.join(DECODERS)}.")
        if not (rate.isascii() and rate.isdecimal() and low <= int(rate[:9]) <= high):
            raise bad_request(f"sample_rate must be a whole number of Hz from {low} to {high}.")
        if channels not in ("1", "2"):
            raise bad_request("channels must be 1 or 2.")
        return cls(encoding, int(rate), int(channels))


class Intake:
    """One source's audio into a call: a track for each channel."""

    def __init__(self, call: Call, tracks: Sequence[str], form: Form) -> None:
        self._lines = [call.add_track(track) for track in tracks]
        self._form = form
        self._decode = DECODERS[form.encoding]

    async def push(self, data: bytes) -> None:
        """Give the call what came; waits while that is too far ahead of real time."""
        samples = self._decode(data)
        channels = len(self._lines)
        step = round(LONGEST_S * self._form.sample_rate)
        frames = samples[: len(samples) // channels * channels].reshape(-1, channels)
        for start in range(0, len(frames), step):
            await self._wait()
            for index, line in enumerate(self._lines):
                line.push_pcm(frames[start : start + step, index], self._form.sample_rate)

    async def _wait(self) -> None:
        while any(line.queued_s > AHEAD_S and not line.ended for line in self._lines):  # noqa: ASYNC110
            await asyncio.sleep(WAIT_S)  # only time makes room


def check_websocket(request: web.Request) -> None:
    """`CallerError` 426 when the request asks for none."""
    if not web.WebSocketResponse().can_prepare(request).ok:
        raise CallerError(426, "websocket_needed", "A WebSocket is needed", "This address is a WebSocket's.")


async def serve_pcm(
    request: web.Request, call: Call, form: Form, *, silent_s: float = SILENT_S
) -> web.WebSocketResponse:
    """One fork until it ends. The call is over when its socket is, or the other way round, or when no message
    came for ``silent_s``."""
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE)
    async with _hanging_up(call):
        await socket.prepare(request)
        intake = Intake(call, [str(channel) for channel in range(form.channels)], form)
        async with _ending_with(call, socket, tell=True):
            async for message in _received(socket, silent_s):
                if message.type is WSMsgType.BINARY:
                    await intake.push(message.data)
                elif message.type is WSMsgType.TEXT:
                    _obey(call, message.data)
    return socket


def _obey(call: Call, text: str) -> None:
    """Commands are those of the data channel. FreeSWITCH begins with a text of the dialplan's own, which is
    the call's metadata where it is an object."""
    with contextlib.suppress(CallerError):
        value = parse_object(text)
        if "type" in value:
            call.command(text)
        elif not call.metadata:
            call.metadata = checked_metadata(value)


Begin = Callable[[Mapping[str, Any]], Call]
AdmitTrack = Callable[[Call, int], bool]


async def serve_media_stream(
    request: web.Request, begin: Begin, admit_track: AdmitTrack, *, silent_s: float = SILENT_S
) -> web.WebSocketResponse:
    """One media stream until it ends. ``begin`` makes its call, from what the `start` message says, or
    raises `CallerError`; ``admit_track`` tells whether it may have so many tracks.
    Nothing but audio's own messages is known to the other end, so no events go back."""
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE)
    await socket.prepare(request)
    try:
        async with asyncio.timeout(START_S):
            start = await _start_of(socket, silent_s)
        form = _media_form(start)
        call = begin(start)
    except TimeoutError:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"no start message came")
    except CallerError as error:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.message.encode()[:120])
    else:
        async with _hanging_up(call), _ending_with(call, socket, tell=False):
            await _receive(_messages(socket, silent_s), call, form, admit_track)
    return socket


async def _received(socket: web.WebSocketResponse, silent_s: float) -> AsyncIterator[WSMessage]:
    """The messages, until the socket ends, or none came for ``silent_s`` while one was waited for."""
    closing: set[asyncio.Task[bool]] = set()  # `receive(timeout=...)` would drop the connection

    def give_up() -> None:
        told = socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"nothing came for too long")
        closing.add(asyncio.create_task(told))

    loop = asyncio.get_running_loop()
    try:
        while True:
            overdue = loop.call_later(silent_s, give_up)
            try:
                message = await anext(socket, None)
            finally:
                overdue.cancel()
            if message is None:
                return
            yield message
    finally:
        await asyncio.gather(*closing, return_exceptions=True)


def tracks_of(start: Mapping[str, Any]) -> int:
    """How many tracks a media stream says that it has: ``inbound``, ``outbound``, or both."""
    tracks = start.get("tracks")
    return (
        2 if isinstance(tracks, list) and {"inbound", "outbound"} <= {str(one)[:16] for one in tracks} else 1
    )


async def _start_of(socket: web.WebSocketResponse, silent_s: float) -> dict[str, Any]:
    async for message in _messages(socket, silent_s):
        start = message.get("start")
        if message["event"] == "start" and isinstance(start, dict):
            return start
    raise bad_request("The stream ended before its start message.")


async def _receive(
    messages: AsyncIterator[dict[str, Any]], call: Call, form: Form, admit_track: AdmitTrack
) -> None:
    tracks: dict[str, Intake | None] = {}
    async for message in messages:
        if message["event"] == "stop":
            return
        media = message.get("media")
        if message["event"] != "media" or not isinstance(media, dict):
            continue
        track = "outbound" if media.get("track") == "outbound" else "inbound"
        with contextlib.suppress(ValueError, TypeError):
            data = base64.b64decode(media.get("payload", ""), validate=True)
            if track not in tracks:
                admitted = admit_track(call, len(tracks) + 1)
                tracks[track] = Intake(call, [track], form) if admitted else None
                if not admitted:
                    _refuse(call, track)
            intake = tracks[track]
            if intake is not None:
                await intake.push(data)


def _refuse(call: Call, track: str) -> None:
    message = "No speech-to-text stream is free for this track: its audio is left out."
    call.publish(
        ErrorEvent(
            track=track, title="The server is full", message=message, error_code="full", status_code=503
        )
    )


async def _messages(socket: web.WebSocketResponse, silent_s: float) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects that have an `event`; ends when the socket does, or after too much of other things."""
    bad = 0
    async for message in _received(socket, silent_s):
        try:
            value = json.loads(message.data) if message.type is WSMsgType.TEXT else None
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and isinstance(value.get("event"), str):
            yield value
            continue
        bad += 1
        if bad > MAX_BAD:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"these are no media messages")


def _media_form(start: Mapping[str, Any]) -> Form:
    form = start.get("mediaFormat")
    form = form if isinstance(form, dict) else {}
    encoding = _MEDIA_ENCODINGS.get(str(form.get("encoding", "audio/x-mulaw")), "unknown")
    return Form.parse({"encoding": encoding, "sample_rate": str(form.get("sampleRate", 8000))})


def about_media_stream(start: Mapping[str, Any]) -> dict[str, Any]:
    """Label and metadata of its call: who it is about, in the stream's own names."""
    parameters = start.get("customParameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    names = ("streamSid", "callSid", "accountSid")
    metadata: dict[str, Any] = {name: start[name][:200] for name in names if isinstance(start.get(name), str)}
    shown = {
        name[:64]: str(value)[:500]
        for name, value in list(parameters.items())[:32]
        if name != "access_token" and isinstance(value, str | int | float | bool)
    }
    if shown:
        metadata["customParameters"] = shown
    checked_metadata(metadata)
    label = shown.get("label") or metadata.get("callSid")
    return {"label": label[:200] if label else None, "metadata": metadata}


@asynccontextmanager
async def _hanging_up(call: Call) -> AsyncIterator[None]:
    """Whatever ends the connection ends the call; its last words are still for those who listen to it."""
    with logs.about_call(call.id):
        try:
            yield
        finally:
            call.hang_up("hung up")


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
    with contextlib.suppress(ConnectionError, TimeoutError):  # he has left, or does not read
        async for event in call.caller_events():
            async with asyncio.timeout(UNREAD_S):
                await socket.send_str(event.to_json())
    await _watch(call, socket)


async def _watch(call: Call, socket: web.WebSocketResponse) -> None:
    await call.wait_closed()
    await socket.close()
