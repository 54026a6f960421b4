"""This process as one of those behind a port: its row on the board, its router, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from rtcstt.fleet.board import Board
from rtcstt.fleet.node import Node
from rtcstt.fleet.parent import Assignment, end_with_parent
from rtcstt.fleet.proxy import Target
from rtcstt.fleet.router import Here, Router, Workers
from rtcstt.fleet.shared import Shared

MEMBER: web.AppKey[Member] = web.AppKey("member")
PUBLISH_S = 0.1  # between two looks of the others at how busy this one is, at most
PROXIED_S = 5.0  # for answers of other workers, when this one stops


class Member:
    """``new``: what the server takes, calls or (alone) streams. ``drained`` returns when the calls that are
    going on may be closed. ``assignment``: of one worker of
    several. ``shared``: the state that several servers share."""

    def __init__(
        self,
        here: Here,
        node: Node,
        *,
        new: str = "call",
        drained: Callable[[], Awaitable[None]] | None = None,
        assignment: Assignment | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._here = here
        self._drained = drained
        self._assignment = assignment
        self.shared = shared
        self._is_ready = False
        if assignment is None:
            self._board = Board(1)
            own, targets, secret = 0, [Target("http://localhost")], secrets.token_urlsafe(32)
        else:
            self._board = assignment.board
            own, secret = assignment.index, assignment.secret
            targets = [assignment.target(index) for index in range(assignment.count)]
        self._workers = Workers(own, self._board, targets)
        self.router = Router(here, self._workers, secret, node, new=new, shared=shared)

    def attach(self, app: web.Application) -> None:
        """Behind every other middleware, and last among what is done at the end."""
        app[MEMBER] = self
        app.middlewares.append(self.router.middleware)
        app.cleanup_ctx.append(self._during)
        app.on_shutdown.append(self._finish)

    def local_sockets(self) -> list[socket.socket]:
        """Where the other workers pass requests on to."""
        if self._assignment is None:
            return []
        path = self._workers.targets[self._workers.own].socket
        assert path is not None
        path.unlink(missing_ok=True)  # of a worker that was killed
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(str(path))
        return [one]

    def ready(self, url: str) -> None:
        """Requests are answered from now on, at this address."""
        self._is_ready = True
        self.publish()
        if self.shared is not None:
            self.shared.run(self.shared.url or url, self.router.proxy)

    async def drain(self) -> None:
        """Take no more calls, and wait for those that are going on."""
        if self._drained is not None:
            await self._drained()

    def publish(self) -> None:
        """Tell the other workers how busy this one is."""
        self._board.write(self._workers.own, replace(self._here.load(), ready=self._is_ready))

    async def _during(self, app: web.Application) -> AsyncIterator[None]:
        if self._assignment is not None:
            end_with_parent()
        publishing = asyncio.create_task(self._keep_published())
        try:
            yield
        finally:
            publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publishing
            self._board.clear(self._workers.own)
            await self.router.proxy.close()

    async def _keep_published(self) -> None:
        while self._assignment is not None:  # else there is nobody to read it
            self.publish()
            await asyncio.sleep(PUBLISH_S)

    async def _finish(self, app: web.Application) -> None:
        """When the calls here have ended: what is passed on, and what is still to be written."""
        await self.router.proxy.wait_idle(PROXIED_S)
        if self.shared is not None:
            await self.shared.close()


def node_of(assignment: Assignment | None) -> Node:
    """The name that this process has in the fleet, until it ends."""
    start = secrets.token_hex(4)
    if assignment is None:
        return Node(secrets.token_hex(4), 0, start)
    return Node(assignment.machine, assignment.index, start)
