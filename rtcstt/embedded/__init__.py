"""The speech-to-text that needs no key and no network, behind the same wire protocol as the cloud's."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rtcstt import wire
from rtcstt.embedded import capacity, processors
from rtcstt.embedded.hypothesis import CPU, Device
from rtcstt.errors import CallerError, UpstreamError

if TYPE_CHECKING:
    from rtcstt.embedded.recognizer import Recognizer
    from rtcstt.embedded.service import Service, Session

__all__ = ["Embedded"]

log = logging.getLogger(__name__)

DEFAULT_MODEL, BETTER_MODEL, AUTO = "tiny-en", "base-en", "auto"
MODEL_NAMES = (
    "auto, tiny-en, base-en, whisper-tiny.en, whisper-base, a folder of one, whisper:NAME,"
    " onnx-asr:NAME, onnx-asr:TYPE@FOLDER, or sherpa:FOLDER"  # for people
)


class Embedded:
    """The embedded recogniser as the STT of calls in this process.

    A model is loaded once, whatever the number of these objects: at the first connection (half a second,
    in a thread) or by `preload`. ``model`` is a name or a folder; see ``rtcstt models``. ``max_streams``
    is this object's own limit; None: what this machine is measured to hold. ``update_ms``: of speech between
    two updates of a turn's text; less costs more. ``keyterm_strength``, 0 to 2: how strongly key terms are
    expected. Both hold for streams that do not ask for something else. ``model`` "auto": base-en where it is
    present and this machine holds so many ``streams`` of it, else tiny-en. `close` it when no call uses it
    any more; with the last one goes the model.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        max_streams: int | None = None,
        update_ms: float = 500.0,
        keyterm_strength: float = 1.0,
        device: Device = CPU,
        streams: int = 4,
    ) -> None:
        self.model = model
        self.device = device
        self._wanted_streams = streams
        self._update_ms, self._keyterm_strength = update_ms, keyterm_strength
        self._max_streams = max_streams
        self._service: Service | None = None
        self._loading = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"embedded {self.model}"

    @property
    def _key(self) -> _Key:
        return self.model, self.device

    @property
    def is_ready(self) -> bool:
        return self._service is not None

    @property
    def streams(self) -> tuple[int, int]:
        """Those that are open, and how many may be; nothing before it is loaded."""
        if self._service is None:
            return 0, 0
        most = self._service.max_streams
        return self._service.streams, sys.maxsize if most is None else most

    async def preload(self) -> Service:
        """Load the model now, unless it is loaded; `EngineError` says how to get what is missing."""
        async with self._loading:
            if self._service is None:
                self.model = await asyncio.to_thread(resolve, self.model, self.device, self._wanted_streams)
                recognizer = await asyncio.to_thread(_acquire, self._key, id(self))
                if self._max_streams is None:
                    self._max_streams = await asyncio.to_thread(_measured, self._key)
                from rtcstt.embedded.service import Decoding, Service

                defaults = Decoding(update_ms=self._update_ms, keyterm_strength=self._keyterm_strength)
                self._service = Service(recognizer, max_streams=self._max_streams, defaults=defaults)
            return self._service

    async def connect(self, handshake: wire.Handshake) -> Session:
        service = await self.preload()
        try:
            return await service.open(replace(handshake, model="ink-2"))
        except CallerError as error:
            again = wire.retryable_status(error.status)
            raise UpstreamError(
                error.message, status=error.status, code=error.code, retryable=again
            ) from error

    async def describe(self) -> list[str]:
        service = await self.preload()
        return [*service.recognizer.describe(), f"streams at once: {service.max_streams}"]

    async def close(self) -> None:
        """End the sessions that are left, and the worker threads unless others use them. Idempotent."""
        async with self._loading:
            service, self._service = self._service, None
            if service is not None:
                await service.close()
            unused = await asyncio.to_thread(_release, self._key, id(self))  # another may be loading
            if unused is not None:
                await unused.close()


@dataclass(slots=True)
class _Loaded:
    recognizer: Recognizer
    users: set[int] = field(default_factory=set)
    streams: int | None = None


_Key = tuple[str, Device]
_loaded: dict[_Key, _Loaded] = {}
_lock = threading.Lock()


def resolve(model: str, device: Device = CPU, streams: int = 4) -> str:
    """The model that "auto" is here: base-en where it is present and so many ``streams`` of it are held, else
    tiny-en; any other as it is. Blocks; for a thread."""
    if model != AUTO:
        return model
    from rtcstt.embedded.engines import models
    from rtcstt.embedded.recognizer import Recognizer

    if models.find(BETTER_MODEL) is None:
        log.info("model: %s; %s is not present (rtcstt models)", DEFAULT_MODEL, BETTER_MODEL)
        return DEFAULT_MODEL
    cost_s = Recognizer.load(BETTER_MODEL, threads=1, device=device).cost_s()
    held = capacity.streams(processors.usable(), cost_s, fewest=0)
    chosen = BETTER_MODEL if held >= streams else DEFAULT_MODEL
    log.info("model: %s; this machine holds %d streams of %s", chosen, held, BETTER_MODEL)
    return chosen


def _acquire(key: _Key, user: int) -> Recognizer:
    """The process's recogniser of that model, loaded now unless it is there. Blocks; for a thread."""
    from rtcstt.embedded.recognizer import Recognizer

    with _lock:
        if key not in _loaded:
            model, device = key
            threads = max(2, processors.usable())
            _loaded[key] = _Loaded(Recognizer.load(model, threads=threads, device=device))
        _loaded[key].users.add(user)
        return _loaded[key].recognizer


def _measured(key: _Key) -> int:
    """How many streams of a loaded model this machine holds; measured once. Blocks; for a thread."""
    loaded = _loaded[key]
    with _lock:
        if loaded.streams is None:
            recognizer = loaded.recognizer
            loaded.streams = capacity.streams(
                processors.usable(), recognizer.cost_s(), listening=recognizer.listening
            )
        return loaded.streams


def _release(key: _Key, user: int) -> Recognizer | None:
    """The recogniser when ``user`` was its last one: to be closed."""
    with _lock:
        loaded = _loaded.get(key)
        if loaded is None or user not in loaded.users:
            return None
        loaded.users.remove(user)
        return None if loaded.users else _loaded.pop(key).recognizer
