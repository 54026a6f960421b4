"""RTP packets in any order become frames in order, or gaps with their cause.

A packet that comes in its turn is a frame at once; nothing is held back to smooth the pace, which
is the audio clock's business. Only a missing sequence number makes the others wait: until the
moment at which the missing packet should have come, plus a delay learned from the jitter seen. Then
it is a gap, and the rest goes on. A packet that comes after its gap was declared is late, and
counted.

How long to wait is learned from transit times (arrival minus media time; only differences mean
anything). `_Transit` keeps the fastest and the slowest of each half second for five seconds: the
spread, with a little margin, is the delay. A stall of the whole network is not jitter: transit
beyond the cap is left out, unless it is so frequent that it is how this network is.

Three clocks meet here, and none follows another (RFC 3550 section 5.1): sequence numbers count
packets, timestamps count samples, arrivals are ours. Sequence numbers alone tell loss. Timestamps
tell how long a hole is. Arrivals bound what timestamps may claim, because a sender may restart or
leap. After a browser's `replaceTrack(null)` neither numbers nor timestamps show the pause: it is
no gap here, and the audio clock has filled it meanwhile.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from rtcstt.errors import RemoteProtocolError

SPEECH = frozenset({"opus", "PCMU", "PCMA", "G722", "L16"})

START_HOLD_S = 0.08  # the first packet waits this long for earlier ones that were overtaken
LEARNING_PACKETS = 25  # until so many have come, a missing packet is given `LEARNING_PATIENCE_S`
LEARNING_PATIENCE_S = 0.1
FIRST_DELAY_S = 0.02
MARGIN_S = 0.005
MAX_BUFFERED = 256  # packets waiting behind a hole; beyond, the hole is given up
MAX_DROPOUT = 3000  # sequence numbers (RFC 3550 appendix A.1); a larger step is a new start
CONCEALED_S = 0.1  # of a long loss, what is worth concealing; the rest is silence
LEAP_S = 1.0  # how much more a timestamp may claim to have passed than our own clock saw
MAX_REMEMBERED = 512  # gaps remembered to tell late packets from duplicates


@dataclass(frozen=True, slots=True)
class Codec:
    """What one RTP payload type means.

    ``name`` is the encoding name of RFC 3551 or the codec's own RFC: opus, PCMU, PCMA, G722, L16,
    and, never decoded as speech, telephone-event (RFC 4733) and CN (RFC 3389). ``clock_rate`` is
    that of the RTP timestamps, in Hz: 48000 for Opus, 8000 for G.722 although its audio is 16 kHz.
    """

    name: str
    clock_rate: int
    channels: int = 1

    @property
    def is_speech(self) -> bool:
        return self.name in SPEECH

    def duration(self, payload: bytes) -> int:
        """The media time of a payload, in units of the clock rate; 0 where it has none."""
        match self.name:
            case "opus":
                return opus_duration(payload)
            case "PCMU" | "PCMA" | "G722":
                return len(payload)
            case "L16":
                return len(payload) // (2 * self.channels)
        return 0


def opus_duration(payload: bytes) -> int:
    """The duration of an Opus packet at 48 kHz, from its first bytes (RFC 6716 section 3.1)."""
    if not payload:
        return 0
    config, code = payload[0] >> 3, payload[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    if code < 3:
        return frame * (1 if code == 0 else 2)
    count = payload[1] & 0x3F if len(payload) > 1 else 0
    return min(frame * count, 5760)


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet; ``payload`` without padding and header extensions."""

    ssrc: int
    sequence: int
    timestamp: int
    payload_type: int
    payload: bytes
    marker: bool = False

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Read a packet (RFC 3550 section 5.1); `RemoteProtocolError` when it is none."""
        if len(data) < 12 or data[0] >> 6 != 2:
            raise RemoteProtocolError("not an RTP packet")
        start = 12 + 4 * (data[0] & 0x0F)
        if data[0] & 0x10:
            start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
        end = len(data)
        if data[0] & 0x20:
            end -= data[-1] or end
        if start > end:
            raise RemoteProtocolError("an RTP header or padding longer than its packet")
        return cls(
            ssrc=int.from_bytes(data[8:12], "big"),
            sequence=int.from_bytes(data[2:4], "big"),
            timestamp=int.from_bytes(data[4:8], "big"),
            payload_type=data[1] & 0x7F,
            payload=data[start:end],
            marker=bool(data[1] & 0x80),
        )

    def __bytes__(self) -> bytes:
        header = bytes((0x80, self.payload_type | (0x80 if self.marker else 0)))
        numbers = ((self.sequence, 2), (self.timestamp, 4), (self.ssrc, 4))
        return header + b"".join(value.to_bytes(size, "big") for value, size in numbers) + self.payload


class Cause(enum.Enum):
    """Why there is a hole in the sequence of frames."""

    LOST = "lost"  # sequence numbers missing: conceal
    PAUSE = "pause"  # media time without packets, or too long a loss to conceal: silence


@dataclass(frozen=True, slots=True)
class Frame:
    """One payload, due now. ``position`` is its media time in units of the codec's clock rate,
    unwrapped, from 0 at the first packet of the track."""

    payload: bytes
    codec: Codec
    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole of ``duration`` units of the codec's clock rate, beginning at ``position``.

    ``next_payload`` is the payload that directly follows the hole, where it is there already: Opus
    may carry the lost frame in it (in-band FEC, RFC 6716 section 2.1.7).
    """

    cause: Cause
    codec: Codec
    position: int
    duration: int
    next_payload: bytes | None = None


@dataclass(slots=True)
class Counters:
    """Packets by what became of them. ``received`` are all that came; the others say more of some."""

    received: int = 0
    lost: int = 0
    late: int = 0
    duplicate: int = 0
    not_speech: int = 0  # empty, padding only, comfort noise, telephone events
    unknown_type: int = 0
    stray: int = 0  # of another source, or far out of sequence, and alone
    overflow: int = 0  # waiting packets given up because too many came at once
    restarts: int = 0

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(slots=True)
class _Arrived:
    packet: Packet
    arrival: float


@dataclass(slots=True)
class _Newcomer:
    """A source, or a place in the sequence, that may take over: it must show itself twice."""

    ssrc: int
    sequence: int
    packets: list[_Arrived] = field(default_factory=list)


class Playout:
    """One track's packets, ordered.

    `push` when a packet comes, `pop` until it gives None whenever frames are wanted, `flush` at the
    end. ``delay`` is how long a missing packet is waited for, in s; also a measure of the jitter.
    """

    def __init__(self, codecs: Mapping[int, Codec], *, max_delay_s: float = 0.2) -> None:
        self.codecs = codecs
        self._max_delay_s = max_delay_s
        self._ready: deque[Frame | Gap] = deque()
        self._newcomer: _Newcomer | None = None
        self._source: _Source | None = None
        self._end = 0  # media position after the last frame, in units of `_codec`
        self._codec: Codec | None = None
        self._end_arrival = 0.0
        self.first_arrival: float | None = None
        self.last_arrival: float | None = None
        self.counters = Counters()

    @property
    def delay(self) -> float:
        return self._source.transit.delay if self._source else FIRST_DELAY_S

    def push(self, packet: Packet, now: float) -> None:
        self.counters.received += 1
        if self.codecs.get(packet.payload_type) is None:
            self.counters.unknown_type += 1
        self.last_arrival = now
        arrived = _Arrived(packet, now)
        source = self._source
        if source is None:
            self.first_arrival = now
            source = self._source = _Source(
                packet, now, self.counters, max_delay_s=self._max_delay_s, hold_s=START_HOLD_S
            )
        elif packet.ssrc != source.ssrc or not source.is_near(packet.sequence):
            self._meet(arrived)
            return
        self._newcomer = None
        self._add(source, arrived)

    def pop(self, now: float) -> Frame | Gap | None:
        """The next frame or gap that is due at ``now``, or None."""
        while not self._ready:
            source = self._source
            if source is None or not source.advance(now):
                return None
            self._take(source)
        return self._ready.popleft()

    def flush(self) -> list[Frame | Gap]:
        """All that is left: nothing will be waited for any more."""
        out = []
        while (item := self.pop(math.inf)) is not None:
            out.append(item)
        return out

    def _add(self, source: _Source, arrived: _Arrived) -> None:
        codec = self.codecs.get(arrived.packet.payload_type)
        source.add(arrived, codec if codec and codec.is_speech else None)

    def _meet(self, arrived: _Arrived) -> None:
        """A packet of another source, or from elsewhere in the sequence: believed when a second follows."""
        packet, newcomer = arrived.packet, self._newcomer
        expected = newcomer and newcomer.ssrc == packet.ssrc and newcomer.sequence == packet.sequence
        if newcomer is None or not expected:
            self.counters.stray += len(newcomer.packets) if newcomer else 0
            newcomer = self._newcomer = _Newcomer(packet.ssrc, packet.sequence)
        newcomer.packets.append(arrived)
        newcomer.sequence = (packet.sequence + 1) & 0xFFFF
        if len(newcomer.packets) > 1:
            self._restart(newcomer)

    def _restart(self, newcomer: _Newcomer) -> None:
        self._ready.extend(self.flush())
        self.counters.restarts += 1
        first = newcomer.packets[0]
        self._source = _Source(
            first.packet, first.arrival, self.counters, max_delay_s=self._max_delay_s, hold_s=0.0
        )
        self._newcomer = None
        for arrived in newcomer.packets:
            self._add(self._source, arrived)

    def _take(self, source: _Source) -> None:
        """The packet at the head of the source becomes a frame, with the gap that was before it."""
        arrived, lost = source.take()
        self.counters.lost += lost
        packet = arrived.packet
        codec = self.codecs.get(packet.payload_type)
        if codec is None or not codec.is_speech or not packet.payload:
            self.counters.not_speech += codec is not None
            source.lost_before += lost
            return
        duration = codec.duration(packet.payload)
        self._change_codec(codec)
        position = source.place(packet.timestamp, self._end)
        hole = self._believable(position - self._end, arrived.arrival, codec, duration)
        lost += source.lost_before
        source.lost_before = 0
        self._ready.extend(self._gaps(hole, lost, duration, packet.payload))
        self._ready.append(Frame(packet.payload, codec, self._end + hole))
        source.anchor(packet.timestamp, self._end + hole)
        self._end += hole + duration
        self._end_arrival = arrived.arrival

    def _change_codec(self, codec: Codec) -> None:
        if self._codec is not None and self._codec.clock_rate != codec.clock_rate and self._source:
            self._end = self._end * codec.clock_rate // self._codec.clock_rate
            self._source.forget_timestamps()
        self._codec = codec

    def _believable(self, hole: int, arrival: float, codec: Codec, duration: int) -> int:
        """The hole that timestamps claim, as far as our clock can confirm it; never negative."""
        passed_s = max(0.0, arrival - self._end_arrival) + LEAP_S
        if hole <= 0:
            return 0
        return hole if hole <= passed_s * codec.clock_rate else 0

    def _gaps(self, hole: int, lost: int, duration: int, payload: bytes) -> list[Gap]:
        """A hole as what can be concealed, what is silence, and what the next packet may restore."""
        codec = self._codec
        if not hole or codec is None:
            return []
        if not lost:
            return [Gap(Cause.PAUSE, codec, self._end, hole)]
        missing = min(hole, lost * duration) if duration else hole
        concealed = int(CONCEALED_S * codec.clock_rate)
        if missing == hole and hole <= concealed + duration:
            return [Gap(Cause.LOST, codec, self._end, hole, payload)]
        head = min(missing, concealed)
        last = duration if missing == hole else 0
        gaps = [Gap(Cause.LOST, codec, self._end, head)]
        gaps.append(Gap(Cause.PAUSE, codec, self._end + head, hole - head - last))
        if last:
            gaps.append(Gap(Cause.LOST, codec, self._end + hole - last, last, payload))
        return [gap for gap in gaps if gap.duration > 0]


class _Source:
    """The packets of one SSRC, from one start of its sequence. A restart makes a new object."""

    def __init__(
        self, first: Packet, now: float, counters: Counters, *, max_delay_s: float, hold_s: float
    ) -> None:
        self.ssrc = first.ssrc
        self.transit = _Transit(max_delay_s)
        self._hold_s = hold_s
        self.lost_before = 0  # lost sequence numbers before packets that were no speech
        self._counters = counters
        self._waiting: dict[int, _Arrived] = {}
        self._start = now
        self._highest = first.sequence + 0x10000
        self._next: int | None = None
        self._lost = 0  # given up, directly before `_next`
        self._gaps: deque[int] = deque(maxlen=MAX_REMEMBERED)
        self._anchor: tuple[int, int] | None = None  # a timestamp and the position it stands for
        self._clock: tuple[int, int] | None = None  # a timestamp, unwrapped, for transit times

    def is_near(self, sequence: int) -> bool:
        return abs(_signed(sequence - self._highest, 16)) < MAX_DROPOUT

    def add(self, arrived: _Arrived, codec: Codec | None) -> None:
        number = self._highest + _signed(arrived.packet.sequence - self._highest, 16)
        if number in self._waiting:
            self._counters.duplicate += 1
        elif self._next is not None and number < self._next:
            if number in self._gaps:
                self._gaps.remove(number)
                self._counters.late += 1
            else:
                self._counters.duplicate += 1
            self._learn(arrived, codec)
        else:
            self._waiting[number] = arrived
            self._highest = max(self._highest, number)
            self._learn(arrived, codec)

    def advance(self, now: float) -> bool:
        """Whether a packet can be taken at ``now``, the one in turn or the one behind a hole."""
        if not self._waiting:
            return False
        if self._next is None:
            if now < self._start + self._hold_s and len(self._waiting) < MAX_BUFFERED:
                return False
            self._next = min(self._waiting)
        while self._next not in self._waiting:
            if now < self._deadline() and len(self._waiting) <= MAX_BUFFERED:
                return False
            self._gaps.append(self._next)
            self._lost += 1
            self._next += 1
        return True

    def take(self) -> tuple[_Arrived, int]:
        """The packet that `advance` spoke of, and how many are lost before it."""
        assert self._next is not None
        lost, self._lost = self._lost, 0
        self._counters.overflow += len(self._waiting) > MAX_BUFFERED
        arrived = self._waiting.pop(self._next)
        self._next += 1
        return arrived, lost

    def place(self, timestamp: int, end: int) -> int:
        """The media position of a timestamp; ``end`` where there is nothing to compare it with."""
        if self._anchor is None:
            return end
        known, position = self._anchor
        return position + _signed(timestamp - known, 32)

    def anchor(self, timestamp: int, position: int) -> None:
        self._anchor = (timestamp, position)

    def forget_timestamps(self) -> None:
        self._anchor = None
        self._clock = None
        self.transit = _Transit(self.transit.max_delay_s)

    def _deadline(self) -> float:
        """When to give up the packet in turn: its expected arrival, plus the patience."""
        number = min(self._waiting)
        behind = self._waiting[number]
        packets = max(1, number - (self._next or 0))
        expected = behind.arrival - self.transit.lateness(behind.arrival, self._media(behind.packet))
        expected -= packets * self.transit.packet_s
        return expected + self.transit.patience

    def _media(self, packet: Packet) -> float | None:
        if self._clock is None:
            return None
        known, unwrapped = self._clock
        return (unwrapped + _signed(packet.timestamp - known, 32)) * self.transit.unit_s

    def _learn(self, arrived: _Arrived, codec: Codec | None) -> None:
        if codec is None:
            return
        timestamp = arrived.packet.timestamp
        known, unwrapped = self._clock or (timestamp, 0)
        step = _signed(timestamp - known, 32)
        self._clock = (timestamp, unwrapped + step)
        unit_s = self.transit.unit_s = 1 / codec.clock_rate
        self.transit.packet_s = codec.duration(arrived.packet.payload) * unit_s or self.transit.packet_s
        self.transit.learn(arrived.arrival, (unwrapped + step) * unit_s)


@dataclass(slots=True)
class _Bucket:
    begin: float
    fastest: float
    slowest: float


class _Transit:
    """The jitter of one source: the spread of its transit times over the last seconds."""

    BUCKET_S = 0.5
    BUCKETS = 10

    def __init__(self, max_delay_s: float) -> None:
        self.max_delay_s = max_delay_s
        self.delay = min(FIRST_DELAY_S, max_delay_s)
        self.packet_s = 0.02
        self.unit_s = 1 / 48000
        self._seen = 0
        self._last_arrival = math.inf
        self._fastest = 0.0
        self._buckets: deque[_Bucket] = deque(maxlen=self.BUCKETS)

    @property
    def patience(self) -> float:
        """How long to wait for a missing packet beyond its expected arrival."""
        if self._seen < LEARNING_PACKETS:
            return min(max(self.delay, LEARNING_PATIENCE_S), self.max_delay_s)
        return self.delay

    def lateness(self, arrival: float, media: float | None) -> float:
        """How much later than the fastest of late a packet came."""
        if media is None or not self._buckets:
            return 0.0
        return max(0.0, arrival - media - self._fastest)

    def learn(self, arrival: float, media: float) -> None:
        self._seen += 1
        transit = arrival - media
        buckets = self._buckets
        if arrival - self._last_arrival > self.max_delay_s < transit - self._fastest:
            buckets.clear()  # after a pause that timestamps do not show, transit starts anew
        self._last_arrival = arrival
        if not buckets or arrival - buckets[-1].begin > self.BUCKET_S:
            buckets.append(_Bucket(arrival, transit, transit))
        else:
            bucket = buckets[-1]
            if bucket.fastest <= transit <= bucket.slowest:
                return
            bucket.fastest = min(bucket.fastest, transit)
            bucket.slowest = max(bucket.slowest, transit)
        self._judge()

    def _judge(self) -> None:
        self._fastest = min(bucket.fastest for bucket in self._buckets)
        spreads = [bucket.slowest - self._fastest for bucket in self._buckets]
        jitter = [spread for spread in spreads if spread <= self.max_delay_s]
        if len(spreads) > 3 * len(jitter):
            self.delay = self.max_delay_s
        elif self._seen > 2:
            self.delay = min(max(jitter, default=0.0) + MARGIN_S, self.max_delay_s)


def _signed(difference: int, bits: int) -> int:
    """A difference of wrapping numbers as the nearer of the two it may mean."""
    half = 1 << (bits - 1)
    return ((difference + half) & ((1 << bits) - 1)) - half
