"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

_numbers = itertools.count()


def write(path: Path, text: str) -> None:
    """A reader, or the next run, never takes half a transcript for a finished one; nothing is left behind
    where it cannot be written (`OSError`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".rtcstt-{os.getpid()}-{next(_numbers)}.part")  # short, whatever the output's name
    try:
        with part.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
