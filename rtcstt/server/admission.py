"""Whether a server has room for another call; a core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtcstt.errors import CallerError
from rtcstt.limits import Reservation, Slots
from rtcstt.wire.hosts import is_loopback

RETRY_S = 10  # what a caller is told who finds no room
CALLS_PER_ADDRESS = 32


@dataclass(frozen=True, slots=True)
class Requester:
    """Who placed a call: a digest of their token (empty where none is needed), their address, and whether
    they may have what is said."""

    identity: str = ""
    address: str = ""
    may_listen: bool = True


ANYBODY = Requester()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What calls a server takes, and for how long; times in seconds."""

    max_calls: int = 100
    max_calls_per_address: int | None = None
    "None: ``calls_per_stranger``, but no limit for gateways, and for this machine's own, where proxies are."
    calls_per_stranger: int = CALLS_PER_ADDRESS
    max_calls_per_token: int | None = None
    max_call_s: float = 4 * 3600.0
    idle_s: float = 3600.0
    "Without a packet; muted browsers may send none, so this is no sign of a lost caller."
    resume_grace_s: float = 30.0
    keep_ended_s: float = 3600.0
    keep_ended: int = 200
    "Calls that can still be read after their end, at most."

    def calls_of(self, address: str, *, gateway: bool) -> int | None:
        """How many calls at once are taken from an address; None: any number."""
        if self.max_calls_per_address is not None:
            return self.max_calls_per_address
        return None if gateway or not address or is_loopback(address) else self.calls_per_stranger


class Admission:
    """Counts whom it ``refused``. ``streams``: what the STT takes at once; each track needs one."""

    def __init__(self, limits: Limits, streams: Slots) -> None:
        self.limits = limits
        self.streams = streams
        self.stopping = False
        self.refused = 0

    def capacity(self, open_calls: int) -> int:
        """Calls at once, at most; no more than there are streams for."""
        streams = self.streams.capacity
        if streams is None:
            return self.limits.max_calls
        return min(self.limits.max_calls, open_calls + max(0, streams - self.streams.used))

    def check(self, by: Requester, others: Sequence[Requester], *, gateway: bool = False) -> None:
        """`CallerError` 503 or 429 when ``others``, whose calls are open, leave no room."""
        if self.stopping:
            self.refused += 1
            raise CallerError(503, "stopping", "The server stops", "Try another one.", retry_after_s=30)
        if len(others) >= self.limits.max_calls:
            raise self._full(f"It takes {self.limits.max_calls} calls at once.")
        per_address = self.limits.calls_of(by.address, gateway=gateway)
        if per_address is not None and sum(one.address == by.address for one in others) >= per_address:
            raise self._too_many(f"It takes {per_address} calls at once from one address.")
        per_token = self.limits.max_calls_per_token
        if by.identity and per_token is not None:
            if sum(one.identity == by.identity for one in others) >= per_token:
                raise self._too_many(f"It takes {per_token} calls at once of one token.")

    def reserve(self, tracks: int) -> Reservation:
        """Streams for a new call's tracks; `CallerError` 503 when they are too few."""
        streams = self.streams.reserve(tracks)
        if streams is None:
            capacity = self.streams.capacity
            raise self._full(f"It has {capacity} speech-to-text streams; the call's tracks need {tracks}.")
        return streams

    def grow(self, streams: Reservation, tracks: int) -> None:
        """Streams for so many tracks of a call that has some; `CallerError` 503 when they are too few."""
        if not streams.grow(tracks):
            raise self._full("No speech-to-text stream is free for another track.")

    def _full(self, message: str) -> CallerError:
        self.refused += 1
        return CallerError(503, "full", "The server is full", message, retry_after_s=RETRY_S)

    def _too_many(self, message: str) -> CallerError:
        self.refused += 1
        return CallerError(429, "too_many_calls", "Too many calls", message, retry_after_s=RETRY_S)
