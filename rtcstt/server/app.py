"""The HTTP face of rtcstt: page, signalling, calls, events, captions, health, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from rtcstt import __version__, captions
from rtcstt.call import Call
from rtcstt.embedded import Embedded
from rtcstt.embedded.http.routes import add_routes
from rtcstt.embedded.http.upload import MAX_UPLOAD
from rtcstt.errors import CallerError
from rtcstt.fleet.router import BODY
from rtcstt.http import Handler, refusals
from rtcstt.server import addresses, gateways, whip
from rtcstt.server.access import Authenticator, Grant, RateLimiter
from rtcstt.server.calls import Calls, no_such_call
from rtcstt.server.metrics import Metrics
from rtcstt.webrtc.connection import IceServer
from rtcstt.wire import MAX_KEYTERM_CHARACTERS, MAX_KEYTERMS, bad_request, turn_settings

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
MAX_OFFER = 128 * 1024
HEARTBEAT_S = 15.0
UNREAD_S = 60.0  # a listener who reads nothing for so long is let go
MAX_LISTENERS = 1000
AT_ONCE = 500  # events that are rendered without a thread
_TYPES = {
    "captions.vtt": "text/vtt",
    "captions.srt": "application/x-subrip",
    "transcript.txt": "text/plain",
    "transcript.json": "application/json",
}
_ABOUT_PCM = ("mode", "label", "language")
_EXPOSED = "ETag, Link, Location, Retry-After"


class Web:
    """The handlers of one server. ``ice_servers`` are for callers; each asking may bring new logins.
    ``trusted``: the proxies that are believed about who asks."""

    def __init__(
        self,
        calls: Calls,
        *,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        origins: tuple[str, ...] = (),
        ice_servers: Callable[[], Sequence[IceServer]] = tuple,
        embedded: Embedded | None = None,
        trusted: addresses.Networks | None = None,
    ) -> None:
        self.calls = calls
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._origins = origins
        self._ice_servers = ice_servers
        self._embedded = embedded
        self._trusted = trusted or addresses.Networks()
        self._metrics = Metrics(calls)
        self._following: set[asyncio.Task[Any]] = set()

    def application(self, *, stt_keys: Any) -> web.Application:
        app = web.Application(middlewares=[self._cross_origin, refusals], client_max_size=MAX_UPLOAD)
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", self._static("index.html")),
            ("POST", "/offer", self.offer),
            ("GET", "/ice-servers", self.ice_servers),
            ("POST", "/whip", self.whip),
            ("GET", "/whip", self.nothing),
            ("GET", "/whip/{id}", self.nothing),
            ("GET", "/pcm", self.pcm),
            ("GET", "/media-stream", self.media_stream),
            ("GET", "/calls", self.list_calls),
            ("GET", "/calls/{id}", self.show_call),
            ("DELETE", "/calls/{id}", self.delete_call),
            ("DELETE", "/whip/{id}", self.delete_call),
            ("PATCH", "/whip/{id}", self.patch_call),
            ("GET", "/calls/{id}/events", self.events),
            ("GET", "/calls/{id}/{name}", self.text),
            ("GET", "/healthz", self.healthz),
            ("GET", "/readyz", self.readyz),
            ("GET", "/metrics", self.metrics),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        for path in ("/offer", "/ice-servers", "/whip/{id}", "/calls", "/calls/{id}", "/calls/{id}/{name}"):
            app.router.add_route("OPTIONS", path, self.options)
        app.router.add_route("OPTIONS", "/whip", self.whip_options)
        for file in sorted(STATIC.iterdir()):
            if file.is_file() and file.name != "index.html":
                app.router.add_get(f"/{file.name}", self._static(file.name))
        app.router.add_static("/static", STATIC)
        if self._embedded is not None:
            add_routes(app, self._embedded.preload, stt_keys)
        app.on_shutdown.append(self._shut)
        return app

    # -- signalling --------------------------------------------------------------------------------

    async def offer(self, request: web.Request) -> web.StreamResponse:
        """`POST /offer`: the convention of aiortc's examples, with the call's id in the answer."""
        grant = self._may_publish(request)
        body = _object(await _limited(request))
        if body.get("type") != "offer" or not isinstance(body.get("sdp"), str):
            raise bad_request('An offer is {"type": "offer", "sdp": "v=0..."}.', "bad_offer")
        resumed = body.get("call")
        if isinstance(resumed, str):
            self._visible(self.calls.find(resumed), grant)
            call, answer = await self.calls.resume(resumed, body["sdp"])
        else:
            call, answer = await self.calls.place(body["sdp"], **_about(body, grant))
        self._note(request, call)
        return web.json_response({"sdp": answer, "type": "answer", "call": call.id})

    async def whip(self, request: web.Request) -> web.StreamResponse:
        """`POST /whip` (RFC 9725): SDP in, SDP out, and a resource to end the session at."""
        grant = self._may_publish(request)
        whip.check_offer(request.content_type, request.headers.get("Accept", "*/*"))
        sdp = (await _limited(request)).decode("utf-8", "replace")
        about = _about(dict(request.query), grant)
        call, answer = await self.calls.place(sdp, **about)
        self._note(request, call)
        # As bytes, since aiohttp adds a charset to text: application/sdp has no parameters (RFC 8866).
        response = web.Response(status=201, body=answer.encode(), content_type=whip.OFFER)
        response.headers["Location"] = f"/whip/{call.id}"
        response.headers["ETag"] = _etag(call)
        response.headers["Accept-Patch"] = whip.FRAGMENT
        self._link_ice_servers(response)
        response.headers.add("Link", f'</calls/{call.id}/events>; rel="urn:rtcstt:events"')
        return response

    async def patch_call(self, request: web.Request) -> web.StreamResponse:
        """Trickle ICE (RFC 9725 section 4.3.2). ICE restarts are not to be had: aiortc knows none."""
        call = self._call(request, self._may_publish(request))
        if call.state == "closed":
            raise CallerError(404, "call_ended", "The call has ended", "There is nothing left to connect.")
        whip.check_fragment(request.content_type)
        whip.check_match(request.headers.get("If-Match"), _etag(call))
        fragment = (await _limited(request)).decode("utf-8", "replace")
        peer = self.calls.peer(call.id)
        if peer is not None:
            peer.add_candidates(fragment)
        return web.Response(status=204)

    async def options(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def whip_options(self, request: web.Request) -> web.StreamResponse:
        """What may be posted; and the ICE servers for clients that must know them before they offer. Never on
        a browser's preflight, which shows no token (RFC 9725 section 4.6)."""
        response = web.Response(headers={"Accept-Post": whip.OFFER})
        if "Access-Control-Request-Method" not in request.headers:
            with contextlib.suppress(CallerError):
                self._may_publish(request)
                self._link_ice_servers(response)
        return response

    async def ice_servers(self, request: web.Request) -> web.StreamResponse:
        """`GET /ice-servers`: the configuration of a browser's RTCPeerConnection."""
        self._may_publish(request)
        servers = [whip.ice_configuration(server) for server in self._callers_ice_servers()]
        return web.json_response({"iceServers": servers}, headers={"Cache-Control": "no-store"})

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        """`GET` on WHIP's endpoint and sessions, which have no representation (RFC 9725 section 4.1)."""
        if "id" in request.match_info:
            self._call(request, self._may_publish(request))
        return web.Response(status=204)

    async def pcm(self, request: web.Request) -> web.StreamResponse:
        """`GET /pcm`, a WebSocket: binary PCM in, events out."""
        gateways.check_websocket(request)
        grant = self._may_stream(request)
        form = gateways.Form.parse(request.query)
        about = _about({name: value for name, value in request.query.items() if name in _ABOUT_PCM}, grant)
        with self._followed():
            call = self._note(request, self.calls.begin(**about))
            return await gateways.serve_pcm(request, call, form)

    async def media_stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /media-stream`, a WebSocket. Its token may come in the start message, since those who send
        media streams often can put it nowhere else."""
        gateways.check_websocket(request)
        self._check_origin(request)
        self._knock(request)

        def begin(start: Mapping[str, Any]) -> Call:
            parameters = start.get("customParameters")
            token = parameters.get("access_token") if isinstance(parameters, dict) else None
            query = {"access_token": token} if isinstance(token, str) else request.query
            grant = self._publisher(request, query)
            about = gateways.about_media_stream(start)
            call = self.calls.begin(label=grant.label or about["label"], metadata=about["metadata"])
            return self._note(request, call)

        with self._followed():
            return await gateways.serve_media_stream(request, begin)

    # -- calls -------------------------------------------------------------------------------------

    async def list_calls(self, request: web.Request) -> web.StreamResponse:
        label = self._may_listen(request).label
        calls = [call for call in self.calls.all() if label in (None, call.label)]
        return web.json_response({"calls": [call.snapshot() for call in calls]})

    async def show_call(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(_details(self._call(request, self._may_listen(request))))

    async def delete_call(self, request: web.Request) -> web.StreamResponse:
        call = self._call(request, self._may_publish(request))
        await self.calls.hang_up(call.id)
        return web.json_response(_details(call))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the history after `Last-Event-ID`, then live; ends after `session.end`."""
        call = self._call(request, self._may_listen(request))
        if len(self._following) >= MAX_LISTENERS:
            raise CallerError(
                503, "too_many_listeners", "Too many listeners", "Try again later.", retry_after_s=10
            )
        last = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or "-1"
        if not re.fullmatch(r"-?\d{1,9}", last):
            raise bad_request("Last-Event-ID is the seq of an event.")
        response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        self._allow(request, response)
        await response.prepare(request)
        with self._followed():
            await _stream(call, int(last), response)
        return response

    async def text(self, request: web.Request) -> web.StreamResponse:
        """Captions and transcripts, at any time of the call."""
        call, name = self._call(request, self._may_listen(request)), request.match_info["name"]
        render = captions.RENDERERS.get(name)
        if render is None:
            raise CallerError(404, "not_found", "Not found", f"A call has {', '.join(captions.RENDERERS)}.")
        headers = {"Cache-Control": "no-store"}
        history = call.feed.history
        if len(history) < AT_ONCE:
            text = render(history)
        else:  # in a thread, since calls must not wait for it
            text = await asyncio.to_thread(render, history)
        return web.Response(text=text, content_type=_TYPES[name], charset="utf-8", headers=headers)

    # -- the server --------------------------------------------------------------------------------

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok", "version": __version__})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        if self._embedded is not None and not self._embedded.is_ready:
            raise CallerError(
                503, "not_ready", "Not ready", "The recogniser is being loaded.", retry_after_s=2
            )
        return web.json_response({"status": "ready", "stt": self.calls.stt.name})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": Metrics.CONTENT_TYPE})

    # -- what they share ---------------------------------------------------------------------------

    def _callers_ice_servers(self) -> list[IceServer]:
        """Browsers refuse the whole list when a TURN server in it has no login."""
        return [one for one in self._ice_servers() if one.username or not one.url.startswith("turn")]

    def _link_ice_servers(self, response: web.Response) -> None:
        for server in self._callers_ice_servers():
            response.headers.add("Link", whip.ice_link(server))

    def _may_publish(self, request: web.Request) -> Grant:
        self._check_origin(request)
        grant = self._publisher(request, {})
        if request.method == "POST":
            self._knock(request)
        return grant

    def _may_stream(self, request: web.Request) -> Grant:
        """Browsers send no headers of one's own with a WebSocket, so the token may be in the query."""
        self._check_origin(request)
        grant = self._publisher(request, request.query)
        self._knock(request)
        return grant

    def _publisher(self, request: web.Request, query: Mapping[str, str]) -> Grant:
        grant = self._authenticator.admit(request.headers, query)
        if not grant.may_publish:
            raise CallerError(403, "forbidden", "Forbidden", "This token is not for placing calls.")
        return grant

    def _knock(self, request: web.Request) -> None:
        self._rate_limiter.check(self._caller(request), asyncio.get_running_loop().time())

    def _caller(self, request: web.Request) -> str:
        forwarded_for, forwarded = (
            request.headers.getall(name, []) for name in ("X-Forwarded-For", "Forwarded")
        )
        return addresses.caller(request.remote or "", forwarded_for, forwarded, self._trusted)

    def _note(self, request: web.Request, call: Call) -> Call:
        log.info("call %s: from %s", call.id, self._caller(request))
        return call

    @contextlib.contextmanager
    def _followed(self) -> Iterator[None]:
        """While the request lasts, the end of the server waits a little for it."""
        task = asyncio.current_task()
        assert task is not None
        self._following.add(task)
        try:
            yield
        finally:
            self._following.discard(task)

    def _may_listen(self, request: web.Request) -> Grant:
        grant = self._authenticator.admit(request.headers, request.query)
        if not grant.may_listen:
            raise CallerError(403, "forbidden", "Forbidden", "This token is not for listening.")
        return grant

    def _call(self, request: web.Request, grant: Grant) -> Call:
        return self._visible(self.calls.find(request.match_info["id"]), grant)

    def _visible(self, call: Call, grant: Grant) -> Call:
        """Who has a token for one label gets to know of no other call."""
        if grant.label not in (None, call.label):
            raise no_such_call()
        return call

    def _check_origin(self, request: web.Request) -> None:
        """A browser tells whose page it is that asks. Pages of strangers may not act, though browsers let
        some of their requests through unasked."""
        origin = request.headers.get("Origin")
        listed = origin in self._origins or "*" in self._origins
        if origin is not None and not listed and _host_of(origin) != request.host:
            message = "This page's origin is not in the list of those that may call (--allow-origin)."
            raise CallerError(403, "origin_not_allowed", "Origin not allowed", message)

    def _static(self, name: str) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            return web.FileResponse(STATIC / name, headers={"Cache-Control": "no-cache"})

        return serve

    def _allow(self, request: web.Request, response: web.StreamResponse) -> None:
        """Pages of the origins in the list may read the answer (and WHIP clients its Location)."""
        origin = request.headers.get("Origin")
        if origin is None or not (origin in self._origins or "*" in self._origins):
            return
        response.headers.setdefault("Access-Control-Allow-Origin", origin)
        response.headers.setdefault("Access-Control-Expose-Headers", _EXPOSED)
        response.headers.add("Vary", "Origin")
        if request.method == "OPTIONS":
            response.headers.setdefault("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE, OPTIONS")
            allowed = "Authorization, Content-Type, If-Match, Last-Event-ID"
            response.headers.setdefault("Access-Control-Allow-Headers", allowed)
            response.headers.setdefault("Access-Control-Max-Age", "600")

    @property
    def _cross_origin(self) -> Any:
        @web.middleware
        async def cross_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            if not response.prepared:
                self._allow(request, response)
            return response

        return cross_origin

    async def _shut(self, app: web.Application) -> None:
        await self.calls.close()
        if self._following:
            await asyncio.wait(self._following, timeout=2.0)


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _etag(call: Call) -> str:
    """Of its ICE session, which is never restarted."""
    return f'"{call.id}"'


def _details(call: Call) -> dict[str, Any]:
    """A call as `GET /calls/ID` shows it: numbers, and what was said."""
    return {**call.snapshot(), "turns": captions.transcript(call.feed.history)["turns"]}


async def _stream(call: Call, after: int, response: web.StreamResponse) -> None:
    """Write events as they come, and a comment now and then so that proxies keep the line open."""
    feed = aiter(call.feed.subscribe(after=after))
    following: asyncio.Task[Any] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(feed, None))
            await asyncio.wait({following}, timeout=HEARTBEAT_S)
            if not following.done():
                await _write(response, b": still here\n\n")
                continue
            event, following = following.result(), None
            if event is None:
                break
            text = f"id: {event.seq}\nevent: message\ndata: {event.to_json()}\n\n"
            await _write(response, text.encode())
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        pass  # the listener has left, or does not read
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(UNREAD_S):
        await response.write(data)


async def _limited(request: web.Request) -> bytes:
    """The body, of at most `MAX_OFFER` bytes."""
    if BODY in request:  # to find out whom it is for it was read already
        read: bytes = request[BODY]
        return read
    if (request.content_length or 0) > MAX_OFFER:
        raise _too_big()
    body = bytearray()
    async for chunk in request.content.iter_chunked(1 << 14):
        body += chunk
        if len(body) > MAX_OFFER:
            raise _too_big()
    return bytes(body)


def _too_big() -> CallerError:
    return CallerError(413, "offer_too_big", "Offer too big", f"At most {MAX_OFFER >> 10} kB are taken.")


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise bad_request("The body is not JSON.", "bad_json") from None
    if not isinstance(value, dict):
        raise bad_request("The body is not a JSON object.", "bad_json")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _about(body: dict[str, Any], grant: Grant) -> dict[str, Any]:
    """What an offer says of its call; `CallerError` 400 when something of it is wrong."""
    mode, label, metadata = body.get("mode"), body.get("label"), body.get("metadata")
    if mode not in (None, "auto", "manual"):
        raise bad_request("mode must be auto or manual.", "unknown_mode")
    if label is not None and not (isinstance(label, str) and len(label) <= 200):
        raise bad_request("label must be a text of at most 200 characters.")
    if metadata is not None and not isinstance(metadata, dict):
        raise bad_request("metadata must be an object.")
    options: dict[str, Any] = {} if mode is None else {"mode": mode}
    if "turn" in body:
        options["turn"] = turn_settings(body["turn"])
    if "keyterms" in body:
        options["keyterms"] = _keyterms(body["keyterms"])
    if "language" in body:
        options["language"] = _language(body["language"])
    return {"label": grant.label or label, "metadata": metadata, "options": options}


def _keyterms(terms: Any) -> tuple[str, ...]:
    if not isinstance(terms, list) or not all(isinstance(term, str) and term for term in terms):
        raise bad_request("keyterms must be a list of texts.")
    if len(terms) > MAX_KEYTERMS or sum(map(len, terms)) > MAX_KEYTERM_CHARACTERS:
        raise bad_request(
            f"At most {MAX_KEYTERMS} key terms of {MAX_KEYTERM_CHARACTERS} characters in all are taken."
        )
    return tuple(terms)


def _language(code: Any) -> str:
    if not isinstance(code, str) or not re.fullmatch(r"[a-z]{2,3}", code):
        raise bad_request("language must be an ISO 639 code such as en.")
    return code
