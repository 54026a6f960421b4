"""The packets of one source, from one start of its sequence: in order, with what is lost; and its jitter.

How long to wait for a missing packet is learned from transit times (arrival minus media time; only
differences mean anything). `Transit` keeps the fastest and the slowest of each half second for five seconds:
the spread, with some margin, is the delay. A stall of the whole network is not jitter: transit beyond the
cap is left out, unless it is so frequent that it is how this network is.

Some senders count their timestamps at another rate than they should: twice that of the payload, say.
`_Scale` learns the factor, where it is constant and the packets come at the pace of their payload.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TypedDict

from rtcstt.media.rtp import PACKET_S, Codec, Packet

LEARNING_PACKETS = 25  # until so many have come, a missing packet is given `LEARNING_PATIENCE_S`
LEARNING_PATIENCE_S = 0.1
FIRST_DELAY_S = 0.02
MARGIN_S = 0.005
MARGIN_SHARE = 0.1  # of the spread: the slowest packet seen is not the slowest there will be
MAX_WAITING = 1500  # packets; beyond, new ones are dropped, because nobody takes them
MAX_DROPOUT, MAX_MISORDER = 3000, 100  # sequence numbers (RFC 3550 appendix A.1); more is a new start
LEAP_S = 1.0  # how much more a timestamp may claim to have passed than our own clock saw
MAX_REMEMBERED = 512  # gaps remembered to tell late packets from duplicates
SLIGHT_S = 0.0005  # by so much the extremes of transit times may change without another look at the delay
NEXT = 16  # sequence numbers that are near by themselves, however many SSRCs their sender uses
SCALE_PACKETS = 20  # in a row whose timestamps claim the same multiple of their payload
SCALE_TOLERANCE = 0.35  # of the payload's duration, for the pace of the packets that claim it


class PacketCounts(TypedDict):
    """`Counters` as they are shown."""

    received: int
    lost: int
    late: int
    duplicate: int
    not_speech: int
    unknown_type: int
    stray: int
    overflow: int
    restarts: int


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

    def as_dict(self) -> PacketCounts:
        return {
            "received": self.received,
            "lost": self.lost,
            "late": self.late,
            "duplicate": self.duplicate,
            "not_speech": self.not_speech,
            "unknown_type": self.unknown_type,
            "stray": self.stray,
            "overflow": self.overflow,
            "restarts": self.restarts,
        }


@dataclass(slots=True)
class Arrived:
    """A packet, when it came, and what its payload type means; ``speech``: the codec to decode it with."""

    packet: Packet
    arrival: float
    codec: Codec | None
    speech: Codec | None
    duration: int
    "Of the payload, in units of the clock rate."

    @classmethod
    def of(cls, packet: Packet, arrival: float, codec: Codec | None) -> Arrived:
        if codec is None or not packet.payload or not codec.is_speech:
            return cls(packet, arrival, codec, None, 0)
        return cls(packet, arrival, codec, codec, codec.duration(packet.payload))


class Sequence:
    """The packets of one SSRC, from one start of its sequence. A restart makes a new object."""

    def __init__(
        self, first: Packet, now: float, counters: Counters, max_delay_s: float, hold_s: float
    ) -> None:
        self.ssrc = self.name = first.ssrc
        self.transit = Transit(max_delay_s)
        self.lost_before = 0  # lost sequence numbers before packets that were no speech
        self._counters = counters
        self._waiting: dict[int, Arrived] = {}
        self._release = now + hold_s
        self._highest = first.sequence + 0x10000
        self._next: int | None = None
        self._lost = 0  # given up, directly before `_next`
        self._gaps: deque[int] = deque(maxlen=MAX_REMEMBERED)
        self._taken: dict[int, tuple[int, bytes]] = {}  # the last ones, to tell a step back from a duplicate
        self._anchor: tuple[Packet, int] | None = None  # a packet and its position
        self._scale = _Scale()
        self._adopted = 0  # packets with another SSRC than the one before
        self._sent = SentCount()
        self._newest: Arrived | None = None  # by sequence number

    def number(self, packet: Packet) -> int | None:
        """A packet's number in this sequence, None where it does not belong to it. One with a number that was
        taken already, but with other content, does not: its sender has stepped back."""
        if packet.ssrc != self.ssrc:
            return None
        ahead = ((packet.sequence - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if ahead > 0:
            return self._highest + ahead if ahead < MAX_DROPOUT else None
        if ahead < -MAX_MISORDER:
            return None
        number = self._highest + ahead
        taken = self._taken.get(number)
        return number if taken is None or taken == (packet.timestamp, packet.payload) else None

    def adopt(self, arrived: Arrived) -> int | None:
        """A packet of another SSRC that goes on here: its sender has changed the SSRC, and counts on. It is
        the next one by its number, and came in its time, or any by number and timestamp; where that has
        happened twice, by its number alone. Its number; None where that is not so."""
        packet, newest = arrived.packet, self._newest
        ahead = signed16(packet.sequence - self._highest)
        number = self._highest + ahead
        if newest is None or not newest.duration or newest.speech is not arrived.speech:
            return None
        if abs(ahead) > MAX_MISORDER or number in self._waiting or number in self._taken:
            return None
        assert newest.speech is not None  # it has a duration
        duration_s = newest.duration / newest.speech.clock_rate
        is_next = ahead == 1 and arrived.arrival - newest.arrival >= duration_s / 2
        if not is_next and not (self._adopted > 1 and abs(ahead) <= NEXT and self._misses(number)):
            claimed = self._scale.media(signed32(packet.timestamp - newest.packet.timestamp))
            if claimed != ahead * newest.duration or not self._misses(number):
                return None
        self.ssrc = packet.ssrc
        self._adopted += 1
        return number

    def is_copy(self, packet: Packet) -> bool:
        """Whether it is one of those that came last, with another SSRC: some send all twice (RFC 7198).
        Silence tells it by its number alone."""
        content = packet.timestamp, packet.payload
        if packet.payload.count(packet.payload[:1]) == len(packet.payload):
            number = self._highest + signed16(packet.sequence - self._highest)
            return self._taken.get(number) == content
        waiting = ((one.packet.timestamp, one.packet.payload) for one in self._waiting.values())
        return content in self._taken.values() or content in waiting

    def _misses(self, number: int) -> bool:
        """Whether it has not come."""
        return self._next is None or number > self._highest or number >= self._next or number in self._gaps

    def is_other(self, arrived: Arrived, number: int) -> bool:
        """Whether its number is that of another packet of speech that waits, or of none that was to come:
        from before the beginning."""
        if arrived.speech is None or number > self._highest:
            return False
        waiting = self._waiting.get(number)
        if waiting is not None:
            return waiting.speech is not None and waiting.packet.payload != arrived.packet.payload
        is_over = self._next is not None and number < self._next
        return is_over and number not in self._taken and number not in self._gaps

    def add(self, arrived: Arrived, number: int) -> bool:
        """Whether it is the one in turn and nothing else waits: then it is taken already."""
        if number == self._next and not self._waiting and number == self._highest + 1:
            self._learn(arrived, number)
            self._next = number + 1
            self._remember(number, arrived.packet)
            return True
        self._store(arrived, number)
        return False

    def _learn(self, arrived: Arrived, number: int) -> None:
        """From the newest packet so far."""
        self._learn_scale(arrived, directly_next=number == self._highest + 1)
        self._highest, self._newest = number, arrived
        if (codec := arrived.speech) is not None:
            self.transit.learn(arrived, codec.clock_rate)

    def _store(self, arrived: Arrived, number: int) -> None:
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
            if number > self._highest:
                self._learn(arrived, number)
                return
            self._newest = arrived if number == self._highest else self._newest
        if (codec := arrived.speech) is not None:
            self.transit.learn(arrived, codec.clock_rate)

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

    def take(self) -> tuple[Arrived, int]:
        """The packet that `advance` spoke of, and how many are lost before it."""
        number = self._next
        assert number is not None
        lost, self._lost = self._lost, 0
        arrived = self._waiting.pop(number)
        self._next = number + 1
        self._remember(number, arrived.packet)
        return arrived, lost

    def _remember(self, number: int, packet: Packet) -> None:
        self._taken[number] = (packet.timestamp, packet.payload)
        self._taken.pop(number - MAX_MISORDER - 1, None)

    def place(self, packet: Packet, end: int, missing: int) -> int:
        """The media position of a packet. ``end``: of the audio so far; ``missing``: what was lost after it,
        which is all that is known where there is no timestamp of that SSRC to compare with."""
        if self._anchor is None:
            return end
        known, position = self._anchor
        place = position + self._scale.media(signed32(packet.timestamp - known.timestamp))
        return place if packet.ssrc == known.ssrc else end + missing

    def anchor(self, packet: Packet, position: int) -> None:
        self._anchor = packet, position

    def forget_timestamps(self) -> None:
        self._anchor = None

    def report(self, sent: int, *, flowing: bool) -> float | None:
        """A report that the source has sent so many packets: for how long it has been sending since the last
        packet that came, in s; None where that is not known."""
        self._sent.note(sent, self._highest, flowing=flowing)
        return None if self._sent.unseen is None else self._sent.unseen * self.transit.packet_s

    @property
    def ends_in_speech(self) -> bool:
        """Whether the newest packet was speech."""
        return self._newest is not None and self._newest.speech is not None

    def _learn_scale(self, arrived: Arrived, *, directly_next: bool) -> None:
        before = self._newest
        if before is None or before.speech is not arrived.speech or not directly_next:
            self._scale.interrupt()
            return
        claimed = signed32(arrived.packet.timestamp - before.packet.timestamp)
        if self._scale.note(claimed, before, arrived.arrival):
            self._anchor = None
            self.transit.rescale(self._scale)


class SentCount:
    """What a source's reports say it has sent (RFC 3550 section 6.4.1), beside what came: they alone tell of
    packets that are lost after the last that came.

    A report counts from the source's first packet, we from the first that came; how far the two are apart
    is learned while packets come. ``unseen``: packets sent after the last that came, None where that is not
    known.
    """

    def __init__(self) -> None:
        self.unseen: int | None = None
        self._apart: int | None = None

    def note(self, sent: int, highest: int, *, flowing: bool) -> None:
        """A report of ``sent`` packets, when ``highest`` was the last number that came. ``flowing``: that was
        a moment ago."""
        apart = signed32(sent - highest)
        if flowing and (self._apart is None or signed32(apart - self._apart) < 0):
            self._apart = apart
        self.unseen = None if self._apart is None else max(0, signed32(apart - self._apart))


class _Scale:
    """The factor between what timestamps claim to have passed and what payloads last.

    It is `claimed`/`lasting` of the packets it was learned from, and 1 before.
    """

    def __init__(self) -> None:
        self.claimed, self.lasting = 1, 1
        self._row: tuple[int, int] | None = None
        self._count = 0
        self._since = 0.0
        self._lasting_s = 0.0

    def media(self, claimed: int) -> int:
        """How much of media time a difference of timestamps stands for."""
        if self.claimed == self.lasting:
            return claimed
        return round(claimed * self.lasting / self.claimed)

    def note(self, claimed: int, before: Arrived, arrival: float) -> bool:
        """Two packets that follow each other. Whether the factor has changed with them."""
        lasting = before.duration
        if claimed * self.lasting == lasting * self.claimed or claimed <= 0 or not lasting:
            self._row = None  # as known, or meaningless
            return False
        if self._row is None or claimed * self._row[1] != lasting * self._row[0]:
            self._row, self._count, self._since, self._lasting_s = (claimed, lasting), 0, before.arrival, 0.0
        assert before.speech is not None
        self._count += 1
        self._lasting_s += lasting / before.speech.clock_rate
        if self._count < SCALE_PACKETS:
            return False
        passed_s = arrival - self._since
        row, self._row = self._row, None
        if abs(passed_s - self._lasting_s) > SCALE_TOLERANCE * self._lasting_s:
            return False  # they come as seldom as they say
        self.claimed, self.lasting = row
        return True

    def interrupt(self) -> None:
        self._row = None


@dataclass(slots=True)
class _Bucket:
    begin: float
    fastest: float
    slowest: float


class Transit:
    """The jitter of one source: the spread of its transit times over the last seconds."""

    BUCKET_S = 0.5
    BUCKETS = 10

    def __init__(self, max_delay_s: float) -> None:
        self.delay = self.usual_delay = min(FIRST_DELAY_S, max_delay_s)
        self.jitter = 0.0
        self.packet_s = PACKET_S
        self._max_delay_s = max_delay_s
        self._seen = 0
        self._rate = 0  # of the timestamps, in Hz
        self._per_s = 0.0  # the same, as they are really counted
        self._timestamp = 0
        self._media_s = 0.0  # the same, unwrapped
        self._last_arrival = 0.0
        self._fastest = 0.0
        self._buckets: deque[_Bucket] = deque(maxlen=self.BUCKETS)

    @property
    def patience(self) -> float:
        """How long to wait for a missing packet beyond its expected arrival. At least until the one
        after it could come: on the quietest network two may change places."""
        least = LEARNING_PATIENCE_S if self._seen < LEARNING_PACKETS else self.packet_s + MARGIN_S
        return min(max(self.delay, least), self._max_delay_s)

    def expected(self, arrived: Arrived) -> float:
        """When a packet would have come on the fastest way recently. Of one that came later than any delay
        allows nobody knows: all that are under way were held up, or the way is another one."""
        if not self._buckets:
            return arrived.arrival
        media_s = self._media_s + signed32(arrived.packet.timestamp - self._timestamp) / self._per_s
        expected = media_s + self._fastest
        return expected if 0 < arrived.arrival - expected <= self._max_delay_s else arrived.arrival

    def rescale(self, scale: _Scale) -> None:
        """Timestamps are counted at another rate than was thought."""
        self._per_s = self._rate * scale.claimed / scale.lasting
        self._buckets.clear()
        self._seen = 0

    def learn(self, arrived: Arrived, clock_rate: int) -> None:
        timestamp, arrival = arrived.packet.timestamp, arrived.arrival
        if clock_rate != self._rate:
            self._rate, self._per_s, self._timestamp, self._media_s = clock_rate, clock_rate, timestamp, 0.0
            self._buckets.clear()
        self._media_s += signed32(timestamp - self._timestamp) / self._per_s
        self._timestamp = timestamp
        if arrived.duration:
            self.packet_s = arrived.duration / clock_rate
        self._seen += 1
        self._note(arrival, arrival - self._media_s)
        self._last_arrival = arrival

    def _note(self, arrival: float, transit: float) -> None:
        buckets = self._buckets
        if buckets:
            slower = transit - self._fastest
            paused = slower > self._max_delay_s and arrival - self._last_arrival > self._max_delay_s
            if paused or slower < -LEAP_S or slower > LEAP_S:
                # After a pause that timestamps do not show, or a leap of theirs, old times mean nothing.
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
            if -SLIGHT_S < transit - self._fastest < self.jitter + SLIGHT_S:
                return  # with the next one is soon enough
        self._judge()

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


def near(packet: Packet, other: Packet) -> bool:
    """Whether two packets may follow each other in one sequence."""
    return packet.ssrc == other.ssrc and abs(signed16(packet.sequence - other.sequence)) <= MAX_MISORDER


def signed16(difference: int) -> int:
    """A difference of wrapping numbers as the nearer of the two it may mean."""
    return ((difference + 0x8000) & 0xFFFF) - 0x8000


def signed32(difference: int) -> int:
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000
