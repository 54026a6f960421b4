"""Writing this node's calls to the shared state, behind them: the packet path never waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rtcstt.call import Call, Track
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.journal import Journal, TrackProgress
from rtcstt.fleet.state import StoreAway, Written

if TYPE_CHECKING:
    from rtcstt.fleet.store import Store  # needs redis, which is an extra

log = logging.getLogger(__name__)

RETRY_S = 0.5
MOST_FORGOTTEN = 1000  # ended calls that the server keeps no longer, and Redis has not got yet
WRITES_AT_ONCE = 32  # calls


@dataclass(slots=True)
class _Source:
    """A call, as its journal reads it."""

    call: Call
    clock: SharedClock

    def since(self, after: int, most: int) -> Any:
        return self.call.feed.since(after, most)

    def progress(self) -> Mapping[str, TrackProgress]:
        if not self.clock.is_known:  # then nobody could make sense of the times
            return {}
        return {name: self._of(track) for name, track in self.call.tracks.items()}

    def _of(self, track: Track) -> TrackProgress:
        state = track.state()
        if track.origin is not None:
            state["origin"] = round(self.clock.to_shared(track.origin), 4)
        return TrackProgress(track.floor, state)

    def snapshot(self) -> Mapping[str, Any]:
        return self.call.snapshot()

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
    record: Mapping[str, Any]
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_broken: bool = False


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
        self._news = asyncio.Event()

    @property
    def audio_lost(self) -> int:
        """Samples that Redis never got, because it was away for too long."""
        return self._audio_lost + sum(owned.journal.audio_lost for owned in self._owned.values())

    def has(self, call: str) -> bool:
        return call in self._owned

    def all_again(self) -> None:
        """Redis has forgotten everything."""
        log.warning("redis has forgotten everything: %d calls are written again", len(self._owned))
        for owned in self._owned.values():
            owned.journal.forgotten()
        self._news.set()

    async def finish(self) -> None:
        """Write what is left, once all calls have ended. `StoreAway`."""
        while any(not (owned.journal.done or owned.is_broken) for owned in self._owned.values()):
            if not await self._write_all():
                break

    def begin(self, call: Call, record: Mapping[str, Any], *, fence: int = 1, written: int = -1) -> Journal:
        """The call is this node's: from now on everything of it is written behind."""
        journal = Journal(
            _Source(call, self._clock), fence=fence, written=written, keeps_audio=self._keeps_audio
        )
        self._owned[call.id] = _Owned(call, journal, record)
        call.feed.on_published = self._news.set
        self._news.set()
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
        owned = self._owned.pop(call, None)
        if owned is not None:
            self._audio_lost += owned.journal.audio_lost

    async def run(self) -> None:
        """For ever; to be cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                while await self._write_all():
                    pass
                self.came_back()
            except StoreAway as error:
                self.went_away(error)
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def _write_all(self) -> bool:
        """Write what is due of every call, each in one go; whether there was anything."""
        any_written = False
        due = [(name, owned) for name, owned in self._owned.items()]
        for begin in range(0, len(due), WRITES_AT_ONCE):
            written = await asyncio.gather(
                *(self._write(name, owned) for name, owned in due[begin : begin + WRITES_AT_ONCE]),
                return_exceptions=True,
            )
            for outcome in written:
                if isinstance(outcome, BaseException):
                    raise outcome
                any_written |= outcome
        return any_written

    async def _write(self, name: str, owned: _Owned) -> bool:
        """The next batch of a call. What is wrong with one keeps the others from nothing."""
        async with owned.writing:
            if owned.is_broken or self._owned.get(name) is not owned:  # it went while this waited
                return False
            try:
                return await self._write_next(name, owned)
            except StoreAway:
                raise
            except Exception:
                owned.is_broken = True
                self.failures += 1
                log.exception("call %s: cannot be written; other servers will not know of it", name)
                return False

    async def _write_next(self, name: str, owned: _Owned) -> bool:
        call, journal = owned.call, owned.journal
        batch = journal.batch(asyncio.get_running_loop().time())
        if batch is None:
            return False
        if not journal.known:
            outcome = await self._store.create(
                name, self._node, journal.fence, begun=call.created, record=owned.record
            )
            journal.known = outcome is Written.OK
            if outcome is Written.LOST:
                self._is_lost(name)
                return False
        operations = [*batch.operations, *(["end", name] if batch.ended else [])]
        outcome = await self._store.write(name, self._node, journal.fence, operations, ended=batch.ended)
        if outcome is Written.LOST:
            self._is_lost(name)
            return False
        if outcome is Written.UNKNOWN:
            journal.forgotten()
            return True
        journal.wrote(batch)
        if journal.done and name in self._forgotten:
            self._drop(name)
        return True

    def _is_lost(self, name: str) -> None:
        log.warning("call %s: another server has taken it over", name)
        self._owned.pop(name, None)
        self.lost(name)

    async def release(self, call: str) -> None:
        """Another node takes the call of this one: write all that is known of it, then say nothing more."""
        owned = self._owned.get(call)
        if owned is None:
            return
        while await self._write(call, owned):
            pass
        if self._owned.pop(call, None) is owned:
            log.info("call %s: another server takes it", call)
            self.moved_away += 1
            self.lost(call)

    def went_away(self, error: StoreAway) -> None:
        self.failures += 1
        if not self.is_away:
            log.warning("redis is away (%s): calls go on, and are written when it is back", error)
        self.is_away = True

    def came_back(self) -> None:
        if self.is_away:
            log.info("redis is back")
        self.is_away = False
