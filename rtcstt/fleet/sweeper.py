"""Ending what dead servers left, once nobody has come back to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from rtcstt.fleet.others import Others
from rtcstt.fleet.ownership import Act
from rtcstt.fleet.state import Entry, StoreAway, Unreadable
from rtcstt.fleet.writer import Writer
from rtcstt.limits import Once

if TYPE_CHECKING:
    from rtcstt.fleet.store import Store  # needs redis, which is an extra

log = logging.getLogger(__name__)

SWEEP_S = 2.0


class Claims(Protocol):
    """What `shared.Shared` does with calls."""

    async def locate(self, call: str) -> tuple[Act, Entry | None]:
        """What to do with an offer for a call. `StoreAway`."""

    async def claim(self, call: str, entry: Entry, *, end: bool) -> bool:
        """Take a call over from a dead server; ``end``: its caller does not come back."""


class Sweeper:
    """Of one server, ``node``. What cannot be read is said once, and keeps nothing else from being ended."""

    def __init__(
        self, node: str, claims: Claims, store: Store, others: Others, writer: Writer, grace_ms: int
    ) -> None:
        self._node = node
        self._claims = claims
        self._store, self._others, self._writer = store, others, writer
        self._grace_ms = grace_ms
        self._told = Once()  # faults of what is kept

    async def run(self) -> None:
        """For ever; to be cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            with contextlib.suppress(StoreAway):
                await self._store.tidy()
            for node in (self._node, *self._others.nodes.dead()):
                try:
                    await (self._sweep_own() if node == self._node else self._sweep(node))
                except Unreadable as error:
                    self._tell(error)
                except StoreAway:
                    break
                except Exception:
                    log.exception("the calls of a dead server cannot be ended")

    async def _sweep_own(self) -> None:
        """What this node claimed, and then could not read, since Redis went away in that moment."""
        for call in await self._store.owned(self._node):
            if self._writer.has(call):
                continue
            act, entry = await self._claims.locate(call)
            if act is Act.CLAIM and entry is not None:
                await self._claim(call, entry, end=False)

    async def _sweep(self, node: str) -> None:
        calls = await self._store.owned(node)
        if not calls:
            await self._store.forget_node(node)
            return
        if self._others.nodes.gone_ms(node) < self._grace_ms or await self._others.answers(node):
            return
        for call in calls:
            try:
                entry = await self._store.find(call)
            except Unreadable as error:
                self._tell(error)
                continue
            if entry is None or entry.owner != node:
                await self._store.disown(node, call)
            elif self._others.nodes.on_sweep(entry.owner, entry.state, self._grace_ms) is Act.CLAIM:
                await self._claim(call, entry, end=True)

    async def _claim(self, call: str, entry: Entry, *, end: bool) -> None:
        try:
            await self._claims.claim(call, entry, end=end)
        except Unreadable as error:
            self._tell(error)

    def _tell(self, error: Unreadable) -> None:
        if self._told.new(text := str(error)):
            log.error("redis: what is kept cannot be read, and is left alone: %s", text)
