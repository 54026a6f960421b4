"""Every request's way in: host, origin, token, permission. And the headers of every answer.

A server is made of `Route`s. Each names the permission that it needs; an application that has any other
route does not start, and a request that reaches none is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from rtcstt.errors import CallerError, ConfigError, bad_request
from rtcstt.http.access import PUBLIC, Authenticator, Grant, Permission, credential, is_signed
from rtcstt.http.errors import Handler, refusals, too_often
from rtcstt.limits import MAX_KEYS, RateLimiter
from rtcstt.wire.hosts import is_address, is_loopback

log = logging.getLogger(__name__)

GRANT: web.RequestKey[Grant] = web.RequestKey("grant", Grant)
FAILED_LOGINS_PER_MINUTE = 20  # of one address, before its tokens are not looked at for a while
_EXPOSED = "ETag, Link, Location, Retry-After, X-Request-Id"
_HEADERS = "Authorization, Cartesia-Version, Content-Type, If-Match, Last-Event-ID, X-API-Key"
_HANDSHAKE = (
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    ``summary`` is for the table in the documentation. ``any_origin``: pages of every origin may ask, where a
    token is needed, since it is the token that admits them, never a cookie. ``in_message``: a WebSocket whose
    token may come in its first message, so that its handler asks for the permission (`Guard.authenticate`).
    """

    method: str
    path: str
    handler: Handler
    permission: Permission
    summary: str
    any_origin: bool = False
    in_message: bool = False


class Hosts:
    """The names that a server may be reached by: those of loopback, ``names``, and every IP address.

    A page whose own name was made to resolve to this server (DNS rebinding) sends that name as `Host`;
    only a name can be made so, never an address. ``*`` among the names allows all.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        for name in names:
            host = "*" if name == "*" else _host(name.strip().lower())
            if host is None:
                raise ConfigError(f"allow_host: {name!r} is not the name of a host")
            self._names.add(host)

    def allows(self, header: str | None) -> bool:
        """Whether a request with this `Host` header is for this server. Browsers always send one."""
        if header is None or "*" in self._names:
            return True
        host = _host(header.strip().lower())
        if host is None:
            return False
        return host in self._names or is_loopback(host) or is_address(host)


class Guard:
    """The one access check of a server. ``origins``: of the pages that may call from elsewhere; ``*`` for
    all. ``caller`` tells the address that a request comes from, which failed logins are counted by."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        hosts: Hosts | None = None,
        origins: tuple[str, ...] = (),
        caller: Callable[[web.Request], str] | None = None,
        failed_logins_per_minute: float = FAILED_LOGINS_PER_MINUTE,
    ) -> None:
        self.authenticator = authenticator
        self.routes: list[Route] = []
        self._hosts = hosts or Hosts()
        self._origins = origins
        self.caller = caller or (lambda request: request.remote or "")
        self._failed = RateLimiter(failed_logins_per_minute)
        self._valid: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self.failed_logins = 0
        self._by_aiohttp: dict[web.AbstractRoute, Route | None] = {}
        framing = " ".join(["'self'", *origins])
        page = f"frame-ancestors {framing}; base-uri 'none'; form-action 'none'"
        self._page_policy = f"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; {page}"

    def application(self, *, client_max_size: int) -> web.Application:
        """An application without routes, whose every request comes through here."""
        app = web.Application(middlewares=[refusals, self._middleware], client_max_size=client_max_size)
        app.on_response_prepare.append(self._set_headers)
        app.on_startup.append(self._check_routes)
        return app

    def add_routes(self, app: web.Application, routes: Sequence[Route]) -> None:
        """Routes of the application; each path gets an answer to browsers' preflights, unless it has one."""
        for route in routes:
            added = app.router.add_route(route.method, route.path, route.handler)
            self._by_aiohttp[added] = route
            self.routes.append(route)
        answered = {route.path for route in self.routes if route.method == "OPTIONS"}
        for path in dict.fromkeys(route.path for route in routes):
            if path not in answered:
                first = next(route for route in routes if route.path == path)
                added = app.router.add_route("OPTIONS", path, _preflight)
                self._by_aiohttp[added] = Route(
                    method="OPTIONS",
                    path=path,
                    handler=_preflight,
                    permission=Permission.PUBLIC,
                    summary="",
                    any_origin=first.any_origin,
                )

    def authenticate(self, request: web.Request, permission: Permission, given: str | None = None) -> Grant:
        """The grant of a request that needs ``permission``, by the token in it or by the one ``given``.

        `CallerError` 401 without a valid token, 403 when it is not for this, 429 when so many of this
        address were wrong that no other is looked at for a while. What was valid there before goes on to be:
        strangers behind the same address must not lock others out.
        """
        now = asyncio.get_running_loop().time()
        address = _network(self.caller(request))
        given = given or credential(request.headers, request.query)
        known = (address, hashlib.sha256((given or "").encode("utf-8", "surrogateescape")).digest())
        wait_s = self._failed.wait_s(address, now)
        if wait_s > 0 and given and known not in self._valid and not is_signed(given):
            raise too_often(wait_s, "Too many wrong tokens came from this address.", "too_many_failed_logins")
        try:
            grant = self.authenticator.admit(given)
        except CallerError as error:
            if given:
                self._count_failure(request, address, error, now)
            raise
        if given and self.authenticator.is_guarded and not is_signed(given):
            self._valid[known] = None
            self._valid.move_to_end(known)
            if len(self._valid) > MAX_KEYS:
                self._valid.popitem(last=False)
        if not grant.may(permission):
            message = f"This token is not for this: it may not {permission.value}."
            raise CallerError(403, "forbidden", "Forbidden", message)
        return grant

    def _count_failure(self, request: web.Request, address: str, error: CallerError, now: float) -> None:
        self.failed_logins += 1
        if error.code == "unauthorized":  # an expired token is no guess
            self._failed.take(address, now)
        log.warning(
            "login failed from %s: %s %s: %s",
            address,
            request.method,
            request.rel_url.raw_path[:80],
            error.code,
        )

    def check_origin(self, request: web.Request, *, any_origin: bool = False) -> None:
        """`CallerError` 403 when the page that asks is of another origin that may not. A browser tells whose
        page it is, and lets some requests of strangers through unasked."""
        origin = request.headers.get("Origin")
        if origin is None or self._is_listed(origin) or self._is_any(any_origin):
            return
        if not _is_same(origin, request.headers.get("Host", "")):
            message = "This page's origin is not in the list of those that may call (--allow-origin)."
            raise CallerError(403, "origin_not_allowed", "Origin not allowed", message)

    def _is_listed(self, origin: str) -> bool:
        return origin in self._origins or "*" in self._origins

    def _is_any(self, any_origin: bool) -> bool:
        return any_origin and self.authenticator.is_guarded

    @property
    def _middleware(self) -> Middleware:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._hosts.allows(request.headers.get("Host")):
                message = "The server is not known by this name (--allow-host)."
                raise CallerError(403, "host_not_allowed", "Host not allowed", message)
            _check_encoding(request)
            _check_upgrade(request)
            match = request.match_info
            if match.http_exception is not None:
                self.check_origin(request)
                return await handler(request)  # which raises it
            route = self._by_aiohttp.get(match.route)
            if route is None:
                raise CallerError(403, "forbidden", "Forbidden", "This route names no permission.")
            self.check_origin(request, any_origin=route.any_origin)
            request[GRANT] = PUBLIC
            if route.permission is not Permission.PUBLIC and not route.in_message:
                request[GRANT] = self.authenticate(request, route.permission)
            return await handler(request)

        return check

    async def _check_routes(self, app: web.Application) -> None:
        for added in app.router.routes():
            if added not in self._by_aiohttp:
                raise RuntimeError(f"the route {added.method} {added.resource} names no permission")

    async def _set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        match = request.match_info
        route = self._by_aiohttp.get(match.route) if match.http_exception is None else None
        headers = response.headers
        headers["Server"] = "rtcstt"
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Permissions-Policy"] = "microphone=(self), camera=(), geolocation=()"
        if response.content_type == "text/html":
            headers["Content-Security-Policy"] = self._page_policy
        elif response.status != 304:  # whose headers replace those of the page that the browser has kept
            headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
        if route is None or route.permission is not Permission.PUBLIC:
            headers.setdefault("Cache-Control", "no-store")
        self._allow_reading(request, response, any_origin=route is not None and route.any_origin)

    def _allow_reading(self, request: web.Request, response: web.StreamResponse, *, any_origin: bool) -> None:
        """Pages of the origins in the list may read the answer (and WHIP clients its Location)."""
        origin = request.headers.get("Origin")
        if self._is_any(any_origin):
            response.headers["Access-Control-Allow-Origin"] = "*"
        elif origin is not None and self._is_listed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
        else:
            return
        response.headers.add("Vary", "Origin")
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        if request.method == "OPTIONS":
            wanted = request.headers.get("Access-Control-Request-Headers", "") if any_origin else ""
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = wanted or _HEADERS
            response.headers["Access-Control-Max-Age"] = "600"


def table(routes: Iterable[Route]) -> str:
    """Who may do what, as Markdown: the documentation's table is this text."""
    lines = ["| request | what it is | permission |", "|---|---|---|"]
    for route in routes:
        needs = route.permission.value + (" (the token may come in the first message)" * route.in_message)
        lines.append(f"| `{route.method} {route.path}` | {route.summary} | {needs} |")
    return "\n".join(lines) + "\n"


async def _preflight(request: web.Request) -> web.StreamResponse:
    return web.Response()


def _check_encoding(request: web.Request) -> None:
    """Nobody needs compressed requests, and to inflate them costs much more than to send them."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        message = "Send the body as it is, without a Content-Encoding."
        raise CallerError(415, "unsupported_encoding", "Unsupported encoding", message)


def _check_upgrade(request: web.Request) -> None:
    """aiohttp encodes what a WebSocket's handshake says, to answer it or to refuse it, and fails where that
    is not of ASCII letters."""
    for name in _HANDSHAKE:
        if not all(value.isascii() for value in request.headers.getall(name, ())):
            raise bad_request(f"{name} is not ASCII (RFC 6455 section 4.2.1).", "bad_handshake")


def _split(text: str) -> tuple[str, int | None] | None:
    """Host (without brackets) and port of HOST[:PORT]; None when it is none."""
    try:
        parts = urlsplit(f"//{text}")
        if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
            return None
        return parts.hostname.rstrip("."), parts.port
    except ValueError:
        return None


def _host(text: str) -> str | None:
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # a bare IPv6 address, as --host has it
    found = _split(text)
    return None if found is None else found[0]


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` was loaded from ``host``."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    here = _split(host.strip().lower())
    if here is None or parts.hostname is None:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    return (parts.hostname.rstrip("."), port or default) == (here[0], here[1] or default)


def _network(address: str) -> str:
    """What failed logins are counted by: an IPv4 address, or the network of an IPv6 one, which has 2^64."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network(f"{found}/64", strict=False))
