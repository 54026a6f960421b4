"""The HTTP side of rtcstt: the page, and every other route of a server in one application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from rtcstt.embedded import Embedded
from rtcstt.embedded.http.limits import LIMITS
from rtcstt.embedded.http.routes import add_routes
from rtcstt.errors import CallerError
from rtcstt.http.access import Permission
from rtcstt.http.errors import Handler
from rtcstt.http.guard import Route
from rtcstt.http.loop_monitor import Stalls, watch
from rtcstt.server.calls_routes import CallsRoutes
from rtcstt.server.context import Context
from rtcstt.server.gateway_routes import GatewayRoutes
from rtcstt.server.intake import TIMING, Timing
from rtcstt.server.metrics import Metrics
from rtcstt.server.signaling_routes import SignalingRoutes

STATIC = Path(__file__).parent / "static"


class Web:
    """One server's routes. ``embedded``: the recogniser whose own endpoints are served as well;
    ``timing``: of gateways."""

    def __init__(
        self, context: Context, *, embedded: Embedded | None = None, timing: Timing = TIMING
    ) -> None:
        self.context = context
        self._timing = timing
        self._embedded = embedded
        self._stalls = Stalls()
        self._metrics = Metrics(context.calls, self._stalls, context.guard)

    def application(self) -> web.Application:
        guard = self.context.guard
        app = guard.application(client_max_size=LIMITS.upload)
        guard.add_routes(app, self._pages())
        guard.add_routes(app, SignalingRoutes(self.context).table())
        guard.add_routes(app, GatewayRoutes(self.context, self._timing).table())
        guard.add_routes(app, CallsRoutes(self.context).table())
        guard.add_routes(app, self._about_the_server())
        if self._embedded is not None:
            add_routes(app, self._embedded.preload, guard, streams=self.context.calls.streams)
        app.cleanup_ctx.append(self._watched)
        app.on_shutdown.append(self._shut)
        return app

    def _pages(self) -> list[Route]:
        """The page and its files; those beside it also under `/`, where other pages import them from."""
        paths = {"/": "index.html"}
        for file in sorted(path for path in STATIC.rglob("*") if path.is_file()):
            name = file.relative_to(STATIC).as_posix()
            paths |= {f"/static/{name}": name} | ({f"/{name}": name} if "/" not in name else {})
        return [
            Route(
                method=method,
                path=path,
                handler=_static(name),
                permission=Permission.PUBLIC,
                summary="The page" if path == "/" else "A file of the page",
            )
            for path, name in paths.items()
            for method in ("GET", "HEAD")
        ] + [
            Route(
                method="GET",
                path="/watch/{id}",
                handler=_static("watch.html"),
                permission=Permission.LISTEN,
                summary="The page to read a call along",
            )
        ]

    def _about_the_server(self) -> list[Route]:
        return [
            Route(
                method="GET",
                path="/healthz",
                handler=self.healthz,
                permission=Permission.PUBLIC,
                summary="Whether the server runs",
            ),
            Route(
                method="GET",
                path="/readyz",
                handler=self.readyz,
                permission=Permission.PUBLIC,
                summary="Whether it takes calls",
            ),
            Route(
                method="GET",
                path="/metrics",
                handler=self.metrics,
                permission=Permission.MONITOR,
                summary="Counters, for Prometheus",
            ),
        ]

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        if self._embedded is not None and not self._embedded.is_ready:
            raise CallerError(
                503, "not_ready", "Not ready", "The recogniser is being loaded.", retry_after_s=2
            )
        return web.json_response({"status": "ready", "stt": self.context.calls.stt.name})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": Metrics.CONTENT_TYPE})

    async def _watched(self, app: web.Application) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch(self._stalls))
        yield
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    async def _shut(self, app: web.Application) -> None:
        await self.context.calls.close()
        if self.context.following:
            await asyncio.wait(self.context.following, timeout=2.0)


def _static(name: str) -> Handler:
    headers = {"Cache-Control": "no-cache"}
    if name.endswith(".ts"):
        headers["Content-Type"] = "text/plain; charset=utf-8"  # no MIME type of TypeScript's is registered

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / name, headers=headers)

    return serve
