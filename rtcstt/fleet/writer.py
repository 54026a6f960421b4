"""Writing this node's calls to the shared state, behind them: the packet path never waits for it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rtcstt.call import Call, Track
from rtcstt.events import AnyEvent
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.journal import Batch, Journal, TrackProgress
from rtcstt.fleet.schedule import Schedule
from rtcstt.fleet.state import Creation, Json, StoreAway, Unreadable, Write, Written

if TYPE_CHECKING:
    from rtcstt.fleet.store import Store  # needs redis, which is an extra

log = logging.getLogger(__name__)

RETRY_S = 0.5
MOST_FORGOTTEN = 1000  # ended calls that the server keeps no longer, and Redis has not got yet
AT_ONCE = 16  # calls: what they write is put together in less than 5 ms


@dataclass(slots=True)
class _Source:
    """A call, as its journal reads it."""

    call: Call
    clock: SharedClock
    record: Callable[[], Json]

    def since(self, after: int, most: int) -> Sequence[AnyEvent]:
        return self.call.feed.since(after, most)

    def progress(self) -> Mapping[str, TrackProgress]:
        if not self.clock.is_known:  # then nobody could make sense of the times
            return {}
        return {name: self._of(track) for name, track in self.call.tracks.items()}

    def _of(self, track: Track) -> TrackProgress:
        origin = track.origin
        shared = {} if origin is None else {"origin": round(self.clock.to_shared(origin), 4)}
        return TrackProgress(track.floor, {**track.state(), **shared})

    def snapshot(self) -> Json:
        return self.call.snapshot()

    @property
    def about(self) -> object:
        return self.call.turn

    @property
    def dropped(self) -> int:
        return self.call.feed.dropped

    @property
    def ended(self) -> bool:
        return self.call.state == "closed"


@dataclass(slots=True)
class _Owned:
    call: Call
    journal: Journal
    record: Callable[[], Json]
    is_broken: bool = False

    @property
    def is_finished(self) -> bool:
        """Nothing more will be written."""
        return self.journal.done or self.is_broken


class Writer:
    """One node's. ``lost`` is told each call that another node owns now."""

    def __init__(self, store: Store, node: str, clock: SharedClock, *, keeps_audio: bool) -> None:
        self.lost: Callable[[str], None] = lambda call: None
        self.is_away = False
        self.failures = 0
        self.moved_away = 0
        self._store = store
        self._node = node
        self._clock = clock
        self._keeps_audio = keeps_audio
        self._owned: dict[str, _Owned] = {}
        self._forgotten: dict[str, None] = {}
        self._audio_lost = 0
        self._schedule = Schedule()
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def audio_lost(self) -> int:
        """Samples that Redis never got, because it was away for too long."""
        return self._audio_lost + sum(owned.journal.audio_lost for owned in self._owned.values())

    def has(self, call: str) -> bool:
        return call in self._owned

    def all_again(self) -> None:
        """Redis has forgotten everything."""
        log.warning("redis has forgotten everything: %d calls are written again", len(self._owned))
        for call, owned in self._owned.items():
            owned.journal.forgotten()
            self._changed(call)

    async def finish(self) -> None:
        """Write what is left, once all calls have ended. `StoreAway`."""
        while left := [call for call, owned in self._owned.items() if not owned.is_finished]:
            if not await self._write_all(left):
                break

    def begin(self, call: Call, record: Callable[[], Json], *, fence: int = 1, written: int = -1) -> Journal:
        """The call is this node's: from now on everything of it is written behind. ``record``: what another
        server must know of it now."""
        source = _Source(call, self._clock, record)
        journal = Journal(source, fence=fence, written=written, keeps_audio=self._keeps_audio)
        self._owned[call.id] = _Owned(call, journal, record)
        call.feed.on_published = partial(self._changed, call.id)
        journal.on_audio = partial(self._grew, call.id)
        self._changed(call.id)
        return journal

    def forget(self, call: str) -> None:
        """The server keeps it no longer."""
        owned = self._owned.get(call)
        if owned is None:
            return
        self._forgotten[call] = None
        while len(self._forgotten) > MOST_FORGOTTEN:  # Redis has been away for very long
            self._drop(next(iter(self._forgotten)))
        if owned.journal.done:
            self._drop(call)

    def _drop(self, call: str) -> None:
        self._forgotten.pop(call, None)
        self._schedule.forget(call)
        owned = self._owned.pop(call, None)
        if owned is not None:
            self._audio_lost += owned.journal.audio_lost

    def _changed(self, call: str) -> None:
        self._plan(self._schedule.changed, call)

    def _grew(self, call: str) -> None:
        self._plan(self._schedule.grew, call)

    def _plan(self, put: Callable[[str, float], None], call: str) -> None:
        before = self._schedule.due_at
        put(call, asyncio.get_running_loop().time())
        if self._schedule.due_at < before:
            self._news.set()

    async def run(self) -> None:
        """For ever; to be cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._until_due()
            due = self._schedule.take(loop.time())
            try:
                await self._write_all(due)
                self.came_back()
            except Exception as error:
                for call in due:
                    self._changed(call)
                if not isinstance(error, StoreAway):
                    raise
                self.went_away(error)
                await asyncio.sleep(RETRY_S)

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while (due_at := self._schedule.due_at) > loop.time():
            self._news.clear()
            timer = None if math.isinf(due_at) else loop.call_at(due_at, self._news.set)
            try:
                await self._news.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    async def _write_all(self, calls: Sequence[str]) -> bool:
        """The next batch of each call; whether there was anything to write."""
        any_written = False
        for begin in range(0, len(calls), AT_ONCE):
            any_written |= await self._write(calls[begin : begin + AT_ONCE])
        return any_written

    async def _write(self, calls: Sequence[str]) -> bool:
        """The same, in one go. What is wrong with one keeps the others from nothing."""
        async with self._writing:
            batches = [(call, owned, batch) for call in calls for owned, batch in self._batch(call)]
            if not batches:
                return False
            outcomes = await self._outcomes(batches)
            for (call, owned, batch), outcome in zip(batches, outcomes, strict=True):
                self._wrote(call, owned, batch, outcome)
        for outcome in outcomes:
            if isinstance(outcome, StoreAway) and not isinstance(outcome, Unreadable):
                raise outcome
        return True

    async def _outcomes(
        self, batches: Sequence[tuple[str, _Owned, Batch]]
    ) -> list[Written | StoreAway | None]:
        """What became of each; None: it cannot be written at all."""
        try:
            return [*await self._store.write(self._node, [self._to_write(*one) for one in batches])]
        except StoreAway:
            raise
        except Exception as error:
            if len(batches) > 1:  # each for itself: what was written already is not written twice
                return [outcome for one in batches for outcome in await self._outcomes([one])]
            self._break(*batches[0][:2], error)
            return [None]

    def _break(self, call: str, owned: _Owned, error: Exception) -> None:
        owned.is_broken = True
        self.failures += 1
        log.error("call %s: cannot be written; other servers will not know of it", call, exc_info=error)

    def _batch(self, call: str) -> Iterator[tuple[_Owned, Batch]]:
        """What is to be written of a call, if it is still there and has anything."""
        owned = self._owned.get(call)
        if owned is None or owned.is_broken:
            return
        try:
            batch = owned.journal.batch(asyncio.get_running_loop().time())
        except Exception as error:
            self._break(call, owned, error)
            return
        if batch is not None:
            yield owned, batch

    def _to_write(self, call: str, owned: _Owned, batch: Batch) -> Write:
        creation = None if owned.journal.known else Creation(owned.call.created, owned.record())
        operations = [*batch.operations, *(["end", call] if batch.ended else [])]
        return Write(call, owned.journal.fence, operations, ended=batch.ended, creation=creation)

    def _wrote(self, call: str, owned: _Owned, batch: Batch, outcome: Written | StoreAway | None) -> None:
        journal = owned.journal
        if self._owned.get(call) is not owned:  # it went meanwhile
            return
        match outcome:
            case Written.OK:
                journal.known = True
                journal.wrote(batch)
                if not batch.is_all:
                    self._changed(call)
                if journal.done and call in self._forgotten:
                    self._drop(call)
            case Written.UNKNOWN:
                journal.forgotten()
                self._changed(call)
            case Written.LOST:
                log.warning("call %s: another server has taken it over", call)
                self._leave(call)
            case Unreadable():  # a key of it is of another type, and stays so
                self._break(call, owned, outcome)

    def _leave(self, call: str) -> None:
        self._schedule.forget(call)
        self._owned.pop(call)
        self.lost(call)

    async def release(self, call: str) -> None:
        """Another node takes the call of this one: write all that is known of it, then say nothing more.
        Where that cannot be written, `StoreAway`, and the call goes on here."""
        owned = self._owned.get(call)
        if owned is None:
            return
        for track in owned.call.tracks.values():
            track.hand_over()
        try:
            while await self._write([call]):
                pass
        except BaseException:  # the other one cannot take it
            for track in owned.call.tracks.values():
                track.release()
            raise
        if self._owned.get(call) is owned:
            log.info("call %s: another server takes it", call)
            self.moved_away += 1
            self._leave(call)

    def went_away(self, error: StoreAway) -> None:
        self.failures += 1
        if not self.is_away:
            log.warning("redis is away (%s): calls go on, and are written when it is back", error)
        self.is_away = True

    def came_back(self) -> None:
        if self.is_away:
            log.info("redis is back")
        self.is_away = False
