"""One recording to its transcript.

    reader process -> Cutter (per channel) -> Block -> Engine -> words -> Turn -> `Transcription`

A recording is read a little at a time and cut where it is quietest into blocks of at most a minute, so memory
does not grow with its length and no word is cut in two. Its blocks are transcribed side by side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import rtcstt
from rtcstt.batch.audio import Block, Cutter
from rtcstt.batch.engines import Engine
from rtcstt.batch.transcripts import Transcription, Turn, join, turns_of
from rtcstt.batch.words import Recognised
from rtcstt.media.tracks import Gap, ReadSettings, Sound
from rtcstt.reading import Readers, Reading

Progress = Callable[[float, float | None], None]
"""Called with the seconds of audio that are done, and how many there are in all where that is known."""


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """``speakers``: names of the channels, in order; others are called "Speaker 2". ``offset``: seconds to
    add to all times."""

    read: ReadSettings = field(default_factory=ReadSettings)
    model: str = ""
    speakers: tuple[str, ...] = ()
    offset: float = 0.0

    def speaker(self, channel: int, channels: int) -> str | None:
        """A channel's name where there are several."""
        if channels == 1 and not self.speakers:
            return None
        return self.speakers[channel] if channel < len(self.speakers) else f"Speaker {channel + 1}"


class Pieces(Protocol):
    """Finished pieces of a recording that was not finished before."""

    def get(self, block: Block) -> Recognised | None: ...

    def put(self, block: Block, found: Recognised) -> None: ...


class NoPieces:
    def get(self, block: Block) -> Recognised | None:
        return None

    def put(self, block: Block, found: Recognised) -> None:
        pass


class RecordingTranscriber:
    """Transcribes recordings with one engine; at most ``jobs`` blocks are in it at a time."""

    def __init__(self, engine: Engine, readers: Readers, settings: RecordingSettings, jobs: int) -> None:
        self._engine = engine
        self._readers = readers
        self._settings = settings
        self._jobs = jobs
        self._slots = asyncio.Semaphore(jobs)

    async def transcribe(
        self,
        path: Path,
        name: str,
        pieces: Pieces | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Transcription:
        """Raises `FileError` where the recording cannot be read, `UpstreamError` where the server refuses
        it."""
        async with self._readers.open(path, self._settings.read) as reading:
            work = _Work(reading, pieces or NoPieces(), progress)
            await self._all(work)
        work.turns.sort(key=lambda turn: turn.start)
        whole = Transcription(
            name=name,
            language=work.language,
            model=self._settings.model,
            version=rtcstt.__version__,
            duration=round(work.end, 3),
            channels=reading.info.channels,
            turns=work.turns,
            gaps=work.gaps,
            notes=reading.info.notes,
        )
        return whole.shifted(self._settings.offset)

    async def _all(self, work: _Work) -> None:
        pending: deque[asyncio.Task[list[Turn]]] = deque()
        try:
            async for block in work.blocks():
                pending.append(asyncio.create_task(self._turns(block, work)))
                if len(pending) > self._jobs:
                    join(work.turns, await pending[0])
                    pending.popleft()
            while pending:
                join(work.turns, await pending[0])
                pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _turns(self, block: Block, work: _Work) -> list[Turn]:
        turns: list[Turn] = []
        async with self._slots:
            if block.samples.any():
                found = work.pieces.get(block)
                if found is None:
                    found = await self._engine.transcribe(block.samples)
                    work.pieces.put(block, found)
                work.language = work.language or found.language
                speaker = self._settings.speaker(block.channel, work.reading.info.channels)
                turns = turns_of(block, found, speaker)
        work.advance(block)
        return turns


class _Work:
    """A recording that is being transcribed."""

    def __init__(self, reading: Reading, pieces: Pieces, progress: Progress) -> None:
        self.reading = reading
        self.pieces = pieces
        self.turns: list[Turn] = []
        self.gaps: list[Gap] = []
        self.language: str | None = None
        self.end = 0.0
        self._progress = progress
        self._done = 0.0

    async def blocks(self) -> AsyncIterator[Block]:
        cutters: dict[int, Cutter] = {}
        async for part in self.reading.parts():
            if isinstance(part, Gap):
                self.gaps.append(part)
                continue
            for block in _cut(cutters, part):
                self.end = max(self.end, block.end_s)
                yield block
        for cutter in cutters.values():
            for block in cutter.flush():
                self.end = max(self.end, block.end_s)
                yield block

    def advance(self, block: Block) -> None:
        self._done += block.end_s - block.start_s
        info = self.reading.info
        self._progress(self._done, info.duration * info.channels if info.duration else None)


def _cut(cutters: dict[int, Cutter], sound: Sound) -> list[Block]:
    blocks: list[Block] = []
    for channel, samples in enumerate(sound.samples, sound.channel):
        cutter = cutters.setdefault(channel, Cutter(channel, sound.start))
        blocks += cutter.push(samples)
    return blocks
