"""RTP packets (RFC 3550) and the codecs that their payload types stand for."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from rtcstt.errors import RemoteProtocolError

_HEADER = struct.Struct("!xBHII")  # from its second byte: marker and payload type, sequence, timestamp, SSRC
# Of a payload, where its codec has no bound of its own; Opus: 120 ms. RFC 3551 section 4.2 asks for 0.2 s,
# but some send more.
LONGEST_S = 1.0
PACKET_S = 0.02  # of audio, in a usual packet (RFC 3551 section 4.2)
SPEECH = frozenset({"opus", "PCMU", "PCMA", "G722", "L16"})
CLOCK_RATES = (8000, 96_000)  # Hz


@dataclass(frozen=True, slots=True)
class Codec:
    """What one RTP payload type means.

    ``name`` is the encoding name of RFC 3551 or the codec's own RFC: opus, PCMU, PCMA, G722, L16,
    and, never decoded as speech, telephone-event (RFC 4733) and CN (RFC 3389). ``clock_rate`` is
    that of the RTP timestamps, in Hz: 48000 for Opus (RFC 7587 section 4.1), 8000 for G.722 although its
    audio is 16 kHz. `ValueError` for rates and channels that no speech has: a packet would stand for minutes.
    """

    name: str
    clock_rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        low, high = (48000, 48000) if self.name == "opus" else CLOCK_RATES
        if not (low <= self.clock_rate <= high and 1 <= self.channels <= 2):
            raise ValueError(
                f"{self.name[:32]} has no clock rate {self.clock_rate} or {self.channels} channels"
            )

    @property
    def is_speech(self) -> bool:
        return self.name in SPEECH

    def duration(self, payload: bytes) -> int:
        """The media time of a payload, in units of the clock rate; 0 where it has none. A payload that is
        longer than a packet may be stands for no more than that."""
        match self.name:
            case "opus":
                return opus_duration(payload)
            case "G722":
                length = len(payload)
            case "PCMU" | "PCMA":
                length = len(payload) // self.channels
            case "L16":
                length = len(payload) // (2 * self.channels)
            case _:
                return 0
        return min(length, round(LONGEST_S * self.clock_rate))


_COMFORT_NOISE = {13: Codec("CN", 8000)}  # static (RFC 3551 section 6); some send it without having agreed to


def meaning(codecs: Mapping[int, Codec], payload_type: int) -> Codec | None:
    """What a payload type means where ``codecs`` were agreed."""
    return codecs.get(payload_type) or _COMFORT_NOISE.get(payload_type)


OPUS_LONGEST = 5760  # at 48 kHz


def _opus_frame(config: int) -> int:
    if config < 12:
        return (480, 960, 1920, 2880)[config & 3]
    return (480, 960)[config & 1] if config < 16 else (120, 240, 480, 960)[config & 3]


# By the first byte of a packet: the duration of a frame, and how many there are, unless the second byte says.
_OPUS = [(_opus_frame(toc >> 3), (1, 2, 2, None)[toc & 3]) for toc in range(256)]


def opus_duration(payload: bytes) -> int:
    """The duration of an Opus packet at 48 kHz, from its first bytes (RFC 6716 section 3.1)."""
    if not payload:
        return 0
    frame, count = _OPUS[payload[0]]
    if count is None:
        count = payload[1] & 0x3F if len(payload) > 1 else 0
    return frame * count if frame * count <= OPUS_LONGEST else 0  # such a packet is none (section 3.4)


_SENDER_REPORT, _BYE = 200, 203


@dataclass(frozen=True, slots=True)
class Rtcp:
    """What an RTCP datagram says of sources that send: ``byes`` leave, ``sent`` says of the others how many
    packets they have sent."""

    byes: tuple[int, ...] = ()
    sent: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Rtcp:
        """A compound packet (RFC 3550 section 6.1), as far as it can be read."""
        byes: list[int] = []
        sent: list[tuple[int, int]] = []
        at = 0
        while at + 4 <= len(data) and data[at] >> 6 == 2:
            end = at + 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] == _BYE and end <= len(data):
                sources = range(at + 4, min(at + 4 + 4 * (data[at] & 0x1F), end), 4)
                byes += [int.from_bytes(data[start : start + 4], "big") for start in sources]
            if data[at + 1] == _SENDER_REPORT and at + 28 <= end <= len(data):
                sent.append(
                    (
                        int.from_bytes(data[at + 4 : at + 8], "big"),
                        int.from_bytes(data[at + 20 : at + 24], "big"),
                    )
                )
            at = end
        return cls(tuple(byes), tuple(sent))


@dataclass(slots=True)
class Packet:
    """One RTP packet; ``payload`` without padding and header extensions. Nobody changes it: it is not frozen
    because making a frozen one takes three times as long, for each packet of each call."""

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
        kind, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
        return cls(ssrc, sequence, timestamp, kind & 0x7F, data[start:end], kind >= 0x80)

    def __bytes__(self) -> bytes:
        kind = self.payload_type | (0x80 if self.marker else 0)
        return b"\x80" + _HEADER.pack(kind, self.sequence, self.timestamp, self.ssrc)[1:] + self.payload
