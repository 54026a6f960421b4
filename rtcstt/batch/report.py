"""What became of each recording of a run, as a table for other programs; a core."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from rtcstt.batch.run import Result
from rtcstt.batch.sources import printable

Cell = str | float | int | None


def report(results: Sequence[Result], path: Path) -> str:
    """JSON where the file's name ends so, else CSV."""
    rows = [_row(result) for result in results]
    if path.suffix.lower() == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if cell is None else cell for name, cell in row.items()} for row in rows)
    return out.getvalue()


FIELDS = (
    "file",
    "status",
    "duration",
    "speed",
    "words",
    "gaps",
    "missing",
    "language",
    "model",
    "outputs",
    "error",
)


def _row(result: Result) -> dict[str, Cell]:
    """``duration`` and ``missing`` in s; ``speed``: seconds of audio in a second."""
    whole = result.transcription
    row: dict[str, Cell] = dict.fromkeys(FIELDS)
    row |= {
        "file": printable(result.source),
        "status": result.status,
        "outputs": " ".join(printable(path) for path in result.outputs),
        "error": result.error or None,
    }
    if whole is not None:
        done_now = result.status == "transcribed" and result.took_s > 0
        row |= {
            "duration": whole.duration,
            "speed": round(whole.duration / result.took_s, 2) if done_now else None,
            "words": len(whole.text.split()),
            "gaps": len(whole.gaps),
            "missing": round(sum(gap.end - gap.start for gap in whole.gaps), 3),
            "language": whole.language,
            "model": whole.model,
        }
    return row
