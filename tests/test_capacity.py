"""How many streams a machine holds, and what keeps them prompt when it is full."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.embedded import capacity, heap, resolve
from rtcstt.embedded.engines.onnx import session
from rtcstt.embedded.recognizer import Recognizer
from rtcstt.embedded.workers import FINAL, LATE_S, LISTENING, TRIM_EVERY_S, Workers
from rtcstt.errors import EngineError

soak = pytest.importorskip("benchmarks.soak", reason="no benchmarks in this package")


@pytest.mark.parametrize(
    ("processors", "cost_s", "held"),
    [(2, 0.012, 31), (2, 0.026, 14), (4, 0.012, 63), (1, 10.0, 4), (2, 1e-9, 128), (2, 0.0, 128)],
)
def test_what_is_held_follows_from_the_cost(processors: int, cost_s: float, held: int) -> None:
    assert capacity.streams(processors, cost_s) == held


@given(st.integers(1, 64), st.floats(0.001, 10), st.floats(0.001, 10))
def test_a_slower_machine_never_holds_more(processors: int, one: float, other: float) -> None:
    fast, slow = sorted((one, other))
    assert capacity.streams(processors, fast) >= capacity.streams(processors, slow)
    assert capacity.streams(processors + 1, fast) >= capacity.streams(processors, fast)


class Engine:
    """Takes no time; ``received`` is how much audio it got."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def stream(self, language: str | None = None) -> Engine:
        return self

    def decode(self, audio: np.ndarray) -> None:
        self.received.append(len(audio))


def test_the_cost_is_that_of_the_better_try() -> None:
    engine = Engine()
    times = iter([0.0, 0.8, 1.0, 1.1])
    recognizer = Recognizer(engine, None, None)  # type: ignore[arg-type]
    assert recognizer.cost_s(lambda: next(times)) == pytest.approx(0.1 / 4)
    assert engine.received == [64000, 64000]


def test_ends_of_turns_come_before_whoever_speaks_and_then_it_is_first_come_first_served() -> None:
    order: list[str] = []

    async def main() -> None:
        workers = Workers(1, clock=lambda: 0.0)
        begun, go_on = threading.Event(), threading.Event()

        def block() -> None:
            begun.set()
            assert go_on.wait(60)

        first = asyncio.create_task(workers.run(LISTENING, block))
        await asyncio.to_thread(begun.wait, 60)
        asked = [
            asyncio.create_task(workers.run(priority, lambda name=name: order.append(name)))  # type: ignore[misc]
            for priority, name in [(LISTENING, "a"), (LISTENING, "b"), (FINAL, "c"), (FINAL, "d")]
        ]
        while workers.waiting < len(asked):  # noqa: ASYNC110
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, *asked)
        await asyncio.to_thread(workers.close)

    asyncio.run(main())
    assert order == ["c", "d", "a", "b"]


def test_audio_that_had_to_wait_gets_no_update() -> None:
    allowed: list[bool] = []

    class FakeListener:
        speaking = True

        def receive(self, samples: np.ndarray, *, updates: bool) -> list[object]:
            allowed.append(updates)
            return []

    async def main() -> None:
        from rtcstt.embedded.streams import TurnStream

        workers = Workers(1)
        stream = TurnStream(FakeListener(), workers)  # type: ignore[arg-type]
        now = time.monotonic()
        stream._receive(np.zeros(1600, np.float32), now + 60)  # in time, however busy this machine is
        stream._receive(np.zeros(1600, np.float32), now - LATE_S - 0.01)
        await stream.cancel()
        await asyncio.to_thread(workers.close)

    asyncio.run(main())
    assert allowed == [True, False]


def test_memory_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(1)
    calls: list[None] = []
    monkeypatch.setattr("rtcstt.embedded.heap.trim", lambda: calls.append(None))
    began = workers._trimmed_at
    for passed in (0.0, TRIM_EVERY_S - 1, TRIM_EVERY_S + 1, TRIM_EVERY_S + 2, 2 * TRIM_EVERY_S + 3):
        workers._trim(began + passed)
    assert len(calls) == 2


async def test_memory_is_given_back_when_nothing_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Event()
    monkeypatch.setattr("rtcstt.embedded.heap.trim", given_back.set)
    workers = Workers(1, idle_s=0.01)
    assert await workers.run(LISTENING, lambda: 7) == 7
    assert await asyncio.to_thread(given_back.wait, 60)
    assert await workers.run(LISTENING, lambda: 8) == 8
    await asyncio.to_thread(workers.close)


@pytest.mark.parametrize(
    ("memory", "threads", "verdict"),
    [
        ([200, 210, 205], [6, 6, 6], None),
        ([200, 220, 240], [6, 6, 6], "memory_mb grew by 40.0"),
        ([200, 200, 200], [6, 6, 7], "threads grew by 1.0"),
        ([300, 250, 200], [8, 7, 6], None),
    ],
)
def test_the_soak_tells_what_grew(memory: list[float], threads: list[int], verdict: str | None) -> None:
    samples = [
        soak.Sample(megabytes, count, 18)
        for megabytes, count in zip(memory, threads, strict=True)
        for _ in range(4)
    ]
    assert soak.verdict(samples) == verdict
    assert soak.verdict(samples[:2]) == "too short to tell"


@pytest.mark.parametrize(
    "memory, verdict",
    [
        ([260, 276, 254, 290, 256, 262], None),  # what is free is given back now and then
        ([260, 254, 276, 290, 285, 281], "memory_mb grew by 27.0"),
        ([260], None),
    ],
)
def test_what_ended_calls_leave_behind_is_told(memory: list[float], verdict: str | None) -> None:
    assert soak.calls_verdict([soak.Sample(megabytes, 6, 10) for megabytes in memory]) == verdict


def test_where_the_c_library_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def windows(name: None) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr("ctypes.CDLL", windows)
    heap.one()
    heap.trim()


@pytest.mark.skipif(heap._function("malloc_trim") is None, reason="another C library than glibc")
def test_one_heap_gives_back_what_threads_have_freed() -> None:
    """In a process of its own: how its heap behaves is not for the other tests to feel."""
    script = """
import threading
from rtcstt.embedded import heap
heap.one()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
held = []
def churn():
    kept = [bytearray(100_000) for _ in range(1000)]
    held.extend(kept[::50])  # so that what is freed lies between what is not
    for block in kept:
        block[::4096] = b"x" * len(block[::4096])
threads = [threading.Thread(target=churn) for _ in range(4)]
before = resident()
for thread in threads: thread.start()
for thread in threads: thread.join()
grown = resident() - before
heap.trim()
print(grown, resident() - before)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    grown, left = map(int, out.split())
    assert left < 40_000_000 < 60_000_000 < grown, "8 MB are in use"


@pytest.mark.parametrize(
    ("present", "cost_s", "streams", "model"),
    [
        (False, 0.001, 1, "tiny-en"),
        (True, 0.02, 4, "base-en"),
        (True, 10.0, 4, "tiny-en"),
        (True, 0.02, 500, "tiny-en"),
    ],
)
def test_auto_is_the_better_model_where_the_machine_holds_enough_of_it(
    monkeypatch: pytest.MonkeyPatch, present: bool, cost_s: float, streams: int, model: str
) -> None:
    class Loaded:
        def cost_s(self) -> float:
            return cost_s

    monkeypatch.setattr("rtcstt.embedded.engines.models.find", lambda name: Path() if present else None)
    monkeypatch.setattr("rtcstt.embedded.recognizer.Recognizer.load", lambda *args, **options: Loaded())
    monkeypatch.setattr("rtcstt.embedded.processors.usable", lambda: 2)
    assert resolve("auto", streams=streams) == model
    assert resolve("whisper-base") == "whisper-base"


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match="onnxruntime-gpu|cannot be loaded"):
        session(Path("model.onnx"), device="cuda")
    with pytest.raises(EngineError, match="no device 'tpu'"):
        session(Path("model.onnx"), device="tpu")
