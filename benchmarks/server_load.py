"""A whole server under calls, beside a plain aiortc server under the same calls in the same run.

    python -m benchmarks.server_load
    python -m benchmarks.server_load -n 40 --seconds 30 --only load

Each server streams to an STT that only counts. The server has one processor for itself, the callers
and the STT share another. Two tables: CPU of each server under N calls in chunks of 100 ms, and the memory
that each call after the first takes (with the first, libraries are loaded); and, for a single call in chunks
of 20 ms, how much of the audio reached the STT, and how long after it was sent. Two more tables: the busiest
process of one worker under N calls and of two under twice as many, which shows how many more calls fit; and
what Redis adds to the latency of a call (wants redis-server). Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import markdown
from benchmarks.tones import latencies, median_and_95th

SETTLING_S = 3.0  # after the calls stand, before anything is measured

Command = Callable[[int, str, int], list[str]]  # of a server: port, STT, chunk in ms


def plain(port: int, stt: str, chunk_ms: int) -> list[str]:
    module = ["-m", "benchmarks.plain_peer"]
    return [sys.executable, *module, "--port", str(port), "--stt", stt, "--chunk-ms", str(chunk_ms)]


def rtcstt(port: int, stt: str, chunk_ms: int) -> list[str]:
    options = ["--port", str(port), "--stt", stt, "--chunk-ms", str(chunk_ms), "--max-calls", "1000"]
    program = str(Path(sys.executable).with_name("rtcstt"))
    return [program, "serve", *options, "--offers-per-minute", "10000"]


def with_options(*more: str) -> Command:
    return lambda port, stt, chunk_ms: [*rtcstt(port, stt, chunk_ms), *more]


SERVERS: dict[str, Command] = {"plain aiortc": plain, "rtcstt": rtcstt}


@dataclass(frozen=True, slots=True)
class Load:
    calls: int
    cpu_percent: float  # of one processor, for each call
    memory_mb: float  # for each call after the first, with which libraries are loaded
    connections: int  # to the STT
    reached: float  # audio per second of them
    latencies_s: list[float]  # of a single call
    busiest_percent: float  # of one processor: the process that has most to do


def measure(server: Command, *, calls: int, seconds: float, loss: float, chunk_ms: int) -> Load:
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    stt_port, port = free_port(), free_port()
    with (
        running([sys.executable, "-m", "benchmarks.null_stt", "--port", str(stt_port)], first) as stt,
        running(server(port, f"ws://127.0.0.1:{stt_port}", chunk_ms), last) as served,
    ):
        await_port(stt_port)
        await_port(port)
        options = ["--url", f"http://127.0.0.1:{port}/offer", "-n", str(calls), "--loss", str(loss)]
        options += ["--seconds", str(seconds + SETTLING_S)]
        with running([sys.executable, "-m", "benchmarks.callers", *options], first) as callers:
            assert callers.stdout and stt.stdout
            callers.stdout.readline()
            memory = resident_mb(served.pid)
            standing = json.loads(callers.stdout.readline() or "{}").get("calls", 0)
            if standing != calls:
                raise SystemExit(f"only {standing} of {calls} calls came about")
            time.sleep(SETTLING_S)
            begin, before = time.monotonic(), cpu_by_process(served.pid)
            time.sleep(seconds - 1)
            after, passed = cpu_by_process(served.pid), time.monotonic() - begin
            used = [cpu - before.get(pid, 0.0) for pid, cpu in after.items()]
            grown = resident_mb(served.pid) - memory
            sent = json.loads(callers.stdout.readline())
            callers.wait(60)
        stt.send_signal(signal.SIGTERM)
        streams = [json.loads(line) for line in stt.stdout]
    return Load(
        calls,
        100 * sum(used) / passed / calls,
        grown / max(1, calls - 1),
        len(streams),
        reached(streams),
        latencies(sent[0], streams[0]["onsets"]) if calls == 1 else [],
        100 * max(used) / passed,
    )


def reached(streams: Sequence[dict[str, Any]]) -> float:
    """Seconds of audio for each second of the calls."""
    lasting = [stream for stream in streams if stream["last"] is not None]
    passed = sum(stream["last"] - stream["first"] for stream in lasting)
    return float(sum(stream["audio_s"] for stream in lasting) / passed) if passed else 0.0


@contextlib.contextmanager
def running(command: Sequence[str], processor: int | None) -> Iterator[subprocess.Popen[str]]:
    log = subprocess.DEVNULL if not os.environ.get("BENCHMARK_LOG") else None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        if processor is not None:
            os.sched_setaffinity(process.pid, {processor})
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def await_port(port: int, timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise SystemExit(f"nothing listens on port {port} after {timeout_s:g} s") from None
            time.sleep(0.1)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [one for child in children.read_text().split() for one in family(int(child))]
    return found


def cpu_s(pid: int) -> float:
    """User and system time so far, of the descendants too."""
    return sum(cpu_by_process(pid).values())


def cpu_by_process(pid: int) -> dict[int, float]:
    """The same for each (proc(5): fields 14 and 15 of stat)."""
    found = {}
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        found[each] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def resident_mb(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def print_load(calls: int, seconds: float) -> None:
    loads = {
        name: measure(server, calls=calls, seconds=seconds, loss=0, chunk_ms=100)
        for name, server in SERVERS.items()
    }
    rows: list[list[object]] = [
        [
            *(name, f"{load.cpu_percent:.2f} %", f"{load.memory_mb:.2f} MB"),
            *(f"{load.reached:.3f}", load.connections),
        ]
        for name, load in loads.items()
    ]
    first, second = loads.values()
    rows.append(
        [
            *("ratio", f"{second.cpu_percent / first.cpu_percent:.2f}"),
            *(f"{second.memory_mb / first.memory_mb:.2f}", "", ""),
        ]
    )
    print(f"\n{calls} calls, {seconds:g} s, chunks of 100 ms:\n")
    header = ["server", "CPU per call, of one processor", "memory per call", "audio per s", "STT connections"]
    print(markdown(header, rows), flush=True)


def print_latency(seconds: float, losses: Sequence[float]) -> None:
    rows = []
    for loss in losses:
        for name, server in SERVERS.items():
            load = measure(server, calls=1, seconds=seconds, loss=loss, chunk_ms=20)
            rows.append([f"{loss:g} %", name, f"{load.reached:.3f}", median_and_95th(load.latencies_s)])
    print(f"\nOne call, {seconds:g} s, chunks of 20 ms:\n")
    header = ["loss", "server", "share of the audio at the STT", "latency, median / 95 %, ms"]
    print(markdown(header, rows), flush=True)


def print_workers(calls: int, seconds: float) -> None:
    rows: list[list[object]] = []
    alone = 0.0
    for workers in (1, 2):
        server = with_options("--workers", str(workers))
        load = measure(server, calls=workers * calls, seconds=seconds, loss=0, chunk_ms=100)
        alone = alone or load.busiest_percent
        shares = [f"{load.cpu_percent:.2f} %", f"{load.busiest_percent:.1f} %"]
        rows.append([workers, workers * calls, *shares, f"{workers * alone / load.busiest_percent:.2f}"])
    print(f"\n{calls} calls for each worker, {seconds:g} s:\n")
    header = ["workers", "calls", "CPU per call", "the busiest process", "times more calls"]
    print(markdown(header, rows), flush=True)


def print_redis(seconds: float) -> None:
    """In turn, so that what else the machine does concerns both."""
    found: dict[str, list[float]] = {"without": [], "--redis": []}
    port = free_port()
    with running(["redis-server", "--port", str(port), "--save", ""], None):
        await_port(port)
        for _ in range(2):
            for name, latencies_s in found.items():
                options = ["--redis", f"redis://127.0.0.1:{port}/0"] if name == "--redis" else []
                load = measure(with_options(*options), calls=1, seconds=seconds, loss=0, chunk_ms=20)
                latencies_s += load.latencies_s
    rows = [[name, len(of), median_and_95th(sorted(of), 1)] for name, of in found.items()]
    print(f"\nOne call, twice {seconds:g} s, chunks of 20 ms:\n")
    print(markdown(["server", "tones", "latency, median / 95 %, ms"], rows), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A server under calls, beside plain aiortc.")
    parser.add_argument("-n", type=int, default=40, help="calls (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--loss", type=float, nargs="+", default=[0, 2, 5], help="in percent, for the latency"
    )
    parser.add_argument("--only", choices=("latency", "load", "workers", "redis"))
    options = parser.parse_args(arguments)
    if options.only in (None, "latency"):
        print_latency(options.seconds, options.loss)
    if options.only in (None, "load"):
        print_load(options.n, options.seconds)
    if options.only in (None, "workers"):
        print_workers(options.n, options.seconds)
    if options.only in (None, "redis"):
        print_redis(options.seconds)


if __name__ == "__main__":
    main()
