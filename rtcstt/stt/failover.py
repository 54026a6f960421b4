"""Which STT is tried next, and when: a core. Time and chance are arguments, in s.

From the first failure until a connection has proven itself there is an *outage*. In it the first STT is tried
again after ever longer pauses; when it has lasted longer than one is patient, the fallback takes over, and if
that fails too the two take turns. An STT that refused for good is not asked again; when none is left, that is
all (`GiveUp`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rtcstt.limits import backoff
from rtcstt.stt.limits import Limits

FIRST, FALLBACK = 0, 1


class Verdict(enum.Enum):
    """What follows a failure."""

    RETRY = "retry"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """``fallback_after_s``: how long the first STT may be away before the fallback takes over."""

    fallback_after_s: float = 3.0
    backoff_first_s: float = 0.25
    backoff_cap_s: float = 5.0

    @classmethod
    def within(cls, limits: Limits, fallback_after_s: float) -> Patience:
        return cls(
            fallback_after_s=fallback_after_s,
            backoff_first_s=limits.backoff_first_s,
            backoff_cap_s=limits.backoff_cap_s,
        )


class Failover:
    """``engine`` is the STT to be tried next, or in use: `FIRST` or `FALLBACK`."""

    def __init__(self, patience: Patience, *, has_fallback: bool) -> None:
        self._patience = patience
        self._has_fallback = has_fallback
        self._since: float | None = None  # of the outage
        self._first_refused = False
        self.attempts = 0
        "Failures of this outage."
        self.engine = FIRST
        self.failovers = 0

    @property
    def in_outage(self) -> bool:
        return self._since is not None

    @property
    def may_return(self) -> bool:
        """Whether the fallback is in use, and the first STT may be tried again."""
        return self.engine == FALLBACK and not self._first_refused

    def failed(self, now: float) -> None:
        """The connection was lost or refused in a way that may pass."""
        self._begin(now)
        self.attempts += 1

    def refused(self, now: float) -> Verdict:
        """The engine refused in a way that will not change."""
        if self.engine == FALLBACK or not self._has_fallback:
            return Verdict.GIVE_UP
        self._first_refused = True
        self._begin(now)
        return Verdict.RETRY

    def first_refused(self) -> None:
        """The first STT, tried while the fallback works, refused for good."""
        self._first_refused = True

    def returned(self, now: float) -> None:
        """The first STT takes over again; that counts as an outage until it has proven itself."""
        self.engine = FIRST
        self._since, self.attempts = now, 1

    def proven(self) -> None:
        """The connection works."""
        self._since, self.attempts = None, 0

    def pause(self, chance: float) -> float:
        """How long to wait before the next attempt; ``chance`` is from 0 to 1. Jittered exponential backoff;
        the first attempt after a loss comes at once."""
        if self.attempts <= 1:
            return 0.05 * chance
        patience = self._patience
        ceiling = backoff(self.attempts - 1, patience.backoff_first_s, patience.backoff_cap_s)
        return (0.5 + 0.5 * chance) * ceiling

    def choose(self, now: float) -> bool:
        """Decide on the engine for the next attempt; whether the fallback takes over."""
        if self._since is None or not self._has_fallback:
            return False
        impatient = now - self._since >= self._patience.fallback_after_s
        if self.engine == FALLBACK:  # it failed too: take turns
            self.engine = FALLBACK if self._first_refused else FIRST
        elif impatient or self._first_refused:
            self.engine = FALLBACK
            self.failovers += 1
            return True
        return False

    def _begin(self, now: float) -> None:
        if self._since is None:
            self._since, self.attempts = now, 0
