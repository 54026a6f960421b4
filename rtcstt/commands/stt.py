"""`rtcstt stt`: the embedded speech-to-text server alone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from rtcstt.embedded import DEFAULT_MODEL, MODEL_NAMES, Embedded, heap
from rtcstt.embedded.http.routes import add_routes
from rtcstt.embedded.http.speech import Speaker
from rtcstt.embedded.http.upload import MAX_UPLOAD
from rtcstt.errors import ConfigError
from rtcstt.http import is_loopback, run_until_stopped
from rtcstt.http.access import Authenticator, Permission
from rtcstt.http.guard import Guard, Hosts, Route
from rtcstt.server.options import check_range, option
from rtcstt.wire import KEYTERM_STRENGTH, UPDATE_MS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = option("127.0.0.1", "address to listen on; elsewhere than loopback keys are needed")
    port: int = option(9100, "port to listen on")
    model: str = option(DEFAULT_MODEL, MODEL_NAMES, metavar="NAME")
    max_streams: int | None = option(
        None, "streams at once; more are refused with 429 (default: measured)", metavar="N"
    )
    update_ms: float = option(
        500.0, "of speech between two updates of a turn's text; less costs more", metavar="MS"
    )
    keyterm_strength: float = option(1.0, "how strongly key terms are expected, 0 to 2", metavar="N")
    key_file: Path | None = option(None, "API keys, one a line; needed off loopback")
    allow_host: tuple[str, ...] = option(
        (), "name the server may be reached by, beside loopback's and --host; may be repeated", metavar="NAME"
    )
    with_tts: bool = option(
        False, "also make speech of text (POST /tts/bytes), for clients' examples; needs flite"
    )

    def __post_init__(self) -> None:
        check_range("update_ms", self.update_ms, UPDATE_MS)
        check_range("keyterm_strength", self.keyterm_strength, KEYTERM_STRENGTH)


def run(options: Options) -> int:
    heap.one()
    return asyncio.run(_serve(options))


async def _serve(options: Options) -> int:
    authenticator = Authenticator.open(None, None, options.key_file)
    if not authenticator.is_guarded and not is_loopback(options.host):
        raise ConfigError(f"without --key-file only loopback is served, not {options.host}")
    speaker = Speaker() if options.with_tts else None
    embedded = Embedded(
        options.model,
        max_streams=options.max_streams,
        update_ms=options.update_ms,
        keyterm_strength=options.keyterm_strength,
    )
    for line in await embedded.describe():
        log.info(line)
    guard = Guard(authenticator, hosts=Hosts([options.host, *options.allow_host]))
    app = guard.application(client_max_size=MAX_UPLOAD)
    add_routes(app, embedded.preload, guard, speaker)
    health = Route(
        method="GET",
        path="/healthz",
        handler=_healthy,
        permission=Permission.PUBLIC,
        summary="Whether it runs",
    )
    guard.add_routes(app, [health])
    try:
        await run_until_stopped(app, host=options.host, port=options.port)
    finally:
        await embedded.close()
    return 0


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
