"""The speech-to-text that needs no key and no network, behind the same wire protocol as the cloud's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from rtcstt import wire
from rtcstt.errors import CallerError, UpstreamError

if TYPE_CHECKING:
    from rtcstt.embedded.service import Service, Session

__all__ = ["Embedded"]

DEFAULT_MODEL = "tiny-en"


class Embedded:
    """The embedded recogniser as the STT of calls in this process. One model serves all of them.

    It is loaded at the first connection (half a second, in a thread), or by `preload`. ``model`` is a
    name or a folder; see ``rtcstt models``. `close` it when no call uses it any more.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, max_streams: int | None = None) -> None:
        self.model = model
        self._max_streams = max_streams
        self._service: Service | None = None
        self._loading = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"embedded {self.model}"

    @property
    def is_ready(self) -> bool:
        return self._service is not None

    async def preload(self) -> Service:
        """Load the model now, unless it is loaded; `EngineError` says how to mend what is missing."""
        async with self._loading:
            if self._service is None:
                from rtcstt.embedded.recognizer import Recognizer  # onnxruntime takes a while to import
                from rtcstt.embedded.service import Service

                recognizer = await asyncio.to_thread(Recognizer.load, self.model)
                self._service = Service(recognizer, max_streams=self._max_streams)
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
        return (await self.preload()).recognizer.describe()

    async def close(self) -> None:
        """End the sessions that are left, and the worker threads. Idempotent."""
        service, self._service = self._service, None
        if service is not None:
            await service.close()
            await service.recognizer.close()
