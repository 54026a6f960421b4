"""The embedded STT behind the wire protocol: sessions, without sockets.

A `Session` is one client's connection: what a WebSocket client sends goes into `send`, what it would
receive comes out of `recv`. The aiohttp routes and the calls of the same process use the same object.

Nothing a client does makes a session grow. Audio waits in the recogniser's stream, two seconds of it at
most; then `send` waits, and with it the client's socket. Messages wait here, `MAX_UNREAD` of them; then
the stream stops listening. Audio that comes faster than real time is held back (`Pace`), and when that
has gone on for `Limits.flood_s` the client is told to slow down, and refused.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from rtcstt import wire
from rtcstt.embedded import versions
from rtcstt.embedded.audio import AudioInput
from rtcstt.embedded.hypothesis import Terms
from rtcstt.embedded.listener import UPDATE_MS
from rtcstt.errors import CallerError, ConfigError, ConnectionLost, EngineError, ProtocolError
from rtcstt.limits import TokenBucket

if TYPE_CHECKING:
    from rtcstt.embedded.recognizer import Recognizer
    from rtcstt.embedded.streams import ManualStream, TurnStream

NORMAL, GOING_AWAY, POLICY, TOO_BIG, FAILED = 1000, 1001, 1008, 1009, 1011  # RFC 6455 section 7.4.1
MAX_AUDIO_BYTES = 4 * 1024 * 1024  # of one message
MAX_AUDIO_S = 30.0  # of one message
MAX_TEXT = 64 * 1024
MAX_FLUSHES = 100  # `finalize` commands not answered yet
FLOOD_RATE = 2.0  # times real time

_OWN = ("tiny-en", "base-en", "whisper-tiny.en", "whisper-base")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one session may do."""

    idle_s: float = 180.0
    older_idle_s: float = 20.0  # see `versions.is_impatient`
    lead_s: float = 20.0
    flood_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What holds for streams that do not ask for something else."""

    update_ms: float = UPDATE_MS
    keyterm_strength: float = 1.0


class Service:
    """All sessions of one recogniser. Streams beyond ``max_streams`` are refused; None: none is."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        max_streams: int | None = None,
        limits: Limits | None = None,
        defaults: Decoding | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.defaults = defaults or Decoding()
        self.max_streams = max_streams
        self.limits = limits or Limits()
        self.opened = 0
        self.refused = 0
        self._sessions: set[Session] = set()

    @property
    def streams(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    def stats(self) -> dict[str, int]:
        return {"open": self.streams, "opened": self.opened, "refused": self.refused}

    async def open(self, handshake: wire.Handshake, *, version: str = "") -> Session:
        """A new session; `CallerError` 400 for an unknown model or language, 429 when there are too many.

        ``version`` of the API, a date, as far as the client names one: before `versions.NEWER_SINCE` words
        and errors take their older form.
        """
        check_model(handshake.model, endpoint=handshake.endpoint)
        handshake = replace(handshake, language=check_language(handshake.language, self.recognizer.languages))
        if self.max_streams is not None and len(self._sessions) >= self.max_streams:
            self.refused += 1
            raise concurrency_limited(f"{self.max_streams} streams are open already.")
        session = Session(self, handshake, version=version)
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

    On the turns endpoint the first message is `connected`. After the client's `close` everything due
    still comes, then `recv` raises `ConnectionLost` with code 1000; after an `error` event another code.
    `recv` may be cancelled without loss; `send` not.
    """

    def __init__(self, service: Service, handshake: wire.Handshake, *, version: str = "") -> None:
        self.request_id = str(uuid.uuid4())
        self._service = service
        self._older = versions.is_older(version)
        turns = handshake.endpoint == "turns"
        self._protocol = wire.TurnsServer(handshake.turn) if turns else wire.ManualServer()
        self._audio = AudioInput(
            handshake.encoding, handshake.sample_rate, min_volume=handshake.min_volume or 0.0
        )
        self._pace = Pace(service.limits.lead_s)
        self._stream = self._listen(handshake)
        self._greeting = turns  # `connected` is still to be said
        self._last: wire.Error | None = None  # to be said when the stream has no more to say
        self._closing = False
        self._code, self._reason = NORMAL, ""
        self._received_at = asyncio.get_running_loop().time()
        self._watch = asyncio.create_task(self._wait_idle(_idle_s(handshake, version, service.limits)))
        self._stream.task.add_done_callback(self._ended)

    @property
    def position(self) -> int:
        """Samples (16 kHz) that were worked on."""
        return self._stream.position

    async def send(self, data: str | bytes) -> None:
        """One message of the client's. Waits while the recogniser is behind; `ConnectionLost` once over."""
        if self.is_over:
            raise ConnectionLost(self._code, self._reason)
        clock = asyncio.get_running_loop()
        self._received_at = clock.time()
        try:
            if isinstance(data, bytes):
                await self._receive(data)
            else:
                await self._obey(data)
            self._received_at = clock.time()  # having to wait is not being idle
        except CallerError as error:
            await self.refuse(error, TOO_BIG if error.status == 413 else POLICY)
        except ProtocolError as error:
            problem = CallerError(400, "invalid_message", "Invalid message", f"{error}.")
            await self.refuse(problem, POLICY)

    async def recv(self) -> str:
        """The next message for the client; `ConnectionLost` after the last."""
        if self._greeting:
            self._greeting = False
            return self._encoded(wire.Connected())
        try:
            while (message := await self._stream.next()) is not None:
                if not isinstance(message, wire.Done) or self._asked_to_close():  # else it is we who end this
                    return self._encoded(message)
        except EngineError:
            if self._code != FAILED:
                problem = CallerError(500, "internal_error", "Internal error", "Recognition failed.")
                self._say_why(problem, FAILED)
        if self._last is not None:
            error, self._last = self._last, None
            return self._encoded(error)
        await self._stop()
        raise ConnectionLost(self._code, self._reason)

    async def wind_up(self, code: int, reason: str) -> None:
        """As if the client had said `close`, but end with ``code``: no more is taken, the rest is said."""
        if not self._closing:
            self._closing = True
            self._code, self._reason = code, reason
            await self._finish()

    @property
    def is_over(self) -> bool:
        """Nothing more is taken; what was said before may still be unread."""
        return self._stream.task.done()

    async def refuse(self, error: CallerError, code: int) -> None:
        """End the session at once by an error event and this close code, unless it is over."""
        if not self.is_over:
            self._say_why(error, code)
            await self._stop()

    async def close(self, code: int = NORMAL) -> None:
        """End the session at once, without a drain. Idempotent."""
        if not self.is_over:
            self._code = code
        await self._stop()

    def _listen(self, handshake: wire.Handshake) -> TurnStream | ManualStream:
        recognizer = self._service.recognizer
        defaults = self._service.defaults
        update_ms = defaults.update_ms if handshake.update_ms is None else handshake.update_ms
        strength = handshake.keyterm_strength
        keyterms = Terms(handshake.keyterms, defaults.keyterm_strength if strength is None else strength)
        if handshake.endpoint == "turns":
            return recognizer.turns(
                handshake.turn, language=handshake.language, keyterms=keyterms, update_ms=update_ms
            )
        return recognizer.manual(
            max_silence_s=handshake.max_silence_duration_secs,
            language=handshake.language,
            keyterms=keyterms,
            update_ms=update_ms,
        )

    async def _receive(self, data: bytes) -> None:
        if self._closing:
            return
        audio_s = self._audio.duration_s(data)
        if audio_s > MAX_AUDIO_S or len(data) > MAX_AUDIO_BYTES:
            raise too_big("Send audio in chunks of 50 to 200 ms.")
        await self._keep_pace(audio_s)
        if not self._closing:
            await self._feed(self._audio.receive(data))

    async def _keep_pace(self, audio_s: float) -> None:
        wait = self._pace.take(audio_s, asyncio.get_running_loop().time())
        if self._pace.waited_s > self._service.limits.flood_s:
            message = "Audio comes much faster than real time; send one second of it a second."
            raise CallerError(400, "audio_too_fast", "Audio too fast", message)
        if wait:
            await asyncio.wait({self._stream.task}, timeout=wait)

    async def _feed(self, samples: np.ndarray) -> None:
        if len(samples):
            await self._stream.feed(samples)

    async def _obey(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise too_big("No text message is that long.")
        message = self._protocol.receive_text(text)
        if self._closing:
            return
        match message:
            case wire.Config():  # which the protocol takes on the turns endpoint alone
                await cast("TurnStream", self._stream).configure(message.turn)
            case wire.Finalize():  # and this on the manual endpoint
                if self._flushes_due() > MAX_FLUSHES:
                    raise wire.bad_request(
                        f"{MAX_FLUSHES} finalize commands wait already.", "too_many_commands"
                    )
                await self._feed(self._audio.flush())
                await cast("ManualStream", self._stream).finalize()
            case wire.Close():
                self._closing = True
                self._reason = wire.ALL_ANSWERED  # unless something fails meanwhile
                await self._finish()

    def _flushes_due(self) -> int:
        return self._protocol.flushes_due if isinstance(self._protocol, wire.ManualServer) else 0

    async def _finish(self) -> None:
        """What the resampler holds back is received as well."""
        await self._feed(self._audio.flush())
        await self._stream.finish()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._service.forget(self)
        self._watch.cancel()

    def _asked_to_close(self) -> bool:
        return isinstance(self._protocol, wire.ManualServer) and self._protocol.closing

    async def _wait_idle(self, idle_s: float) -> None:
        """Wind up when the client has sent nothing for too long."""
        clock = asyncio.get_running_loop()
        while True:
            left = self._received_at + idle_s - clock.time()
            if left <= 0:
                break
            await asyncio.sleep(left)
        await self.wind_up(NORMAL, "idle")

    def _say_why(self, error: CallerError, code: int) -> None:
        self._last = wire.Error(
            title=error.title, message=error.message, status_code=error.status, error_code=error.code
        )
        self._code, self._reason = code, error.code

    async def _stop(self) -> None:
        await self._stream.cancel()
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)

    def _encoded(self, message: wire.ServerMessage) -> str:
        if self._older:
            message = versions.older_form(message)
        return self._protocol.send(replace(message, request_id=self.request_id))


class Pace:
    """Audio may come at `FLOOD_RATE` on average, and ``lead_s`` more of it at once.

    So who was behind can catch up, but not send hours at once. ``waited_s`` is how long audio was held
    back since the bucket was last half empty. A core: time is an argument.
    """

    def __init__(self, lead_s: float) -> None:
        self._bucket = TokenBucket(FLOOD_RATE, lead_s)
        self.waited_s = 0.0

    def take(self, audio_s: float, now: float) -> float:
        """Count audio that came in at ``now``; how long to wait (s) before it is recognised."""
        wait = self._bucket.spend(now, audio_s)
        if self._bucket.share_left > 0.5:
            self.waited_s = 0.0
        self.waited_s += wait
        return wait


def _idle_s(handshake: wire.Handshake, version: str, limits: Limits) -> float:
    """How long a client may send no message. Audio and text alike are a sign of life; pings are not."""
    return limits.older_idle_s if versions.is_impatient(handshake, version) else limits.idle_s


def check_model(name: str, *, endpoint: wire.Endpoint | None) -> None:
    """`CallerError` 400 unless the name is one of the API's, or one of our own models'. ``endpoint`` None:
    that for whole files."""
    known = name in _OWN or versions.is_alias(name, "ink-2")
    if endpoint != "turns":
        known = known or versions.is_alias(name, "ink-whisper")
    if not known:
        raise wire.bad_request(f"There is no model {name[:60]!r} here; use ink-2.", "model_not_found")


def check_language(language: str | None, known: Sequence[str]) -> str | None:
    """One of the ``known`` ISO 639 codes, for a code that may have a country behind it; None for none.
    `CallerError` 400 for others."""
    code = (language or "").lower().split("-")[0]
    if code and code not in known:
        few = "English (en) only" if tuple(known) == ("en",) else f"{', '.join(known)} only"
        names = few if len(known) < 4 else f"{len(known)} languages, not {code[:20]!r}"
        raise wire.bad_request(f"This recogniser understands {names}.", "unsupported_language")
    return code or None


def configured_language(language: str | None, known: Sequence[str]) -> str | None:
    """`check_language` for a setting: `ConfigError`, with what to do about it."""
    try:
        return check_language(language, known)
    except CallerError as error:
        hint = " For others: --model whisper-base (rtcstt models)." if len(known) == 1 else ""
        raise ConfigError(f"language cannot be {language!r}. {error.message}{hint}") from error


def concurrency_limited(message: str) -> CallerError:
    return CallerError(429, "concurrency_limited", "Too many streams", message, retry_after_s=5)


def too_big(message: str) -> CallerError:
    return CallerError(413, "message_too_big", "Message too big", message)
