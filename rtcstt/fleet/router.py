"""Which process answers a request: a middleware that passes on what is for another one.

New calls and new STT streams go to the least busy; what names a call goes to the process that has it; lists
and metrics are gathered from all. Everything else is answered where it came in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from rtcstt import wire
from rtcstt.errors import CallerError
from rtcstt.fleet import ids, placement
from rtcstt.fleet.board import Board
from rtcstt.fleet.metrics import summed
from rtcstt.fleet.placement import Load
from rtcstt.fleet.proxy import Busy, Proxy, Target, Unreachable, sender
from rtcstt.http.bodies import read_body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY = 128 * 1024  # of an offer; what it is for refuses less
_OF_A_CALL = re.compile(r"/(?:calls|whip|watch)/([^/]+)(?:/.*)?")
_NEW_CALL = {("POST", "/offer"), ("POST", "/whip"), ("GET", "/pcm"), ("GET", "/media-stream")}
_NEW_STREAM = {("GET", path) for path in wire.PATHS.values()}


class Here(Protocol):
    """What this process holds."""

    def has(self, call: str) -> bool: ...
    def load(self) -> Load: ...


class Workers:
    """The processes behind one port, seen from one of them."""

    def __init__(self, own: int, board: Board, targets: list[Target]) -> None:
        self.own = own
        self.board = board
        self.targets = targets

    @property
    def others(self) -> list[int]:
        """Those that answer, without this one."""
        rows = self.board.all()
        return [index for index, row in enumerate(rows) if row.ready and index != self.own]


class Router:
    """For one process. `middleware` goes behind the one that makes refusals of errors."""

    def __init__(self, here: Here, workers: Workers, secret: str) -> None:
        self._here = here
        self._workers = workers
        self.secret = secret
        self.proxy = Proxy(secret)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def route(request: web.Request, handler: Handler) -> web.StreamResponse:
            passed_on = sender(request, self.secret)
            if passed_on is not None:
                caller, _ = passed_on
                return await handler(request.clone(remote=caller) if caller else request)
            return await self._route(request, handler)

        return route

    async def _route(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        method, path = request.method, request.path
        if (method, path) in _NEW_CALL:
            return await self._new_call(request, handler)
        if (method, path) in _NEW_STREAM:
            return await self._place(request, handler, "stream", None)
        if (named := _OF_A_CALL.fullmatch(path)) is not None and method != "OPTIONS":
            return await self._of_call(request, handler, named[1], None)
        if (method, path) == ("GET", "/calls"):
            return await self._list(request, handler)
        if (method, path) == ("GET", "/metrics"):
            return await self._metrics(request, handler)
        if (method, path) == ("GET", "/readyz"):
            self._check_room()
        return await handler(request)

    async def _new_call(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = None
        if request.method == "POST":
            body = await read_body(request, MAX_BODY, code="offer_too_big")
            if request.path == "/offer" and (call := _call_of(body)) is not None:
                return await self._of_call(request, handler, call, body)
        return await self._place(request, handler, "call", body)

    async def _place(
        self, request: web.Request, handler: Handler, kind: str, body: bytes | None
    ) -> web.StreamResponse:
        """With the least busy that takes it. When none does, the refusal is made here."""
        for index in self._ranked(kind):
            if index == self._workers.own:
                break
            with contextlib.suppress(Unreachable, Busy):
                return await self.proxy.pass_on(
                    request, self._workers.targets[index], body=body, if_free=True
                )
        return await handler(request)

    async def _of_call(
        self, request: web.Request, handler: Handler, call: str, body: bytes | None
    ) -> web.StreamResponse:
        worker = ids.worker_of(call)
        if self._here.has(call) or worker not in self._workers.others:
            return await handler(request)
        try:
            return await self.proxy.pass_on(request, self._workers.targets[worker], body=body)
        except Unreachable:  # it has just ended, and its calls with it: here nobody knows them either
            return await handler(request)

    async def _list(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        own = await handler(request)
        if own.status != 200 or not isinstance(own, web.Response):
            return own
        answers = await asyncio.gather(*(self._asked(request, i, "/calls") for i in self._workers.others))
        bodies = [own.body, *(body for body in answers if body is not None)]
        calls = [call for body in bodies for call in json.loads(body)["calls"]]  # type: ignore[arg-type]
        return web.json_response({"calls": sorted(calls, key=lambda call: call["created"])})

    async def _metrics(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        own = await handler(request)
        if own.status != 200 or not isinstance(own, web.Response) or len(self._workers.targets) == 1:
            return own
        others = self._workers.others
        answers = await asyncio.gather(*(self._asked(request, index, "/metrics") for index in others))
        texts = {self._workers.own: own.body, **dict(zip(others, answers, strict=True))}
        found = {i: bytes(text).decode() for i, text in sorted(texts.items()) if text is not None}  # type: ignore[arg-type]
        return web.Response(body=summed(found), headers={"Content-Type": own.headers["Content-Type"]})

    async def _asked(self, request: web.Request, worker: int, path: str) -> bytes | None:
        """What another worker answers to the same question; None when it has ended meanwhile."""
        with contextlib.suppress(Unreachable):
            status, body = await self.proxy.get(self._workers.targets[worker], path, request)
            return body if status == 200 else None
        return None

    def _check_room(self) -> None:
        """For balancers: `CallerError` 503 when a new call would be refused."""
        loads = self._loads()
        if not self._ranked("call"):
            stopping = all(load.draining for load in loads if load.ready)
            code, title = ("stopping", "The server stops") if stopping else ("full", "The server is full")
            raise CallerError(503, code, title, "It takes no more calls now.", retry_after_s=5)

    def _ranked(self, kind: str) -> list[int]:
        loads = ((str(index), load) for index, load in enumerate(self._loads()))
        return [int(name) for name in placement.ranked(loads, own=str(self._workers.own), kind=kind)]

    def _loads(self) -> list[Load]:
        """Of all workers; its own without the delay of the board."""
        loads = self._workers.board.all()
        loads[self._workers.own] = self._here.load()
        return loads


def _call_of(body: bytes) -> str | None:
    """The call that an offer is for, unless it is a new one. What is wrong with it is said elsewhere."""
    with contextlib.suppress(ValueError, RecursionError):
        offer = json.loads(body)
        call = offer.get("call") if isinstance(offer, dict) else None
        return call if isinstance(call, str) else None
    return None
