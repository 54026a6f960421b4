"""The sources (SSRCs) of a track, decoded and mixed into its clock.

A track is mostly one source at a time. Where a second one sends beside it for longer than a moment, both are
decoded and mixed, as a conference bridge does: whoever speaks is received, and no word is cut by going from
one to the other. Where the main source falls silent, another one becomes the main one; it is remembered for a
while as one of the others, so that what is lost of it meanwhile is known when it comes back.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rtcstt.media.clock import AudioClock
from rtcstt.media.codecs import Decoded
from rtcstt.media.losses import MAIN, Losses
from rtcstt.media.pcm import SAMPLE_RATE, Label
from rtcstt.media.playout import LOST_S, Cause, Frame, Gap
from rtcstt.media.presence import Presence
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.sequence import Counters
from rtcstt.media.signals import SeveralSources
from rtcstt.media.source import MAX_SIDES, SideSource, SideSources, Source

PACKET_S = 0.02  # what is not understood is taken for so long
OTHERS, STRAY = "others", "stray"  # whose, of what is not received
HANDOVER_S = 0.2  # of silence of the main source, until another one takes its place


class Sources:
    """Packets in; `advance` puts what is due on the clock, `flush` all that there is. ``main``: the source
    that the clock follows, ``sides``: the others."""

    def __init__(
        self,
        codecs: Mapping[int, Codec],
        clock: AudioClock,
        presence: Presence,
        losses: Losses,
        *,
        max_delay_s: float,
    ) -> None:
        self._codecs = codecs
        self._clock = clock
        self._presence = presence
        self.losses = losses
        self.counters = Counters()
        self.main = Source(codecs, max_delay_s=max_delay_s, counters=self.counters)
        self.sides = SideSources(max_delay_s, self.counters)
        self._bad_payloads = 0  # of sources that are gone
        self._unread_since: float | None = None  # before the clock has begun

    def renegotiate(self, codecs: Mapping[int, Codec]) -> None:
        """From here on payload types mean this."""
        self._codecs = self.main.playout.codecs = codecs
        for side in self.sides:
            side.source.playout.codecs = codecs

    def push(self, packet: Packet, now: float, *, is_known_type: bool) -> bool:
        """Whether it is of a source that is received."""
        side = self.sides.get(packet.ssrc) if self.sides else None
        known = side.push(packet, now) if side is not None else self.main.playout.push(packet, now)
        if not known and is_known_type:
            self._admit_rival(now)
        return known

    def bye(self, ssrc: int, now: float) -> bool:
        """A source leaves. Whether nobody is left."""
        side = self.sides.get(ssrc)
        if side is not None:
            side.source.playout.bye(ssrc)
            return False
        is_lost = self.main.has_lost(now, by=max(LOST_S, self.main.playout.delay))
        if not self.main.playout.bye(ssrc):
            return False
        self.losses.hole_is_loss |= is_lost  # a source that stops says so at once
        if self.sides:
            self._hand_over(now)
            return False
        return True

    def report(self, ssrc: int, sent: int, now: float) -> None:
        side = self.sides.get(ssrc)
        (side.source if side is not None else self.main).playout.report(ssrc, sent, now)

    def advance(self, now: float) -> None:
        self._note_dropped(now)
        if self.sides:
            self._advance_sides(now)
        while (item := self.main.playout.pop(now)) is not None:
            self._take(item)

    def flush(self, now: float) -> None:
        """Nothing more comes."""
        self.main.playout.candidates.drop_all()
        self._note_dropped(now)
        self._advance_sides(now)
        for item in self.main.playout.flush():
            self._take(item)
        self._push(self.main.change_codec(None), now)
        self.sides.flush(self._clock.end, self._clock.ledger)
        self._push_stored(now)

    def _note_dropped(self, now: float) -> None:
        """Packets that belong to no sequence, or of which another had the number, were dropped."""
        if (since := self.main.playout.candidates.take_dropped()) is not None:
            self.note_unread(now, STRAY, since)

    def note_lost_ends(self, now: float) -> None:
        """At the end: what the others sent after their last packets is lost."""
        self.sides.note_lost_ends(now, self._clock.end)
        self._presence.signals += self.sides.take_losses(self._clock.end, everything=True)

    def are_others_sending(self, now: float) -> bool:
        """Whether one of them takes the main one's place, before long, should that be silent."""
        return len(self.sides) > 0 and self.sides.are_sending(now, HANDOVER_S)

    @property
    def bad_payloads(self) -> int:
        sources = [self.main, *(side.source for side in self.sides)]
        return self._bad_payloads + sum(source.bad_payloads for source in sources)

    def _take(self, item: Frame | Gap) -> None:
        if isinstance(item, Gap):
            if item.cause is Cause.PAUSE:
                count = item.duration * SAMPLE_RATE // item.codec.clock_rate
                silence = np.zeros(self._clock.pause(count, item.arrival), np.int16)
                self._push([Decoded(silence, Label.SILENCE)], item.arrival)
            else:
                self._push(self.main.decode(item), item.arrival)
            return
        if self._clock.origin is None:
            self._begin(item)
        at = self._clock.next
        decoded = self.main.decode(item)
        self._push(decoded, item.arrival)
        count, end = sum(len(part.samples) for part in decoded), self._clock.end
        ahead_s = self._clock.ahead(item.arrival)
        if self.main.is_bad:
            self.losses.unreadable(item, count, at, end, ahead_s)
            self._note_bad(self.main)
        else:
            self.losses.received(item, count, end, ahead_s)

    def _note_bad(self, source: Source) -> None:
        name = source.codec.name if source.codec else "speech"
        self._presence.ignore("payload", f"payloads arrive that cannot be read as {name}")

    def note_unread(self, now: float, whose: str = MAIN, since: float | None = None) -> None:
        """A packet that came ``now`` is not understood, or those are that came ``since`` then."""
        if self._clock.origin is None:
            if self._unread_since is None:
                self._unread_since = now - PACKET_S
            if now - self._unread_since <= LOST_S:
                return
            self._clock.begin(self._unread_since)
            since = self._unread_since
        reason = "overflow" if whose == OTHERS else "network"
        if since is not None and self.losses.unread.grows(whose):
            self.losses.unread.extend(whose, self.place(now))
            return
        start = self.place(now - PACKET_S if since is None else since)
        self.losses.unread.note(whose, start, self.place(now), reason)

    def place(self, at: float) -> int:
        """Where on the clock audio lies whose last sample was spoken then."""
        assert self._clock.origin is not None
        return max(0, round((at - self._clock.origin + self._clock.lag_s) * SAMPLE_RATE))

    def _push(self, decoded: list[Decoded], arrival: float) -> None:
        for part in decoded:
            samples = part.samples
            if self.sides:
                samples = samples[self._clock.cover(len(samples), part.label) :]
                samples = self.sides.mix(samples, self.main.playout.delay, self._clock.ledger)
            self._clock.push(samples, part.label, arrival)

    def _begin(self, first: Frame) -> None:
        """The call begins when its first sample was spoken: a packet's duration before it could be sent."""
        duration_s = first.codec.duration(first.payload) / first.codec.clock_rate
        self._clock.begin((self.main.playout.first_arrival or first.arrival) - duration_s)

    def _admit_rival(self, now: float) -> None:
        packets = self.main.playout.take_rival(now)
        if not packets:
            return
        admitted = self.sides.admit(packets, self._codecs, self._clock.ledger)
        self._note_others()
        if admitted and self.main.playout.is_silent(now):
            self.losses.hole_is_loss |= self.main.has_lost(now)
            self._hand_over(now, replaced=True)
            return
        if admitted:
            if self.main.playout.last_arrival > packets[0].arrival:
                self._presence.signals.append(SeveralSources(1 + self.sides.count_sending(now)))
            return
        self.counters.stray += len(packets)
        self._presence.ignore("sources", f"more than {1 + MAX_SIDES} sources send at once")
        self.note_unread(now, OTHERS, packets[0].arrival - PACKET_S)

    def _advance_sides(self, now: float) -> None:
        present = self.place(now) if self._clock.origin is not None else 0
        self._bad_payloads += self.sides.advance(now, self._clock.end, present, self._clock.ledger)
        self._presence.signals += self.sides.take_losses(self._clock.end)
        for side in self.sides:
            if side.source.bad_payloads:
                self._note_bad(side.source)
        self._note_others()
        playout = self.main.playout
        patience_s = 0.0 if playout.paused else max(HANDOVER_S, playout.delay)
        replaced = playout.is_silent(now) and self.sides.began_after(playout.last_arrival)
        if self.sides and (replaced or now - playout.last_arrival > patience_s):
            self._hand_over(now, replaced=replaced)

    def _note_others(self) -> None:
        self.main.playout.has_others = len(self.sides) > 0

    def _hand_over(self, now: float, *, replaced: bool = False) -> None:
        """The main source is silent: the one that sent last takes its place."""
        for item in self.main.playout.flush():
            self._take(item)
        side = self.sides.take_after(self.main.playout.last_arrival)
        if side is None and now - self.main.playout.last_arrival > HANDOVER_S:
            self._push_stored(now)
        elif side is not None:
            old, self.main = self.main, side.source
            new = self.main.playout  # who may take over from it has been waiting already
            new.candidates, old.playout.candidates = old.playout.candidates, new.candidates
            self.sides.add(SideSource(old, self.losses.end, replaced=replaced))
            if (count := side.stored) and not side.is_mixed:  # there may be a pause before it
                self._clock.resume(now, count)
            stored = side.take_all()
            self._push(stored, now)
            if stored or side.end:
                self.losses.go_on_from(self._clock.end if stored else side.end)
        self._note_others()

    def _push_stored(self, now: float) -> None:
        """What the others have stored, where the main source sends nothing that it could be mixed with."""
        while stored := self.sides.take_longest():
            self._push(stored, now)
            self.losses.go_on_from(self._clock.end)
