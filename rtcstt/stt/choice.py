"""Which of several speech-to-text servers takes the next connection; a core, time is an argument."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rtcstt.limits import backoff

FULL_S = 1.0  # a server that is full is asked last for so long
FIRST_S, LONGEST_S = 1.0, 30.0  # one that does not answer, longer each time

S = TypeVar("S", bound=Hashable)


@dataclass(slots=True)
class _Known:
    open: int = 0
    failures: int = 0
    rests_until: float = 0.0
    chosen: int = 0


class Choice(Generic[S]):
    """What is known of each server: the connections that are open from here, and how it last answered."""

    def __init__(self) -> None:
        self._known: dict[S, _Known] = {}
        self._count = 0

    def order(self, servers: Iterable[S], now: float) -> list[S]:
        """In which order they are to be tried: the least busy first, and those that did not answer last."""
        found = {server: self._known.setdefault(server, _Known()) for server in servers}
        self._known = {s: known for s, known in self._known.items() if s in found or known.open}

        def rank(server: S) -> tuple[float, int, int]:
            known = found[server]
            rests = known.rests_until if known.rests_until > now else 0.0
            return rests, known.open, known.chosen

        return sorted(found, key=rank)

    def opened(self, server: S) -> None:
        known = self._known.setdefault(server, _Known())
        self._count += 1
        known.open += 1
        known.failures, known.rests_until, known.chosen = 0, 0.0, self._count

    def closed(self, server: S) -> None:
        self._known[server].open -= 1

    def full(self, server: S, now: float) -> None:
        """It answered 429 or 503."""
        self._known.setdefault(server, _Known()).rests_until = now + FULL_S

    def failed(self, server: S, now: float) -> None:
        """It did not answer."""
        known = self._known.setdefault(server, _Known())
        known.failures += 1
        known.rests_until = now + backoff(known.failures, FIRST_S, LONGEST_S)
