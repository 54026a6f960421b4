"""Whether audio comes: stalls that nobody announced, pauses that were, packets that mean nothing."""

from __future__ import annotations

import math

from rtcstt.media.signals import Ignored, Muted, Resumed, Signal, Stalled, Unmuted

STALLED_S = 0.45  # without a packet; longer than the 400 ms of DTX, in case its announcement was lost
PAUSED_STALLED_S = 1.5  # the same when the sender said that it pauses: DTX sends every 400 ms
MAX_IGNORED = 16  # reasons to ignore packets that are told of one track


class Presence:
    """Collects signals. ``last_received``: when audio last came."""

    def __init__(self) -> None:
        self.signals: list[Signal] = []
        self.last_received: float | None = None
        self.is_muted = False
        self._stalled_since: float | None = None
        self._ignored: set[object] = set()

    @property
    def is_stalled(self) -> bool:
        return self._stalled_since is not None

    def received(self, now: float, *, leaves: bool = False) -> None:
        """``leaves``: its sender had just said that it stops; what comes then was still under way."""
        if self._stalled_since is not None:
            self.signals.append(Resumed(now - self._stalled_since))
            self._stalled_since = None
        if self.is_muted and not leaves:
            self.is_muted = False
            self.signals.append(Unmuted())
        self.last_received = now

    def mute(self, reason: str) -> None:
        """The sender says that it stops for now: no stall is to be told."""
        if not self.is_muted:
            self.is_muted = True
            self.signals.append(Muted(reason))

    def stall_due(self, *, paused: bool) -> float:
        """When a stall is to be told, if nothing comes until then."""
        if self.last_received is None or self._stalled_since is not None or self.is_muted:
            return math.inf
        return self.last_received + (PAUSED_STALLED_S if paused else STALLED_S)

    def watch(self, now: float, *, paused: bool) -> None:
        if now >= self.stall_due(paused=paused):
            assert self.last_received is not None
            self._stalled_since = self.last_received
            self.signals.append(Stalled(self.last_received))

    def ignore(self, what: object, reason: str, payload_type: int | None = None) -> None:
        """Told once for each ``what``."""
        if what not in self._ignored and len(self._ignored) < MAX_IGNORED:
            self._ignored.add(what)
            self.signals.append(Ignored(reason, payload_type))
