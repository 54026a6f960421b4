"""How patient a stream to an STT is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How patient a `Stream` is, and how much it keeps."""

    ring_s: float = 30.0
    "Audio kept while its text is not finished."
    catch_up: float = 1.25
    "Seconds of audio sent per second while it is behind."
    connect_timeout_s: float = 10.0
    send_timeout_s: float = 10.0
    "An STT that does not take a message for so long is given up."
    stall_timeout_s: float = 12.0
    "Speech sent without any answer (manual: age of a `finalize`) before the connection is given up."
    backoff_first_s: float = 0.25
    backoff_cap_s: float = 5.0
    trusted_after_s: float = 30.0
    "A connection without text counts as sound after so long."
    probe_s: float = 5.0
    "While the fallback works: how soon the first STT is tried again (doubling to a minute)."
    drain_s: float = 60.0
    "A drain takes no longer, whatever progress it makes."
