"""The stream of one track to an STT and back: connections, reconnects, failover, drain.

`Stream` is the asyncio shell around one `transcription.Transcription` (what to send and publish) and one
`failover.Failover` (which STT to try when); it owns one task while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from rtcstt.stt.account import Account
from rtcstt.stt.failover import Failover, Patience, Verdict
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
    "An STT that does not take a message for so long is given up."
    stall_timeout_s: float = 12.0
    "Speech sent without any answer (manual: age of a `finalize`) before the connection is given up."
    backoff_first_s: float = 0.25
    backoff_cap_s: float = 5.0
    trusted_after_s: float = 30.0
    "A connection without text counts as sound after so long."
    probe_s: float = 5.0
    "While the fallback works: how soon the first STT is tried again (doubling to a minute)."
    drain_s: float = 60.0
    "A drain takes no longer, whatever progress it makes."


class Stream:
    """One track's way to the STT and back.

    `start` it within a running loop, `send` it every chunk of the track, and `close` it: then everything
    still due is published before `close` returns. ``on_event`` is called in the loop, in order, with the
    track's events; it must not block or raise. The stream reconnects for as long as it lives; only a
    refusal that will not change (a 4xx other than 429) ends that, with an `error` event, and then it says
    what will have no text.

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
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """``state``: what `state` gave on another server, which this stream goes on from."""
        self._engines = [stt] if fallback is None else [stt, fallback]
        self._on_event = on_event
        self._manual = mode == "manual"
        self._settings = settings or wire.TurnSettings()
        self._keyterms, self._language, self._update_ms = tuple(keyterms), language, update_ms
        self._drain_timeout_s = drain_timeout_s
        self._limits = limits or Limits()
        self._random = random.Random(seed)
        self._track = track
        self._core = Transcription(
            track,
            mode=mode,
            settings=settings,
            offset_s=offset_s,
            ring_s=self._limits.ring_s,
            catch_up=self._limits.catch_up,
            state=state,
        )
        patience = Patience(
            fallback_after_s=patience_s,
            backoff_first_s=self._limits.backoff_first_s,
            backoff_cap_s=self._limits.backoff_cap_s,
        )
        self._failover = Failover(patience, has_fallback=fallback is not None)
        self.failure: UpstreamError | None = None
        """Why there will be no text any more, once that is so."""
        self._stall_s = self._limits.stall_timeout_s
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._closing = self._ended = False
        self._progress = 0.0  # when audio was last sent, or a message received
        self._connected = False
        self._drained = False  # the STT closed after everything was sent
        self._unanswered = False  # and had not given all its text
        self._timed_out = False  # the drain, with a connection that works
        self._attempts = self._recoveries = self._stalls = self._ignored = 0

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

    def replay(self, chunks: Iterable[Chunk]) -> None:
        """The audio that was kept for the ``state`` this goes on from; before anything is sent."""
        self._core.replay(chunks)
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
        """Send what is queued and the protocol's `close`, publish what still comes, end the open turn, and
        say what got no text.

        Lasts as long as the STT makes progress: no longer than ``drain_timeout_s`` without any, and
        `Limits.drain_s` in all. Idempotent.
        """
        if not self._closing:
            self._closing = True
            self._progress = asyncio.get_running_loop().time()
            self._core.finish()
            self._wake.set()
        if self._task is not None:
            try:
                await self._drain(self._task)
            finally:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        if not self._ended:
            self._ended = True
            self._core.end(self._what_is_wrong())
            self._flush()

    async def _drain(self, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.drain_s
        while not task.done():
            left = min(self._progress + self._drain_timeout_s, end) - loop.time()
            if left <= 0:
                self._timed_out = self._connected
                return
            await asyncio.wait({task}, timeout=left)

    def _what_is_wrong(self) -> str | None:
        """Why not everything may have its text: a `GapReason`."""
        if self._drained:
            return "stt" if self._unanswered else None
        return "drain_timeout" if self._timed_out else "stt"

    def account(self) -> Account:
        """What became of the audio, in samples."""
        return self._core.account

    def state(self) -> dict[str, Any]:
        """What another server needs to go on, besides the audio from `floor` on. For JSON."""
        return self._core.state()

    @property
    def floor(self) -> int:
        """The sample of the track up to which the text is finished."""
        return self._core.floor

    def stats(self) -> dict[str, float | str | bool]:
        """A snapshot of the counters."""
        return {
            **self._core.stats(),
            "engine": self._engine.name,
            "connected": self._connected,
            "attempts": self._attempts,
            "recoveries": self._recoveries,
            "failovers": self._failover.failovers,
            "stalls": self._stalls,
            "chunks_after_close": self._ignored,
        }

    @property
    def _engine(self) -> Stt:
        return self._engines[self._failover.engine]

    # -- the task ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("x the stream to the STT failed")
            self._give_up(UpstreamError("internal error: transcription stopped", status=500, retryable=False))

    async def _keep_connected(self) -> None:
        connection: Connection | None = None
        while not self._drained and self.failure is None:
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
        loop = asyncio.get_running_loop()
        while self.failure is None and not (self._closing and not self._core.unfinished):
            if self._failover.in_outage:
                await asyncio.sleep(self._failover.pause(self._random.random()))
                if self._failover.choose(loop.time()):
                    _log.info("= fallback %s takes over from %s", self._engine.name, self._engines[0].name)
            try:
                return await self._open(self._engine)
            except UpstreamError as error:
                self._failed(error)
        return None

    def _failed(self, error: UpstreamError) -> None:
        """No connection, for now or for good."""
        now = asyncio.get_running_loop().time()
        if not error.retryable:
            _log.warning("x STT %s refused: %s", self._engine.name, _brief(error))
            if self._failover.refused(now) is Verdict.GIVE_UP:
                self._give_up(error)
            else:
                self._announce_error(error)
            return
        self._failover.failed(now)
        attempt, engine, reason = self._failover.attempts, self._engine.name, _brief(error)
        _log.info("! STT %s: attempt %d after %s", engine, attempt, reason)
        self._announce(SttReconnecting(track=self._track, attempt=attempt, reason=reason, engine=engine))

    def _give_up(self, error: UpstreamError) -> None:
        self.failure = error
        self._announce_error(error)
        self._core.give_up()
        self._flush()

    def _announce_error(self, error: UpstreamError) -> None:
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
        if self._failover.may_return:
            probe = asyncio.create_task(self._probe(), name="rtcstt-stream-probe")
        try:
            await asyncio.wait([*pumps, probe] if probe else pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            handover = await self._let_go(connection, pumps, probe)
        if handover is not None:
            self._failover.returned(loop.time())
            return handover
        self._ended_by(pumps)
        return None

    async def _let_go(
        self, connection: Connection, pumps: list[asyncio.Task[None]], probe: asyncio.Task[Connection] | None
    ) -> Connection | None:
        tasks = [*pumps, probe] if probe else pumps
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.close()
        self._drained = self._core.told_to_close and _closed_normally(pumps)
        self._unanswered = self._drained and not self._core.answered
        self._connected = False
        self._core.disconnected()
        self._flush()
        if probe is not None and not probe.cancelled() and probe.exception() is None:
            return probe.result()
        return None

    def _say_recovered(self) -> None:
        if not self._failover.in_outage:
            return
        self._recoveries += 1
        lag, lost = round(self._core.lag_s, 3), round(self._core.take_lost_s(), 3)
        attempts, engine = self._failover.attempts, self._engine.name
        _log.info("= STT %s after %d attempts, %.1f s behind", engine, attempts, lag)
        self._announce(SttRecovered(track=self._track, lag=lag, attempts=attempts, lost=lost, engine=engine))

    def _ended_by(self, pumps: list[asyncio.Task[None]]) -> None:
        """The connection is over: say why, and judge whether to try again."""
        if self._drained:
            return
        error = next(iter(_errors(pumps)), ConnectionLost(1006))
        if isinstance(error, RemoteProtocolError):
            error = UpstreamError(f"protocol error: {error}")
        if not isinstance(error, UpstreamError):  # a bug here: the call must not pay for it
            _log.error("x the stream to the STT failed", exc_info=error)
            error = UpstreamError("internal error")
        self._failed(error)

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
            for data in due:
                async with asyncio.timeout(self._limits.send_timeout_s):
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
            self._progress = loop.time()
            spoke = self._core.receive(data)
            self._flush()
            self._turned.set()
            if spoke or loop.time() > trusted:
                self._failover.proven()
                self._stall_s = self._limits.stall_timeout_s

    # -- the way back from the fallback --------------------------------------------------------------

    async def _probe(self) -> Connection:
        """A connection to the first STT, handed over between two turns."""
        delay = self._limits.probe_s
        while True:
            await asyncio.sleep(delay * self._random.uniform(0.75, 1.0))
            delay = min(2 * delay, 60.0)
            try:
                connection = await self._open(self._engines[0])
            except UpstreamError as error:
                if error.retryable:
                    continue
                self._failover.first_refused()
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
