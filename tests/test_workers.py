"""Several processes behind one port, with real processes and real kills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from processes import Server, started, until

from rtcstt.fleet import ids
from rtcstt.fleet.board import STALE_S
from rtcstt.fleet.proxy import CALLER, SECRET

pytestmark = pytest.mark.real
# Nobody listens there: calls take place, and nothing is recognised.
NO_STT = ("--stt", "ws://127.0.0.1:9", "--workers", "2", "--drain-timeout-s", "0.2")
SECOND = bytes(32000)
PATIENCE_S = 60.0


@contextlib.asynccontextmanager
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Each request on a connection of its own, so that any worker may take it."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def begin(
    session: aiohttp.ClientSession, server: Server
) -> tuple[str, aiohttp.ClientWebSocketResponse]:
    """A call from a gateway."""
    socket = await session.ws_connect(f"{server.url}/pcm?label=caller")
    first = await socket.receive_json()
    assert first["type"] == "session.start" and first["seq"] == 0
    await socket.send_bytes(SECOND)
    return first["call"], socket


async def calls(session: aiohttp.ClientSession, server: Server) -> list[dict[str, Any]]:
    async with session.get(f"{server.url}/calls") as response:
        return (await response.json())["calls"]


async def events(session: aiohttp.ClientSession, server: Server, call: str) -> list[dict[str, Any]]:
    """All of a call's, until it has ended."""
    found = []
    async with session.get(f"{server.url}/calls/{call}/events") as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
    return found


def children(server: Server) -> list[int]:
    """The workers' processes, in the order of their start."""
    text = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in text.split()}
    return sorted(pid for pid, command in commands.items() if b"spawn_main" in command)


async def test_every_url_works_on_every_worker(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT) as server, http() as session:
        begun = [await begin(session, server) for _ in range(6)]
        ids_ = [call for call, _ in begun]
        assert Counter(ids.worker_of(call) for call in ids_) == {0: 3, 1: 3}
        for _ in range(6):
            listed = await calls(session, server)
            assert [one["call"] for one in listed] == ids_
            for call in ids_:
                async with session.get(f"{server.url}/calls/{call}") as response:
                    assert response.status == 200 and (await response.json())["call"] == call
                async with session.get(f"{server.url}/calls/{call}/captions.vtt") as response:
                    assert (await response.text()).startswith("WEBVTT")
        for strange in ("nobody", "A" * 16 + "0", "A" * 16 + "1"):
            async with session.get(f"{server.url}/calls/{strange}") as response:
                assert response.status == 404 and (await response.json())["error_code"] == "call_not_found"
        async with session.get(f"{server.url}/metrics") as response:
            page = await response.text()
        opened = [line for line in page.splitlines() if line.startswith("rtcstt_calls_open{")]
        assert opened == ['rtcstt_calls_open{worker="0"} 3.0', 'rtcstt_calls_open{worker="1"} 3.0']
        listeners = [asyncio.create_task(events(session, server, call)) for call in ids_ for _ in range(3)]
        for call, socket in begun:
            async with session.delete(f"{server.url}/calls/{call}") as response:
                assert (await response.json())["state"] == "closed"
            await socket.close()
        for found in await asyncio.gather(*listeners):
            assert [event["seq"] for event in found] == list(range(len(found)))
            assert found[-1]["type"] == "session.end"


async def test_a_worker_that_is_killed_takes_its_own_calls_only(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT) as server, http() as session:
        begun = dict([await begin(session, server) for _ in range(4)])
        first, second = children(server)
        os.kill(first, signal.SIGKILL)
        await until(lambda: children(server) not in ([first, second], [second]), PATIENCE_S)

        lost = {call for call in begun if ids.worker_of(call) == 0}
        kept = set(begun) - lost
        assert len(lost) == len(kept) == 2
        assert {one["call"] for one in await calls(session, server)} == kept
        for call in lost:
            async with session.get(f"{server.url}/calls/{call}") as response:
                assert response.status == 404
        for call in kept:
            # It came in at either worker; one that came in at the dead one has lost its way, not its call.
            async with session.get(f"{server.url}/calls/{call}") as response:
                assert response.status == 200
        async with asyncio.timeout(PATIENCE_S):
            while True:
                call, socket = await begin(session, server)
                begun[call] = socket
                await asyncio.sleep(0.5)  # or there would be very many of them
                if ids.worker_of(call) == 0:  # it is back, and the least busy
                    break
        for socket in begun.values():
            await socket.close()


@pytest.mark.heavy
async def test_nothing_new_goes_to_a_worker_that_hangs(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT) as server, http() as session:
        stopped = children(server)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            await asyncio.sleep(STALE_S + 0.5)  # only time tells
            begun = [await begin(session, server) for _ in range(4)]
            assert {ids.worker_of(call) for call, _ in begun} == {1}
        finally:
            os.kill(stopped, signal.SIGCONT)
        for _, socket in begun:
            await socket.close()


async def test_websockets_are_passed_on_whole(tmp_path: Path) -> None:
    """Refusals with their body, messages of either kind, and the code of the close."""
    async with started("serve", tmp_path, *NO_STT) as server, http() as session:
        for _ in range(4):
            async with session.get(f"{server.url}/pcm?encoding=mp3", headers=UPGRADE) as response:
                assert response.status == 400 and "error_code" in await response.json()
        for _ in range(4):  # half of them at the other worker
            call, socket = await begin(session, server)
            await socket.send_json({"type": "close"})
            types = []
            async for message in socket:
                types.append(json.loads(message.data)["type"])
            assert types[-1] == "session.end" and socket.close_code == 1000


async def test_a_full_server_says_so(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT, "--max-calls", "2") as server, http() as session:
        assert await status(session, f"{server.url}/readyz") == 200
        (one, first), (other, second) = [await begin(session, server) for _ in range(2)]
        assert {ids.worker_of(one), ids.worker_of(other)} == {0, 1}
        for _ in range(4):
            async with session.get(f"{server.url}/readyz") as response:
                assert response.status == 503 and (await response.json())["error_code"] == "full"
                assert int(response.headers["Retry-After"]) > 0
            async with session.get(f"{server.url}/pcm", headers=UPGRADE) as response:
                assert response.status == 503 and (await response.json())["error_code"] == "full"
        await first.close()
        async with asyncio.timeout(PATIENCE_S):
            await answers(session, f"{server.url}/readyz", 200)
        await second.close()


async def test_the_recogniser_alone_has_workers_too(tmp_path: Path) -> None:
    """Its streams go to the worker that has room, whichever they came in at."""
    options = ("--workers", "2", "--max-streams", "2")
    query = "model=ink-2&encoding=pcm_s16le&sample_rate=16000"
    async with started("stt", tmp_path, *options) as server, http() as session:
        path = f"{server.url}/stt/turns/websocket?{query}"
        for _ in range(3):
            async with asyncio.timeout(PATIENCE_S):
                await answers(session, f"{server.url}/readyz", 200)
                streams = [await stream_with_room(session, path) for _ in range(2)]
            for _ in range(4):
                async with session.get(path, headers=UPGRADE) as response:
                    assert response.status == 429 and "error_code" in await response.json()
            async with asyncio.timeout(PATIENCE_S):
                await answers(session, f"{server.url}/readyz", 503)
            for stream in streams:
                await stream.close()
            async with asyncio.timeout(PATIENCE_S):
                await answers(session, f"{server.url}/readyz", 200)


async def stream_with_room(session: aiohttp.ClientSession, path: str) -> aiohttp.ClientWebSocketResponse:
    """A stream, as soon as one is free: one that was closed is given back a moment later."""
    while True:
        try:
            stream = await session.ws_connect(path)
        except aiohttp.WSServerHandshakeError as error:
            assert error.status == 429
            await asyncio.sleep(0.1)
            continue
        assert (await stream.receive_json())["type"] == "connected"
        return stream


async def test_requests_that_claim_to_be_from_inside_are_refused(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT) as server, http() as session:
        for forged in ({SECRET: "x"}, {SECRET: ""}, {CALLER: "127.0.0.1"}, {SECRET: "\udcff"}):
            for path in ("/calls", "/readyz", "/calls/x/events"):
                async with session.get(server.url + path, headers=forged) as response:
                    assert response.status == 403, (forged, path)


async def test_sigterm_lets_callers_finish(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT) as server, http() as session:
        call, socket = await begin(session, server)
        speaking = asyncio.create_task(speak(socket))
        server.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await answers(session, f"{server.url}/readyz", 503)
        async with session.get(f"{server.url}/pcm", headers=UPGRADE) as response:
            assert response.status == 503 and (await response.json())["error_code"] == "stopping"
        assert [one["call"] for one in await calls(session, server)] == [call]
        speaking.cancel()
        await socket.send_json({"type": "close"})
        last = [json.loads(message.data) async for message in socket if message.type is TEXT][-1]
        assert last["type"] == "session.end" and last["reason"] == "asked"
        assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0


async def test_the_workers_end_with_their_parent(tmp_path: Path) -> None:
    async with started("serve", tmp_path, *NO_STT) as server:
        workers = children(server)
        assert len(workers) == 2
        server.process.kill()
        await until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers), PATIENCE_S)


TEXT = aiohttp.WSMsgType.TEXT
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def speak(socket: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        await socket.send_bytes(SECOND[:3200])
        await asyncio.sleep(0.1)


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return response.status


async def answers(session: aiohttp.ClientSession, url: str, expected: int) -> None:
    """Returns once it does."""
    while await status(session, url) != expected:  # noqa: ASYNC110 (about another process)
        await asyncio.sleep(0.05)
