"""`rtcstt transcribe`: recordings to transcripts."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rtcstt.batch.engines import open_engine
from rtcstt.batch.run import Run, Work, plan
from rtcstt.batch.transcripts import WRITERS
from rtcstt.embedded import DEFAULT_MODEL, MODEL_NAMES, processors
from rtcstt.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="any audio or video file")
    parser.add_argument(
        "--format", type=_formats, default=("txt",), metavar="LIST", help="of txt, json, srt, vtt (txt)"
    )
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: beside each recording")
    parser.add_argument(
        "--channels", choices=["mix", "split"], default="mix", help="split: each channel is a speaker (mix)"
    )
    parser.add_argument("--jobs", type=_positive, metavar="N", help="side by side (one for each processor)")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: a task of a Ray cluster for each recording, RAY_ADDRESS's or one on this machine (local)",
    )
    parser.add_argument("--force", action="store_true", help="also those whose outputs exist")
    parser.add_argument(
        "--stt", default="embedded", metavar="URL", help="a server with the batch endpoint (embedded)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help=f"{MODEL_NAMES} (tiny-en); of a server, its own (ink-whisper)"
    )
    parser.add_argument(
        "--language", metavar="CODE", help="ISO 639 code of what is spoken (as heard, where it can be)"
    )


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 when every recording has its transcripts, 1 when any failed."""
    if args.engine == "ray" and args.stt != "embedded":
        raise ConfigError(
            "--engine ray runs the embedded recogniser; with --stt URL the server does the work"
        )
    works = plan(args.files, args.format, args.output_dir)
    left = [work for work in works if args.force or not work.finished]
    show = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    failed = 0
    if left:
        with Progress(*columns, console=show) as progress:
            failed = _on_ray(args, left, progress) if args.engine == "ray" else _here(args, left, progress)
    show.print(f"{len(left) - failed} transcribed, {len(works) - len(left)} already done, {failed} failed")
    return 1 if failed else 0


def _here(args: argparse.Namespace, works: Sequence[Work], progress: Progress) -> int:
    jobs = args.jobs or processors.usable()

    async def transcribed() -> int:
        async with open_engine(args.stt, args.model, jobs, args.language) as engine:
            return await Run(engine, jobs=jobs, split=args.channels == "split", progress=progress).all(works)

    return asyncio.run(transcribed())


def _on_ray(args: argparse.Namespace, works: Sequence[Work], progress: Progress) -> int:
    from rtcstt.batch import ray as cluster

    how = cluster.How(args.model or DEFAULT_MODEL, args.language, args.channels == "split")
    return cluster.transcribe(works, how, jobs=args.jobs, progress=progress)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in WRITERS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(WRITERS)}")
    return names


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
