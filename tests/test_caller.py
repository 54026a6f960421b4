"""The test caller against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from rtcstt.errors import CallerError, ConfigError
from rtcstt.media.files import read
from rtcstt.server.assembly import application
from rtcstt.server.settings import Settings
from rtcstt.testing import ScriptedUpstream
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.impairment import GilbertElliottLoss, Network
from rtcstt.webrtc.playback import opus_packets
from rtcstt.webrtc.signaling import open_signaling

pytestmark = pytest.mark.real

HALF_SECOND = opus_packets(np.zeros(24000, np.int16))


@asynccontextmanager
async def server(**options: object) -> AsyncIterator[str]:
    async with ScriptedUpstream() as upstream, upstream.listening() as stt:
        settings = Settings(port=0, **{"stt": (stt,), **options})  # type: ignore[arg-type]
        async with application(settings, {}) as app:
            runner = web.AppRunner(app, shutdown_timeout=0.5)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()


@pytest.mark.parametrize("signaling", ["/offer", "/whip"])
@pytest.mark.parametrize("channel", [True, False])
async def test_events_come_over_the_channel_or_by_http(signaling: str, channel: bool) -> None:
    async with server() as url:
        caller = Caller(HALF_SECOND, loopback=True, channel=channel)
        await caller.dial(url + signaling)
        assert caller.call
        await caller.played()
        await caller.hang_up()
        types = [event["type"] async for event in caller.events()]
        assert (types[0], types[-1]) == ("session.start", "session.end")
        assert caller.started is not None


async def test_a_server_that_answers_with_sdp_and_type_alone_is_called_all_the_same() -> None:
    """As aiortc's own examples do: no calls, no events, nothing to wait for at the end."""
    peers, sent = [], asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        offer = await request.json()
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peers.append(pc)

        @pc.on("datachannel")
        def greet(channel: RTCDataChannel) -> None:
            channel.send('{"type": "hello"}')
            sent.set()

        await pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
        await pc.setLocalDescription(await pc.createAnswer())
        return web.json_response({"sdp": pc.localDescription.sdp, "type": pc.localDescription.type})

    app = web.Application()
    app.router.add_post("/offer", answer)
    async with TestServer(app) as server:
        caller = Caller(HALF_SECOND, loopback=True)
        await caller.dial(str(server.make_url("/offer")))
        await caller.played()
        async with asyncio.timeout(60):
            await sent.wait()
        await caller.hang_up()
        assert caller.call is None and not caller.drains
        assert [event["type"] async for event in caller.events()] in ([], ["hello"])
    for pc in peers:
        await pc.close()


async def test_no_more_calls_come_in_than_the_recogniser_holds() -> None:
    """A call more would wait for its words until another ends, or longer than its audio is kept."""
    async with server(stt=("embedded",), max_streams=1, max_calls=5) as url:
        first, second = Caller(HALF_SECOND, loopback=True), Caller(HALF_SECOND, loopback=True)
        await first.dial(url + "/offer")
        with pytest.raises(CallerError) as refusal:
            await second.dial(url + "/offer")
        assert refusal.value.status == 503
        await second.close()
        await first.hang_up()
        await first.close()


async def test_a_token_is_shown_and_its_lack_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    async with server(token_file=tmp_path / "tokens") as url:
        stranger = Caller(HALF_SECOND, loopback=True)
        with pytest.raises(CallerError) as refusal:
            await stranger.dial(url + "/offer")
        assert refusal.value.status == 401
        await stranger.close()
        friend = Caller(HALF_SECOND, loopback=True, channel=False)
        await friend.dial(url + "/whip", token="secret")
        await friend.hang_up()
        assert friend.received[-1][1]["type"] == "session.end"


async def test_what_is_no_server_is_said() -> None:
    with pytest.raises(ConfigError, match="is not the URL of a server"):
        open_signaling("localhost:8080")
    caller = Caller(HALF_SECOND, loopback=True)
    with pytest.raises(CallerError, match="127.0.0.1:9"):
        await caller.dial("http://127.0.0.1:9/offer")
    await caller.close()
    await caller.close()


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read audio"):
        read(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(ConfigError, match="cannot read audio"):
        read(tmp_path / "text.wav")


@pytest.mark.parametrize(("loss", "burst"), [(0.0, 1), (0.05, 1), (0.2, 3), (1.0, 1)])
def test_loss_is_what_was_asked_for(loss: float, burst: float) -> None:
    network = Network(loss=loss, burst=burst, jitter_ms=20, seed=1)
    model, again = GilbertElliottLoss(network), GilbertElliottLoss(network)
    delays = [model.next_delay_s() for _ in range(20000)]
    assert delays == [again.next_delay_s() for _ in range(20000)]
    lost = [delay is None for delay in delays]
    assert np.mean(lost) == pytest.approx(loss, abs=0.02)
    runs = np.diff(np.flatnonzero(np.diff([0, *lost, 0])))[::2]
    if 0 < loss < 1:
        assert np.mean(runs) == pytest.approx(burst, rel=0.15)
    assert all(0 <= delay <= 0.02 for delay in delays if delay is not None)
