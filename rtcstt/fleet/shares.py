"""How many workers there are, and what each of them gets of the whole; a core."""

from __future__ import annotations

import hmac

from rtcstt.errors import ConfigError
from rtcstt.fleet.ids import MAX_WORKERS


def check_workers(text: str) -> None:
    """`ConfigError` unless it is a number of workers, or auto."""
    if text == "auto":
        return
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_WORKERS):
        raise ConfigError(f"workers must be from 1 to {MAX_WORKERS}, or auto")


def count_of(text: str, processors: int) -> int:
    """The number of workers; auto: one for each processor."""
    return min(MAX_WORKERS, processors) if text == "auto" else int(text)


def share(whole: int, index: int, count: int) -> int:
    """Shares differ by one at most, and nobody's is nothing."""
    return max(1, whole // count + (index < whole % count))


def access_secret(secret: str) -> bytes:
    """What workers sign access tokens with, made of what only they know."""
    return hmac.digest(secret.encode(), b"access tokens", "sha256")
