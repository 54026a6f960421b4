"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

_numbers = itertools.count()


def write(path: Path, content: str | bytes) -> None:
    """Replace a file, its folders made if need be; text is UTF-8, and what cannot be encoded becomes "?".

    A reader, or the next run, never takes half of it for all; nothing is left behind where it cannot be
    written (`OSError`).
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".rtcstt-{os.getpid()}-{next(_numbers)}.part")  # short, whatever the file's name
    try:
        with part.open("xb") as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
