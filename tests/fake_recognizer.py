"""A recogniser that needs no model and no thread: every second of sound is one word, silence ends a turn."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np

from rtcstt import wire
from rtcstt.embedded.batch import Word
from rtcstt.errors import EngineError

RATE = 16000
PAUSE = RATE // 2


class FakeRecognizer:
    """``speed`` is how many seconds of audio a stream takes in a second; None: at once."""

    def __init__(self, *, speed: float | None = None, fails_after_s: float | None = None) -> None:
        self.speed = speed
        self.fails_after_s = fails_after_s
        self.streams: list[FakeStream] = []

    languages = ("en",)

    def turns(self, settings: wire.TurnSettings | None = None, **options: object) -> FakeStream:
        self.options = options
        return self._add(FakeStream(self, settings or wire.TurnSettings(), manual=False))

    def manual(self, *, max_silence_s: float | None = None, **options: object) -> FakeStream:
        self.options = options
        return self._add(FakeStream(self, max_silence_s, manual=True))

    def batch(self, **options: object) -> FakeBatch:
        self.options = options
        return FakeBatch()

    async def close(self) -> None:
        for stream in self.streams:
            assert stream.task.done(), "a stream was left behind"

    def _add(self, stream: FakeStream) -> FakeStream:
        self.streams.append(stream)
        return stream


class FakeBatch:
    """Every second of sound is one word."""

    language = "en"

    def __init__(self) -> None:
        self.duration = 0.0

    async def push(self, samples: np.ndarray) -> list[Word]:
        start, self.duration = self.duration, self.duration + len(samples) / RATE
        if not samples.any():
            return []
        numbers = range(round(start), round(self.duration))
        return [Word(f"word{n}", float(n), n + 0.9, 0.5) for n in numbers]

    async def finish(self) -> list[Word]:
        return []


class FakeStream:
    def __init__(self, owner: FakeRecognizer, settings: object, *, manual: bool) -> None:
        self.settings = settings
        self.received: list[np.ndarray] = []
        self.cancelled = False
        self._owner = owner
        self._manual = manual
        self._messages: deque[wire.ServerMessage] = deque()
        self._changed = asyncio.Event()
        self._failed = False
        self.task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._words = 0
        self._sound = 0
        self._quiet = 0
        self._turns = 0

    @property
    def audio(self) -> np.ndarray:
        return np.concatenate(self.received) if self.received else np.zeros(0, np.float32)

    async def feed(self, samples: np.ndarray) -> None:
        assert samples.dtype == np.float32 and samples.ndim == 1
        if self._owner.speed is not None:
            await asyncio.sleep(len(samples) / RATE / self._owner.speed)
        self.received.append(samples)
        limit = self._owner.fails_after_s
        if limit is not None and len(self.audio) > limit * RATE:
            self._failed = True
            self._over()
        for begin in range(0, len(samples), 160):
            self._block(samples[begin : begin + 160])

    def say(self, message: wire.ServerMessage) -> None:
        self._messages.append(message)
        self._changed.set()

    def _over(self) -> None:
        if not self.task.done():
            self.task.set_result(None)
        self._changed.set()

    def _block(self, block: np.ndarray) -> None:
        if np.any(block):
            self._quiet = 0
            if not self._sound and not self._manual:
                self.say(wire.TurnStart())
            self._sound += len(block)
            if self._sound // RATE > self._words:
                self._words = self._sound // RATE
                text = self._text()
                partial = wire.Transcript(text, is_final=False) if self._manual else wire.TurnUpdate(text)
                self.say(partial)
        elif self._sound:
            self._quiet += len(block)
            if self._quiet >= PAUSE:
                self._end()

    def _text(self) -> str:
        return (" " if self._turns else "") + " ".join(["word"] * self._words)

    def _end(self) -> None:
        if self._sound:
            text = self._text()
            final = wire.Transcript(text, is_final=True) if self._manual else wire.TurnEnd(text)
            self.say(final)
            self._turns += 1
        self._words = self._sound = self._quiet = 0

    async def configure(self, settings: wire.TurnSettings) -> None:
        self.settings = settings

    async def finalize(self) -> None:
        self._end()
        self.say(wire.FlushDone())

    async def finish(self) -> None:
        self._end()
        if self._manual:
            self.say(wire.Done())
        self._over()

    async def cancel(self) -> None:
        self.cancelled = True
        self._over()

    async def next(self) -> wire.ServerMessage | None:
        while not self._messages:
            if self._failed:
                raise EngineError("the recogniser failed")
            if self.task.done():
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._messages.popleft()
