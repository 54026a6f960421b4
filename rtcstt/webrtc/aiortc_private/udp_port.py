"""Behind aioice: one UDP port for all connections of a process (entry 15)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from typing import Any, cast

from aioice.ice import StunProtocol, get_host_addresses

from rtcstt.errors import ConfigError
from rtcstt.webrtc.aiortc_private.ice import MAX_DATAGRAM, host_candidate
from rtcstt.webrtc.demultiplexing import Demultiplexer

log = logging.getLogger(__name__)

RECEIVE_BUFFER = 4 << 20  # bytes, of each socket: it takes the bursts of all calls


class UdpPort:
    """The port, at each local address where connections want it. `open` it, `close` it at the end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._sockets: dict[str, _Socket] = {}

    @property
    def unknown(self) -> int:
        """Datagrams that were nobody's."""
        return sum(one.demultiplexer.unknown for one in self._sockets.values())

    @property
    def connections(self) -> int:
        return sum(len(one.demultiplexer) for one in self._sockets.values())

    async def open(self, hosts: Iterable[str] = (), *, loopback: bool = False) -> None:
        """Take the port now: `ConfigError` where it is free at none of the addresses."""
        addresses = list(hosts) or get_host_addresses(use_ipv4=True, use_ipv6=True)
        for address in [*addresses, *(["127.0.0.1"] if loopback or not addresses else [])]:
            await self._socket(address)
        if not self._sockets:
            raise ConfigError(f"UDP port {self.port} cannot be used at any local address")

    def close(self) -> None:
        for one in self._sockets.values():
            one.transport.close()
        self._sockets.clear()

    async def attach(self, connection: Any, component: int, address: str) -> Any:
        """The port as a socket of one connection; None where it is not to be had at this address."""
        shared = await self._socket(address)
        return shared.attach(connection, component) if shared is not None else None

    async def _socket(self, address: str) -> _Socket | None:
        if address not in self._sockets:
            loop = asyncio.get_running_loop()
            try:
                _, made = await loop.create_datagram_endpoint(_Socket, local_addr=(address, self.port))
            except OSError as error:
                log.warning("UDP port %d cannot be used at %s: %s", self.port, address, error)
                return None
            if self.port == 0:
                self.port = made.transport.get_extra_info("sockname")[1]
            self._sockets.setdefault(address, made)
        return self._sockets[address]


class _Socket(asyncio.DatagramProtocol):
    """One address of the port."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.demultiplexer: Demultiplexer[Any] = Demultiplexer()
        self._clock = asyncio.get_running_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        if hasattr(transport, "max_size"):
            transport.max_size = MAX_DATAGRAM
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        source = address[0], address[1]  # IPv6 has four
        protocol = self.demultiplexer.target(data, source, self._clock())
        if protocol is not None:
            protocol.datagram_received(data, source)

    def attach(self, connection: Any, component: int) -> Any:
        protocol = StunProtocol(connection)
        protocol.connection_made(_Face(self, protocol))  # type: ignore[arg-type]
        host, port = self.transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = host_candidate(component, host, port)
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

    def __init__(self, shared: _Socket, protocol: Any) -> None:
        self._shared = shared
        self._protocol = protocol
        self._closed = False

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        if not self._closed and not self._shared.transport.is_closing():
            self._shared.demultiplexer.sent(data, address, self._protocol)
            self._shared.transport.sendto(data, address)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._shared.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shared.demultiplexer.remove(self._protocol)
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close
