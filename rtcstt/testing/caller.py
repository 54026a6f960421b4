"""A scripted caller that needs no WebRTC."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.rtp import Packet

# -- a caller ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What happens to packets on the way. ``lost`` are indexes of packets (counted from 0) and ``loss`` a
    probability on top; ``jitter_s`` is the most a packet is late; ``duplicate`` a probability. All decided
    by ``seed``."""

    loss: float = 0.0
    lost: frozenset[int] = frozenset()
    jitter_s: float = 0.0
    delay_s: float = 0.02
    duplicate: float = 0.0
    seed: int = 0


class ScriptedCaller:
    """RTP packets of a caller, with the times of their arrival, for `rtcstt.media` and everything above it.

    Say what the caller does, in order: `say`, `mute` (packets of silence), `pause` (DTX: no packets, time
    goes on), `hold` (no packets and no time: the sender stopped), `switch` (a new SSRC, as after a
    renegotiation), then take `packets`. ``encode`` makes the payload from int16 samples at ``clock_rate``;
    the default is L16 (RFC 3551), which keeps the words of `speech`. Hanging up is the end of the packets.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Samples], bytes] | None = None,
        clock_rate: int = SAMPLE_RATE,
        sample_rate: int = SAMPLE_RATE,
        payload_type: int = 96,
        ptime_ms: int = 20,
        ssrc: int = 0x5EED,
        sequence: int = 65_500,
        timestamp: int = 2**32 - 16_000,
    ) -> None:
        self._encode = encode or (lambda samples: samples.astype(">i2").tobytes())
        self._size = sample_rate * ptime_ms // 1000
        self._ticks = clock_rate * ptime_ms // 1000
        self._ptime_s = ptime_ms / 1000
        self._payload_type = payload_type
        self._ssrc, self._sequence, self._timestamp = ssrc, sequence, timestamp
        self._time = 0.0
        self._marker = True
        self._sent: list[tuple[float, Packet]] = []

    def say(self, samples: Samples) -> ScriptedCaller:
        """Send this audio, the last packet filled with zeros."""
        for offset in range(0, len(samples), self._size):
            frame = samples[offset : offset + self._size]
            self._packet(np.pad(frame, (0, self._size - len(frame))))
        return self

    def mute(self, duration_s: float) -> ScriptedCaller:
        """`track.enabled = false`: packets go on, with silence."""
        for _ in range(round(duration_s / self._ptime_s)):
            self._packet(np.zeros(self._size, np.int16))
        return self

    def pause(self, duration_s: float) -> ScriptedCaller:
        """Discontinuous transmission: no packets; the timestamps of the next ones tell how long."""
        steps = round(duration_s / self._ptime_s)
        self._timestamp += steps * self._ticks
        self._time += steps * self._ptime_s
        self._marker = True
        return self

    def hold(self, duration_s: float) -> ScriptedCaller:
        """`replaceTrack(null)`: no packets, and the timestamps do not tell."""
        self._time += duration_s
        return self

    def switch(self, ssrc: int, *, sequence: int = 0, timestamp: int = 0) -> ScriptedCaller:
        """Another stream from here on (RFC 3550 section 8.2)."""
        self._ssrc, self._sequence, self._timestamp = ssrc, sequence, timestamp
        self._marker = True
        return self

    def _packet(self, samples: Samples) -> None:
        packet = Packet(
            ssrc=self._ssrc,
            sequence=self._sequence % 2**16,
            timestamp=self._timestamp % 2**32,
            payload_type=self._payload_type,
            payload=self._encode(samples),
            marker=self._marker,
        )
        self._time += self._ptime_s  # a packet leaves when its audio is complete
        self._sent.append((self._time, packet))
        self._sequence += 1
        self._timestamp += self._ticks
        self._marker = False

    def packets(self, network: Network | None = None) -> list[tuple[float, Packet]]:
        """(arrival, packet) in the order of arrival."""
        network = network or Network()
        dice = random.Random(network.seed)
        arrived = []
        for index, (time, packet) in enumerate(self._sent):
            lost = dice.random() < network.loss or index in network.lost
            copies = 2 if dice.random() < network.duplicate else 1
            late = dice.random() * network.jitter_s
            if not lost:
                arrived += [(time + network.delay_s + late, packet)] * copies
        return sorted(arrived, key=lambda item: item[0])
