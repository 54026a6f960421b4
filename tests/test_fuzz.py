"""A few seconds of what `make fuzz` does for as long as it is told, always with the same inputs."""

from __future__ import annotations

import asyncio

import pytest
from test_server import SECRET, TONE, serving

from rtcstt.http.access import Authenticator
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets
from tests.fuzz import __main__ as fuzz
from tests.fuzz import datagrams, parsers, requests


def test_parsers_refuse_what_they_do_not_understand() -> None:
    found = parsers.run(1, inputs=4000)
    assert found.inputs == 4000 and found.refused > 400
    assert found.faults == []


def test_every_documented_request_is_tried() -> None:
    assert len(fuzz.routes()) > 25 and ("GET", "/calls/{id}/events") in fuzz.routes()


@pytest.mark.real
async def test_strange_requests_and_datagrams_leave_server_and_call_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    authenticator = Authenticator((fuzz.TOKEN,), SECRET, (fuzz.API_KEY,))
    async with serving(authenticator=authenticator, per_minute=1e9, max_calls=100) as (client, calls):
        caller = Caller(opus_packets(TONE), loopback=True)
        placing = fuzz.Placing(str(client.make_url("")).rstrip("/"))
        try:
            await caller.dial(placing)
            readers = [route for route in fuzz.routes() if route[0] not in ("DELETE", "PATCH")]
            target = requests.Target(
                str(client.host),
                int(str(client.port)),
                readers,
                fuzz.TOKENS,
                [placing.call],
                requests.READING,
            )
            found = await requests.run(target, 1, requests=100)
            assert found.faults == [] and found.requests >= 100
            sent = await datagrams.run(datagrams.ports_of(placing.sdp), 1, datagrams=1000)
            assert sent >= 1000
            call = calls.find(placing.call)
            received = call.ledgers()["0"]["received"]
            async with asyncio.timeout(30):
                while call.ledgers()["0"]["received"] == received:  # noqa: ASYNC110 (it is still received)
                    await asyncio.sleep(0.05)
            assert call.state == "open" and (await client.get("/healthz")).status == 200
            await caller.hang_up()
        finally:
            await caller.close()
    assert not [record for record in caplog.records if record.exc_info and record.name.startswith("rtcstt")]
