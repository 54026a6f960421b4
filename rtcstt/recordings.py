"""Calls kept on disk: each track's audio as it was received, the events, and at the end the transcript.

Each call gets a folder of its own, named after its beginning (UTC) and its id:

* ``track-0.wav``: 16 kHz mono, on the call's clock. A track that began later begins with silence, so that
  the time of a caption is the place of its words.
* ``events.jsonl``: every event, one a line, as listeners get it.
* at the end ``transcript.json``, ``captions.vtt`` and ``ledger.json``.

About once a second what has come is written, by a thread, so that calls never wait for the disk. The header
of each WAV file is kept right as it grows: a server that is killed leaves files that any player opens.
Places in the files follow from the call's clock. What could not be written (a full disk) or came while
too much waited (a slow one) is silence in the file; it is counted, and the rest stays where it belongs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVarTuple

from rtcstt import captions, whole_files
from rtcstt.call import Call
from rtcstt.errors import ConfigError
from rtcstt.events import AnyEvent, merged
from rtcstt.media.pcm import SAMPLE_RATE, Chunk

log = logging.getLogger(__name__)

Args = TypeVarTuple("Args")

WRITE_EVERY_S = 1.0
MAX_WAITING = 60 * SAMPLE_RATE  # samples of one call that wait for the disk; beyond, they are dropped
THREADS = 2
_HEADER_BYTES = 44
_MAX_DATA = 2**32 - 1 - _HEADER_BYTES  # what the header can say: 37 hours


class Recordings:
    """The folder of a server's recordings, and the threads that write to it.

    ``failures`` counts the writes that failed, ``dropped`` the samples that are missing for that or
    because the disk was too slow. `close` when every recording has run to its end.
    """

    def __init__(
        self, folder: Path, *, write_every_s: float = WRITE_EVERY_S, max_waiting: int = MAX_WAITING
    ) -> None:
        """`ConfigError` when nothing can be written there."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--record {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"--record {folder}: nothing can be written there")
        self.write_every_s, self.max_waiting = write_every_s, max_waiting
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="recordings")
        self.failures = 0
        self.dropped = 0

    def begin(self, call: Call) -> Recording:
        """Keep what the call receives from now on; its owner has to `run` it."""
        begun = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(call.created))
        recording = Recording(self, call, _Files(self._folder / f"{begun}_{_safe(call.id)}"))
        call.recorder = recording
        return recording

    async def in_thread(self, work: Callable[[*Args], object], *args: *Args) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def close(self) -> None:
        self._threads.shutdown()


class Recording:
    """One call's recording, a `call.Recorder`."""

    def __init__(self, recordings: Recordings, call: Call, files: _Files) -> None:
        self._recordings = recordings
        self._call = call
        self._files = files
        self._waiting: list[_Piece] = []
        self._waiting_samples = 0
        self._written = -1  # the number of the last event on disk
        self._failures = 0
        self._dropped: dict[str, int] = {}

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        """Take a chunk in, to be written soon."""
        if self._waiting_samples + len(chunk.samples) > self._recordings.max_waiting:
            self._drop([_Piece(track, chunk, offset_s)])
            return
        self._waiting_samples += len(chunk.samples)
        self._waiting.append(_Piece(track, chunk, offset_s))

    async def run(self) -> None:
        """Write until the call has ended and everything is on disk. Nothing that fails here ends a call."""
        try:
            await self._run()
        except Exception:
            log.exception("call %s: no longer recorded", self._call.id)
        finally:
            self._call.recorder = None

    async def _run(self) -> None:
        while self._call.state != "closed":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._recordings.write_every_s):
                    await self._call.wait_closed()
            await self._write_waiting()
        await self._write_waiting()  # what came while the last was written
        await self._try(self._files.finish, self._call.feed.history, self._about())
        await self._try(self._files.close)

    async def _write_waiting(self) -> None:
        pieces, self._waiting, self._waiting_samples = self._waiting, [], 0
        if pieces and not await self._try(self._files.add_audio, pieces):
            self._drop(pieces)
        events = self._call.feed.since(self._written)
        if events and await self._try(self._files.add_events, events):
            self._written = events[-1].seq

    async def _try(self, work: Callable[[*Args], object], *args: *Args) -> bool:
        try:
            await self._recordings.in_thread(work, *args)
        except OSError as error:
            self._failures += 1
            self._recordings.failures += 1
            if self._failures == 1:
                log.error(
                    "call %s: not recorded: %s (further failures are only counted)",
                    self._call.id,
                    error.strerror or error,
                )
            return False
        return True

    def _drop(self, pieces: Sequence[_Piece]) -> None:
        for piece in pieces:
            count = len(piece.chunk.samples)
            self._dropped[piece.track] = self._dropped.get(piece.track, 0) + count
            self._recordings.dropped += count

    def _about(self) -> dict[str, object]:
        """What `ledger.json` says, but for the files' names."""
        call = self._call
        return {
            "call": call.id,
            "label": call.label,
            "metadata": call.metadata,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call.created)),
            "mode": call.settings.mode,
            "engine": call.stt.name,
            "time": round(call.time, 3),
            "ledger": call.ledgers(),
            "missing": merged(call.counts.missing),
            "not_recorded_ms": {track: count / 16 for track, count in self._dropped.items()},
        }


@dataclass(frozen=True, slots=True)
class _Piece:
    track: str
    chunk: Chunk
    offset_s: float

    @property
    def place(self) -> int:
        """Its first sample, counted from the beginning of the call's clock."""
        return round(self.offset_s * SAMPLE_RATE) + self.chunk.start


@dataclass(slots=True)
class _Files:
    """A call's folder. Only one thread at a time may use it; every method may raise `OSError`."""

    folder: Path
    _tracks: dict[str, _Wav] = field(default_factory=dict)
    _events_size: int = 0

    def add_audio(self, pieces: Sequence[_Piece]) -> None:
        tracks: dict[str, list[_Piece]] = {}
        for piece in pieces:
            tracks.setdefault(piece.track, []).append(piece)
        for track, its in tracks.items():
            self._track(track).write(its)

    def add_events(self, events: Sequence[AnyEvent]) -> None:
        self._make()
        path = self.folder / "events.jsonl"
        lines = "".join(event.to_json() + "\n" for event in events).encode()
        with whole_files.open_private(path, "r+" if path.exists() else "w") as file:
            file.seek(self._events_size)  # over a line that a full disk cut off
            if file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate()
        self._events_size += len(lines)

    def finish(self, events: Sequence[AnyEvent], about: Mapping[str, object]) -> None:
        self._make()
        names = {track: wav.path.name for track, wav in self._tracks.items()}
        for name, text in (
            ("transcript.json", _json(captions.transcript(events))),
            ("captions.vtt", captions.vtt(events)),
            ("ledger.json", _json({**about, "files": names})),
        ):
            whole_files.write(self.folder / name, text, private=True)

    def close(self) -> None:
        for wav in self._tracks.values():
            wav.close()

    def _track(self, track: str) -> _Wav:
        if track not in self._tracks:
            self._make()
            taken = {wav.path.name for wav in self._tracks.values()}
            name = f"track-{_safe(track)}.wav"
            if name in taken:
                name = f"track-{_safe(track)}-{len(taken)}.wav"
            self._tracks[track] = _Wav(self.folder / name)
        return self._tracks[track]

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)  # nobody else is to receive what callers say


class _Wav:
    """A WAV file whose header is right after every write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = whole_files.open_private(path, "x")
        self._length = 0  # bytes of audio

    def write(self, pieces: Sequence[_Piece]) -> None:
        """Put each piece in its place; what lies between and was never written reads as silence."""
        if not self._length:
            self._write_header()
        begin = pieces[0].place
        parts = []
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            parts.append(piece.chunk.pcm)
            end = piece.place + len(piece.chunk.samples)
            if following is None or following.place != end:
                self._put(2 * begin, b"".join(parts))
                parts = []
                begin = following.place if following is not None else end
        self._write_header()

    def close(self) -> None:
        self._file.close()

    def _put(self, place: int, data: bytes) -> None:
        if place + len(data) > _MAX_DATA:
            raise OSError("a WAV file cannot be longer")
        self._file.seek(_HEADER_BYTES + place)
        self._write_all(data)
        self._length = max(self._length, place + len(data))

    def _write_header(self) -> None:
        riff = struct.pack("<4sI4s", b"RIFF", self._length + _HEADER_BYTES - 8, b"WAVE")
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
        self._file.seek(0)
        self._write_all(riff + form + struct.pack("<4sI", b"data", self._length))

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _safe(name: str) -> str:
    """A file name that is nothing but that: callers choose the ids of their tracks."""
    return re.sub(r"[^A-Za-z0-9-]", "_", name)[:64]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)
