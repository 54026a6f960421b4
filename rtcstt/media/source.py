"""One source (SSRC) of a track: its packets in order, decoded; and what sends beside it, mixed in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from rtcstt.media.codecs import Decoded, Decoder, decoder_for
from rtcstt.media.losses import MAIN, Unread
from rtcstt.media.pcm import SAMPLE_RATE, Ledger, Samples
from rtcstt.media.playout import LOST_S, Cause, Frame, Gap, Playout
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.sequence import Arrived, Counters
from rtcstt.media.signals import Lost

MAX_SIDES = 3  # sources beside the main one
STOPPED_S = 0.3  # one that sends nothing for so long waits for no more, and makes room for another
SILENT_S = 1.0  # and is none that sends
UNDER_WAY_S = 0.2  # what comes of a source so soon after it was replaced was sent before that
GONE_S = 5.0  # one that sends nothing for so long is forgotten
PRIMED = (
    SAMPLE_RATE * 160 // 1000
)  # samples that a second source has in store before it is mixed in, at least
SPARE = SAMPLE_RATE * 30 // 1000  # beyond the jitter of both
FRAME = SAMPLE_RATE // 50
MAX_STORED = SAMPLE_RATE * 2  # and the most; beyond, its oldest are discarded
QUIET = 100  # the highest sample of what may be left out to be on time again


class Source:
    """Packets in, `Decoded` out; the decoder follows the codec."""

    def __init__(self, codecs: Mapping[int, Codec], *, max_delay_s: float, counters: Counters) -> None:
        self.playout = Playout(codecs, max_delay_s=max_delay_s, counters=counters, shares=True)
        self.codec: Codec | None = None
        self._decoder: Decoder | None = None
        self._bad_payloads = 0
        self.is_bad = False
        """What was decoded last could not be read: it is concealed."""
        self._usual = FRAME  # samples of a packet: what one claims that cannot be read means little

    @property
    def bad_payloads(self) -> int:
        return self._bad_payloads + (self._decoder.bad_payloads if self._decoder else 0)

    def has_lost(self, now: float, by: float = 0.0) -> bool:
        """Whether what was sent after the last packet that came counts as lost: by the sender's own report,
        or where none tells, because it had not said that it would pause, ``by`` s ago."""
        by_report = self.playout.lost_by_report
        if by_report is not None:
            return by_report
        return self.playout.is_sending and now - self.playout.last_arrival > by

    def decode(self, item: Frame | Gap) -> list[Decoded]:
        rest = self.change_codec(item.codec) if item.codec is not self.codec else []
        assert self._decoder is not None
        bad = self._decoder.bad_payloads
        decoded = self._decoder.decode(item)
        self.is_bad = self._decoder.bad_payloads > bad
        if self.is_bad:
            decoded = _first(decoded, self._usual)
        elif isinstance(item, Frame):
            self._usual = item.codec.duration(item.payload) * SAMPLE_RATE // item.codec.clock_rate
        return [*rest, *decoded] if rest else decoded

    def change_codec(self, codec: Codec | None) -> list[Decoded]:
        """What the decoder so far held back; it is let go."""
        rest: list[Decoded] = []
        if self._decoder is not None:
            self._bad_payloads += self._decoder.bad_payloads
            rest = self._decoder.flush()
        self.codec = codec
        self._decoder = decoder_for(codec) if codec is not None else None
        return rest


class SideSource:
    """A source beside the main one; its audio is stored until it can be added to the main one's. ``end``:
    where on the track's clock its last audio is, in samples."""

    def __init__(self, source: Source, end: int = 0, *, replaced_at: float | None = None) -> None:
        """``replaced_at``: when, by a source that began when this one had fallen silent."""
        self.source = source
        self._replaced_at = replaced_at
        self._is_continued = False  # perhaps, by a source that began since it has fallen silent
        self.began = -math.inf
        "When its first packet came, where it is new."
        self.end = end
        self.stored_at = -math.inf
        "When the last packet came that is stored."
        self._losses: list[Lost] = []
        self._unread = Unread()
        self._stored: deque[Decoded] = deque()
        self._length = 0
        self._is_primed = False
        self._waits_for_no_more = False
        self._needed = PRIMED
        self._level = 0  # what others had in store since it waits

    @property
    def has_left(self) -> bool:
        """Whether it said BYE, and nothing of it is left."""
        return self.source.playout.has_left and not self._length

    @property
    def is_loud(self) -> bool:
        """Whether there is sound in what is stored."""
        return any(int(np.abs(part.samples).max(initial=0)) >= QUIET for part in self._stored)

    @property
    def is_mixed(self) -> bool:
        """Whether what is stored goes on from what was added last."""
        return self._is_primed

    def is_sending(self, now: float, within_s: float) -> bool:
        playout = self.source.playout
        return playout.is_sending and now - playout.last_arrival < within_s

    def push(self, packet: Packet, now: float) -> bool:
        if self._replaced_at is not None and now - self._replaced_at > UNDER_WAY_S:
            self._replaced_at = None  # it is there still
        self._is_continued = False
        return self.source.playout.push(packet, now)

    def advance(self, now: float, at: int, present: int) -> Iterator[Decoded]:
        """Decode what is due. What is discarded for want of room is given out. ``at``: where on the track's
        clock the next audio goes, ``present``: where what comes now belongs."""
        while (item := self.source.playout.pop(now)) is not None:
            if isinstance(item, Frame):
                self._take(item, at, present - round(min(GONE_S, max(0.0, now - item.arrival)) * SAMPLE_RATE))
            elif item.cause is Cause.LOST:
                self._store(self.source.decode(item))
        if now - self.source.playout.last_arrival > STOPPED_S:
            self.release()
        while self._length > MAX_STORED or (self._length > 2 * self._needed and self._begins_quiet()):
            if not self._begins_quiet():
                self._unread.note("overflow", at, at + len(self._stored[0].samples), "overflow", least=0)
            yield self._take_first()

    def _take(self, frame: Frame, at: int, came: int) -> None:
        before = self._length
        self._note_loss(frame, at + before)
        self._store(self.source.decode(frame))
        self.end, self.stored_at = at + self._length, frame.arrival
        if self.source.is_bad:
            self._unread.note(MAIN, max(0, came - max(FRAME, self._length - before)), came)
        else:
            self._unread.over(MAIN)

    def _store(self, decoded: list[Decoded]) -> None:
        self._waits_for_no_more = False
        for part in decoded:
            self._stored.append(part)
            self._length += len(part.samples)

    def take_losses(self, at: int, *, everything: bool = False) -> list[Lost]:
        """Those that are too long to be concealed, since this was last asked."""
        losses, self._losses = self._losses, []
        return losses + self._unread.due(at, everything=everything)

    def _note_loss(self, frame: Frame, end: int) -> None:
        lost_s = frame.lost * frame.codec.duration(frame.payload) / frame.codec.clock_rate
        is_long = lost_s > LOST_S or frame.follows_doubt  # where in the hole they were nobody knows
        if is_long and end - self.end > LOST_S * SAMPLE_RATE:
            self._losses.append(Lost(self.end, end, "network"))

    def note_lost_end(self, now: float, end: int) -> None:
        """Nothing more comes: what it sent after its last packet is lost, where it had not said that it would
        stop."""
        patience_s = math.inf if self._replaced_at is not None or self._is_continued else LOST_S
        if self.source.has_lost(now, by=patience_s):
            self._lose(end)

    def _lose(self, end: int) -> None:
        if end - self.end > LOST_S * SAMPLE_RATE:
            self._losses.append(Lost(self.end, end, "network"))

    def note_replaced(self, now: float, at: int) -> None:
        """Another source begins, when this one has fallen silent: what came of it no more is lost up to
        there, where it had not said that it would stop."""
        if self.source.has_lost(now, by=STOPPED_S) and self._replaced_at is None:
            self._lose(at)
            self.end, self._is_continued = max(self.end, at), True

    def _begins_quiet(self) -> bool:
        return int(np.abs(self._stored[0].samples).max(initial=0)) < QUIET

    def add_to(self, samples: Samples, delay_s: float, level: int) -> tuple[Samples, list[Decoded]]:
        """``samples`` with what is stored added to them, and what of it was used. ``delay_s``: what covers
        the jitter of the source that these are of; ``level``: what others have in store."""
        self._prime(delay_s, level)
        if not self._is_primed:
            return samples, []
        mixed, used, at = samples.astype(np.int32), list[Decoded](), 0
        while at < len(mixed) and self._stored:
            first = self._take_first()
            room = len(mixed) - at
            if len(first.samples) > room:
                rest = Decoded(first.samples[room:], first.label)
                self._stored.appendleft(rest)
                self._length += len(rest.samples)
                first = Decoded(first.samples[:room], first.label)
            mixed[at : at + len(first.samples)] += first.samples
            at += len(first.samples)
            used.append(first)
        return np.clip(mixed, -32768, 32767).astype(np.int16), used

    def _prime(self, delay_s: float, level: int) -> None:
        """So much is stored at first that it does not run dry in a word, as jitter has it; and no less than
        of others, so that who goes on in the place of another does not begin before that one's last word."""
        runs_low = 0 < self._length < self._needed // 2 and not self._waits_for_no_more
        if self._is_primed and runs_low and self._begins_quiet():
            self._is_primed = self.source.playout.paused  # where it is quiet there is time to store more
        if not self._is_primed:
            jitter = round((self.source.playout.delay + delay_s) * SAMPLE_RATE)
            self._level = max(self._level, level)
            self._needed = max(PRIMED, jitter + SPARE, self._level)
        ready = self._length >= self._needed or self.source.playout.has_left
        self._is_primed = self._length > 0 and (self._is_primed or ready)
        self._level = 0 if self._is_primed else self._level

    def flush(self) -> None:
        """No more comes of it."""
        self._store(self.source.change_codec(None))

    def release(self) -> None:
        """What is stored need wait for no more."""
        self._waits_for_no_more = True
        self._is_primed = self._length > 0

    @property
    def stored(self) -> int:
        """Samples."""
        return self._length

    def take_all(self) -> list[Decoded]:
        """All that is stored, which is no more than a moment."""
        stored, self._stored, self._length = list(self._stored), deque(), 0
        return stored

    def _take_first(self) -> Decoded:
        first = self._stored.popleft()
        self._length -= len(first.samples)
        return first


class SideSources:
    """All that send beside the main source of a track."""

    def __init__(self, max_delay_s: float, counters: Counters) -> None:
        self._max_delay_s = max_delay_s
        self._counters = counters
        self._sides: dict[int, SideSource] = {}
        self._gone: list[Lost] = []  # of sources that are no more

    def __len__(self) -> int:
        return len(self._sides)

    def __iter__(self) -> Iterator[SideSource]:
        return iter(self._sides.values())

    def get(self, ssrc: int) -> SideSource | None:
        return self._sides.get(ssrc)

    def add(self, side: SideSource) -> None:
        if side.source.playout.ssrc is not None:
            self._sides[side.source.playout.ssrc] = side

    def admit(self, packets: list[Arrived], codecs: Mapping[int, Codec], ledger: Ledger, at: int) -> bool:
        """Another source, from its first packets on, which belong to ``at`` on the track's clock. Whether
        there is room for it. It may be one of those that stopped unannounced, with another SSRC."""
        for side in self:
            if side.source.playout.last_arrival < packets[0].arrival:
                side.note_replaced(packets[0].arrival, at)
        if len(self._sides) >= MAX_SIDES and not self._make_room(packets[-1].arrival, ledger):
            return False
        source = Source(codecs, max_delay_s=self._max_delay_s, counters=self._counters)
        source.playout.begin(packets)
        side = SideSource(source)
        side.began = packets[0].arrival
        self.add(side)
        return True

    def _make_room(self, now: float, ledger: Ledger) -> bool:
        """Forget the one that has been silent for longest."""
        ssrc, side = min(self._sides.items(), key=lambda pair: pair[1].source.playout.last_arrival)
        if now - side.source.playout.last_arrival < STOPPED_S:
            return False
        self._gone += side.take_losses(0, everything=True)
        _account(side.take_all(), "other source", ledger)
        del self._sides[ssrc]
        return True

    def take_after(self, arrival: float) -> SideSource | None:
        """Of those that sent after ``arrival`` the one that speaks, or else sent last: what is stored of
        another may be shorter."""
        sent = [pair for pair in self._sides.items() if pair[1].source.playout.last_arrival >= arrival]
        if not sent:
            return None
        ssrc, _ = max(sent, key=lambda pair: (pair[1].is_loud, pair[1].source.playout.last_arrival))
        return self._sides.pop(ssrc)

    def advance(self, now: float, at: int, present: int, ledger: Ledger) -> int:
        """Decode what is due, and forget who is gone; how many bad payloads those had. ``at``: where on the
        track's clock the next audio goes, ``present``: where what comes now belongs."""
        bad = 0
        for ssrc, side in list(self._sides.items()):
            _account(side.advance(now, at, present), "other source", ledger)
            if side.has_left or now - side.source.playout.last_arrival > GONE_S:
                del self._sides[ssrc]
                side.note_lost_end(now, present)
                self._gone += side.take_losses(at, everything=True)
                _account(side.take_all(), "other source", ledger)
                bad += side.source.bad_payloads
        return bad

    def flush(self, at: int, ledger: Ledger) -> None:
        """No more comes of them: what is there is stored."""
        for side in self:
            _account(side.advance(math.inf, at, at), "other source", ledger)
            side.flush()

    def discard(self, at: int, ledger: Ledger) -> int:
        """There is none any more, and what is stored of them goes; how many bad payloads those had."""
        bad = sum(side.source.bad_payloads for side in self)
        for side in self:
            self._gone += side.take_losses(at, everything=True)
            _account(side.take_all(), "other source", ledger)
        self._sides.clear()
        return bad

    def began_after(self, arrival: float) -> bool:
        """Whether one of them did."""
        return any(side.began > arrival for side in self)

    def are_sending(self, now: float, within_s: float) -> bool:
        """Whether speech of one of them came within the last ``within_s``, or is stored."""
        return any(side.stored or side.is_sending(now, within_s) for side in self._sides.values())

    def count_sending(self, now: float) -> int:
        """Of how many something came in the last moment."""
        return sum(now - side.source.playout.last_arrival < SILENT_S for side in self)

    def note_lost_ends(self, now: float, end: int) -> None:
        """Nothing more comes of any of them."""
        for side in self:
            side.note_lost_end(now, end)

    def take_losses(self, at: int, *, everything: bool = False) -> list[Lost]:
        gone, self._gone = self._gone, []
        return gone + [lost for side in self for lost in side.take_losses(at, everything=everything)]

    def take_longest(self) -> list[Decoded]:
        """Of what they have stored the longest; the others go out with it."""
        for side in self:
            side.release()
        longest = max(self, key=lambda side: side.stored, default=None)
        return longest.take_all() if longest is not None else []

    def mix(self, samples: Samples, delay_s: float, ledger: Ledger) -> Samples:
        """Audio of the main source with that of the others added. ``delay_s``: what covers the jitter of the
        main source."""
        level = max(side.stored if side.is_mixed else 0 for side in self)
        for side in self:
            if side.is_mixed or not self._is_behind_another(side):
                samples, used = side.add_to(samples, delay_s, level)
                _account(used, "mixed", ledger)
        return samples

    def _is_behind_another(self, side: SideSource) -> bool:
        """Whether one that had fallen silent when this one began has not said its last word."""
        before = (other for other in self if other.source.playout.last_arrival < side.began)
        return any(other.is_mixed and other.is_loud for other in before)


def _first(decoded: Iterable[Decoded], count: int) -> list[Decoded]:
    """The first ``count`` samples."""
    parts = []
    for part in decoded:
        parts.append(Decoded(part.samples[:count], part.label))
        count -= len(parts[-1].samples)
    return [part for part in parts if len(part.samples)]


def _account(decoded: Iterable[Decoded], reason: str, ledger: Ledger) -> None:
    """Audio that came and does not go out as it is: it is in the mixture, or there was no room for it."""
    for part in decoded:
        ledger.counts[part.label] += len(part.samples)
        ledger.discard(reason, len(part.samples))
