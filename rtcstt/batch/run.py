"""`rtcstt transcribe`: many recordings to transcripts, side by side; one that fails does not disturb the
others.

What is done already is known from the state file beside the outputs (`state`), so a run that was broken off
goes on where it was. Each output appears whole or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from rich.progress import Progress, TaskID

import rtcstt
from rtcstt import whole_files
from rtcstt.batch.audio import Block
from rtcstt.batch.engines import EngineSettings
from rtcstt.batch.formats import FormatSettings, render
from rtcstt.batch.recording import NoPieces, Pieces, RecordingSettings, RecordingTranscriber
from rtcstt.batch.sources import STDIN, Work, printable
from rtcstt.batch.state import Stamp, State
from rtcstt.batch.transcripts import Transcription
from rtcstt.batch.words import Recognised
from rtcstt.errors import ConfigError, FileError, RtcsttError


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is the same for all recordings of a run."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    recording: RecordingSettings = field(default_factory=RecordingSettings)
    formats: FormatSettings = field(default_factory=FormatSettings)
    force: bool = False

    @property
    def made_with(self) -> str:
        """All that decides what is in a transcript."""
        recording = asdict(self.recording)
        return _digest({"engine": asdict(self.engine), "recording": recording, "version": rtcstt.__version__})

    @property
    def with_word_times(self) -> RunSettings:
        """What is made with these serves as well where words need no times."""
        return replace(self, engine=replace(self.engine, word_times=True))

    def output_made_with(self, name: str) -> str:
        """All that decides what is in an output of that format."""
        made_with = self.with_word_times.made_with
        return _digest({"transcript": made_with, "format": name, "settings": asdict(self.formats)})


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a recording. ``took_s``: how long it took; ``error``: why it failed."""

    source: Path
    status: Literal["transcribed", "done already", "failed"]
    outputs: Sequence[Path] = ()
    transcription: Transcription | None = None
    took_s: float = 0.0
    error: str = ""

    @property
    def line(self) -> str:
        """For people."""
        if self.transcription is None:
            return self.error or self.status
        whole = self.transcription
        lost = sum(gap.end - gap.start for gap in whole.gaps)
        how_much = f"{lost:.1f} s" if lost else "nothing says how much"
        gaps = f", {len(whole.gaps)} damaged or missing ({how_much})" if whole.gaps else ""
        notes = "".join(f"; {note}" for note in whole.notes)
        where = ", ".join(map(printable, self.outputs)) or "standard output"
        return f"{whole.duration:.1f} s{gaps}{notes} -> {where}"


class RunState:
    """What is there already, and which outputs may be written."""

    def __init__(self, settings: RunSettings, recordings: Sequence[Path]) -> None:
        self._settings = settings
        self._recordings = {
            os.path.realpath(path) for path in recordings
        }  # a loop of links is no error there
        self._states: dict[Path, State] = {}

    def found(self, work: Work) -> Transcription | None:
        """What an earlier run made of this recording in this way. `FileError` without recording."""
        if self._settings.force or not work.outputs:
            return None
        state, stamp = self._first_state(work), stamp_of(work)
        exact = state.transcript(stamp, self._settings.with_word_times.made_with)
        return exact or state.transcript(stamp, self._settings.made_with)

    def is_done(self, work: Work) -> bool:
        """Whether all its outputs are there, of this recording and made in this way."""
        stamp = stamp_of(work)
        return all(
            self._state(path).is_done(path, stamp, self._settings.output_made_with(name))
            for name, path in work.outputs.items()
        )

    def check(self, work: Work) -> None:
        """`ConfigError` where an output would replace a file that is not ours."""
        stamp = stamp_of(work)
        for path in work.outputs.values():
            if os.path.realpath(path) in self._recordings:
                raise ConfigError(f"{printable(path)} is a recording itself; choose another --output-dir")
            if not self._settings.force and not self._state(path).is_ours(path, stamp):
                raise ConfigError(f"{printable(path)} is there already and is not ours (--force replaces it)")

    def write(self, work: Work, whole: Transcription, stamp: Stamp) -> None:
        """The outputs, and that they are done; ``stamp``: of the recording, before it was read. `OSError`
        or `ConfigError` where that cannot be written; then no output is left that was not there."""
        added = [path for path in work.outputs.values() if not path.exists()]
        try:
            for name, path in work.outputs.items():
                whole_files.write(path, render(whole, name, self._settings.formats))
            if work.outputs and work.source != STDIN:
                made = {path: self._settings.output_made_with(name) for name, path in work.outputs.items()}
                self._first_state(work).done(stamp, self._settings.made_with, whole, made)
        except (OSError, ConfigError):
            for path in added:
                path.unlink(missing_ok=True)
            raise

    def pieces(self, work: Work) -> Pieces:
        """Where the recording's finished pieces are kept."""
        if not work.outputs or work.source == STDIN:
            return NoPieces()
        return _KeptPieces(self._first_state(work), stamp_of(work), self._settings.made_with)

    def _first_state(self, work: Work) -> State:
        return self._state(next(iter(work.outputs.values())))

    def _state(self, output: Path) -> State:
        return self._states.setdefault(output.parent, State(output.parent))


class _KeptPieces:
    """A recording's finished pieces, in the state file of its first output."""

    def __init__(self, state: State, recording: Stamp, made_with: str) -> None:
        self._state = state
        self._recording = recording
        self._made_with = made_with

    def get(self, block: Block) -> Recognised | None:
        return self._state.piece(
            self._recording, self._made_with, block.channel, block.start, len(block.samples)
        )

    def put(self, block: Block, found: Recognised) -> None:
        where = block.channel, block.start, len(block.samples)
        self._state.keep(self._recording, self._made_with, *where, found)


class Run:
    """Transcribes recordings, at most ``jobs`` at a time."""

    def __init__(
        self, transcriber: RecordingTranscriber, state: RunState, *, jobs: int, progress: Progress
    ) -> None:
        self._transcriber = transcriber
        self._state = state
        self._jobs = jobs
        self._progress = progress

    async def all(self, works: Sequence[Work]) -> list[Result]:
        """The result of each, in the order of the works."""
        waiting = iter(enumerate(works))
        results: dict[int, Result] = {}

        async def some() -> None:
            for number, work in waiting:
                results[number] = await self.one(work)
                if results[number].status != "done already":
                    self._progress.console.print(f"{printable(work.source)}: {results[number].line}")

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._jobs, len(works))):
                group.create_task(some())
        return [results[number] for number in range(len(works))]

    async def one(self, work: Work) -> Result:
        result = without_work(work, self._state)
        if result is not None:
            return result
        began = time.monotonic()
        try:
            stamp = stamp_of(work)
            whole = await self._transcribed(work)
            return written(work, whole, self._state, stamp, time.monotonic() - began)
        except Exception as error:  # whatever is wrong with this recording, the others go on
            return Result(work.source, "failed", error=reason(error), took_s=time.monotonic() - began)

    async def _transcribed(self, work: Work) -> Transcription:
        with self._bar(work) as bar:
            return await self._transcriber.transcribe(work.path, work.title, self._state.pieces(work), bar)

    @contextmanager
    def _bar(self, work: Work) -> Iterator[_Bar]:
        task = self._progress.add_task(work.title, total=None)
        try:
            yield _Bar(self._progress, task)
        finally:
            self._progress.remove_task(task)


@dataclass(frozen=True, slots=True)
class _Bar:
    progress: Progress
    task: TaskID

    def __call__(self, done: float, total: float | None) -> None:
        self.progress.update(self.task, completed=done, total=total)


def stamp_of(work: Work) -> Stamp:
    """Of the recording; `FileError` where there is none."""
    try:
        return Stamp.of(work.path)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from error


def without_work(work: Work, state: RunState) -> Result | None:
    """The result of a recording that need not be transcribed, or may not be."""
    try:
        whole = state.found(work)
        if whole is not None and state.is_done(work):
            return Result(work.source, "done already", tuple(work.outputs.values()), whole)
        state.check(work)
        return None if whole is None else written(work, whole, state, stamp_of(work), 0.0)
    except Exception as error:  # whatever is wrong with this recording, the others go on
        return Result(work.source, "failed", error=reason(error))


def written(work: Work, whole: Transcription, state: RunState, stamp: Stamp, took_s: float) -> Result:
    """The result of a recording whose transcript is there: its outputs are written. `OSError` where not."""
    state.write(work, whole, stamp)
    return Result(work.source, "transcribed", tuple(work.outputs.values()), whole, took_s)


def reason(error: Exception) -> str:
    """Why a recording has no transcripts; a line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{printable(error.filename)}: " if isinstance(error.filename, str | Path) else ""
        return f"{where}{error.strerror}"
    text = str(error) if isinstance(error, RtcsttError) else repr(error)
    return " ".join(text.split())


def _digest(what: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]
