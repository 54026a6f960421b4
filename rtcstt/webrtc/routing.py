"""Whose packets are whose: the tracks of one transport, by what a packet carries (RFC 8843 section 9.2)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_SOURCES = 8  # SSRCs remembered per track; more come only from a broken or hostile sender

T = TypeVar("T")


@dataclass(slots=True)
class _Route(Generic[T]):
    target: T
    mid: str
    payload_types: Collection[int]
    ssrcs: set[int]


class Router(Generic[T]):
    """Finds the target of a packet: by the SSRC it is known by, else by the mid it carries, else by the SSRC
    that the offer named, else by a payload type that only one target takes, else the target that has no
    source yet. ``exclusive``: all sections of the transport are here, so that a lone target gets everything.
    A source that has been found stays where it is.
    """

    def __init__(self, *, exclusive: bool = False) -> None:
        self._exclusive = exclusive
        self._routes: list[_Route[T]] = []
        self._by_ssrc: dict[int, _Route[T]] = {}

    def add(self, target: T, mid: str, payload_types: Collection[int], ssrcs: Iterable[int] = ()) -> None:
        """A target, or what is new about one that is known by its mid."""
        route = next((route for route in self._routes if route.mid == mid), None)
        if route is None:
            self._routes.append(_Route(target, mid, payload_types, set(ssrcs)))
        else:
            route.target, route.payload_types, route.ssrcs = target, payload_types, set(ssrcs)

    def remove(self, mid: str) -> None:
        self._routes = [route for route in self._routes if route.mid != mid]
        self._by_ssrc = {ssrc: route for ssrc, route in self._by_ssrc.items() if route.mid != mid}

    def known(self, ssrc: int) -> T | None:
        route = self._by_ssrc.get(ssrc)
        return route.target if route is not None else None

    def find(self, ssrc: int, payload_type: int, mid: str | None) -> T | None:
        """The target of a packet whose SSRC is not known, or None."""
        route = self._find(ssrc, payload_type, mid)
        return route.target if route is not None else None

    def concerns(self, payload_type: int) -> bool:
        """Whether a packet that found no target may have been meant for one of them."""
        return self._exclusive or any(payload_type in route.payload_types for route in self._routes)

    def learn(self, ssrc: int, target: T) -> int | None:
        """A source's first packet has proved to be genuine. The SSRC that is forgotten for it, if any."""
        route = next(route for route in self._routes if route.target is target)
        forgotten = None
        mine = [known for known, owner in self._by_ssrc.items() if owner is route and known != ssrc]
        if len(mine) >= MAX_SOURCES:
            forgotten = mine[0]
            del self._by_ssrc[forgotten]
        self._by_ssrc[ssrc] = route
        return forgotten

    def _find(self, ssrc: int, payload_type: int, mid: str | None) -> _Route[T] | None:
        if mid is not None:
            return next((route for route in self._routes if route.mid == mid), None)
        named = [route for route in self._routes if ssrc in route.ssrcs]
        if len(named) == 1:
            return named[0]
        able = [route for route in self._routes if payload_type in route.payload_types]
        if not able and self._exclusive and len(self._routes) == 1:
            return self._routes[0]
        if len(able) > 1:  # no way to tell: a track that nobody speaks for, and for which none is named
            spoken_for = {id(route) for route in self._by_ssrc.values()}
            free = [route for route in able if id(route) not in spoken_for]
            able = [route for route in free if not route.ssrcs] or free
        return able[0] if able else None
