"""`rtcstt serve`: settings become a server that runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from rtcstt.call import CallSettings, Recorder
from rtcstt.embedded import Embedded
from rtcstt.embedded.auth import Keys
from rtcstt.embedded.command import is_loopback
from rtcstt.errors import ConfigError
from rtcstt.peer import IceServer, PeerSettings
from rtcstt.server.access import Door, Knocks
from rtcstt.server.app import Web
from rtcstt.server.calls import Calls
from rtcstt.server.http import run_until_stopped
from rtcstt.server.settings import Settings, add_arguments, load
from rtcstt.upstream import Cartesia, Stt

__all__ = ["add_arguments", "application", "run"]

log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    asyncio.run(_serve(load(args, os.environ)))
    return 0


async def _serve(settings: Settings) -> None:
    async with application(settings, os.environ) as app:
        await run_until_stopped(app, host=settings.host, port=settings.port, tls=_tls(settings))


@asynccontextmanager
async def application(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[web.Application]:
    """The aiohttp application of these settings, its recogniser loaded; what it holds is let go after."""
    door = Door.open(settings.token_file, settings.jwt_secret_file)
    if not door.is_guarded and not is_loopback(settings.host):
        raise ConfigError(
            f"without --token-file only loopback is served, not {settings.host}: anybody could listen in"
        )
    embedded = Embedded(settings.model, max_streams=settings.max_streams)
    stt = _stt(settings.stt, embedded, environment)
    wants_embedded = stt is embedded or settings.fallback == "embedded"
    try:
        if wants_embedded:
            for line in await embedded.describe():
                log.info(line)
        calls = _calls(settings, stt, embedded if settings.fallback else None)
        face = Web(
            calls,
            door=door,
            knocks=Knocks(settings.offers_per_minute),
            origins=settings.allow_origin,
            ice_links=tuple(_ice_link(IceServer.parse(text)) for text in settings.ice_server),
            embedded=embedded if wants_embedded else None,
        )
        yield face.application(stt_keys=_stt_keys(settings, door))
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await embedded.close()


def _calls(settings: Settings, stt: Stt, fallback: Stt | None) -> Calls:
    return Calls(
        stt=stt,
        settings=CallSettings(
            mode="manual" if settings.mode == "manual" else "auto",
            keyterms=settings.keyterm,
            chunk_ms=settings.chunk_ms,
            fallback=fallback,
            patience_s=settings.patience_s,
            drain_timeout_s=settings.drain_timeout_s,
        ),
        peers=PeerSettings(
            ice_servers=tuple(IceServer.parse(text) for text in settings.ice_server),
            loopback=is_loopback(settings.host),
            dtx=settings.dtx,
        ),
        max_calls=settings.max_calls,
        max_call_s=settings.max_call_s,
        resume_grace_s=settings.resume_grace_s,
        recorder=_recorder(settings),
    )


def _recorder(settings: Settings) -> Callable[[str], Recorder] | None:
    return None


def _stt(name: str, embedded: Embedded, environment: Mapping[str, str]) -> Stt:
    if name == "embedded":
        return embedded
    key = environment.get("RTCSTT_STT_KEY") or environment.get("CARTESIA_API_KEY")
    return Cartesia(api_key=key, base_url=name)


def _stt_keys(settings: Settings, door: Door) -> Keys:
    """Who may use the STT endpoints themselves: who has a key for them, else who has a token."""
    if settings.stt_key_file is not None:
        return Keys.read(settings.stt_key_file)
    return Keys(door.tokens)


def _ice_link(server: IceServer) -> str:
    """RFC 9725 section 4.6."""
    link = f'<{server.url}>; rel="ice-server"'
    if server.username is not None:
        link += (
            f'; username="{server.username}"; credential="{server.credential}"; credential-type="password"'
        )
    return link


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate cannot be used: {error}") from error
    return context
