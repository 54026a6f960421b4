"""Who asks: networks that are believed, and the address of a caller behind proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Networks:
    """A list of addresses and networks; `ValueError` when one of them is none."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in texts]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def parse(text: str) -> Address | None:
    """An address as sockets and headers have it: perhaps with a port, in brackets, or with a zone."""
    text = text.strip().strip('"')
    if match := re.fullmatch(r"\[(.*)\](:\d+)?|([^:]*):\d+", text):
        text = match[1] or match[3] or ""
    try:
        address = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def caller(peer: str, forwarded_for: Sequence[str], forwarded: Sequence[str], trusted: Networks) -> str:
    """The address that a request comes from: ``peer``, or what a trusted peer says of it.

    Each proxy adds at the right whom it was asked by, so only what stands right of the first untrusted
    address is believed. ``forwarded_for`` and ``forwarded`` are the lines of the two headers; where both are
    there and disagree, the proxy has set one and the caller the other, and neither is believed.
    """
    address = parse(peer)
    if address not in trusted:
        return peer
    said = [line.split(",") for line in forwarded_for]
    hops = [parse(hop) for hops in said for hop in hops]
    others = [_for(element) for line in forwarded for element in line.split(",")]
    if hops and others and hops != others:
        return peer
    for hop in reversed(hops or others):
        if hop is None:
            break
        address = hop
        if hop not in trusted:
            break
    return str(address)


def _for(element: str) -> Address | None:
    """Of one element of the Forwarded header (RFC 7239 section 4)."""
    pairs = (pair.partition("=") for pair in element.split(";"))
    return next((parse(value) for name, _, value in pairs if name.strip().lower() == "for"), None)
