"""One source (SSRC) of a track: its packets in order, decoded; and what sends beside it, mixed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from rtcstt.media.codecs import Decoded, Decoder, decoder_for
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.playout import Cause, Frame, Gap, Playout
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.sequence import Arrived, Counters

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

    @property
    def bad_payloads(self) -> int:
        return self._bad_payloads + (self._decoder.bad_payloads if self._decoder else 0)

    def decode(self, item: Frame | Gap) -> list[Decoded]:
        rest = self.change_codec(item.codec) if item.codec is not self.codec else []
        assert self._decoder is not None
        decoded = self._decoder.decode(item)
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
    """A source beside the main one; its audio is stored until it can be added to the main one's."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._stored: deque[Decoded] = deque()
        self._length = 0
        self._is_primed = False

    @classmethod
    def of(
        cls, packets: list[Arrived], codecs: Mapping[int, Codec], max_delay_s: float, counters: Counters
    ) -> SideSource:
        """From the first packets of a source that sends beside another."""
        source = Source(codecs, max_delay_s=max_delay_s, counters=counters)
        source.playout.begin(packets)
        return cls(source)

    def push(self, packet: Packet, now: float) -> bool:
        return self.source.playout.push(packet, now)

    def advance(self, now: float) -> Iterator[Decoded]:
        """Decode what is due. What is discarded for want of room is given out."""
        while (item := self.source.playout.pop(now)) is not None:
            if isinstance(item, Frame) or item.cause is Cause.LOST:
                for decoded in self.source.decode(item):
                    self._stored.append(decoded)
                    self._length += len(decoded.samples)
        while self._length > MAX_STORED or (self._length > 2 * PRIMED and self._begins_quiet()):
            yield self._take_first()

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

    def take_all(self) -> list[Decoded]:
        """All that is stored, which is no more than a moment."""
        stored, self._stored, self._length = list(self._stored), deque(), 0
        return stored

    def _take_first(self) -> Decoded:
        first = self._stored.popleft()
        self._length -= len(first.samples)
        return first
