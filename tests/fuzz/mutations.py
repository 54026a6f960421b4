"""Bytes and texts that nobody expects, made from those that somebody does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (
    "0",
    "-1",
    "1e999",
    "NaN",
    "1" * 5000,
    "4294967296",
    "2147483647",
    "-2147483649",
    "\u0663",
    "0x10",
    "",
)
TEXTS = (
    "",
    " ",
    "\x00",
    "\ud800",
    "\U0001f600",
    "%00",
    "../../etc/passwd",
    "a" * 10_000,
    "\r\n",
    "null",
    "{}",
    "[]",
)
NESTED = ("[" * 2000 + "]" * 2000, '{"a":' * 500 + "1" + "}" * 500)


def flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ (1 << rng.randrange(8)),)) + data[at + 1 :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def drop(rng: random.Random, data: bytes) -> bytes:
    first, last = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:first] + data[last:]


def repeat(rng: random.Random, data: bytes) -> bytes:
    first, last = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:last] + data[first:last] * rng.randint(1, 20) + data[last:]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    odd = rng.choice((*NUMBERS, *TEXTS, *NESTED)).encode("utf-8", "surrogatepass")
    return data[:at] + (odd if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 64))) + data[at:]


def replace_number(rng: random.Random, data: bytes) -> bytes:
    """One run of digits becomes another number."""
    digits = [index for index, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return insert(rng, data)
    first = last = rng.choice(digits)
    while last < len(data) and 48 <= data[last] <= 57:
        last += 1
    return data[:first] + rng.choice(NUMBERS).encode() + data[last:]


def shuffle_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


MUTATIONS: Sequence[Callable[[random.Random, bytes], bytes]] = (
    *(flip, cut, drop, repeat, insert, replace_number, replace_number, shuffle_lines),
)


def mutated(rng: random.Random, data: bytes, *, most: int = 4, longest: int = 300_000) -> bytes:
    """``data`` after none to ``most`` mutations."""
    for _ in range(rng.randint(0, most)):
        data = rng.choice(MUTATIONS)(rng, data)[:longest]
    return data
