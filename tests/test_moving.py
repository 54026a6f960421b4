"""Real callers whose server is killed, or drains, while they speak: they go on at another one.

With real speech and the embedded recogniser, whose words differ a little with how the audio is cut; so the
exact claims (no word lost, none twice) are those of test_restored.py. Here it is that nothing is missing that
should not be, and that turns, numbers, clock and ledger go on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from ports import free_port
from processes import Server, check_events, started, until
from redis_server import RedisServer, redis_server

from rtcstt.commands.demo import bundled_recording
from rtcstt.media.files import read
from rtcstt.media.rtp import PACKET_S
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import PACKET_SAMPLES, TIME_BASE, opus_packets, silence_packet

pytestmark = pytest.mark.real

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return opus_packets(read(bundled_recording()))


class Voice(MediaStreamTrack):
    """A recording from a moment on that several connections may share, then silence."""

    kind = "audio"

    def __init__(self, packets: list[bytes], begun: float) -> None:
        super().__init__()
        self._packets, self._begun = packets, begun
        self._next = max(0, round((asyncio.get_running_loop().time() - begun) / PACKET_S))

    async def recv(self) -> av.Packet:
        index = self._next
        self._next += 1
        await asyncio.sleep(max(0.0, self._begun + index * PACKET_S - asyncio.get_running_loop().time()))
        packet = av.Packet(self._packets[index] if index < len(self._packets) else silence_packet())
        packet.pts = packet.dts = index * PACKET_SAMPLES
        packet.time_base = TIME_BASE
        return packet


class Talker:
    """A caller with one connection after the other."""

    def __init__(self, session: aiohttp.ClientSession, packets: list[bytes]) -> None:
        self._session, self._packets = session, packets
        self._connections: list[RTCPeerConnection] = []
        self._begun = asyncio.get_running_loop().time()
        self.call: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.asked_to_move = asyncio.Event()

    @property
    def id(self) -> str:
        return str(self.call["call"])

    async def offer(self, server: Server) -> None:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connections.append(pc)
        pc.addTrack(Voice(self._packets, self._begun))
        pc.createDataChannel("events").on("message", self._received)
        await pc.setLocalDescription(await pc.createOffer())
        body: dict[str, Any] = {"sdp": pc.localDescription.sdp, "type": "offer"}
        if self.call:
            body |= {"call": self.call["call"], "resume": self.call["resume"]}
        async with self._session.post(f"{server.url}/offer", json=body) as response:
            self.call = await response.json()
            assert response.status == 200, self.call
        await pc.setRemoteDescription(RTCSessionDescription(self.call["sdp"], "answer"))

    async def close(self) -> None:
        for pc in self._connections:
            await pc.close()

    def _received(self, text: str) -> None:
        self.events.append(json.loads(text))
        if self.events[-1]["type"] == "session.move":
            self.asked_to_move.set()


async def spoken(session: aiohttp.ClientSession, server: Server, call: str) -> None:
    """Returns when some words are there, and were written."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(f"{server.url}/calls/{call}") as response:
                if response.status == 200 and any((await response.json())["turns"]):
                    return
            await asyncio.sleep(0.1)


async def hung_up(session: aiohttp.ClientSession, server: Server, call: str) -> list[dict[str, Any]]:
    """The events of the call, after its end."""
    async with session.delete(f"{server.url}/calls/{call}") as response:
        assert response.status == 200 and (await response.json())["state"] == "closed"
    async with session.get(f"{server.url}/calls/{call}/events") as response:
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


def check_turns(events: list[dict[str, Any]]) -> str:
    """Every turn ends once, numbered on; what was said of it only grows. The text."""
    check_events(events)
    times = [event["time"] for event in events]
    assert times == sorted(times)
    ended = [event for event in events if event["type"] == "turn.end"]
    assert [event["turn"] for event in ended] == list(range(len(ended)))
    return "".join(event["transcript"] for event in ended)


@contextlib.asynccontextmanager
async def two_servers(
    redis: RedisServer, folder: Path
) -> AsyncIterator[tuple[aiohttp.ClientSession, Server, Server]]:
    """The first of which the test kills, or has drained."""
    options = ("--redis", redis.url)
    async with (
        started("serve", folder, *options) as one,
        started("serve", folder, *options) as other,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
    ):
        yield session, one, other


async def killed(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGKILL)
    await asyncio.to_thread(server.process.wait)


async def test_the_caller_of_a_killed_server_goes_on_at_another(
    redis: RedisServer, packets: list[bytes], tmp_path: Path
) -> None:
    async with two_servers(redis, tmp_path) as (session, one, other):
        talker = Talker(session, packets)
        await talker.offer(one)
        await spoken(session, other, talker.id)
        async with asyncio.timeout(PATIENCE_S):
            while not any(event["type"].startswith("turn.") for event in talker.events):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until the data channel has brought one
        before = list(talker.events)
        await killed(one)
        await talker.offer(other)
        await asyncio.sleep(4.0)  # of speech
        events = await hung_up(session, other, talker.id)
        await talker.close()
    text = check_turns(events)
    assert text.strip()
    first = [event for event in before if event["type"].startswith("turn.")][0]
    assert [event for event in events if event["seq"] == first["seq"]] == [first]
    assert "server" in [gap["reason"] for gap in events[-1]["missing"]] and not events[-1]["complete"]


async def test_the_caller_of_a_server_that_drains_moves_without_a_gap(
    redis: RedisServer, packets: list[bytes], tmp_path: Path
) -> None:
    async with two_servers(redis, tmp_path) as (session, one, other):
        talker = Talker(session, packets)
        await talker.offer(one)
        await spoken(session, other, talker.id)
        one.process.terminate()
        await asyncio.wait_for(talker.asked_to_move.wait(), PATIENCE_S)
        await talker.offer(one)  # a balancer may not know yet; this server passes it on
        assert await asyncio.to_thread(one.process.wait, PATIENCE_S) == 0
        await asyncio.sleep(3.0)  # of speech
        events = await hung_up(session, other, talker.id)
        await talker.close()
    assert check_turns(events).strip()
    assert events[-1]["complete"] and events[-1]["missing"] == []
    assert [event["type"] for event in events].count("session.move") == 1
    assert [event for event in talker.events if event["type"] == "session.end"] == [events[-1]]


async def test_the_caller_for_tests_offers_again_by_itself(
    redis: RedisServer, packets: list[bytes], tmp_path: Path
) -> None:
    """First its server is killed, then the next one drains; what listens at its address is another one."""
    port = free_port()
    options = ("--redis", redis.url, "--port", str(port))
    caller = Caller(packets, loopback=True, resume_s=PATIENCE_S)
    types: list[str] = []
    async with (
        started("serve", tmp_path, "--redis", redis.url) as other,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
    ):
        async with started("serve", tmp_path, *options) as one:
            await caller.dial(f"{one.url}/offer")
            assert caller.call
            await spoken(session, other, caller.call)
            await killed(one)
        async with started("serve", tmp_path, *options) as again:
            await until(lambda: caller.resumed == 1, PATIENCE_S)
            again.process.terminate()
            await until(lambda: caller.resumed == 2, PATIENCE_S)
            assert await asyncio.to_thread(again.process.wait, PATIENCE_S) == 0
        await caller.hang_up()
        events = await asyncio.to_thread(other.events, caller.call)
        types = [str(event["type"]) async for event in caller.events()]
    assert check_turns(events).strip()
    assert types[-1] == "session.end" and types.count("session.move") == 1
    assert {gap["reason"] for gap in events[-1]["missing"]} == {"server"}


async def test_gateways_and_a_whip_caller_go_on_elsewhere(
    redis: RedisServer, packets: list[bytes], tmp_path: Path
) -> None:
    """Their server is killed in mid-sentence; who has no `session.move` says which call it is, by its id here
    or by the gateway's own. The latter have come from a server that lives, where their connection broke."""
    async with two_servers(redis, tmp_path) as (session, one, other):
        known: list[Gateway | WhipCaller] = [Gateway(session), WhipCaller(session, packets)]
        returning = [Gateway(session, "pcm-1"), MediaStream(session, "CA-1")]
        for gateway in returning:
            await gateway.connect(other)
            await spoken(session, one, gateway.call)
            gateway.break_off()
            await until(partial(has_logged, other, f"call {gateway.call}: connection lost"))
        sources = [*known, *returning]
        for source in sources:
            await source.connect(one)
        for source in known:
            assert await source.refusal(one) == "call_connected"
        for source in sources:
            await spoken(session, other, source.call)
        assert all(has_logged(one, f"call {gateway.call}: moved here") for gateway in returning)
        await killed(one)
        for source in sources:
            await source.connect(other)
        await asyncio.sleep(3.0)  # of speech
        for source in sources:
            events = await hung_up(session, other, source.call)
            await source.close()
            assert check_turns(events).strip()
            gaps = [gap["reason"] for gap in events[-1]["missing"]]
            assert gaps.count("server") == (2 if source in returning else 1)
            assert len({event["track"] for event in events if event["type"] == "track.start"}) == 1
            assert events[-1]["reason"] == "hung up" and not events[-1]["complete"]


def has_logged(server: Server, text: str) -> bool:
    return text in server.log.read_text()


class Gateway:
    """A recording at its pace over `/pcm`, over one connection after the other. ``own``: its id for it."""

    def __init__(self, session: aiohttp.ClientSession, own: str = "") -> None:
        self._session = session
        self._samples = read(bundled_recording(), 16000)
        self._begun = asyncio.get_running_loop().time()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._talking: list[asyncio.Task[None]] = []
        self._own = own
        self.call = ""

    async def connect(self, server: Server) -> None:
        params = {"sample_rate": "16000"}
        if self._own:
            params["session"] = self._own
        elif self.call:
            params["call"] = self.call
        socket = await self._session.ws_connect(f"{server.url}/pcm", params=params)
        self.call = self.call or (await socket.receive_json())["call"]
        self._begin(socket)

    async def refusal(self, server: Server) -> str:
        """How a second connection for the call is refused."""
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        async with self._session.get(
            f"{server.url}/pcm", params={"call": self.call}, headers=headers
        ) as response:
            assert response.status == 409
            return str((await response.json())["error_code"])

    def break_off(self) -> None:
        """Without a close frame."""
        connection = self._socket._response.connection if self._socket is not None else None
        assert connection is not None and connection.transport is not None
        connection.transport.abort()

    async def close(self) -> None:
        for task in self._talking:
            task.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)

    def _begin(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._talking.append(asyncio.create_task(self._talk(socket)))

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        while not socket.closed:
            at = int((loop.time() - self._begun) * 10)
            chunk = self._samples[at * 1600 : (at + 1) * 1600]
            await asyncio.sleep(max(0.0, self._begun + (at + 1) / 10 - loop.time()))
            await self._send(socket, chunk.tobytes() or bytes(3200))

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, data: bytes) -> None:
        await socket.send_bytes(data)


class MediaStream(Gateway):
    """The same in JSON, as Twilio does it; the call is found by its label."""

    async def connect(self, server: Server) -> None:
        socket = await self._session.ws_connect(f"{server.url}/media-stream")
        form = {"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 1}
        await socket.send_json({"event": "start", "start": {"callSid": self._own, "mediaFormat": form}})
        self._begin(socket)
        async with asyncio.timeout(PATIENCE_S):
            while not self.call:
                async with self._session.get(f"{server.url}/calls") as response:
                    calls = (await response.json())["calls"]
                self.call = next((call["call"] for call in calls if call["label"] == self._own), "")
                await asyncio.sleep(0.05)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, data: bytes) -> None:
        payload = base64.b64encode(data).decode()
        await socket.send_json({"event": "media", "media": {"track": "inbound", "payload": payload}})


class WhipCaller:
    """The same with WHIP."""

    def __init__(self, session: aiohttp.ClientSession, packets: list[bytes]) -> None:
        self._session, self._packets = session, packets
        self._begun = asyncio.get_running_loop().time()
        self._connections: list[RTCPeerConnection] = []
        self.call = ""

    async def connect(self, server: Server) -> None:
        status, answer, location = await self._post(server)
        assert status == 201, answer
        self.call = self.call or location.rsplit("/", 1)[-1]
        assert location.endswith(self.call)
        await self._connections[-1].setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(PATIENCE_S):
            while self._connections[-1].connectionState != "connected":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)  # of speech

    async def refusal(self, server: Server) -> str:
        status, answer, _ = await self._post(server)
        assert status == 409
        return str(json.loads(answer)["error_code"])

    async def close(self) -> None:
        for pc in self._connections:
            await pc.close()

    async def _post(self, server: Server) -> tuple[int, str, str]:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connections.append(pc)
        pc.addTrack(Voice(self._packets, self._begun))
        await pc.setLocalDescription(await pc.createOffer())
        params = {"call": self.call} if self.call else {}
        headers = {"Content-Type": "application/sdp"}
        body = pc.localDescription.sdp
        async with self._session.post(
            f"{server.url}/whip", params=params, headers=headers, data=body
        ) as response:
            return response.status, await response.text(), response.headers.get("Location", "")
