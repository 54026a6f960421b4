"""What earlier runs have done, in a file beside the outputs: which recording each output was made of and
how, and the pieces of recordings that were not finished.

An output is ours when it is as we left it; it is up to date when its recording and all that it was made with
are the same as now.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rtcstt.batch.transcripts import Transcription
from rtcstt.batch.words import Recognised, Word
from rtcstt.errors import ConfigError

NAME = ".rtcstt-state.sqlite"
_TABLES = """
create table if not exists outputs (name blob primary key, recording blob, size integer, mtime integer,
    made_with text, own_size integer, own_mtime integer);
create table if not exists transcripts (recording blob primary key, size integer, mtime integer, made_with
text,
    whole blob);
create table if not exists pieces (recording blob, size integer, mtime integer, made_with text,
    channel integer, start integer, length integer, found text,
    primary key (recording, made_with, channel, start));
"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file by its path, size and time; it is the same file while these are."""

    path: bytes
    size: int
    mtime: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """`OSError` when there is none."""
        found = path.stat()
        return cls(os.fsencode(os.path.realpath(path)), found.st_size, found.st_mtime_ns)


class State:
    """The state of a folder of outputs. Another run may use it at the same time. No file is made before
    there is something to keep. Raises `ConfigError` when the file there is no state, or cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def is_done(self, output: Path, recording: Stamp, made_with: str) -> bool:
        """Whether the output was made of this recording in this way, and is there."""
        wanted = (recording.path, recording.size, recording.mtime, made_with)
        return output.is_file() and any(row[:4] == wanted for row in self._outputs(output))

    def is_ours(self, output: Path, recording: Stamp) -> bool:
        """Whether the file may be replaced by this recording's: we wrote it, for this recording or for one
        that is gone, and nobody has changed it since. So may one that is not there."""
        try:
            own = Stamp.of(output)
        except FileNotFoundError:
            return True
        return any(
            row[4:] == (own.size, own.mtime) and (row[0] == recording.path or not _exists(row[0]))
            for row in self._outputs(output)
        )

    def transcript(self, recording: Stamp, made_with: str) -> Transcription | None:
        """What an earlier run made of this recording in this way."""
        if not self._path.exists():
            return None
        with self._open() as database:
            row = database.execute(
                "select whole from transcripts where recording=? and size=? and mtime=? and made_with=?",
                (recording.path, recording.size, recording.mtime, made_with),
            ).fetchone()
        return Transcription.from_dict(json.loads(zlib.decompress(row[0]))) if row else None

    def done(
        self, recording: Stamp, made_with: str, whole: Transcription, outputs: Mapping[Path, str]
    ) -> None:
        """The outputs, each with what it was made with, are written; pieces of the recording are not needed
        any more."""
        packed = zlib.compress(json.dumps(whole.as_dict()).encode())
        with self._open() as database:
            row = (recording.path, recording.size, recording.mtime, made_with, packed)
            database.execute("insert or replace into transcripts values (?,?,?,?,?)", row)
            for output in outputs:
                own = Stamp.of(output)
                made = (
                    os.fsencode(output.name),
                    recording.path,
                    recording.size,
                    recording.mtime,
                    outputs[output],
                )
                database.execute(
                    "insert or replace into outputs values (?,?,?,?,?,?,?)", (*made, own.size, own.mtime)
                )
            database.execute("delete from pieces where recording = ?", (recording.path,))

    def piece(
        self, recording: Stamp, made_with: str, channel: int, start: int, length: int
    ) -> Recognised | None:
        """What was recognised in a piece of this recording by an earlier run."""
        if not self._path.exists():
            return None
        with self._open() as database:
            row = database.execute(
                "select found from pieces where recording=? and size=? and mtime=? and made_with=? "
                "and channel=? and start=? and length=?",
                (recording.path, recording.size, recording.mtime, made_with, channel, start, length),
            ).fetchone()
        if row is None:
            return None
        found = json.loads(row[0])
        return Recognised(found["text"], [Word(**word) for word in found["words"]], found["language"])

    def keep(
        self, recording: Stamp, made_with: str, channel: int, start: int, length: int, found: Recognised
    ) -> None:
        """Keep a finished piece until its recording is `done`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            row = (recording.path, recording.size, recording.mtime, made_with, channel, start, length)
            database.execute(
                "insert or replace into pieces values (?,?,?,?,?,?,?,?)", (*row, json.dumps(asdict(found)))
            )

    def _outputs(self, output: Path) -> list[tuple[object, ...]]:
        if not self._path.exists():
            return []
        columns = "recording, size, mtime, made_with, own_size, own_mtime"
        with self._open() as database:
            found = database.execute(
                f"select {columns} from outputs where name = ?", (os.fsencode(output.name),)
            )
            return found.fetchall()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as database, database:
                database.executescript(_TABLES)
                yield database
        except sqlite3.Error as error:
            with contextlib.suppress(OSError):
                if not self._path.stat().st_size:
                    self._path.unlink()  # made just now, on a full disk
            why = str(error) if os.access(self._path.parent, os.W_OK) else "its folder cannot be written"
            raise ConfigError(f"the state file {self._path} cannot be used: {why}") from error


def _exists(path: object) -> bool:
    return isinstance(path, bytes) and os.path.exists(path)
