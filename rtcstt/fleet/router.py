"""Which process answers a request: a middleware that passes on what is for another one.

New calls and new STT streams go to the least busy; what names a call goes to the process that has it; lists
and metrics are gathered from all. Everything else is answered where it came in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from rtcstt import wire
from rtcstt.errors import CallerError
from rtcstt.fleet import ids, placement
from rtcstt.fleet.board import Board
from rtcstt.fleet.metrics import summed
from rtcstt.fleet.mirrors import Mirror
from rtcstt.fleet.node import Node
from rtcstt.fleet.ownership import Act
from rtcstt.fleet.placement import Load
from rtcstt.fleet.proxy import MISDIRECTED, Busy, Proxy, Target, Unreachable, sender
from rtcstt.fleet.shared import LOST, RELEASE, Shared
from rtcstt.fleet.state import Entry, StoreAway
from rtcstt.http.bodies import read_body
from rtcstt.wire import strict_json

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

VIEW: web.RequestKey[Mirror] = web.RequestKey("view", Mirror)
"""The call of another server that a request is about."""
OTHERS: web.RequestKey[dict[str, Mirror]] = web.RequestKey("others", dict)
"""The calls of all other servers, without their events, for a request for the list."""
RETRY_S = 5  # what who finds no room is told
MAX_BODY = 128 * 1024  # of an offer; what it is for refuses less
_OF_A_CALL = re.compile(r"/(?:calls|whip|watch)/([^/]+)(?:/.*)?")
_NEW_CALL = {("POST", "/offer"), ("POST", "/whip"), ("GET", "/pcm"), ("GET", "/media-stream")}
_OFFERS = ("/offer", "/whip")
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
    """For one process. `middleware` goes behind the one that makes refusals of errors, and behind the access
    check. ``shared``: the state that several servers share, where they do."""

    def __init__(
        self,
        here: Here,
        workers: Workers,
        secret: str,
        node: Node,
        *,
        new: str = "call",
        shared: Shared | None = None,
    ) -> None:
        """``new``: what the server must have room for to be ready, "call" or "stream"."""
        self._new = new
        self._here = here
        self._workers = workers
        self._node = node
        self._shared = shared
        self.secret = secret
        self.proxy = Proxy(secret, shared.secret if shared is not None else secret)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def route(request: web.Request, handler: Handler) -> web.StreamResponse:
            passed_on = sender(request, self.proxy.secrets)
            if passed_on is None:
                return await self._route(request, handler)
            caller, node = passed_on
            if node is not None and node != self._node.name:
                return await self._for_sibling(request, node)
            try:
                return await self._passed_on(request.clone(remote=caller) if caller else request, handler)
            except StoreAway as error:
                log.warning("another server's request cannot be answered: %s", error)
                raise _away() from None

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

    async def _passed_on(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """From another process, which has found that it is for this one."""
        shared, path = self._shared, request.path
        if shared is None:
            return await handler(request)
        if path.startswith(RELEASE):
            await shared.writer.release(path.removeprefix(RELEASE))
            return web.Response(status=204)
        if path.startswith(LOST):
            return web.Response(status=204 if shared.is_lost(path.removeprefix(LOST)) else 409)
        if request.method == "POST" and path in _OFFERS:
            body = await read_body(request, MAX_BODY, code="offer_too_big")
            call = _resumed(request, body)
            if call is not None and self._here.has(call) and self._here.load().draining:
                raise CallerError(503, "stopping", "The server stops", "Take the call.")
            if call is not None and not self._here.has(call):
                act, entry = await shared.locate(call)
                if act is Act.PASS_ON:  # its owner drains, and says so before its heartbeat does
                    act = Act.PREPARE
                if entry is not None:
                    await self._take(shared, request, call, act, entry)
        return await handler(request)

    async def _for_sibling(self, request: web.Request, node: str) -> web.StreamResponse:
        """Another server meant another worker behind this port."""
        worker = self._node.sibling(node)
        if worker is not None and worker in self._workers.others:
            target = replace(self._workers.targets[worker], node=node)
            with contextlib.suppress(Unreachable):
                return await self.proxy.pass_on(request, target)
        message = "The process it is for is not here."
        raise CallerError(MISDIRECTED, "misdirected", "Misdirected request", message)

    async def _new_call(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = None
        if request.method == "POST":
            body = await read_body(request, MAX_BODY, code="offer_too_big")
        if (call := _resumed(request, body)) is not None:
            return await self._of_call(request, handler, call, body)
        return await self._place(request, handler, "call", body)

    async def _place(
        self, request: web.Request, handler: Handler, kind: str, body: bytes | None
    ) -> web.StreamResponse:
        """With the least busy that takes it: here, at another worker, then at another server. When none does,
        the refusal is made here."""
        for target in self._free(kind):
            if target is None:
                break
            with contextlib.suppress(Unreachable, Busy):
                return await self.proxy.pass_on(request, target, body=body, if_free=True)
        return await handler(request)

    def _free(self, kind: str) -> Iterator[Target | None]:
        """Where something new may go, the best first; None is here."""
        for index in self._ranked(kind):
            yield None if index == self._workers.own else self._workers.targets[index]
        if self._shared is not None and kind == "call":
            for name in placement.ranked(self._shared.others.loads(), own=""):
                yield self._shared.others.target(name)

    async def _of_call(
        self, request: web.Request, handler: Handler, call: str, body: bytes | None
    ) -> web.StreamResponse:
        if self._here.has(call):
            if body is not None and self._shared is not None and self._here.load().draining:
                for name in placement.ranked(
                    self._shared.others.loads(), own=""
                ):  # the caller was asked to move
                    if (target := self._shared.others.target(name)) is not None:
                        with contextlib.suppress(Unreachable, Busy):
                            return await self.proxy.pass_on(request, target, body=body, if_free=True)
            return await handler(request)
        if self._shared is not None:
            with contextlib.suppress(StoreAway):
                return await self._of_shared_call(self._shared, request, handler, call, body)
        worker = ids.worker_of(call)
        if worker in self._workers.others:
            # Where it has just ended its calls have ended with it: here nobody knows them either.
            with contextlib.suppress(Unreachable):
                return await self.proxy.pass_on(request, self._workers.targets[worker], body=body)
        if self._shared is not None:
            raise _away()
        return await handler(request)

    async def _of_shared_call(
        self, shared: Shared, request: web.Request, handler: Handler, call: str, body: bytes | None
    ) -> web.StreamResponse:
        """Reading needs no owner; anything else is done where the call is, and that may become here."""
        act, entry = await shared.locate(call)
        reads = request.method in ("GET", "HEAD") and not request.path.startswith(("/whip/", "/pcm"))
        if entry is None:
            return await handler(request)
        view = await shared.view(call)
        if view is not None:
            request[VIEW] = view
        if reads or act is Act.ENDED:
            return await handler(request)
        if act is Act.CLAIM and await shared.others.answers(entry.owner):
            act = Act.PASS_ON
        elif act is Act.PASS_ON and await shared.others.hangs(entry.owner):  # nobody waits for its answer
            act = Act.CLAIM
        if act is Act.PREPARE and body is None:  # only an offer moves a call
            act = Act.PASS_ON
        if act is Act.PASS_ON and (target := self._target(shared, entry.owner)) is not None:
            try:
                return await self.proxy.pass_on(request, target, body=body, if_free=body is not None)
            except Busy:  # it drains since a moment, or has no room for what is offered
                act = Act.PREPARE
            except Unreachable:
                act = Act.CLAIM if await shared.others.is_gone(entry.owner) else Act.PASS_ON
        if act is Act.PASS_ON:  # known to be dead once this process has been there for as long as that takes
            message = "The server that has the call cannot be reached, and is not known to be dead."
            raise CallerError(503, "owner_unseen", "Try again", message, retry_after_s=2)
        await self._take(shared, request, call, act, entry)
        return await handler(request)

    async def _take(self, shared: Shared, request: web.Request, call: str, act: Act, entry: Entry) -> None:
        """Make the call one of this process, if that is what is to be done."""
        ends = request.method == "DELETE"
        if act is Act.OWN:  # since a moment
            request.pop(VIEW, None)
        if act in (Act.CLAIM, Act.PREPARE) and not ends and self._here.load().busy("call") >= 1:
            raise _full("It takes no more calls now.")
        if act is Act.CLAIM and await shared.claim(call, entry, end=ends):
            request.pop(VIEW, None)
        elif act is Act.PREPARE and shared.prepare is not None:
            await shared.prepare(call, entry)
            request.pop(VIEW, None)

    def _target(self, shared: Shared, node: str) -> Target | None:
        worker = self._node.sibling(node)
        if worker is not None and worker in self._workers.others:
            return replace(self._workers.targets[worker], node=node)
        return shared.others.target(node)

    async def _list(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Of all processes; ``missing`` says whose calls are left out, since they do not answer."""
        missing = []
        if self._shared is not None:
            try:
                request[OTHERS] = await self._shared.snapshots()
                return await handler(request)
            except StoreAway as error:
                log.warning("the calls of other servers are left out of a list: %s", error)
                missing.append("other servers")
        own, others = await handler(request), self._workers.others
        if own.status != 200 or not isinstance(own, web.Response):
            return own
        answers = await asyncio.gather(*(self._asked(request, index, "/calls") for index in others))
        missing += [f"worker {index}" for index, body in zip(others, answers, strict=True) if body is None]
        return _one_list([own.body, *answers], missing)

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
        """What another worker answers to the same question; None when it has ended meanwhile, or is too busy
        to answer in time."""
        try:
            status, body = await self.proxy.get(self._workers.targets[worker], path, request)
        except Unreachable as error:
            log.warning("worker %d is left out of %s: %s", worker, path, error)
            return None
        return body if status == 200 else None

    def _check_room(self) -> None:
        """For balancers: `CallerError` 503 when what is new would be refused."""
        loads = self._loads()
        if not self._ranked(self._new):  # what other servers have is for the balancer to find
            stopping = all(load.draining for load in loads if load.ready)
            message = f"It takes no new {self._new} now."
            if stopping:
                raise CallerError(503, "stopping", "The server stops", message, retry_after_s=RETRY_S)
            raise _full(message)

    def _ranked(self, kind: str) -> list[int]:
        hangs, own = self._workers.board.hangs, self._workers.own
        each = enumerate(self._loads())
        loads = ((str(index), load) for index, load in each if index == own or not hangs(index))
        return [int(name) for name in placement.ranked(loads, own=str(self._workers.own), kind=kind)]

    def _loads(self) -> list[Load]:
        """Of all workers; its own without the delay of the board."""
        loads = self._workers.board.all()
        loads[self._workers.own] = self._here.load()
        return loads


def _one_list(bodies: Iterable[object], missing: Sequence[str]) -> web.Response:
    """The calls of several answers to `GET /calls`, the oldest first; None is no answer."""
    calls = [call for body in bodies if isinstance(body, bytes) for call in json.loads(body)["calls"]]
    calls.sort(key=lambda call: call["created"])
    return web.json_response({"calls": calls, "complete": not missing, "missing": missing})


def _away() -> CallerError:
    message = "The state that servers share cannot be reached now."
    return CallerError(503, "state_unreachable", "Try again", message, retry_after_s=2)


def _full(message: str) -> CallerError:
    return CallerError(503, "full", "The server is full", message, retry_after_s=RETRY_S)


def _resumed(request: web.Request, body: bytes | None) -> str | None:
    """The call that an offer, or a gateway, goes on with; None for a new one. What is wrong with it is said
    elsewhere."""
    if request.path != "/offer":
        return request.query.get("call") if request.path in ("/whip", "/pcm") else None
    with contextlib.suppress(ValueError):
        call = strict_json.load_object(body or b"").get("call")
        return call if isinstance(call, str) else None
    return None
