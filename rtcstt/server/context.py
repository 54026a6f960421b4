"""What the routes of a server share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from aiohttp import web

from rtcstt.call import Call
from rtcstt.fleet.mirrors import Mirror
from rtcstt.fleet.router import OTHERS, VIEW
from rtcstt.http.access import Grant
from rtcstt.http.errors import too_often
from rtcstt.http.guard import GRANT, Guard
from rtcstt.limits import RateLimiter
from rtcstt.server import addresses
from rtcstt.server.admission import Requester
from rtcstt.server.calls import Calls
from rtcstt.server.entries import no_such_call
from rtcstt.webrtc.connection import IceServer

log = logging.getLogger(__name__)

PATCHES_PER_OFFER = 20  # trickled candidates come in several requests


class Context:
    """One server: its calls, its guard, and who asks. ``ice_servers`` are for callers; each asking may bring
    new logins. ``offers_per_minute`` are an address's."""

    def __init__(
        self,
        calls: Calls,
        guard: Guard,
        *,
        offers_per_minute: float = 120,
        ice_servers: Callable[[], Sequence[IceServer]] = tuple,
    ) -> None:
        self.calls = calls
        self.guard = guard
        self.ice_servers = ice_servers
        self._offers = RateLimiter(offers_per_minute)
        self._patches = RateLimiter(offers_per_minute * PATCHES_PER_OFFER)
        self.following: set[asyncio.Task[object]] = set()

    def requester(self, request: web.Request, grant: Grant | None = None) -> Requester:
        """Who asks: by the grant that the guard found, unless a later message brought another one."""
        grant = grant or request[GRANT]
        return Requester(grant.identity, self.guard.caller(request), may_listen=grant.may_listen)

    def check_offers(self, request: web.Request) -> None:
        """Count an attempt to place a call; `CallerError` 429 when it is one too many."""
        message = f"At most {self._offers.per_minute:g} offers a minute are taken from one address."
        self._check(self._offers, request, message, "too_many_offers")

    def check_patches(self, request: web.Request) -> None:
        self._check(
            self._patches, request, "Too many candidates come from this address.", "too_many_requests"
        )

    def find(self, request: web.Request) -> Call:
        """The call that the path names; `CallerError` 404 when there is none."""
        return self.visible(self.calls.find(request.match_info["id"]), request[GRANT])

    def found(self, request: web.Request) -> Call | Mirror:
        """The same, to be read: also one of another server."""
        view: Mirror | None = request.get(VIEW)
        if view is None or self.calls.has(view.id):
            return self.find(request)
        if not is_visible(view, request[GRANT]):
            raise no_such_call()
        return view

    def listed(self, request: web.Request) -> list[Call | Mirror]:
        """Every call that the request may know of, newest last."""
        grant = request[GRANT]
        own = self.calls.all()
        others = [view for view in request.get(OTHERS, {}).values() if not self.calls.has(view.id)]
        calls: list[Call | Mirror] = [*own, *others]
        return sorted((call for call in calls if is_visible(call, grant)), key=lambda call: call.created)

    def visible(self, call: Call, grant: Grant) -> Call:
        """Who has a token for one label, or one call, gets to know of no other call."""
        if not is_visible(call, grant):
            raise no_such_call()
        return call

    def note(self, request: web.Request, call: Call) -> Call:
        log.info("call %s: from %s", call.id, self.guard.caller(request))
        return call

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """While the request lasts, the end of the server waits a little for it."""
        task = asyncio.current_task()
        assert task is not None
        self.following.add(task)
        try:
            yield
        finally:
            self.following.discard(task)

    def _check(self, limiter: RateLimiter, request: web.Request, message: str, code: str) -> None:
        wait_s = limiter.take(self.guard.caller(request), asyncio.get_running_loop().time())
        if wait_s > 0:
            raise too_often(wait_s, message, code)


def is_visible(call: Call | Mirror, grant: Grant) -> bool:
    return grant.label in (None, call.label) and grant.call in (None, call.id)


def caller_behind(trusted: addresses.Networks) -> Callable[[web.Request], str]:
    """For a `Guard`: the address that a request comes from, behind the proxies that are ``trusted``."""

    def caller(request: web.Request) -> str:
        forwarded_for, forwarded = (
            request.headers.getall(name, []) for name in ("X-Forwarded-For", "Forwarded")
        )
        return addresses.caller(request.remote or "", forwarded_for, forwarded, trusted)

    return caller
