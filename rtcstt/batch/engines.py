"""What turns a piece of a recording into words: the embedded recogniser, or a server's batch endpoint."""

from __future__ import annotations

import asyncio
import io
import os
import random
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np

from rtcstt.batch.audio import Floats
from rtcstt.batch.words import Recognised, parse
from rtcstt.embedded import DEFAULT_MODEL
from rtcstt.embedded.hypothesis import Terms
from rtcstt.errors import ConfigError, UpstreamError
from rtcstt.limits import backoff
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.key import key_in
from rtcstt.stt.refusals import refusal
from rtcstt.wire import strict_json

if TYPE_CHECKING:
    from rtcstt.embedded.recognizer import Recognizer

ENDPOINT_MODEL = "ink-whisper"  # of a server, unless another is asked for


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``stt``: "embedded" or the base URL of a server; ``model`` None: its usual one. ``word_times``: the
    embedded recogniser is asked when each word was said, which takes it about as long again; else that is
    guessed."""

    stt: str = "embedded"
    model: str | None = None
    language: str | None = None
    keyterms: tuple[str, ...] = ()
    word_times: bool = True

    @property
    def model_name(self) -> str:
        return self.model or (DEFAULT_MODEL if self.stt == "embedded" else ENDPOINT_MODEL)


class Engine(Protocol):
    async def transcribe(self, samples: Floats) -> Recognised: ...


class EmbeddedEngine:
    def __init__(self, recognizer: Recognizer, settings: EngineSettings) -> None:
        from rtcstt.embedded.service import configured_language

        self._recognizer = recognizer
        self._language = configured_language(settings.language, recognizer.languages)
        self._keyterms = Terms(settings.keyterms)
        self._word_times = settings.word_times

    async def transcribe(self, samples: Floats) -> Recognised:
        batch = await self._recognizer.transcribe(
            samples, words=True, timed=self._word_times, language=self._language, keyterms=self._keyterms
        )
        return Recognised(batch.text, batch.words, batch.language)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is asked again. One that is busy (429, or 503 with Retry-After) gets ``busy_s`` in
    all: others may have long recordings there; one that fails or cannot be reached, ``tries`` tries."""

    tries: int = 5
    first_s: float = 0.5
    longest_s: float = 30.0
    busy_s: float = 3600.0

    def pause(self, error: UpstreamError, failures: int, waited_s: float) -> float | None:
        """Seconds until the next try, after so many failures and so much waiting; None: it is given up."""
        if not error.retryable:
            return None
        again = backoff(failures, self.first_s, self.longest_s)
        if is_busy(error):
            return max(again, error.retry_after_s or 0.0) if waited_s < self.busy_s else None
        return again if failures < self.tries else None


def is_busy(error: UpstreamError) -> bool:
    """Whether the server is well, and has only too much to do."""
    return error.status == 429 or (error.status == 503 and error.retry_after_s is not None)


class BatchEndpoint:
    """`POST /stt` of the vendor's API or of a server that has the same."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        settings: EngineSettings,
        patience: Patience | None = None,
    ) -> None:
        self._http = http
        self._url = url
        self._settings = settings
        self._patience = patience or Patience()
        self._random = random.Random()

    async def transcribe(self, samples: Floats) -> Recognised:
        failures, waited_s = 0, 0.0
        while True:
            try:
                return await self._post(samples)
            except UpstreamError as error:
                failures += not is_busy(error)
                pause = self._patience.pause(error, failures, waited_s)
                if pause is None:
                    raise
            pause *= self._random.uniform(1.0, 1.3)  # so that not all who were sent away come back together
            waited_s += pause
            await asyncio.sleep(pause)

    async def _post(self, samples: Floats) -> Recognised:
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(wav(samples)), filename="block.wav", content_type="audio/wav")
        form.add_field("model", self._settings.model_name)
        if self._settings.language is not None:
            form.add_field("language", self._settings.language)
        for term in self._settings.keyterms:
            form.add_field("keyterm", term)
        form.add_field("timestamp_granularities[]", "word")
        try:
            async with self._http.post(self._url, data=form) as response:
                if response.status != 200:
                    raise refusal(response.status, await response.read(), response.headers.get("Retry-After"))
                answer = strict_json.loads(await response.read())
            return parse(answer, len(samples) / SAMPLE_RATE)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamError(f"{self._url} cannot be reached: {error}") from error
        except ValueError as error:
            raise UpstreamError(f"{self._url} gave no transcript: {error}", retryable=False) from error


def wav(samples: Floats) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


@asynccontextmanager
async def open_engine(settings: EngineSettings, jobs: int) -> AsyncIterator[Engine]:
    """`ConfigError` or `EngineError` when there is none."""
    if settings.stt == "embedded":
        from rtcstt.embedded.recognizer import Recognizer

        recognizer = await asyncio.to_thread(Recognizer.load, settings.model_name, threads=jobs)
        try:
            yield EmbeddedEngine(recognizer, settings)
        finally:
            await recognizer.close()
        return
    headers = {"Cartesia-Version": "2026-03-01"}
    if key := key_in(os.environ):
        headers["Authorization"] = f"Bearer {key}"
    timeout = aiohttp.ClientTimeout(total=600, sock_connect=30)
    connector = aiohttp.TCPConnector(limit=max(1, jobs))
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as http:
        yield BatchEndpoint(http, _batch_url(settings.stt), settings)


def _batch_url(base: str) -> str:
    parts = urlsplit(base)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--stt {base}: neither embedded nor the URL of a server")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/stt", "", ""))
