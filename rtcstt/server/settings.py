"""The options of `rtcstt serve`; see `options` for where their values may come from.

Secrets never come from the command line: they are files, or the environment's RTCSTT_STT_KEY and
CARTESIA_API_KEY.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from rtcstt.embedded import MODEL_NAMES
from rtcstt.errors import CallerError, ConfigError
from rtcstt.fleet.shares import check_workers, share
from rtcstt.server.options import option as _option
from rtcstt.webrtc.candidates import DeniedPeers
from rtcstt.wire import TURN_RANGES, TurnSettings

_LISTEN, _FLEET = "the server", "several servers"
_RECOGNISER, _TURNS = "speech to text", "the end of a turn"
_NETWORK, _CALLS, _GATEWAYS = "audio over the network", "calls", "Asterisk"
_ACCESS = "who may do what"

_STT = "stt is embedded, or one or more URLs"
_NODE_URL = "--node-url must say where the other servers reach this one"


MAX_CALLS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server does. Lists are tuples; a path or a number that is None is off."""

    host: str = _option(
        "127.0.0.1", "address to listen on; elsewhere than loopback a token is needed", group=_LISTEN
    )
    port: int = _option(8080, "port to listen on", group=_LISTEN)
    workers: str = _option(
        "1", "processes behind the one port, or auto: one for each processor", group=_LISTEN, metavar="N"
    )
    redis: str | None = _option(
        None, "URL of the Redis that servers share their calls by (extra redis)", group=_FLEET, metavar="URL"
    )
    redis_audio: str = _option(
        "on",
        "keep the last audio of each call there too, so that its words survive the server",
        choices=("on", "off"),
        group=_FLEET,
    )
    node_url: str | None = _option(
        None, "where other servers reach this one; default: its own address", group=_FLEET
    )
    stt: tuple[str, ...] = _option(
        ("embedded",),
        "embedded, or the base URL of a server that speaks the protocol; of several the least busy",
        group=_RECOGNISER,
        metavar="URL",
    )
    fallback: str | None = _option(
        None, "embedded: who takes over while the STT is away", group=_RECOGNISER, metavar="embedded"
    )
    model: str = _option(
        "auto", f"of the embedded recogniser: {MODEL_NAMES}", group=_RECOGNISER, metavar="NAME"
    )
    device: str = _option(
        "cpu", "what the embedded recogniser runs on", choices=("cpu", "cuda"), group=_RECOGNISER
    )
    offline: bool = _option(
        False, "never fetch the embedded recogniser's models where they are missing", group=_RECOGNISER
    )
    compute_type: str | None = _option(
        None,
        "of Whisper models: int8, float16 and others; default: int8 on cpu, float16 on cuda",
        group=_RECOGNISER,
    )
    language: str | None = _option(
        None,
        "ISO 639 code of what is spoken; default: detected, where possible",
        group=_RECOGNISER,
        metavar="CODE",
    )
    max_streams: int | None = _option(
        None, "streams that the embedded recogniser takes at once; default: measured", group=_RECOGNISER
    )
    mode: str = _option(
        "auto", "who ends an utterance, unless the offer says", choices=("auto", "manual"), group=_RECOGNISER
    )
    chunk_ms: int = _option(100, "audio per message to the STT, 20 to 200", group=_RECOGNISER)
    turn_start_threshold: float | None = _option(
        None, "of turn detection, 0.5 to 0.9; default: the STT's", group=_TURNS, metavar="X"
    )
    turn_eager_end_threshold: float | None = _option(None, "the same, 0.3 to 0.8", group=_TURNS, metavar="X")
    turn_end_threshold: float | None = _option(None, "the same, 0.05 to 0.5", group=_TURNS, metavar="X")
    turn_end_timeout_ms: float | None = _option(
        None, "longest wait for the end of a turn, 640 to 11200", group=_TURNS
    )
    keyterm: tuple[str, ...] = _option(
        (), "a term to be recognised better; may be repeated", group=_RECOGNISER, metavar="TERM"
    )
    keyterm_strength: float = _option(
        1.0, "how strongly the embedded recogniser expects them, 0 to 2", group=_RECOGNISER, metavar="X"
    )
    update_ms: float = _option(
        500.0,
        "of speech between two updates of a turn's text, 100 to 10000; less costs more (embedded)",
        group=_RECOGNISER,
    )
    ice_server: tuple[str, ...] = _option(
        (), "stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; may be repeated", group=_NETWORK, metavar="URL"
    )
    turn_secret_file: Path | None = _option(
        None, "secret shared with TURN servers, for time-limited logins", group=_NETWORK
    )
    public_ip: str | None = _option(
        None, "this machine's address outside a NAT that keeps the ports (1:1)", group=_NETWORK
    )
    udp_ports: str | None = _option(
        None, "UDP ports for the audio; default: any", group=_NETWORK, metavar="FIRST-LAST"
    )
    udp_port: int | None = _option(
        None, "one UDP port for the audio of all calls; worker i has this port + i, from 0 on", group=_NETWORK
    )
    deny_peer: tuple[str, ...] = _option(
        (),
        "network that callers' candidates may not lead to; default: loopback, link-local, multicast and "
        "metadata (of clouds), each unless served there; may be repeated",
        group=_NETWORK,
        metavar="NETWORK",
    )
    dtx: bool = _option(False, "ask callers to send nothing while they are silent", group=_NETWORK)
    max_calls: int = _option(
        MAX_CALLS,
        "calls at once; those for which no stream of the recogniser is free get 503, too",
        group=_CALLS,
    )
    max_calls_per_address: int | None = _option(
        None,
        "calls at once from one address; default: 32, any number from gateways and this machine itself",
        group=_CALLS,
    )
    max_calls_per_token: int | None = _option(
        None, "calls at once of one token; default: any number", group=_CALLS
    )
    max_connections: int | None = _option(
        None,
        "HTTP connections at once; default: 2000, and at most half of the file descriptors",
        group=_CALLS,
    )
    max_call_s: float = _option(4 * 3600.0, "longest call, in seconds", group=_CALLS)
    idle_timeout_s: float = _option(3600.0, "a call without a packet for so long is ended", group=_CALLS)
    gateway_timeout_s: float = _option(
        15.0,
        "a gateway's call (AudioSocket, /pcm, /media-stream) of which nothing came for so long is ended",
        group=_CALLS,
    )
    keep_ended_s: float = _option(3600.0, "how long an ended call can be read, in seconds", group=_CALLS)
    resume_grace_s: float = _option(
        30.0, "how long a call waits for a caller who lost the network", group=_CALLS
    )
    drain_timeout_s: float = _option(
        5.0, "how long the last words may take at the end of a call", group=_CALLS
    )
    drain_s: float = _option(30.0, "how long SIGTERM waits for callers who are speaking", group=_CALLS)
    patience_s: float = _option(
        3.0, "how long the STT may be away before the fallback takes over", group=_RECOGNISER
    )
    offers_per_minute: int = _option(120, "offers that one address may make in a minute", group=_CALLS)
    record: Path | None = _option(
        None, "folder that gets each call's audio, transcript and ledger", group=_CALLS, metavar="DIR"
    )
    audiosocket: str | None = _option(
        None, "HOST:PORT for Asterisk's AudioSocket", group=_GATEWAYS, metavar="HOST:PORT"
    )
    audiosocket_from: tuple[str, ...] = _option(
        (),
        "address or network whose AudioSockets are taken; may be repeated",
        group=_GATEWAYS,
        metavar="NETWORK",
    )
    token_file: Path | None = _option(
        None, "bearer tokens, one a line; who calls must show one", group=_ACCESS
    )
    jwt_secret_file: Path | None = _option(
        None, "secret of signed tokens (HS256) that are taken as well", group=_ACCESS
    )
    stt_key_file: Path | None = _option(None, "key of the STT, in place of RTCSTT_STT_KEY", group=_RECOGNISER)
    api_key_file: Path | None = _option(
        None, "keys that are for the STT endpoints served here alone", group=_ACCESS
    )
    allow_host: tuple[str, ...] = _option(
        (),
        "name the server may be reached by, beside loopback's and --host; may be repeated",
        group=_ACCESS,
        metavar="NAME",
    )
    allow_origin: tuple[str, ...] = _option(
        (), "origin of pages that may call from elsewhere; may be repeated", group=_ACCESS
    )
    trusted_proxy: tuple[str, ...] = _option(
        (),
        "address or network of a proxy that says who asks (X-Forwarded-For); may be repeated",
        group=_ACCESS,
        metavar="NETWORK",
    )
    tls_cert: Path | None = _option(None, "certificate chain (PEM)", group=_ACCESS, metavar="FILE")
    tls_key: Path | None = _option(None, "its private key (PEM)", group=_ACCESS, metavar="FILE")

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_network(self)
        _check_stt(self)

    @property
    def ports(self) -> range | None:
        if self.udp_ports is None:
            return None
        first, _, last = self.udp_ports.partition("-")
        good = first.isdecimal() and last.isdecimal() and 1024 <= int(first) <= int(last) <= 65535
        _check(good, "udp_ports must be FIRST-LAST, from 1024 to 65535")
        return range(int(first), int(last) + 1)

    def of_worker(self, index: int, count: int) -> Settings:
        """What one of ``count`` workers does: its share of what a server has so many of."""
        _check(count <= self.max_calls, f"max_calls ({self.max_calls}) is less than one for each worker")
        udp_ports = None
        if self.ports is not None:
            whole = len(self.ports)
            begin = sum(share(whole, before, count) for before in range(index))
            udp_ports = f"{self.ports[begin]}-{self.ports[begin + share(whole, index, count) - 1]}"
        return dataclasses.replace(
            self,
            max_calls=share(self.max_calls, index, count),
            max_streams=_shared(self.max_streams, index, count),
            offers_per_minute=share(self.offers_per_minute, index, count),
            max_calls_per_address=_shared(self.max_calls_per_address, index, count),
            max_calls_per_token=_shared(self.max_calls_per_token, index, count),
            udp_ports=udp_ports,
            udp_port=None if self.udp_port is None else self.udp_port + index,
        )

    @property
    def turn(self) -> TurnSettings:
        return TurnSettings(
            start_threshold=self.turn_start_threshold,
            eager_end_threshold=self.turn_eager_end_threshold,
            end_threshold=self.turn_end_threshold,
            end_timeout_ms=self.turn_end_timeout_ms,
        )


def _shared(whole: int | None, index: int, count: int) -> int | None:
    return None if whole is None else share(whole, index, count)


def _check_numbers(of: Settings) -> None:
    _check(20 <= of.chunk_ms <= 200, "chunk_ms must be from 20 to 200")
    _check(0 <= of.keyterm_strength <= 2, "keyterm_strength must be from 0 to 2")
    _check(100 <= of.update_ms <= 10_000, "update_ms must be from 100 to 10000")
    _check(0 <= of.port <= 65535, "port must be from 0 to 65535")
    _check(of.max_calls >= 1, "max_calls must be at least 1")
    _check(of.max_streams is None or of.max_streams >= 1, "max_streams must be at least 1")
    for name in (
        "max_call_s",
        "idle_timeout_s",
        "gateway_timeout_s",
        "drain_timeout_s",
        "patience_s",
        "offers_per_minute",
    ):
        _check(getattr(of, name) > 0, f"{name} must be above 0")
    for name in ("max_calls_per_address", "max_calls_per_token", "max_connections"):
        most = getattr(of, name)
        _check(most is None or most >= 1, f"{name} must be at least 1")
    for name in ("resume_grace_s", "keep_ended_s", "drain_s"):
        _check(getattr(of, name) >= 0, f"{name} must not be below 0")


def _check_network(of: Settings) -> None:
    _check(bool(of.tls_cert) == bool(of.tls_key), "tls_cert and tls_key belong together")
    _check(of.redis_audio in ("on", "off"), "redis_audio must be on or off")
    if of.redis is not None:
        is_wildcard = of.host in ("", "0.0.0.0", "::")
        _check(not is_wildcard or of.node_url is not None, f"redis: with --host {of.host}, {_NODE_URL}")
    if of.node_url is not None:
        good = re.fullmatch(r"https?://[^/\s?#@]+", of.node_url) is not None
        _check(good, "node_url must be http://HOST:PORT or https://HOST:PORT, without a path")
    check_workers(of.workers)
    if of.ports is not None:
        message = f"udp_ports has {len(of.ports)} ports, too few for max_calls ({of.max_calls})"
        _check(len(of.ports) >= of.max_calls, message)
    if of.udp_port is not None:
        _check(1 <= of.udp_port <= 65535, "udp_port must be from 1 to 65535")
        _check(of.udp_ports is None, "udp_port and udp_ports exclude each other")
    if of.public_ip is not None:
        _check_public("public_ip", of.public_ip)
    DeniedPeers(of.deny_peer)
    for origin in of.allow_origin:  # as browsers send it (RFC 6454 section 7)
        good = re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s?#@]+", origin) is not None
        _check(good, f"allow_origin is * or SCHEME://HOST[:PORT], not {origin}")


def _check_stt(of: Settings) -> None:
    _check(of.mode in ("auto", "manual"), "mode must be auto or manual")
    _check(of.fallback in (None, "embedded"), "fallback can only be embedded")
    code = of.language is None or re.fullmatch("[a-z]{2,3}", of.language) is not None
    _check(code, "language must be an ISO 639 code such as en")
    _check(len(of.stt) == 1 or (bool(of.stt) and "embedded" not in of.stt), _STT)
    try:
        of.turn.validated()
    except CallerError as error:
        named = error.message.partition(" ")[0] in TURN_RANGES
        raise ConfigError(f"{'turn_' if named else ''}{error.message}") from error


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _check_public(name: str, text: str) -> None:
    """Not necessarily global: the NAT may be within a company."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    reachable = not (address.is_unspecified or address.is_multicast or address.is_link_local)
    _check(reachable, f"{name}: nobody can reach {text} from elsewhere")
