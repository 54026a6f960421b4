"""The ids of calls: random, and where several workers share a port, with the worker that placed it; a core.

Clients see one opaque text. The last character of a longer id names the worker, so that any worker knows
where a request belongs without asking anybody.
"""

from __future__ import annotations

import secrets
import string

_WORKERS = string.digits + string.ascii_letters
MAX_WORKERS = len(_WORKERS)
_RANDOM_BYTES = 12
_RANDOM_CHARACTERS = 16  # in base64url


def new(worker: int | None = None) -> str:
    """An id that nobody can guess. ``worker``: None where there is but one."""
    return secrets.token_urlsafe(_RANDOM_BYTES) + ("" if worker is None else _WORKERS[worker])


def worker_of(call: str) -> int | None:
    """The worker that placed a call; None where the id does not say."""
    if len(call) != _RANDOM_CHARACTERS + 1:
        return None
    index = _WORKERS.find(call[-1])
    return index if index >= 0 else None
