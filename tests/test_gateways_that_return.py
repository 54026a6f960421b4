"""Gateways whose connection breaks while their server lives: they come back, and the call goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import WSServerHandshakeError
from test_gateways import AUDIO, PCM, WORDS, cut, ended, of_call, play, start, stream, text, told
from test_server import serving

from rtcstt.http.access import Authenticator
from rtcstt.server import entries
from rtcstt.server.calls import Calls
from rtcstt.testing import silence, speech

pytestmark = pytest.mark.real

MORE = "it was the worst of times"
REST = np.concatenate([speech(MORE), silence(0.8)])
AWAY_S = 0.6  # more than a loss that is not told


def break_off(socket: aiohttp.ClientWebSocketResponse) -> None:
    """The connection is gone, without a close frame."""
    connection = socket._response.connection
    assert connection is not None and connection.transport is not None
    connection.transport.abort()


async def waiting(calls: Calls) -> str:
    """The only call, once its server has seen that the connection is lost."""
    (call,) = calls.all()
    async with asyncio.timeout(20):
        while calls.entry(call.id).waiting is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return call.id


def check_one_call(events: list[dict[str, Any]], track: str = "0") -> None:
    """Its words before and after, turns numbered on, and the time between them as missing."""
    assert text(events, track).split() == f"{WORDS} {MORE}".split()
    turns = [event["turn"] for event in events if event["type"] == "turn.end" and event["track"] == track]
    assert turns == list(range(len(turns)))
    assert [event["track"] for event in events if event["type"] == "track.start"].count(track) == 1
    (gap,) = events[-1]["missing"]
    assert gap["reason"] == "network" and not events[-1]["complete"]
    begin = len(AUDIO) / 16000
    assert gap["start"] == pytest.approx(begin, abs=1.5) and gap["end"] - gap["start"] > AWAY_S / 2


async def test_pcm_goes_on_with_the_gateways_own_id() -> None:
    url = PCM + "&session=b2c3-d4"
    async with serving(grace_s=60.0) as (client, calls):
        async with client.ws_connect(url) as socket:
            await play(socket, AUDIO)
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect(url)
            assert refused.value.status == 409, "it is connected"
            break_off(socket)
        await waiting(calls)
        await asyncio.sleep(AWAY_S)
        async with client.ws_connect(url) as socket:
            await play(socket, REST)
            await socket.send_str('{"type": "close"}')
            events = await told(socket)
        assert [event["seq"] for event in events] == list(range(len(events))), "all of them, again"
    check_one_call(events)


async def test_a_media_stream_goes_on_by_the_id_of_its_telephone_call() -> None:
    async with serving(grace_s=60.0, authenticator=Authenticator(("secret", "other"))) as (client, calls):
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json(start("audio/x-l16", 16000, access_token="secret"))
            frames = cut(AUDIO.tobytes(), 640)
            await stream(socket, {"inbound": frames}, stops=False)
            break_off(socket)
        call = await waiting(calls)
        await asyncio.sleep(AWAY_S)
        async with client.ws_connect("/media-stream") as socket:  # somebody else's, with the same id
            await socket.send_json(start("audio/x-l16", 16000, access_token="other"))
            await stream(socket, {"inbound": frames[:5]})
            await told(socket)
        assert len(calls.all()) == 2
        async with client.ws_connect("/media-stream") as socket:
            await socket.send_json(start("audio/x-l16", 16000, access_token="secret") | {"streamSid": "MZ2"})
            await stream(socket, {"inbound": cut(REST.tobytes(), 640)})
            await told(socket)
        assert len(calls.all()) == 2
        await asyncio.wait_for(calls.find(call).wait_closed(), 60)
        headers = {"Authorization": "Bearer secret"}
        response = await client.get(f"/calls/{call}", headers=headers)
        assert (await response.json())["state"] == "closed"
        events = [event.as_dict() for event in calls.find(call).feed.history]
        check_one_call(events, "inbound")
        async with client.ws_connect("/media-stream") as socket:  # after `stop` it is another call
            await socket.send_json(start("audio/x-l16", 16000, access_token="secret"))
            await stream(socket, {"inbound": frames[:5]})
            await told(socket)
        assert len(calls.all()) == 3


async def test_two_streams_of_one_telephone_call_are_two_calls() -> None:
    async with serving(grace_s=60.0) as (client, calls):
        sockets = [await client.ws_connect("/media-stream") for _ in range(2)]
        for socket in sockets:
            await socket.send_json(start("audio/x-l16", 16000))
            await stream(socket, {"inbound": cut(AUDIO.tobytes(), 640)[:20]}, stops=False)
        assert len(calls.all()) == 2
        for socket in sockets:
            await socket.close()


async def test_a_connection_that_is_silent_gives_way_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is gone closes nothing; the gateway may notice first."""
    monkeypatch.setattr(entries, "QUIET_S", 0.3)
    async with serving(grace_s=60.0) as (client, calls):
        first = await client.ws_connect(PCM)
        await play(first, AUDIO)
        await asyncio.sleep(AWAY_S)
        (call,) = calls.all()
        async with client.ws_connect(f"{PCM}&call={call.id}") as second:
            await play(second, REST)
            await second.send_str('{"type": "close"}')
            events = await told(second)
        assert (await first.receive()).type is not aiohttp.WSMsgType.BINARY
        assert len(calls.all()) == 1
    check_one_call(events)


async def test_a_gateway_that_does_not_come_back_ends_its_call() -> None:
    async with serving(grace_s=0.3) as (client, calls):
        async with client.ws_connect(PCM) as socket:
            await play(socket, AUDIO)
            break_off(socket)
        call = await ended(calls)
        events = await of_call(client, call)
    assert events[-1]["reason"] == "connection lost" and text(events) == WORDS


async def test_an_id_that_is_none_is_refused() -> None:
    async with serving(grace_s=60.0) as (client, _):
        for session in ("", "x" * 129):
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect(f"{PCM}&session={session}")
            assert refused.value.status == 400
