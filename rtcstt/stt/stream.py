"""The stream of one track to an STT and back: connections, reconnects, failover, drain.

`Stream` is the asyncio shell around one `transcription.Transcription` (what to send and publish) and one
`failover.Failover` (which STT to try when); it owns one task while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence

from rtcstt import wire
from rtcstt.errors import (
    UpstreamError,
)
from rtcstt.events import AnyEvent
from rtcstt.media.pcm import Chunk
from rtcstt.stt.account import Account
from rtcstt.stt.connecting import Connector
from rtcstt.stt.failover import Failover, Patience
from rtcstt.stt.limits import Limits
from rtcstt.stt.outages import Outages
from rtcstt.stt.seam import Connection, Stt
from rtcstt.stt.serving import Ending, Serving
from rtcstt.stt.transcription import Transcription, TranscriptionState

_log = logging.getLogger(__name__)


# -- the stream of one track -------------------------------------------------------------------------


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
        state: TranscriptionState | None = None,
    ) -> None:
        """``state``: what `state` gave on another server, which this stream goes on from."""
        self._engines = [stt] if fallback is None else [stt, fallback]
        self._on_event = on_event
        self._drain_timeout_s = drain_timeout_s
        limits = self._limits = limits or Limits()
        self._random = random.Random(seed)
        self._core = Transcription(
            track,
            mode=mode,
            settings=settings,
            offset_s=offset_s,
            ring_s=limits.ring_s,
            catch_up=limits.catch_up,
            state=state,
        )
        patience = Patience.within(limits, patience_s)
        failover = self._failover = Failover(patience, has_fallback=fallback is not None)
        self._outages = Outages(failover, self._engines, self._core, track=track, on_news=self._flush)
        self._connector = Connector(
            limits,
            mode=mode,
            settings=settings or wire.TurnSettings(),
            keyterms=tuple(keyterms),
            language=language,
            update_ms=update_ms,
            chance=self._random,
        )
        manual = mode == "manual"
        self._serving = Serving(
            self._core, limits, manual=manual, on_news=self._flush, on_proof=failover.proven
        )
        self._task: asyncio.Task[None] | None = None
        self._closing = self._ended = False
        self._ending: Ending | None = None  # of the connection that was drained
        self._timed_out = False  # the drain, with a connection that works
        self._ignored = 0

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
        self._serving.wake()

    def replay(self, chunks: Iterable[Chunk]) -> None:
        """The audio that was kept for the ``state`` this goes on from; before anything is sent."""
        self._core.replay(chunks)
        self._flush()
        self._serving.wake()

    def finalize(self) -> None:
        """Manual mode: flush the audio sent so far. `LocalProtocolError` in auto mode."""
        self._core.finalize()
        self._serving.wake()

    def configure(self, settings: wire.TurnSettings) -> None:
        """Change turn detection, now and on later connections. Auto mode only; `settings` are not checked
        here."""
        self._core.configure(settings)
        self._connector.settings = self._connector.settings.merged(settings)
        self._serving.wake()

    async def close(self) -> None:
        """Send what is queued and the protocol's `close`, publish what still comes, end the open turn, and
        say what got no text.

        Lasts as long as the STT makes progress: no longer than ``drain_timeout_s`` without any (or twice as
        long as it has taken between two signs of it before), and `Limits.drain_s` in all. Idempotent.
        """
        if not self._closing:
            self._closing = True
            self._serving.progressed(asyncio.get_running_loop().time())
            self._core.finish()
            self._serving.wake()
        if self._task is not None:
            try:
                await self._drain(self._task)
            finally:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        if not self._ended:
            self._ended = True
            self._core.end(self._what_is_wrong())
            if self._core.account.missing and not self._core.stats()["connections"]:
                self._outages.failure = self.failure or self._outages.last_error  # it was never there
            self._flush()

    async def _drain(self, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.drain_s
        while not task.done():
            self._serving.look(loop.time())
            left = min(self._serving.patience_ends(self._drain_timeout_s), end) - loop.time()
            if left <= 0:
                self._timed_out = self._serving.connected
                return
            await asyncio.wait({task}, timeout=max(0.001, left))

    def _what_is_wrong(self) -> str | None:
        """Why not everything may have its text: a `GapReason`."""
        if self._ending is not None:
            return None if self._ending.answered else "stt"
        return "drain_timeout" if self._timed_out else "stt"

    @property
    def failure(self) -> UpstreamError | None:
        """Why there will be no text any more, once that is so; at the end, why there never was any."""
        return self._outages.failure

    def account(self) -> Account:
        """What became of the audio, in samples."""
        return self._core.account

    def state(self) -> TranscriptionState:
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
            "engine": self._outages.engine.name,
            "connected": self._serving.connected,
            "attempts": self._connector.attempts,
            "recoveries": self._outages.recoveries,
            "failovers": self._failover.failovers,
            "stalls": self._serving.stalls,
            "chunks_after_close": self._ignored,
        }

    # -- the task ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("the stream to the STT failed")
            self._outages.give_up(
                UpstreamError("internal error: transcription stopped", status=500, retryable=False)
            )

    async def _keep_connected(self) -> None:
        connection: Connection | None = None
        while self._ending is None and self.failure is None:
            connection = connection or await self._connect()
            if connection is None:
                return
            connection = await self._serve(connection)

    def _flush(self) -> None:
        for event in self._core.events():
            self._on_event(event)

    # -- connecting ----------------------------------------------------------------------------------

    async def _connect(self) -> Connection | None:
        """Try until a connection is up. None: it makes no sense (refused for good, or nothing left to do)."""
        while self.failure is None and not (self._closing and not self._core.unfinished):
            if self._failover.in_outage:
                await asyncio.sleep(self._failover.pause(self._random.random()))
            try:
                return await self._connector.open(self._outages.choose())
            except UpstreamError as error:
                self._outages.failed(error)
        return None

    # -- one connection ------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> Connection | None:
        """Until the connection ends. Returns the connection to go on with, if there is one."""
        self._serving.begin()
        self._outages.recovered()
        probe: asyncio.Task[Connection] | None = None
        if self._failover.may_return:
            probe = asyncio.create_task(self._probe(), name="rtcstt-stream-probe")
        ending = await self._serving.serve(connection, probe)
        self._ending = ending if ending.drained else None
        if probe is not None and not probe.cancelled() and probe.exception() is None:
            self._failover.returned(asyncio.get_running_loop().time())
            return probe.result()
        if not ending.drained:
            self._outages.lost(ending.error)
        return None

    async def _probe(self) -> Connection:
        """A connection to the first STT, to go on with after the end of a turn."""
        try:
            return await self._connector.open_between_turns(self._engines[0], self._serving.idle)
        except UpstreamError:
            self._failover.first_refused()
            await asyncio.get_running_loop().create_future()  # until the owner cancels
            raise
