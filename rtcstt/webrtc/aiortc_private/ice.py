"""Behind aioice: gathering, ports, consent, and the bounds of what is sent (entries 7 and 9 to 12)."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, get_host_addresses, server_reflexive_candidate
from aioice.stun import Class
from aioice.turn import UDP_SOCKET_BUFFER_SIZE
from aiortc.rtcdtlstransport import RTCDtlsTransport

from rtcstt.webrtc.candidates import CheckLimit

log = logging.getLogger(__name__)

ADDRESSES_S = 1.0  # how old what is known of the machine's addresses may be
MAX_DATAGRAM = 4096  # bytes; what comes over real networks has at most 1500


def shape_gathering(
    dtls: RTCDtlsTransport,
    *,
    timeout_s: float,
    hosts: Sequence[str],
    loopback: bool,
    ports: range | Port | None = None,
) -> None:
    """Cap candidate gathering, and choose the addresses: ``hosts`` alone where given, else all that
    the machine has, and loopback where asked for or where there is no other. And the ``ports``, or the one
    that all connections share."""
    connection: Any = dtls.transport._connection
    gather = connection.get_component_candidates

    async def gather_shaped() -> None:
        if connection._local_candidates_start:
            return
        connection._local_candidates_start = True
        chosen = list(hosts or _addresses(int(time.monotonic() / ADDRESSES_S)))
        if not chosen or (loopback and "127.0.0.1" not in chosen):
            chosen.append("127.0.0.1")
        for component in connection._components:
            if ports is not None:
                found = await _gather_on_ports(connection, gather, component, chosen, timeout_s, ports)
            else:
                found = await gather(component=component, addresses=chosen, timeout=timeout_s)
            connection._local_candidates += found
        connection._local_candidates_end = True

    connection.gather_candidates = gather_shaped


@lru_cache(1)
def _addresses(period: int) -> tuple[str, ...]:
    """The machine's, but for loopback. To ask takes a millisecond and more where there are many, so it is
    asked once in a while, and not by each transport."""
    return tuple(get_host_addresses(use_ipv4=True, use_ipv6=True))


def host_candidate(component: int, host: str, port: int) -> Candidate:
    return Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, "host"),
        host=host,
        port=port,
        type="host",
    )


class Port(Protocol):
    """A port that connections share; see `udp_port.UdpPort`."""

    async def attach(self, connection: Any, component: int, address: str) -> Any: ...


async def _gather_on_ports(
    connection: Any,
    gather: Any,
    component: int,
    addresses: Sequence[str],
    limit_s: float,
    ports: range | Port,
) -> list[Candidate]:
    protocols = []
    for address in addresses:
        if isinstance(ports, range):
            protocol = await _bound(connection, component, address, ports)
        else:
            protocol = await ports.attach(connection, component, address)
        if protocol is not None:
            protocols.append(protocol)
            connection._protocols.append(protocol)
    relayed, reflexive = await asyncio.gather(
        gather(component=component, addresses=[], timeout=limit_s),
        _reflexive_of(protocols, connection.stun_server, limit_s),
    )
    return [*(protocol.local_candidate for protocol in protocols), *reflexive, *relayed]


async def _bound(connection: Any, component: int, address: str, ports: range) -> Any:
    """A socket of the connection on one of the ports, None when none of them is free at this address."""
    loop, first = asyncio.get_running_loop(), random.randrange(len(ports))
    for port in (*ports[first:], *ports[:first]):
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, port)
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            log.warning("cannot receive at %s: %s", address, error)  # an address that went, for one
            return None
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_SOCKET_BUFFER_SIZE
        )
        protocol.local_candidate = host_candidate(component, transport.get_extra_info("sockname")[0], port)
        return protocol
    log.warning("no UDP port from %d to %d is free at %s", ports[0], ports[-1], address)
    return None


async def _reflexive_of(protocols: list[Any], stun_server: Any, timeout_s: float) -> list[Candidate]:
    """What a STUN server sees of the sockets, as far as it answers in time."""
    asking = [
        asyncio.create_task(server_reflexive_candidate(protocol, stun_server))
        for protocol in protocols
        if stun_server and ":" not in protocol.local_candidate.host  # as aioice: IPv4 only
    ]
    try:
        if asking:
            await asyncio.wait(asking, timeout=timeout_s)
    finally:
        for task in asking:
            task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    return [answer[0] for answer in answers if not isinstance(answer, BaseException)]


def read_datagrams_only(transport: Any) -> None:
    if hasattr(transport, "max_size"):  # not that of a TURN relay, nor of another event loop
        transport.max_size = MAX_DATAGRAM


def note_checks(connection: Any, note: Callable[[], None]) -> None:
    """``note`` when a check with the right password came."""
    check = connection.check_incoming

    def check_incoming(message: Any, address: tuple[str, int], protocol: Any) -> None:
        note()
        check(message, address, protocol)

    connection.check_incoming = check_incoming


def ask_twice(protocol: Any, answered: Callable[[], None]) -> None:
    """The second time is when the first has had no answer; one to either will do, for 1.5 s in all.
    ``answered`` is told of each answer with the right password."""
    request = protocol.request

    async def request_patiently(*args: Any, retransmissions: int | None = None, **kwargs: Any) -> Any:
        again = 1 if retransmissions == 0 else retransmissions  # only those of consent are sent just once
        answer = await request(*args, retransmissions=again, **kwargs)
        answered()
        return answer

    protocol.request = request_patiently


def limit_checks(connection: Any, protocol: Any, limit: CheckLimit) -> None:
    """Hold what ICE sends through one socket to a limit. Addresses that have answered are the caller's own;
    those from which a check came with the right password may be forged, but hardly more than a few are."""
    send, check = protocol.send_stun, connection.check_incoming

    def send_stun(message: Any, address: tuple[str, int]) -> None:
        answered = any(pair.remote_addr == address for pair in connection._nominated.values())
        if limit.is_denied(address[0]):
            limit.denied += 1
        elif message.message_class is not Class.REQUEST or limit.take(address, answered=answered):
            send(message, address)

    def check_incoming(message: Any, address: tuple[str, int], protocol: Any) -> None:
        if limit.note_check(address):
            check(message, address, protocol)

    protocol.send_stun = send_stun
    if getattr(connection, "_limit", None) is not limit:  # once, though it has several sockets
        connection._limit = limit
        connection.check_incoming = check_incoming
