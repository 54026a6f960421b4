"""`rtcstt transcribe`: recordings to transcripts, of any length, many at a time.

    file -> decode -> Cutter (per channel) -> Block -> Engine -> words -> Turn -> formats -> outputs

A recording is decoded a little at a time and cut where it is quietest into blocks of at most a minute, so
memory does not grow with its length and no word is cut in two. Blocks of one recording, and of several,
are transcribed side by side; each output appears whole or not at all, which is what makes a run that was
broken off go on where it was.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from rtcstt.batch.audio import Block, Recording
from rtcstt.batch.engines import Engine
from rtcstt.batch.transcripts import WRITERS, Transcript, Turn, turns_of
from rtcstt.errors import RtcsttError
from rtcstt.media.pcm import SAMPLE_RATE

# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """A recording and where its transcripts go, by format."""

    source: Path
    outputs: dict[str, Path]

    @property
    def finished(self) -> bool:
        """Whether every output is there and newer than the recording."""
        try:
            changed = self.source.stat().st_mtime
            return all(output.stat().st_mtime >= changed for output in self.outputs.values())
        except OSError:
            return False


def plan(files: Sequence[Path], formats: Sequence[str], folder: Path | None) -> list[Work]:
    """Names outputs after the recording; its whole name where two differ only in what follows the dot."""
    sources = list(dict.fromkeys(files))
    stems = Counter((folder or source.parent) / source.stem for source in sources)
    works = []
    for source in sources:
        stem = (folder or source.parent) / source.stem
        base = stem if stems[stem] == 1 else stem.with_name(source.name)
        works.append(Work(source, {name: base.with_name(f"{base.name}.{name}") for name in formats}))
    return works


@dataclass(frozen=True, slots=True)
class Done:
    """A recording's transcripts, by format."""

    texts: Mapping[str, str]
    duration_s: float
    skipped: int

    def write(self, outputs: Mapping[str, Path]) -> str:
        """Where they belong; returns what to tell the user."""
        for name, output in outputs.items():
            write(output, self.texts[name])
        skipped = f", {self.skipped} unreadable packets skipped" if self.skipped else ""
        return f"{self.duration_s:.1f} s{skipped} -> {', '.join(map(str, outputs.values()))}"


class Run:
    """Transcribes recordings with one engine; at most ``jobs`` blocks are in the engine at a time."""

    def __init__(self, engine: Engine, *, jobs: int, split: bool, progress: Progress) -> None:
        self._engine = engine
        self._jobs = jobs
        self._split = split
        self._progress = progress
        self._slots = asyncio.Semaphore(jobs)

    async def all(self, works: Sequence[Work]) -> int:
        """Transcribes each recording; returns how many failed. One that fails does not disturb the others."""
        waiting = iter(works)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._some(waiting)) for _ in range(min(self._jobs, len(works)))]
        return sum(task.result() for task in tasks)

    async def _some(self, waiting: Iterator[Work]) -> int:
        failed = 0
        for work in waiting:
            try:
                line = (await self.read(work.source, tuple(work.outputs))).write(work.outputs)
            except Exception as error:  # whatever is wrong with this recording, the others go on
                failed += 1
                line = reason(error)
            self._progress.console.print(f"{work.source}: {line}")
        return failed

    async def read(self, source: Path, formats: Sequence[str]) -> Done:
        """A recording's transcripts."""
        bar = self._progress.add_task(source.name, total=None)
        try:
            recording = await asyncio.to_thread(Recording, source, split=self._split)
            if duration := recording.duration_s:
                self._progress.update(bar, total=duration * recording.channels)
            turns, duration = await self._transcribe(recording, bar)
        finally:
            self._progress.remove_task(bar)
        turns.sort(key=lambda turn: turn.start)
        transcript = Transcript(source.name, duration, recording.channels, turns)
        return Done({name: WRITERS[name](transcript) for name in formats}, duration, recording.skipped)

    async def _transcribe(self, recording: Recording, bar: TaskID) -> tuple[list[Turn], float]:
        """All turns, each channel's in order, and the duration in seconds."""
        blocks = recording.blocks()
        pending: deque[asyncio.Task[list[Turn]]] = deque()
        turns: list[Turn] = []
        end = 0
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                end = max(end, block.start + len(block.samples))
                pending.append(asyncio.create_task(self._turns(block, bar)))
                if len(pending) > self._jobs:
                    join(turns, await pending.popleft())
            while pending:
                join(turns, await pending.popleft())
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return turns, end / SAMPLE_RATE

    async def _turns(self, block: Block, bar: TaskID) -> list[Turn]:
        turns: list[Turn] = []
        async with self._slots:
            if block.samples.any():
                turns = turns_of(block, await self._engine.transcribe(block.samples))
        self._progress.advance(bar, len(block.samples) / SAMPLE_RATE)
        return turns


def join(turns: list[Turn], more: list[Turn]) -> None:
    """Adds a block's turns. Each block was a request of its own, so the space between two is ours to put."""
    if more and any(turn.channel == more[0].channel for turn in turns) and not more[0].text[:1].isspace():
        more[0] = dataclasses.replace(more[0], text=" " + more[0].text)
    turns += more


def write(path: Path, text: str) -> None:
    """Whole or not at all: a reader, or the next run, never takes half a transcript for a finished one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def reason(error: Exception) -> str:
    """Why a recording has no transcripts."""
    return str(error) if isinstance(error, RtcsttError) else repr(error)
