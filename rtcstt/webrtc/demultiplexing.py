"""Whose datagram is whose, where many connections share one UDP port.

A STUN request is for the connection whose username it carries (RFC 8445 section 7.3), a response for the one
that asked, and everything else for the one that the source address is bound to: an address is bound once a
check with the right password came from it, or it answered one of ours. A caller whose address changes is
found again by its next check. An address stays with its connection while that connection is in use, so that
nobody can draw another caller's packets to their own by a forged check.

A core: bytes and addresses in, a decision out. ``now`` is in s of any monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_ADDRESSES = 16  # of one connection
MAX_TRANSACTIONS = 8192  # requests of ours that wait for their answers
IN_USE_S = 15.0  # after its last check an address may go to another connection
_COOKIE = b"\x21\x12\xa4\x42"
_USERNAME = 0x0006

Address = tuple[str, int]
T = TypeVar("T")


@dataclass(eq=False)
class _Connection(Generic[T]):
    target: T
    remote: str | None = None  # the first part of the caller's own credentials, where that is known
    addresses: OrderedDict[Address, float] = field(default_factory=OrderedDict)  # and their last checks


class Demultiplexer(Generic[T]):
    """`add` a connection by its username fragment, `remove` it at its end; `target` for each datagram."""

    def __init__(self) -> None:
        self.unknown = 0
        "Datagrams that were nobody's."
        self._by_ufrag: dict[str, list[_Connection[T]]] = {}
        self._by_address: dict[Address, _Connection[T]] = {}
        self._by_transaction: OrderedDict[bytes, tuple[_Connection[T], Address]] = OrderedDict()
        self._connections: dict[int, _Connection[T]] = {}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def addresses(self) -> int:
        return len(self._by_address)

    def add(self, ufrag: str, target: T) -> None:
        connection = _Connection(target)
        self._by_ufrag.setdefault(ufrag, []).append(connection)
        self._connections[id(target)] = connection

    def remove(self, target: T) -> None:
        connection = self._connections.pop(id(target), None)
        if connection is None:
            return
        for address in connection.addresses:
            self._by_address.pop(address, None)
        for ufrag, its in list(self._by_ufrag.items()):
            kept = [other for other in its if other is not connection]
            if kept:
                self._by_ufrag[ufrag] = kept
            else:
                del self._by_ufrag[ufrag]
        waiting = self._by_transaction.items()
        self._by_transaction = OrderedDict((k, pair) for k, pair in waiting if pair[0] is not connection)

    def target(self, data: bytes, address: Address, now: float) -> T | None:
        """For whom a datagram is; None where it is nobody's."""
        connection = self._find(data, address, now)
        if connection is None:
            self.unknown += 1
            return None
        return connection.target

    def sent(self, data: bytes, address: Address, target: T) -> None:
        """A datagram leaves. Its answer will be for the same connection, where it is a STUN request."""
        if not is_stun(data) or data[0] & 1 or data[1] & 0x10:
            return
        connection = self._connections.get(id(target))
        if connection is not None:
            self._by_transaction[data[8:20]] = connection, address
            if len(self._by_transaction) > MAX_TRANSACTIONS:
                self._by_transaction.popitem(last=False)

    def checked(self, address: Address, target: T, now: float) -> None:
        """A check with the right password came from ``address`` for a connection."""
        connection = self._connections.get(id(target))
        if connection is None:
            return
        owner = self._by_address.get(address)
        if owner is not None and owner is not connection:
            if now - owner.addresses[address] < IN_USE_S:
                return
            del owner.addresses[address]
        self._by_address[address] = connection
        connection.addresses[address] = now
        connection.addresses.move_to_end(address)
        if len(connection.addresses) > MAX_ADDRESSES:
            oldest, _ = connection.addresses.popitem(last=False)
            del self._by_address[oldest]

    def _find(self, data: bytes, address: Address, now: float) -> _Connection[T] | None:
        if not is_stun(data):
            return self._by_address.get(address)
        if not data[0] & 1 and not data[1] & 0x10:  # a request
            return self._asked(data, address)
        if data[0] & 1:  # a response, or an error
            asked = self._by_transaction.get(data[8:20])
            if asked is None or asked[1] != address:
                return None
            del self._by_transaction[data[8:20]]
            if not data[1] & 0x10:
                self.checked(address, asked[0].target, now)
            return asked[0]
        return self._by_address.get(address)  # an indication

    def _asked(self, data: bytes, address: Address) -> _Connection[T] | None:
        ours, _, theirs = username_of(data).partition(":")
        its = self._by_ufrag.get(ours, [])
        if len(its) < 2:
            return its[0] if its else None
        # Transports of one caller that share our credentials: by the caller's own, or by who sent there.
        known = next((c for c in its if c.remote == theirs or address in c.addresses), None)
        connection = known or next((c for c in its if c.remote is None), None)
        if connection is not None:
            connection.remote = theirs
        return connection


def is_stun(data: bytes) -> bool:
    """RFC 7983 section 7, and the magic cookie of RFC 8489 section 5."""
    return len(data) >= 20 and data[0] < 4 and data[4:8] == _COOKIE


def username_of(data: bytes) -> str:
    """The USERNAME of a STUN message, empty where it has none or is broken."""
    at, end = 20, min(len(data), 20 + int.from_bytes(data[2:4], "big"))
    while at + 4 <= end:
        kind, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == _USERNAME:
            value = data[at + 4 : at + 4 + length]
            return value.decode("ascii", "replace") if len(value) == length else ""
        at += 4 + length + -length % 4
    return ""
