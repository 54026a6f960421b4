"""What of one call is still to be written to the shared state; a core.

Nothing is copied: events are read from the call's own history, audio is the arrays that the transcription
keeps as well. So while Redis is away the journal grows by no more than the call itself does; what it
holds of a track is bounded by the floor and by `KEPT`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Protocol

import numpy as np

from rtcstt.events import AnyEvent
from rtcstt.fleet.state import Json
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Samples

KEPT = 30 * SAMPLE_RATE  # of a track's audio, at most
EVENTS_AT_ONCE = 200
AUDIO_AT_ONCE = 50  # chunks
SNAPSHOT_S = 1.0


class Source(Protocol):
    """What the journal reads of a call."""

    def since(self, after: int, most: int) -> Sequence[AnyEvent]:
        """Events with a number above ``after``, oldest first."""

    def progress(self) -> Mapping[str, TrackProgress]:
        """Of the tracks that are not finished."""

    def snapshot(self) -> Json: ...

    def record(self) -> Json:
        """What another server must know of the call as a whole."""

    @property
    def about(self) -> object:
        """What of the record may change: another value, another record."""

    @property
    def dropped(self) -> int:
        """Events that were taken out of the history."""

    @property
    def ended(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class TrackProgress:
    """What another server needs to go on with a track: the audio before ``floor`` is finished."""

    floor: int
    state: Json


@dataclass(slots=True)
class _Tape:
    """A track's audio since its floor."""

    chunks: deque[tuple[int, Samples]] = field(default_factory=deque)
    written: int = 0  # so many samples of the track are in Redis
    trimmed: int = 0
    state: str = ""

    @property
    def end(self) -> int:
        return self.chunks[-1][0] + len(self.chunks[-1][1]) if self.chunks else 0

    def unwritten(self, most: int) -> list[tuple[int, Samples]]:
        """The oldest ones that are not in Redis; usually the last few of all."""
        count = sum(1 for _ in takewhile(lambda chunk: chunk[0] >= self.written, reversed(self.chunks)))
        begin = len(self.chunks) - count
        return list(islice(self.chunks, begin, begin + most))

    def forget(self, position: int) -> None:
        while self.chunks and self.chunks[0][0] + len(self.chunks[0][1]) <= position:
            self.chunks.popleft()


@dataclass(frozen=True, slots=True)
class Batch:
    """Operations for `Store.write`, and what has been written once they succeeded."""

    operations: list[str | int | bytes]
    seq: int
    audio: Mapping[str, int]
    trims: Mapping[str, int]
    states: Mapping[str, str]
    snapshot_at: float | None
    about: object
    ended: bool
    is_all: bool
    "Nothing is left for another batch."


class Journal:
    """One call's. ``fence``: the owner's number. ``keeps_audio``: off with ``--redis-audio off``.
    ``on_audio`` is called when there is more to be written of a track."""

    def __init__(self, source: Source, *, fence: int, written: int = -1, keeps_audio: bool = True) -> None:
        self.fence = fence
        self.known = fence > 1  # to Redis
        self._source = source
        self._written = written
        self._dropped = source.dropped
        self._keeps_audio = keeps_audio
        self._tapes: dict[str, _Tape] = {}
        self._snapshot_at = -SNAPSHOT_S
        # The call is created with its record; that of a call from another server is not yet this one's.
        self._about: object = source.about if fence == 1 else None
        self._ended = False
        self.on_audio: Callable[[], None] = lambda: None
        self.audio_lost = 0  # samples that Redis never got, because it was away for too long

    @property
    def done(self) -> bool:
        """The call has ended, and all of it is written."""
        return self._ended

    def write(self, track: str, chunk: Chunk) -> None:
        """The next audio of a track, as the STT gets it."""
        if not self._keeps_audio:
            return
        tape = self._tapes.setdefault(track, _Tape())
        tape.chunks.append((chunk.start, chunk.samples))
        while tape.end - tape.chunks[0][0] > KEPT:
            start, samples = tape.chunks.popleft()
            self.audio_lost += len(samples) if start >= tape.written else 0
        self.on_audio()

    def kept(self, track: str, chunks: Sequence[Chunk]) -> None:
        """What of a track another server wrote, and is not finished: it stays there until it is, and is
        written again when it is lost."""
        if not self._keeps_audio or not chunks:
            return
        tape = self._tapes[track] = _Tape(trimmed=chunks[0].start)
        tape.chunks.extend((chunk.start, chunk.samples) for chunk in chunks)
        tape.written = tape.end

    def forgotten(self) -> None:
        """Redis has lost the call: all of it is to be written again."""
        self.known = False
        self._written = -1
        self._snapshot_at = -SNAPSHOT_S
        self._ended = False
        for tape in self._tapes.values():
            tape.written = tape.trimmed = 0
            tape.state = ""

    def batch(self, now: float) -> Batch | None:
        """What is to be written next; None when there is nothing."""
        operations: list[str | int | bytes] = []
        about = self._source.about
        if about != self._about:
            operations += ["field", "record", json.dumps(self._source.record())]
        events = self._source.since(self._written, EVENTS_AT_ONCE)
        for event in events:
            operations += ["event", event.seq + 1, event.to_json()]
        seq = events[-1].seq if events else self._written
        progress = self._source.progress()
        states = self._states(operations, progress)
        trims = self._trims(operations, progress)
        audio = self._audio(operations)
        is_last = self._source.ended and len(events) < EVENTS_AT_ONCE
        snapshot_at = None
        if is_last or (operations and now - self._snapshot_at >= SNAPSHOT_S):
            operations += ["field", "snapshot", json.dumps(self._source.snapshot())]
            snapshot_at = now
        if is_last:
            operations += ["field", "state", "closed"]
        if not operations or (is_last and self._ended):
            return None
        is_all = len(events) < EVENTS_AT_ONCE and all(
            tape.end <= audio.get(track, tape.written) for track, tape in self._tapes.items()
        )
        return Batch(operations, seq, audio, trims, states, snapshot_at, about, is_last, is_all)

    def wrote(self, batch: Batch) -> None:
        """The batch is in Redis."""
        self._written = batch.seq
        self._about = batch.about
        for track, position in batch.audio.items():
            self._tapes[track].written = position
        for track, position in batch.trims.items():
            self._tapes[track].trimmed = position
        for track, state in batch.states.items():
            self._tapes.setdefault(track, _Tape()).state = state
        if batch.snapshot_at is not None:
            self._snapshot_at = batch.snapshot_at
        if batch.ended:
            self._ended = True
            self._tapes.clear()

    def _states(
        self, operations: list[str | int | bytes], progress: Mapping[str, TrackProgress]
    ) -> dict[str, str]:
        states = {}
        for track, one in progress.items():
            state = json.dumps(one.state)
            tape = self._tapes.get(track)
            if tape is None or tape.state != state:
                operations += ["track", track, state]
                states[track] = state
        return states

    def _trims(
        self, operations: list[str | int | bytes], progress: Mapping[str, TrackProgress]
    ) -> dict[str, int]:
        trims = {}
        for track, tape in self._tapes.items():
            floor = max(progress[track].floor if track in progress else 0, tape.end - KEPT)
            tape.forget(floor)
            oldest = tape.chunks[0][0] if tape.chunks else floor
            if oldest - tape.trimmed >= SAMPLE_RATE and tape.written:
                operations += ["trim", track, oldest + 1]
                trims[track] = oldest
        return trims

    def _audio(self, operations: list[str | int | bytes]) -> dict[str, int]:
        audio = {}
        for track, tape in self._tapes.items():
            for start, samples in tape.unwritten(AUDIO_AT_ONCE):
                operations += ["audio", track, start + 1, np.asarray(samples, "<i2").tobytes()]
                audio[track] = start + len(samples)
        return audio
