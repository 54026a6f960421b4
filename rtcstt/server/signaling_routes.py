"""Placing calls: `POST /offer` and WHIP."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import TypedDict

from aiohttp import web

from rtcstt.call import Call, CallOptions
from rtcstt.errors import CallerError
from rtcstt.http.access import Grant, Permission
from rtcstt.http.bodies import checked_metadata, parse_object, read_body, too_big
from rtcstt.http.guard import GRANT, Route
from rtcstt.server import whip
from rtcstt.server.context import Context
from rtcstt.webrtc.connection import IceServer
from rtcstt.wire import (
    MAX_KEYTERM_CHARACTERS,
    MAX_KEYTERMS,
    UPDATE_MS,
    bad_request,
    check_language_code,
    turn_settings,
)

MAX_OFFER = 64 * 1024  # bytes of SDP: a browser's offer of ten tracks has 30 kB
MAX_BODY = MAX_OFFER * 5 // 4 + 16 * 1024  # JSON's escapes, and what else an offer says
MAX_FRAGMENT = 16 * 1024


class SignalingRoutes:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._calls = context.calls

    def table(self) -> list[Route]:
        publish = partial(Route, permission=Permission.PUBLISH)
        return [
            publish(method="POST", path="/offer", handler=self.offer, summary="Place a call"),
            publish(
                method="GET",
                path="/ice-servers",
                handler=self.ice_servers,
                summary="STUN and TURN servers for callers, with their logins",
            ),
            publish(method="POST", path="/whip", handler=self.whip, summary="Place a call (RFC 9725)"),
            Route(
                method="OPTIONS",
                path="/whip",
                handler=self.whip_options,
                permission=Permission.PUBLIC,
                summary="What may be posted; with a token the ICE servers too",
            ),
            Route(
                method="GET",
                path="/whip",
                handler=self.nothing,
                permission=Permission.PUBLIC,
                summary="Nothing (204)",
            ),
            publish(method="GET", path="/whip/{id}", handler=self.nothing, summary="Nothing (204)"),
            publish(method="PATCH", path="/whip/{id}", handler=self.patch, summary="Trickled candidates"),
        ]

    async def offer(self, request: web.Request) -> web.StreamResponse:
        """`POST /offer`: the convention of aiortc's examples, with the call's id in the answer."""
        self._context.check_offers(request)
        body = parse_object(await read_body(request, MAX_BODY, code="offer_too_big"))
        sdp = body.get("sdp")
        if body.get("type") != "offer" or not isinstance(sdp, str):
            raise bad_request('An offer is {"type": "offer", "sdp": "v=0..."}.', "bad_offer")
        if len(sdp) > MAX_OFFER:
            raise too_big(MAX_OFFER, "offer_too_big")
        grant, by = request[GRANT], self._context.requester(request)
        resumed = _text(body, "call")
        if resumed is not None:
            given = body.get("resume")
            secret = given if isinstance(given, str) else None  # what is no text is not the call's secret
            self._context.visible(self._calls.find(resumed), grant)
            call, answer = await self._calls.resume(resumed, sdp, by=by, secret=secret)
        else:
            _text(body, "resume")
            call, answer = await self._calls.place(sdp, by=by, **about(body, grant))
        self._context.note(request, call)
        entry = self._calls.entry(call.id)
        answered: dict[str, object] = {"sdp": answer, "type": "answer"}
        answered |= {"call": call.id, "resume": entry.secret}
        if entry.peer is not None and (refused := entry.peer.refused):
            answered["refused"] = refused  # why, by mid
        return web.json_response(answered)

    async def whip(self, request: web.Request) -> web.StreamResponse:
        """`POST /whip` (RFC 9725): SDP in, SDP out, and a resource to end the session at."""
        self._context.check_offers(request)
        whip.check_offer(request.content_type, request.headers.get("Accept", "*/*"))
        sdp = (await read_body(request, MAX_OFFER, code="offer_too_big")).decode("utf-8", "replace")
        by, query = self._context.requester(request), request.query
        if (resumed := query.get("call")) is not None:  # its server died, or drains
            self._context.visible(self._calls.find(resumed), request[GRANT])
            call, answer = await self._calls.resume(resumed, sdp, by=by, secret=query.get("resume"))
        else:
            call, answer = await self._calls.place(sdp, by=by, **about(dict(query), request[GRANT]))
        self._context.note(request, call)
        # As bytes, since aiohttp adds a charset to text: application/sdp has no parameters (RFC 8866).
        response = web.Response(status=201, body=answer.encode(), content_type=whip.OFFER)
        response.headers["Location"] = f"/whip/{call.id}"
        response.headers["ETag"] = _etag(call)
        response.headers["Accept-Patch"] = whip.FRAGMENT
        self._link_ice_servers(response)
        response.headers.add("Link", f'</calls/{call.id}/events>; rel="urn:rtcstt:events"')
        return response

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """Trickle ICE (RFC 9725 section 4.3.2). ICE restarts are not supported: aiortc knows none."""
        self._context.check_patches(request)
        call = self._context.find(request)
        if call.state == "closed":
            raise CallerError(404, "call_ended", "The call has ended", "There is nothing left to connect.")
        whip.check_fragment(request.content_type)
        whip.check_match(request.headers.get("If-Match"), _etag(call))
        fragment = (await read_body(request, MAX_FRAGMENT)).decode("utf-8", "replace")
        peer = self._calls.entry(call.id).peer
        if peer is not None:
            peer.add_candidates(fragment)
        return web.Response(status=204)

    async def whip_options(self, request: web.Request) -> web.StreamResponse:
        """What may be posted; and the ICE servers for clients that must know them before they offer. Never on
        a browser's preflight, which shows no token (RFC 9725 section 4.6)."""
        response = web.Response(headers={"Accept-Post": whip.OFFER})
        if "Access-Control-Request-Method" not in request.headers:
            with contextlib.suppress(CallerError):
                self._context.guard.authenticate(request, Permission.PUBLISH)
                self._link_ice_servers(response)
        return response

    async def ice_servers(self, request: web.Request) -> web.StreamResponse:
        """`GET /ice-servers`: the configuration of a browser's RTCPeerConnection."""
        servers = [whip.ice_configuration(server) for server in self._callers_ice_servers()]
        return web.json_response({"iceServers": servers})

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        """`GET` on WHIP's endpoint and sessions, which have no representation (RFC 9725 section 4.1)."""
        if "id" in request.match_info:
            self._context.find(request)
        return web.Response(status=204)

    def _callers_ice_servers(self) -> list[IceServer]:
        """Browsers refuse the whole list when a TURN server in it has no login."""
        servers = self._context.ice_servers()
        return [one for one in servers if one.username or not one.url.startswith("turn")]

    def _link_ice_servers(self, response: web.Response) -> None:
        for server in self._callers_ice_servers():
            response.headers.add("Link", whip.ice_link(server))


class About(TypedDict):
    """What who places a call says of it."""

    label: str | None
    metadata: Mapping[str, object] | None
    options: CallOptions


def about(body: Mapping[str, object], grant: Grant) -> About:
    """What an offer says of its call; `CallerError` 400 when something of it is wrong."""
    mode, label, metadata = body.get("mode"), body.get("label"), body.get("metadata")
    if mode not in (None, "auto", "manual"):
        raise bad_request("mode must be auto or manual.", "unknown_mode")
    if label is not None and not (isinstance(label, str) and len(label) <= 200):
        raise bad_request("label must be a text of at most 200 characters.")
    options: CallOptions = {} if mode is None else {"mode": mode}
    if "turn" in body:
        options["turn"] = turn_settings(body["turn"])
    if "keyterms" in body:
        options["keyterms"] = _keyterms(body["keyterms"])
    if "language" in body:
        options["language"] = check_language_code(body["language"])
    if "update_ms" in body:
        options["update_ms"] = _update_ms(body["update_ms"])
    return {
        "label": grant.label or label,
        "metadata": None if metadata is None else checked_metadata(metadata),
        "options": options,
    }


def _keyterms(terms: object) -> tuple[str, ...]:
    if not isinstance(terms, list) or not all(isinstance(term, str) and term for term in terms):
        raise bad_request("keyterms must be a list of texts.")
    if len(terms) > MAX_KEYTERMS or sum(map(len, terms)) > MAX_KEYTERM_CHARACTERS:
        raise bad_request(
            f"At most {MAX_KEYTERMS} key terms of {MAX_KEYTERM_CHARACTERS} characters in all are taken."
        )
    return tuple(terms)


def _update_ms(value: object) -> float:
    low, high = UPDATE_MS
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise bad_request(f"update_ms must be a number from {low:g} to {high:g}.")
    return float(value)


def _text(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} must be a text.")
    return value


def _etag(call: Call) -> str:
    """Of its ICE session, which is never restarted."""
    return f'"{call.id}"'
