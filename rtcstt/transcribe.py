"""`rtcstt transcribe`: recordings to transcripts, of any length, many at a time.

    file -> decode -> Cutter (per channel) -> Block -> Engine -> words -> Turn -> formats -> outputs

A recording is decoded a little at a time and cut where it is quietest into blocks of at most a minute, so
memory does not grow with its length and no word is cut in two. Blocks of one recording, and of several,
are transcribed side by side; each output appears whole or not at all, which is what makes a run that was
broken off go on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import io
import itertools
import json
import os
import wave
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import av
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rtcstt import captions, wire
from rtcstt.embedded import DEFAULT_MODEL, MODEL_NAMES, processors
from rtcstt.errors import ConfigError, RtcsttError, UpstreamError
from rtcstt.feed import Event
from rtcstt.pcm import SAMPLE_RATE

Floats = NDArray[np.float32]

BLOCK = 60 * SAMPLE_RATE  # the longest block
SHORTEST = 30 * SAMPLE_RATE  # no block but the last is shorter
WINDOW = SAMPLE_RATE // 5  # a cut is made in the middle of the quietest 200 ms
CUE = 76  # letters; two lines of 42 hold them however they break
NAME = len("Speaker 10: ")  # of a cue's letters, where there are speakers
TURN_PAUSE_S = 1.0  # a longer silence between words begins another turn
HOLE_S = 0.1  # time stamps that jump by more are a hole in the recording: it is filled with silence
TRIES = 5


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
    from rtcstt import cluster

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


# --- audio in -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Mono audio at 16 kHz; ``start`` is the index of its first sample in its channel."""

    channel: int
    start: int
    samples: Floats


class Cutter:
    """Cuts one channel into blocks, each cut where it is quietest."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._parts: list[Floats] = []
        self._held = 0
        self._start = 0

    def push(self, samples: Floats) -> Iterator[Block]:
        self._parts.append(samples)
        self._held += len(samples)
        while self._held >= BLOCK:
            held = np.concatenate(self._parts)
            cut = quietest(held[SHORTEST:BLOCK]) + SHORTEST
            yield self._take(held, cut)

    def flush(self) -> Iterator[Block]:
        if self._held:
            yield self._take(np.concatenate(self._parts), self._held)

    def _take(self, held: Floats, cut: int) -> Block:
        block = Block(self._channel, self._start, held[:cut])
        self._parts = [held[cut:].copy()]  # a view would keep the whole block in memory
        self._held -= cut
        self._start += cut
        return block


def quietest(samples: Floats) -> int:
    """The middle of the quietest window; the last one of several, so that blocks are long."""
    power = np.cumsum(np.square(samples, dtype=np.float64))
    windows = np.round(power[WINDOW:] - power[:-WINDOW], 9)
    return len(windows) - 1 - int(np.argmin(windows[::-1])) + WINDOW // 2


class Recording:
    """A file being read. ``skipped`` counts the packets that could not be decoded."""

    def __init__(self, path: Path, *, split: bool) -> None:
        self.skipped = 0
        self.channels = 1
        self._split = split
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.audio[0]
        except IndexError as error:
            raise ConfigError("there is no audio in it") from error
        except (OSError, av.FFmpegError) as error:
            raise ConfigError(f"cannot be read: {error}") from error
        if split:
            self.channels = self._stream.codec_context.channels

    @property
    def duration_s(self) -> float | None:
        """What the file says of itself; not every file does."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / av.time_base if self._container.duration else None

    def blocks(self) -> Iterator[Block]:
        cutters = [Cutter(channel) for channel in range(self.channels)]
        with self._container:
            for samples in self._samples():
                for cutter, channel in zip(cutters, samples, strict=False):
                    yield from cutter.push(channel)
        for cutter in cutters:
            yield from cutter.flush()

    def _samples(self) -> Iterator[Floats]:
        """Arrays of (channels, samples), with the holes that time stamps tell of filled in."""
        resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
        first: float | None = None
        done = 0
        for frame in self._frames():
            if frame.time is not None:
                first = frame.time if first is None else first
                hole = round((frame.time - first) * SAMPLE_RATE) - done
                while hole > HOLE_S * SAMPLE_RATE:
                    size = min(hole, BLOCK)
                    yield np.zeros((self.channels, size), np.float32)
                    done, hole = done + size, hole - size
            frame.pts = None  # the holes are filled here, the resampler need not mind them
            for part in resampler.resample(frame):
                done += part.samples
                yield self._shaped(part.to_ndarray())
        if first is not None or done:
            for part in resampler.resample(None):
                yield self._shaped(part.to_ndarray())

    def _shaped(self, samples: NDArray[Any]) -> Floats:
        return samples if self._split else samples.mean(axis=0, keepdims=True, dtype=np.float32)

    def _frames(self) -> Iterator[av.AudioFrame]:
        decoded = False
        for packet in self._container.demux(self._stream):
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.AudioFrame)
                    decoded = True
                    yield frame
            except av.FFmpegError:
                self.skipped += 1
        if not decoded:
            raise ConfigError("no sound in it can be decoded")


# --- engines --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """``start`` and ``end`` in seconds from the beginning of what was transcribed."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Heard:
    text: str
    words: Sequence[Word]


class Engine(Protocol):
    async def transcribe(self, samples: Floats) -> Heard: ...


class EmbeddedEngine:
    def __init__(self, recognizer: Any, language: str | None = None) -> None:
        self._recognizer = recognizer
        self._language = language

    async def transcribe(self, samples: Floats) -> Heard:
        batch = await self._recognizer.transcribe(samples, words=True, language=self._language)
        return Heard(batch.text, [Word(word.word, word.start, word.end) for word in batch.words or ()])


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

    async def transcribe(self, samples: Floats) -> Heard:
        for attempt in range(TRIES):
            try:
                return await self._post(samples)
            except UpstreamError as error:
                if not error.retryable or attempt == TRIES - 1:
                    raise
            await asyncio.sleep(self._first_wait_s * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, samples: Floats) -> Heard:
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
            return Heard(str(answer["text"]), words)
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
        from rtcstt.embedded.recognizer import Recognizer  # loads onnxruntime
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


# --- text out -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """What one channel said without a long pause. ``text`` is verbatim, its outer spaces included."""

    channel: int
    text: str
    start: float
    end: float
    words: Sequence[Word]


def turns_of(block: Block, heard: Heard) -> list[Turn]:
    """Cuts what was heard at its long pauses; the turns' texts together are the whole text."""
    offset = block.start / SAMPLE_RATE
    words = [Word(w.word, round(w.start + offset, 3), round(w.end + offset, 3)) for w in heard.words]
    if not heard.text.strip():
        return []
    whole = Turn(block.channel, heard.text, offset, offset + len(block.samples) / SAMPLE_RATE, words)
    return cut(whole, [n for n in range(1, len(words)) if words[n].start - words[n - 1].end > TURN_PAUSE_S])


def cut(turn: Turn, firsts: Sequence[int]) -> list[Turn]:
    """A turn in pieces, each beginning with a word of these indices; whole where its words cannot be
    found in its text. The pieces' texts together are the turn's."""
    places = _places(turn.text, turn.words)
    if not places:
        return [turn]
    bounds = [0, *(places[first] for first in firsts), len(turn.text)]
    pieces = []
    for index, (first, last) in enumerate(itertools.pairwise([0, *firsts, len(places)])):
        said = turn.words[first:last]
        text = turn.text[bounds[index] : bounds[index + 1]]
        pieces.append(Turn(turn.channel, text, said[0].start, said[-1].end, said))
    return pieces


def _places(text: str, words: Sequence[Word]) -> list[int]:
    """Where each word begins in the text; nothing when they do not match."""
    places = []
    at = 0
    for word in words:
        bare = word.word.strip()
        at = text.find(bare, at)
        if at < 0:
            return []
        places.append(at)
        at += len(bare)
    return places


@dataclass(frozen=True, slots=True)
class Transcript:
    """``turns`` by the time they begin."""

    name: str
    duration_s: float
    channels: int
    turns: Sequence[Turn]

    def speaker(self, turn: Turn) -> str | None:
        return f"Speaker {turn.channel + 1}" if self.channels > 1 else None


def as_text(transcript: Transcript) -> str:
    """One channel: its text as it is. Several: a line for each turn."""
    if transcript.channels == 1:
        return "".join(turn.text for turn in transcript.turns).strip("\n") + "\n"
    return "".join(f"{transcript.speaker(turn)}: {turn.text.strip()}\n" for turn in transcript.turns)


def as_json(transcript: Transcript) -> str:
    turns = [
        {
            "speaker": transcript.speaker(turn),
            "start": turn.start,
            "end": turn.end,
            "transcript": turn.text,
            "words": [{"word": word.word, "start": word.start, "end": word.end} for word in turn.words],
        }
        for turn in transcript.turns
    ]
    whole = {"file": transcript.name, "duration": round(transcript.duration_s, 3), "turns": turns}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def as_events(transcript: Transcript) -> list[Event]:
    """What `captions` makes cues of: pieces short enough for one, so that each has the times of its words."""
    room = CUE - NAME if transcript.channels > 1 else CUE
    pieces = [piece for turn in transcript.turns for piece in cut(turn, _cue_starts(turn.words, room))]
    return [
        Event(
            type="turn.end",
            seq=number,
            call=transcript.name,
            time=piece.end,
            track=str(piece.channel + 1),
            turn=number,
            start=piece.start,
            end=piece.end,
            fields={"transcript": piece.text},
        )
        for number, piece in enumerate(pieces)
    ]


def _cue_starts(words: Sequence[Word], room: int) -> list[int]:
    """Before which words another cue begins: where it would get too long, or has room and a sentence ends."""
    starts = []
    letters = 0
    for index, word in enumerate(words):
        size = len(word.word.strip()) + 1
        sentence_ended = index > 0 and words[index - 1].word.strip().endswith((".", "?", "!"))
        if letters + size > room or (letters > room / 2 and sentence_ended):
            starts.append(index)
            letters = 0
        letters += size
    return [start for start in starts if start > 0]


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_text,
    "json": as_json,
    "srt": lambda transcript: captions.srt(as_events(transcript)),
    "vtt": lambda transcript: captions.vtt(as_events(transcript)),
}


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """A recording and where its transcripts go, by format."""

    source: Path
    outputs: dict[str, Path]

    @property
    def finished(self) -> bool:
        """Whether every output is there and newer than the recording."""
        try:
            changed = self.source.stat().st_mtime
            return all(output.stat().st_mtime >= changed for output in self.outputs.values())
        except OSError:
            return False


def plan(files: Sequence[Path], formats: Sequence[str], folder: Path | None) -> list[Work]:
    """Names outputs after the recording; its whole name where two differ only in what follows the dot."""
    sources = list(dict.fromkeys(files))
    stems = Counter((folder or source.parent) / source.stem for source in sources)
    works = []
    for source in sources:
        stem = (folder or source.parent) / source.stem
        base = stem if stems[stem] == 1 else stem.with_name(source.name)
        works.append(Work(source, {name: base.with_name(f"{base.name}.{name}") for name in formats}))
    return works


@dataclass(frozen=True, slots=True)
class Done:
    """A recording's transcripts, by format."""

    texts: Mapping[str, str]
    duration_s: float
    skipped: int

    def write(self, outputs: Mapping[str, Path]) -> str:
        """Where they belong; returns what to tell the user."""
        for name, output in outputs.items():
            write(output, self.texts[name])
        skipped = f", {self.skipped} unreadable packets skipped" if self.skipped else ""
        return f"{self.duration_s:.1f} s{skipped} -> {', '.join(map(str, outputs.values()))}"


class Run:
    """Transcribes recordings with one engine; at most ``jobs`` blocks are in the engine at a time."""

    def __init__(self, engine: Engine, *, jobs: int, split: bool, progress: Progress) -> None:
        self._engine = engine
        self._jobs = jobs
        self._split = split
        self._progress = progress
        self._slots = asyncio.Semaphore(jobs)

    async def all(self, works: Sequence[Work]) -> int:
        """Transcribes each recording; returns how many failed. One that fails does not disturb the others."""
        waiting = iter(works)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._some(waiting)) for _ in range(min(self._jobs, len(works)))]
        return sum(task.result() for task in tasks)

    async def _some(self, waiting: Iterator[Work]) -> int:
        failed = 0
        for work in waiting:
            try:
                line = (await self.read(work.source, tuple(work.outputs))).write(work.outputs)
            except Exception as error:  # whatever is wrong with this recording, the others go on
                failed += 1
                line = reason(error)
            self._progress.console.print(f"{work.source}: {line}")
        return failed

    async def read(self, source: Path, formats: Sequence[str]) -> Done:
        """A recording's transcripts."""
        bar = self._progress.add_task(source.name, total=None)
        try:
            recording = await asyncio.to_thread(Recording, source, split=self._split)
            if duration := recording.duration_s:
                self._progress.update(bar, total=duration * recording.channels)
            turns, duration = await self._transcribe(recording, bar)
        finally:
            self._progress.remove_task(bar)
        turns.sort(key=lambda turn: turn.start)
        transcript = Transcript(source.name, duration, recording.channels, turns)
        return Done({name: WRITERS[name](transcript) for name in formats}, duration, recording.skipped)

    async def _transcribe(self, recording: Recording, bar: TaskID) -> tuple[list[Turn], float]:
        """All turns, each channel's in order, and the duration in seconds."""
        blocks = recording.blocks()
        pending: deque[asyncio.Task[list[Turn]]] = deque()
        turns: list[Turn] = []
        end = 0
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                end = max(end, block.start + len(block.samples))
                pending.append(asyncio.create_task(self._turns(block, bar)))
                if len(pending) > self._jobs:
                    join(turns, await pending.popleft())
            while pending:
                join(turns, await pending.popleft())
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return turns, end / SAMPLE_RATE

    async def _turns(self, block: Block, bar: TaskID) -> list[Turn]:
        turns: list[Turn] = []
        async with self._slots:
            if block.samples.any():
                turns = turns_of(block, await self._engine.transcribe(block.samples))
        self._progress.advance(bar, len(block.samples) / SAMPLE_RATE)
        return turns


def join(turns: list[Turn], more: list[Turn]) -> None:
    """Adds a block's turns. Each block was a request of its own, so the space between two is ours to put."""
    if more and any(turn.channel == more[0].channel for turn in turns) and not more[0].text[:1].isspace():
        more[0] = dataclasses.replace(more[0], text=" " + more[0].text)
    turns += more


def write(path: Path, text: str) -> None:
    """Whole or not at all: a reader, or the next run, never takes half a transcript for a finished one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def reason(error: Exception) -> str:
    """Why a recording has no transcripts."""
    return str(error) if isinstance(error, RtcsttError) else repr(error)
