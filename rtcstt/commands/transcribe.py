"""`rtcstt transcribe`: recordings to transcripts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rtcstt.batch import outputs, sources, watch
from rtcstt.batch.api import checked, checked_terms
from rtcstt.batch.engines import EngineSettings, open_engine
from rtcstt.batch.formats import FORMATS, FormatSettings, render
from rtcstt.batch.page import page
from rtcstt.batch.recording import RecordingSettings, RecordingTranscriber
from rtcstt.batch.report import report
from rtcstt.batch.run import Result, Run, RunSettings, RunState
from rtcstt.batch.sources import STDIN, Work
from rtcstt.captions import LINE, LINES, Layout
from rtcstt.embedded import MODEL_NAMES, processors
from rtcstt.errors import ConfigError
from rtcstt.media.raw import ENCODINGS
from rtcstt.media.tracks import RawAudio, ReadSettings
from rtcstt.reading import Readers

MAX_READERS = 8  # recordings that are read at a time, each by a process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio or video files, folders (with those in them), patterns; - for standard input",
    )
    _add_input(parser.add_argument_group("what is read"))
    _add_recogniser(parser.add_argument_group("how it is transcribed"))
    _add_output(parser.add_argument_group("what is written"))


def _add_input(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--channels",
        action="append",
        type=_channels,
        default=[],
        metavar="mix|split|N",
        help="split: each channel is a speaker (mix); a number: how many raw audio has",
    )
    group.add_argument(
        "--speakers",
        type=_names,
        default=(),
        metavar="NAMES",
        help="names of the channels, such as agent,customer; means split",
    )
    group.add_argument(
        "--audio-stream",
        type=_stream,
        metavar="N|all",
        help="of several, counted from 0 (the default one, else the first with sound); all: each a speaker",
    )
    group.add_argument("--start", type=_time, default=0.0, metavar="TIME", help="begin there: s or H:MM:SS")
    group.add_argument("--duration", type=_time, metavar="TIME", help="no more than so much")
    group.add_argument(
        "--input-format",
        choices=sorted(ENCODINGS),
        metavar="ENCODING",
        help=f"the files are raw audio: {', '.join(sorted(ENCODINGS))}; with --rate and --channels N",
    )
    group.add_argument("--rate", type=_positive, metavar="HZ", help="of raw audio (16000)")
    group.add_argument(
        "--watch", type=Path, metavar="DIR", help="also what appears in this folder, until interrupted"
    )


def _add_recogniser(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--stt", default="embedded", metavar="URL", help="a server with the batch endpoint (embedded)"
    )
    group.add_argument(
        "--model", metavar="NAME", help=f"{MODEL_NAMES} (tiny-en); of a server, its own (ink-whisper)"
    )
    group.add_argument(
        "--language", metavar="CODE", help="ISO 639 code of what is spoken (what is found, where it can be)"
    )
    group.add_argument(
        "--keyterm", action="append", default=[], metavar="TEXT", help="a name or term to expect; repeatable"
    )
    group.add_argument("--jobs", type=_positive, metavar="N", help="side by side (one for each processor)")
    group.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: a task of a Ray cluster for each recording, RAY_ADDRESS's or one on this machine (local)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format", type=_formats, default=("txt",), metavar="LIST", help=f"of {', '.join(FORMATS)} (txt)"
    )
    group.add_argument(
        "--output-dir", metavar="DIR", help="default: beside each recording; - for standard output"
    )
    group.add_argument(
        "--force", action="store_true", help="also what is done, and replace files that are not ours"
    )
    group.add_argument("--report", type=Path, metavar="FILE", help="what became of each: .csv or .json")
    group.add_argument(
        "--html", type=Path, metavar="FILE", help="a page of all transcripts, to search and play"
    )
    group.add_argument("--offset", type=_time, default=0.0, metavar="TIME", help="add this to all times")
    group.add_argument(
        "--max-line-width", type=_positive, default=LINE, metavar="N", help=f"columns of captions ({LINE})"
    )
    group.add_argument(
        "--max-lines", type=_positive, default=LINES, metavar="N", help=f"lines of a caption ({LINES})"
    )
    group.add_argument("--max-words", type=_positive, metavar="N", help="words of a caption")
    group.add_argument("--word-times", action="store_true", help="the time of each word in vtt")
    group.add_argument("--text-times", action="store_true", help="the time of each paragraph in txt")


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 when every recording has its transcripts, 1 when any failed."""
    settings = _settings(args)
    show = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with _spooled(args.files) as spool:
        works = _plan(args, spool)
        state = RunState(settings, [work.source for work in works])
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=show) as progress:
            if args.engine == "ray":
                from rtcstt.batch import ray as cluster

                results = cluster.transcribe(works, settings, state, jobs=args.jobs, progress=progress)
            else:
                results = asyncio.run(_here(args, settings, works, state, progress))
    _write(args, settings, results)
    return _summary(results, show)


async def _here(
    args: argparse.Namespace,
    settings: RunSettings,
    works: Sequence[Work],
    state: RunState,
    progress: Progress,
) -> list[Result]:
    results = [result for work in works if (result := _done(work, state)) is not None]
    left = [work for work in works if work.source not in {result.source for result in results}]
    if not left and args.watch is None:
        return results
    jobs = args.jobs or processors.usable()
    readers = Readers(min(jobs, MAX_READERS))
    try:
        async with open_engine(settings.engine, jobs) as engine:
            transcriber = RecordingTranscriber(engine, readers, settings.recording, jobs)
            run = Run(transcriber, state, jobs=jobs, progress=progress)
            results += await run.all(left)
            if args.watch is not None:
                results += await watch.transcribe(
                    args.watch.absolute(), run, lambda paths: sources.plan(paths, args.format, _folder(args))
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


def _settings(args: argparse.Namespace) -> RunSettings:
    """`ConfigError` where options do not go together."""
    if args.engine == "ray" and args.stt != "embedded":
        raise ConfigError(
            "--engine ray runs the embedded recogniser; with --stt URL the server does the work"
        )
    if args.engine == "ray" and (args.watch or "-" in args.files):
        raise ConfigError("--engine ray takes files and folders, neither - nor --watch")
    if not args.files and args.watch is None:
        raise ConfigError("no FILE is named")
    if args.watch is not None and not args.watch.is_dir():
        raise ConfigError(f"--watch {args.watch} is no folder")
    counts = [channels for channels in args.channels if isinstance(channels, int)]
    modes = [channels for channels in args.channels if isinstance(channels, str)]
    if args.input_format is None and (counts or args.rate):
        raise ConfigError("--rate and --channels N describe raw audio: they need --input-format")
    raw = None
    if args.input_format is not None:
        raw = RawAudio(args.input_format, args.rate or 16000, counts[-1] if counts else 1)
    if len(args.format) > 1 and (_to_stdout(args) or ("-" in args.files and args.output_dir is None)):
        raise ConfigError("standard output takes one --format")
    engine = EngineSettings(args.stt, args.model, args.language, checked_terms(args.keyterm))
    read = ReadSettings(
        split=modes[-1:] == ["split"] or bool(args.speakers),
        stream=args.audio_stream,
        start=args.start,
        duration=args.duration,
        raw=raw,
    )
    return RunSettings(
        engine=engine,
        recording=RecordingSettings(checked(read), engine.model_name, args.speakers, args.offset),
        formats=FormatSettings(
            Layout(args.max_line_width, args.max_lines, args.max_words), args.word_times, args.text_times
        ),
        force=args.force,
    )


def _plan(args: argparse.Namespace, spool: Path | None) -> list[Work]:
    found = sources.find([*args.files, *([str(args.watch)] if args.watch else [])])
    if _to_stdout(args):
        return [Work(source, {}, spool if source == STDIN else None) for source, _ in found]
    return sources.plan(found, args.format, _folder(args), spool)


def _to_stdout(args: argparse.Namespace) -> bool:
    return bool(args.output_dir == "-")


def _folder(args: argparse.Namespace) -> Path | None:
    return None if args.output_dir is None else Path(args.output_dir)


@contextlib.contextmanager
def _spooled(files: Sequence[str]) -> Iterator[Path | None]:
    """What comes from standard input, in a file for as long as it is needed: it must be seekable."""
    if "-" not in files:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="rtcstt-stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


def _write(args: argparse.Namespace, settings: RunSettings, results: Sequence[Result]) -> None:
    """What goes to standard output, the report and the page. `ConfigError` where it cannot be written."""
    for result in results:
        if result.transcription is not None and not result.outputs:
            text = render(result.transcription, args.format[0], settings.formats)
            sys.stdout.buffer.write(text.encode())
    sys.stdout.flush()
    try:
        if args.report is not None:
            outputs.write(args.report, report(results, args.report))
        if args.html is not None:
            outputs.write(args.html, page(results, args.html.parent, args.offset))
    except OSError as error:
        raise ConfigError(f"{error.filename or args.report or args.html}: {error.strerror}") from error


def _summary(results: Sequence[Result], show: Console) -> int:
    failed = [result for result in results if result.status == "failed"]
    done = sum(result.status == "done already" for result in results)
    if failed and len(results) > 1:
        show.print("failed:")
        for result in failed:
            show.print(f"  {result.source}: {result.error}")
    show.print(f"{len(results) - done - len(failed)} transcribed, {done} already done, {len(failed)} failed")
    return 1 if failed else 0


# Types of options


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(FORMATS)}")
    return names


def _channels(text: str) -> str | int:
    if text in ("mix", "split"):
        return text
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 32:
        raise argparse.ArgumentTypeError(f"{text} is neither mix nor split nor a number from 1 to 32")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError("a name is empty")
    return names


def _stream(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor all")
    return int(text)


def _time(text: str) -> float:
    """Seconds, or H:MM:SS, or MM:SS."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(0 <= part < 1e7 for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is no time: 90, 1:30 or 0:01:30.5")
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + part
    return seconds


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)
