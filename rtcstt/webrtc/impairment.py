"""Packet loss and jitter, for tests: the Gilbert-Elliott model."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """What a bad network does to packets on their way: ``loss`` (share of them) in bursts of mean
    length ``burst``, and a random delay up to ``jitter_ms``, which also swaps them."""

    loss: float = 0.0
    burst: float = 1.0
    jitter_ms: float = 0.0
    seed: int = 0


class GilbertElliottLoss:
    """What becomes of each packet in turn, by the Gilbert model; the same for the same seed."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._random = random.Random(network.seed)
        self._losing = False

    def next_delay_s(self) -> float | None:
        """Seconds that the next packet is held up, None when it is lost."""
        network = self._network
        if network.loss >= 1:
            return None
        recover = 1 / max(network.burst, 1.0)
        fail = min(1.0, network.loss * recover / (1 - network.loss))
        chance = self._random.random()
        self._losing = chance >= recover if self._losing else chance < fail
        delay = self._random.random() * network.jitter_ms / 1000
        return None if self._losing else delay
