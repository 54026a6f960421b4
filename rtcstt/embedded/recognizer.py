"""The recogniser of a process: models in memory once, worker threads, and a stream for each track.

Inference never runs in the event loop. A stream's audio is taken in order by one task of its own,
which hands what has come, about half a second of it at most, to the workers. They take streams in whose
turn nobody speaks any more before those in which somebody does, and of each kind who has waited longest.
Audio that had to wait is listened to without an update, which is most of the work. So when the machine is
full every stream's updates get rarer, just so much that nobody waits for long, and ends of turns stay prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rtcstt.embedded import heap, models
from rtcstt.embedded.batch import Batch, BatchListener, Word, timed_words
from rtcstt.embedded.listener import Listener, Piece
from rtcstt.embedded.moonshine import Audio, Moonshine
from rtcstt.embedded.smart_turn import SmartTurn
from rtcstt.embedded.vad import Vad
from rtcstt.embedded.whisper import Whisper, locate
from rtcstt.errors import EngineError
from rtcstt.pcm import SAMPLE_RATE
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
T = TypeVar("T")
S = TypeVar("S", bound="_Stream")

THREADS = 2
MAX_PENDING = 2 * SAMPLE_RATE  # samples that wait in a stream before its feeder has to
MAX_WAITING = 1000  # chunks and commands that wait in a stream before whoever sends more has to
MAX_MESSAGES = 1000  # that wait for a reader before the stream stops listening
BLOCK = SAMPLE_RATE // 2  # the most that is worked on at once
BEHIND = int(0.6 * SAMPLE_RATE)  # a stream so far behind makes no updates
LATE_S = 0.15  # nor does audio that waited so long for a thread
TRIM_EVERY_S = 10.0  # takes some 10 ms
MEASURED = 4 * SAMPLE_RATE  # of noise, to know what the engine costs here
MANUAL_TURN = TurnSettings(eager_end_threshold=0.3, end_threshold=0.05, end_timeout_ms=1500)
FINAL, LISTENING, BATCH = 0, 1, 2  # priorities of work


class Recognizer:
    """Made by `load`; serves any number of streams; `close` it when the last has finished."""

    def __init__(
        self, engine: Moonshine | Whisper, vad: Vad, smart_turn: SmartTurn | None, *, threads: int = THREADS
    ) -> None:
        self.engine = engine
        self.smart_turn = smart_turn
        self._vad = vad
        self._workers = Workers(threads)
        self._streams: set[_Stream] = set()
        self._closed = False

    @classmethod
    def load(cls, model: str = models.DEFAULT, *, threads: int | None = None) -> Recognizer:
        """Load a model by name or folder; takes about half a second. Raises `EngineError` with the command
        that mends what is missing. Only smart-turn may be missing: then turns end later."""
        engine = load_engine(model, threads=threads or THREADS)
        vad = Vad(models.require("silero-vad"))
        judge = models.find("smart-turn")
        return cls(engine, vad, SmartTurn(judge) if judge else None, threads=threads or THREADS)

    def describe(self) -> list[str]:
        """What runs here, for people; a line each."""
        lines = [
            f"recogniser: {self.engine.describe()}",
            "voice activity: Silero",
        ]
        if self.smart_turn is not None:
            return [*lines, "end of turn: smart-turn v3.2"]
        return [*lines, "end of turn: by silence alone, so turns end later (rtcstt models fetch smart-turn)"]

    @property
    def waiting(self) -> int:
        """Pieces of work that no thread has begun."""
        return self._workers.waiting

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639 codes of those that are understood."""
        return self.engine.languages

    def turns(self, settings: TurnSettings | None = None, *, language: str | None = None) -> TurnStream:
        """``language`` None: found out by listening, where there is a choice."""
        engine = self.engine.stream(language)
        listener = Listener(
            engine,
            self._vad.stream(),
            self.smart_turn,
            settings or TurnSettings(),
            live=self.engine.live,
        )
        return self._own(TurnStream(listener, self._workers))

    def manual(self, *, max_silence_s: float | None = None, language: str | None = None) -> ManualStream:
        """A stream whose texts end by `finalize`, or after a silence (default 1.5 s)."""
        settings = MANUAL_TURN
        if max_silence_s is not None:
            settings = settings.merged(TurnSettings(end_timeout_ms=1000 * max_silence_s))
        engine = self.engine.stream(language or "en")  # as the API has it
        listener = Listener(
            engine, self._vad.stream(), None, settings, by_silence=True, live=self.engine.live
        )
        return self._own(ManualStream(listener, self._workers, language or "en"))

    async def transcribe(
        self, samples: Audio | Iterable[Audio], *, words: bool = False, language: str | None = None
    ) -> Batch:
        """A whole recording, 16 kHz mono float32; give blocks of it for memory that does not grow."""
        blocks = iter([samples] if isinstance(samples, np.ndarray) else samples)
        listener = BatchListener(self.engine.stream(language), self._vad.stream())
        found: list[Word] = []
        while (block := await self._workers.run(BATCH, lambda: next(blocks, None))) is not None:
            for start in range(0, len(block), 4 * BLOCK):
                part = block[start : start + 4 * BLOCK]
                found += await self._workers.run(BATCH, lambda part=part: list(listener.hear(part)))  # type: ignore[misc]
        found += await self._workers.run(BATCH, lambda: list(listener.finish()))
        text = " ".join(word.word for word in found)
        return Batch(text, listener.heard / SAMPLE_RATE, tuple(found) if words else (), listener.language)

    def cost_s(self, clock: Callable[[], float] = time.process_time) -> float:
        """What decoding a second of noise costs, in seconds of a processor. Blocks for a fifth of a second.
        It is the better of two tries: the first also warms up."""
        noise = np.random.default_rng(0).normal(0, 0.05, MEASURED).astype(np.float32)
        costs = []
        for _ in range(2):
            began = clock()
            self.engine.stream("en").decode(noise)
            costs.append((clock() - began) * SAMPLE_RATE / MEASURED)
        return min(costs)

    async def close(self) -> None:
        """End the streams that are left, and wait for the workers to end. Idempotent."""
        self._closed = True
        await asyncio.gather(*(stream.cancel() for stream in list(self._streams)))
        await asyncio.to_thread(self._workers.close)

    def _own(self, stream: S) -> S:
        """Whoever forgets a stream leaves its task to us; nobody else would hold it (asyncio does not)."""
        if self._closed:
            stream.task.cancel()
            raise EngineError("the recogniser is closed")
        self._streams.add(stream)
        stream.task.add_done_callback(lambda task: self._streams.discard(stream))
        return stream


def load_engine(model: str, *, threads: int = THREADS) -> Moonshine | Whisper:
    """A recogniser by name or folder, for so many threads at once; `EngineError` says what mends."""
    folder = locate(model)
    if folder is not None:
        return Whisper(folder, workers=threads)
    return Moonshine(models.recogniser_folder(model))


@dataclass(frozen=True, slots=True)
class _Command:
    """Something to be done when all audio before it has been heard."""

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
        self.task = asyncio.create_task(self._listen())

    async def feed(self, samples: Audio) -> None:
        """16 kHz mono float32. Waits while more than two seconds wait to be heard."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room() or self._over)
            if self._over:
                return  # nobody takes it out again
            self._inbox.append(samples)
            self._pending += len(samples)
            self._changed.notify_all()

    async def finish(self) -> None:
        """No more audio comes: what was fed is still heard, and the iteration then ends."""
        await self._ask(_Command(finish=True))

    async def cancel(self) -> None:
        """End at once. Idempotent."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self._over = True

    async def __aiter__(self) -> AsyncIterator[ServerMessage]:
        """Messages as they come, until all is heard after `finish`; `EngineError` when listening failed."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._outbox) or self._over)
                if not self._outbox:
                    break
                message = self._outbox.popleft()
                self._changed.notify_all()
            yield message
        if self._failure is not None:
            raise EngineError("the recogniser failed") from self._failure

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
        await self._say(await self._workers.run(priority, lambda: self._hear(item, asked)))
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

    def _hear(self, samples: Audio, asked: float) -> list[ServerMessage]:
        """In a worker, which had time for it ``asked`` or later."""
        updates = self._pending < BEHIND and time.monotonic() - asked < LATE_S
        return self._shape(self._listener.hear(samples, updates=updates))

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
    """Word times as the API's types have them: a list of columns."""
    timed = [
        word
        for piece in pieces
        for word in timed_words(piece.text, piece.words, 0, [(piece.start, piece.end)], 0)
    ]
    if [word.word for word in timed] != text.split():
        timed = []
    columns = {
        "words": [word.word for word in timed],
        "start": [word.start for word in timed],
        "end": [word.end for word in timed],
    }
    return [columns] if timed else []


def _is_update(message: ServerMessage) -> bool:
    return isinstance(message, TurnUpdate) or (isinstance(message, Transcript) and not message.is_final)


class Workers:
    """Threads that take work by priority, then in order. Who asks for work awaits it, so the queue is bounded
    by the number of streams."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._running: list[threading.Thread] = []
        self._closed = False
        self._closing = threading.Lock()  # no work may come behind what tells the threads to end
        self._trimmed_at = time.monotonic()

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    async def run(self, priority: int, work: Callable[[], T]) -> T:
        """The result of ``work``, done in a thread. Cancelling does not stop work that has begun."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if done.cancelled():
                return
            try:
                outcome = (work(), None)
            except Exception as error:
                outcome = (None, error)  # type: ignore[assignment]
            with contextlib.suppress(RuntimeError):  # the loop has gone, and with it who asked
                loop.call_soon_threadsafe(_settle, done, *outcome)

        with self._closing:
            if self._closed:
                raise EngineError("the recogniser is closed")
            self._start()
            self._queue.put((priority, next(self._numbers), job))
        return await done

    def close(self) -> None:
        """Let the threads finish what waits, and end. Blocks."""
        with self._closing:
            self._closed = True
            for _ in self._running:
                self._queue.put((BATCH + 1, next(self._numbers), None))
        for thread in self._running:
            thread.join()
        self._running = []

    def _start(self) -> None:
        while len(self._running) < self.threads:
            thread = threading.Thread(target=self._work, name="rtcstt-recogniser", daemon=True)
            self._running.append(thread)
            thread.start()

    def _work(self) -> None:
        while (job := self._queue.get()[2]) is not None:
            job()
            self._trim(time.monotonic())

    def _trim(self, now: float) -> None:
        """Give free memory back now and then."""
        if now - self._trimmed_at > TRIM_EVERY_S:
            self._trimmed_at = now
            heap.trim()


def _settle(future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
