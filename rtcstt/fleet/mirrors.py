"""Calls of other servers, as far as this one is asked for them: their events, read from the shared state.

However many listeners a call has here, it is read once, and its owner has nothing to do with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rtcstt import events
from rtcstt.feed import Feed
from rtcstt.fleet.state import Entry, Json, StoreAway, Unreadable
from rtcstt.fleet.tasks import RETRY_S, cancelled, kept_going

if TYPE_CHECKING:
    from rtcstt.fleet.store import Store  # needs redis, which is an extra

log = logging.getLogger(__name__)

MOST = 500  # calls that are followed at once; those without listeners go first
WAIT_MS = 100  # until a call that was asked for meanwhile is followed as well


class Mirror:
    """One call of another server; for requests it is what the owner's `Call` is there."""

    def __init__(self, call: str, entry: Entry) -> None:
        self.id = call
        self.feed = Feed(call)
        self.entry = entry
        self.is_orphan = False
        "Its owner is silent: turns that are open stay so until somebody takes the call over."

    @property
    def label(self) -> str | None:
        label = self.entry.record.get("label")
        return label if isinstance(label, str) else None

    @property
    def identity(self) -> str:
        """Whose token placed the call."""
        return str(self.entry.record.get("identity") or "")

    @property
    def created(self) -> float:
        return self.entry.created

    @property
    def state(self) -> str:
        return self.entry.state

    @property
    def is_complete(self) -> bool:
        """Nothing will be added."""
        return self.feed.closed

    def snapshot(self) -> Json:
        """What the owner last said of it, a second ago or so."""
        return {**self.entry.first, **(self.entry.snapshot or {}), "state": self.state}

    def take(self, rows: Sequence[tuple[int, Json]]) -> None:
        """Its next events, by their numbers; `ValueError` for what is none. Those that are known already are
        left out, and what comes after the last one is nobody's concern."""
        for seq, values in rows:
            if seq < self.feed.published or self.is_complete:
                continue
            event = events.from_dict(values)
            self.feed.restore(event)
            if isinstance(event, events.SessionEnd):
                self.feed.close()


class Mirrors:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._mirrors: OrderedDict[str, Mirror] = OrderedDict()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def find(self, call: str) -> Mirror | None:
        """The call as it is now; None when nobody knows it. `StoreAway`."""
        entry = await self._store.find(call)
        if entry is None:
            self._mirrors.pop(call, None)
            return None
        mirror = self._mirrors.get(call)
        if mirror is None:
            mirror = self._mirrors[call] = Mirror(call, entry)
        mirror.entry = entry
        if not mirror.is_complete:
            self._take(mirror, await self._store.events(call, mirror.feed.published - 1))
        self._mirrors.move_to_end(call)
        self._make_room()
        if self._task is None:
            follow = kept_going("following the calls of other servers", self._follow)
            self._task = asyncio.create_task(follow, name="rtcstt-mirrors")
        self._wanted.set()
        return mirror

    async def close(self) -> None:
        if self._task is not None:
            await cancelled([self._task])
        for mirror in self._mirrors.values():
            if not mirror.is_complete:
                mirror.feed.close()

    def _make_room(self) -> None:
        idle = [name for name, mirror in self._mirrors.items() if not mirror.feed.listeners]
        for name in idle[: max(0, len(self._mirrors) - MOST)]:
            del self._mirrors[name]

    async def _follow(self) -> None:
        """Read on for those who listen. The others are read when they are asked for."""
        while True:
            cursors = {
                name: mirror.feed.published - 1
                for name, mirror in self._mirrors.items()
                if mirror.feed.listeners and not mirror.is_complete
            }
            if not cursors:
                await self._pause()
                continue
            try:
                found = await self._store.follow(cursors, WAIT_MS)
            except Unreadable:
                await self._leave_out(cursors)
                continue
            except StoreAway as error:
                log.debug("events cannot be read: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            for name, rows in found.items():
                with contextlib.suppress(KeyError):
                    self._take(self._mirrors[name], rows)

    async def _leave_out(self, cursors: Mapping[str, int]) -> None:
        """Follow those no longer whose events cannot be read: they must not keep the others from anything."""
        for name, after in cursors.items():
            try:
                await self._store.events(name, after)
            except Unreadable as error:
                self._end(name, error)
            except StoreAway:
                break
        await asyncio.sleep(RETRY_S)

    def _end(self, call: str, error: Exception) -> None:
        log.error("call %s: what another server wrote cannot be read: %s", call, error)
        if call in self._mirrors:
            self._mirrors[call].feed.close()

    def _take(self, mirror: Mirror, rows: list[tuple[int, Json]]) -> None:
        try:
            mirror.take(rows)
        except ValueError as error:
            self._end(mirror.id, error)

    async def _pause(self) -> None:
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_MS / 1000):
                await self._wanted.wait()
