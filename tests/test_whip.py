"""WHIP, sentence by sentence of RFC 9725, and the ICE servers that callers are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from test_server import SECRET, TONE, Client, calling, events_of, refusal, serving, token

from rtcstt.http.access import Authenticator
from rtcstt.server.calls import Calls
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.connection import IceServer
from rtcstt.webrtc.playback import opus_packets

pytestmark = pytest.mark.real

STUN = IceServer("stun:stun.example.net")
TURN = IceServer("turn:turn.example.net?transport=udp", "user", 'my"Pass\\word')
LINKS = [
    '<stun:stun.example.net>; rel="ice-server"',
    '<turn:turn.example.net?transport=udp>; rel="ice-server"; username="user"; '
    'credential="my\\"Pass\\\\word"; credential-type="password"',
]
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
CANDIDATE = "a=mid:0\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\na=end-of-candidates\r\n"
STRANGE = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n"


class Posted:
    """Offers by hand, and keeps what was offered and what came back."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.offer = ""
        self.status = 0
        self.headers: Any = None

    async def answer(self, text: str) -> str:
        self.offer = text
        async with self._client.post("/whip", data=text, headers=SDP) as response:
            self.status, self.headers = response.status, response.headers.copy()
            return await response.text()

    @property
    def own_credentials(self) -> str:
        wanted = ("a=ice-ufrag:", "a=ice-pwd:")
        return "\r\n".join(line for line in self.offer.splitlines() if line.startswith(wanted)) + "\r\n"


@asynccontextmanager
async def session(**options: Any) -> AsyncIterator[tuple[Client, Calls, Posted]]:
    async with serving(**options) as (client, calls):
        posted, caller = Posted(client), Caller(opus_packets(TONE[:48000]), loopback=True)
        try:
            await caller.dial(posted)
            yield client, calls, posted
        finally:
            await caller.close()


async def test_a_session_from_post_to_delete() -> None:
    async with serving() as (client, calls), calling(client, "/whip", channel=False) as caller:
        location = f"/whip/{caller.call}"
        headers = {**FRAGMENT, "If-Match": f'"{caller.call}"'}
        assert (await client.patch(location, data=CANDIDATE, headers=headers)).status == 204
        await asyncio.sleep(0.3)
        ended = await client.delete(location, headers={"If-Match": '"of no matter"'})  # section 4.3.1
        assert ended.status == 200
        events = await events_of(client, str(caller.call))
        assert events[-1][1]["type"] == "session.end"
        assert events[-1][1]["ledger"]["0"]["received"] > 0
        assert calls.find(str(caller.call)).state == "closed"
        await refusal(await client.patch(location, data=CANDIDATE, headers=headers), 404)


async def test_a_created_session_says_where_it_is_and_what_it_takes() -> None:
    async with session(ice_servers=lambda: (STUN, TURN)) as (_, _, posted):
        assert posted.status == 201 and posted.headers["Content-Type"] == "application/sdp"
        id = posted.headers["Location"].removeprefix("/whip/")
        assert posted.headers["ETag"] == f'"{id}"', "a strong entity tag"
        assert posted.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
        links = posted.headers.getall("Link")
        assert links[:2] == LINKS
        assert links[2:] == [f'</calls/{id}/events>; rel="urn:rtcstt:events"']


async def test_the_endpoint_says_what_may_be_posted() -> None:
    async with serving() as (client, _):
        response = await client.options("/whip")
        assert (response.status, response.headers["Accept-Post"]) == (200, "application/sdp")
        assert (await client.options("/whip/x")).status == 200


async def test_endpoint_and_sessions_have_nothing_to_get() -> None:
    """Section 4.1: a successful response without content."""
    async with session() as (client, _, posted):
        for path in ("/whip", posted.headers["Location"]):
            response = await client.get(path)
            assert (response.status, await response.read()) == (204, b"")
        await refusal(await client.get("/whip/nope"), 404)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("v=0", {"Content-Type": "text/plain"}, 415),
        ("v=0", {**SDP, "Accept": "text/html"}, 406),
        ("v=0", SDP, 400),
        ("hello", SDP, 400),
    ],
)
async def test_what_is_no_offer_is_refused(body: str, headers: dict[str, str], status: int) -> None:
    async with serving() as (client, calls):
        await refusal(await client.post("/whip", data=body, headers=headers), status)
        assert calls.all() == []


async def test_trickled_candidates_need_the_sessions_entity_tag() -> None:
    async with session() as (client, _, posted):
        location, etag = posted.headers["Location"], posted.headers["ETag"]

        async def patch(body: str, **headers: str) -> aiohttp.ClientResponse:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.patch(location, data=body, headers={**FRAGMENT, **given})

        taken = await patch(posted.own_credentials + CANDIDATE, If_Match=etag)
        assert (taken.status, await taken.read()) == (204, b"") and "ETag" not in taken.headers
        assert (await patch(CANDIDATE, If_Match=f'"x", {etag}')).status == 204
        assert (await patch(posted.own_credentials + CANDIDATE, If_Match="*")).status == 204, "no restart"
        await refusal(await patch(CANDIDATE), 428)
        await refusal(await patch(CANDIDATE, If_Match='"x"'), 412)
        await refusal(await patch(CANDIDATE, If_Match=f"W/{etag}"), 412)
        await refusal(await patch(CANDIDATE, If_Match=etag, Content_Type="application/sdp"), 415)
        await refusal(await patch("hello", If_Match=etag), 400)
        tcp = "a=candidate:1 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\n"
        nowhere = "a=candidate:1 1 udp 1518280447 nowhere.invalid 9 typ host\r\n"
        assert (await patch(tcp + nowhere, If_Match=etag)).status == 204, "discarded in silence"


@pytest.mark.parametrize("wanted", ["*", None])
async def test_an_ice_restart_is_not_to_be_had(wanted: str | None) -> None:
    """Section 4.3.3: new credentials are a restart, whatever the entity tag."""
    async with session() as (client, calls, posted):
        headers = {**FRAGMENT, "If-Match": wanted or posted.headers["ETag"]}
        response = await client.patch(posted.headers["Location"], data=STRANGE, headers=headers)
        await refusal(response, 422, "no_ice_restart")
        assert [call.state for call in calls.all()] == ["open"]


async def test_pages_elsewhere_may_read_what_whip_needs() -> None:
    async with serving(origins=("https://my.page",)) as (client, _):
        asked = {"Origin": "https://my.page", "Access-Control-Request-Method": "PATCH"}
        answer = await client.options("/whip/x", headers=asked)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://my.page"
        methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
        assert {"POST", "PATCH", "DELETE"} <= set(methods)
        allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "content-type", "if-match"} <= set(allowed)
        refused = await client.post("/whip", headers={"Origin": "https://my.page"})
        exposed = refused.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"Location", "ETag", "Link", "Retry-After"} <= set(exposed)


async def test_ice_servers_are_for_those_who_may_publish() -> None:
    """Section 4.6: on OPTIONS as well, but never on the preflight of a browser."""
    servers = (STUN, TURN, IceServer("turn:no.login.example.net"))
    authenticator = Authenticator(("static-token",), SECRET)
    async with serving(authenticator=authenticator, ice_servers=lambda: servers) as (client, _):
        good = {"Authorization": "Bearer static-token"}
        listener = token(**{"may-publish": False})
        answer = await client.options("/whip", headers=good)
        assert answer.headers.getall("Link") == LINKS
        for headers in ({}, listener, {**good, "Access-Control-Request-Method": "POST"}):
            answer = await client.options("/whip", headers=headers)
            assert answer.status == 200 and "Link" not in answer.headers
        await refusal(await client.get("/ice-servers"), 401)
        await refusal(await client.get("/ice-servers", headers=listener), 403)
        answer = await client.get("/ice-servers", headers=good)
        assert answer.headers["Cache-Control"] == "no-store"
        assert await answer.json() == {
            "iceServers": [
                {"urls": STUN.url},
                {"urls": TURN.url, "username": TURN.username, "credential": TURN.credential},
            ]
        }
