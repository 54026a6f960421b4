"""A Redis that is none, that is another kind of one, and one in which others have left what is not ours."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer, redis_server
from test_shared import create, opened, write

from rtcstt.call import Call
from rtcstt.errors import ConfigError
from rtcstt.events import AnyEvent, SttBehind
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.mirrors import Mirror, Mirrors
from rtcstt.fleet.state import About, StoreAway, Unreadable, Write, Written
from rtcstt.fleet.store import Store, check_server
from rtcstt.fleet.writer import Writer
from rtcstt.testing import ScriptedUpstream

pytestmark = pytest.mark.real

PATIENCE_S = 60.0
NODE = About(url="http://a", calls=0, capacity=1, draining=False)
EVENT = json.dumps({"type": "stt.behind", "track": "0", "lag": 1.0, "call": "C", "seq": 0, "time": 0.0})


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


# -- which Redis -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, told",
    [
        ("redis://user:pa55/word@h:6379/0", "%2F"),
        ("redis://:pa55#word@h:6379/0", "%23"),
        ("redis://:pa55?word@h:6379/0", "%3F"),
        ("redis://:pa55word@h:port/0", "port"),
        ("redis://:pa55word@h:70000/0", "port"),
        ("redis://:pa55word@h:0/0", "port"),
        ("redis://:pa55word@h:6379/zero", "number of the database"),
        ("redis://:pa55word@h:6379/-1", "number of the database"),
        ("redis://:pa55word@h:6379/0/1", "number of the database"),
        ("redis://:pa55word@h:6379/0?db=x", "redis"),
        ("redis://:pa55word@h:6379/0?decode_responses=true", "decode_responses"),
        ("redis://:pa55word@h:6379/0?retry=3", "retry"),
        ("redis://:pa55word@h:6379/0?ssl_cert_reqs=none", "cannot be read"),
        ("rediss://:pa55word@h:6379/0?ssl_cert_reqs=maybe", "cannot be read"),
        ("rediss://:pa55word@h:6379/0?ssl_strange=1", "cannot be read"),
        ("redis://:pa55word@[::1/0", "address"),
        ("redis+sentinel://:pa55word@h:26379/mymaster/0", "Sentinel"),
        ("redis+cluster://:pa55word@h:6379", "Cluster"),
        ("redis://:pa55word@h,h2:6379/0", "one host"),
        ("http://:pa55word@h:6379/0", "redis://"),
        ("h:6379", "redis://"),
        ("", "redis://"),
    ],
)
def test_a_url_that_cannot_be_is_refused_and_not_quoted(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match="redis") as refused:
        Store(url, keep_s=1)
    assert told in str(refused.value) and "pa55" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h/",
        "REDIS://h:6379/3",
        "redis://[::1]:6379/0",
        "rediss://user:p%2Fw@h:6380/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
        "unix:///run/redis.sock?db=1",
        "redis://h:6379?db=2&client_name=rtcstt",
    ],
)
async def test_a_url_that_can_be_is_taken(url: str) -> None:
    await Store(url, keep_s=1).close()


@pytest.mark.parametrize(
    "info, told",
    [
        ({"redis_mode": "cluster", "redis_version": "7.2.4"}, "cluster"),
        ({"redis_mode": "sentinel", "redis_version": "7.2.4"}, "sentinel"),
        ({"redis_mode": "standalone", "redis_version": "6.2.16"}, "too old"),
        ({"redis_version": "of my own"}, "too old"),
        ({}, "unknown"),
    ],
)
def test_a_redis_that_will_never_do_is_refused(info: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_server(info)


def test_valkey_is_taken() -> None:
    check_server({"server_name": "valkey", "server_mode": "standalone", "redis_version": "7.2.4"})


async def test_a_cluster_is_refused(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes") as redis:
        async with opened(redis.url) as store:
            with pytest.raises(ConfigError, match="cluster"):
                await store.check()


async def test_a_redis_that_takes_nothing_says_why(tmp_path: Path) -> None:
    """A replica, whose primary is not there."""
    with redis_server(tmp_path, "--replicaof", "127.0.0.1", "1") as replica:
        async with opened(replica.url) as store:
            with pytest.raises(StoreAway, match="read only|READONLY|MASTERDOWN"):
                await store.check()


async def test_a_database_that_there_is_not_is_refused(redis: RedisServer) -> None:
    async with opened(redis.url.replace("/0", "/99")) as store:
        with pytest.raises(ConfigError, match="DB"):
            await store.check()


# -- what is not ours --------------------------------------------------------------------------------


async def test_a_secret_that_is_none_is_refused(redis: RedisServer) -> None:
    async with opened(redis.url, "no-secret:") as store:
        for wrong in (b"\xff\x00", b"two words\r\nX: y", b""):
            await store._redis.set("no-secret:secret", wrong)
            with pytest.raises(ConfigError, match="no-secret:secret is garbage"):
                await store.check()
            assert (await store.beat("a", NODE, "mine")).secret == ""
        await store._redis.delete("no-secret:secret")
        await store._redis.rpush("no-secret:secret", 1)
        with pytest.raises(ConfigError, match="no-secret:secret is garbage"):
            await store.check()


@pytest.mark.parametrize(
    "garbage",
    [b"\xff", b"[]", b"{}", b"null", b'{"url": 7, "calls": 0, "capacity": 1}', b'{"url": "u", "calls": "x"}'],
)
async def test_a_node_that_says_nonsense_is_there_and_takes_nothing(
    redis: RedisServer, garbage: bytes
) -> None:
    async with opened(redis.url, "nodes:") as store:
        await store.beat("a", NODE, "s")
        await store._redis.zadd("nodes:nodes", {"strange": 1e15})
        await store._redis.set("nodes:node:strange", garbage)
        beat = await store.beat("a", NODE, "s")
        assert beat.seen.keys() == {"a", "strange"} and beat.about == {"a": NODE}
        await store._redis.delete("nodes:node:strange")
        await store._redis.rpush("nodes:node:strange", 1)
        assert (await store.beat("a", NODE, "s")).about == {"a": NODE}
        await store._redis.delete("nodes:node:strange")


ENTRY = {"owner": "n", "fence": 1, "state": "open", "record": "{}"}


async def test_calls_that_cannot_be_read_hide_no_others(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(redis.url, "listed:") as store:
        await create(store, "good", "n", 1, begun=5.0, record={})
        strange: list[dict[str, Any]] = [
            ENTRY | {"record": "\xff"},
            ENTRY | {"record": "[1]"},
            ENTRY | {"record": '{"created": "noon"}'},
            ENTRY | {"record": '{"first": 1}'},
            ENTRY | {"fence": "many"},
            ENTRY | {"snapshot": "{"},
        ]
        for number, row in enumerate(strange):
            await store._redis.hset(f"listed:call:s{number}", mapping=row)
            await store._redis.zadd("listed:calls", {f"s{number}": number})
        await store._redis.set("listed:call:text", "x")
        await store._redis.zadd("listed:calls", {"text": 9, "gone": 9})
        for _ in range(2):
            assert list(await store.all()) == ["good"]
        assert len(caplog.records) == len(strange) + 1, "each once"
        for name in [f"s{number}" for number in range(len(strange))] + ["text"]:
            with pytest.raises(Unreadable):
                await store.find(name)
        assert await store._redis.zscore("listed:calls", "gone") is None


async def test_what_is_kept_of_a_call_is_read_or_refused(redis: RedisServer) -> None:
    async with opened(redis.url, "parts:") as store:
        await store._redis.xadd("parts:call:C:events", {"other": "x"}, id="1-0")
        await store._redis.xadd("parts:call:D:events", {"e": "[1"}, id="1-0")
        await store._redis.hset("parts:call:C:tracks", "0", "no JSON")
        await store._redis.xadd("parts:call:C:audio:0", {"a": "odd"}, id="1-0")
        await store._redis.set("parts:call:E:events", "x")
        for read in (store.events("C", -1), store.events("D", -1), store.events("E", -1)):
            with pytest.raises(Unreadable):
                await read
        with pytest.raises(Unreadable):
            await store.tracks("C")
        with pytest.raises(Unreadable):
            await store.audio("C", "0")


async def first(mirror: Mirror) -> AnyEvent | None:
    async for event in mirror.feed.subscribe():
        return event
    return None


async def test_events_that_cannot_be_read_keep_nobody_else_waiting(redis: RedisServer) -> None:
    """Listeners of other calls at the same server: all are read in one go."""
    async with opened(redis.url, "mirrored:") as store:
        for call in ("good", "strange", "later"):
            await create(store, call, "n", 1, begun=1.0, record={})
        mirrors = Mirrors(store)
        listening = {}
        for call in ("strange", "good", "later"):
            mirror = await mirrors.find(call)
            assert mirror is not None
            listening[call] = asyncio.create_task(first(mirror))
        await asyncio.sleep(0.3)  # they are followed
        await store._redis.xadd("mirrored:call:strange:events", {"e": "[}"}, id="1-0")
        await store._redis.set("mirrored:call:later:events", "of another type")
        async with asyncio.timeout(PATIENCE_S):
            assert await listening["strange"] is None and await listening["later"] is None, "they ended"
            await write(store, "good", "n", 1, ["event", 1, EVENT], ended=False)
            event = await listening["good"]
        assert event is not None and event.type == "stt.behind"
        await mirrors.close()


async def test_a_call_whose_key_is_taken_keeps_no_other_from_being_written(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """However many others there are: they are written by sixteen at a time."""
    async with opened(redis.url, "written:") as store, ScriptedUpstream() as stt:
        calls = [Call(f"c{number:02}", stt=stt) for number in range(40)]
        await store._redis.set("written:call:c03", "somebody's")
        writer = Writer(store, "n", SharedClock(), keeps_audio=True)
        for call in calls:
            writer.begin(call, lambda: {"format": 1})
        running = asyncio.create_task(writer.run())
        async with asyncio.timeout(PATIENCE_S):
            while len(await store.all()) < 39:  # noqa: ASYNC110 (in Redis)
                await asyncio.sleep(0.02)
            calls[20].publish(SttBehind(track="0", lag=1.0))
            while not [seq for seq, _ in await store.events("c20", 0) if seq == 1]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not writer.is_away and writer.failures == 1
        told = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert len(told) == 1 and "c03" in told[0].getMessage()
        running.cancel()
        await asyncio.gather(running, *(call.close() for call in calls), return_exceptions=True)
        assert await store._redis.get("written:call:c03") == b"somebody's"


async def test_a_full_redis_is_away_and_not_garbage(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as full:
        async with opened(full.url) as store:
            await create(store, "C", "n", 1, begun=1.0, record={})
            await store._redis.config_set("maxmemory", 1)
            (outcome,) = [await outcome_of(store)]
            assert outcome is not Written.OK and not isinstance(outcome, Unreadable)


async def outcome_of(store: Store) -> object:
    try:
        (outcome,) = await store.write("n", [Write("C", 1, ["event", 1, "{}"])])
    except StoreAway as error:
        return error
    return outcome
