"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
from io import FileIO
from pathlib import Path

_numbers = itertools.count()


def open_private(path: Path, mode: str) -> FileIO:
    """A file that, where it is made, its owner alone may read; without a buffer."""
    return FileIO(path, mode, opener=_opener)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Replace a file, its folders made if need be; text is UTF-8, and what cannot be encoded becomes "?".
    ``private``: readable by its owner alone.

    A reader, or the next run, never takes half of it for all; nothing is left behind where it cannot be
    written (`OSError`).
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".rtcstt-{os.getpid()}-{next(_numbers)}.part")  # short, whatever the file's name
    try:
        with open(part, "xb", opener=_opener if private else None) as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
