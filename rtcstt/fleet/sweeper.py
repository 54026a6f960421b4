"""Ending what dead servers left, once nobody has come back to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from rtcstt.fleet.ownership import Act
from rtcstt.fleet.state import Entry, StoreAway, Unreadable

if TYPE_CHECKING:
    from rtcstt.fleet.shared import Shared  # which starts it

log = logging.getLogger(__name__)

SWEEP_S = 2.0
MOST_TOLD = 1000  # faults of what is kept that were said


class Sweeper:
    """Of one server. What cannot be read is said once, and keeps nothing else from being ended."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._told: set[str] = set()

    async def run(self) -> None:
        """For ever; to be cancelled."""
        own = self._shared.node.name
        while True:
            await asyncio.sleep(SWEEP_S)
            with contextlib.suppress(StoreAway):
                await self._shared.store.tidy()
            for node in (own, *self._shared.others.nodes.dead()):
                try:
                    await (self._sweep_own() if node == own else self._sweep(node))
                except Unreadable as error:
                    self._tell(error)
                except StoreAway:
                    break
                except Exception:
                    log.exception("the calls of a dead server cannot be ended")

    async def _sweep_own(self) -> None:
        """What this node claimed, and then could not read, since Redis went away in that moment."""
        shared = self._shared
        for call in await shared.store.owned(shared.node.name):
            if shared.writer.has(call):
                continue
            act, entry = await shared.locate(call)
            if act is Act.CLAIM and entry is not None:
                await self._claim(call, entry, end=False)

    async def _sweep(self, node: str) -> None:
        shared = self._shared
        calls = await shared.store.owned(node)
        if not calls:
            await shared.store.forget_node(node)
            return
        if shared.others.nodes.gone_ms(node) < shared.grace_ms or await shared.others.answers(node):
            return
        for call in calls:
            try:
                entry = await shared.store.find(call)
            except Unreadable as error:
                self._tell(error)
                continue
            if entry is None or entry.owner != node:
                await shared.store.disown(node, call)
            elif shared.others.nodes.on_sweep(entry.owner, entry.state, shared.grace_ms) is Act.CLAIM:
                await self._claim(call, entry, end=True)

    async def _claim(self, call: str, entry: Entry, *, end: bool) -> None:
        try:
            await self._shared.claim(call, entry, end=end)
        except Unreadable as error:
            self._tell(error)

    def _tell(self, error: Unreadable) -> None:
        if (text := str(error)) not in self._told:
            self._told = {*list(self._told)[-MOST_TOLD:], text}
            log.error("redis: what is kept cannot be read, and is left alone: %s", text)
