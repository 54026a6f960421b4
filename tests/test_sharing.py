"""Calls that go from server to server, and what must go with them: whole servers in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request
from memory_store import MemoryStore

from rtcstt.call import Call, CallSettings
from rtcstt.errors import CallerError, ConfigError
from rtcstt.events import AnyEvent, SttBehind
from rtcstt.fleet.board import Board
from rtcstt.fleet.mirrors import Mirror
from rtcstt.fleet.node import Node
from rtcstt.fleet.ownership import Act
from rtcstt.fleet.placement import Load
from rtcstt.fleet.proxy import SECRET, Proxy, Target, Unreachable
from rtcstt.fleet.router import Router, Workers
from rtcstt.fleet.shared import LOST, RELEASE, Shared
from rtcstt.fleet.state import Beat, Entry, StoreAway, Unreadable
from rtcstt.fleet.store import Store
from rtcstt.server.admission import Limits, Requester
from rtcstt.server.calls import Calls
from rtcstt.server.entries import digest
from rtcstt.server.sharing import FORMAT, Sharing, kept_of, read_record
from rtcstt.testing import (
    ScriptedUpstream,
    run_virtual,
    silence,
    speech,
    transcript,
)
from rtcstt.webrtc.connection import PeerSettings
from rtcstt.wire import TurnSettings

PACE_S = 0.1
GRACE_S = 20.0


@dataclass
class Ways:
    """From server to server, in place of HTTP. Those in ``closed`` cannot be reached."""

    servers: dict[str, Server] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    secret: str = ""

    def renew(self, secret: str) -> None:
        self.secret = secret

    async def get(self, target: Target, path: str) -> tuple[int, bytes]:
        await asyncio.sleep(0.001)
        there = self.servers.get(target.url)
        if there is None or target.url in self.closed:
            raise Unreachable(target.url)
        if path.startswith(RELEASE):
            await there.shared.writer.release(path.removeprefix(RELEASE))
            return 204, b""
        if path.startswith(LOST):
            return (204 if there.shared.is_lost(path.removeprefix(LOST)) else 409), b""
        return 200, b""


@dataclass
class Server:
    calls: Calls
    shared: Shared
    ways: Ways

    def die(self) -> None:
        """As kill -9 does it."""
        del self.ways.servers[self.shared.url]
        for task in self.shared._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def fleet(*names: str) -> AsyncIterator[tuple[MemoryStore, list[Server]]]:
    """Servers that have seen each other."""
    store, ways = MemoryStore(), Ways()
    async with ScriptedUpstream() as stt:
        servers = [server(name, store, ways, stt) for name in names]
        await asyncio.sleep(1.5)
        try:
            yield store, servers
        finally:
            store.away.clear()
            for one in servers:
                await asyncio.gather(*(entry.call.close() for entry in one.calls.entries.values()))
                for task in one.shared._tasks:
                    task.cancel()
                await asyncio.gather(*one.shared._tasks, return_exceptions=True)


def server(name: str, store: MemoryStore, ways: Ways, stt: ScriptedUpstream) -> Server:
    limits = Limits(resume_grace_s=GRACE_S)
    calls = Calls(stt=stt, settings=CallSettings(), peers=PeerSettings, limits=limits)
    shared = Shared(
        cast(Store, store),
        Node(name, 0, "s"),
        url=f"http://{name}",
        load=lambda: Load(calls.open, 10),
        grace_s=GRACE_S,
        keeps_audio=True,
    )
    Sharing(calls, shared)
    one = ways.servers[shared.url] = Server(calls, shared, ways)
    shared.run(shared.url, cast(Proxy, ways))
    return one


async def talk(call: Call, text: str, name: str = "0") -> None:
    """Somebody speaks on a track, and pauses."""
    track = call.add_track(name)
    samples = np.concatenate([speech(text), silence(1.5)])
    for start in range(0, len(samples), round(16000 * PACE_S)):
        track.push_pcm(samples[start : start + round(16000 * PACE_S)], 16000)
        await asyncio.sleep(PACE_S)


async def claimed(server: Server, call: str) -> Call:
    act, entry = await server.shared.locate(call)
    assert act is Act.CLAIM and entry is not None
    assert await server.shared.claim(call, entry, end=False)
    return server.calls.find(call)


def history(call: Call) -> list[AnyEvent]:
    found = list(call.feed.history)
    assert [event.seq for event in found] == list(range(len(found)))
    return found


def test_what_was_set_in_mid_call_holds_wherever_the_call_goes() -> None:
    async def main() -> None:
        async with fleet("a", "b", "c") as (_, servers):
            call = servers[0].calls.begin()
            await talk(call, "one")
            call.configure(TurnSettings(end_timeout_ms=2000, eager_end_threshold=0.6))
            await talk(call, "two")
            for number, one in enumerate(servers[1:]):
                servers[number].die()
                await asyncio.sleep(8.0)
                call = await claimed(one, call.id)
                assert call.turn == TurnSettings(end_timeout_ms=2000, eager_end_threshold=0.6)
                await talk(call, "three")
            await call.close()
            assert transcript(history(call)) == "one two three three"

    run_virtual(main())


def test_each_servers_secret_lets_a_caller_resume_at_the_next_one() -> None:
    async def main() -> None:
        async with fleet("a", "b", "c") as (_, servers):
            by = Requester("somebody", "")
            call, told = servers[0].calls.begin(by=by).id, []
            for number, one in enumerate(servers):
                entry = one.calls.entry(call)
                told.append(entry.secret)
                for secret in told:
                    entry.is_gateways = False
                    entry.check_caller(Requester("who has another token now", ""), secret)
                    entry.is_gateways = True
                await talk(entry.call, "word")
                one.die()
                await asyncio.sleep(8.0)
                if number < 2:
                    await claimed(servers[number + 1], call)
            assert len(set(told)) == 3

    run_virtual(main())


def test_who_may_not_listen_may_not_at_another_server_either() -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            by = Requester("a gateway", "", may_listen=False)
            call = one.calls.begin(by=by)
            await talk(call, "secret words")
            one.die()
            await asyncio.sleep(8.0)
            await claimed(other, call.id)
            moved = other.calls.entry(call.id).rejoin(by, None)
            shown = [event async for event in shown_until_now(moved)]
            assert shown and "secret" not in json.dumps([event.as_dict() for event in shown])
            assert "secret" in transcript(history(moved))

    run_virtual(main())


async def shown_until_now(call: Call) -> AsyncIterator[AnyEvent]:
    last = call.feed.published
    async with contextlib.aclosing(cast(Any, call.caller_events())) as events:
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.01):
                    event = await anext(events)
                yield event
                if event.seq == last - 1:
                    return


@pytest.mark.parametrize("away", ["events", "tracks", "audio"])
def test_a_call_that_was_claimed_as_redis_went_away_is_taken_up_again(away: str) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            call = one.calls.begin()
            await talk(call, "words before")
            one.die()
            await asyncio.sleep(8.0)
            act, entry = await other.shared.locate(call.id)
            assert act is Act.CLAIM and entry is not None
            store.away.add(away)
            with pytest.raises(StoreAway):
                await other.shared.claim(call.id, entry, end=False)
            assert not other.calls.has(call.id)
            store.away.clear()
            await asyncio.sleep(4.0)
            assert other.calls.has(call.id), "nobody asked for it again"
            again = other.calls.find(call.id)
            await talk(again, "and after")
            await again.close()
            assert transcript(history(again)) == "words before and after"

    run_virtual(main())


def test_a_server_that_cannot_be_reached_but_lives_keeps_its_calls() -> None:
    """Its address is wrong, or a firewall is in the way."""

    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            call = one.calls.begin()
            await talk(call, "words")
            one.ways.closed.add(one.shared.url)
            assert not await other.shared.others.is_gone(one.shared.node.name)
            act, _ = await other.shared.locate(call.id)
            assert act is Act.PASS_ON
            one.die()
            assert await other.shared.others.is_gone(one.shared.node.name)
            act, _ = await other.shared.locate(call.id)
            assert act is Act.CLAIM

    run_virtual(main())


def test_a_server_that_hangs_is_waited_for_no_longer_than_it_takes_to_tell() -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            name, loop = one.shared.node.name, asyncio.get_running_loop()
            assert not await other.shared.others.hangs(name)
            one.die()
            await asyncio.sleep(3.0)
            assert not other.shared.others.nodes.is_dead(name), "by its heartbeats alone"
            before = loop.time()
            assert await other.shared.others.hangs(name) and loop.time() - before < 3.0

    run_virtual(main())


def record(store: MemoryStore, call: str, change: Callable[[dict[str, Any]], object]) -> None:
    kept = json.loads(store.calls[call].row[b"record"])
    change(kept)
    store.calls[call].row[b"record"] = json.dumps(kept).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.update(format=FORMAT + 1),
        lambda kept: kept.update(mode="telepathy"),
        lambda kept: kept["turn"].update(mood="good"),
        lambda kept: kept.pop("digests"),
        lambda kept: kept.update(created="yesterday"),
        lambda kept: kept.update(keyterms=7),
    ],
)
def test_a_call_that_cannot_be_read_is_left_alone_and_hides_no_other(
    change: Callable[[dict[str, Any]], object], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            strange, good = one.calls.begin(), one.calls.begin()
            for call in (strange, good):
                await talk(call, "words")
            one.die()
            record(store, strange.id, change)
            await asyncio.sleep(GRACE_S + 10.0)
            assert good.id in other.calls.entries, "its sweep went on"
            with pytest.raises(Unreadable):
                _, entry = await other.shared.locate(strange.id)
                assert entry is not None
                await other.shared.claim(strange.id, entry, end=False)
            row = store.calls[strange.id].row
            assert row[b"owner"] == one.shared.node.name.encode(), "a server that knows more can go on"

    run_virtual(main())
    assert sum("cannot be read" in told.message for told in caplog.records) == 1


def test_a_call_whose_tracks_are_garbage_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            call = one.calls.begin()
            await talk(call, "words")
            one.die()
            store.calls[call.id].tracks["0"] = '{"mid": "0", "flow": {"clock": 7}, "origin": "noon"}'
            await asyncio.sleep(8.0)
            _, entry = await other.shared.locate(call.id)
            assert entry is not None and not await other.shared.claim(call.id, entry, end=False)
            act, _ = await other.shared.locate(call.id)
            assert act is Act.ENDED and not other.calls.has(call.id)

    run_virtual(main())
    assert any("it ends" in told.message for told in caplog.records)


def test_why_a_redis_cannot_be_used_is_told_at_the_start() -> None:
    async def main() -> None:
        async with fleet("a") as (store, (one,)):
            store.away.add("beat")
            with pytest.raises(ConfigError, match=r"does not answer within 10 s \(beat is away\)"):
                await one.shared.start()

    run_virtual(main())


def test_a_server_ends_though_a_cancellation_gets_lost() -> None:
    """As in `asyncio.wait_for`, by which the Redis client writes."""

    async def main() -> None:
        async with fleet("a") as (store, (one,)):
            lost = 0

            async def beat(*args: object) -> Beat:
                nonlocal lost
                if lost == 0:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(3600.0)
                    lost += 1
                raise StoreAway("away")

            store.beat = beat  # type: ignore[method-assign,assignment]
            await asyncio.sleep(2.0)
            async with asyncio.timeout(60.0):
                await one.shared.close()
            assert lost == 1

    run_virtual(main())


def test_servers_agree_on_the_secret_again_after_redis_was_emptied() -> None:
    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            store.secret, told = "of a server that was there first", list[str]()
            for server in (one, other):
                server.shared.on_secret = told.append  # access tokens are those of all servers, too
            await asyncio.sleep(2.5)
            assert one.shared.secret == other.shared.secret == one.ways.secret == store.secret
            assert told == [store.secret, store.secret]

    run_virtual(main())


def test_what_is_kept_of_a_call_gives_it_back() -> None:
    async def main() -> None:
        async with fleet("a") as (store, (one,)):
            options: Any = {"mode": "manual", "keyterms": ("Ada",), "language": "en", "update_ms": 250.0}
            by = Requester("token", "")
            call = one.calls.begin(by=by, label="x", metadata={"k": [1]}, options=options)
            await asyncio.sleep(1.0)
            kept = kept_of(read_record(json.loads(store.calls[call.id].row[b"record"])))
            assert (kept.label, kept.metadata, kept.by.identity) == ("x", {"k": [1]}, "token")
            assert kept.options.items() >= options.items() and kept.is_gateways
            assert kept.digests == (digest(one.calls.entry(call.id).secret),)

    run_virtual(main())


def test_tracks_stay_as_they_were_ended_muted_or_speaking() -> None:
    async def main() -> None:
        async with fleet("a", "b", "c") as (_, (one, other, third)):
            call = one.calls.begin(tracks=3)
            for name, text in (
                ("ended", "first words"),
                ("muted", "second words"),
                ("speaks", "third words"),
            ):
                await talk(call, text, name)
            call.tracks["ended"].finish("gone")
            await asyncio.sleep(2.0)
            before = call.ledgers()["ended"]
            one.die()
            await asyncio.sleep(8.0)
            call = await claimed(other, call.id)
            await talk(call, "more words", "speaks")
            other.die()
            await asyncio.sleep(8.0)
            call = await claimed(third, call.id)
            await talk(call, "last words", "speaks")
            await call.close()
            events = history(call)
            assert [event.track for event in events if event.type == "track.start"] == [
                "ended",
                "muted",
                "speaks",
            ]
            assert [event.track for event in events if event.type == "track.end"].count("ended") == 1
            assert call.ledgers()["ended"] == before
            said = {name: "" for name in call.tracks}
            for event in events:
                if event.type == "turn.end":
                    said[event.track] += f" {event.transcript.strip()}"
            assert said == {
                "ended": " first words",
                "muted": " second words",
                "speaks": " third words more words last words",
            }

    run_virtual(main())


@pytest.mark.parametrize("asked", [f"GET {RELEASE}call", "POST /offer"])
def test_what_another_server_asks_while_redis_is_away_is_refused_for_now(asked: str) -> None:
    async def main() -> None:
        async with fleet("a") as (store, (one,)):
            workers = Workers(0, Board(1), [Target("http://localhost")])
            router = Router(Here(one), workers, "inside", one.shared.node, shared=one.shared)
            call = one.calls.begin()
            await talk(call, "words")
            store.away |= {"write", "find"}
            call.publish(SttBehind(track="0", lag=1.0))
            method, path = asked.replace("call", call.id).split()
            payload = StreamReader(cast(Any, Mock(_reading_paused=False)), 2**16)
            payload.feed_data(b'{"type": "offer", "sdp": "v=0", "call": "of another server"}')
            payload.feed_eof()
            request = make_mocked_request(method, path, {SECRET: "inside"}, payload=payload)
            with pytest.raises(CallerError) as refused:
                await router.middleware(request, nobody)
            assert (refused.value.status, refused.value.code) == (503, "state_unreachable")
            assert one.calls.has(call.id), "it is received here as before"

    run_virtual(main())


@dataclass
class Here:
    server: Server

    def has(self, call: str) -> bool:
        return self.server.calls.has(call)

    def load(self) -> Load:
        return Load(0, 10)


async def nobody(request: web.Request) -> web.StreamResponse:
    raise AssertionError("it is not for anybody here")


async def none_here(request: web.Request) -> web.StreamResponse:
    return web.json_response({"calls": [], "complete": True, "missing": []})


def test_a_list_says_whose_calls_are_left_out(tmp_path: Path) -> None:
    """A worker that does not answer, and other servers while Redis is away."""

    async def main() -> None:
        async with fleet("a") as (store, (one,)):
            board = Board(2)
            board.write(1, Load(ready=True))
            targets = [Target("http://localhost", socket=tmp_path / str(index)) for index in range(2)]
            router = Router(
                Here(one), Workers(0, board, targets), "inside", one.shared.node, shared=one.shared
            )
            store.away.add("all")
            answer = await router.middleware(make_mocked_request("GET", "/calls"), none_here)
            assert isinstance(answer, web.Response) and isinstance(answer.body, bytes)
            missing = ["other servers", "worker 1"]
            assert json.loads(answer.body) == {"calls": [], "complete": False, "missing": missing}
            await router.proxy.close()
            board.close()

    run_virtual(main())


def test_a_fault_of_ours_does_not_end_what_keeps_servers_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            faults = [KeyError("writing"), ValueError("sweeping")]

            async def fails(*_: object) -> bool:
                monkeypatch.undo()
                raise faults[0]

            monkeypatch.setattr(one.shared.writer, "_write_all", fails)
            call = one.calls.begin()
            await talk(call, "all of this")
            assert store.calls[call.id].events.keys() == {event.seq + 1 for event in call.feed.history}
            one.die()

            async def tidy() -> None:
                monkeypatch.undo()
                raise faults[1]

            monkeypatch.setattr(store, "tidy", tidy)
            await asyncio.sleep(GRACE_S + 15)
            assert other.calls.find(call.id).state == "closed", "ended by the other server"
        told = [record.getMessage() for record in caplog.records if record.exc_info]
        assert told == ["writing failed, and begins again", "the sweep failed, and begins again"]

    run_virtual(main())


def test_what_was_to_be_written_as_a_fault_came_is_written_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with fleet("a") as (store, (one,)):
            call = one.calls.begin()
            await talk(call, "words")
            write_all = one.shared.writer._write_all

            async def fails(calls: Any) -> bool:
                if call.state == "closed":
                    monkeypatch.undo()
                    raise KeyError("writing")
                return await write_all(calls)

            monkeypatch.setattr(one.shared.writer, "_write_all", fails)
            await call.close()
            await asyncio.sleep(3.0)
            assert one.shared.writer._write_all == write_all, "it came"
            assert store.calls[call.id].row[b"state"] == b"closed"

    run_virtual(main())


def test_what_is_behind_the_last_event_is_left_aside() -> None:
    end = {"reason": "x", "tracks": [], "ledger": {}, "complete": True, "missing": []}
    rows = [(seq, {"type": "session.end", "call": "c", "seq": seq, **end}) for seq in range(2)]
    mirror = Mirror("c", kept_entry())
    mirror.take(rows)
    assert mirror.is_complete and len(mirror.feed.history) == 1


def kept_entry() -> Entry:
    return Entry(owner="n", fence=1, state="closed", record={}, created=0.0, first={}, snapshot=None)
