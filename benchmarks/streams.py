"""How many live streams of the recogniser this machine holds.

    python -m benchmarks.streams [-n 4 8 12 16 20 24 32] [--seconds 40] [--data ../shared/data]

Clients of `rtcstt stt` speak in real time over WebSockets: "talking" with no more silence between two
turns than it takes to end one, "conversation" with so much that 40 % is speech. For each turn, how much
later than for a single client `turn.end` comes after the same speech. Held are as many streams as have
95 % of their finals less than a second later. Prints Markdown. Linux only.

Everything shares the processors, the clients too: their own share is in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import itertools
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.live import DATA, RATE, Line, Process, line, server, silence, speech
from benchmarks.server_load import cpu_s
from rtcstt.media.pcm import Samples

STREAMS = (4, 8, 12, 16, 20, 24, 32)
LATER_S = 1.0
PAUSE_S = 1.6  # ends a finished sentence, whatever the machine
SHORTEST_S, LONGEST_S = 3.0, 10.0
TALKING = {"talking": None, "conversation": 0.4}  # share of speech; None: as much as can be


@dataclass(slots=True)
class Clip:
    """Something said that is one turn, how it ended for a single client, and in which text."""

    samples: Samples
    delay_s: float = math.inf
    text: str = ""
    updates: int = 0

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE

    def is_end_of(self, text: str) -> bool:
        return difflib.SequenceMatcher(None, self.text[-30:], text[-30:]).ratio() > 0.6


@dataclass(slots=True)
class Figures:
    """Of one number of streams."""

    streams: int
    later_s: list[float] = field(default_factory=list)
    updates: int = 0
    expected: int = 0
    """Updates that the same speech gets from a single client."""
    audio_s: float = 0.0
    cpu_s: float = 0.0
    clients_cpu_s: float = 0.0
    passed_s: float = 0.0

    @property
    def held(self) -> bool:
        return quantile(self.later_s, 0.95) < LATER_S

    def row(self) -> list[str]:
        later = [f"{quantile(self.later_s, share):.2f}" for share in (0.5, 0.95, 1.0)]
        return [
            str(self.streams),
            str(len(self.later_s)),
            f"{' / '.join(later)} s",
            f"{100 * (1 - self.updates / max(1, self.expected)):.0f} %",
            f"{self.cpu_s / self.audio_s:.3f}",
            f"{100 * self.cpu_s / self.passed_s:.0f} + {100 * self.clients_cpu_s / self.passed_s:.0f} %",
        ]


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else math.inf


async def alone(process: Process, spoken: list[Samples]) -> list[Clip]:
    """Those that are one turn when nobody else is there, with their figures."""
    clips = [Clip(samples) for samples in spoken]
    async with aiohttp.ClientSession() as http:
        for clip in clips:
            await measure_alone(http, process, clip)
    return [clip for clip in clips if clip.delay_s < PAUSE_S - 0.3]


async def measure_alone(http: aiohttp.ClientSession, process: Process, clip: Clip) -> None:
    async with line(http, process.url("turns")) as one:
        began = asyncio.get_running_loop().time()
        await one.talk([silence(0.5), clip.samples, silence(PAUSE_S)], began)
    ends = [(at, message) for at, message in one.came if message["type"] == "turn.end"]
    if len(ends) == 1 and str(ends[0][1]["transcript"]):
        clip.delay_s = ends[0][0] - began - 0.5 - clip.duration_s
        clip.text = str(ends[0][1]["transcript"])
        clip.updates = sum(message["type"] == "turn.update" for _, message in one.came)
        if clip.delay_s < 0:  # it ended in mid-speech
            clip.delay_s = math.inf


class Client:
    def __init__(self, clips: list[Clip], share: float | None, seed: int) -> None:
        self._chance = random.Random(seed)
        self._clips = self._chance.sample(clips, len(clips))
        self._share = share
        self._said: list[tuple[Clip, float]] = []  # with where in the stream its speech ends, s
        self._offset_s = 0.0

    def script(self, until_s: float) -> Iterator[Samples]:
        """Clips with silence between them, the last of which begins before ``until_s``."""
        for clip in itertools.cycle(self._clips):
            pause_s = PAUSE_S
            if self._share is not None:
                pause_s = max(
                    PAUSE_S, clip.duration_s * (1 / self._share - 1) * self._chance.uniform(0.6, 1.4)
                )
            before = self._chance.uniform(0, 4) if not self._said else 0.0
            if self._offset_s > until_s:
                yield silence(3 * LATER_S)
                return
            yield silence(before)
            yield clip.samples
            self._said.append((clip, self._offset_s + before + clip.duration_s))
            yield silence(pause_s)
            self._offset_s = self._said[-1][1] + pause_s

    async def run(self, http: aiohttp.ClientSession, process: Process, seconds: float, out: Figures) -> None:
        async with line(http, process.url("turns")) as one:
            began = asyncio.get_running_loop().time()
            await one.talk(self.script(seconds), began)
        self._count(one, began, out)

    def _count(self, one: Line, began: float, out: Figures) -> None:
        out.audio_s += one.sent / RATE
        out.updates += sum(message["type"] == "turn.update" for _, message in one.came)
        ends = [(at - began, str(m["transcript"])) for at, m in one.came if m["type"] == "turn.end"]
        for clip, end_s in self._said:
            out.expected += clip.updates
            later = [end for end in ends if end[0] > end_s and clip.is_end_of(end[1])]
            out.later_s.append(later[0][0] - end_s - clip.delay_s if later else math.inf)
            ends = ends[ends.index(later[0]) + 1 :] if later else ends


async def together(
    process: Process, clips: list[Clip], share: float | None, n: int, seconds: float
) -> Figures:
    out = Figures(n)
    clients = [Client(clips, share, seed) for seed in range(n)]
    used, own, began = cpu_s(process.pid), time.process_time(), time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(client.run(http, process, seconds, out) for client in clients))
    out.cpu_s = cpu_s(process.pid) - used
    out.clients_cpu_s = time.process_time() - own
    out.passed_s = time.monotonic() - began
    return out


HEADER = (
    "| | streams | turns | `turn.end` later than alone: median / 95 % / most | updates left out "
    "| CPU s per s of audio | processors: server + clients |\n|---|---|---|---|---|---|---|"
)


def measure(process: Process, clips: list[Clip], mix: str, options: argparse.Namespace) -> int:
    """The most streams that are held."""
    held = 0
    for n in sorted(options.n):
        figures = asyncio.run(together(process, clips, TALKING[mix], n, options.seconds))
        print(f"| {mix} | {' | '.join(figures.row())} |", flush=True)
        if not figures.held:
            break
        held = n
    return held


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, nargs="+", default=STREAMS, help="numbers of streams to try")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each (default: %(default)s)")
    parser.add_argument("--mix", nargs="+", choices=TALKING, default=list(TALKING))
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args(arguments)
    spoken = [one for one in speech(options.data) if SHORTEST_S < len(one) / RATE < LONGEST_S]
    with server("--model", options.model) as process:
        clips = asyncio.run(alone(process, spoken))
        total_s = sum(clip.duration_s for clip in clips)
        print(f"\n{len(clips)} clips, {total_s:.0f} s; load before: {os.getloadavg()[0]:.1f}\n\n{HEADER}")
        held = {mix: measure(process, clips, mix, options) for mix in options.mix}
    print("\nheld: " + ", ".join(f"{n} {mix}" for mix, n in held.items()))


if __name__ == "__main__":
    main()
