"""How often the server's event loop wakes up: by a clock that stands still but for its pauses."""

from __future__ import annotations

import asyncio
import socket

import pytest

from rtcstt.server.wakeups import AT_ONCE, PER_S, PacedSelector, run


class _Time:
    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def readable() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    return ours, theirs


BRIEFLY = 1e-6  # how long nothing is waited for here


def test_few_wake_ups_do_not_wait_and_many_keep_their_pace() -> None:
    time = _Time()
    with PacedSelector(time.clock, time.sleep) as selector:
        for _ in range(AT_ONCE):
            selector.select(BRIEFLY)
        assert not time.pauses
        began = time.now
        for _ in range(3 * PER_S):
            selector.select(BRIEFLY)
        assert time.now - began == pytest.approx(3.0)
        assert max(time.pauses) <= 1 / PER_S + 1e-9, "nothing is later by more"
        time.now += 10.0  # a quiet time
        time.pauses.clear()
        for _ in range(AT_ONCE):
            selector.select(BRIEFLY)
        assert not time.pauses


def test_what_is_there_already_is_not_kept_waiting(readable: tuple[socket.socket, socket.socket]) -> None:
    """A socket gives one datagram at a time: at 200 a second, a flood would push the others out."""
    time = _Time()
    with PacedSelector(time.clock, time.sleep) as selector, readable[0], readable[1]:
        selector.register(readable[0], 1)
        for _ in range(10 * PER_S):
            assert selector.select(None)
        assert not time.pauses
        readable[0].recv(1)
        for _ in range(AT_ONCE + 1):
            selector.select(BRIEFLY)
        assert len(time.pauses) == 1, "and counts as no wake-up"


def test_who_has_something_to_do_does_not_wait(readable: tuple[socket.socket, socket.socket]) -> None:
    time = _Time()
    with PacedSelector(time.clock, time.sleep) as selector, readable[0], readable[1]:
        for _ in range(10 * AT_ONCE):
            selector.select(0)
    assert not time.pauses


def test_work_runs_and_gives_its_result() -> None:
    async def work() -> int:
        for _ in range(2 * AT_ONCE):
            await asyncio.sleep(0.0001)
        return 7

    assert run(work()) == 7
