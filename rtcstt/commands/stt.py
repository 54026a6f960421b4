"""`rtcstt stt`: the embedded speech-to-text server alone."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from aiohttp import web

from rtcstt.embedded import DEFAULT_MODEL, MODEL_NAMES, Embedded, heap
from rtcstt.embedded.http.auth import Keys
from rtcstt.embedded.http.routes import add_routes
from rtcstt.embedded.http.speech import Speaker
from rtcstt.embedded.http.upload import MAX_UPLOAD
from rtcstt.errors import ConfigError
from rtcstt.http import is_loopback, refusals, run_until_stopped

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
        "--key-file", type=Path, metavar="FILE", help="API keys, one a line; needed off loopback"
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
    keys = Keys.read(args.key_file) if args.key_file else Keys()
    if not keys.required and not is_loopback(args.host):
        raise ConfigError(f"without --key-file only loopback is served, not {args.host}")
    speaker = Speaker() if args.with_tts else None
    embedded = Embedded(args.model, max_streams=args.max_streams)
    for line in await embedded.describe():
        log.info(line)
    app = web.Application(middlewares=[refusals], client_max_size=MAX_UPLOAD)
    add_routes(app, embedded.preload, keys, speaker)
    app.router.add_get("/healthz", _healthy)
    try:
        await run_until_stopped(app, host=args.host, port=args.port)
    finally:
        await embedded.close()
    return 0


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
