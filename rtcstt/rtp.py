"""RTP packets in any order become frames in order, or gaps with their cause."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codec:
    """What one RTP payload type means.

    ``name`` is the encoding name of RFC 3551 or the codec's own RFC: opus, PCMU, PCMA, G722, L16,
    and, never decoded as speech, telephone-event (RFC 4733) and CN (RFC 3389). ``clock_rate`` is
    that of the RTP timestamps, in Hz: 48000 for Opus, 8000 for G.722 although its audio is 16 kHz.
    """

    name: str
    clock_rate: int
    channels: int = 1


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet; ``payload`` without padding and header extensions."""

    ssrc: int
    sequence: int
    timestamp: int
    payload_type: int
    payload: bytes
    marker: bool = False


class Cause(enum.Enum):
    """Why there is a hole in the sequence of frames."""

    LOST = "lost"  # sequence numbers missing: conceal
    PAUSE = "pause"  # timestamps advance, nothing is missing (DTX): silence


@dataclass(frozen=True, slots=True)
class Frame:
    """One payload, due now. ``position`` is its media time in units of the codec's clock rate,
    unwrapped, from 0 at the first packet of the track."""

    payload: bytes
    codec: Codec
    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole of ``duration`` units of the codec's clock rate, beginning at ``position``.

    ``next_payload`` is the payload that directly follows the hole, where it is there already: Opus
    may carry the lost frame in it (in-band FEC, RFC 6716 section 2.1.7).
    """

    cause: Cause
    codec: Codec
    position: int
    duration: int
    next_payload: bytes | None = None
