"""Datagrams that nobody asked for, into the UDP port of a call that runs."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time

from tests.fuzz.mutations import mutated
from tests.fuzz.parsers import RTP

STUN = (
    bytes.fromhex("0001004c2112a442")
    + bytes(range(12))
    + bytes.fromhex("00060009")
    + b"abcd:efgh"
    + bytes(51)
)
DTLS = bytes.fromhex("16feff000000000000000000360100002a000000000000002afefd") + bytes(48)
RTCP = bytes.fromhex("80c90001000000018 1ca0004".replace(" ", "")) + bytes(16)
BYE = bytes.fromhex("81cb000100000001")
KINDS = (STUN, DTLS, RTP, RTCP, BYE, b"\x00", b"\x80" * 40, bytes(1400))
AT_ONCE, PAUSE_S = 40, 0.004


def ports_of(sdp: str) -> list[tuple[str, int]]:
    """Where the answer says that the server is to be reached by UDP."""
    found = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", sdp, re.IGNORECASE)
    return [(host, int(port)) for host, port in found if ":" not in host]


async def run(
    addresses: list[tuple[str, int]], seed: int, *, datagrams: int | None = None, seconds: float | None = None
) -> int:
    """How many were sent, from four sockets, until there were so many, or so many ``seconds`` are over."""
    rng, sent = random.Random(seed), 0
    until = None if seconds is None else time.monotonic() + seconds
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    for one in sockets:
        one.setblocking(False)
    try:
        while (datagrams is None or sent < datagrams) and (until is None or time.monotonic() < until):
            for _ in range(AT_ONCE):
                data = mutated(rng, rng.choice(KINDS), longest=1500)
                try:
                    rng.choice(sockets).sendto(data, rng.choice(addresses))
                    sent += 1
                except OSError:  # the buffers are full, or nobody listens there any more
                    await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(PAUSE_S)
    finally:
        for one in sockets:
            one.close()
    return sent
