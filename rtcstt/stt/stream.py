"""The way to the STT: connections, the stream of one track, reconnects, failover, drain.

`Stt` is the seam: `Cartesia` (the cloud, or any server that speaks its protocol), `rtcstt.Embedded` and
`rtcstt.testing.ScriptedUpstream` have it. `Stream` is the asyncio shell around one
`transcription.Transcription`; it owns one task while it runs. This is the only module that imports
`websockets`, and the only place where its exceptions become ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rtcstt import wire
from rtcstt.errors import (
    CallerError,
    ConnectionLost,
    EngineError,
    RemoteProtocolError,
    UpstreamError,
)
from rtcstt.events import AnyEvent, ErrorEvent, SttReconnecting, SttRecovered
from rtcstt.media.pcm import SAMPLE_RATE, Chunk
from rtcstt.stt.seam import Connection, Stt
from rtcstt.stt.transcription import Transcription

_log = logging.getLogger(__name__)


# -- the stream of one track -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How patient a `Stream` is, and how much it keeps."""

    ring_s: float = 30.0
    "Audio kept while its text is not finished."
    catch_up: float = 1.25
    "Seconds of audio sent per second while there is a backlog."
    connect_timeout_s: float = 10.0
    send_timeout_s: float = 10.0
    "An STT that does not read for so long is given up."
    stall_timeout_s: float = 12.0
    "Speech sent without any answer (manual: age of a `finalize`) before the connection is given up."
    backoff_first_s: float = 0.25
    backoff_cap_s: float = 5.0
    trusted_after_s: float = 30.0
    "A connection without text counts as sound after so long."
    probe_s: float = 5.0
    "While the fallback works: how soon the first STT is tried again (doubling to a minute)."


@dataclass(slots=True)
class _Outage:
    """From the first failure until a connection has proven itself."""

    since: float
    attempts: int = 0


class Stream:
    """One track's way to the STT and back.

    `start` it within a running loop, `send` it every chunk of the track, and `close` it: then everything
    still due is published before `close` returns. ``on_event`` is called in the loop, in order, with
    `AnyEvent` events; it must not block or raise. The stream reconnects for as long as it lives; only a
    refusal that will not change (a 4xx other than 429) ends that, with an `error` event, and then it merely
    counts.

    Push-to-talk in manual mode: the audio flows all the time, also before the key is pressed, so a press
    needs no message and cannot cut a word, however short it is; the release is `finalize()`, answered by
    `flush_done`. To have a transcript begin at the press, `finalize()` the pre-roll before it as well.
    """

    def __init__(
        self,
        stt: Stt,
        *,
        track: str = "0",
        on_event: Callable[[AnyEvent], None],
        mode: str = "auto",
        settings: wire.TurnSettings | None = None,
        keyterms: Sequence[str] = (),
        language: str | None = None,
        update_ms: float | None = None,
        offset_s: float = 0.0,
        fallback: Stt | None = None,
        patience_s: float = 3.0,
        drain_timeout_s: float = 5.0,
        limits: Limits | None = None,
        seed: int | None = None,
    ) -> None:
        self._primary, self._fallback = stt, fallback
        self._engine = stt
        self._on_event = on_event
        self._manual = mode == "manual"
        self._settings = settings or wire.TurnSettings()
        self._keyterms, self._language, self._update_ms = tuple(keyterms), language, update_ms
        self._patience_s, self._drain_timeout_s = patience_s, drain_timeout_s
        self._limits = limits or Limits()
        self._random = random.Random(seed)
        self._track = track
        self._core = Transcription(
            track, mode=mode, offset_s=offset_s, ring_s=self._limits.ring_s, catch_up=self._limits.catch_up
        )
        self._stall_s = self._limits.stall_timeout_s
        self._outage: _Outage | None = None
        self._primary_refused = False
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._closing = False
        self._progress = 0.0  # when audio was last sent
        self._connected = False
        self._over = False  # drained, or refused for good
        self._attempts = self._recoveries = self._failovers = self._stalls = self._ignored = 0

    # -- what the call uses --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect. Audio may be sent before."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="rtcstt-stream")

    def send(self, chunk: Chunk) -> None:
        """The next chunk of the track; never blocks. Held for `Limits.ring_s`, then the oldest goes."""
        if self._closing:
            self._ignored += 1
            return
        self._core.audio(chunk)
        self._flush()
        self._wake.set()

    def finalize(self) -> None:
        """Manual mode: flush the audio sent so far. `LocalProtocolError` in auto mode."""
        self._core.finalize()
        self._wake.set()

    def configure(self, settings: wire.TurnSettings) -> None:
        """Change turn detection, now and on later connections. Auto mode only; `settings` are not checked
        here."""
        self._core.configure(settings)
        self._settings = self._settings.merged(settings)
        self._wake.set()

    async def close(self) -> None:
        """Send what is queued and the protocol's `close`, publish what still comes, end the open turn.

        Returns within ``drain_timeout_s`` after the last audio went out; idempotent.
        """
        if not self._closing:
            self._closing = True
            self._progress = asyncio.get_running_loop().time()
            self._core.finish()
            self._wake.set()
        if self._task is not None:
            try:
                await self._drained(self._task)
            finally:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        self._core.end()
        self._flush()

    async def _drained(self, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        while not task.done():
            left = self._progress + self._drain_timeout_s - loop.time()
            if left <= 0:
                return
            await asyncio.wait({task}, timeout=left)

    def stats(self) -> dict[str, float | str | bool]:
        """A snapshot of the counters."""
        return {
            **self._core.stats(),
            "engine": self._engine.name,
            "connected": self._connected,
            "attempts": self._attempts,
            "recoveries": self._recoveries,
            "failovers": self._failovers,
            "stalls": self._stalls,
            "chunks_after_close": self._ignored,
        }

    # -- the task ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("x the stream to the STT failed")
            self._announce(
                ErrorEvent(
                    track=self._track,
                    title="Internal error",
                    message="transcription stopped",
                    status_code=500,
                )
            )

    async def _keep_connected(self) -> None:
        connection: Connection | None = None
        while not self._over:
            connection = connection or await self._connect()
            if connection is None:
                return
            connection = await self._serve(connection)

    def _flush(self) -> None:
        for event in self._core.events():
            self._on_event(event)

    def _announce(self, event: AnyEvent) -> None:
        self._core.announce(event)
        self._flush()

    # -- connecting ----------------------------------------------------------------------------------

    def _handshake(self) -> wire.Handshake:
        return wire.Handshake(
            endpoint="manual" if self._manual else "turns",
            model="ink-2",
            encoding="pcm_s16le",
            sample_rate=SAMPLE_RATE,
            keyterms=self._keyterms,
            turn=wire.TurnSettings() if self._manual else self._settings,
            language=self._language,
            update_ms=self._update_ms,
        )

    async def _open(self, stt: Stt) -> Connection:
        self._attempts += 1
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                return await stt.connect(self._handshake())
        except TimeoutError as error:
            raise UpstreamError(f"{stt.name} did not answer in time") from error
        except CallerError as error:  # an STT in this process refuses with these
            raise UpstreamError(
                error.message, status=error.status, code=error.code, retryable=wire.retryable(error.status)
            ) from error
        except EngineError as error:
            raise UpstreamError(str(error), retryable=False) from error

    async def _connect(self) -> Connection | None:
        """Try until a connection is up. None: it makes no sense (refused for good, or nothing left to do)."""
        while not (self._closing and not self._core.unfinished):
            if self._outage is not None:
                await asyncio.sleep(self._pause(self._outage.attempts))
                self._choose_engine(self._outage)
            try:
                return await self._open(self._engine)
            except UpstreamError as error:
                if error.retryable:
                    self._failed(error)
                elif not self._refused(error):
                    break
        return None

    def _pause(self, attempts: int) -> float:
        """Jittered exponential backoff; the first attempt after a loss comes at once."""
        if attempts <= 1:
            return self._random.uniform(0.0, 0.05)
        ceiling = min(self._limits.backoff_cap_s, self._limits.backoff_first_s * 2.0 ** (attempts - 2))
        return self._random.uniform(0.5, 1.0) * ceiling

    def _choose_engine(self, outage: _Outage) -> None:
        impatient = asyncio.get_running_loop().time() - outage.since >= self._patience_s
        if self._fallback is None:
            return
        if self._engine is self._fallback:  # it failed too: take turns
            self._engine = self._fallback if self._primary_refused else self._primary
        elif impatient or self._primary_refused:
            _log.info("= fallback %s takes over from %s", self._fallback.name, self._primary.name)
            self._engine = self._fallback
            self._failovers += 1

    def _failed(self, error: UpstreamError) -> None:
        now = asyncio.get_running_loop().time()
        outage = self._outage = self._outage or _Outage(now)
        outage.attempts += 1
        _log.info("! STT %s: attempt %d after %s", self._engine.name, outage.attempts, _brief(error))
        self._announce(
            SttReconnecting(
                track=self._track, attempt=outage.attempts, reason=_brief(error), engine=self._engine.name
            )
        )

    def _refused(self, error: UpstreamError) -> bool:
        """A refusal that will not change. Returns whether there is another engine to turn to."""
        _log.warning("x STT %s refused: %s", self._engine.name, _brief(error))
        self._announce(
            ErrorEvent(
                track=self._track,
                title="The speech-to-text service refused",
                message=str(error),
                status_code=error.status or 502,
                error_code=error.code or "",
                engine=self._engine.name,
            )
        )
        if self._engine is not self._primary or self._fallback is None:
            return False
        self._primary_refused = True
        self._outage = self._outage or _Outage(asyncio.get_running_loop().time())
        return True

    # -- one connection ------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> Connection | None:
        """Pump both ways until the connection ends. Returns the connection to go on with, if there is one."""
        loop = asyncio.get_running_loop()
        client = wire.ManualClient() if self._manual else wire.TurnsClient()
        self._core.connected(client, loop.time())
        self._connected = True
        self._say_recovered()
        pumps = [
            asyncio.create_task(self._pump_out(connection), name="rtcstt-stream-out"),
            asyncio.create_task(self._pump_in(connection), name="rtcstt-stream-in"),
        ]
        probe: asyncio.Task[Connection] | None = None
        if self._engine is not self._primary and not self._primary_refused:
            probe = asyncio.create_task(self._probe(), name="rtcstt-stream-probe")
        try:
            await asyncio.wait([*pumps, probe] if probe else pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            handover = await self._let_go(connection, pumps, probe)
        if handover is not None:
            self._engine = self._primary
            self._outage = _Outage(loop.time(), attempts=1)
            return handover
        self._ended(pumps)
        return None

    async def _let_go(
        self, connection: Connection, pumps: list[asyncio.Task[None]], probe: asyncio.Task[Connection] | None
    ) -> Connection | None:
        self._connected = False
        tasks = [*pumps, probe] if probe else pumps
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.close()
        self._over = self._core.told_to_close and _closed_normally(pumps)
        self._core.disconnected()
        self._flush()
        if probe is not None and not probe.cancelled() and probe.exception() is None:
            return probe.result()
        return None

    def _say_recovered(self) -> None:
        if self._outage is None:
            return
        self._recoveries += 1
        lag, lost = round(self._core.lag_s, 3), round(self._core.take_lost_s(), 3)
        _log.info("= STT %s after %d attempts, %.1f s behind", self._engine.name, self._outage.attempts, lag)
        self._announce(
            SttRecovered(
                track=self._track,
                lag=lag,
                attempts=self._outage.attempts,
                lost=lost,
                engine=self._engine.name,
            )
        )

    def _ended(self, pumps: list[asyncio.Task[None]]) -> None:
        """The connection is over: say why, and judge whether to try again."""
        if self._over:
            return
        error = next(iter(_errors(pumps)), ConnectionLost(1006))
        if isinstance(error, RemoteProtocolError):
            error = UpstreamError(f"protocol error: {error}")
        if not isinstance(error, UpstreamError):  # a bug here: the call must not pay for it
            _log.error("x the stream to the STT failed", exc_info=error)
            error = UpstreamError("internal error")
        if error.retryable:
            self._failed(error)
        else:
            self._over = not self._refused(error)

    async def _pump_out(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            await self._send_due(connection)
            self._flush()
            self._check_stall(loop.time())
            due = self._core.next_send()
            alarm = loop.call_later(
                1.0 if due is None else min(1.0, max(0.001, due - loop.time())), self._wake.set
            )
            try:
                await self._wake.wait()
            finally:
                alarm.cancel()

    async def _send_due(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        due = self._core.data_to_send(loop.time())
        if not due:
            return
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                for data in due:
                    await connection.send(data)
                    self._progress = loop.time()
        except TimeoutError as error:
            raise ConnectionLost(1006, "the STT does not read") from error

    def _check_stall(self, now: float) -> None:
        if self._core.is_stalled(now, self._stall_s):
            # It may be music that the energy track takes for speech: the next connection gets twice as long.
            self._stall_s *= 2
            self._stalls += 1
            raise ConnectionLost(1006, "the STT stopped answering")

    async def _pump_in(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        trusted = loop.time() + self._limits.trusted_after_s
        while True:
            data = await connection.recv()
            spoke = self._core.receive(data)
            self._flush()
            self._turned.set()
            if spoke or loop.time() > trusted:
                self._outage = None
                self._stall_s = self._limits.stall_timeout_s

    # -- the way back from the fallback --------------------------------------------------------------

    async def _probe(self) -> Connection:
        """A connection to the first STT, handed over between two turns."""
        delay = self._limits.probe_s
        while True:
            await asyncio.sleep(delay * self._random.uniform(0.75, 1.0))
            delay = min(2 * delay, 60.0)
            try:
                connection = await self._open(self._primary)
            except UpstreamError as error:
                if error.retryable:
                    continue
                self._primary_refused = True
                await asyncio.get_running_loop().create_future()  # until the owner cancels
                raise
            handed_over = False
            try:
                handed_over = await self._turn_over()
            finally:
                if not handed_over:
                    await connection.close()
            if handed_over:
                return connection

    async def _turn_over(self) -> bool:
        """Wait for the end of the turn, but not for ever: the connection grows old."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15.0):
                while not self._core.idle:
                    self._turned.clear()
                    await self._turned.wait()
        return self._core.idle


def _errors(pumps: list[asyncio.Task[None]]) -> Iterator[BaseException]:
    """Why the connection ended; what the reading side saw says more."""
    for task in reversed(pumps):
        if not task.cancelled() and (error := task.exception()) is not None:
            yield error


def _closed_normally(pumps: list[asyncio.Task[None]]) -> bool:
    return any(isinstance(e, ConnectionLost) and e.close_code in (1000, 1005) for e in _errors(pumps))


def _brief(error: UpstreamError) -> str:
    """Without the peer's prose: it may quote what was said."""
    if error.status is not None:
        return f"HTTP {error.status}"
    if isinstance(error, ConnectionLost) and error.close_code != 1006:
        return f"connection lost ({error.close_code})"
    return str(error)[:120]
