"""`rtcstt transcribe`: recordings to transcripts."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rtcstt import whole_files
from rtcstt.batch import sources, watch
from rtcstt.batch.api import checked, checked_terms
from rtcstt.batch.engines import EngineSettings, open_engine
from rtcstt.batch.formats import FORMATS, WITHOUT_WORD_TIMES, FormatSettings, render
from rtcstt.batch.page import page
from rtcstt.batch.recording import RecordingSettings, RecordingTranscriber
from rtcstt.batch.report import report
from rtcstt.batch.run import Result, Run, RunSettings, RunState
from rtcstt.batch.sources import STDIN, Work
from rtcstt.captions import LINE, LINES, Layout
from rtcstt.commands.models import OFFLINE, ensure
from rtcstt.embedded import MODEL_NAMES, processors
from rtcstt.errors import ConfigError
from rtcstt.media.raw import ENCODINGS
from rtcstt.media.tracks import RawAudio, ReadSettings
from rtcstt.reading import Readers
from rtcstt.server.options import option

MAX_READERS = 8  # recordings that are read at a time, each by a process


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise ValueError(f"{', '.join(unknown)} is none of {', '.join(FORMATS)}")
    return names


def _channels(text: str) -> str | int:
    if text in ("mix", "split"):
        return text
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 32:
        raise ValueError(f"{text} is neither mix nor split nor a number from 1 to 32")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError("a name is empty")
    return names


def _stream(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text} is neither a number nor all")
    return int(text)


def _time(text: str) -> float:
    """Seconds, or H:MM:SS, or MM:SS."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(0 <= part < 1e7 for part in parts):
        raise ValueError(f"{text} is no time: 90, 1:30 or 0:01:30.5")
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + part
    return seconds


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("must be a whole number, 1 or more")
    return int(text)


INPUT, HOW, OUTPUT = "what is read", "how it is transcribed", "what is written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    files: tuple[str, ...] = option(
        (),
        "audio or video files, folders (with those in them), patterns; - for standard input",
        positional="*",
        metavar="FILE",
    )
    channels: tuple[str | int, ...] = option(
        (),
        "split: each channel is a speaker (mix); a number: how many raw audio has",
        each=_channels,
        group=INPUT,
        metavar="mix|split|N",
    )
    speakers: tuple[str, ...] = option(
        (),
        "names of the channels, such as agent,customer; means split",
        read=_names,
        group=INPUT,
        metavar="NAMES",
    )
    audio_stream: int | Literal["all"] | None = option(
        None,
        "of several, counted from 0 (the default one, else the first with sound); all: each a speaker",
        read=_stream,
        group=INPUT,
        metavar="N|all",
    )
    start: float = option(0.0, "begin there: s or H:MM:SS", read=_time, group=INPUT, metavar="TIME")
    duration: float | None = option(None, "no more than so much", read=_time, group=INPUT, metavar="TIME")
    input_format: str | None = option(
        None,
        f"the files are raw audio: {', '.join(sorted(ENCODINGS))}; with --rate and --channels N",
        choices=tuple(sorted(ENCODINGS)),
        group=INPUT,
        metavar="ENCODING",
    )
    rate: int | None = option(None, "of raw audio; default: 16000", read=_positive, group=INPUT, metavar="HZ")
    watch: Path | None = option(
        None, "also what appears in this folder, until interrupted", group=INPUT, metavar="DIR"
    )
    stt: str = option("embedded", "embedded, or a server with the batch endpoint", group=HOW, metavar="URL")
    model: str | None = option(
        None, f"{MODEL_NAMES} (tiny-en); of a server, its own (ink-whisper)", group=HOW, metavar="NAME"
    )
    offline: bool = option(False, OFFLINE, group=HOW)
    language: str | None = option(
        None, "ISO 639 code of what is spoken; default: detected, where possible", group=HOW, metavar="CODE"
    )
    keyterm: tuple[str, ...] = option(
        (), "a name or term to expect; may be repeated", group=HOW, metavar="TEXT"
    )
    jobs: int | None = option(
        None, "side by side; default: one for each processor", read=_positive, group=HOW, metavar="N"
    )
    engine: str = option(
        "local",
        "ray: a task of a Ray cluster for each recording, RAY_ADDRESS's or one on this machine",
        choices=("local", "ray"),
        group=HOW,
    )
    format: tuple[str, ...] = option(
        ("txt",), f"of {', '.join(FORMATS)} (txt)", read=_formats, group=OUTPUT, metavar="LIST"
    )
    output_dir: str | None = option(
        None, "default: beside each recording; - for standard output", group=OUTPUT, metavar="DIR"
    )
    force: bool = option(False, "also what is done, and replace files that are not ours", group=OUTPUT)
    report: Path | None = option(None, "what became of each: .csv or .json", group=OUTPUT, metavar="FILE")
    html: Path | None = option(
        None, "a page of all transcripts, to search and play", group=OUTPUT, metavar="FILE"
    )
    offset: float = option(0.0, "add this to all times", read=_time, group=OUTPUT, metavar="TIME")
    max_line_width: int = option(LINE, "columns of captions", read=_positive, group=OUTPUT, metavar="N")
    max_lines: int = option(LINES, "lines of a caption", read=_positive, group=OUTPUT, metavar="N")
    max_words: int | None = option(None, "words of a caption", read=_positive, group=OUTPUT, metavar="N")
    word_times: bool = option(False, "the time of each word in vtt", group=OUTPUT)
    text_times: bool = option(False, "the time of each paragraph in txt", group=OUTPUT)


def run(options: Options) -> int:
    """The exit status: 0 when every recording has its transcripts, 1 when any failed."""
    settings = _settings(options)
    show = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    with _spooled(options.files) as spool:
        works = _plan(options, spool)
        state = RunState(settings, [work.source for work in works])
        if options.stt == "embedded" and (options.watch or any(_done(work, state) is None for work in works)):
            ensure(settings.engine.model_name, offline=options.offline)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=show) as progress:
            if options.engine == "ray":
                from rtcstt.batch import ray as cluster

                results = cluster.transcribe(works, settings, state, jobs=options.jobs, progress=progress)
            else:
                results = asyncio.run(_here(options, settings, works, state, progress))
    _write(options, settings, results)
    return _summary(results, show)


async def _here(
    options: Options,
    settings: RunSettings,
    works: Sequence[Work],
    state: RunState,
    progress: Progress,
) -> list[Result]:
    results = [result for work in works if (result := _done(work, state)) is not None]
    left = [work for work in works if work.source not in {result.source for result in results}]
    if not left and options.watch is None:
        return results
    jobs = options.jobs or processors.usable()
    readers = Readers(min(jobs, MAX_READERS))
    try:
        async with open_engine(settings.engine, jobs) as engine:
            transcriber = RecordingTranscriber(engine, readers, settings.recording, jobs)
            run = Run(transcriber, state, jobs=jobs, progress=progress)
            results += await run.all(left)
            if options.watch is not None:
                results += await watch.transcribe(
                    options.watch.absolute(),
                    run,
                    lambda paths: sources.plan(paths, options.format, _folder(options)),
                )
    finally:
        await readers.close()
    order = {work.source: number for number, work in enumerate(works)}
    return sorted(results, key=lambda result: order.get(result.source, len(order)))


def _done(work: Work, state: RunState) -> Result | None:
    """The result of a recording whose transcripts are all there: for these no recogniser is loaded."""
    with contextlib.suppress(OSError, ConfigError):
        whole = state.found(work)
        if whole is not None and state.is_done(work):
            return Result(work.source, "done already", tuple(work.outputs.values()), whole)
    return None


def _settings(options: Options) -> RunSettings:
    """`ConfigError` where options do not go together."""
    if options.engine == "ray" and options.stt != "embedded":
        raise ConfigError(
            "--engine ray runs the embedded recogniser; with --stt URL the server does the work"
        )
    if options.engine == "ray" and (options.watch or "-" in options.files):
        raise ConfigError("--engine ray takes files and folders, neither - nor --watch")
    if not options.files and options.watch is None:
        raise ConfigError("no FILE is named")
    if options.watch is not None and not options.watch.is_dir():
        raise ConfigError(f"--watch {options.watch} is no folder")
    counts = [channels for channels in options.channels if isinstance(channels, int)]
    modes = [channels for channels in options.channels if isinstance(channels, str)]
    if options.input_format is None and (counts or options.rate):
        raise ConfigError("--rate and --channels N describe raw audio: they need --input-format")
    raw = None
    if options.input_format is not None:
        raw = RawAudio(options.input_format, options.rate or 16000, counts[-1] if counts else 1)
    if len(options.format) > 1 and (
        _to_stdout(options) or ("-" in options.files and options.output_dir is None)
    ):
        raise ConfigError("standard output takes one --format")
    engine = EngineSettings(
        options.stt,
        options.model,
        options.language,
        checked_terms(options.keyterm),
        word_times=options.stt != "embedded" or not WITHOUT_WORD_TIMES.issuperset(options.format),
    )
    read = ReadSettings(
        split=modes[-1:] == ["split"] or bool(options.speakers),
        stream=options.audio_stream,
        start=options.start,
        duration=options.duration,
        raw=raw,
    )
    layout = Layout(options.max_line_width, options.max_lines, options.max_words)
    return RunSettings(
        engine=engine,
        recording=RecordingSettings(checked(read), engine.model_name, options.speakers, options.offset),
        formats=FormatSettings(layout, options.word_times, options.text_times),
        force=options.force,
    )


def _plan(options: Options, spool: Path | None) -> list[Work]:
    found = sources.find(options.files)
    if options.watch is not None:
        named = {source for source, _ in found}
        there = sources.in_folder(options.watch)  # nothing, it may be
        found += [(source, options.watch) for source in there if source not in named]
    if _to_stdout(options):
        return [Work(source, {}, spool if source == STDIN else None) for source, _ in found]
    return sources.plan(found, options.format, _folder(options), spool)


def _to_stdout(options: Options) -> bool:
    return bool(options.output_dir == "-")


def _folder(options: Options) -> Path | None:
    return None if options.output_dir is None else Path(options.output_dir)


@contextlib.contextmanager
def _spooled(files: Sequence[str]) -> Iterator[Path | None]:
    """What comes from standard input, in a file for as long as it is needed: it must be seekable."""
    if "-" not in files:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rtcstt-") as folder:
        path = Path(folder, "stdin")
        with path.open("xb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def _write(options: Options, settings: RunSettings, results: Sequence[Result]) -> None:
    """What goes to standard output, the report and the page. `ConfigError` where it cannot be written."""
    for result in results:
        if result.transcription is not None and not result.outputs:
            text = render(result.transcription, options.format[0], settings.formats)
            sys.stdout.buffer.write(text.encode())
    sys.stdout.flush()
    try:
        if options.report is not None:
            whole_files.write(options.report, report(results, options.report))
        if options.html is not None:
            whole_files.write(options.html, page(results, options.html.parent, options.offset))
    except OSError as error:
        raise ConfigError(f"{error.filename or options.report or options.html}: {error.strerror}") from error


def _summary(results: Sequence[Result], show: Console) -> int:
    failed = [result for result in results if result.status == "failed"]
    done = sum(result.status == "done already" for result in results)
    if failed and len(results) > 1:
        show.print("failed:")
        for result in failed:
            show.print(f"  {sources.printable(result.source)}: {result.error}")
    show.print(f"{len(results) - done - len(failed)} transcribed, {done} already done, {len(failed)} failed")
    return 1 if failed else 0
