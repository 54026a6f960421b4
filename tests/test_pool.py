"""Several speech-to-text servers as one."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rtcstt import wire
from rtcstt.errors import UpstreamError
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.choice import FIRST_S, FULL_S, LONGEST_S, Choice
from rtcstt.stt.pool import Pool
from rtcstt.testing import ConnectionScript, ScriptedUpstream

TURNS = wire.Handshake(endpoint="turns")
NOBODY = "ws://127.0.0.1:9"


# -- the core ----------------------------------------------------------------------------------------


def test_the_least_busy_comes_first_and_of_equals_the_one_that_waited_longest() -> None:
    choice: Choice[str] = Choice()
    taken = []
    for _ in range(6):
        first = choice.order("abc", 0.0)[0]
        choice.opened(first)
        taken.append(first)
    assert Counter(taken) == {"a": 2, "b": 2, "c": 2} and taken[:3] == taken[3:]
    choice.closed("b")
    assert choice.order("abc", 0.0)[0] == "b"


def test_one_that_is_full_is_asked_last_for_a_moment() -> None:
    choice: Choice[str] = Choice()
    choice.full("a", 10.0)
    choice.opened("b")
    assert choice.order("ab", 10.0 + FULL_S / 2) == ["b", "a"]
    assert choice.order("ab", 10.0 + FULL_S) == ["a", "b"]


def test_one_that_does_not_answer_is_asked_last_for_longer_and_longer() -> None:
    choice: Choice[str] = Choice()
    now = 0.0
    rests = []
    for _ in range(8):
        choice.failed("a", now)
        choice.opened("b")
        later = next(step / 10 for step in range(1, 1000) if choice.order("ab", now + step / 10)[0] == "a")
        rests.append(later)
        now += later
    assert rests == sorted(rests) and rests[0] == FIRST_S and rests[-1] == LONGEST_S
    choice.opened("a")
    choice.failed("a", now)
    assert choice.order("ab", now + FIRST_S)[0] == "a", "an answer makes good"


def test_when_none_answers_the_one_that_rested_longest_is_tried_first() -> None:
    choice: Choice[str] = Choice()
    choice.failed("a", 1.0)
    choice.failed("b", 0.0)
    assert choice.order("ab", 1.0) == ["b", "a"]


def test_a_server_that_is_no_longer_named_is_forgotten_when_its_connections_are_closed() -> None:
    choice: Choice[str] = Choice()
    choice.opened("a")
    assert choice.order("b", 0.0) == ["b"]
    choice.closed("a")
    assert choice.order("b", 0.0) == ["b"] and set(choice._known) == {"b"}


# -- with servers ------------------------------------------------------------------------------------


async def upstreams(stack: AsyncExitStack, *scripts: ConnectionScript) -> list[tuple[ScriptedUpstream, str]]:
    found = []
    for script in scripts:
        stt = await stack.enter_async_context(ScriptedUpstream(script))
        found.append((stt, await stack.enter_async_context(stt.listening())))
    return found


async def test_connections_are_shared_out() -> None:
    async with AsyncExitStack() as stack:
        found = await upstreams(stack, ConnectionScript(), ConnectionScript(), ConnectionScript())
        pool = Pool([Cartesia(base_url=url) for _, url in found])
        connections = [await pool.connect(TURNS) for _ in range(6)]
        assert [len(stt.connections) for stt, _ in found] == [2, 2, 2]
        await connections[1].close()
        await connections[1].close()
        connections.append(await pool.connect(TURNS))
        assert [len(stt.connections) for stt, _ in found] == [2, 3, 2]
        for connection in connections:
            await connection.close()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_full_one_sends_to_the_next_at_once(status: int) -> None:
    async with AsyncExitStack() as stack:
        (full, url), (free, other) = await upstreams(
            stack, ConnectionScript(refuse=status), ConnectionScript()
        )
        pool = Pool([Cartesia(base_url=url), Cartesia(base_url=other)])
        for _ in range(3):
            await (await pool.connect(TURNS)).close()
        assert len(full.connections) >= 1 and len(free.connections) == 3


async def test_one_that_is_not_there_or_does_not_answer_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [NOBODY, f"ws://127.0.0.1:{silent.getsockname()[1]}"]
        async with ScriptedUpstream() as stt, stt.listening() as url:
            pool = Pool([Cartesia(base_url=one) for one in (*urls, url)], try_s=0.2)
            await (await pool.connect(TURNS)).close()
            await (await pool.connect(TURNS)).close()
            assert len(stt.connections) == 2


async def test_what_is_refused_for_good_is_refused() -> None:
    async with AsyncExitStack() as stack:
        (_, url), (other, second) = await upstreams(stack, ConnectionScript(refuse=401), ConnectionScript())
        with pytest.raises(UpstreamError) as refused:
            await Pool([Cartesia(base_url=url), Cartesia(base_url=second)]).connect(TURNS)
        assert refused.value.status == 401 and not other.connections


async def test_when_all_are_full_the_last_refusal_is_told() -> None:
    async with AsyncExitStack() as stack:
        found = await upstreams(stack, ConnectionScript(refuse=429), ConnectionScript(refuse=429))
        pool = Pool([Cartesia(base_url=url) for _, url in found])
        with pytest.raises(UpstreamError) as refused:
            await pool.connect(TURNS)
        assert refused.value.status == 429 and refused.value.retryable
        assert [len(stt.connections) for stt, _ in found] == [1, 1]


async def test_a_name_with_several_addresses_is_several_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is not there the others take over; the name stays that of the request."""
    loop = asyncio.get_running_loop()
    asked = []

    async def resolved(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

    async with ScriptedUpstream() as stt, stt.listening() as url:
        port = url.rpartition(":")[2]
        pool = Pool([Cartesia(base_url=f"ws://stt.example:{port}")])
        real = loop.getaddrinfo

        async def getaddrinfo(host: str, port: int, **options: Any) -> Any:
            return await (resolved if host == "stt.example" else real)(host, port, **options)

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        connections = [await pool.connect(TURNS) for _ in range(3)]
        assert len(stt.connections) == 3 and asked == ["stt.example"]
        assert stt.connections[0].headers["Host"] == f"stt.example:{port}"
        for connection in connections:
            await connection.close()


async def test_a_name_without_an_address_is_unreachable() -> None:
    with pytest.raises(UpstreamError) as refused:
        await Pool([Cartesia(base_url="ws://nowhere.invalid:1")]).connect(TURNS)
    assert refused.value.retryable
