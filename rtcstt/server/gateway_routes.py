"""Gateways' WebSockets: `GET /pcm` and `GET /media-stream`."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from rtcstt.call import Call
from rtcstt.errors import bad_request
from rtcstt.http.access import Permission
from rtcstt.http.guard import GRANT, Route
from rtcstt.server import gateways
from rtcstt.server.context import Context
from rtcstt.server.intake import Timing
from rtcstt.server.media_formats import MAX_ID, Start
from rtcstt.server.returning import admit_tracks, attach, gateway_key, rejoin
from rtcstt.server.signaling_routes import about
from rtcstt.server.stated_formats import Stated

_ABOUT_PCM = ("mode", "label", "language")


class GatewayRoutes:
    def __init__(self, context: Context, timing: Timing) -> None:
        self._context = context
        self._timing = timing

    def table(self) -> list[Route]:
        return [
            Route(
                method="GET",
                path="/pcm",
                handler=self.pcm,
                permission=Permission.PUBLISH,
                summary="WebSocket: a gateway's audio in, events out",
            ),
            Route(
                method="GET",
                path="/media-stream",
                handler=self.media_stream,
                permission=Permission.PUBLISH,
                summary="WebSocket: a gateway's audio in JSON",
                in_message=True,
            ),
        ]

    async def pcm(self, request: web.Request) -> web.StreamResponse:
        """`GET /pcm`, a WebSocket: binary PCM in, events out."""
        gateways.check_websocket(request)
        self._context.check_offers(request)
        stated = Stated.of_query(request.query)
        with self._context.followed():
            call = await self._begun(request, stated)
            self._context.note(request, call)
            calls = self._context.calls
            return await gateways.serve_pcm(
                request, call, partial(attach, calls), stated, partial(admit_tracks, calls), self._timing
            )

    async def _begun(self, request: web.Request, stated: Stated) -> Call:
        """A new call, or with ``?call=ID`` (rtcstt's) or ``?session=ID`` (the gateway's own) the one that has
        lost this gateway or its server."""
        calls, by, query = self._context.calls, self._context.requester(request), request.query
        if (resumed := query.get("call")) is not None:
            self._context.visible(calls.find(resumed), request[GRANT])
            return calls.entry(resumed).rejoin(by, query.get("resume"))
        key = None
        if (session := query.get("session")) is not None:
            if not 1 <= len(session) <= MAX_ID:
                raise bad_request(f"session is to have 1 to {MAX_ID} characters.")
            key = gateway_key(by, "session", session)
            if (call := await rejoin(calls, key, by)) is not None:
                return self._context.visible(call, request[GRANT])
        told = {name: value for name, value in query.items() if name in _ABOUT_PCM}
        return calls.begin(by=by, tracks=stated.channels or 1, key=key, **about(told, request[GRANT]))

    async def media_stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /media-stream`, a WebSocket. Its token may come in the start message, since those who send
        media streams often can put it nowhere else."""
        gateways.check_websocket(request)
        self._context.check_offers(request)

        stated = Stated.of_query(request.query)

        calls = self._context.calls

        async def begin(start: Start) -> Call:
            token = start.parameters.get("access_token")
            given = token if isinstance(token, str) else None
            grant = self._context.guard.authenticate(request, Permission.PUBLISH, given)
            by, key = self._context.requester(request, grant), None
            if start.id is not None:
                key = gateway_key(by, "media stream", start.id)
                # A telephone call may be streamed several times at once.
                if (call := await rejoin(calls, key, by, several=True)) is not None:
                    return self._context.note(request, self._context.visible(call, grant))
            call = calls.begin(
                by=by,
                tracks=start.tracks,
                label=grant.label or start.about.label,
                metadata=start.about.metadata,
                key=key,
            )
            return self._context.note(request, call)

        with self._context.followed():
            return await gateways.serve_media_stream(
                request, begin, partial(attach, calls), partial(admit_tracks, calls), stated, self._timing
            )
