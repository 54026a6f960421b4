"""Connections of the HTTP server: bounds, time-outs, shortage of file descriptors; over real sockets."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rtcstt.http.access import Authenticator, Permission
from rtcstt.http.guard import Guard, Route
from rtcstt.http.loop_monitor import Stalls, waited_s
from rtcstt.http.serving import Connection, Connections, accepted, default_connections, listen
from rtcstt.limits import RateLimiter, Slots, TokenBucket, backoff

TOLD = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
PATIENCE_S = 60.0  # for what happens at once on a machine with time


class Served:
    def __init__(self, connections: Connections, port: int) -> None:
        self.connections = connections
        self.port = port
        self.release = asyncio.Event()

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return reader, writer

    async def health(self) -> int:
        async with aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE_S):
            async with http.get(f"http://127.0.0.1:{self.port}/healthz") as response:
                return response.status


@asynccontextmanager
async def serving(most: int = 100, headers_s: float = 60.0) -> AsyncIterator[Served]:
    async def health(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    async def wait(request: web.Request) -> web.StreamResponse:
        await served.release.wait()
        return web.Response(text="at last")

    guard = Guard(Authenticator())
    app = guard.application(client_max_size=1024)
    routes = {"/healthz": health, "/wait": wait}
    guard.add_routes(
        app,
        [
            Route(method="GET", path=path, handler=handler, permission=Permission.PUBLIC, summary="")
            for path, handler in routes.items()
        ],
    )
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    connections = Connections(runner.server, most, headers_s=headers_s)
    (listening,) = await listen("127.0.0.1", 0)
    connections.listen(listening, None)
    served = Served(connections, listening.getsockname()[1])
    try:
        yield served
    finally:
        served.release.set()
        await connections.close()
        await runner.cleanup()


REQUEST = b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


@pytest.mark.parametrize("said", [b"", SLOW], ids=["nothing", "half a request"])
async def test_a_connection_that_asks_for_nothing_is_closed(said: bytes) -> None:
    async with serving(headers_s=0.1) as served, asyncio.timeout(PATIENCE_S):
        reader, writer = await served.connect(said)
        assert await reader.read() == b""
        writer.close()


async def test_one_that_waits_for_its_answer_is_not() -> None:
    async with serving(headers_s=0.1) as served, asyncio.timeout(PATIENCE_S):
        reader, writer = await served.connect(REQUEST)
        await asyncio.sleep(0.3)
        served.release.set()
        assert b"at last" in await reader.readuntil(b"at last")
        writer.close()


async def test_idle_connections_make_room_for_those_that_ask() -> None:
    async with serving(most=10) as served, asyncio.timeout(PATIENCE_S):
        idle = [await served.connect(SLOW if i % 2 else b"") for i in range(40)]
        assert await served.health() == 200
        assert served.connections.closed_for_others >= 30 and served.connections.refused == 0
        assert await idle[0][0].read() == b"", "the oldest first"
        for _, writer in idle:
            writer.close()


async def test_connections_that_have_gone_take_no_room() -> None:
    async with serving(4) as served:
        pairs = [await served.connect(SLOW) for _ in range(4)]
        while len(served.connections._open) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _, writer in pairs:
            writer.close()
            await writer.wait_closed()
        while any(one.transport is not None for one in served.connections._open):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await served.health() == 200 and served.connections.refused == 0


async def test_connections_that_wait_for_an_answer_are_kept_and_others_refused() -> None:
    async with serving(most=3) as served, asyncio.timeout(PATIENCE_S):
        busy = [await served.connect(REQUEST) for _ in range(3)]
        while served.connections.busy < 3:  # noqa: ASYNC110 (their requests are on the way)
            await asyncio.sleep(0.01)
        reader, writer = await served.connect(SLOW)
        assert await reader.read() == b""
        writer.close()
        served.release.set()
        for reader, writer in busy:
            assert b"at last" in await reader.readuntil(b"at last")
            writer.close()


async def test_without_file_descriptors_it_waits_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio logged 199 000 tracebacks in 100 s, and nobody was answered."""
    (listening,) = await listen("127.0.0.1", 0)
    listening.listen()

    class Short:
        """A socket whose first attempts find no file descriptor."""

        def __init__(self) -> None:
            self.attempts = 0

    short = Short()
    loop = asyncio.get_running_loop()
    real = loop.sock_accept

    async def sock_accept(sock: socket.socket) -> tuple[socket.socket, object]:
        short.attempts += 1
        if short.attempts <= 5:
            raise OSError(errno.EMFILE, "Too many open files")
        return await real(sock)

    listening.setblocking(False)
    freed = 0

    def make_room() -> bool:
        nonlocal freed
        freed += 1
        return True

    loop.sock_accept = sock_accept  # type: ignore[method-assign, assignment]
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            client = await anext(accepted(listening, make_room))
    finally:
        loop.sock_accept = real  # type: ignore[method-assign]
    client.close()
    writer.close()
    listening.close()
    messages = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert messages == ["cannot accept connections: Too many open files; trying again"] and freed == 5


async def test_what_is_no_http_is_refused_without_a_version() -> None:
    async with serving() as served, asyncio.timeout(PATIENCE_S):
        reader, writer = await served.connect(b"\x16\x03\x01 nonsense\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.") and b" 400 " in answer and b"Server: rtcstt\r\n" in answer
        assert b"aiohttp" not in answer.lower() and b"python" not in answer.lower()
        writer.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
async def test_a_machine_that_vanished_is_noticed_within_15_s() -> None:
    (listening,) = await listen("127.0.0.1", 0)
    listening.listen()
    listening.setblocking(False)
    _, writer = await asyncio.open_connection(*listening.getsockname())
    client = await anext(accepted(listening))
    told = {name: client.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in TOLD}
    assert told["TCP_KEEPIDLE"] + told["TCP_KEEPINTVL"] * told["TCP_KEEPCNT"] <= 15
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert told["TCP_USER_TIMEOUT"] == 15_000
    client.close()
    listening.close()
    writer.close()


def test_half_of_the_file_descriptors_are_for_calls() -> None:
    assert 16 <= default_connections() <= 2000


# -- limits: cores -------------------------------------------------------------------------------------


def test_a_token_bucket_gives_so_much_at_once_and_then_by_time() -> None:
    bucket = TokenBucket(2.0, 3)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(100.0) == 0.5
    assert bucket.take(100.5) and not bucket.take(100.5)
    assert not bucket.take(50.0), "a clock that goes back gives nothing"
    assert [bucket.take(1e9) for _ in range(4)] == [True, True, True, False]


def test_more_may_be_spent_than_there_is_and_is_owed() -> None:
    bucket = TokenBucket(2.0, 4)
    assert (bucket.spend(0.0, 3.0), bucket.share_left) == (0.0, 0.25)
    assert (bucket.spend(0.0, 3.0), bucket.share_left) == (1.0, -0.5)
    assert bucket.wait_s(0.5, 0.0) == 0.5 and bucket.spend(1.5, 1.0) == 0.0


def test_pauses_double_up_to_a_bound_however_many_failures_there_were() -> None:
    assert [backoff(count, 0.5, 3.0) for count in (0, 1, 2, 3, 4)] == [0.5, 0.5, 1.0, 2.0, 3.0]
    assert backoff(10**6, 0.5, 3.0) == 3.0


def test_a_rate_limiter_keeps_keys_apart_and_is_bounded() -> None:
    limiter = RateLimiter(60, max_keys=10)
    assert [limiter.take("a", 0.0) for _ in range(60)] == [0.0] * 60
    assert limiter.take("a", 0.0) == 1.0 and limiter.wait_s("a", 0.5) == 0.5
    assert limiter.take("b", 0.0) == 0.0 and limiter.wait_s("c", 0.0) == 0.0
    for number in range(100):
        limiter.take(f"{number}", 0.0)
    assert len(limiter) == 10


def test_slots_are_reserved_whole_and_given_back_once() -> None:
    slots = Slots(lambda: 3)
    first = slots.reserve(2)
    assert first is not None and slots.used == 2
    assert slots.reserve(2) is None and slots.refused == 1
    second = slots.reserve(1)
    assert second is not None and not first.grow(3)
    assert first.count == 2
    second.release()
    second.release()
    assert slots.used == 2 and first.grow(3) and slots.used == 3
    assert first.grow(1) and slots.used == 3, "what is reserved stays so"
    first.release()
    assert slots.used == 0 and Slots(lambda: None).reserve(10**9) is not None


def test_stalls_are_counted_and_told_now_and_then() -> None:
    stalls = Stalls()
    assert stalls.observe(0.099, 0.0) is None and stalls.held.count == 0
    told = [stalls.observe(0.3, float(now) / 10) for now in range(10)]
    assert told[:3] == ["the event loop was held for 300 ms"] * 3 and told[3:] == [None] * 7
    assert stalls.observe(30.0, 20.0) == "the event loop was held for 30000 ms (and 7 times before)"
    assert stalls.held.counts == [0, 0, 10, 0, 0, 0, 0, 1] and round(stalls.held.total_s, 3) == 33.0
    assert stalls.worked.counts == stalls.held.counts


def test_a_stall_without_a_processor_is_counted_apart() -> None:
    stalls = Stalls()
    told = stalls.observe(0.3, 0.0, waited_s=0.12)
    assert told == "the event loop was held for 300 ms, 120 ms of them without a processor"
    stalls.observe(0.3, 1.0, waited_s=0.25)
    assert stalls.held.count == 2 and stalls.worked.counts == [0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("told", "seconds"), [(b"9000000000 2500000000 7\n", 2.5), (b"", 0.0), (b"0 x 0", 0.0), (None, 0.0)]
)
def test_the_system_may_tell_how_long_a_thread_waited(
    told: bytes | None, seconds: float, tmp_path: Path
) -> None:
    scheduling = tmp_path / "schedstat"
    if told is not None:
        scheduling.write_bytes(told)
    assert waited_s(scheduling) == seconds
    assert waited_s() >= 0


BAD_REQUESTS = (
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PUT /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"no HTTP at all\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect:\xa0x\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\n\r\n",
)


@pytest.mark.parametrize("request_", BAD_REQUESTS)
async def test_what_is_refused_leaves_no_work_to_the_garbage_collector(
    request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is kept, with its traceback, keeps the whole connection in a cycle; to look for many
    of those holds the event loop for 100 ms."""
    monkeypatch.setattr(logging.getLogger("aiohttp.server"), "disabled", True)  # pytest keeps what is logged
    async with serving(8) as served:
        gc.collect()
        before = connections_left()
        gc.disable()
        try:
            for _ in range(5):
                reader, writer = await served.connect(request_)
                assert re.match(rb"HTTP/1.[01] [24]\d\d ", await reader.readline())
                writer.close()
                await writer.wait_closed()
            async with asyncio.timeout(PATIENCE_S):
                while connections_left() > before + 1:  # noqa: ASYNC110 (the last is known until another comes)
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


def connections_left() -> int:
    return sum(isinstance(one, Connection) for one in gc.get_objects())
