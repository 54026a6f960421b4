"""`rtcstt serve`: settings become a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import importlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from rtcstt.call import CallSettings
from rtcstt.embedded import Embedded
from rtcstt.embedded.hypothesis import Device
from rtcstt.embedded.service import configured_language
from rtcstt.errors import ConfigError
from rtcstt.fleet.member import Member, node_of
from rtcstt.fleet.parent import Assignment
from rtcstt.fleet.placement import Load
from rtcstt.fleet.shared import Shared
from rtcstt.fleet.shares import access_secret, share
from rtcstt.http.access import Authenticator, read_lines
from rtcstt.http.guard import FAILED_LOGINS_PER_MINUTE, Guard, Hosts
from rtcstt.limits import Slots
from rtcstt.recordings import Recordings
from rtcstt.server import audiosocket
from rtcstt.server.addresses import Networks
from rtcstt.server.admission import CALLS_PER_ADDRESS, Limits
from rtcstt.server.app import Web
from rtcstt.server.calls import Calls
from rtcstt.server.context import Context, caller_behind
from rtcstt.server.intake import Timing
from rtcstt.server.remote_stt import remote_stts
from rtcstt.server.settings import MAX_CALLS, Settings
from rtcstt.server.sharing import Sharing
from rtcstt.stt.seam import Stt
from rtcstt.webrtc.candidates import DENIED_BY_DEFAULT
from rtcstt.webrtc.connection import IceServer, PeerSettings, UdpPort
from rtcstt.wire.hosts import is_loopback

if TYPE_CHECKING:
    from rtcstt.fleet.store import Store

log = logging.getLogger(__name__)

TURN_LOGIN_S = 12 * 3600.0


# What libraries import when they first need it, which would be in the middle of a call.
PRELOADED = ("numpy.fft", "cryptography.hazmat.backends.openssl.backend", "av.subtitles.stream")


@dataclass(frozen=True, slots=True)
class _Recognition:
    """``streams``: what the embedded recogniser can take at once, where it is the STT."""

    stt: Stt
    embedded: Embedded | None
    fallback: Stt | None
    streams: Slots


@asynccontextmanager
async def application(
    settings: Settings, environment: Mapping[str, str], assignment: Assignment | None = None
) -> AsyncIterator[web.Application]:
    """The aiohttp application of these settings, its recogniser loaded; what it holds is let go after.
    ``assignment``: of one worker of several."""
    check(settings, environment)
    authenticator = authenticator_of(settings, assignment)
    if authenticator.is_guarded and not authenticator.may_publish_at_all:
        log.warning("--api-key-file alone: nobody may place calls; --token-file says who may")
    for module in PRELOADED:
        importlib.import_module(module)
    gateway = _gateway(settings)
    store = store_of(settings)
    async with contextlib.AsyncExitStack() as held:
        recordings = Recordings(settings.record) if settings.record is not None else None
        if recordings is not None:
            held.callback(recordings.close)
        recognition = await held.enter_async_context(_recognition(settings, environment))
        log.info("calls at once: %d", settings.max_calls)
        ice_servers = ice_servers_of(settings)
        udp_port = await held.enter_async_context(_udp_port(settings))
        calls = _calls(settings, recognition, ice_servers, recordings, assignment, udp_port)
        context = Context(
            calls,
            _guard(settings, authenticator, assignment),
            offers_per_minute=settings.offers_per_minute,
            ice_servers=ice_servers,
        )
        timing = Timing(silent_s=settings.gateway_timeout_s)
        app = Web(context, embedded=recognition.embedded, timing=timing).application()
        if gateway is not None:
            reuse_port = assignment is not None
            during = audiosocket.during(calls, gateway, reuse_port=reuse_port, timing=timing)
            app.cleanup_ctx.append(during)
        member = await _member(settings, _Here(calls, recognition.embedded), store, assignment)
        if member.shared is not None:
            member.shared.on_secret = lambda secret: authenticator.share(access_secret(secret))
            member.shared.on_secret(member.shared.secret)
        calls.on_changed = member.publish
        member.attach(app)
        yield app


@asynccontextmanager
async def _recognition(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[_Recognition]:
    """The STT, and the embedded recogniser, loaded, where it is that or stands in for it."""
    embedded = Embedded(
        settings.model,
        max_streams=settings.max_streams,
        update_ms=settings.update_ms,
        keyterm_strength=settings.keyterm_strength,
        device=Device(settings.device, settings.compute_type),
        streams=4 if settings.max_calls == MAX_CALLS else settings.max_calls,
    )
    stt = _stt(settings, embedded, environment)
    wants_embedded = stt is embedded or settings.fallback == "embedded"
    streams = Slots(lambda: None)
    try:
        if wants_embedded:
            for line in await embedded.describe():
                log.info(line)
            service = await embedded.preload()
            configured_language(settings.language, service.recognizer.languages)
            if stt is embedded:
                streams = Slots(lambda: service.max_streams)
        fallback = embedded if settings.fallback else None
        yield _Recognition(stt, embedded if wants_embedded else None, fallback, streams)
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await embedded.close()


@asynccontextmanager
async def _udp_port(settings: Settings) -> AsyncIterator[UdpPort | None]:
    """The one that all calls share, open; `ConfigError` when it is not free."""
    if settings.udp_port is None:
        yield None
        return
    port = UdpPort(settings.udp_port)
    try:
        await port.open(loopback=is_loopback(settings.host))
        log.info("audio of all calls on UDP port %d", port.port)
        yield port
    finally:
        port.close()


def _gateway(settings: Settings) -> audiosocket.Address | None:
    """Where AudioSockets are taken, if anywhere."""
    if settings.audiosocket is None:
        return None
    return audiosocket.Address.parse(settings.audiosocket, settings.audiosocket_from)


async def _member(
    settings: Settings, here: _Here, store: Store | None, assignment: Assignment | None
) -> Member:
    """This process among the others that share its calls: workers, and servers with the same Redis."""
    node = node_of(assignment)
    shared = None
    if store is not None:
        shared = Shared(
            store,
            node,
            url=_node_url(settings),
            load=here.load,
            grace_s=settings.resume_grace_s,
            keeps_audio=settings.redis_audio == "on",
        )
        await shared.start()
        Sharing(here.calls, shared)
    drained = partial(here.calls.drain, settings.drain_s)
    return Member(here, node, drained=drained, assignment=assignment, shared=shared)


def check(settings: Settings, environment: Mapping[str, str]) -> None:
    """`ConfigError` for what can be known to be wrong before anything is loaded."""
    authenticator = authenticator_of(settings)
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
        slots = self.calls.streams
        streams, most = slots.used, slots.capacity or 0
        if slots.capacity is None and self.embedded is not None:
            streams, most = self.embedded.streams
        return Load(
            calls=self.calls.open,
            capacity=self.calls.capacity,
            streams=streams,
            stream_capacity=most,
            draining=self.calls.stopping,
        )


def store_of(settings: Settings) -> Store | None:
    """Where servers share their calls; `ConfigError` when it cannot be."""
    if settings.redis is None:
        return None
    try:
        from rtcstt.fleet.store import Store
    except ImportError as error:
        raise ConfigError("--redis needs the extra redis: pip install 'rtcstt[redis]'") from error
    return Store(settings.redis, keep_s=settings.keep_ended_s)


def _node_url(settings: Settings) -> str:
    """Where other servers reach this one; empty while the port is not known."""
    if settings.node_url is not None or settings.port == 0:
        return settings.node_url or ""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"


def authenticator_of(settings: Settings, assignment: Assignment | None = None) -> Authenticator:
    """Workers know each other's access tokens."""
    secret = None
    if assignment is not None:
        secret = access_secret(assignment.secret)
    return Authenticator.open(
        settings.token_file, settings.jwt_secret_file, settings.api_key_file, access_secret=secret
    )


def _guard(settings: Settings, authenticator: Authenticator, assignment: Assignment | None) -> Guard:
    try:
        trusted = Networks(settings.trusted_proxy)
    except ValueError as error:
        raise ConfigError(f"trusted_proxy: {error}") from error

    return Guard(
        authenticator,
        hosts=hosts_of(settings),
        origins=settings.allow_origin,
        caller=caller_behind(trusted),
        failed_logins_per_minute=_own_share(FAILED_LOGINS_PER_MINUTE, assignment),
    )


def hosts_of(settings: Settings) -> Hosts:
    """The names that the server may be reached by; other servers ask by that of its node url."""
    own = urlsplit(_node_url(settings)).netloc
    return Hosts([settings.host, *settings.allow_host, *([own] if own else [])])


def _own_share(whole: int, assignment: Assignment | None) -> int:
    """What one worker takes of what an address may do with all of them."""
    return whole if assignment is None else share(whole, assignment.index, assignment.count)


def _calls(
    settings: Settings,
    recognition: _Recognition,
    ice_servers: Callable[[], tuple[IceServer, ...]],
    recordings: Recordings | None,
    assignment: Assignment | None,
    udp_port: UdpPort | None,
) -> Calls:
    def peers() -> PeerSettings:
        return PeerSettings(
            ice_servers=ice_servers(),
            loopback=is_loopback(settings.host),
            public_ip=settings.public_ip,
            ports=settings.ports,
            udp_port=udp_port,
            deny_peers=settings.deny_peer or DENIED_BY_DEFAULT,
            dtx=settings.dtx,
        )

    peers()  # settings that cannot be are told now
    return Calls(
        stt=recognition.stt,
        settings=CallSettings(
            mode="manual" if settings.mode == "manual" else "auto",
            turn=settings.turn,
            keyterms=settings.keyterm,
            language=settings.language,
            chunk_ms=settings.chunk_ms,
            fallback=recognition.fallback,
            patience_s=settings.patience_s,
            drain_timeout_s=settings.drain_timeout_s,
        ),
        peers=peers,
        limits=Limits(
            max_calls=settings.max_calls,
            max_calls_per_address=settings.max_calls_per_address,
            max_calls_per_token=settings.max_calls_per_token,
            calls_per_stranger=_own_share(CALLS_PER_ADDRESS, assignment),
            max_call_s=settings.max_call_s,
            idle_s=settings.idle_timeout_s,
            resume_grace_s=settings.resume_grace_s,
            keep_ended_s=settings.keep_ended_s,
        ),
        recordings=recordings,
        streams=recognition.streams,
        worker=assignment.index if assignment is not None else None,
    )


def ice_servers_of(settings: Settings) -> Callable[[], tuple[IceServer, ...]]:
    """The ICE servers; TURN servers without a password get one for a while, where there is a secret to make
    it from (the TURN REST convention: coturn's use-auth-secret)."""
    servers = [IceServer.parse(text) for text in settings.ice_server]
    if any(server.credential for server in servers):
        log.warning(
            "a TURN password among the options can be read by who lists processes: --turn-secret-file"
        )
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
    if settings.stt == ("embedded",):
        return embedded
    return remote_stts(settings.stt, environment, settings.stt_key_file)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate cannot be used: {error}") from error
    return context
