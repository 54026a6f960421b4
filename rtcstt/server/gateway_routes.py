"""Gateways' WebSockets: `GET /pcm` and `GET /media-stream`."""

from __future__ import annotations

from aiohttp import web

from rtcstt.call import Call
from rtcstt.http.access import Permission
from rtcstt.http.guard import GRANT, Route
from rtcstt.server import gateways
from rtcstt.server.context import Context
from rtcstt.server.media_formats import Start, Stated
from rtcstt.server.signaling_routes import about

_ABOUT_PCM = ("mode", "label", "language")


class GatewayRoutes:
    def __init__(self, context: Context, timing: gateways.Timing) -> None:
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
            call = self._begun(request, stated)
            self._context.note(request, call)
            return await gateways.serve_pcm(
                request, call, stated, self._context.calls.admit_tracks, self._timing
            )

    def _begun(self, request: web.Request, stated: Stated) -> Call:
        """A new call, or with ``?call=ID`` one whose server died, which goes on here."""
        calls, by, query = self._context.calls, self._context.requester(request), request.query
        if (resumed := query.get("call")) is not None:
            self._context.visible(calls.find(resumed), request[GRANT])
            return calls.entry(resumed).rejoin(by, query.get("resume"))
        told = {name: value for name, value in query.items() if name in _ABOUT_PCM}
        return calls.begin(by=by, tracks=stated.channels or 1, **about(told, request[GRANT]))

    async def media_stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /media-stream`, a WebSocket. Its token may come in the start message, since those who send
        media streams often can put it nowhere else."""
        gateways.check_websocket(request)
        self._context.check_offers(request)

        stated = Stated.of_query(request.query)

        def begin(start: Start) -> Call:
            token = start.parameters.get("access_token")
            given = token if isinstance(token, str) else None
            grant = self._context.guard.authenticate(request, Permission.PUBLISH, given)
            call = self._context.calls.begin(
                by=self._context.requester(request, grant),
                tracks=start.tracks,
                label=grant.label or start.about.label,
                metadata=start.about.metadata,
            )
            return self._context.note(request, call)

        with self._context.followed():
            return await gateways.serve_media_stream(
                request, begin, self._context.calls.admit_tracks, stated, self._timing
            )
