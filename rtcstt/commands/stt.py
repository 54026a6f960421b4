"""`rtcstt stt`: the embedded speech-to-text server alone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiohttp import web

from rtcstt.commands.models import OFFLINE, ensure
from rtcstt.embedded import DEFAULT_MODEL, MODEL_NAMES, Embedded, heap, processors
from rtcstt.embedded.http.limits import LIMITS
from rtcstt.embedded.http.routes import DRAIN_S, add_routes
from rtcstt.embedded.http.speech import Speaker
from rtcstt.embedded.hypothesis import Device
from rtcstt.errors import ConfigError
from rtcstt.fleet import parent
from rtcstt.fleet.member import Member, node_of
from rtcstt.fleet.placement import Load
from rtcstt.fleet.shares import access_secret, check_workers, count_of, share
from rtcstt.http import run_until_stopped
from rtcstt.http.access import Authenticator, Permission
from rtcstt.http.guard import Guard, Hosts, Route
from rtcstt.server.options import check_range, option
from rtcstt.wire import KEYTERM_STRENGTH, UPDATE_MS
from rtcstt.wire.hosts import is_loopback

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = option("127.0.0.1", "address to listen on; elsewhere than loopback keys are needed")
    port: int = option(9100, "port to listen on")
    model: str = option(DEFAULT_MODEL, MODEL_NAMES, metavar="NAME")
    max_streams: int | None = option(
        None, "streams at once; more are refused with 429 (default: measured)", metavar="N"
    )
    offline: bool = option(False, OFFLINE)
    device: str = option("cpu", "what it runs on", choices=("cpu", "cuda"))
    compute_type: str | None = option(
        None,
        "of Whisper models: int8, float16 and others (default: int8 on cpu, float16 on cuda)",
        metavar="NAME",
    )
    update_ms: float = option(
        500.0, "of speech between two updates of a turn's text; less costs more", metavar="MS"
    )
    keyterm_strength: float = option(1.0, "how strongly key terms are expected, 0 to 2", metavar="N")
    workers: str = option("1", "processes behind the one port, or auto: one for each processor", metavar="N")
    key_file: Path | None = option(None, "API keys, one a line; needed off loopback")
    allow_host: tuple[str, ...] = option(
        (), "name the server may be reached by, beside loopback's and --host; may be repeated", metavar="NAME"
    )
    with_tts: bool = option(
        False, "also make speech of text (POST /tts/bytes), for clients' examples; needs flite"
    )

    def __post_init__(self) -> None:
        check_range("port", self.port, (0, 65535))
        if self.max_streams is not None and self.max_streams < 1:
            raise ConfigError("max_streams must be at least 1")
        check_workers(self.workers)
        check_range("update_ms", self.update_ms, UPDATE_MS)
        check_range("keyterm_strength", self.keyterm_strength, KEYTERM_STRENGTH)


def run(options: Options) -> int:
    count = count_of(options.workers, processors.usable())
    authenticator_of(options)
    ensure(options.model, offline=options.offline)
    if count == 1:
        heap.one()
        asyncio.run(_serve(options, None))
        return 0
    plan = parent.Plan(
        count=count,
        entry=_work,
        settings=lambda index: _of_worker(options, index, count),
        host=options.host,
        port=options.port,
        scheme="http",
        stop_s=DRAIN_S,
    )
    return parent.run(plan)


def authenticator_of(options: Options, assignment: parent.Assignment | None = None) -> Authenticator:
    """Workers know each other's access tokens. `ConfigError` when anybody could use it."""
    secret = access_secret(assignment.secret) if assignment is not None else None
    authenticator = Authenticator.open(None, None, options.key_file, access_secret=secret)
    if not authenticator.is_guarded and not is_loopback(options.host):
        raise ConfigError(f"without --key-file only loopback is served, not {options.host}")
    return authenticator


def _of_worker(options: Options, index: int, count: int) -> Options:
    if options.max_streams is None:
        return options
    return replace(options, max_streams=share(options.max_streams, index, count))


def _work(assignment: parent.Assignment, options: Options) -> None:
    """One of the workers, in its process."""
    heap.one()
    processors.share(assignment.count)
    asyncio.run(_serve(options, assignment))


@dataclass(frozen=True, slots=True)
class _Here:
    """What this process holds, for the other workers: streams, and no calls."""

    embedded: Embedded

    def has(self, call: str) -> bool:
        return False

    def load(self) -> Load:
        streams, most = self.embedded.streams
        return Load(streams=streams, stream_capacity=most)


async def _serve(options: Options, assignment: parent.Assignment | None) -> None:
    speaker = Speaker() if options.with_tts else None
    embedded = Embedded(
        options.model,
        max_streams=options.max_streams,
        update_ms=options.update_ms,
        keyterm_strength=options.keyterm_strength,
        device=Device(options.device, options.compute_type),
        streams=options.max_streams or 4,
    )
    try:
        for line in await embedded.describe():
            log.info(line)
        hosts = Hosts([options.host, *options.allow_host])
        guard = Guard(authenticator_of(options, assignment), hosts=hosts)
        app = guard.application(client_max_size=LIMITS.upload)
        add_routes(app, embedded.preload, guard, speaker)
        guard.add_routes(app, _health())
        member = Member(_Here(embedded), node_of(assignment), new="stream", assignment=assignment)
        member.attach(app)
        heap.settle()
        await run_until_stopped(
            app,
            host=options.host,
            port=options.port,
            ready=member.ready,
            sockets=assignment.listeners if assignment else None,
            local=member.local_sockets(),
        )
    finally:
        await embedded.close()


def _health() -> list[Route]:
    """`/readyz` is for balancers, and answered before it comes here while no worker has room."""
    public = partial(Route, method="GET", permission=Permission.PUBLIC)
    return [
        public(path="/healthz", handler=_healthy, summary="Whether it runs"),
        public(path="/readyz", handler=_healthy, summary="Whether it takes streams"),
    ]


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
