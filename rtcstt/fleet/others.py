"""The other servers, as this one finds them: which live, how busy they are, and the way to them."""

from __future__ import annotations

import asyncio
import contextlib

from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.node import Node
from rtcstt.fleet.ownership import DEAD_MS, Nodes
from rtcstt.fleet.placement import Load
from rtcstt.fleet.proxy import Proxy, Target, Unreachable
from rtcstt.fleet.state import About, Beat

LOOK_S = 0.05  # between two looks whether a node has been seen again


class Others:
    """Seen by one server. ``proxy`` reaches them, once it takes part."""

    def __init__(self, node: Node, clock: SharedClock) -> None:
        self.nodes = Nodes(node.name)
        self.proxy: Proxy | None = None
        self._node = node
        self._clock = clock
        self._about: dict[str, About] = {}

    def learn(self, beat: Beat) -> None:
        draining = {name for name, about in beat.about.items() if about["draining"]}
        self.nodes.beat(beat.now, beat.seen, draining)
        known = {name: about for name, about in self._about.items() if name in beat.seen}
        self._about = known | dict(beat.about)

    def target(self, node: str) -> Target | None:
        """Where a node takes what is passed on to it, as long as it is known."""
        about = self._about.get(node)
        return Target(about["url"], node=node) if about and about["url"] else None

    def loads(self) -> list[tuple[str, Load]]:
        """Of the other servers, as of a second ago."""
        others = (name for name in self.nodes.living() if self._node.sibling(name) is None)
        return [(name, _load_of(self._about[name])) for name in others if name in self._about]

    async def answers(self, node: str) -> bool:
        """Whether a node without a heartbeat lives all the same: then it is cut off from Redis alone, and its
        callers are still with it."""
        if node == self._node.name or self.nodes.has_refused(node):
            return False
        return await self.ask(node, "/healthz") == 200

    async def hangs(self, node: str) -> bool:
        """It has missed a heartbeat, and does not answer either, though the system takes its connections."""
        if not self.nodes.is_silent(node) or await self.answers(node):
            return False
        return await self.is_gone(node)

    async def is_gone(self, node: str) -> bool:
        """Of one that could not be reached: whether it misses its next heartbeats. Else it lives, and it is
        the way to it that is wrong."""
        self._refused(node)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEAD_MS / 1000):
                while self.nodes.has_refused(node) and not self.nodes.is_dead(node):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)  # it is time that tells
        return self.nodes.is_dead(node)

    async def ask(self, node: str, path: str) -> int | None:
        """The status of another node's answer; None, and it is remembered, when there is none."""
        target = self.target(node)
        if target is None or self.proxy is None:
            return None
        try:
            status, _ = await self.proxy.get(target, path)
            return status
        except Unreachable:
            self._refused(node)
            return None

    def _refused(self, node: str) -> None:
        now = self._clock.to_shared(asyncio.get_running_loop().time())
        self.nodes.refused(node, round(1000 * now))


def _load_of(about: About) -> Load:
    return Load(about["calls"], about["capacity"], draining=about["draining"])
