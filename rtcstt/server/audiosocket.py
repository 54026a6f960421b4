"""Asterisk's AudioSocket: one TCP connection for each call, with its audio in frames.

A frame is one byte for its kind, two for the length of what follows (big-endian), and that. The first one
says the call's UUID, which becomes its label. The protocol knows no password: who may connect is told
by address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from rtcstt import logs
from rtcstt.call import Call
from rtcstt.errors import CallerError, ConfigError
from rtcstt.events import AudioIgnored, Dtmf
from rtcstt.http.giving_way import GivingWay
from rtcstt.http.serving import accepted, listen
from rtcstt.media.dtmf import KEYS
from rtcstt.server import addresses
from rtcstt.server.addresses import Networks
from rtcstt.server.admission import Requester
from rtcstt.server.calls import Calls
from rtcstt.server.intake import TIMING, Intake, Timing
from rtcstt.server.options import host_and_port
from rtcstt.server.returning import gateway_key, rejoin
from rtcstt.server.stated_formats import Form
from rtcstt.wire.hosts import is_loopback

log = logging.getLogger(__name__)

TERMINATE, UUID, DTMF, ERROR = 0x00, 0x01, 0x03, 0xFF
# Signed linear at these rates; 0x10 is what Asterisk sends, the others came with version 22.
_HZ = (8000, 12000, 16000, 24000, 32000, 44100, 48000, 96000, 192000)
RATES = dict(zip(range(0x10, 0x19), _HZ, strict=True))
MAYBE_AUDIO = range(0x19, 0x20)  # of later versions: 0x10 to 0x1f are for signed linear
TRACK = "0"
MAX_CONNECTIONS = 1000


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and from where connections are taken; ``sources`` empty: from anywhere."""

    host: str
    port: int
    sources: Networks = field(default_factory=Networks)

    @classmethod
    def parse(cls, listen: str, sources: Sequence[str]) -> Address:
        """Raises `ConfigError` when it is none, or when anybody could use it."""
        host, port = host_and_port(listen, "--audiosocket")
        try:
            networks = Networks(sources)
            if host != "localhost":
                ipaddress.ip_address(host)
        except ValueError as error:
            raise ConfigError(f"--audiosocket: {error}") from error
        if not networks and not is_loopback(host):
            raise ConfigError(
                f"--audiosocket {listen} needs --audiosocket-from: AudioSocket has no passwords, so anybody "
                "could place calls"
            )
        return cls(host, port, networks)

    def takes(self, source: str) -> bool:
        return not self.sources or addresses.parse(source) in self.sources


def during(
    calls: Calls,
    address: Address,
    ready: Callable[[int], None] = lambda port: None,
    *,
    reuse_port: bool = False,
    timing: Timing = TIMING,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """For `web.Application.cleanup_ctx`: listens for as long as the application runs. ``ready`` is told the
    port. ``reuse_port``: other processes listen there as well, and the system shares connections out. A
    connection of which no frame came for ``timing.silent_s`` is closed."""

    async def run(_: web.Application) -> AsyncIterator[None]:
        gateway = _Gateway(calls, address, timing)
        listening = await listen(address.host, address.port, reuse_port=reuse_port)
        port = listening[0].getsockname()[1]
        log.info("listening for AudioSocket on %s port %d", address.host, port)
        for one in listening:
            one.listen()
            one.setblocking(False)
        accepting = [asyncio.create_task(gateway.accept(one)) for one in listening]
        ready(port)
        yield
        await _cancelled(accepting)
        for one in listening:
            one.close()
        await gateway.close()

    return run


class _Gateway:
    """The connections of one address, each in a task of its own."""

    def __init__(self, calls: Calls, address: Address, timing: Timing) -> None:
        self._calls = calls
        self._address = address
        self._timing = timing
        self._connections: set[asyncio.Task[None]] = set()

    async def accept(self, listening: socket.socket) -> None:
        """Until cancelled."""
        async for client in accepted(listening):
            try:
                source = client.getpeername()[0]
            except OSError:  # they have left
                source = None
            if source is None or len(self._connections) >= MAX_CONNECTIONS or not self._address.takes(source):
                client.close()
                continue
            task = asyncio.create_task(self._connected(client, source))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        await _cancelled(list(self._connections))

    async def _connected(self, client: socket.socket, source: str) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            await _serve(self._calls, reader, writer, source, self._timing)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the other end has left
        finally:
            writer.close()


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(
    calls: Calls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, timing: Timing
) -> None:
    async with asyncio.timeout(timing.start_s):
        kind, id, _ = await _frame(reader)
    if kind != UUID or len(id) != 16:
        log.info("a connection that is no AudioSocket was closed")
        return
    name, by = str(uuid.UUID(bytes=id)), Requester(address=source)
    key = gateway_key(by, "AudioSocket", name)
    try:
        # Its server died, and the dial plan tries again.
        call = await rejoin(calls, key, by, several=True)
        if call is None:
            call = calls.begin(by=by, label=name, metadata={"uuid": name}, key=key)
    except CallerError as error:
        log.warning("an AudioSocket was refused: %s", error.message)
        writer.write(bytes((TERMINATE, 0, 0)))
        return
    with logs.about_call(call.id):
        watching = asyncio.create_task(_hang_up_with(call, writer))
        try:
            await _receive(call, reader, timing)
        finally:
            call.hang_up("hung up")
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _receive(call: Call, reader: asyncio.StreamReader, timing: Timing) -> None:
    """Until the other end hangs up, leaves, or is silent for too long. Frames of other kinds are skipped."""
    intake: tuple[int, Intake] | None = None
    skipped: Counter[int] = Counter()
    others = GivingWay()
    is_whole = True
    while is_whole:
        await others.turn()
        async with asyncio.timeout(timing.silent_s):
            kind, data, is_whole = await _frame(reader)
        if kind in (TERMINATE, ERROR):
            return
        if kind == DTMF and len(data) == 1 and chr(data[0]).upper() in KEYS:
            call.publish(Dtmf(track=TRACK, digit=chr(data[0]).upper(), duration_ms=0))
            continue
        if kind not in RATES:
            skipped[kind] += 1
            if skipped[kind] == 1 and kind not in (UUID, DTMF):
                reason = f"AudioSocket frames of kind 0x{kind:02x} arrive, which hold no audio known here"
                call.publish(AudioIgnored(track=TRACK, reason=reason))
            if kind in MAYBE_AUDIO:
                intake = intake or (kind, Intake(call, [TRACK], Form("pcm_s16le")))
                intake[1].drop()
            continue
        if intake is None or intake[0] != kind:
            intake = kind, Intake(call, [TRACK], Form("pcm_s16le", RATES[kind]))
        await intake[1].push(data)


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Its kind, what it holds, and whether it is whole: one may be cut by the end of the connection."""
    head = await reader.readexactly(3)
    try:
        return head[0], await reader.readexactly(int.from_bytes(head[1:], "big")), True
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return head[0], getattr(error, "partial", b""), False


async def _hang_up_with(call: Call, writer: asyncio.StreamWriter) -> None:
    await call.wait_closed()
    with contextlib.suppress(ConnectionError):
        writer.write(bytes((TERMINATE, 0, 0)))
    writer.close()
