"""How often the server's event loop wakes up: by a clock that stands still but for its pauses."""

from __future__ import annotations

import asyncio
import socket

import pytest

from rtcstt.server.wakeups import AT_ONCE, LONGER, PER_S, PacedSelector, run


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
        assert len(time.pauses) <= 2, "and counts as no wake-up, but the first"


MOST, MANY, SOME = (many for many, _ in LONGER)


@pytest.mark.parametrize(
    ("calls", "per_s"),
    [
        (1, PER_S),
        (SOME, PER_S),
        (SOME + 1, PER_S / 2),
        (MANY, PER_S / 2),
        (MANY + 1, PER_S / 4),
        (MOST, PER_S / 4),
        (MOST + 1, PER_S / 8),
        (40, PER_S / 8),
    ],
)
def test_sockets_in_turn_are_kept_to_the_pace(calls: int, per_s: float) -> None:
    """A packet of each of many calls: they need not come one by one."""
    time = _Time()
    turns = [[socket.socketpair() for _ in range(calls)] for _ in range(2)]
    with PacedSelector(time.clock, time.sleep) as selector:
        for ours, _ in (*turns[0], *turns[1]):
            selector.register(ours, 1)
        began = time.now
        for turn in range(AT_ONCE + 600):
            began = time.now if turn == AT_ONCE else began
            for _, theirs in turns[turn % 2]:
                theirs.send(b"x")
            assert len(selector.select(None)) == calls
            for ours, _ in turns[turn % 2]:
                ours.recv(1)
            assert not selector.select(0), "what it led to is done in between"
        assert time.now - began == pytest.approx(600 / per_s)
        assert max(time.pauses) <= 1 / per_s + 1e-9
    for pair in (*turns[0], *turns[1]):
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
