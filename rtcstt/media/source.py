"""One source (SSRC) of a track: its packets in order, decoded; and what sends beside it, mixed in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from rtcstt.media.codecs import Decoded, Decoder, decoder_for
from rtcstt.media.pcm import SAMPLE_RATE, Ledger, Samples
from rtcstt.media.playout import LOST_S, Cause, Frame, Gap, Playout
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.sequence import Arrived, Counters
from rtcstt.media.signals import Lost

MAX_SIDES = 3  # sources beside the main one
GONE_S = 5.0  # one that sends nothing for so long is forgotten
PRIMED = SAMPLE_RATE * 60 // 1000  # samples that a second source has in store before it is mixed in
MAX_STORED = SAMPLE_RATE * 400 // 1000  # and the most; beyond, its oldest are discarded
QUIET = 100  # the highest sample of what may be left out to be on time again


class Source:
    """Packets in, `Decoded` out; the decoder follows the codec."""

    def __init__(self, codecs: Mapping[int, Codec], *, max_delay_s: float, counters: Counters) -> None:
        self.playout = Playout(codecs, max_delay_s=max_delay_s, counters=counters)
        self.codec: Codec | None = None
        self._decoder: Decoder | None = None
        self._bad_payloads = 0
        self.is_bad = False
        """What was decoded last could not be read: it is concealed."""

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

    def __init__(self, source: Source, end: int = 0) -> None:
        self.source = source
        self._end = end
        self._losses: list[Lost] = []
        self._stored: deque[Decoded] = deque()
        self._length = 0
        self._is_primed = False

    def push(self, packet: Packet, now: float) -> bool:
        return self.source.playout.push(packet, now)

    def advance(self, now: float, at: int) -> Iterator[Decoded]:
        """Decode what is due. What is discarded for want of room is given out. ``at``: where on the track's
        clock the next audio goes."""
        while (item := self.source.playout.pop(now)) is not None:
            if isinstance(item, Frame):
                self._note_loss(item, at + self._length)
                self._store(self.source.decode(item))
                self._end = at + self._length
            elif item.cause is Cause.LOST:
                self._store(self.source.decode(item))
        while self._length > MAX_STORED or (self._length > 2 * PRIMED and self._begins_quiet()):
            yield self._take_first()

    def _store(self, decoded: list[Decoded]) -> None:
        for part in decoded:
            self._stored.append(part)
            self._length += len(part.samples)

    def take_losses(self) -> list[Lost]:
        """Those that are too long to be concealed, since this was last asked."""
        losses, self._losses = self._losses, []
        return losses

    def _note_loss(self, frame: Frame, end: int) -> None:
        lost_s = frame.lost * frame.codec.duration(frame.payload) / frame.codec.clock_rate
        start = self._end if frame.follows_doubt else max(self._end, end - round(lost_s * SAMPLE_RATE))
        if end - start > LOST_S * SAMPLE_RATE:
            self._losses.append(Lost(start, end, "network"))

    def _begins_quiet(self) -> bool:
        return int(np.abs(self._stored[0].samples).max(initial=0)) < QUIET

    def add_to(self, samples: Samples) -> tuple[Samples, list[Decoded]]:
        """``samples`` with what is stored added to them, and what of it was used."""
        self._is_primed = self._length >= PRIMED or (self._is_primed and self._length > 0)
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

    def finish(self, at: int) -> list[Decoded]:
        """All that it has: no more comes."""
        overflow = list(self.advance(math.inf, at))
        return [*overflow, *self.take_all()]

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

    def __len__(self) -> int:
        return len(self._sides)

    def __iter__(self) -> Iterator[SideSource]:
        return iter(self._sides.values())

    def get(self, ssrc: int) -> SideSource | None:
        return self._sides.get(ssrc)

    def add(self, side: SideSource) -> None:
        if side.source.playout.ssrc is not None:
            self._sides[side.source.playout.ssrc] = side

    def admit(self, packets: list[Arrived], codecs: Mapping[int, Codec]) -> bool:
        """Another source, from its first packets on. Whether there is room for it."""
        if len(self._sides) >= MAX_SIDES:
            return False
        source = Source(codecs, max_delay_s=self._max_delay_s, counters=self._counters)
        source.playout.begin(packets)
        self.add(SideSource(source))
        return True

    def take(self, ssrc: int) -> SideSource | None:
        return self._sides.pop(ssrc, None)

    def take_after(self, arrival: float) -> SideSource | None:
        """The one that sent last, where that was after ``arrival``."""
        last = max(self._sides.items(), key=lambda pair: pair[1].source.playout.last_arrival, default=None)
        if last is None or last[1].source.playout.last_arrival < arrival:
            return None
        return self._sides.pop(last[0])

    def advance(self, now: float, at: int, ledger: Ledger) -> int:
        """Decode what is due, and forget who is gone; how many bad payloads those had. ``at``: where on the
        track's clock the next audio goes."""
        bad = 0
        for ssrc, side in list(self._sides.items()):
            _account(side.advance(now, at), "other source", ledger)
            if now - side.source.playout.last_arrival > GONE_S:
                del self._sides[ssrc]
                _account(side.take_all(), "other source", ledger)
                bad += side.source.bad_payloads
        return bad

    def take_losses(self) -> list[Lost]:
        return [lost for side in self._sides.values() for lost in side.take_losses()]

    def mix(self, samples: Samples, ledger: Ledger) -> Samples:
        """Audio of the main source with that of the others added."""
        for side in self._sides.values():
            samples, used = side.add_to(samples)
            _account(used, "mixed", ledger)
        return samples


def _account(decoded: Iterable[Decoded], reason: str, ledger: Ledger) -> None:
    """Audio that came and does not go out as it is: it is in the mixture, or there was no room for it."""
    for part in decoded:
        ledger.counts[part.label] += len(part.samples)
        ledger.discard(reason, len(part.samples))
