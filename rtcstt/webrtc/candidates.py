"""ICE candidates as text, and the bounds of what a caller may have us send to (RFC 8445, RFC 8839)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rtcstt.errors import ConfigError
from rtcstt.webrtc.sdp import Description, Section, bad_offer, lines_of, name_of, whole
from rtcstt.wire.hosts import is_address

MAX_CANDIDATES = 64  # of one offer; a browser on many networks sends about 20
AT_ONCE = 8  # of them, that aiortc is given with the offer; the others follow one by one
MAX_CHECKS = 100  # datagrams to addresses that have not shown that they are the caller's
RESERVED_CHECKS = 25  # of them, for those that a check came from
_UFRAG, _PWD = re.compile(r"[A-Za-z0-9+/]{4,256}"), re.compile(r"[A-Za-z0-9+/]{22,256}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What a cloud tells its machines about themselves, secrets included.
_METADATA = ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
_NAMED = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "multicast": ("224.0.0.0/4", "ff00::/8", "255.255.255.255/32"),
    "metadata": _METADATA,
}
DENIED_BY_DEFAULT = ("loopback", "link-local", "multicast", "metadata")


class DeniedPeers:
    """Addresses to which nothing is sent, whatever a caller says.

    ``names``: networks, or one of `DENIED_BY_DEFAULT`. ``served``: our own addresses; where one of them is of
    a named kind (a server on loopback), that kind is not denied. Never denied is nothing but the unspecified
    address, which means this machine.
    """

    def __init__(self, names: Sequence[str] = DENIED_BY_DEFAULT, served: Iterable[str] = ()) -> None:
        """Raises `ConfigError` for what is neither a network nor a name."""
        ours = [ipaddress.ip_address(address) for address in served]
        self._networks: list[Network] = []
        for name in names:
            networks = [self._network(text) for text in _NAMED.get(name, (name,))]
            if name in _NAMED and any(address in network for address in ours for network in networks):
                continue
            self._networks += networks

    def __contains__(self, address: str) -> bool:
        try:
            peer: Address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return True
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return peer.is_unspecified or any(peer in network for network in self._networks)

    @staticmethod
    def _network(text: str) -> Network:
        try:
            return ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise ConfigError(f"deny_peer: {error}; or one of {', '.join(_NAMED)}") from error


class CheckLimit:
    """What connectivity checks one connection may send: none to a denied address, and no more than
    `MAX_CHECKS` datagrams in all to addresses that have not answered one.

    `RESERVED_CHECKS` of them are kept for addresses that checks with the right password came from, so that a
    caller who comes late is still answered.
    """

    def __init__(self, denied: DeniedPeers) -> None:
        self._denied = denied
        self._left = MAX_CHECKS - RESERVED_CHECKS
        self._reserved = RESERVED_CHECKS
        self._came_from: set[tuple[str, int]] = set()
        self._judged: dict[str, bool] = {}
        self.denied = 0
        self.exceeded = 0
        self.ignored = 0  # checks that came from too many addresses

    @property
    def asked_by(self) -> int:
        """From how many addresses checks came."""
        return len(self._came_from)

    @property
    def sent(self) -> int:
        return MAX_CHECKS - self._left - self._reserved

    def note_check(self, address: tuple[str, int]) -> bool:
        """A check with the right password came. Whether it counts: of no more than `MAX_CHECKS` addresses
        one does, since each is remembered, and looked for among all of them with every check."""
        if address not in self._came_from:
            if len(self._came_from) >= MAX_CHECKS:
                self.ignored += 1
                return False
            self._came_from.add(address)
        return True

    def take(self, address: tuple[str, int], *, answered: bool) -> bool:
        """Whether one more check may be sent. ``answered``: the address has answered one before."""
        if answered:
            return True
        if address in self._came_from and self._reserved:
            self._reserved -= 1
        elif self._left:
            self._left -= 1
        else:
            self.exceeded += 1
            return False
        return True

    def is_denied(self, host: str) -> bool:
        judged = self._judged.get(host)
        if judged is None:
            judged = host in self._denied
            if len(self._judged) < 4 * MAX_CHECKS:
                self._judged[host] = judged
        return judged


def has_credentials(ufrag: str, pwd: str) -> bool:
    """Whether both are of the form that RFC 8839 section 5.4 asks for."""
    return _UFRAG.fullmatch(ufrag) is not None and _PWD.fullmatch(pwd) is not None


def usable(offered: Iterable[str]) -> list[str]:
    """The candidates that ICE over UDP can use, cut down to what matters; at most `MAX_CANDIDATES`."""
    found: list[str] = []
    for candidate in offered:
        fields = candidate.split(None, 8)[:8]
        if len(fields) < 8 or fields[1] != "1" or fields[2].lower() != "udp" or fields[6] != "typ":
            continue  # component 1: RTCP is multiplexed
        priority, port = whole(fields[3], 0xFFFFFFFF), whole(fields[5], 65535)
        if len(fields[0]) <= 32 and priority is not None and port and _is_host(fields[4]):
            found.append(" ".join(fields))
            if len(found) == MAX_CANDIDATES:
                break
    return found


def is_mdns(candidate: str) -> bool:
    return candidate.split()[4].endswith(".local")


def address_of(candidate: str) -> str:
    return candidate.split()[4]


def in_fragment(fragment: str) -> list[tuple[str, str]]:
    """The (mid, candidate) pairs of a trickle-ice-sdpfrag (RFC 8840 section 9), bounded; those that are of
    no use are left out. `CallerError` 400 when it is no such fragment."""
    found: list[tuple[str, str]] = []
    mid = ""
    for line in lines_of(fragment):
        if line[1:2] != "=":
            raise bad_offer("That is not a fragment of a session description.", code="bad_fragment")
        value = line.partition(":")[2]
        if name_of(line) == "mid":
            mid = value
        elif name_of(line) == "candidate" and len(found) < MAX_CANDIDATES:
            found += [(mid, candidate) for candidate in usable([value])]
    return found


def restarts_ice(fragment: str, offer: Description) -> bool:
    """Whether a fragment has other credentials than the offer had (RFC 9725 section 4.3.3)."""
    lines = lines_of(fragment)
    for name in ("ice-ufrag", "ice-pwd"):
        offered = {*offer.attributes.get(name, []), *(v for s in offer.sections for v in s.values(name))}
        if any(name_of(line) == name and line.partition(":")[2] not in offered for line in lines):
            return True
    return False


def with_public_address(answer: str, public: str) -> str:
    """The answer of a server behind a NAT that maps ``public`` to its own address, port by port.

    Each local address gets a server-reflexive candidate besides (RFC 8445 section 5.1.1.2), and stays: for
    callers on the same network it is the shorter way.
    """
    described = Description.parse(answer)
    return str(replace(described, sections=tuple(_with_public(s, public) for s in described.sections)))


def _is_host(text: str) -> bool:
    """An address, or a name of mDNS; other names are not looked up."""
    return len(text) <= 255 if text.endswith(".local") else is_address(text)


def _with_public(section: Section, public: str) -> Section:
    known = {tuple(candidate.split()[4:6]) for candidate in section.values("candidate")}
    lines = []
    for line in section.lines:
        lines.append(line)
        fields = line.split()
        if name_of(line) != "candidate" or fields[7] != "host" or (public, fields[5]) in known:
            continue
        host = ipaddress.ip_address(fields[4])
        if host.version == ipaddress.ip_address(public).version and not host.is_loopback:
            lines.append(_reflexive(fields, public))
    return Section(tuple(lines))


def _reflexive(host: list[str], public: str) -> str:
    """A host candidate's line, in fields, as its public side. Another kind has another foundation, which is
    at most 32 characters long, and a lower priority by the type's preference (RFC 8445 section 5.1.2.2)."""
    foundation, component, transport, priority, address, port = host[:6]
    priority = str(int(priority) - ((126 - 100) << 24))
    fields = [foundation[:-1] + "p", component, transport, priority, public, port]
    return " ".join([*fields, "typ", "srflx", "raddr", address, "rport", port])
