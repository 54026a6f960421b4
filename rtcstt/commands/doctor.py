"""`rtcstt doctor`: tries what a call needs, one thing after the other, and says how to mend what fails."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from rich.console import Console

from rtcstt.errors import ConfigError, EngineError, RtcsttError, UpstreamError
from rtcstt.webrtc.connection import IceServer, reachable_by

ASK_TIMEOUT_S = 8.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; ``mend`` says what to do, and is empty when all is well."""

    what: str
    found: str
    mend: str = ""

    @property
    def ok(self) -> bool:
        return not self.mend


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ice-server", action="append", default=[], metavar="URL", help="a server to try")
    parser.add_argument("--stt", default="embedded", help="embedded, or the base URL of an STT (embedded)")


def run(args: argparse.Namespace) -> int:
    servers = [IceServer.parse(text) for text in args.ice_server]
    return asyncio.run(_examine(servers, args.stt))


async def _examine(servers: Sequence[IceServer], stt: str) -> int:
    show = Console(highlight=False, markup=False, soft_wrap=True)
    checks: list[tuple[str, Callable[[], Awaitable[Finding]]]] = [
        ("UDP", check_udp),
        ("Network", check_addresses),
        ("Opus", check_opus),
        *((server.url, _ice_check(server)) for server in servers),
        ("STT", check_embedded if stt == "embedded" else _stt_check(stt)),
    ]
    healthy = True
    for name, check in checks:
        finding = await _attempt(name, check)
        healthy = healthy and finding.ok
        show.print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.found}")
        if finding.mend:
            show.print(f"      -> {finding.mend}")
    return 0 if healthy else 1


async def _attempt(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await asyncio.wait_for(check(), ASK_TIMEOUT_S * 2)
    except ConfigError:
        raise
    except EngineError as error:
        return Finding(name, "not usable", str(error))
    except TimeoutError:
        return Finding(name, "no answer", "check that a firewall lets it through")
    except UpstreamError as error:
        return Finding(name, str(error), _mend_stt(error.status))
    except (RtcsttError, OSError) as error:
        return Finding(name, "failed", str(error))


def _mend_stt(status: int | None) -> str:
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
        async with asyncio.timeout(2):
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


def _ice_check(server: IceServer) -> Callable[[], Awaitable[Finding]]:
    wanted = "relay" if server.url.startswith("turn") else "srflx"

    async def check() -> Finding:
        kinds = await reachable_by(server, timeout_s=ASK_TIMEOUT_S)
        if wanted in kinds:
            return Finding(server.url, "answers")
        what = "user and password" if wanted == "relay" else "address"
        return Finding(server.url, "no answer", f"check its {what}, and that UDP to it is let through")

    return check


async def check_embedded() -> Finding:
    from rtcstt.embedded.recognizer import Recognizer

    recognizer = await asyncio.to_thread(Recognizer.load)
    described = "; ".join(recognizer.describe())
    await recognizer.close()
    return Finding("STT", described)


def _stt_check(base_url: str) -> Callable[[], Awaitable[Finding]]:
    async def check() -> Finding:
        if urlsplit(base_url).scheme not in ("http", "https", "ws", "wss"):
            raise ConfigError(f"--stt takes embedded or a URL, not {base_url}")
        from rtcstt.stt.cartesia import Cartesia
        from rtcstt.wire import Handshake

        key = os.environ.get("RTCSTT_STT_KEY") or os.environ.get("CARTESIA_API_KEY")
        stt = Cartesia(api_key=key, base_url=base_url)
        connection = await stt.connect(Handshake(endpoint="turns", model=stt.model))
        await connection.close()
        return Finding("STT", f"{base_url} takes calls{'' if key else ' (without a key)'}")

    return check
