"""Whether the recogniser's memory stays flat under speech, silence, noise and music.

    python -m benchmarks.soak [--minutes 60] [--pace 1] [--data ../shared/data]
    python -m benchmarks.soak --calls 1000

Eight clients talk to `rtcstt stt` in real time (or ``--pace`` times as fast): five on the turns endpoint,
two on the manual one, and one that hangs up and calls again every half minute. Every two minutes all are
silent for a while, so that what is seen then is what the server keeps: a line with its resident memory,
threads and open files. Fails when the memory of the last third is above that of the first, or threads or
files have become more. Linux only.

``--calls N`` is about calls that end: so many short WebRTC calls, some at a time, to one `rtcstt serve` with
the recogniser in it. After every 50, with no call going on, a line; fails when what an ended call leaves
behind adds up: the server remembers the texts of 200, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.live import DATA, RATE, Line, Process, line, server, silence, speech
from benchmarks.server_load import await_port, cpu_s, free_port, resident_mb, running
from rtcstt.media.files import read
from rtcstt.media.pcm import Samples
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets

CLIENTS = ["turns"] * 5 + ["manual"] * 2 + ["caller"]
CALL_S = 30.0
EVERY_S, HUSH_S = 120.0, 24.0  # turns end within 6 s, and what is free is given back every 10 s of work
LOOKED_AT_S, LOOK_S = 4.0, 0.2  # the end of each hush, and how often then
GROWTH_MB = 8.0  # what a long turn in a late hour may need beyond what was needed before

CALLS_EACH = 50  # between two looks
CALLS_AT_ONCE = 4
CALL_TALK_S = 3.0
REMEMBERED = 200  # ended calls (`Limits.keep_ended`)
REMEMBERED_MB = 0.05  # the most that one of them may keep


@dataclass(frozen=True, slots=True)
class Sample:
    memory_mb: float
    threads: int
    files: int


def verdict(samples: Sequence[Sample]) -> str | None:
    """What has grown from the first third to the last; None when nothing has."""
    third = len(samples) // 3
    first, last = samples[:third], samples[-third:]
    if not third:
        return "too short to tell"

    def typical(of: Sequence[Sample], name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in of))

    for name, allowed in (("memory_mb", GROWTH_MB), ("threads", 0), ("files", 4)):
        grown = typical(last, name) - typical(first, name)
        if grown > allowed:
            return f"{name} grew by {grown:.1f}"
    return None


def material(folder: Path, chance: random.Random) -> Iterator[Samples]:
    """Without end: something that is said, then silence; now and then noise or music."""
    voices, noises = speech(folder), [hiss(chance)]
    for name in ("noise_keyboard_typing.ogg", "music_vibe_ace.ogg", "noise_picovoice_empty.wav"):
        if (folder / name).exists():
            noises.append(read(folder / name, RATE)[: 10 * RATE])
    while True:
        yield chance.choice(voices)
        yield silence(chance.uniform(0.3, 12))
        if chance.random() < 0.3:
            yield chance.choice(noises)


def hiss(chance: random.Random) -> Samples:
    return np.random.default_rng(chance.randrange(9)).normal(0, 500, 5 * RATE).astype(np.int16)


class Soak:
    def __init__(self, process: Process, folder: Path, seconds: float, pace: float) -> None:
        self._process = process
        self._folder = folder
        self._seconds = seconds
        self._pace = pace
        self._began = 0.0
        self.samples: list[Sample] = []
        self.finals = 0
        self.sent_s = 0.0

    async def run(self) -> None:
        self._began = asyncio.get_running_loop().time()
        async with aiohttp.ClientSession() as http:
            clients = [
                asyncio.create_task(self._client(http, kind, number)) for number, kind in enumerate(CLIENTS)
            ]
            watch = asyncio.create_task(self._watch())
            done, _ = await asyncio.wait([watch, *clients], return_when=asyncio.FIRST_COMPLETED)
            for task in (watch, *clients):
                task.cancel()
            await asyncio.gather(watch, *clients, return_exceptions=True)
            if watch not in done:
                raise SystemExit(f"a client ended early: {done}")

    async def _client(self, http: aiohttp.ClientSession, kind: str, seed: int) -> None:
        sounds = material(self._folder, random.Random(seed))
        url = self._process.url("manual" if kind == "manual" else "turns")
        while True:
            async with line(http, url) as one:
                began = asyncio.get_running_loop().time()
                for sound in sounds:
                    before = one.sent
                    try:
                        await self._say(one, began, sound)
                    except ConnectionError:
                        raise SystemExit(f"a {kind} client was let go: {one.came[-1:]}") from None
                    self.sent_s += (one.sent - before) / RATE
                    if kind == "manual":
                        await one.socket.send_str("finalize")
                    said = [message for _, message in one.came]
                    one.came.clear()
                    self.finals += sum(m["type"] == "turn.end" or bool(m.get("is_final")) for m in said)
                    if any(m["type"] == "error" for m in said) or one.socket.closed:
                        raise SystemExit(f"a {kind} client was refused: {said[-1:]}")
                    if kind == "caller" and one.sent > CALL_S * RATE:
                        break

    async def _say(self, one: Line, began: float, sound: Samples) -> None:
        """A sound, but silence while all are silent."""
        for begin in range(0, len(sound), RATE):
            if left := self._hush_left():
                await one.talk([silence(left * self._pace)], began, self._pace)
            await one.talk([sound[begin : begin + RATE]], began, self._pace)

    def _hush_left(self) -> float:
        """How long all are still to be silent, in s; 0 while they may speak."""
        into = (asyncio.get_running_loop().time() - self._began) % EVERY_S
        return EVERY_S - into if into >= EVERY_S - HUSH_S else 0.0

    async def _watch(self) -> None:
        print("| minute | memory | threads | open files | finals | CPU s per s of audio |", flush=True)
        print("|---|---|---|---|---|---|")
        clock = asyncio.get_running_loop()
        for count in itertools.count(1):
            end = self._began + count * EVERY_S
            await asyncio.sleep(end - LOOKED_AT_S - clock.time())
            lowest = sample(self._process.pid)
            while clock.time() < end:
                await asyncio.sleep(LOOK_S)
                lowest = min(lowest, sample(self._process.pid), key=lambda seen: seen.memory_mb)
            self.samples.append(lowest)
            self._report(round(count * EVERY_S / 60))
            if count * EVERY_S >= self._seconds:
                return

    def _report(self, minute: int) -> None:
        last = self.samples[-1]
        cost = cpu_s(self._process.pid) / max(1.0, self.sent_s)
        print(
            f"| {minute} | {last.memory_mb:.1f} MB | {last.threads} | {last.files} "
            f"| {self.finals} | {cost:.3f} |",
            flush=True,
        )


def sample(pid: int) -> Sample:
    threads = len(os.listdir(f"/proc/{pid}/task"))
    return Sample(resident_mb(pid), threads, len(os.listdir(f"/proc/{pid}/fd")))


# -- calls that end ----------------------------------------------------------------------------------


async def short_calls(count: int, folder: Path, url: str, pid: int, keep: Path) -> list[Sample]:
    """So many calls, one after the other in each of some rows; what the server holds after every few. The
    events of calls without a text go to ``keep``."""
    voices = [opus_packets(at_48_khz(voice[: round(CALL_TALK_S * RATE)])) for voice in speech(folder)]
    numbers, samples, ended = iter(range(count)), list[Sample](), 0
    print("| calls | memory | threads | open files | with text |", flush=True)
    print("|---|---|---|---|---|")
    with_text = 0
    while batch := list(itertools.islice(numbers, CALLS_EACH)):
        rest = iter(batch)

        async def row(rest: Iterator[int] = rest) -> int:
            return sum([await short_call(number, voices[number % len(voices)], url, keep) for number in rest])

        with_text += sum(await asyncio.gather(*(row() for _ in range(CALLS_AT_ONCE))))
        ended += len(batch)
        seen = []
        for _ in range(round(LOOKED_AT_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            seen.append(sample(pid))
        samples.append(min(seen, key=lambda one: one.memory_mb))
        last = samples[-1]
        row_ = f"| {ended} | {last.memory_mb:.1f} MB | {last.threads} | {last.files} | {with_text} |"
        print(row_, flush=True)
    return samples


def at_48_khz(voice: Samples) -> Samples:
    return np.interp(np.arange(3 * len(voice)) / 3, np.arange(len(voice)), voice).astype(np.int16)


async def short_call(number: int, packets: Sequence[bytes], url: str, keep: Path) -> bool:
    """Whether it had a text."""
    caller = Caller(packets, loopback=True)
    began = time.monotonic()
    async with asyncio.timeout(120):
        await caller.dial(f"{url}/offer")
        await caller.played()
        await caller.hang_up()
    if caller.received[-1][1]["type"] != "session.end":
        raise SystemExit(f"a call ended without session.end: {caller.received[-1:]}")
    if any(event["type"] == "turn.end" and event["transcript"] for _, event in caller.received):
        return True
    path = keep / f"without-text-{number}.json"
    events = [(round(at - began, 3), event) for at, event in caller.received]
    path.write_text(json.dumps(events, indent=1))
    print(f"call {number} had no text: {path}", file=sys.stderr, flush=True)
    return False


def calls_verdict(samples: Sequence[Sample]) -> str | None:
    """What the calls leave behind, by the lowest of the first third and of the last (what is free is given
    back to the system now and then only); None when nothing, but for what is remembered of so many."""
    third = max(1, len(samples) // 3)
    remembered = min(REMEMBERED, CALLS_EACH * len(samples)) - CALLS_EACH
    for name, allowed in (
        ("memory_mb", GROWTH_MB + REMEMBERED_MB * remembered),
        ("threads", 1),
        ("files", 4),
    ):
        before, after = (min(getattr(one, name) for one in of) for of in (samples[:third], samples[-third:]))
        if after - before > allowed:
            return f"{name} grew by {after - before:.1f}"
    return None


def run_calls(count: int, folder: Path, keep: Path) -> str | None:
    keep.mkdir(parents=True, exist_ok=True)
    port = free_port()
    limits = ["--offers-per-minute", "10000", "--max-calls-per-address", "100"]
    program = str(Path(sys.executable).with_name("rtcstt"))
    command = [program, "serve", "--port", str(port), "--stt", "embedded", "--model", "tiny-en", *limits]
    with running(command, None) as server:
        await_port(port)
        samples = asyncio.run(short_calls(count, folder, f"http://127.0.0.1:{port}", server.pid, keep))
    return calls_verdict(samples)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pace", type=float, default=1.0, help="times real time, at most 2")
    parser.add_argument("--calls", type=int, help="so many short calls instead")
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--keep", type=Path, default=temporary, help="for events of calls without a text")
    options = parser.parse_args(arguments)
    if options.calls:
        grown = run_calls(options.calls, options.data, options.keep)
    else:
        with server() as process:
            soak = Soak(process, options.data, 60 * options.minutes, options.pace)
            asyncio.run(soak.run())
        grown = verdict(soak.samples)
    print(f"\n{grown or 'flat'}")
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
