"""RTP packets in any order become frames in order, or gaps with their cause.

A packet that comes in its turn is a frame at once; nothing is held back to smooth the pace, which
is the audio clock's business. Only a missing sequence number makes the others wait: until the
moment at which the missing packet should have come, plus a delay learned from the jitter seen (`sequence`).
Then it is a gap, and the rest goes on. A packet that comes after its gap was declared is late, and
counted. Each missing packet has its own moment, so that a lost one takes no late one with it.

Three clocks meet here, and none follows another (RFC 3550 section 5.1): sequence numbers count
packets, timestamps count samples, arrivals are ours. Sequence numbers alone tell loss. Timestamps
tell how long a hole is. Arrivals bound what timestamps may claim: a packet cannot have come sooner than
the fastest one did, so a hole that would have it so is none (a sender may restart, leap, or count its
timestamps at another rate). After a browser's `replaceTrack(null)` neither numbers nor timestamps show the
pause: it is no gap here, and the audio clock has filled it meanwhile.

Another source, or a far place in the sequence, takes over when two of its packets came and the
present source is silent; at once where the present source said BYE, where several send in turns
(`turn_taking`), or where the same source stepped back (RFC 3550 appendix A.1). A packet of another SSRC that
goes on with number and timestamp is of the same source. A stray packet takes nothing over, and packets of the
old source that are still under way are waited for like any other. A source that sends beside the present one
is a `rival`. There may be several new sources at once: each is judged by its own packets.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from rtcstt.media.candidates import Candidates
from rtcstt.media.rtp import Codec, Packet, meaning
from rtcstt.media.sequence import FIRST_DELAY_S, LEAP_S, MAX_WAITING, Arrived, Counters, Sequence

START_HOLD_S = 0.08  # the first packet waits this long for earlier ones that were overtaken
SWITCH_S = 0.06  # the least silence of a source before another may take over
LOST_S = 0.2  # of lost audio, from which on it is said
FLOWING_S = 0.1  # a report that comes so soon after a packet counts no packet that is lost
CONCEALED_S = 0.1  # of a long loss, what is worth concealing; the rest is silence
EARLY_S = 0.005  # how much sooner than the fastest packet one may seem to have come, with the hole before it
PAUSE_BYTES = 2  # an Opus packet this short announces that nothing follows for a while (DTX)


class Cause(enum.Enum):
    """Why there is a hole in the sequence of frames."""

    LOST = "lost"  # sequence numbers missing: conceal
    PAUSE = "pause"  # media time without packets, or too long a loss to conceal: silence


@dataclass(slots=True)
class Frame:
    """One payload, due now. ``position`` is its media time in units of the codec's clock rate,
    unwrapped, from 0 at the first packet of the track. ``lost``: packets that are lost directly before it;
    ``follows_doubt``: it begins another sequence, and the one before had not said that it ends."""

    payload: bytes
    codec: Codec
    position: int
    arrival: float = 0.0
    lost: int = 0
    follows_doubt: bool = False


@dataclass(slots=True)
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


class Playout:
    """One source's packets, ordered; or those of several that follow each other.

    `push` when a packet comes, `pop` until it gives None whenever frames are wanted, `flush` at the
    end. ``codecs`` may be replaced when the meaning of payload types is negotiated again.
    """

    def __init__(
        self,
        codecs: Mapping[int, Codec],
        *,
        max_delay_s: float = 0.2,
        counters: Counters | None = None,
        shares: bool = False,
    ) -> None:
        """``shares``: what other sources send is somebody else's, until the present one has said BYE."""
        self.codecs = codecs
        self.counters = counters or Counters()
        self.first_arrival: float | None = None
        "When the first packet of speech came."
        self.last_arrival = -math.inf
        "When the last packet of the present source came."
        self.paused = False
        "The last packet said that nothing follows for a while: DTX, comfort noise, or BYE."
        self.has_others = False
        "There are known ones beside the present source: who is new is one of them, and takes nothing over."
        self.in_turns = False
        "Several sources send in turns: the one that sends takes over."
        self._shares = shares
        self._max_delay_s = max_delay_s
        self._ready: deque[Frame | Gap] = deque()
        self.candidates = Candidates(self.counters)
        self._source: Sequence | None = None
        self._left_at = math.inf  # when the present source said BYE, if it did
        self._in_doubt = False  # whether what was before the present sequence was all that was sent
        self._reported = -math.inf
        self._unseen_s: float | None = None
        self._end = 0  # media position after the last frame, in units of `_codec`
        self._codec: Codec | None = None
        self._end_arrival = 0.0
        self._holes = _Holes()

    @property
    def ssrc(self) -> int | None:
        """The present source."""
        return self._source.ssrc if self._source is not None else None

    @property
    def name(self) -> int:
        """The SSRC with which the present source began."""
        return self._source.name if self._source is not None else 0

    @property
    def delay(self) -> float:
        """What covers all jitter seen recently, in s."""
        return self._source.transit.delay if self._source else FIRST_DELAY_S

    @property
    def usual_delay(self) -> float:
        """What covers the jitter most of the time: a single hiccup is no reason to send all later, in s."""
        return self._source.transit.usual_delay if self._source else FIRST_DELAY_S

    @property
    def jitter(self) -> float:
        """How much longer the slowest packets were under way recently than the fastest, in s."""
        return self._source.transit.jitter if self._source else 0.0

    def push(self, packet: Packet, now: float) -> bool:
        """Store a packet. False when it means nothing here: its payload type or its source is unknown."""
        self.counters.received += 1
        codec = meaning(self.codecs, packet.payload_type)
        source = self._source
        if codec is None:
            self.counters.unknown_type += 1
            number = source.number(packet) if source is not None else None
            if source is not None and number is not None:
                self._add(source, Arrived.of(packet, now, None), number)  # its sequence number is not lost
            return False
        arrived = Arrived.of(packet, now, codec)
        if source is None:
            source = self._source = Sequence(packet, now, self.counters, self._max_delay_s, START_HOLD_S)
        number = source.number(packet)
        if number is None and packet.ssrc != source.ssrc and packet.ssrc not in self.candidates:
            number = source.adopt(arrived)
            if number is None and source.is_copy(packet):
                self.counters.duplicate += 1
                return True
        if number is None or self.candidates.are_followed_by(packet, self.last_arrival):
            return self._take_over(arrived)
        self.last_arrival = now
        if now - self._left_at > self._max_delay_s:  # else BYE has overtaken it
            self._left_at = math.inf
        if self.first_arrival is None and arrived.speech is not None:
            self.first_arrival = now
        self._add(source, arrived, number)
        return True

    def _add(self, source: Sequence, arrived: Arrived, number: int) -> None:
        if len(self._ready) >= MAX_WAITING:
            self.counters.overflow += 1
        elif source.is_other(arrived, number):
            self.counters.duplicate += 1
            self.candidates.note_dropped(arrived.arrival)
        elif source.add(arrived, number):
            self._take(source, arrived, 0)

    def pop(self, now: float) -> Frame | Gap | None:
        """The next frame or gap that is due at ``now``, or None."""
        while not self._ready:
            source = self._source
            if source is None or not source.advance(now):
                return None
            self._take(source, *source.take())
        return self._ready.popleft()

    def flush(self) -> list[Frame | Gap]:
        """All that is left: nothing will be waited for any more."""
        out = []
        while (item := self.pop(math.inf)) is not None:
            out.append(item)
        return out

    def bye(self, ssrc: int, now: float) -> bool:
        """A source says that it leaves. Whether it is the present one."""
        if ssrc != self.ssrc:
            return False
        self.paused, self._left_at = True, now
        return True

    def report(self, ssrc: int, sent: int, now: float) -> None:
        """A source says how many packets it has sent (an RTCP sender report)."""
        source = self._source
        if source is not None and ssrc == source.ssrc:
            self._reported = now
            self._unseen_s = source.report(sent, flowing=now - self.last_arrival < FLOWING_S)

    def forget_report(self) -> None:
        """The source's last report says nothing any more of what it sends."""
        self._reported = -math.inf

    @property
    def lost_by_report(self) -> bool | None:
        """Whether the present source, as its own report says, has sent more than a moment of audio after the
        last packet that came; None where no report tells: it came too soon after that packet."""
        if self._reported - self.last_arrival <= LOST_S or self._unseen_s is None:
            return None
        return self._unseen_s > LOST_S

    @property
    def has_left(self) -> bool:
        """The present source said BYE, and nothing came of it since."""
        return self._left_at < math.inf

    @property
    def is_sending(self) -> bool:
        """Whether the newest packet of the present source was speech, and announced no pause."""
        ends_in_speech = self._source is not None and self._source.ends_in_speech
        return ends_in_speech and not self.paused and not self.has_left

    def take_rival(self, now: float) -> list[Arrived]:
        """The packets so far of a source that sends beside the present one; none where there is no such."""
        at_once = self.has_others or self.is_silent(now)
        return self.candidates.take_rival(self.ssrc, self.last_arrival, now, at_once=at_once)

    def is_silent(self, now: float) -> bool:
        """Whether so little came of the present source that another may take its place."""
        return now - self.last_arrival >= max(SWITCH_S, self.delay)

    def _take_over(self, arrived: Arrived) -> bool:
        """A packet of another source, or from elsewhere in the sequence. Whether the stream goes on there."""
        newcomers = self.candidates.add(arrived)
        if not self._may_take_over(newcomers):
            return False
        self._restart(self.candidates.take(arrived.packet.ssrc))
        return True

    def _may_take_over(self, newcomers: list[Arrived]) -> bool:
        if newcomers[-1].packet.ssrc != self.ssrc:
            if self.in_turns:
                return True
            if self.has_others or (self._shares and not self.has_left):
                return False
        if self.has_left:
            return True
        if len(newcomers) < 2:
            return False
        first, last = newcomers[-2].packet, newcomers[-1].packet
        if last.ssrc == self.ssrc and (last.sequence - first.sequence) & 0xFFFF == 1:
            return self.last_arrival < newcomers[0].arrival  # and nothing came of the old place meanwhile
        return self.is_silent(newcomers[-1].arrival)

    def _restart(self, newcomers: list[Arrived]) -> None:
        self._ready.extend(self.flush())
        is_lost = self.lost_by_report
        self._in_doubt = (self.is_sending if is_lost is None else is_lost) and not self.in_turns
        self.counters.restarts += 1
        # What it sent beside the old source would now be said twice, or late.
        recent = self.last_arrival - self._max_delay_s
        said = [arrived for arrived in newcomers if arrived.arrival < recent]
        self.counters.stray += len(said)
        self._left_at = math.inf
        self.begin(newcomers[len(said) :])

    def begin(self, newcomers: list[Arrived]) -> None:
        """The present source is that of these packets, from the first of them on."""
        first = newcomers[0]
        source = Sequence(first.packet, first.arrival, self.counters, self._max_delay_s, 0.0)
        self._source = source
        self._holes = _Holes()
        for arrived in newcomers:
            number = source.number(arrived.packet)
            if number is not None:
                self._add(source, arrived, number)
        self.first_arrival = first.arrival if self.first_arrival is None else self.first_arrival
        self.last_arrival = newcomers[-1].arrival

    def _take(self, source: Sequence, arrived: Arrived, lost: int) -> None:
        """The packet at the head of the source, before which ``lost`` ones are missing, becomes a frame, with
        the gap that was before it."""
        self.counters.lost += lost
        packet, codec = arrived.packet, arrived.speech
        if codec is None:
            self.counters.not_speech += arrived.codec is not None
            self.paused = self.paused or (arrived.codec is not None and arrived.codec.name == "CN")
            source.lost_before += lost
            return
        if codec is not self._codec:
            self._change_codec(codec)
        self.paused = codec.name == "opus" and len(packet.payload) <= PAUSE_BYTES
        lost += source.lost_before
        source.lost_before = 0
        end, duration = self._end, arrived.duration
        missing, came = lost * duration, (self._end_arrival, arrived.arrival)
        claimed = source.place(packet, end, missing) - end
        hole = self._holes.believable(claimed, missing, end, codec.clock_rate, came) if claimed > 0 else 0
        if not lost and 2 * hole < duration:
            hole = 0  # timestamps are not that exact everywhere: nobody pauses for half a packet
        if hole:
            self._ready.extend(_gaps(codec, end, hole, lost=lost, duration=duration, behind=arrived))
        position = end + hole
        self._holes.note(arrived.arrival - position / codec.clock_rate, claims_hole=claimed > 0)
        self._ready.append(Frame(packet.payload, codec, position, arrived.arrival, lost, self._in_doubt))
        self._in_doubt = False
        source.anchor(packet, position)
        self._end, self._end_arrival = position + duration, arrived.arrival

    def _change_codec(self, codec: Codec) -> None:
        if self._codec is not None and self._codec.clock_rate != codec.clock_rate and self._source:
            self._end = self._end * codec.clock_rate // self._codec.clock_rate
            self._source.forget_timestamps()
        self._codec = codec


class _Holes:
    """Those that timestamps claim, as far as our clock bears them out."""

    def __init__(self) -> None:
        self._fastest = math.inf  # arrival less media time, of the packet that was under way shortest

    def believable(self, hole: int, missing: int, end: int, rate: int, came: tuple[float, float]) -> int:
        """Of a ``hole`` after ``end`` as much as the ``missing`` media time of lost packets and our clock
        confirm; in units of ``rate``. ``came``: when the packets did before and behind it."""
        before, behind = came
        if hole > (max(0.0, behind - before) + LEAP_S) * rate:
            return 0
        early_s = self._fastest - EARLY_S - (behind - (end + hole) / rate)
        if early_s <= 0 or self._fastest == math.inf:
            return hole
        return max(hole - round(early_s * rate), min(hole, missing))

    def note(self, transit: float, *, claims_hole: bool) -> None:
        """A hole that is claimed proves nothing: it is what is to be judged."""
        if transit > self._fastest + LEAP_S or (transit < self._fastest and not claims_hole):
            self._fastest = transit


def _gaps(codec: Codec, position: int, hole: int, *, lost: int, duration: int, behind: Arrived) -> list[Gap]:
    """A hole as what can be concealed, what is silence, and what the next packet may restore."""
    payload, at = behind.packet.payload, behind.arrival
    if not lost:
        return [Gap(Cause.PAUSE, codec, position, hole, arrival=at)]
    missing = min(hole, lost * duration) if duration else hole
    concealed = int(CONCEALED_S * codec.clock_rate)
    if missing == hole and hole <= concealed + duration:
        return [Gap(Cause.LOST, codec, position, hole, payload, at)]
    head = min(missing, concealed)
    last = duration if missing == hole else 0
    gaps = [
        Gap(Cause.LOST, codec, position, head, arrival=at),
        Gap(Cause.PAUSE, codec, position + head, hole - head - last, arrival=at),
        Gap(Cause.LOST, codec, position + hole - last, last, payload, at),
    ]
    return [gap for gap in gaps if gap.duration > 0]
