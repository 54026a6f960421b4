"""Where the key of an STT is, unless a file has it."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = ("RTCSTT_STT_KEY", "CARTESIA_API_KEY")


def key_in(environment: Mapping[str, str]) -> str | None:
    """The first of `VARIABLES` that is set and not empty."""
    return next((environment[name] for name in VARIABLES if environment.get(name)), None)
