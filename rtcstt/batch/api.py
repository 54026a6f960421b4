"""`rtcstt.transcribe`: a recording's transcript, for programs."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, ParamSpec

from rtcstt import wire
from rtcstt.batch.engines import EngineSettings, open_engine
from rtcstt.batch.recording import RecordingSettings, RecordingTranscriber
from rtcstt.batch.sources import printable
from rtcstt.batch.transcripts import Transcription
from rtcstt.embedded import processors
from rtcstt.errors import CallerError, ConfigError
from rtcstt.media.tracks import RawAudio, ReadSettings
from rtcstt.reading import Readers

P = ParamSpec("P")


async def transcribe(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    language: str | None = None,
    stt: str = "embedded",
    keyterms: Sequence[str] = (),
    split: bool = False,
    speakers: Sequence[str] = (),
    audio_stream: int | Literal["all"] | None = None,
    start: float = 0.0,
    duration: float | None = None,
    offset: float = 0.0,
    raw: RawAudio | None = None,
    jobs: int | None = None,
) -> Transcription:
    """The transcript of an audio or video file.

    ``stt``: "embedded" or the base URL of a server with the batch endpoint (its key: RTCSTT_STT_KEY).
    ``split``: each channel is a speaker, as ``speakers`` names them. ``start`` and ``duration`` in s: only
    that part; its times stay the file's. ``offset``: seconds to add to all times. ``raw``: what a file of
    raw audio holds. ``jobs``: pieces side by side; None: one for each processor.

    Raises `FileError` where the recording cannot be read, `ConfigError` for a setting, `UpstreamError`
    where the server refuses, `EngineError` where the recogniser cannot run.
    """
    if isinstance(keyterms, str) or isinstance(speakers, str):
        raise ConfigError("keyterms and speakers are lists of texts, not one text")
    jobs = jobs or processors.usable()
    engine_settings = EngineSettings(stt, model, language, checked_terms(keyterms))
    settings = RecordingSettings(
        read=checked(
            ReadSettings(
                split=split or bool(speakers), stream=audio_stream, start=start, duration=duration, raw=raw
            )
        ),
        model=engine_settings.model_name,
        speakers=tuple(speakers),
        offset=offset,
    )
    readers = Readers(1)
    try:
        async with open_engine(engine_settings, jobs) as engine:
            file = Path(os.fspath(path))
            return await RecordingTranscriber(engine, readers, settings, jobs).transcribe(
                file, printable(file.name)
            )
    finally:
        await readers.close()


def _synchronous(asked: Callable[P, Coroutine[None, None, Transcription]]) -> Callable[P, Transcription]:
    def ask(*args: P.args, **keywords: P.kwargs) -> Transcription:
        def work() -> Transcription:
            return asyncio.run(asked(*args, **keywords))

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return work()
        with ThreadPoolExecutor(1) as thread:  # a notebook has a loop, in which no other can run
            return thread.submit(work).result()

    ask.__name__ = ask.__qualname__ = "transcribe_sync"
    ask.__doc__ = (
        "`transcribe`, for scripts and notebooks: waits for the text. In a coroutine await `transcribe`."
    )
    ask.__signature__ = inspect.signature(asked)  # type: ignore[attr-defined]
    return ask


transcribe_sync = _synchronous(transcribe)
"""`transcribe`, for scripts and notebooks: waits for the text. In a coroutine await `transcribe`."""


def checked(settings: ReadSettings) -> ReadSettings:
    """`ConfigError` for a part that cannot be."""
    if not 0 <= settings.start < float("inf"):
        raise ConfigError(f"start cannot be {settings.start} s")
    if settings.duration is not None and not 0 < settings.duration < float("inf"):
        raise ConfigError(f"duration cannot be {settings.duration} s")
    return settings


def checked_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """Each once, without outer spaces; `ConfigError` when there are too many."""
    try:
        return wire.check_keyterms(tuple(dict.fromkeys(term.strip() for term in terms if term.strip())))
    except CallerError as error:
        raise ConfigError(f"key terms: {error.message}") from error
