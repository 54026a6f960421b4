"""The recogniser of a process: models in memory once, worker threads, and a stream for each track.

Inference never runs in the event loop. A stream's audio is taken in order by one task of its own,
which hands what has come, about half a second of it at most, to the workers. They take streams in whose
turn nobody speaks any more before those in which somebody does, and of each kind who has waited longest.
Audio that had to wait is listened to without an update, which is most of the work. So when the machine is
full every stream's updates get rarer, just so much that nobody waits for long, and ends of turns stay prompt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from rtcstt.embedded import capacity
from rtcstt.embedded.batch import Batch, BatchListener, Word
from rtcstt.embedded.completeness import fit_of
from rtcstt.embedded.engines import models, sherpa, timed
from rtcstt.embedded.engines.moonshine import Moonshine
from rtcstt.embedded.engines.smart_turn import SmartTurn
from rtcstt.embedded.engines.streaming import StreamingEngine
from rtcstt.embedded.engines.timed import TimedEngine
from rtcstt.embedded.engines.vad import Vad
from rtcstt.embedded.engines.whisper import Whisper, locate
from rtcstt.embedded.hypothesis import CPU, NO_TERMS, Audio, Device, Terms
from rtcstt.embedded.levelling import START_DB, voice_level_db
from rtcstt.embedded.listener import UPDATE_MS, Listener
from rtcstt.embedded.streams import BLOCK, MANUAL_TURN, ManualStream, S, TurnStream, _Stream
from rtcstt.embedded.workers import BATCH, THREADS, Workers
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import (
    TurnSettings,
)

log = logging.getLogger(__name__)
Engine = Moonshine | Whisper | TimedEngine | StreamingEngine
LIBRARIES: dict[str, Callable[[str, Device], Engine]] = {"onnx-asr": timed.load, "sherpa": sherpa.load}
MEASURED = 4 * SAMPLE_RATE  # of noise, to know what the engine costs here


class Recognizer:
    """Made by `load`; serves any number of streams; `close` it when the last has finished."""

    def __init__(
        self,
        engine: Engine,
        vad: Vad,
        smart_turn: SmartTurn | None,
        *,
        threads: int = THREADS,
    ) -> None:
        self.engine = engine
        self.smart_turn = smart_turn
        self._vad = vad
        self._workers = Workers(threads)
        self._streams: set[_Stream] = set()
        self._closed = False

    @classmethod
    def load(
        cls, model: str = models.DEFAULT, *, threads: int | None = None, device: Device = CPU
    ) -> Recognizer:
        """Load a model by name or folder; takes about half a second. Raises `EngineError` with the command
        that gets what is missing. Only smart-turn may be missing: then turns end later."""
        engine = load_engine(model, threads=threads or THREADS, device=device)
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

    def turns(
        self,
        settings: TurnSettings | None = None,
        *,
        language: str | None = None,
        keyterms: Terms = NO_TERMS,
        update_ms: float = UPDATE_MS,
    ) -> TurnStream:
        """``language`` None: found out from the speech, where there is a choice. ``update_ms``: of speech
        between two updates of a turn's text."""
        listener = Listener(
            self.engine.stream(language, keyterms),
            self._vad.stream(),
            self.smart_turn,
            settings or TurnSettings(),
            live=self.engine.live,
            update_s=update_ms / 1000,
            fit=fit_of(self.engine.name),
        )
        return self._own(TurnStream(listener, self._workers))

    def manual(
        self,
        *,
        max_silence_s: float | None = None,
        language: str | None = None,
        keyterms: Terms = NO_TERMS,
        update_ms: float = UPDATE_MS,
    ) -> ManualStream:
        """A stream whose texts end by `finalize`, or after a silence (default 1.5 s)."""
        settings = MANUAL_TURN
        if max_silence_s is not None:
            settings = settings.merged(TurnSettings(end_timeout_ms=1000 * max_silence_s))
        listener = Listener(
            self.engine.stream(language or "en", keyterms),  # as the API has it
            self._vad.stream(),
            None,
            settings,
            by_silence=True,
            live=self.engine.live,
            timed=True,
            update_s=update_ms / 1000,
        )
        return self._own(ManualStream(listener, self._workers, language or "en"))

    async def transcribe(
        self,
        samples: Audio | Iterable[Audio],
        *,
        words: bool = False,
        timed: bool = True,
        language: str | None = None,
        keyterms: Terms = NO_TERMS,
    ) -> Batch:
        """A whole recording, 16 kHz mono float32; give blocks of it for memory that does not grow. ``words``
        are wanted, and their times ``timed`` by the recogniser, which takes it about as long again."""
        blocks = iter([samples] if isinstance(samples, np.ndarray) else samples)
        level_db = voice_level_db(samples) if isinstance(samples, np.ndarray) else START_DB
        batch = self.batch(words=words and timed, language=language, keyterms=keyterms, level_db=level_db)
        found: list[Word] = []
        while (block := await self._workers.run(BATCH, lambda: next(blocks, None))) is not None:
            found += await batch.push(block)
        found += await batch.finish()
        text = " ".join(word.word for word in found)
        return Batch(text, batch.duration, tuple(found) if words else (), batch.language)

    def batch(
        self,
        *,
        words: bool = True,
        language: str | None = None,
        keyterms: Terms = NO_TERMS,
        level_db: float = START_DB,
    ) -> BatchStream:
        """The same, for audio that comes piece by piece. ``words``: their times are asked for, else guessed.
        ``level_db``: see `voice_level_db`."""
        voice = self._vad.stream(level_db)
        listener = BatchListener(self.engine.stream(language, keyterms), voice, timed=words)
        return BatchStream(listener, self._workers)

    @property
    def listening(self) -> float:
        """How many times what it costs to decode speech once listening to it costs."""
        return capacity.STREAMED if isinstance(self.engine, StreamingEngine) else capacity.LISTENING

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


class BatchStream:
    """A whole recording, given in pieces of any length: 16 kHz mono float32. Its words come as they are
    done."""

    def __init__(self, listener: BatchListener, workers: Workers) -> None:
        self._listener = listener
        self._workers = workers

    async def push(self, samples: Audio) -> list[Word]:
        found: list[Word] = []
        for start in range(0, len(samples), 4 * BLOCK):
            found += await self._workers.run(
                BATCH, partial(self._recognise, samples[start : start + 4 * BLOCK])
            )
        return found

    async def finish(self) -> list[Word]:
        """The rest of them."""
        return await self._workers.run(BATCH, lambda: list(self._listener.finish()))

    def _recognise(self, samples: Audio) -> list[Word]:
        return list(self._listener.receive(samples))

    @property
    def duration(self) -> float:
        """Seconds that were given."""
        return self._listener.received / SAMPLE_RATE

    @property
    def language(self) -> str:
        """ISO 639 code of what is spoken, as far as is known."""
        return self._listener.language


def load_engine(model: str, *, threads: int = THREADS, device: Device = CPU) -> Engine:
    """A recogniser by name or folder, for so many threads at once; `EngineError` says what to do."""
    library, _, what = model.partition(":")
    if library in LIBRARIES:
        try:
            return LIBRARIES[library](what, device)
        except EngineError:
            raise
        except Exception as error:  # they raise what they like, RuntimeError and plain Exception among it
            raise EngineError(f"{model} cannot be loaded: {error}") from error
    folder = locate(model)
    if folder is not None:
        return Whisper(folder, workers=threads, device=device)
    return Moonshine(models.recogniser_folder(model), device)
