"""One connection after the other being served: audio out as it is due, messages in as they come."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator

from rtcstt import wire
from rtcstt.errors import ConnectionLost
from rtcstt.stt.limits import Limits
from rtcstt.stt.seam import Connection, Watched
from rtcstt.stt.transcription import Transcription

PATIENCE = 2.0  # times the longest that the connection took between two signs of progress
LOOK_S = 1.0  # at most between two looks whether something is due, or the STT has stalled


class Serving:
    """Moves a track's audio to its connection, and the messages back into its transcription.

    ``on_news`` is called when there may be events to publish, ``on_proof`` when the connection has proven
    that it works.
    """

    def __init__(
        self,
        core: Transcription,
        limits: Limits,
        *,
        manual: bool,
        on_news: Callable[[], None],
        on_proof: Callable[[], None],
    ) -> None:
        self._core, self._limits, self._manual = core, limits, manual
        self._on_news, self._on_proof = on_news, on_proof
        self._stall_s = limits.stall_timeout_s
        self._wake = asyncio.Event()
        self._rang = False  # the alarm of the sending side, since it was set
        self._received = asyncio.Event()
        self.connected = False
        self._progress = 0.0
        self._slowest_s = 0.0
        self.stalls = 0
        self._sending_since = math.inf
        self._watched: Watched | None = None
        self._position = 0  # up to where it had worked when that was last looked at

    def progressed(self, now: float) -> None:
        """Audio was sent, or a message received; or the end has begun."""
        if self.connected:
            self._slowest_s = max(self._slowest_s, now - self._progress)
        self._progress = now

    def look(self, now: float) -> None:
        """A recogniser in this process that works has made progress, although it has said nothing."""
        if self._watched is not None and self._watched.position > self._position:
            self._position = self._watched.position
            self._progress = now

    def patience_ends(self, patience_s: float) -> float:
        """When no progress was made for so long that none is to be expected: after ``patience_s``; but one
        that takes its time with each piece, as it has shown, is only behind."""
        return self._progress + max(patience_s, PATIENCE * self._slowest_s)

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def begin(self) -> None:
        """The connection that `serve` gets next begins to count."""
        client = wire.ManualClient() if self._manual else wire.TurnsClient()
        self._progress = asyncio.get_running_loop().time()
        self._slowest_s = 0.0
        self._core.connected(client, self._progress)
        self.connected = True

    async def serve(self, connection: Connection, until: asyncio.Task[Connection] | None) -> Ending:
        """Until the connection ends, or the task does, which is ended with it. The connection is closed."""
        self._sending_since = math.inf
        self._watched, self._position = (connection if isinstance(connection, Watched) else None), 0
        pumps = [
            asyncio.create_task(self._pump_out(connection), name="rtcstt-stream-out"),
            asyncio.create_task(self._pump_in(connection), name="rtcstt-stream-in"),
            asyncio.create_task(self._watch_sending(), name="rtcstt-stream-watch"),
        ]
        tasks = [*pumps, until] if until else pumps
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.close()
            drained = self._core.told_to_close and _closed_normally(pumps)
            error = next(_errors(pumps), None)
            stated = isinstance(error, ConnectionLost) and error.reason == wire.ALL_ANSWERED
            ending = Ending(error, drained, drained and (stated or self._core.answered))
            self.connected = False
            self._watched = None
            self._core.disconnected()
            self._on_news()
        return ending

    async def idle(self, patience_s: float) -> bool:
        """Wait for the end of the turn, but not for ever; whether it has come."""
        try:
            async with asyncio.timeout(patience_s):
                while not self._core.idle:
                    self._received.clear()
                    await self._received.wait()
        except TimeoutError:
            pass
        return self._core.idle

    async def _pump_out(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._rang, alarm = False, loop.call_later(LOOK_S, self._ring)
        try:
            while True:
                self._wake.clear()
                await self._send_due(connection)
                self._on_news()
                now = loop.time()
                self._check_stall(now)
                due = self._core.next_send()
                due = now + LOOK_S if due is None else min(now + LOOK_S, max(now + 0.001, due))
                if self._rang or alarm.when() > due:  # one that comes too soon does no harm
                    alarm.cancel()
                    self._rang, alarm = False, loop.call_at(due, self._ring)
                await self._wake.wait()
        finally:
            alarm.cancel()

    def _ring(self) -> None:
        self._rang = True  # a clock may show less than the time that a timer was set to
        self._wake.set()

    async def _send_due(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        for data in self._core.data_to_send(loop.time()):
            self._sending_since = loop.time()
            await connection.send(data)
            self.progressed(loop.time())
        self._sending_since = math.inf

    async def _watch_sending(self) -> None:
        """One look now and then costs less than a time-out for each message."""
        timeout_s = self._limits.send_timeout_s
        clock = asyncio.get_running_loop().time
        while (late_s := clock() - self._sending_since) < timeout_s:  # noqa: ASYNC110 (time is the event)
            await asyncio.sleep(min(timeout_s, max(0.001, timeout_s - late_s)))
        raise ConnectionLost(1006, "the STT does not read")

    def _check_stall(self, now: float) -> None:
        if self._core.is_stalled(now, self._stall_s):
            # It may be music that the energy track takes for speech: the next connection gets twice as long.
            self._stall_s *= 2
            self.stalls += 1
            raise ConnectionLost(1006, "the STT stopped answering")

    async def _pump_in(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        trusted = loop.time() + self._limits.trusted_after_s
        while True:
            data = await connection.recv()
            self.progressed(loop.time())
            spoke = self._core.receive(data)
            self._on_news()
            self._received.set()
            if spoke or loop.time() > trusted:
                self._on_proof()
                self._stall_s = self._limits.stall_timeout_s


class Ending:
    """How a connection ended. ``drained``: the STT closed it after everything was sent, and ``answered``:
    after it had said all that was due."""

    def __init__(self, error: BaseException | None, drained: bool, answered: bool) -> None:
        self.error = error or ConnectionLost(1006)
        self.drained, self.answered = drained, answered


def _errors(pumps: list[asyncio.Task[None]]) -> Iterator[BaseException]:
    """Why the connection ended; what the reading side saw says more."""
    for task in reversed(pumps):
        if not task.cancelled() and (error := task.exception()) is not None:
            yield error


def _closed_normally(pumps: list[asyncio.Task[None]]) -> bool:
    return any(isinstance(e, ConnectionLost) and e.close_code in (1000, 1005) for e in _errors(pumps))
