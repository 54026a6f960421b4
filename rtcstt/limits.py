"""Limits of what comes from outside: rates, and shares of what there is only so much of. Cores: time is an
argument, in seconds of any clock that never goes back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

MAX_KEYS = 4096


def backoff(failures: int, first_s: float, longest_s: float) -> float:
    """The pause after so many failures in a row, in s: ``first_s`` after the first, then twice as long each
    time. Whoever must not come back together with others adds chance to it."""
    return min(longest_s, first_s * 2.0 ** min(max(failures - 1, 0), 64))


class TokenBucket:
    """``at_once`` at once, and ``per_s`` more each second. Starts full."""

    __slots__ = ("_at", "_at_once", "_left", "_per_s")

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left = at_once
        self._at: float | None = None

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take ``amount``, or nothing when there is not so much."""
        if self.wait_s(now, amount) > 0:
            return False
        self._left -= amount
        return True

    def spend(self, now: float, amount: float) -> float:
        """Take ``amount`` though there may not be so much; how long until it is there, in s."""
        wait_s = self.wait_s(now, amount)
        self._left -= amount
        return wait_s

    @property
    def share_left(self) -> float:
        """1.0 when full, less than 0 when more was spent than there was; when last asked."""
        return self._left / self._at_once

    def wait_s(self, now: float, amount: float = 1.0) -> float:
        """How long until ``amount`` can be taken; 0 when it can be now."""
        if self._at is not None and now > self._at:
            self._left = min(self._at_once, self._left + (now - self._at) * self._per_s)
        self._at = now
        return max(0.0, (amount - self._left) / self._per_s)


class RateLimiter:
    """A `TokenBucket` for each key, such as an address: ``per_minute``, all of them at once if need be.

    The keys that were longest not seen are forgotten beyond ``max_keys``, so that nobody fills the memory.
    """

    def __init__(self, per_minute: float, *, max_keys: int = MAX_KEYS) -> None:
        self.per_minute = per_minute
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take one of ``key``'s; 0, or for how many seconds there is none."""
        bucket = self._bucket(key)
        wait_s = bucket.wait_s(now)
        if wait_s == 0:
            bucket.take(now)
        return wait_s

    def wait_s(self, key: str, now: float) -> float:
        """For how many seconds ``key`` may take nothing; takes nothing."""
        return self._buckets[key].wait_s(now) if key in self._buckets else 0.0

    def _bucket(self, key: str) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self.per_minute / 60, self.per_minute)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return bucket


class Once:
    """Of texts that come again and again, such as faults to be logged, whether one is `new`. Beyond ``most``
    the oldest are forgotten."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._known: OrderedDict[str, None] = OrderedDict()

    def new(self, text: str) -> bool:
        """The first time it is asked for this text."""
        if text in self._known:
            return False
        self._known[text] = None
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return True


class Slots:
    """So many of something, to be reserved before use and given back after.

    ``capacity`` is asked each time, since it may become known, or change, later; None: no limit. What
    was reserved stays reserved when the capacity falls.
    """

    def __init__(self, capacity: Callable[[], int | None]) -> None:
        self._capacity = capacity
        self.used = 0
        self.refused = 0

    @property
    def capacity(self) -> int | None:
        return self._capacity()

    def reserve(self, count: int = 1) -> Reservation | None:
        """All ``count``, or None when they are not there."""
        capacity = self._capacity()
        if capacity is not None and self.used + count > capacity:
            self.refused += 1
            return None
        self.used += count
        return Reservation(self, count)


class Reservation:
    """Some of the `Slots`; `release` gives them back and is idempotent."""

    def __init__(self, slots: Slots, count: int) -> None:
        self._slots = slots
        self.count = count

    def grow(self, count: int) -> bool:
        """Reserve more, until there are ``count``; False, and nothing reserved, when they are not there."""
        more = count - self.count
        if more > 0 and self._slots.reserve(more) is None:
            return False
        self.count = max(self.count, count)
        return True

    def release(self) -> None:
        self._slots.used -= self.count
        self.count = 0
