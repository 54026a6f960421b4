"""The speech-to-text that needs no key and no network, behind the same wire protocol as the cloud's."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rtcstt import wire
from rtcstt.embedded import capacity, processors
from rtcstt.errors import CallerError, UpstreamError

if TYPE_CHECKING:
    from rtcstt.embedded.recognizer import Recognizer
    from rtcstt.embedded.service import Service, Session

__all__ = ["Embedded"]

DEFAULT_MODEL = "tiny-en"
MODEL_NAMES = (
    "tiny-en, base-en, whisper-tiny.en, whisper-base, a folder of one, or whisper:NAME"  # for people
)


class Embedded:
    """The embedded recogniser as the STT of calls in this process.

    A model is loaded once, whatever the number of these objects: at the first connection (half a second,
    in a thread) or by `preload`. ``model`` is a name or a folder; see ``rtcstt models``. ``max_streams``
    is this object's own limit; None: what this machine is measured to hold. ``update_ms``: of speech between
    two updates of a turn's text; less costs more. ``keyterm_strength``, 0 to 2: how strongly key terms are
    expected. Both hold for streams that do not ask for something else. `close` it when no call uses it any
    more; with the last one goes the model.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        max_streams: int | None = None,
        update_ms: float = 500.0,
        keyterm_strength: float = 1.0,
    ) -> None:
        self.model = model
        self._update_ms, self._keyterm_strength = update_ms, keyterm_strength
        self._max_streams = max_streams
        self._service: Service | None = None
        self._loading = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"embedded {self.model}"

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
        """Load the model now, unless it is loaded; `EngineError` says how to mend what is missing."""
        async with self._loading:
            if self._service is None:
                recognizer = await asyncio.to_thread(_acquire, self.model, id(self))
                if self._max_streams is None:
                    self._max_streams = await asyncio.to_thread(_measured, self.model)
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
            unused = await asyncio.to_thread(_release, self.model, id(self))  # another may be loading
            if unused is not None:
                await unused.close()


@dataclass(slots=True)
class _Loaded:
    recognizer: Recognizer
    users: set[int] = field(default_factory=set)
    streams: int | None = None


_loaded: dict[str, _Loaded] = {}
_lock = threading.Lock()


def _acquire(model: str, user: int) -> Recognizer:
    """The process's recogniser of that model, loaded now unless it is there. Blocks; for a thread."""
    from rtcstt.embedded.recognizer import Recognizer

    with _lock:
        if model not in _loaded:
            _loaded[model] = _Loaded(Recognizer.load(model, threads=max(2, processors.usable())))
        _loaded[model].users.add(user)
        return _loaded[model].recognizer


def _measured(model: str) -> int:
    """How many streams of a loaded model this machine holds; measured once. Blocks; for a thread."""
    loaded = _loaded[model]
    with _lock:
        if loaded.streams is None:
            loaded.streams = capacity.streams(processors.usable(), loaded.recognizer.cost_s())
        return loaded.streams


def _release(model: str, user: int) -> Recognizer | None:
    """The recogniser when ``user`` was its last one: to be closed."""
    with _lock:
        loaded = _loaded.get(model)
        if loaded is None or user not in loaded.users:
            return None
        loaded.users.remove(user)
        return None if loaded.users else _loaded.pop(model).recognizer
