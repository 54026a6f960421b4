"""`rtcstt stt`: the embedded speech-to-text server alone."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable
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
from rtcstt.wire import KEYTERM_STRENGTH, UPDATE_MS

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=9100, help="port to listen on (9100)")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help=MODEL_NAMES)
    parser.add_argument(
        "--max-streams",
        type=int,
        metavar="N",
        help="streams at once; more are refused with 429 (default: measured)",
    )
    parser.add_argument(
        "--update-ms",
        type=_between(*UPDATE_MS),
        default=500.0,
        metavar="MS",
        help="of speech between two updates of a turn's text; less costs more (500)",
    )
    parser.add_argument(
        "--keyterm-strength",
        type=_between(*KEYTERM_STRENGTH),
        default=1.0,
        metavar="N",
        help="how strongly key terms are expected, 0 to 2 (1)",
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="API keys, one a line; needed off loopback"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name the server may be reached by, beside loopback's and --host; may be repeated",
    )
    parser.add_argument(
        "--with-tts",
        action="store_true",
        help="also make speech of text (POST /tts/bytes), for clients' examples; needs flite",
    )


def run(args: argparse.Namespace) -> int:
    heap.one()
    return asyncio.run(_serve(args))


async def _serve(args: argparse.Namespace) -> int:
    authenticator = Authenticator.open(None, None, args.key_file)
    if not authenticator.is_guarded and not is_loopback(args.host):
        raise ConfigError(f"without --key-file only loopback is served, not {args.host}")
    speaker = Speaker() if args.with_tts else None
    embedded = Embedded(
        args.model,
        max_streams=args.max_streams,
        update_ms=args.update_ms,
        keyterm_strength=args.keyterm_strength,
    )
    for line in await embedded.describe():
        log.info(line)
    guard = Guard(authenticator, hosts=Hosts([args.host, *args.allow_host]))
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
        await run_until_stopped(app, host=args.host, port=args.port)
    finally:
        await embedded.close()
    return 0


def _between(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}")
        return value

    return number


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
