"""The embedded STT behind the wire protocol: sessions, without sockets.

A `Session` is one client's connection: what a WebSocket client sends goes into `send`, what it would
receive comes out of `recv`. The aiohttp routes and the calls of the same process use the same object.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import soxr

from rtcstt import wire
from rtcstt.embedded.recognizer import ManualStream, Recognizer, TurnStream
from rtcstt.errors import CallerError, ConnectionLost, EngineError, ProtocolError
from rtcstt.pcm import SAMPLE_RATE

NORMAL, GOING_AWAY, UNSUPPORTED, POLICY, TOO_BIG, FAILED = 1000, 1001, 1003, 1008, 1009, 1011
MAX_AUDIO_BYTES = 4 * 1024 * 1024  # of one message
MAX_TEXT = 64 * 1024
MAX_UNREAD = 2000  # messages that a client left unread
STREAMS_PER_CPU = 16  # that talk little; more are refused with 429
IDLE_S = 180.0
OLDER_IDLE_S = 20.0  # of ink-whisper, on the manual endpoint

_OWN = ("tiny-en", "base-en")


class Service:
    """All sessions of one recogniser. ``max_streams`` None: by the number of processors."""

    def __init__(self, recognizer: Recognizer, *, max_streams: int | None = None) -> None:
        self.recognizer = recognizer
        self.max_streams = max_streams or STREAMS_PER_CPU * (os.cpu_count() or 1)
        self.opened = 0
        self.refused = 0
        self._sessions: set[Session] = set()

    @property
    def streams(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    async def open(self, handshake: wire.Handshake) -> Session:
        """A new session; `CallerError` 400 for an unknown model or language, 429 when there are too many."""
        check_model(handshake.model, endpoint=handshake.endpoint)
        if handshake.language not in (None, "", "en"):
            raise wire.bad_request("This recogniser understands English (en) only.", "unsupported_language")
        if len(self._sessions) >= self.max_streams:
            self.refused += 1
            raise CallerError(
                429,
                "concurrency_limited",
                "Too many streams",
                f"{self.max_streams} streams are open already.",
                retry_after_s=5,
            )
        session = Session(self, handshake)
        self._sessions.add(session)
        self.opened += 1
        return session

    def forget(self, session: Session) -> None:
        self._sessions.discard(session)

    async def close(self) -> None:
        """End every session. The recogniser stays open: it belongs to who made it."""
        await asyncio.gather(*(session.close(GOING_AWAY) for session in list(self._sessions)))


class Session:
    """One connection, from the server's side: `send` what the client sends, `recv` what it gets.

    The first message is `connected`. After the client's `close` everything due still comes, then `recv`
    raises `ConnectionLost` with code 1000. After an `error` event it raises with another code.
    """

    def __init__(self, service: Service, handshake: wire.Handshake) -> None:
        self.request_id = str(uuid.uuid4())
        self._service = service
        self._protocol = wire.TurnsServer() if handshake.endpoint == "turns" else wire.ManualServer()
        self._decoder = wire.AudioDecoder(handshake.encoding)
        self._resampler = _resampler(handshake.sample_rate)
        self._min_volume = handshake.min_volume or 0.0
        self._stream = self._listen(handshake)
        older = handshake.endpoint == "manual" and handshake.model.startswith("ink-whisper")
        self._idle_s = OLDER_IDLE_S if older else IDLE_S
        self._outbox: asyncio.Queue[str] = asyncio.Queue(MAX_UNREAD)
        self._closing = False
        self._close_code: int | None = None
        self._close_reason = ""
        self._last = time.monotonic()
        self._outbox.put_nowait(self._encoded(wire.Connected()))
        self._pump = asyncio.create_task(self._run())

    async def send(self, data: str | bytes) -> None:
        """One message of the client's. Waits while the recogniser is behind; `ConnectionLost` once over."""
        self._check_open()
        self._last = time.monotonic()
        try:
            if isinstance(data, bytes):
                await self._hear(data)
            else:
                await self._obey(data)
        except CallerError as error:
            await self._fail(error.status, error.code, error.title, error.message, POLICY)
        except ProtocolError as error:
            await self._fail(400, "invalid_message", "Invalid message", f"{error}.", POLICY)

    async def recv(self) -> str:
        """The next message for the client; `ConnectionLost` after the last."""
        while True:
            if not self._outbox.empty():
                return self._outbox.get_nowait()
            if self._pump.done():
                raise ConnectionLost(self._close_code or NORMAL, self._close_reason)
            waiting = asyncio.create_task(self._outbox.get())
            try:
                await asyncio.wait({waiting, self._pump}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not waiting.done():
                    waiting.cancel()
            if waiting.done() and not waiting.cancelled():
                return waiting.result()

    async def close(self, code: int = NORMAL) -> None:
        """End the session at once, without a drain. Idempotent."""
        self._close_code = self._close_code or code
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    def _listen(self, handshake: wire.Handshake) -> TurnStream | ManualStream:
        recognizer = self._service.recognizer
        if handshake.endpoint == "turns":
            return recognizer.turns(handshake.turn)
        return recognizer.manual(max_silence_s=handshake.max_silence_duration_secs)

    async def _hear(self, data: bytes) -> None:
        if self._closing:
            return
        if len(data) > MAX_AUDIO_BYTES:
            await self._fail(
                413, "message_too_big", "Message too big", "Send audio in chunks of 50 to 200 ms.", TOO_BIG
            )
            return
        samples = self._decoder.decode(data)
        if self._min_volume and len(samples) and float(np.abs(samples).max()) < self._min_volume:
            samples = np.zeros_like(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        if len(samples):
            await self._stream.feed(samples)

    async def _obey(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            await self._fail(
                413, "message_too_big", "Message too big", "No text message is that long.", TOO_BIG
            )
            return
        message = self._protocol.receive_text(text)
        if self._closing:
            return
        match message:
            case wire.Config():
                assert isinstance(self._stream, TurnStream)
                await self._stream.configure(message.turn)
            case wire.Finalize():
                assert isinstance(self._stream, ManualStream)
                await self._flush_resampler(last=False)
                await self._stream.finalize()
            case wire.Close():
                self._closing = True
                await self._flush_resampler(last=True)
                await self._stream.finish()

    async def _flush_resampler(self, *, last: bool) -> None:
        """At the end what the resampler holds back (a few ms) is heard as well."""
        if last and self._resampler is not None:
            samples = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(samples):
                await self._stream.feed(samples)

    async def _run(self) -> None:
        """Pass on what the stream says, until it is over or the client has been idle too long."""
        reader = self._stream.__aiter__()
        idle = asyncio.create_task(self._watch())
        try:
            async for message in _until(reader, idle):
                await self._outbox.put(self._encoded(message))
            self._close_code = self._close_code or NORMAL
        except EngineError as error:
            self._say_error(500, "internal_error", "Internal error", f"{error}.")
            self._close_code = FAILED
        finally:
            idle.cancel()
            await asyncio.gather(idle, return_exceptions=True)
            await self._stream.cancel()
            self._service.forget(self)

    async def _watch(self) -> None:
        """Returns when the client has sent nothing for too long."""
        while True:
            left = self._last + self._idle_s - time.monotonic()
            if left <= 0 and not self._closing:
                break
            await asyncio.sleep(max(left, 1.0))
        self._close_reason = "idle"

    async def _fail(self, status: int, code: str, title: str, message: str, close_code: int) -> None:
        self._say_error(status, code, title, message)
        self._close_code = close_code
        self._close_reason = code
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    def _say_error(self, status: int, code: str, title: str, message: str) -> None:
        if self._outbox.full():
            self._outbox.get_nowait()  # the client reads nothing; what it should know first is why
        self._outbox.put_nowait(self._encoded(wire.Error(title, message, status, error_code=code)))

    def _encoded(self, message: wire.ServerMessage) -> str:
        return self._protocol.send(replace(message, request_id=self.request_id))

    def _check_open(self) -> None:
        if self._pump.done():
            raise ConnectionLost(self._close_code or NORMAL, self._close_reason)


def check_model(name: str, *, endpoint: wire.Endpoint | None) -> None:
    """`CallerError` 400 unless the name is one of the API's, or one of our own models'."""
    known = name == "ink-2" or name in _OWN
    if endpoint != "turns":
        known = known or name == "ink-whisper" or name.startswith("ink-whisper-")
    if endpoint is None:
        known = known or name.startswith("whisper-")  # what OpenAI's clients ask for
    if not known:
        raise wire.bad_request(f"There is no model {name[:60]!r} here; use ink-2.", "model_not_found")


async def _until(reader: AsyncIterator[wire.ServerMessage], stop: asyncio.Task[None]) -> AsyncIterator[Any]:
    """What ``reader`` gives, until it ends or ``stop`` is done."""
    while True:
        following = asyncio.ensure_future(anext(reader, None))
        try:
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            message = following.result()
        finally:
            if not following.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        if message is None:
            return
        yield message


def _resampler(rate: int) -> Any:
    if rate == SAMPLE_RATE:
        return None
    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
