"""Behind aioice: one UDP port for all connections of a process (entry 15)."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Iterable
from typing import Any

from aioice.ice import StunProtocol, get_host_addresses

from rtcstt.errors import ConfigError
from rtcstt.webrtc.aiortc_private.ice import MAX_DATAGRAM, host_candidate
from rtcstt.webrtc.demultiplexing import Demultiplexer

log = logging.getLogger(__name__)

RECEIVE_BUFFER = 4 << 20  # bytes, of each socket: it takes the bursts of all calls
READS_AT_ONCE = 32  # datagrams, before the event loop turns to others
ANCILLARY_BYTES = 128
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # Python names it since 3.14; 8 is Linux'


class UdpPort:
    """The port at every local address, by one socket for IPv4 and one for IPv6. `open` it, `close` it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._sockets: dict[int, _Socket] = {}
        self._taken = ""

    @property
    def unknown(self) -> int:
        """Datagrams that were nobody's."""
        return sum(one.unknown for one in self._sockets.values())

    @property
    def connections(self) -> int:
        places = [place for one in self._sockets.values() for place in one.places.values()]
        return sum(len(place.demultiplexer) for place in places)

    async def open(self, hosts: Iterable[str] = (), *, loopback: bool = False) -> None:
        """Take the port now: `ConfigError` where another program has it, for IPv4 or for IPv6, or it can be
        used at none of the addresses, or not on Linux."""
        if sys.platform != "linux":
            raise ConfigError("one UDP port for all calls needs Linux: --udp-ports works elsewhere")
        addresses = list(hosts) or get_host_addresses(use_ipv4=True, use_ipv6=True)
        for address in [*addresses, *(["127.0.0.1"] if loopback or not addresses else [])]:
            self._place(address)
        if self._taken:
            raise ConfigError(f"UDP port {self.port} is in use by another program (for {self._taken})")
        if not self._sockets:
            raise ConfigError(f"UDP port {self.port} cannot be used at any local address")

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()

    async def attach(self, connection: Any, component: int, address: str) -> Any:
        """The port as a socket of one connection; None where it cannot be used at this address."""
        place = self._place(address)
        return place.attach(connection, component) if place is not None else None

    def _place(self, address: str) -> _Place | None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if family not in self._sockets:
            try:
                self._sockets[family] = _Socket(family, self.port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    self._taken = "IPv6" if family == socket.AF_INET6 else "IPv4"
                log.warning("UDP port %d cannot be used at %s: %s", self.port, address, error)
                return None
            self.port = self._sockets[family].port
        return self._sockets[family].place(address)


class _Socket:
    """All addresses of one family. The kernel says with each datagram which of them it came to, and is told
    which one it leaves from: an answer from another address would be none (RFC 8445 section 7.2.5.2.1)."""

    def __init__(self, family: int, port: int) -> None:
        self.places: dict[bytes, _Place] = {}
        self.unknown_places = 0
        "Datagrams to addresses at which no connection was made."
        self.overflowed = 0
        "Datagrams that the kernel had no room for; ICE and the callers bear the loss of any."
        self._loop = asyncio.get_running_loop()
        self._is_v6 = family == socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if self._is_v6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.setblocking(False)
            self._socket.bind(("::" if self._is_v6 else "0.0.0.0", port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._loop.add_reader(self._socket, self._read)

    @property
    def unknown(self) -> int:
        return self.unknown_places + sum(place.demultiplexer.unknown for place in self.places.values())

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    def place(self, address: str) -> _Place:
        packed = socket.inet_pton(socket.AF_INET6 if self._is_v6 else socket.AF_INET, address.split("%")[0])
        return self.places.setdefault(packed, _Place(self, address, packed))

    def close(self) -> None:
        if not self.is_closed:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def send(self, data: bytes, address: tuple[str, int], source: bytes) -> None:
        if self._is_v6:
            about = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source + bytes(4))
        else:
            about = (socket.IPPROTO_IP, IP_PKTINFO, bytes(4) + source + bytes(4))
        try:
            self._socket.sendmsg([data], [about], 0, address)
        except BlockingIOError:
            self.overflowed += 1
        except OSError as error:  # nobody listens there, or there is no way
            log.debug("to %s: %s", address[0], error)

    def _read(self) -> None:
        now = self._loop.time()
        for _ in range(READS_AT_ONCE):
            try:
                data, about, _, address = self._socket.recvmsg(MAX_DATAGRAM, ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP message about something that was sent
                log.debug("receiving: %s", error)
                continue
            place = self.places.get(self._destination(about))
            if place is not None:
                place.received(data, (address[0], address[1]), now)  # IPv6 has four
            else:
                self.unknown_places += 1

    def _destination(self, about: list[tuple[int, int, bytes]]) -> bytes:
        for _, kind, value in about:
            if self._is_v6 and kind == socket.IPV6_PKTINFO:
                return value[:16]
            if not self._is_v6 and kind == IP_PKTINFO:
                return value[8:12]
        return b""


class _Place:
    """One address of the port."""

    def __init__(self, shared: _Socket, address: str, packed: bytes) -> None:
        self.shared = shared
        self.demultiplexer: Demultiplexer[Any] = Demultiplexer()
        self._address = address
        self._packed = packed
        self._clock = asyncio.get_running_loop().time

    @property
    def name(self) -> tuple[str, int]:
        return self._address, self.shared.port

    def received(self, data: bytes, source: tuple[str, int], now: float) -> None:
        protocol = self.demultiplexer.target(data, source, now)
        if protocol is None:
            return
        try:
            protocol.datagram_received(data, source)
        except Exception:  # as asyncio does: one connection's fault is not another's
            log.exception("a datagram could not be taken")

    def send(self, data: bytes, address: tuple[str, int], protocol: Any) -> None:
        self.demultiplexer.sent(data, address, protocol)
        self.shared.send(data, address, self._packed)

    def attach(self, connection: Any, component: int) -> Any:
        protocol = StunProtocol(connection)
        protocol.connection_made(_Face(self, protocol))  # type: ignore[arg-type]
        protocol.local_candidate = host_candidate(component, *self.name)
        self.demultiplexer.add(connection.local_username, protocol)
        self._bind_with_checks(connection)
        return protocol

    def _bind_with_checks(self, connection: Any) -> None:
        check = connection.check_incoming

        def check_incoming(message: Any, address: tuple[str, int], protocol: Any) -> None:
            self.demultiplexer.checked(address, protocol, self._clock())
            check(message, address, protocol)

        connection.check_incoming = check_incoming


class _Face:
    """What one connection takes for its own transport."""

    def __init__(self, place: _Place, protocol: Any) -> None:
        self._place = place
        self._protocol = protocol
        self._closed = False

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        if not self._closed and not self._place.shared.is_closed:
            self._place.send(data, address, self._protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._place.name if name == "sockname" else default

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._place.demultiplexer.remove(self._protocol)
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close
