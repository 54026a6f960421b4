"""What turns a piece of a recording into words: the embedded recogniser, or a server's batch endpoint."""

from __future__ import annotations

import asyncio
import io
import json
import os
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np

from rtcstt import wire
from rtcstt.batch.audio import Floats
from rtcstt.embedded import DEFAULT_MODEL
from rtcstt.errors import ConfigError, UpstreamError
from rtcstt.media.pcm import SAMPLE_RATE

NAME = len("Speaker 10: ")  # of a cue's letters, where there are speakers
TRIES = 5


# --- engines --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """``start`` and ``end`` in seconds from the beginning of what was transcribed."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Recognised:
    text: str
    words: Sequence[Word]


class Engine(Protocol):
    async def transcribe(self, samples: Floats) -> Recognised: ...


class EmbeddedEngine:
    def __init__(self, recognizer: Any, language: str | None = None) -> None:
        self._recognizer = recognizer
        self._language = language

    async def transcribe(self, samples: Floats) -> Recognised:
        batch = await self._recognizer.transcribe(samples, words=True, language=self._language)
        return Recognised(batch.text, [Word(word.word, word.start, word.end) for word in batch.words or ()])


class BatchEndpoint:
    """`POST /stt` of the vendor's API or of a server that has the same."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        model: str,
        language: str | None = None,
        *,
        first_wait_s: float = 0.5,
    ) -> None:
        self._http = http
        self._url = url
        self._model = model
        self._language = language
        self._first_wait_s = first_wait_s

    async def transcribe(self, samples: Floats) -> Recognised:
        for attempt in range(TRIES):
            try:
                return await self._post(samples)
            except UpstreamError as error:
                if not error.retryable or attempt == TRIES - 1:
                    raise
            await asyncio.sleep(self._first_wait_s * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, samples: Floats) -> Recognised:
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(wav(samples)), filename="block.wav", content_type="audio/wav")
        form.add_field("model", self._model)
        if self._language is not None:
            form.add_field("language", self._language)
        form.add_field("timestamp_granularities[]", "word")
        try:
            async with self._http.post(self._url, data=form) as response:
                if response.status != 200:
                    raise await _refusal(response)
                answer = await response.json()
            words = [
                Word(str(w["word"]), float(w["start"]), float(w["end"])) for w in answer.get("words") or ()
            ]
            return Recognised(str(answer["text"]), words)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamError(f"{self._url} cannot be reached: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamError(f"{self._url} gave no transcript: {error!r}", retryable=False) from error


async def _refusal(response: aiohttp.ClientResponse) -> UpstreamError:
    try:
        body = json.loads(await response.text())
        message, code = str(body["message"]), body.get("error_code")
    except (ValueError, KeyError, TypeError):
        message, code = response.reason or "refused", None
    status = response.status
    return UpstreamError(f"{status}: {message}", status=status, code=code, retryable=wire.retryable(status))


def wav(samples: Floats) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


@asynccontextmanager
async def open_engine(
    stt: str, model: str | None, jobs: int, language: str | None = None
) -> AsyncIterator[Engine]:
    """``stt``: "embedded" or the base URL of a server."""
    if stt == "embedded":
        from rtcstt.embedded.recognizer import Recognizer
        from rtcstt.embedded.service import configured_language

        recognizer = Recognizer.load(model or DEFAULT_MODEL, threads=jobs)
        try:
            yield EmbeddedEngine(recognizer, configured_language(language, recognizer.languages))
        finally:
            await recognizer.close()
        return
    headers = {"Cartesia-Version": "2026-03-01"}
    if key := os.environ.get("RTCSTT_STT_KEY") or os.environ.get("CARTESIA_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        yield BatchEndpoint(http, _batch_url(stt), model or "ink-whisper", language)


def _batch_url(base: str) -> str:
    parts = urlsplit(base)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--stt {base}: neither embedded nor the URL of a server")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/stt", "", ""))
