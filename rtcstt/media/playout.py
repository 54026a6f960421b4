"""RTP packets in any order become frames in order, or gaps with their cause.

A packet that comes in its turn is a frame at once; nothing is held back to smooth the pace, which
is the audio clock's business. Only a missing sequence number makes the others wait: until the
moment at which the missing packet should have come, plus a delay learned from the jitter seen. Then
it is a gap, and the rest goes on. A packet that comes after its gap was declared is late, and
counted. Each missing packet has its own moment, so that a lost one takes no late one with it.

How long to wait is learned from transit times (arrival minus media time; only differences mean
anything). `_Transit` keeps the fastest and the slowest of each half second for five seconds: the
spread, with some margin, is the delay. A stall of the whole network is not jitter: transit
beyond the cap is left out, unless it is so frequent that it is how this network is.

Three clocks meet here, and none follows another (RFC 3550 section 5.1): sequence numbers count
packets, timestamps count samples, arrivals are ours. Sequence numbers alone tell loss. Timestamps
tell how long a hole is. Arrivals bound what timestamps may claim, because a sender may restart or
leap. After a browser's `replaceTrack(null)` neither numbers nor timestamps show the pause: it is
no gap here, and the audio clock has filled it meanwhile.

Another source, or a far place in the sequence, takes over when two of its packets came and the
present source is silent. A stray packet takes nothing over, and packets of the old source that are
still under way are waited for like any other.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields

from rtcstt.media.rtp import Codec, Packet

START_HOLD_S = 0.08  # the first packet waits this long for earlier ones that were overtaken
LEARNING_PACKETS = 25  # until so many have come, a missing packet is given `LEARNING_PATIENCE_S`
LEARNING_PATIENCE_S = 0.1
FIRST_DELAY_S = 0.02
MARGIN_S = 0.005
MARGIN_SHARE = 0.1  # of the spread: the slowest packet seen is not the slowest there will be
MAX_WAITING = 1500  # packets; beyond, new ones are dropped, because nobody takes them
MAX_DROPOUT, MAX_MISORDER = 3000, 100  # sequence numbers (RFC 3550 appendix A.1); more is a new start
SWITCH_S = 0.06  # the least silence of a source before another may take over
MAX_NEWCOMERS = 64  # packets kept of the source that may take over
CONCEALED_S = 0.1  # of a long loss, what is worth concealing; the rest is silence
LEAP_S = 1.0  # how much more a timestamp may claim to have passed than our own clock saw
MAX_REMEMBERED = 512  # gaps remembered to tell late packets from duplicates
PAUSE_BYTES = 2  # an Opus packet this short announces that nothing follows for a while (DTX)


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
    arrival: float = 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole of ``duration`` units of the codec's clock rate, beginning at ``position``;
    ``arrival`` is that of the packet behind it.

    ``next_payload`` is the payload that directly follows the hole, where it is there already: Opus
    may carry the lost frame in it (in-band FEC, RFC 6716 section 2.1.7).
    """

    cause: Cause
    codec: Codec
    position: int
    duration: int
    next_payload: bytes | None = None
    arrival: float = 0.0


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
    overflow: int = 0  # came while too many were waiting, and dropped
    restarts: int = 0

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(slots=True)
class _Arrived:
    packet: Packet
    arrival: float
    codec: Codec | None

    @property
    def speech(self) -> Codec | None:
        """The codec, if there is something for it to decode."""
        codec = self.codec
        return codec if codec is not None and codec.is_speech and self.packet.payload else None


class Playout:
    """One track's packets, ordered.

    `push` when a packet comes, `pop` until it gives None whenever frames are wanted, `flush` at the
    end. ``codecs`` may be replaced when the meaning of payload types is negotiated anew.
    """

    def __init__(self, codecs: Mapping[int, Codec], *, max_delay_s: float = 0.2) -> None:
        self.codecs = codecs
        self.counters = Counters()
        self.first_arrival: float | None = None
        "When the first packet of speech came."
        self.paused = False
        "The last packet said that nothing follows for a while: DTX, or comfort noise."
        self._max_delay_s = max_delay_s
        self._ready: deque[Frame | Gap] = deque()
        self._newcomers: list[_Arrived] = []  # all near each other in one sequence, not the present one
        self._source: _Source | None = None
        self._last_arrival = 0.0  # from the present source
        self._end = 0  # media position after the last frame, in units of `_codec`
        self._codec: Codec | None = None
        self._end_arrival = 0.0

    @property
    def delay(self) -> float:
        """What covers all jitter seen of late, in s."""
        return self._source.transit.delay if self._source else FIRST_DELAY_S

    @property
    def usual_delay(self) -> float:
        """What covers the jitter most of the time: a single hiccup is no reason to send all later, in s."""
        return self._source.transit.usual_delay if self._source else FIRST_DELAY_S

    @property
    def jitter(self) -> float:
        """How much longer the slowest packets of late were under way than the fastest, in s."""
        return self._source.transit.jitter if self._source else 0.0

    def push(self, packet: Packet, now: float) -> bool:
        """Store a packet. False when it means nothing here: its payload type or its source is unknown."""
        self.counters.received += 1
        arrived = _Arrived(packet, now, self.codecs.get(packet.payload_type))
        if arrived.codec is None:
            self.counters.unknown_type += 1
            if self._source is not None and self._source.has(packet):
                self._source.add(arrived)  # its sequence number is not lost
            return False
        if self._source is None:
            self._source = _Source(packet, now, self.counters, self._max_delay_s, START_HOLD_S)
        if not self._source.has(packet):
            return self._take_over(arrived)
        self._last_arrival = now
        if self.first_arrival is None and arrived.speech:
            self.first_arrival = now
        self._source.add(arrived)
        return True

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

    def _take_over(self, arrived: _Arrived) -> bool:
        """A packet of another source, or from elsewhere in the sequence. Whether the stream goes on there."""
        newcomers, packet = self._newcomers, arrived.packet
        if newcomers and not _near(packet, newcomers[0].packet):
            self.counters.stray += len(newcomers)
            newcomers.clear()
        newcomers.append(arrived)
        if len(newcomers) > MAX_NEWCOMERS:
            del newcomers[0]
            self.counters.stray += 1
        silent_s = arrived.arrival - self._last_arrival
        if len(newcomers) < 2 or silent_s < max(SWITCH_S, self.delay):
            return False
        self._restart()
        return True

    def _restart(self) -> None:
        self._ready.extend(self.flush())
        self.counters.restarts += 1
        # What it sent beside the old source would now be said twice, or late.
        recent = self._last_arrival - self._max_delay_s
        newcomers = [arrived for arrived in self._newcomers if arrived.arrival >= recent]
        self.counters.stray += len(self._newcomers) - len(newcomers)
        self._newcomers = []
        first = newcomers[0]
        self._source = _Source(first.packet, first.arrival, self.counters, self._max_delay_s, 0.0)
        for arrived in newcomers:
            self._source.add(arrived)
        self.first_arrival = first.arrival if self.first_arrival is None else self.first_arrival
        self._last_arrival = newcomers[-1].arrival

    def _take(self, source: _Source) -> None:
        """The packet at the head of the source becomes a frame, with the gap that was before it."""
        arrived, lost = source.take()
        self.counters.lost += lost
        packet, codec = arrived.packet, arrived.speech
        if codec is None:
            self.counters.not_speech += arrived.codec is not None
            self.paused = self.paused or (arrived.codec is not None and arrived.codec.name == "CN")
            source.lost_before += lost
            return
        self.paused = codec.name == "opus" and len(packet.payload) <= PAUSE_BYTES
        duration = codec.duration(packet.payload)
        self._change_codec(codec)
        hole = self._believable(source.place(packet.timestamp, self._end) - self._end, arrived.arrival)
        if hole:
            self._ready.extend(self._gaps(hole, lost + source.lost_before, duration, arrived))
        source.lost_before = 0
        position = self._end + hole
        self._ready.append(Frame(packet.payload, codec, position, arrived.arrival))
        source.anchor(packet.timestamp, position)
        self._end = position + duration
        self._end_arrival = arrived.arrival

    def _change_codec(self, codec: Codec) -> None:
        if self._codec is not None and self._codec.clock_rate != codec.clock_rate and self._source:
            self._end = self._end * codec.clock_rate // self._codec.clock_rate
            self._source.forget_timestamps()
        self._codec = codec

    def _believable(self, hole: int, arrival: float) -> int:
        """The hole that timestamps claim, as far as our clock can confirm it; never negative."""
        if hole <= 0 or self._codec is None:
            return 0
        passed_s = max(0.0, arrival - self._end_arrival) + LEAP_S
        return hole if hole <= passed_s * self._codec.clock_rate else 0

    def _gaps(self, hole: int, lost: int, duration: int, behind: _Arrived) -> list[Gap]:
        """A hole as what can be concealed, what is silence, and what the next packet may restore."""
        codec, payload, at = self._codec, behind.packet.payload, behind.arrival
        assert codec is not None
        if not lost:
            return [Gap(Cause.PAUSE, codec, self._end, hole, arrival=at)]
        missing = min(hole, lost * duration) if duration else hole
        concealed = int(CONCEALED_S * codec.clock_rate)
        if missing == hole and hole <= concealed + duration:
            return [Gap(Cause.LOST, codec, self._end, hole, payload, at)]
        head = min(missing, concealed)
        last = duration if missing == hole else 0
        gaps = [
            Gap(Cause.LOST, codec, self._end, head, arrival=at),
            Gap(Cause.PAUSE, codec, self._end + head, hole - head - last, arrival=at),
            Gap(Cause.LOST, codec, self._end + hole - last, last, payload, at),
        ]
        return [gap for gap in gaps if gap.duration > 0]


class _Source:
    """The packets of one SSRC, from one start of its sequence. A restart makes a new object."""

    def __init__(
        self, first: Packet, now: float, counters: Counters, max_delay_s: float, hold_s: float
    ) -> None:
        self.ssrc = first.ssrc
        self.transit = _Transit(max_delay_s)
        self.lost_before = 0  # lost sequence numbers before packets that were no speech
        self._counters = counters
        self._waiting: dict[int, _Arrived] = {}
        self._release = now + hold_s
        self._highest = first.sequence + 0x10000
        self._next: int | None = None
        self._lost = 0  # given up, directly before `_next`
        self._gaps: deque[int] = deque(maxlen=MAX_REMEMBERED)
        self._anchor: tuple[int, int] | None = None  # a timestamp and the position it stands for

    def has(self, packet: Packet) -> bool:
        """Whether a packet may belong to this sequence."""
        if packet.ssrc != self.ssrc:
            return False
        return -MAX_MISORDER <= _signed(packet.sequence - self._highest, 16) < MAX_DROPOUT

    def add(self, arrived: _Arrived) -> None:
        packet = arrived.packet
        number = self._highest + _signed(packet.sequence - self._highest, 16)
        if number in self._waiting:
            self._counters.duplicate += 1
            return
        if self._next is not None and number < self._next:
            if number not in self._gaps:
                self._counters.duplicate += 1
                return
            self._gaps.remove(number)
            self._counters.late += 1
        elif len(self._waiting) >= MAX_WAITING:
            self._counters.overflow += 1
        else:
            self._waiting[number] = arrived
            self._highest = max(self._highest, number)
        if codec := arrived.speech:
            self.transit.learn(arrived.arrival, packet.timestamp, codec, codec.duration(packet.payload))

    def advance(self, now: float) -> bool:
        """Whether a packet can be taken at ``now``: the one in turn, or the one behind a hole."""
        if not self._waiting:
            return False
        if self._next is None:
            if now < self._release:
                return False
            self._next = min(self._waiting)
        if self._next not in self._waiting:
            self._give_up(now)
        return self._next in self._waiting

    def _give_up(self, now: float) -> None:
        """Missing packets whose time is over are lost."""
        assert self._next is not None
        behind = min(self._waiting)
        count = behind - self._next
        if now < math.inf:
            arrived = self._waiting[behind]
            overdue_s = now - self.transit.patience - self.transit.expected(arrived)
            count = min(count, math.floor(overdue_s / self.transit.packet_s) + count + 1)
        if count > 0:
            self._gaps.extend(range(max(self._next, self._next + count - MAX_REMEMBERED), self._next + count))
            self._lost += count
            self._next += count

    def take(self) -> tuple[_Arrived, int]:
        """The packet that `advance` spoke of, and how many are lost before it."""
        assert self._next is not None
        lost, self._lost = self._lost, 0
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
        self.delay = self.usual_delay = min(FIRST_DELAY_S, max_delay_s)
        self.jitter = 0.0
        self.packet_s = 0.02
        self._max_delay_s = max_delay_s
        self._seen = 0
        self._rate = 0  # of the timestamps, in Hz
        self._timestamp = 0
        self._media = 0  # the same, unwrapped
        self._last_arrival = 0.0
        self._fastest = 0.0
        self._buckets: deque[_Bucket] = deque(maxlen=self.BUCKETS)

    @property
    def patience(self) -> float:
        """How long to wait for a missing packet beyond its expected arrival. At least until the one
        after it could come: on the quietest network two may change places."""
        least = LEARNING_PATIENCE_S if self._seen < LEARNING_PACKETS else self.packet_s + MARGIN_S
        return min(max(self.delay, least), self._max_delay_s)

    def expected(self, arrived: _Arrived) -> float:
        """When a packet would have come on the fastest way of late."""
        if not self._buckets:
            return arrived.arrival
        media = self._media + _signed(arrived.packet.timestamp - self._timestamp, 32)
        expected = media / self._rate + self._fastest
        return min(arrived.arrival, max(expected, arrived.arrival - self._max_delay_s))

    def learn(self, arrival: float, timestamp: int, codec: Codec, duration: int) -> None:
        if codec.clock_rate != self._rate:
            self._rate, self._timestamp, self._media = codec.clock_rate, timestamp, 0
            self._buckets.clear()
        self._media += _signed(timestamp - self._timestamp, 32)
        self._timestamp = timestamp
        if duration:
            self.packet_s = duration / self._rate
        self._seen += 1
        self._note(arrival, arrival - self._media / self._rate)
        self._last_arrival = arrival

    def _note(self, arrival: float, transit: float) -> None:
        buckets = self._buckets
        if buckets and self._starts_anew(arrival, transit):
            buckets.clear()
            self._seen = 1
        if not buckets or arrival - buckets[-1].begin > self.BUCKET_S:
            buckets.append(_Bucket(arrival, transit, transit))
        else:
            bucket = buckets[-1]
            if bucket.fastest <= transit <= bucket.slowest:
                return
            bucket.fastest = min(bucket.fastest, transit)
            bucket.slowest = max(bucket.slowest, transit)
        self._judge()

    def _starts_anew(self, arrival: float, transit: float) -> bool:
        """After a pause that timestamps do not show, or a leap of theirs, old transit times mean nothing."""
        slower = transit - self._fastest
        paused = arrival - self._last_arrival > self._max_delay_s < slower
        return paused or slower < -LEAP_S or slower > LEAP_S

    def _judge(self) -> None:
        self._fastest = min(bucket.fastest for bucket in self._buckets)
        spreads = [bucket.slowest - self._fastest for bucket in self._buckets]
        bounded = [spread for spread in spreads if spread <= self._max_delay_s]
        if len(spreads) > max(2, 3 * len(bounded)):
            self.jitter = self.delay = self.usual_delay = self._max_delay_s
            return
        self.jitter = max(bounded, default=0.0)
        self.delay = self._with_margin(self.jitter)
        bounded.sort()
        self.usual_delay = self._with_margin(bounded[len(bounded) * 3 // 4] if bounded else 0.0)

    def _with_margin(self, spread: float) -> float:
        delay = spread * (1 + MARGIN_SHARE) + MARGIN_S
        if self._seen < LEARNING_PACKETS:
            delay = max(delay, FIRST_DELAY_S)
        return min(delay, self._max_delay_s)


def _near(packet: Packet, other: Packet) -> bool:
    """Whether two packets may follow each other in one sequence."""
    return packet.ssrc == other.ssrc and abs(_signed(packet.sequence - other.sequence, 16)) <= MAX_MISORDER


def _signed(difference: int, bits: int) -> int:
    """A difference of wrapping numbers as the nearer of the two it may mean."""
    half = 1 << (bits - 1)
    return ((difference + half) & ((1 << bits) - 1)) - half
