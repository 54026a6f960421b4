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


def test_a_socket_with_more_to_take_is_not_kept_waiting(
    readable: tuple[socket.socket, socket.socket],
) -> None:
    """A socket gives one datagram at a time: at 200 a second, a flood would push the others out."""
    time = _Time()
    with PacedSelector(time.clock, time.sleep) as selector, readable[0], readable[1]:
        selector.register(readable[0], 1)
        for _ in range(10 * PER_S):
            assert selector.select(None)
        assert not time.pauses
        readable[0].recv(1)
        for _ in range(AT_ONCE):
            selector.select(BRIEFLY)
        assert len(time.pauses) == 1, "and counts as no wake-up, but the first"


def test_sockets_in_turn_are_kept_to_the_pace() -> None:
    """A packet of each of many calls: they need not come one by one."""
    time = _Time()
    pairs = [socket.socketpair() for _ in range(2)]
    with PacedSelector(time.clock, time.sleep) as selector:
        for ours, _ in pairs:
            selector.register(ours, 1)
        for turn in range(AT_ONCE + 3 * PER_S):
            ours, theirs = pairs[turn % 2]
            theirs.send(b"x")
            assert [key.fileobj for key, _ in selector.select(None)] == [ours]
            ours.recv(1)
        assert len(time.pauses) == 3 * PER_S
        assert sum(time.pauses) == pytest.approx(3.0)
    for pair in pairs:
        for each in pair:
            each.close()


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
