"""A link to read one call along: its page, its token, its QR code."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree

import pytest
from aiohttp.test_utils import TestClient, TestServer

from rtcstt.call import CallSettings
from rtcstt.events import Dtmf
from rtcstt.http.access import Authenticator
from rtcstt.http.guard import Guard
from rtcstt.server.admission import Limits
from rtcstt.server.app import Web
from rtcstt.server.calls import Calls
from rtcstt.server.context import Context
from rtcstt.testing import ScriptedUpstream
from rtcstt.webrtc.connection import PeerSettings

pytestmark = pytest.mark.real

TOKEN = "a static token of the test"
MINE = {"Authorization": f"Bearer {TOKEN}"}


def server_of(authenticator: Authenticator) -> tuple[Calls, Web]:
    calls = Calls(
        stt=ScriptedUpstream(),
        settings=CallSettings(),
        peers=lambda: PeerSettings(loopback=True),
        limits=Limits(),
    )
    return calls, Web(Context(calls, Guard(authenticator)))


async def test_a_link_is_good_for_one_call_and_only_to_read() -> None:
    calls, web = server_of(Authenticator((TOKEN,)))
    async with TestClient(TestServer(web.application())) as client:
        call, other = calls.begin(), calls.begin()
        page = f"https://stt.example/rtcstt/watch/{call.id}"
        async with client.post(f"/calls/{call.id}/share", json={"page": page}, headers=MINE) as response:
            shared = await response.json()
        assert shared["url"].startswith(f"{page}?access_token=")
        assert ElementTree.fromstring(shared["qr"]).tag == "{http://www.w3.org/2000/svg}svg"
        reader = {"access_token": shared["url"].partition("=")[2]}

        async def status(method: str, path: str) -> int:
            async with client.request(method, path, params=reader, json={}) as response:
                return response.status

        assert await status("GET", f"/watch/{call.id}") == 200
        assert await status("GET", f"/calls/{call.id}") == 200
        assert await status("GET", f"/calls/{call.id}/transcript.txt") == 200
        assert await status("GET", f"/calls/{other.id}") == 404
        assert await status("GET", f"/calls/{other.id}/events") == 404
        for method, path in (("DELETE", f"/calls/{call.id}"), ("POST", "/offer"), ("GET", "/metrics")):
            assert await status(method, path) == 403
        async with client.get("/calls", params=reader) as response:
            assert [one["call"] for one in (await response.json())["calls"]] == [call.id]
        async with client.get(f"/watch/{call.id}") as response:
            assert response.status == 401


async def test_without_tokens_the_link_has_none() -> None:
    calls, web = server_of(Authenticator())
    async with TestClient(TestServer(web.application())) as client:
        call = calls.begin()
        page = f"http://127.0.0.1/watch/{call.id}"
        async with client.post(f"/calls/{call.id}/share", json={"page": page}) as response:
            assert (await response.json())["url"] == page
        async with client.get(f"/watch/{call.id}") as response:
            assert response.content_type == "text/html"


@pytest.mark.parametrize(
    "page",
    [None, "", "watch/ID", "javascript:watch/ID", "https://x/calls/ID", "https://x/watch/ID?a=b", "http://["],
)
async def test_only_the_page_of_the_call_becomes_a_link(page: str | None) -> None:
    calls, web = server_of(Authenticator())
    async with TestClient(TestServer(web.application())) as client:
        call = calls.begin()
        body = {"page": page and page.replace("ID", call.id)}
        async with client.post(f"/calls/{call.id}/share", json=body) as response:
            assert response.status == 400
            assert "page must be" in (await response.json())["message"]


async def test_fifty_readers_get_each_event_once_and_in_order() -> None:
    calls, web = server_of(Authenticator())
    async with TestClient(TestServer(web.application())) as client:
        call = calls.begin()

        async def read() -> list[int]:
            async with client.get(f"/calls/{call.id}/events") as response:
                lines = (await response.text()).splitlines()
            return [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]

        readers = []
        for number in range(50):  # each comes a little later than the one before
            readers.append(asyncio.create_task(read()))
            await asyncio.sleep(0)
            call.publish(Dtmf(track="0", digit=str(number % 10), duration_ms=100))
        closing = asyncio.create_task(call.close())
        seen = await asyncio.gather(*readers)
        await closing
        assert seen == [list(range(52))] * 50  # session.start, 50 keys, session.end
