"""Whole recordings over HTTP: `POST /stt`, and OpenAI's forms of the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from aiohttp import web

from rtcstt import wire
from rtcstt.embedded.batch import Batch, Word
from rtcstt.embedded.http import answers, prompt, upload
from rtcstt.embedded.http.limits import HttpLimits
from rtcstt.embedded.http.upload import FieldError, Form
from rtcstt.embedded.http.version import version_of
from rtcstt.embedded.hypothesis import Audio, Terms
from rtcstt.embedded.levelling import voice_level_db
from rtcstt.embedded.recognizer import BatchStream
from rtcstt.embedded.service import Service, check_language, check_model, concurrency_limited
from rtcstt.errors import CallerError, FileError
from rtcstt.http.access import Permission
from rtcstt.http.errors import refusal
from rtcstt.http.guard import Route
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.media.tracks import Gap
from rtcstt.reading import Readers, Reading

LOOK_AT = 20 * SAMPLE_RATE  # samples, to see how loud the voices are
KEPT_READERS = 1  # processes that wait for the next recording
# Names that clients of OpenAI's API send, whatever they know of this server.
_OPENAI_MODELS = re.compile(
    r"(?:[\w.-]{1,60}/)?[\w.:-]{0,60}whisper[\w.:-]{0,60}|gpt-4o[\w.-]{0,20}transcribe[\w.-]{0,20}"
)
_LISTED = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "ink-whisper")


class Transcribing:
    """A recording that is being transcribed: iterate its `words`; then `batch` and `gaps` are complete."""

    def __init__(self, form: Form, reading: Reading, open_stream: Callable[[float], BatchStream]) -> None:
        self.form = form
        self.found: list[Word] = []
        self.gaps: list[Gap] = []
        self._reading = reading
        self._open_stream = open_stream
        self._stream: BatchStream | None = None

    async def words(self) -> AsyncIterator[list[Word]]:
        """Those that were found, as soon as they are."""
        async for samples in self._samples():
            if self._stream is None:
                self._stream = self._open_stream(voice_level_db(samples))
            for start in range(0, len(samples), SAMPLE_RATE):
                if words := await self._stream.push(samples[start : start + SAMPLE_RATE]):
                    self.found += words
                    yield words
        if self._stream is not None and (words := await self._stream.finish()):
            self.found += words
            yield words

    async def _samples(self) -> AsyncIterator[Audio]:
        """The first of them long enough to see how loud the voices are."""
        first: list[Audio] = []
        length = 0
        async for part in self._reading.parts():
            if isinstance(part, Gap):
                self.gaps.append(part)
            elif length < LOOK_AT:
                first.append(part.samples[0])
                length += len(first[-1])
                if length >= LOOK_AT:
                    yield np.concatenate(first)
            else:
                yield part.samples[0]
        if 0 < length < LOOK_AT:
            yield np.concatenate(first)

    async def whole(self) -> Batch:
        async for _ in self.words():
            pass
        return self.batch

    @property
    def batch(self) -> Batch:
        assert self._stream is not None  # a recording without a sample is refused
        text = " ".join(word.word for word in self.found)
        return Batch(text, self._stream.duration, tuple(self.found), self._stream.language)


class RecordingRoutes:
    """The handlers. ``services`` gives the service, once it is loaded. `close` it."""

    def __init__(self, services: Callable[[], Awaitable[Service]], limits: HttpLimits) -> None:
        self._services = services
        self._limits = limits
        self._readers = Readers(limits.recordings, keep=KEPT_READERS)
        self._folders = TemporaryFolders()
        self._batches = 0

    async def close(self) -> None:
        await self._readers.close()
        await self._folders.close()

    def table(self) -> list[Route]:
        speech_to_text = partial(Route, permission=Permission.TRANSCRIBE, any_origin=True)
        recording = "A recording to its transcript"
        found = [
            speech_to_text(method="POST", path="/stt", handler=self.batch, summary=recording),
            speech_to_text(
                method="POST", path="/stt/transcribe", handler=self.batch, summary="The same as `/stt`"
            ),
        ]
        for prefix, note in (("", ""), ("/v1", "The same: ")):
            found += [
                speech_to_text(
                    method="POST",
                    path=f"{prefix}/audio/transcriptions",
                    handler=self.openai,
                    summary=f"{note}{recording}, in OpenAI's form",
                ),
                speech_to_text(
                    method="GET",
                    path=f"{prefix}/models",
                    handler=self.models,
                    summary=f"{note}Names of models, in OpenAI's form",
                ),
                speech_to_text(
                    method="GET",
                    path=f"{prefix}/models/{{id}}",
                    handler=self.model,
                    summary=f"{note}One of them",
                ),
            ]
        return found

    async def batch(self, request: web.Request) -> web.StreamResponse:
        """`POST /stt`: a file, or raw audio declared in the query, to its whole text."""
        version_of(request)
        request_id = str(uuid.uuid4())
        async with self._transcribing(request) as work:
            batch = await work.whole()
            words = "word" in work.form.several("timestamp_granularities")
            answer = answers.transcript(batch, request_id, words=words, gaps=work.gaps)
            return web.json_response(answer, headers={"X-Request-Id": request_id})

    async def openai(self, request: web.Request) -> web.StreamResponse:
        """`POST /audio/transcriptions`: the same, as OpenAI's clients ask for it."""
        try:
            version_of(request)
            async with self._transcribing(request) as work:
                wanted = _Wanted.of(work.form)
                if wanted.stream:
                    return await _streamed(request, work, wanted)
                batch = await work.whole()
                return answers.openai(
                    batch,
                    wanted.response_format,
                    wanted.granularities,
                    temperature=wanted.temperature,
                    logprobs=wanted.logprobs,
                )
        except CallerError as error:
            return _refused(error)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """`GET /models`."""
        return web.json_response({"object": "list", "data": [_model(name) for name in _LISTED]})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """`GET /models/NAME`."""
        name = request.match_info["id"]
        if not _is_known(name):
            return _refused(
                FieldError("model", f"There is no model {name[:60]!r} here.", "model_not_found", 404)
            )
        return web.json_response(_model(name))

    @contextlib.asynccontextmanager
    async def _transcribing(self, request: web.Request) -> AsyncIterator[Transcribing]:
        """The form's fields, and the recording in it, whose beginning could be read."""
        most = self._limits.recordings
        if self._batches >= most:
            raise concurrency_limited(f"{most} recordings are being transcribed already.")
        self._batches += 1
        try:
            service = await self._services()
            async with self._folders.open() as folder:
                path = folder / "recording"
                with _created(path) as file:
                    form = await upload.read_form(request, file, self._limits)
                open_stream = _opener(service, form)
                settings = upload.read_settings(request.query, form, self._limits)
                async with self._readers.open(path, settings) as reading:
                    yield Transcribing(form, reading, open_stream)
        except FileError as error:
            raise _unreadable(error) from error
        finally:
            self._batches -= 1


class TemporaryFolders:
    """Folders for uploads. They are removed in threads, since what is in them may be large, and removed
    however often the task that has one is cancelled: `close` waits for that."""

    def __init__(self) -> None:
        self._removals: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Path]:
        folder = tempfile.TemporaryDirectory(prefix="rtcstt-")
        try:
            yield Path(folder.name)
        finally:
            removal = asyncio.create_task(asyncio.to_thread(folder.cleanup))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
            await asyncio.shield(removal)

    async def close(self) -> None:
        await asyncio.gather(*self._removals, return_exceptions=True)


def _created(path: Path) -> IO[bytes]:
    return path.open("xb")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an OpenAI client asked for. Fields that change nothing here are taken and left aside."""

    response_format: str
    granularities: list[str]
    stream: bool
    temperature: float
    logprobs: bool

    @classmethod
    def of(cls, form: Form) -> _Wanted:
        """`FieldError` where a field is wrong."""
        response_format = form.one("response_format", "json")
        if response_format not in answers.FORMATS:
            raise upload.refused("response_format", f"must be one of {', '.join(answers.FORMATS)}.")
        granularities = form.several("timestamp_granularities")
        if unknown := set(granularities) - set(answers.GRANULARITIES):
            raise upload.refused(
                "timestamp_granularities", f"are word and segment, not {min(unknown)[:60]!r}."
            )
        stream = form.flag("stream")
        if stream and response_format in ("srt", "vtt"):
            raise upload.refused("response_format", "must be json or text where stream is true.")
        return cls(
            response_format, granularities, stream, _temperature(form), "logprobs" in form.several("include")
        )


def _temperature(form: Form) -> float:
    try:
        temperature = float(form.one("temperature") or 0)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise upload.refused("temperature", "must be a number from 0 to 1.")
    return temperature


def _opener(service: Service, form: Form) -> Callable[[float], BatchStream]:
    """What opens a stream at the recogniser for voices of a level (`voice_level_db`); `FieldError` where the
    form asks for what is not here."""
    model = form.one("model", "ink-whisper")
    if not _is_known(model):
        raise FieldError("model", f"There is no model {model[:60]!r} here; use whisper-1.", "model_not_found")
    try:
        language = check_language(form.one("language") or None, service.recognizer.languages)
    except CallerError as error:
        raise FieldError("language", f"language: {error.message}", error.code) from error
    given = tuple(term for name in ("keyterm", "keyterms") for term in form.fields.get(name, []))
    try:
        keyterms = wire.check_keyterms(given or prompt.terms(form.one("prompt")))
    except CallerError as error:
        raise FieldError("keyterm", f"keyterm: {error.message}", error.code) from error
    terms, words = Terms(keyterms), _word_times(form)
    return lambda level_db: service.recognizer.batch(
        words=words, language=language, keyterms=terms, level_db=level_db
    )


def _word_times(form: Form) -> bool:
    """Whether the answer tells times: to ask the recogniser for them takes it about as long again."""
    timed = form.one("response_format") in ("verbose_json", "srt", "vtt")
    return timed or "word" in form.several("timestamp_granularities")


def _is_known(model: str) -> bool:
    if _OPENAI_MODELS.fullmatch(model):
        return True
    try:
        check_model(model, endpoint=None)
    except CallerError:
        return False
    return True


def _model(name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rtcstt"}


async def _streamed(request: web.Request, work: Transcribing, wanted: _Wanted) -> web.StreamResponse:
    """Server-sent events: the text as it is found. What goes wrong later is one as well."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    response.content_type = "text/event-stream"
    await response.prepare(request)
    try:
        async for words in work.words():
            first = len(work.found) == len(words)
            text = " ".join(word.word for word in words)
            await response.write(answers.delta(text if first else f" {text}"))
        await response.write(answers.done(work.batch, logprobs=wanted.logprobs))
    except FileError as error:
        await response.write(answers.failed(_openai_error(_unreadable(error))))
    await response.write_eof()
    return response


def _refused(error: CallerError) -> web.Response:
    """In our form, and within it in OpenAI's, which its clients look for."""
    response = refusal(error)
    response.text = json.dumps(error.as_dict() | {"error": _openai_error(error)})
    return response


def _openai_error(error: CallerError) -> dict[str, str | None]:
    return {
        "message": error.message,
        "type": "invalid_request_error" if error.status < 500 else "server_error",
        "param": error.field if isinstance(error, FieldError) else None,
        "code": error.code,
    }


def _unreadable(error: FileError) -> CallerError:
    if error.code == "too_long":
        return CallerError(
            413, "audio_too_long", "Audio too long", f"The recording cannot be taken: {error}."
        )
    return FieldError("file", f"The file is no audio that can be read: {error}.", "invalid_audio")
