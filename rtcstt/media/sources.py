"""The sources (SSRCs) of a track, decoded and mixed into its clock.

A track is mostly one source at a time. Where a second one sends beside it for longer than a moment, both are
decoded and mixed, as a conference bridge does: whoever speaks is received, and no word is cut by going from
one to the other. Where the main source falls silent, another one becomes the main one; it is remembered for a
while as one of the others, so that what is lost of it meanwhile is known when it comes back.

Where several send in turns, there is one source for all of them, in the order in which their packets come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rtcstt.media.clock import AudioClock
from rtcstt.media.codecs import Decoded, length_of
from rtcstt.media.losses import Losses, NotTaken
from rtcstt.media.pauses import Pauses
from rtcstt.media.pcm import SAMPLE_RATE, Label
from rtcstt.media.playout import LOST_S, Cause, Frame, Gap
from rtcstt.media.presence import Presence
from rtcstt.media.rtp import PACKET_S, Codec, Packet, meaning
from rtcstt.media.sequence import Arrived, Counters
from rtcstt.media.signals import SeveralSources
from rtcstt.media.source import MAX_SIDES, SideSource, SideSources, Source
from rtcstt.media.turn_taking import TurnTaking

OTHERS, STRAY, TORN = "others", "stray", "torn"  # whose, of what is not received
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
        self.not_taken = NotTaken(clock, losses.unread)
        self.counters = Counters()
        self.main = Source(codecs, max_delay_s=max_delay_s, counters=self.counters)
        self.sides = SideSources(max_delay_s, self.counters)
        self._turns: TurnTaking | None = None  # where there was another source in the last moment
        self.last_audio = -math.inf  # when the packet came whose audio was taken last
        self._is_new = False  # the main one, and nothing of it was taken yet; or there was a pause
        self._pauses = Pauses(max_delay_s)
        self._bad_payloads = 0  # of sources that are gone

    def renegotiate(self, codecs: Mapping[int, Codec]) -> None:
        """From here on payload types mean this."""
        self._codecs = self.main.playout.codecs = codecs
        for side in self.sides:
            side.source.playout.codecs = codecs

    def push(self, packet: Packet, now: float, *, is_known_type: bool) -> bool:
        """Whether it is of a source that is received."""
        is_only = packet.ssrc == self.main.playout.ssrc and self._turns is None
        side = self.sides.get(packet.ssrc) if self.sides else None
        known = side.push(packet, now) if side is not None else self.main.playout.push(packet, now)
        if not known and is_known_type:
            self._admit_rival(now)
        if not is_only:
            self._watch_turns(packet, self.main.playout.name if known and side is None else packet.ssrc, now)
        return known

    def bye(self, ssrc: int, now: float) -> bool:
        """A source leaves. Whether nobody is left."""
        side = self.sides.get(ssrc)
        if side is not None:
            side.source.playout.bye(ssrc, now)
            return False
        is_lost = self.main.has_lost(now, by=max(LOST_S, self.main.playout.delay))
        if not self.main.playout.bye(ssrc, now):
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
        self._note_dropped()
        if self.sides:
            self._advance_sides(now)
        while (item := self.main.playout.pop(now)) is not None:
            self._take(item)
        self._take_overdue(now)

    def flush(self, now: float) -> None:
        """Nothing more comes."""
        self.main.playout.candidates.drop_all()
        self._note_dropped()
        self._advance_sides(now)
        self._flush_main()
        self._push(self.main.change_codec(None), now)
        self.sides.flush(self._clock.end, self._clock.ledger)
        self._push_stored(now)

    def _note_dropped(self) -> None:
        """Packets that belong to no sequence, or of which another had the number, were dropped."""
        if (dropped := self.main.playout.candidates.take_dropped()) is not None:
            self.not_taken.note(dropped[1], STRAY, dropped[0])

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
        if self._pauses.are_unlikely(item, self.last_audio):
            return self._put(item)
        for one, after_pause in self._pauses.sort(item, self.last_audio):
            self._is_new |= after_pause
            self._put(one)

    def _flush_main(self) -> None:
        for item in self.main.playout.flush():
            self._take(item)
        self._take_overdue(math.inf)

    def _take_overdue(self, now: float) -> None:
        for one, after_pause in self._pauses.overdue(now):
            self._is_new |= after_pause
            self._put(one)

    def _put(self, item: Frame | Gap) -> None:
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
        if self._is_new:
            self._is_new = False
            count = item.codec.duration(item.payload) * SAMPLE_RATE // item.codec.clock_rate
            self._resume(item.arrival, count, self.main.playout.delay)
        decoded = self.main.decode(item)
        at = self._clock.next if self.main.is_bad else 0
        self._push(decoded, item.arrival)
        count, end, ahead_s = length_of(decoded), self._clock.end, self._clock.ahead(item.arrival)
        if self.main.is_bad:
            self.losses.unreadable(item, count, at, end, ahead_s)
            self._note_bad(self.main)
        else:
            self.losses.received(item, count, end, ahead_s)

    def _note_bad(self, source: Source) -> None:
        name = source.codec.name if source.codec else "speech"
        self._presence.ignore("payload", f"payloads arrive that cannot be read as {name}")

    def _push(self, decoded: list[Decoded], arrival: float) -> None:
        self.last_audio = arrival
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
        at = self.not_taken.place(packets[0].arrival)
        admitted = self.sides.admit(packets, self._codecs, self._clock.ledger, at)
        self.main.playout.has_others = len(self.sides) > 0
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
        self.not_taken.note(now, OTHERS, packets[0].arrival - PACKET_S, reason="overflow")

    def _watch_turns(self, packet: Packet, name: int, now: float) -> None:
        arrived = Arrived.of(packet, now, meaning(self._codecs, packet.payload_type))
        if (codec := arrived.speech) is None:
            return
        at = self.not_taken.place(now)
        if self._turns is None:
            self._turns = TurnTaking(now, at)
        torn = self._turns.note(name, packet.sequence, arrived.duration / codec.clock_rate, now, at)
        if torn is not None:
            self.losses.unread.note(TORN, *torn, "network", least=0)
        if self._turns.in_turns is not self.main.playout.in_turns:
            self._change_turns(self._turns, now)
        elif self._turns.sources == 1:
            self._turns, self.main.playout.in_turns = None, False

    def _change_turns(self, turns: TurnTaking, now: float) -> None:
        """They send in turns, or do so no more."""
        self.main.playout.in_turns = turns.in_turns
        if not turns.in_turns:
            return
        self._presence.signals.append(SeveralSources(turns.sources))
        self._flush_main()
        self._bad_payloads += self.sides.discard(self._clock.end, self._clock.ledger)
        self.main.playout.has_others = len(self.sides) > 0
        self.main.playout.candidates.drop_all()
        self._clock.resume(now, 0)

    def _advance_sides(self, now: float) -> None:
        present = self.not_taken.place(now)
        self._bad_payloads += self.sides.advance(now, self._clock.end, present, self._clock.ledger)
        self._presence.signals += self.sides.take_losses(self._clock.end)
        for side in self.sides:
            if side.source.bad_payloads:
                self._note_bad(side.source)
        self.main.playout.has_others = len(self.sides) > 0
        playout = self.main.playout
        patience_s = 0.0 if playout.paused else max(HANDOVER_S, playout.delay)
        replaced = playout.is_silent(now) and self.sides.began_after(playout.last_arrival - playout.delay)
        if self.sides and (replaced or now - playout.last_arrival > patience_s):
            self._hand_over(now, replaced=replaced)

    def _hand_over(self, now: float, *, replaced: bool = False) -> None:
        """The main source is silent: the one that sent last takes its place."""
        self._flush_main()
        side = self.sides.take_after(self.main.playout.last_arrival)
        if side is None and now - self.main.playout.last_arrival > HANDOVER_S:
            self._push_stored(now)
        elif side is not None:
            old, self.main = self.main, side.source
            new = self.main.playout  # who may take over from it has been waiting already
            new.candidates, old.playout.candidates = old.playout.candidates, new.candidates
            self.sides.add(SideSource(old, self.losses.end, replaced_at=now if replaced else None))
            self._is_new = not side.stored
            if side.stored and not side.is_mixed:
                self._resume(side.stored_at, side.stored, old.playout.delay)
            if stored := side.take_all():
                self._push(stored, side.stored_at)
            if stored or side.end:
                self.losses.go_on_from(min(self._clock.end, side.end))
        self.main.playout.has_others = len(self.sides) > 0

    def _resume(self, arrival: float, count: int, jitter_s: float) -> None:
        """The first ``count`` samples of a new main source follow. There may have been a pause before them;
        what is as short as the jitter is none."""
        if -self._clock.ahead(arrival) - count / SAMPLE_RATE > max(jitter_s, PACKET_S):
            self._clock.resume(arrival, count)

    def _push_stored(self, now: float) -> None:
        """What the others have stored, where the main source sends nothing that it could be mixed with."""
        while stored := self.sides.take_longest():
            self._push(stored, now)
            self.losses.go_on_from(self._clock.end)
