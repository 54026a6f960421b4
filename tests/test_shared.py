"""What servers share, with a real Redis: the scripts against their model, bad Redises, servers that die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from processes import Server, check_ledgers, started, until
from redis_server import RedisServer, redis_server
from test_ownership import Register

from rtcstt.errors import ConfigError
from rtcstt.fleet.proxy import CALLER, NODE, SECRET
from rtcstt.fleet.shared import LOST, RELEASE
from rtcstt.fleet.state import About, Creation, StoreAway, Write, Written
from rtcstt.fleet.store import Store, check_version
from rtcstt.server.settings import Settings
from rtcstt.testing import ConnectionScript, Oracle, ScriptedUpstream, speech

pytestmark = pytest.mark.real

PATIENCE_S = 90.0
NO_STT = ("--stt", "ws://127.0.0.1:9", "--drain-timeout-s", "0.2", "--resume-grace-s", "2")

Operations = list[str | int | bytes]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def opened(url: str, prefix: str = "rtcstt:", keep_s: float = 60) -> AsyncIterator[Store]:
    store = Store(url, keep_s=keep_s, prefix=prefix)
    try:
        yield store
    finally:
        await store.close()


async def create(
    store: Store, call: str, node: str, fence: int, *, begun: float, record: dict[str, Any]
) -> Written:
    return await written(store, node, Write(call, fence, [], creation=Creation(begun, record)))


async def write(
    store: Store, call: str, node: str, fence: int, operations: Operations, *, ended: bool
) -> Written:
    return await written(store, node, Write(call, fence, operations, ended=ended))


async def written(store: Store, node: str, one: Write) -> Written:
    (outcome,) = await store.write(node, [one])
    if isinstance(outcome, StoreAway):
        raise outcome
    return outcome


# -- the scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_the_scripts_do_what_their_model_does(redis: RedisServer, seed: int) -> None:
    chance = random.Random(seed)
    model = Register()
    async with opened(redis.url, f"model-{seed}:") as store:
        for _ in range(300):
            node, fence = chance.choice("abc"), chance.randint(1, 4)
            match chance.choice(("create", "write", "write", "write", "claim")):
                case "create":
                    if chance.random() < 0.8 and model.fence >= 0:
                        continue
                    found = await create(store, "C", node, fence, begun=1.0, record={})
                    assert found is model.create(node, fence)
                case "write":
                    first = max(model.events, default=0) + chance.randint(-1, 1)
                    events = [(id, node) for id in range(max(1, first), first + 3)]
                    texts: list[str | int | bytes] = []
                    for id, text in events:
                        texts += ["event", id, json.dumps({"by": text})]
                    found = await write(store, "C", node, fence, texts, ended=False)
                    assert found is model.write(node, fence, events)
                case "claim":
                    entry = await store.find("C")
                    assert (entry is None) == (model.fence < 0)
                    if entry is not None:
                        assert (entry.owner, entry.fence) == (model.owner, model.fence)
                        assert await store.claim("C", entry, node) == model.claim(
                            node, model.owner, model.fence
                        )
                        assert await store.claim("C", entry, node) is None, "a number is claimed once"
            expected = [(id - 1, {"by": who}) for id, who in sorted(model.events.items())]
            assert await store.events("C", -1) == expected


async def test_a_call_from_its_beginning_to_its_end(redis: RedisServer) -> None:
    async with opened(redis.url, "whole:") as store:
        assert await create(store, "C", "n1", 1, begun=1.0, record={"label": "x"}) is Written.OK
        await create(store, "D", "n1", 1, begun=0.5, record={})
        operations: Operations = [
            "track",
            "0",
            '{"floor": 5}',
            "audio",
            "0",
            1,
            b"\x01\xff",
            "audio",
            "0",
            1601,
            b"\x02\xff",
        ]
        assert await write(store, "C", "n1", 1, operations, ended=False) is Written.OK
        assert await store.tracks("C") == {"0": {"floor": 5}}
        assert await store.audio("C", "0") == [(0, b"\x01\xff"), (1600, b"\x02\xff")]
        await write(store, "C", "n1", 1, ["trim", "0", 1601], ended=False)
        assert await store.audio("C", "0") == [(1600, b"\x02\xff")]
        assert sorted(await store.owned("n1")) == ["C", "D"]
        assert list(await store.all()) == ["D", "C"]
        end: Operations = [
            "event",
            1,
            "{}",
            "field",
            "snapshot",
            '{"a": 1}',
            "field",
            "state",
            "closed",
            "end",
            "C",
        ]
        assert await write(store, "C", "n1", 1, end, ended=True) is Written.OK
        entry = await store.find("C")
        assert entry is not None and (entry.state, entry.snapshot) == ("closed", {"a": 1})
        assert await store.audio("C", "0") == [] and await store.tracks("C") == {}
        assert await store.owned("n1") == ["D"]
        assert await store.claim("C", entry, "n2") is None, "an ended call is nobody's to take"


async def test_an_ended_call_expires(redis: RedisServer) -> None:
    async with opened(redis.url, "expiry:", keep_s=1) as store:
        await create(store, "C", "n1", 1, begun=1.0, record={})
        end: Operations = ["event", 1, "{}", "field", "state", "closed", "end", "C"]
        await write(store, "C", "n1", 1, end, ended=True)
        async with asyncio.timeout(PATIENCE_S):
            while await store.find("C") is not None:  # noqa: ASYNC110 (about another process)
                await asyncio.sleep(0.1)
        await store.tidy()
        assert await store.all() == {} and await store.events("C", -1) == []


async def test_heartbeats_tell_who_is_there(redis: RedisServer) -> None:
    async with opened(redis.url, "beats:") as store:
        about = About(url="http://a", calls=1, capacity=2, draining=False)
        one = await store.beat("a", about, "secret")
        two = await store.beat("b", about, "other-secret")
        assert two.seen.keys() == {"a", "b"} and two.about["a"] == about
        assert one.secret == two.secret == "secret"
        assert one.epoch == two.epoch and two.now >= one.now
        assert await store.check() == "secret", "the first one's"
        await store.leave("a")
        assert (await store.beat("b", about, "")).seen.keys() == {"b"}


# -- bad Redises -------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://127.0.0.1", "nothing", "redis://127.0.0.1:port/0"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="redis"):
        Store(url, keep_s=1)


async def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "right") as redis:
        for login in ("", ":wrong@", "nobody:right@"):
            async with opened(redis.url.replace("//", f"//{login}")) as store:
                with pytest.raises(ConfigError, match="redis") as told:
                    await store.check()
                assert "wrong" not in str(told.value)
        async with opened(redis.url.replace("//", "//:right@")) as store:
            assert await store.check()


@pytest.mark.parametrize("version", ["6.2.16", "5.0", "2.8.4", "6"])
def test_an_old_redis_is_told(version: str) -> None:
    with pytest.raises(ConfigError, match=f"{version} is too old"):
        check_version(version)
    for kept in ("7.0.15", "7.2", "8.1.3", "10.0"):
        check_version(kept)


async def test_a_redis_that_is_not_there_or_full_is_away(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as redis:
        async with opened(redis.url) as store:
            await create(store, "C", "n1", 1, begun=1.0, record={})
            await store._redis.config_set("maxmemory", 1)
            with pytest.raises(StoreAway, match="OOM|maxmemory"):
                await write(store, "C", "n1", 1, ["event", 1, "{}"], ended=False)
            await store._redis.config_set("maxmemory", 0)
            assert await write(store, "C", "n1", 1, ["event", 1, "{}"], ended=False) is Written.OK
            redis.stop()
            with pytest.raises(StoreAway):
                await write(store, "C", "n1", 1, ["event", 2, "{}"], ended=False)
            redis.start()
            assert await write(store, "C", "n1", 1, ["event", 2, "{}"], ended=False) is Written.UNKNOWN


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"node_url": "10.0.0.1:8080"}, "node_url"),
        ({"node_url": "http://10.0.0.1:8080/path"}, "node_url"),
        ({"redis": "redis://h", "host": "0.0.0.0"}, "node-url"),
        ({"redis_audio": "perhaps"}, "redis_audio"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Settings(**wrong)


# -- servers -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with session.get(url) as response:
        is_json = "json" in response.content_type
        return response.status, await response.json() if is_json else await response.text()


@contextlib.asynccontextmanager
async def two_servers(
    folder: Path, *options: str
) -> AsyncIterator[tuple[Server, Server, aiohttp.ClientSession]]:
    async with (
        started("serve", folder, *options) as one,
        started("serve", folder, *options) as other,
        http() as session,
    ):
        yield one, other, session


async def begin(
    session: aiohttp.ClientSession, server: Server
) -> tuple[str, aiohttp.ClientWebSocketResponse]:
    socket = await session.ws_connect(f"{server.url}/pcm?label=caller")
    call = (await socket.receive_json())["call"]
    await socket.send_bytes(bytes(32000))
    return call, socket


async def known(session: aiohttp.ClientSession, server: Server, call: str) -> dict[str, Any]:
    """The call as a server sees it, once it does: what is written behind takes a moment."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, body = await get(session, f"{server.url}/calls/{call}")
            if status == 200:
                return body
            await asyncio.sleep(0.05)


async def follow(session: aiohttp.ClientSession, server: Server, call: str) -> list[dict[str, Any]]:
    async with session.get(f"{server.url}/calls/{call}/events") as response:
        assert response.status == 200
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


async def test_any_server_answers_for_any_call(redis: RedisServer, tmp_path: Path) -> None:
    options = (*NO_STT, "--redis", redis.url)
    async with two_servers(tmp_path, *options) as (one, other, session):
        call, socket = await begin(session, one)
        shown = await known(session, other, call)
        assert shown["call"] == call and shown["state"] == "open" and shown["label"] == "caller"
        listed = (await get(session, f"{other.url}/calls"))[1]["calls"]
        assert [item["call"] for item in listed].count(call) == 1
        for name in ("captions.vtt", "captions.srt", "transcript.txt", "transcript.json"):
            assert (await get(session, f"{other.url}/calls/{call}/{name}"))[0] == 200
        assert (await get(session, f"{other.url}/calls/nobody"))[0] == 404
        for inside in (LOST, RELEASE):  # what only servers may ask each other
            assert (await get(session, f"{one.url}{inside}{call}"))[0] == 404
            for forged in ({SECRET: "x"}, {NODE: "x"}, {CALLER: "127.0.0.1"}):
                async with session.get(f"{one.url}{inside}{call}", headers=forged) as response:
                    assert response.status == 403
        listeners = [asyncio.create_task(follow(session, other, call)) for _ in range(150)]
        here = asyncio.create_task(follow(session, one, call))
        async with session.delete(f"{other.url}/calls/{call}") as response:
            assert response.status == 200 and (await response.json())["state"] == "closed"
        await socket.close()
        expected = await here
        assert [event["seq"] for event in expected] == list(range(len(expected)))
        assert expected[-1]["type"] == "session.end"
        for found in await asyncio.gather(*listeners):
            assert found == expected


@pytest.mark.heavy
async def test_a_link_that_one_server_made_is_taken_by_the_others(redis: RedisServer, tmp_path: Path) -> None:
    """Also where the tokens are so short that nothing is derived from them."""
    (tmp_path / "tokens").write_text("short\n")
    options = (*NO_STT, "--redis", redis.url, "--token-file", str(tmp_path / "tokens"))
    async with two_servers(tmp_path, *options) as (one, other, session):
        headers = {"Authorization": "Bearer short"}
        socket = await session.ws_connect(f"{one.url}/pcm", headers=headers)
        call = (await socket.receive_json())["call"]
        page = {"page": f"{one.url}/watch/{call}"}
        async with session.post(f"{one.url}/calls/{call}/share", json=page, headers=headers) as response:
            query = (await response.json())["url"].partition("?")[2]
        async with asyncio.timeout(PATIENCE_S):
            while (await get(session, f"{other.url}/calls/{call}?{query}"))[0] == 404:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await get(session, f"{other.url}/calls/{call}?{query}"))[0] == 200
        assert (await get(session, f"{other.url}/calls/{call}?{query}x"))[0] == 401
        await socket.close()


async def test_what_a_killed_server_wrote_is_read_from_the_others(redis: RedisServer, tmp_path: Path) -> None:
    options = (*NO_STT, "--redis", redis.url)
    async with started("serve", tmp_path, *options) as other, http() as session:
        async with started("serve", tmp_path, *options) as one:
            call, socket = await begin(session, one)
            await known(session, other, call)
            os.kill(one.process.pid, signal.SIGKILL)
            await asyncio.to_thread(one.process.wait)
            status, text = await get(session, f"{other.url}/calls/{call}/captions.vtt")
            assert status == 200 and text.startswith("WEBVTT")
            await socket.close()


async def test_redis_may_go_away_and_come_back_empty(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        options = (*NO_STT, "--redis", redis.url)
        async with (
            started("serve", tmp_path, *options) as one,
            started("serve", tmp_path, *options) as other,
            http() as session,
        ):
            ended, socket = await begin(session, one)
            await known(session, other, ended)
            await socket.send_json({"type": "close"})
            async for _ in socket:
                pass
            call, socket = await begin(session, one)
            await known(session, other, call)
            redis.stop()
            await socket.send_bytes(bytes(32000))
            assert (await get(session, f"{one.url}/calls/{call}"))[0] == 200, "its owner needs no Redis"
            assert (await get(session, f"{one.url}/calls"))[0] == 200
            status, body = await get(session, f"{other.url}/calls/{call}")
            assert status == 503 and body["error_code"] == "state_unreachable"
            redis.start()
            await known(session, other, call)
            assert (await known(session, other, ended))["state"] == "closed", "ended ones too"
            listener = asyncio.create_task(follow(session, other, call))
            await socket.send_json({"type": "close"})
            found = await listener
            assert [event["seq"] for event in found] == list(range(len(found)))
            assert found == await follow(session, one, call)


class Relay:
    """A way to Redis that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Relay]:
        listening = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            listening.close()
            self.cut()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.close()

    def restore(self) -> None:
        self._is_cut = False

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, forth}
        await asyncio.gather(self._copy(reader, forth), self._copy(back, writer))
        self._writers -= {writer, forth}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.mark.heavy
async def test_a_server_cut_off_from_redis_alone_keeps_its_calls(redis: RedisServer, tmp_path: Path) -> None:
    """It has no heartbeat for longer than a dead one's calls are left alone, and answers all the same."""
    options = (*NO_STT, "--resume-grace-s", "0.5")
    async with (
        Relay(redis.port).listening() as relay,
        started("serve", tmp_path, *options, "--redis", relay.url) as one,
        started("serve", tmp_path, *options, "--redis", redis.url) as other,
        http() as session,
    ):
        call, socket = await begin(session, one)
        await known(session, other, call)
        relay.cut()
        for _ in range(120):  # 12 s of audio; a dead server's call is taken after 5 s, the grace, and a sweep
            await socket.send_bytes(bytes(3200))
            await asyncio.sleep(0.1)
        assert (await get(session, f"{one.url}/calls/{call}"))[1]["state"] == "open"
        assert (await get(session, f"{other.url}/calls/{call}"))[1]["state"] == "open"
        async with session.delete(f"{other.url}/calls/{call}") as response:  # passed on to its owner
            assert response.status == 200
        assert (await get(session, f"{one.url}/calls/{call}"))[1]["state"] == "closed"
        relay.restore()
        async with asyncio.timeout(PATIENCE_S):
            while (await known(session, other, call))["state"] != "closed":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        found = await follow(session, other, call)
        assert found == await follow(session, one, call) and found[-1]["type"] == "session.end"
        assert "server" not in {gap["reason"] for gap in found[-1]["missing"]}
        await socket.close()


@pytest.mark.heavy
async def test_nobody_waits_for_a_server_that_hangs(redis: RedisServer, tmp_path: Path) -> None:
    options = (*NO_STT, "--redis", redis.url)
    async with two_servers(tmp_path, *options) as (one, other, session):
        call, socket = await begin(session, one)
        await known(session, other, call)
        os.kill(one.process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(2.5)  # a caller notices
            async with asyncio.timeout(40):  # its connection would be kept for a minute
                async with session.delete(f"{other.url}/calls/{call}") as response:
                    assert response.status == 200 and (await response.json())["state"] == "closed"
        finally:
            os.kill(one.process.pid, signal.SIGCONT)
        await until(lambda: "another server has taken it over" in one.log.read_text())
        await socket.close()


async def test_a_second_server_with_the_same_url_does_not_start(redis: RedisServer, tmp_path: Path) -> None:
    options = (*NO_STT, "--redis", redis.url, "--node-url", "http://127.0.0.1:1")
    async with started("serve", tmp_path, *options) as one:
        await until(lambda: b"listening" in one.log.read_bytes(), PATIENCE_S)
        with pytest.raises(AssertionError, match="another server has the url"):
            async with started("serve", tmp_path, *options):
                pass


async def test_a_redis_that_does_not_answer_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="redis does not answer"):
        async with started("serve", tmp_path, *NO_STT, "--redis", "redis://127.0.0.1:9/0"):
            pass


async def test_workers_share_as_servers_do(redis: RedisServer, tmp_path: Path) -> None:
    options = (*NO_STT, "--redis", redis.url)
    async with (
        started("serve", tmp_path, *options, "--workers", "2") as one,
        started("serve", tmp_path, *options) as other,
        http() as session,
    ):
        begun = [await begin(session, one) for _ in range(2)]
        for call, _ in begun:
            await known(session, other, call)
        for call, socket in begun:  # whichever worker the request comes in at
            async with session.delete(f"{other.url}/calls/{call}") as response:
                assert response.status == 200 and (await response.json())["state"] == "closed"
            await socket.close()


# -- a call that moves -------------------------------------------------------------------------------


async def test_the_last_words_of_a_killed_servers_call_are_transcribed(
    redis: RedisServer, tmp_path: Path
) -> None:
    """Its caller never comes back: another server ends it, with the words that were only audio yet."""
    words = [f"word{number:02}x" for number in range(40)]
    samples = speech(words)
    async with (
        ScriptedUpstream(ConnectionScript(oracle=Oracle(latency_s=0.3))) as stt,
        stt.listening() as url,
    ):
        options = ("--stt", url, "--redis", redis.url, "--resume-grace-s", "1", "--drain-timeout-s", "20")
        async with (
            started("serve", tmp_path, *options) as other,
            http() as session,
        ):
            async with started("serve", tmp_path, *options) as one:
                socket = await session.ws_connect(f"{one.url}/pcm?sample_rate=16000")
                call = (await socket.receive_json())["call"]
                begun = asyncio.get_running_loop().time()
                for index in range(30):  # 3 s: eleven words
                    await asyncio.sleep(max(0.0, begun + 0.1 * index - asyncio.get_running_loop().time()))
                    await socket.send_bytes(samples[index * 1600 : (index + 1) * 1600].tobytes())
                kept = await known(session, other, call)
                assert kept["state"] == "open"
                await until_written(session, one, other, call, 2.5)
                os.kill(one.process.pid, signal.SIGKILL)
                await asyncio.to_thread(one.process.wait)
                await socket.close()
            found = await asyncio.wait_for(follow(session, other, call), PATIENCE_S)
            assert [event["seq"] for event in found] == list(range(len(found)))
            last = found[-1]
            assert last["type"] == "session.end" and last["reason"] == "server lost"
            assert not last["complete"] and {gap["reason"] for gap in last["missing"]} == {"server"}
            check_ledgers(last["ledger"])
            said = (await get(session, f"{other.url}/calls/{call}/transcript.txt"))[1].split("[")[0].split()
            assert said == words[: len(said)] and len(said) >= 8
            assert (await get(session, f"{other.url}/calls/{call}"))[1]["state"] == "closed"


async def until_written(
    session: aiohttp.ClientSession, owner: Server, other: Server, call: str, seconds: float
) -> None:
    """The other server knows so much of the call's audio."""
    async with asyncio.timeout(PATIENCE_S):
        while (await known(session, other, call))["time"] < seconds:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.1)
