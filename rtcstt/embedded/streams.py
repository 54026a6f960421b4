"""A stream of audio on its way through a recogniser."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rtcstt.embedded.batch import timed_words
from rtcstt.embedded.hypothesis import Audio
from rtcstt.embedded.listener import Listener
from rtcstt.embedded.segments import Piece
from rtcstt.embedded.workers import BEHIND, FINAL, LATE_S, LISTENING, MAX_PENDING, Workers
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import (
    Done,
    FlushDone,
    ServerMessage,
    Transcript,
    TurnEnd,
    TurnMessage,
    TurnSettings,
    TurnUpdate,
)

log = logging.getLogger(__name__)

S = TypeVar("S", bound="_Stream")
MAX_WAITING = 1000  # chunks and commands that wait in a stream before whoever sends more has to
MAX_MESSAGES = 1000  # that wait for a reader before the stream stops listening
BLOCK = SAMPLE_RATE // 2  # the most that is worked on at once
MANUAL_TURN = TurnSettings(eager_end_threshold=0.3, end_threshold=0.05, end_timeout_ms=1500)


@dataclass(frozen=True, slots=True)
class _Command:
    """Something to be done when all audio before it has been recognised."""

    finish: bool


class _Stream:
    """Audio in, messages out, in order; the listening happens in the workers."""

    def __init__(
        self,
        listener: Listener,
        workers: Workers,
        *,
        shape: Callable[[list[TurnMessage]], list[ServerMessage]],
        answer: Callable[[_Command], list[ServerMessage]],
    ) -> None:
        """``shape`` makes of a listener's messages those of the endpoint; ``answer`` follows a command."""
        self._listener = listener
        self._workers = workers
        self._shape = shape
        self._answer = answer
        self._inbox: deque[Audio | _Command | TurnSettings] = deque()
        self._pending = 0
        self._outbox: deque[ServerMessage] = deque()
        self._over = False
        self._failure: Exception | None = None
        self._changed = asyncio.Condition()
        self.task = asyncio.create_task(self._listen())  # done: nothing more is taken

    @property
    def position(self) -> int:
        """Samples that were recognised, as far as anything was said."""
        return self._listener.position

    async def feed(self, samples: Audio) -> None:
        """16 kHz mono float32. Waits while more than two seconds wait to be recognised."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room() or self._over)
            if self._over:
                return  # nobody takes it out again
            self._inbox.append(samples)
            self._pending += len(samples)
            self._changed.notify_all()

    async def finish(self) -> None:
        """No more audio comes: what was fed is still recognised, and the iteration then ends."""
        await self._ask(_Command(finish=True))

    async def cancel(self) -> None:
        """End at once. Idempotent."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self._over = True

    async def next(self) -> ServerMessage | None:
        """The next message, None when all is recognised after `finish`; `EngineError` when that failed.
        It may be cancelled without loss."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._outbox) or self._over)
            if self._outbox:
                self._changed.notify_all()
                return self._outbox.popleft()
        if self._failure is not None:
            raise EngineError("the recogniser failed") from self._failure
        return None

    async def __aiter__(self) -> AsyncIterator[ServerMessage]:
        """Messages as they come, until `next` has no more."""
        while (message := await self.next()) is not None:
            yield message

    def _has_room(self) -> bool:
        return self._pending < MAX_PENDING and len(self._inbox) < MAX_WAITING

    async def _ask(self, command: _Command | TurnSettings) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._inbox) < MAX_WAITING or self._over)
            if self._over:
                return
            self._inbox.append(command)
            self._changed.notify_all()

    async def _listen(self) -> None:
        try:
            while not await self._step():
                pass
        except Exception as error:
            log.exception("a stream failed")
            self._failure = error
        finally:
            self._over = True
            async with self._changed:
                self._changed.notify_all()

    async def _step(self) -> bool:
        """Do the next thing in the inbox; whether it was the last."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._inbox) and len(self._outbox) < MAX_MESSAGES)
            item = self._inbox.popleft()
            if isinstance(item, np.ndarray):
                item = self._gather(item)
        if isinstance(item, TurnSettings):
            self._listener.configure(item)
            return False
        if isinstance(item, _Command):
            await self._say(await self._workers.run(FINAL, lambda: self._command(item)))
            return item.finish
        priority = LISTENING if self._listener.speaking else FINAL
        asked = time.monotonic()
        await self._say(await self._workers.run(priority, lambda: self._receive(item, asked)))
        return False

    def _gather(self, first: Audio) -> Audio:
        """As much audio as waits, up to half a second."""
        parts, length = [first], len(first)
        while self._inbox and isinstance(self._inbox[0], np.ndarray) and length < BLOCK:
            part = self._inbox.popleft()
            assert isinstance(part, np.ndarray)
            parts.append(part)
            length += len(part)
        self._pending -= length
        self._changed.notify_all()
        return np.concatenate(parts) if len(parts) > 1 else first

    async def _say(self, messages: list[ServerMessage]) -> None:
        async with self._changed:
            for message in messages:
                last = self._outbox[-1] if self._outbox else None
                if _is_update(message) and last is not None and _is_update(last):
                    self._outbox.pop()  # it says all that the one before said, and more
                self._outbox.append(message)
            self._changed.notify_all()

    def _receive(self, samples: Audio, asked: float) -> list[ServerMessage]:
        """In a worker, which had time for it ``asked`` or later."""
        updates = self._pending < BEHIND and time.monotonic() - asked < LATE_S
        return self._shape(self._listener.receive(samples, updates=updates))

    def _command(self, command: _Command) -> list[ServerMessage]:
        return [*self._shape(self._listener.flush()), *self._answer(command)]


class TurnStream(_Stream):
    """Turns, as the turns endpoint sends them; without ``request_id``."""

    def __init__(self, listener: Listener, workers: Workers) -> None:
        super().__init__(listener, workers, shape=list, answer=lambda command: [])

    async def configure(self, settings: TurnSettings) -> None:
        """These settings hold for the audio that is fed from here on."""
        await self._ask(settings)


class ManualStream(_Stream):
    """Transcripts, as the manual endpoint sends them; without ``request_id``."""

    def __init__(self, listener: Listener, workers: Workers, language: str = "en") -> None:
        self._language = language
        super().__init__(
            listener,
            workers,
            shape=self._transcripts,
            answer=lambda command: [Done() if command.finish else FlushDone()],
        )
        self._final_until = 0

    async def finalize(self) -> None:
        """Transcribe what was fed so far; `FlushDone` follows the transcript."""
        await self._ask(_Command(finish=False))

    def _transcripts(self, messages: list[TurnMessage]) -> list[ServerMessage]:
        out: list[ServerMessage] = []
        for message in messages:
            if isinstance(message, TurnUpdate):
                out.append(Transcript(message.transcript, is_final=False))
            elif isinstance(message, TurnEnd):
                out.append(self._final(message.transcript))
        return out

    def _final(self, text: str) -> Transcript:
        until = self._listener.position
        duration = round((until - self._final_until) / SAMPLE_RATE, 3)
        self._final_until = until
        words = _words(text, self._listener.finished)
        return Transcript(text, is_final=True, duration=duration, language=self._language, words=words)


def _words(text: str, pieces: list[Piece]) -> list[Any]:
    """Word times as the API's types have them: a list of columns; how sure each word is as well, where it is
    known."""
    timed = [
        word
        for piece in pieces
        for word in timed_words(piece.text, piece.words, 0, piece.runs, 0, piece.odds)
    ]
    if [word.word for word in timed] != text.split():
        timed = []
    columns: dict[str, list[Any]] = {
        "words": [word.word for word in timed],
        "start": [word.start for word in timed],
        "end": [word.end for word in timed],
    }
    if all(word.confidence is not None for word in timed):
        columns["confidence"] = [word.confidence for word in timed]
    return [columns] if timed else []


def _is_update(message: ServerMessage) -> bool:
    return isinstance(message, TurnUpdate) or (isinstance(message, Transcript) and not message.is_final)
