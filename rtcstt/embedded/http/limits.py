"""What clients of the embedded STT may do over HTTP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Sizes in bytes, times in seconds."""

    silent_s: float = 15.0
    """A client of whom nothing came for so long, not even the answer to a ping, is gone."""
    linger_s: float = 2.0
    """For the rest of a message that is too long."""
    upload: int = 512 * 1024 * 1024
    upload_stall_s: float = 30.0
    """An upload has so long in advance; then it has to keep a pace."""
    fields: int = 256
    """Parts of one form."""
    audio_s: float = 24 * 3600.0
    """Of one recording, since a file of silence can be very small."""
    recordings: int = 4
    """That are transcribed at once."""


LIMITS = HttpLimits()
