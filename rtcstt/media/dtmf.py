"""Keys pressed on a telephone, from RTP's named events (RFC 4733): each once.

An event comes in several packets with the timestamp of its beginning, its last one three times and any of
them lost. A key held for longer than 16 bits of its clock can say goes on under a new timestamp.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rtcstt.media.rtp import Packet
from rtcstt.media.signals import Pressed

KEYS = "0123456789*#ABCD"
OVER_S = 0.5  # without a packet of it: its last ones were lost
_END = 0x80
_LONGEST = 0xFFFF


@dataclass(slots=True)
class _Key:
    ssrc: int
    timestamp: int
    code: int
    duration: int
    clock_rate: int
    seen: float
    before: int = 0  # of earlier segments

    def pressed(self) -> Pressed:
        return Pressed(KEYS[self.code], round(1000 * (self.before + self.duration) / self.clock_rate))


class Digits:
    """Packets of telephone-event in any order become keys."""

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._over: deque[tuple[int, int]] = deque(maxlen=16)  # SSRC and timestamp of those that were told
        self.bad = 0
        "Packets that hold no key: too short, or other events such as tones of fax machines."

    def push(self, packet: Packet, clock_rate: int, now: float) -> list[Pressed]:
        """The keys that are over with this packet."""
        payload = packet.payload
        if len(payload) < 4 or payload[0] >= len(KEYS):
            self.bad += 1
            return []
        if (packet.ssrc, packet.timestamp) in self._over:
            return []
        told: list[Pressed] = []
        code, duration = payload[0], int.from_bytes(payload[2:4], "big")
        key = self._key
        if key is None or (key.ssrc, key.timestamp) != (packet.ssrc, packet.timestamp):
            key = self._next(key, packet, code, duration, clock_rate, now, told)
        key.duration, key.seen = max(key.duration, duration), now
        self._key = key
        if payload[1] & _END:
            told.append(self._finish(key))
        return told

    def poll(self, now: float) -> list[Pressed]:
        """The key whose end was lost."""
        key = self._key
        return [self._finish(key)] if key is not None and now - key.seen >= OVER_S else []

    def _next(
        self,
        key: _Key | None,
        packet: Packet,
        code: int,
        duration: int,
        clock_rate: int,
        now: float,
        told: list[Pressed],
    ) -> _Key:
        """Another event, or the next segment of the same one."""
        before = 0
        if key is not None:
            goes_on = key.ssrc == packet.ssrc and key.code == code and key.duration == _LONGEST
            if goes_on and (packet.timestamp - key.timestamp) & 0xFFFFFFFF == _LONGEST:
                before = key.before + _LONGEST
                self._over.append((key.ssrc, key.timestamp))
            else:
                told.append(self._finish(key))
        return _Key(packet.ssrc, packet.timestamp, code, duration, clock_rate, now, before)

    def _finish(self, key: _Key) -> Pressed:
        self._key = None
        self._over.append((key.ssrc, key.timestamp))
        return key.pressed()
