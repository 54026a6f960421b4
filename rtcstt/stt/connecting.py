"""Opening connections: one attempt, and the attempts to return from the fallback."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

from rtcstt import wire
from rtcstt.errors import CallerError, EngineError, UpstreamError
from rtcstt.limits import backoff
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.limits import Limits
from rtcstt.stt.seam import Connection, Stt

_LONGEST_PROBE_S = 60.0  # the pause between two attempts to return
_PATIENCE_S = 15.0  # how long a connection to the first STT waits for the end of a turn: it grows old


class Connector:
    """What a stream's connections have in common. ``settings`` are those of the next one."""

    def __init__(
        self,
        limits: Limits,
        *,
        mode: str,
        settings: wire.TurnSettings,
        keyterms: tuple[str, ...],
        language: str | None,
        update_ms: float | None,
        chance: random.Random,
    ) -> None:
        self.settings = settings
        self.attempts = 0
        self._limits, self._manual, self._chance = limits, mode == "manual", chance
        self._keyterms, self._language, self._update_ms = keyterms, language, update_ms

    def _handshake(self) -> wire.Handshake:
        return wire.Handshake(
            endpoint="manual" if self._manual else "turns",
            model="ink-2",
            encoding="pcm_s16le",
            sample_rate=SAMPLE_RATE,
            keyterms=self._keyterms,
            turn=wire.TurnSettings() if self._manual else self.settings,
            language=self._language,
            update_ms=self._update_ms,
        )

    async def open(self, stt: Stt) -> Connection:
        """One attempt; `UpstreamError` says whether another one makes sense."""
        self.attempts += 1
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                return await stt.connect(self._handshake())
        except TimeoutError as error:
            raise UpstreamError(f"{stt.name} did not answer in time") from error
        except CallerError as error:  # an STT in this process refuses with these
            raise UpstreamError(
                error.message, status=error.status, code=error.code, retryable=wire.retryable(error.status)
            ) from error
        except EngineError as error:
            raise UpstreamError(str(error), retryable=False) from error

    async def open_between_turns(self, stt: Stt, idle: Callable[[float], Awaitable[bool]]) -> Connection:
        """Try again and again, and when a connection is up, wait for the end of a turn. Raises
        `UpstreamError` when the STT refuses for good."""
        for failures in itertools.count(1):
            pause = backoff(failures, self._limits.probe_s, _LONGEST_PROBE_S)
            await asyncio.sleep(pause * self._chance.uniform(0.75, 1.0))
            try:
                connection = await self.open(stt)
            except UpstreamError as error:
                if error.retryable:
                    continue
                raise
            is_idle = False
            try:
                is_idle = await idle(_PATIENCE_S)
            finally:
                if not is_idle:
                    await connection.close()
            if is_idle:
                return connection
        raise AssertionError("itertools.count has no end")
