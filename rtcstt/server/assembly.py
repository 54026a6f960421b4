"""`rtcstt serve`: settings become a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from rtcstt.call import CallSettings
from rtcstt.embedded import Embedded
from rtcstt.embedded.http.auth import Keys
from rtcstt.embedded.service import configured_language
from rtcstt.errors import ConfigError
from rtcstt.fleet.member import Member
from rtcstt.fleet.parent import Assignment
from rtcstt.fleet.placement import Load
from rtcstt.http import is_loopback
from rtcstt.recordings import Recordings
from rtcstt.server import audiosocket
from rtcstt.server.access import Authenticator, RateLimiter, read_lines
from rtcstt.server.addresses import Networks
from rtcstt.server.app import Web
from rtcstt.server.calls import Calls, Limits
from rtcstt.server.settings import Settings
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.seam import Stt
from rtcstt.webrtc.candidates import DENIED_BY_DEFAULT
from rtcstt.webrtc.connection import IceServer, PeerSettings

log = logging.getLogger(__name__)

TURN_LOGIN_S = 12 * 3600.0


@asynccontextmanager
async def application(
    settings: Settings, environment: Mapping[str, str], assignment: Assignment | None = None
) -> AsyncIterator[web.Application]:
    """The aiohttp application of these settings, its recogniser loaded; what it holds is let go after.
    ``assignment``: of one worker of several."""
    check(settings, environment)
    authenticator = Authenticator.open(settings.token_file, settings.jwt_secret_file)
    try:
        trusted = Networks(settings.trusted_proxy)
    except ValueError as error:
        raise ConfigError(f"trusted_proxy: {error}") from error
    sockets = (
        audiosocket.Address.parse(settings.audiosocket, settings.audiosocket_from)
        if settings.audiosocket is not None
        else None
    )
    recordings = Recordings(settings.record) if settings.record is not None else None
    embedded = Embedded(settings.model, max_streams=settings.max_streams)
    stt = _stt(settings, embedded, environment)
    wants_embedded = stt is embedded or settings.fallback == "embedded"
    try:
        max_calls = settings.max_calls
        if wants_embedded:
            for line in await embedded.describe():
                log.info(line)
            service = await embedded.preload()
            configured_language(settings.language, service.recognizer.languages)
            if stt is embedded and service.max_streams is not None:
                max_calls = min(max_calls, service.max_streams)  # a call more would not be received
        log.info("calls at once: %d", max_calls)
        ice_servers = _ice_servers(settings)
        fallback = embedded if settings.fallback else None
        worker = assignment.index if assignment is not None else None
        calls = _calls(settings, max_calls, stt, fallback, ice_servers, recordings, worker)
        face = Web(
            calls,
            authenticator=authenticator,
            rate_limiter=RateLimiter(settings.offers_per_minute),
            origins=settings.allow_origin,
            ice_servers=ice_servers,
            embedded=embedded if wants_embedded else None,
            trusted=trusted,
        )
        app = face.application(stt_keys=_stt_keys(settings, authenticator))
        if sockets is not None:
            app.cleanup_ctx.append(audiosocket.during(calls, sockets, reuse_port=assignment is not None))
        here = _Here(calls, embedded if wants_embedded else None)
        member = Member(here, lambda: calls.drain(settings.drain_s), assignment)
        calls.on_changed = member.publish
        member.attach(app)
        yield app
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await embedded.close()
        if recordings is not None:
            recordings.close()


def check(settings: Settings, environment: Mapping[str, str]) -> None:
    """`ConfigError` for what can be known to be wrong before anything is loaded."""
    authenticator = Authenticator.open(settings.token_file, settings.jwt_secret_file)
    if not authenticator.is_guarded and not is_loopback(settings.host):
        raise ConfigError(
            f"without --token-file only loopback is served, not {settings.host}: anybody could listen in"
        )


@dataclass(frozen=True, slots=True)
class _Here:
    """What this process holds, for the other workers."""

    calls: Calls
    embedded: Embedded | None

    def has(self, call: str) -> bool:
        return self.calls.has(call)

    def load(self) -> Load:
        streams, most = self.embedded.streams if self.embedded is not None else (0, 0)
        return Load(
            calls=self.calls.open,
            capacity=self.calls.capacity,
            streams=streams,
            stream_capacity=most,
            draining=self.calls.stopping,
        )


def _calls(
    settings: Settings,
    max_calls: int,
    stt: Stt,
    fallback: Stt | None,
    ice_servers: Callable[[], tuple[IceServer, ...]],
    recordings: Recordings | None,
    worker: int | None,
) -> Calls:
    def peers() -> PeerSettings:
        return PeerSettings(
            ice_servers=ice_servers(),
            loopback=is_loopback(settings.host),
            public_ip=settings.public_ip,
            ports=settings.ports,
            deny_peers=settings.deny_peer or DENIED_BY_DEFAULT,
            dtx=settings.dtx,
        )

    peers()  # settings that cannot be are told now
    return Calls(
        stt=stt,
        settings=CallSettings(
            mode="manual" if settings.mode == "manual" else "auto",
            turn=settings.turn,
            keyterms=settings.keyterm,
            language=settings.language,
            chunk_ms=settings.chunk_ms,
            fallback=fallback,
            patience_s=settings.patience_s,
            drain_timeout_s=settings.drain_timeout_s,
        ),
        peers=peers,
        limits=Limits(
            max_calls=max_calls,
            max_call_s=settings.max_call_s,
            idle_s=settings.idle_timeout_s,
            resume_grace_s=settings.resume_grace_s,
            keep_ended_s=settings.keep_ended_s,
        ),
        recordings=recordings,
        worker=worker,
    )


def _ice_servers(settings: Settings) -> Callable[[], tuple[IceServer, ...]]:
    """The ICE servers; TURN servers without a password get one for a while, where there is a secret to make
    it from (the TURN REST convention: coturn's use-auth-secret)."""
    servers = [IceServer.parse(text) for text in settings.ice_server]
    secret = read_lines(settings.turn_secret_file)[0] if settings.turn_secret_file else None

    def with_passwords() -> tuple[IceServer, ...]:
        return tuple(
            turn_login(server, secret, time.time() + TURN_LOGIN_S)
            if secret and server.username is None and server.url.startswith("turn")
            else server
            for server in servers
        )

    return with_passwords


def turn_login(server: IceServer, secret: str, until: float) -> IceServer:
    """``until``: the time (Unix) from which on the login is refused."""
    username = f"{int(until)}:rtcstt"
    digest = hmac.digest(secret.encode(), username.encode(), "sha1")
    return replace(server, username=username, credential=base64.b64encode(digest).decode())


def _stt(settings: Settings, embedded: Embedded, environment: Mapping[str, str]) -> Stt:
    if settings.stt == "embedded":
        return embedded
    key = environment.get("RTCSTT_STT_KEY") or environment.get("CARTESIA_API_KEY")
    if settings.stt_key_file is not None:
        key = read_lines(settings.stt_key_file)[0]
    if not key and settings.stt.startswith(("https:", "wss:")):  # else only the first call would show it
        log.warning("no key for %s: set RTCSTT_STT_KEY or --stt-key-file", settings.stt)
    return Cartesia(api_key=key, base_url=settings.stt)


def _stt_keys(settings: Settings, authenticator: Authenticator) -> Keys:
    """Who may use the STT endpoints themselves: who has a key for them, else who has a token."""
    if settings.api_key_file is not None:
        return Keys.read(settings.api_key_file)
    return Keys(authenticator.tokens)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate cannot be used: {error}") from error
    return context
