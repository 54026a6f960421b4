"""The options of `rtcstt serve`: one table for the command line, the environment and the TOML file.

An option given on the command line wins over the environment (RTCSTT_ and its name in capitals),
which wins over the file (--config), which wins over the default. Secrets never come from the command
line: they are files, or the environment's RTCSTT_STT_KEY and CARTESIA_API_KEY.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from rtcstt.embedded import MODEL_NAMES
from rtcstt.errors import CallerError, ConfigError
from rtcstt.fleet.ids import MAX_WORKERS
from rtcstt.webrtc.candidates import DeniedPeers
from rtcstt.wire import TurnSettings

_WORKERS = f"workers must be from 1 to {MAX_WORKERS}"


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server does. Lists are tuples; a path or a number that is None is off."""

    host: str = _option("127.0.0.1", "address to listen on; elsewhere than loopback a token is needed")
    port: int = _option(8080, "port to listen on")
    workers: str = _option("1", "processes behind the one port, or auto: one for each processor")
    stt: str = _option("embedded", "embedded, or the base URL of a server that speaks the protocol")
    fallback: str | None = _option(None, "embedded: who takes over while the STT is away")
    model: str = _option("tiny-en", f"of the embedded recogniser: {MODEL_NAMES}")
    language: str | None = _option(None, "ISO 639 code of what is spoken; default: detected, where possible")
    max_streams: int | None = _option(
        None, "streams that the embedded recogniser takes at once; default: measured"
    )
    mode: str = _option("auto", "who ends an utterance, unless the offer says", choices=("auto", "manual"))
    chunk_ms: int = _option(100, "audio per message to the STT, 20 to 200")
    turn_start_threshold: float | None = _option(None, "of turn detection, 0.5 to 0.9; default: the STT's")
    turn_eager_end_threshold: float | None = _option(None, "the same, 0.3 to 0.8")
    turn_end_threshold: float | None = _option(None, "the same, 0.05 to 0.5")
    turn_end_timeout_ms: float | None = _option(None, "longest wait for the end of a turn, 640 to 11200")
    keyterm: tuple[str, ...] = _option((), "a term to be recognised better; may be repeated")
    keyterm_strength: float = _option(1.0, "how strongly the embedded recogniser expects them, 0 to 2")
    update_ms: float = _option(
        500.0, "of speech between two updates of a turn's text, 100 to 10000; less costs more (embedded)"
    )
    ice_server: tuple[str, ...] = _option(
        (), "stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; may be repeated"
    )
    turn_secret_file: Path | None = _option(None, "secret shared with TURN servers, for time-limited logins")
    public_ip: str | None = _option(None, "this machine's address outside a NAT that keeps the ports (1:1)")
    udp_ports: str | None = _option(None, "FIRST-LAST: UDP ports for the audio; default: any")
    deny_peer: tuple[str, ...] = _option(
        (),
        "network that callers' candidates may not lead to; default: loopback, link-local, multicast and "
        "metadata (of clouds), each unless served there; may be repeated",
    )
    dtx: bool = _option(False, "ask callers to send nothing while they are silent")
    max_calls: int = _option(
        100, "calls at once; those for which no stream of the recogniser is free get 503, too"
    )
    max_calls_per_address: int | None = _option(
        None, "calls at once from one address; default: 32, and any number from this machine itself"
    )
    max_calls_per_token: int | None = _option(None, "calls at once of one token; default: any number")
    max_connections: int | None = _option(
        None, "HTTP connections at once; default: 2000, and at most half of the file descriptors"
    )
    max_call_s: float = _option(4 * 3600.0, "longest call, in seconds")
    idle_timeout_s: float = _option(3600.0, "a call without a packet for so long is ended")
    keep_ended_s: float = _option(3600.0, "how long an ended call can be read, in seconds")
    resume_grace_s: float = _option(30.0, "how long a call waits for a caller who lost the network")
    drain_timeout_s: float = _option(5.0, "how long the last words may take at the end of a call")
    drain_s: float = _option(30.0, "how long SIGTERM waits for callers who are speaking")
    patience_s: float = _option(3.0, "how long the STT may be away before the fallback takes over")
    offers_per_minute: int = _option(120, "offers that one address may make in a minute")
    record: Path | None = _option(None, "folder that gets each call's audio, transcript and ledger")
    audiosocket: str | None = _option(None, "HOST:PORT for Asterisk's AudioSocket")
    audiosocket_from: tuple[str, ...] = _option(
        (), "address or network whose AudioSockets are taken; may be repeated"
    )
    token_file: Path | None = _option(None, "bearer tokens, one a line; who calls must show one")
    jwt_secret_file: Path | None = _option(None, "secret of signed tokens (HS256) that are taken as well")
    stt_key_file: Path | None = _option(None, "key of the STT, in place of RTCSTT_STT_KEY")
    api_key_file: Path | None = _option(None, "keys that are for the STT endpoints served here alone")
    allow_host: tuple[str, ...] = _option(
        (), "name the server may be reached by, beside loopback's and --host; may be repeated"
    )
    allow_origin: tuple[str, ...] = _option(
        (), "origin of pages that may call from elsewhere; may be repeated"
    )
    trusted_proxy: tuple[str, ...] = _option(
        (), "address or network of a proxy that says who asks (X-Forwarded-For); may be repeated"
    )
    tls_cert: Path | None = _option(None, "certificate chain (PEM)")
    tls_key: Path | None = _option(None, "its private key (PEM)")

    def __post_init__(self) -> None:
        _check(20 <= self.chunk_ms <= 200, "chunk_ms must be from 20 to 200")
        _check(0 <= self.keyterm_strength <= 2, "keyterm_strength must be from 0 to 2")
        _check(100 <= self.update_ms <= 10_000, "update_ms must be from 100 to 10000")
        _check(self.mode in ("auto", "manual"), "mode must be auto or manual")
        _check(0 <= self.port <= 65535, "port must be from 0 to 65535")
        _check(self.max_calls >= 1, "max_calls must be at least 1")
        _check(self.max_streams is None or self.max_streams >= 1, "max_streams must be at least 1")
        _check(self.fallback in (None, "embedded"), "fallback can only be embedded")
        code = self.language is None or re.fullmatch("[a-z]{2,3}", self.language) is not None
        _check(code, "language must be an ISO 639 code such as en")
        _check(bool(self.tls_cert) == bool(self.tls_key), "tls_cert and tls_key belong together")
        for name in ("max_call_s", "idle_timeout_s", "drain_timeout_s", "patience_s", "offers_per_minute"):
            _check(getattr(self, name) > 0, f"{name} must be above 0")
        for name in ("max_calls_per_address", "max_calls_per_token", "max_connections"):
            _check((getattr(self, name) or 1) >= 1, f"{name} must be at least 1")
        for name in ("resume_grace_s", "keep_ended_s", "drain_s"):
            _check(getattr(self, name) >= 0, f"{name} must not be below 0")
        _check(self.workers == "auto" or self.workers.isdecimal(), "workers must be a number, or auto")
        _check(self.workers == "auto" or 1 <= int(self.workers) <= MAX_WORKERS, _WORKERS)
        if self.ports is not None:
            message = f"udp_ports has {len(self.ports)} ports, too few for max_calls ({self.max_calls})"
            _check(len(self.ports) >= self.max_calls, message)
        if self.public_ip is not None:
            _check_public("public_ip", self.public_ip)
        DeniedPeers(self.deny_peer)
        try:
            self.turn.validated()
        except CallerError as error:
            raise ConfigError(error.message) from error

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
            begin = sum(_share(whole, before, count) for before in range(index))
            udp_ports = f"{self.ports[begin]}-{self.ports[begin + _share(whole, index, count) - 1]}"
        return dataclasses.replace(
            self,
            max_calls=_share(self.max_calls, index, count),
            max_streams=None if self.max_streams is None else _share(self.max_streams, index, count),
            udp_ports=udp_ports,
        )

    @property
    def turn(self) -> TurnSettings:
        return TurnSettings(
            start_threshold=self.turn_start_threshold,
            eager_end_threshold=self.turn_eager_end_threshold,
            end_threshold=self.turn_end_threshold,
            end_timeout_ms=self.turn_end_timeout_ms,
        )


def _share(whole: int, index: int, count: int) -> int:
    """Shares differ by one at most, and nobody's is nothing."""
    return max(1, whole // count + (index < whole % count))


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


_HINTS = get_type_hints(Settings)
_FIELDS = dataclasses.fields(Settings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="options as TOML, e.g. port = 8081")
    for option in _FIELDS:
        flag, hint, text = "--" + option.name.replace("_", "-"), _HINTS[option.name], option.metadata["help"]
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
            continue
        shown = "" if option.default in (None, ()) else f" ({option.default})"
        many: dict[str, Any] = {"nargs": "+", "action": "extend"} if option.default == () else {}
        choices = option.metadata.get("choices")
        name = None if choices else option.name.rsplit("_", 1)[-1].upper()
        parser.add_argument(
            flag, default=None, type=_reader(hint), choices=choices, metavar=name, help=text + shown, **many
        )


def load(args: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """The settings that the command line, the environment and the file make together; `ConfigError` when
    one of them is wrong."""
    values = _from_file(args.config) if getattr(args, "config", None) else {}
    for option in _FIELDS:
        text = environment.get(f"RTCSTT_{option.name.upper()}")
        if text is not None:
            values[option.name] = _from_text(option.name, text)
        given = getattr(args, option.name, None)
        if given is not None:
            values[option.name] = tuple(given) if isinstance(given, list) else given
    return Settings(**values)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    values = {}
    for name, value in found.items():
        name = name.replace("-", "_")
        if name not in _HINTS:
            raise ConfigError(f"{path}: there is no option {name}")
        if isinstance(value, list):
            values[name] = tuple(map(str, value))
        elif isinstance(value, bool) or _HINTS[name] is bool:
            values[name] = _from_text(name, str(value))
        else:
            values[name] = _from_text(name, str(value), split=False)
    return values


def _from_text(name: str, text: str, *, split: bool = True) -> Any:
    hint = _HINTS[name]
    try:
        if hint == tuple[str, ...]:
            return tuple(shlex.split(text.replace(",", " "))) if split else (text,)
        if hint is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
                text.lower()
            ]
        return _reader(hint)(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{name} cannot be {text!r}") from error


def _reader(hint: Any) -> Any:
    for kind in (int, float, Path):
        if hint == kind or hint == kind | None:
            return kind
    return str
