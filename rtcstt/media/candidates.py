"""Packets that do not belong to the present source: of others, or from elsewhere in its sequence."""

from __future__ import annotations

from rtcstt.media.rtp import Packet
from rtcstt.media.sequence import Arrived, Counters, near

MAX_PACKETS = 64  # of one source
MAX_SOURCES = 8  # of more, the one that has been silent for longest is forgotten
FORGOTTEN_S = 1.0  # one that sent nothing for so long was a stray packet or two
CERTAIN = 5  # so many packets of a source are no strays
RIVAL_S = 0.2  # how long another source sends beside the present one before it is its rival


class Candidates:
    """Those that may take over, each judged by its own packets: those of several may come in turns. Packets
    that are dropped here are counted as stray."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._dropped: tuple[float, float] | None = None
        self._packets: dict[int, list[Arrived]] = {}  # of each source: near each other in one sequence

    def __len__(self) -> int:
        """How many packets are kept."""
        return sum(map(len, self._packets.values()))

    def __contains__(self, ssrc: int) -> bool:
        return ssrc in self._packets

    def add(self, arrived: Arrived) -> list[Arrived]:
        """All packets of that source so far."""
        ssrc = arrived.packet.ssrc
        if ssrc not in self._packets:
            self._make_room(arrived.arrival)
        packets = self._packets.setdefault(ssrc, [])
        goes_on = packets and arrived.arrival - packets[-1].arrival <= FORGOTTEN_S
        if packets and not (goes_on and near(arrived.packet, packets[0].packet)):
            self._drop(packets)
            if not goes_on and len(packets) >= CERTAIN:  # what it sent meanwhile was lost
                self.note_dropped(arrived.arrival)
            packets.clear()
        packets.append(arrived)
        if len(packets) > MAX_PACKETS:
            self._drop(packets[:1])
            del packets[0]
        return packets

    def take(self, ssrc: int) -> list[Arrived]:
        """Those of a source, which is no candidate any more."""
        return self._packets.pop(ssrc)

    def note_dropped(self, arrival: float) -> None:
        """A packet of speech that came then was dropped."""
        first, last = self._dropped or (arrival, arrival)
        self._dropped = min(first, arrival), max(last, arrival)

    def drop_all(self) -> None:
        """Nothing more comes."""
        for packets in self._packets.values():
            self._drop(packets)
        self._packets.clear()

    def take_dropped(self) -> tuple[float, float] | None:
        """When the first and the last packet of speech came that were dropped since this was last asked."""
        dropped, self._dropped = self._dropped, None
        return dropped

    def take_rival(
        self, present: int | None, last_arrival: float, now: float, *, at_once: bool
    ) -> list[Arrived]:
        """Those of a source that sends beside the ``present`` one, whose last packet came at
        ``last_arrival``; none where there is no such. ``at_once``: whether or not the present one sends."""
        for ssrc, packets in self._packets.items():
            began = packets[0].arrival
            beside = now - began >= RIVAL_S and last_arrival - began >= RIVAL_S / 2
            if ssrc != present and (at_once and len(packets) >= 2 or beside and len(packets) >= CERTAIN):
                return self.take(ssrc)
        return []

    def are_followed_by(self, packet: Packet, last_arrival: float) -> bool:
        """Whether the present source has stepped back with its last packet, and only seems to go on."""
        if packet.ssrc not in self._packets:
            return False
        last = self._packets[packet.ssrc][-1]
        is_next = (packet.sequence - last.packet.sequence) & 0xFFFF == 1
        return is_next and last_arrival < last.arrival

    def _make_room(self, now: float) -> None:
        last = sorted((packets[-1].arrival, ssrc) for ssrc, packets in self._packets.items())
        for i, (arrival, ssrc) in enumerate(last):
            if i <= len(last) - MAX_SOURCES or now - arrival > FORGOTTEN_S:
                self._drop(self._packets.pop(ssrc))

    def _drop(self, packets: list[Arrived]) -> None:
        self._counters.stray += len(packets)
        for arrived in packets:
            if arrived.speech is not None:
                self.note_dropped(arrived.arrival)
