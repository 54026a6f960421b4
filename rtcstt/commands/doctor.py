"""`rtcstt doctor`: tries what `rtcstt serve` would use with the same options, one thing after the other, and
says what to do about what fails."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich.console import Console

from rtcstt import __version__
from rtcstt.embedded import processors
from rtcstt.errors import ConfigError, EngineError, RtcsttError, UpstreamError
from rtcstt.fleet.shares import count_of
from rtcstt.fleet.state import StoreAway
from rtcstt.http import listen
from rtcstt.server import assembly
from rtcstt.server.audiosocket import Address
from rtcstt.server.options import option
from rtcstt.server.remote_stt import remote_stt
from rtcstt.server.settings import Settings
from rtcstt.webrtc.connection import IceServer, reachable_by

ASK_TIMEOUT_S = 8.0
EXPIRES_SOON_S = 14 * 86400.0
WRONG = "wrong setting"
LIBRARIES = ("aiortc", "aioice", "av", "aiohttp", "websockets", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; ``fix`` says what to do, and is empty when all is well."""

    what: str
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return not self.fix


Check = Callable[[], Awaitable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Settings):
    """Those of `rtcstt serve`, whose file can be given as it is."""

    json: bool = option(False, "print one JSON object")


def run(options: Options) -> int:
    findings = asyncio.run(_examine(options))
    healthy = all(finding.ok for finding in findings)
    if options.json:
        checks = [{"ok": finding.ok, **dataclasses.asdict(finding)} for finding in findings]
        print(json.dumps({"ok": healthy, "versions": versions(), "checks": checks}, indent=2))
    return 0 if healthy else 2 if any(finding.found == WRONG for finding in findings) else 1


async def _examine(options: Options) -> list[Finding]:
    show = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=options.json)
    show.print("      " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    findings = []
    for name, check in checks_of(options):
        finding = await _attempt(name, check)
        findings.append(finding)
        show.print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.found}")
        if finding.fix:
            show.print(f"      -> {finding.fix}")
    return findings


def checks_of(settings: Settings, *, ask_s: float = ASK_TIMEOUT_S) -> list[tuple[str, Check]]:
    """What a server with these settings would use; its STUN and TURN servers have ``ask_s`` to answer."""

    def having(name: str, check: Callable[[Settings], Awaitable[Finding]]) -> tuple[str, Check]:
        return name, lambda: check(settings)

    servers = assembly.ice_servers_of(settings)()
    return [
        ("UDP", check_udp),
        ("Network", check_addresses),
        ("Opus", check_opus),
        having("HTTP", check_port),
        having("Access", check_access),
        *([having("TLS", check_tls)] if settings.tls_cert else []),
        *([having("UDP ports", check_udp_ports)] if settings.ports else []),
        *([having("UDP ports", check_one_udp_port)] if settings.udp_port else []),
        *([having("Redis", check_redis)] if settings.redis else []),
        *([having("Public address", check_public)] if settings.public_ip else []),
        *([having("Recordings", check_folder)] if settings.record else []),
        *([having("AudioSocket", check_audiosocket)] if settings.audiosocket else []),
        *((server.url, _ice_check(server, ask_s)) for server in servers),
        *([having("STT", check_embedded)] if settings.stt == ("embedded",) else _stt_checks(settings)),
        *([having("Fallback", check_embedded)] if settings.fallback else []),
    ]


def versions() -> dict[str, str]:
    """Of rtcstt, Python, the system and what rtcstt is made of."""
    found = {"rtcstt": __version__, "Python": platform.python_version()}
    found["system"] = f"{platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


async def _attempt(name: str, check: Check) -> Finding:
    try:
        return await asyncio.wait_for(check(), ASK_TIMEOUT_S * 2)
    except ConfigError as error:
        return Finding(name, WRONG, str(error))
    except EngineError as error:
        return Finding(name, "not usable", str(error))
    except TimeoutError:
        return Finding(name, "no answer", "check that a firewall lets it through")
    except UpstreamError as error:
        return Finding(name, str(error), _advice(error.status))
    except (RtcsttError, OSError) as error:
        return Finding(name, "failed", str(error))


def _advice(status: int | None) -> str:
    match status:
        case None:
            return "check --stt, that the server runs, and that a firewall lets you reach it"
        case 401 | 403:
            return "set RTCSTT_STT_KEY (or CARTESIA_API_KEY) to a valid key"
        case 429:
            return "all streams of the plan are in use; wait, or raise its limit"
        case _:
            return "the server's log may say more"


async def check_udp() -> Finding:
    """A datagram over loopback: containers without UDP exist."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        receiver.sendto(b"rtcstt", receiver.getsockname())
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await loop.sock_recv(receiver, 16)
    return Finding("UDP", "datagrams arrive on loopback")


async def check_addresses() -> Finding:
    """The address that callers elsewhere would see, as far as this machine knows."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks for the route
            address = probe.getsockname()[0]
    except OSError:
        return Finding("Network", "no route out; only callers on this machine can connect")
    return Finding("Network", f"callers are answered from {address}")


async def check_opus() -> Finding:
    """In-band FEC and concealment need libopus itself, which PyAV's wheels carry."""
    from rtcstt.media import opus

    if opus.load() is not None:
        return Finding("Opus", "lost frames are recovered (in-band FEC) and concealed")
    return Finding(
        "Opus", "no libopus: lost frames become silence", "install PyAV from its wheel: pip install av"
    )


async def check_port(settings: Settings) -> Finding:
    where = f"{settings.host} port {settings.port}"
    try:
        bound = await listen(settings.host, settings.port)
    except ConfigError as error:
        return Finding(
            "HTTP", str(error), "is a server running already? Else choose another --port or --host"
        )
    for one in bound:
        one.close()
    return Finding("HTTP", f"{where} is free")


async def check_access(settings: Settings) -> Finding:
    assembly.check(settings, os.environ)
    authenticator = assembly.authenticator_of(settings)
    return Finding(
        "Access", "by token" if authenticator.is_guarded else "open to this machine, to nobody else"
    )


async def check_tls(settings: Settings) -> Finding:
    from cryptography import x509

    assembly.tls_context(settings)
    chain = await asyncio.to_thread(Path(str(settings.tls_cert)).read_bytes)
    until = x509.load_pem_x509_certificate(chain).not_valid_after_utc
    left_s = (until - datetime.now(UTC)).total_seconds()
    found = f"the certificate is valid until {until:%Y-%m-%d}"
    return Finding("TLS", found, "renew it" if left_s < EXPIRES_SOON_S else "")


async def check_udp_ports(settings: Settings) -> Finding:
    ports = settings.ports or range(0)
    taken = [port for port in ports if not _is_free(port)]
    found = f"{len(ports) - len(taken)} of {len(ports)} are free"
    enough = len(ports) - len(taken) >= settings.max_calls
    return Finding(
        "UDP ports", found, "" if enough else "too few for --max-calls: choose others in --udp-ports"
    )


async def check_one_udp_port(settings: Settings) -> Finding:
    """One for each worker."""
    first = settings.udp_port or 0
    count = count_of(settings.workers, processors.usable())
    taken = [port for port in range(first, first + count) if not _is_free(port)]
    found = f"from {first} on, {count - len(taken)} of {count} are free"
    fix = f"{', '.join(map(str, taken))} is taken: choose another --udp-port" if taken else ""
    return Finding("UDP ports", found, fix)


async def check_redis(settings: Settings) -> Finding:
    store = assembly.store_of(settings)
    assert store is not None, "a server with --redis has one"
    try:
        await store.check()
    except StoreAway as error:
        fix = "check --redis, that it runs, and that a firewall lets you reach it"
        return Finding("Redis", str(error), fix)
    finally:
        await store.close()
    return Finding("Redis", "answers, and keeps what is written")


async def check_public(settings: Settings) -> Finding:
    return Finding("Public address", f"callers are told {settings.public_ip}; its UDP ports must lead here")


async def check_folder(settings: Settings) -> Finding:
    folder = Path(str(settings.record))
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
        return Finding("Recordings", f"{folder} can be written")
    return Finding("Recordings", f"{folder} cannot be written", "let the server's user write there")


async def check_audiosocket(settings: Settings) -> Finding:
    address = Address.parse(str(settings.audiosocket), settings.audiosocket_from)
    for one in await listen(address.host, address.port):
        one.close()
    return Finding("AudioSocket", f"{address.host} port {address.port} is free")


async def check_embedded(settings: Settings) -> Finding:
    from rtcstt.embedded import resolve
    from rtcstt.embedded.recognizer import Recognizer
    from rtcstt.embedded.service import configured_language

    model = await asyncio.to_thread(resolve, settings.model)
    recognizer = await asyncio.to_thread(Recognizer.load, model)
    try:
        configured_language(settings.language, recognizer.languages)
        return Finding("STT", "; ".join(recognizer.describe()))
    finally:
        await recognizer.close()


def _stt_checks(settings: Settings) -> list[tuple[str, Check]]:
    """Each server that calls may go to."""

    def of(url: str) -> Check:
        async def check() -> Finding:
            from rtcstt.wire import Handshake

            stt = remote_stt(url, os.environ, settings.stt_key_file)
            connection = await stt.connect(Handshake(endpoint="turns", model=stt.model))
            await connection.close()
            return Finding("STT", f"{url} takes calls{'' if stt.api_key else ' (without a key)'}")

        return check

    return [("STT", of(url)) for url in settings.stt]


def _ice_check(server: IceServer, ask_s: float) -> Check:
    wanted = "relay" if server.url.startswith("turn") else "srflx"

    async def check() -> Finding:
        kinds = await reachable_by(server, timeout_s=ask_s)
        if wanted in kinds:
            return Finding(server.url, "answers")
        what = "user and password" if wanted == "relay" else "address"
        return Finding(server.url, "no answer", f"check its {what}, and that UDP to it is let through")

    return check


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
