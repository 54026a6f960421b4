"""Ports for programs that cannot be told to take any: free for UDP and TCP alike.

They are below the range that the kernel hands out (from 32768) and below those of deploy/sip (from 20000), so
that no socket bound to port 0 takes one between its choice and its use, in whichever process.
"""

from __future__ import annotations

import contextlib
import random
import socket

FIRST, LAST = 10_000, 19_999

_chance = random.Random()  # seeded by the system: test runs side by side choose differently
_given: set[int] = set()


def free_port() -> int:
    return free_range(1)[0]


def free_range(count: int) -> range:
    """That many ports in a row."""
    for _ in range(1000):
        first = _chance.randint(FIRST, LAST - count)
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return ports
    raise AssertionError(f"no {count} ports in a row are free from {FIRST} to {LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        with contextlib.suppress(OSError):
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return True
    return False
