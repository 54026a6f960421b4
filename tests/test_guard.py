"""The access check: permissions, tokens, hosts, origins, headers; the same for every route."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from rtcstt.call import CallSettings
from rtcstt.embedded.http.routes import add_routes
from rtcstt.embedded.service import Service
from rtcstt.errors import CallerError, ConfigError
from rtcstt.http.access import Authenticator, Permission
from rtcstt.http.guard import FAILED_LOGINS_PER_MINUTE, Guard, Hosts, Route, table
from rtcstt.server.admission import Limits
from rtcstt.server.app import Web
from rtcstt.server.calls import Calls
from rtcstt.server.context import Context
from rtcstt.testing import ScriptedUpstream
from rtcstt.webrtc.connection import PeerSettings

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECRET = "a secret of at least thirty-two characters"
TOKEN, API_KEY = "a static token of the test", "an API key of the test"
STT = ("GET", "/stt/turns/websocket")
Client = TestClient[web.Request, web.Application]


def signed(**claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 86_400, **claims}, SECRET, algorithm="HS256")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def whole_server(guard: Guard) -> web.Application:
    """Every route that `rtcstt serve` has, with a recogniser that nobody reaches."""

    async def no_service() -> Service:
        raise CallerError(503, "not_ready", "Not ready", "There is no recogniser here.")

    calls = Calls(
        stt=ScriptedUpstream(),
        settings=CallSettings(),
        peers=lambda: PeerSettings(loopback=True),
        limits=Limits(),
    )
    app = Web(Context(calls, guard, offers_per_minute=100_000)).application()
    add_routes(app, no_service, guard)
    return app


@asynccontextmanager
async def serving(authenticator: Authenticator | None = None, **options: Any) -> AsyncIterator[Client]:
    server = TestServer(whole_server(Guard(authenticator or Authenticator(), **options)))
    await server.start_server(auto_decompress=False)
    client: Client = TestClient(server)
    async with client:
        yield client


async def answer(client: Client, method: str, path: str, **options: Any) -> tuple[int, str]:
    """Status and error code of a request, with `ID` for what the path leaves open."""
    path = path.replace("{id}", "ID").replace("{name}", "transcript.txt")
    async with client.request(method, path, **options) as response:
        is_json = response.content_type == "application/json" and response.status >= 400 and method != "HEAD"
        return response.status, (await response.json())["error_code"] if is_json else ""


def guarded_routes() -> list[Route]:
    guard = Guard(Authenticator())
    whole_server(guard)
    return [route for route in guard.routes if route.permission is not Permission.PUBLIC]


# -- every route ---------------------------------------------------------------------------------------


async def test_a_route_that_names_no_permission_does_not_start() -> None:
    async def anything(request: web.Request) -> web.StreamResponse:
        return web.Response()

    app = whole_server(Guard(Authenticator()))
    app.router.add_get("/forgotten", anything)
    with pytest.raises(RuntimeError, match="/forgotten.*names no permission"):
        await TestServer(app).start_server()


COMBINATIONS = {
    "tokens": Authenticator((TOKEN,)),
    "signed tokens": Authenticator(jwt_secret=SECRET),
    "API keys": Authenticator(api_keys=(API_KEY,)),
    "tokens and API keys": Authenticator((TOKEN,), None, (API_KEY,)),
    "signed tokens and API keys": Authenticator((), SECRET, (API_KEY,)),
    "all three": Authenticator((TOKEN,), SECRET, (API_KEY,)),
}


@pytest.mark.parametrize("name", COMBINATIONS)
async def test_any_kind_of_token_closes_every_route(name: str) -> None:
    """With signed tokens alone the speech-to-text routes were open to everybody."""
    wrong = jwt.encode({"exp": time.time() + 60}, "another secret of thirty-two characters", "HS256")
    async with serving(COMBINATIONS[name]) as client:
        for route in guarded_routes():
            if route.in_message:
                continue
            assert await answer(client, route.method, route.path) == (401, "unauthorized"), route
        for given in (wrong, "nonsense", API_KEY if name in ("tokens", "signed tokens") else TOKEN + "x"):
            for method, path in (STT, ("POST", "/offer"), ("GET", "/metrics")):
                assert (await answer(client, method, path, headers=bearer(given)))[0] == 401


P = Permission
GRANTS = [
    ("tokens", TOKEN, set(P)),
    ("all three", TOKEN, set(P)),
    ("API keys", API_KEY, {P.TRANSCRIBE, P.ISSUE}),
    ("all three", API_KEY, {P.TRANSCRIBE, P.ISSUE}),
    ("all three", signed(), {P.PUBLISH, P.LISTEN, P.TRANSCRIBE, P.ISSUE, P.MONITOR}),
    ("signed tokens", signed(**{"may-listen": False}), {P.PUBLISH, P.TRANSCRIBE, P.ISSUE}),
    ("signed tokens", signed(**{"may-publish": False}), {P.LISTEN, P.MONITOR}),
    ("signed tokens", signed(**{"may-publish": False}, label="desk"), {P.LISTEN}),
    ("signed tokens", signed(**{"may-publish": False, "may-listen": False}), set()),
]


@pytest.mark.parametrize(("name", "token", "permissions"), GRANTS)
async def test_a_token_is_for_the_routes_of_its_permissions(
    name: str, token: str, permissions: set[Permission]
) -> None:
    async with serving(COMBINATIONS[name]) as client:
        for route in guarded_routes():
            if route.in_message:
                continue
            status, code = await answer(client, route.method, route.path, headers=bearer(token))
            assert (code == "forbidden") == (route.permission not in permissions), (route, status)
            assert status != 401, route


async def test_a_media_stream_shows_its_token_in_its_first_message() -> None:
    for name, parameters, reason in (
        ("tokens", {}, "token"),
        ("tokens", {"access_token": "wrong"}, "token"),
        ("signed tokens", {"access_token": signed(**{"may-publish": False})}, "publish"),
    ):
        async with serving(COMBINATIONS[name]) as client, client.ws_connect("/media-stream") as socket:
            await socket.send_json({"event": "start", "start": {"customParameters": parameters}})
            message = await socket.receive()
            assert socket.close_code == 1008 and reason in str(message.extra)


async def test_a_token_may_be_in_a_header_or_the_query() -> None:
    async with serving(COMBINATIONS["tokens"]) as client:
        for headers in (bearer(TOKEN), {"X-API-Key": TOKEN}, {"Authorization": f"bearer  {TOKEN} "}):
            assert (await answer(client, "GET", "/calls", headers=headers))[0] == 200
        for name in ("access_token", "api_key"):
            assert (await answer(client, "GET", "/calls", params={name: TOKEN}))[0] == 200


# -- signed tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"may_listen": False},
        {"mayListen": False},
        {"may-lisen": False},
        {"may-publish": "false"},
        {"may-listen": 0},
        {"may-listen": None},
        {"labels": "desk"},
        {"label": 7},
        {"label": ""},
        {"label": "x" * 201},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": 9e9},
        {"aud": "another"},
    ],
)
def test_a_misspelt_claim_gives_nothing(claims: dict[str, Any]) -> None:
    with pytest.raises(CallerError) as refused:
        Authenticator(jwt_secret=SECRET).admit(signed(**claims))
    assert refused.value.status == 401


def test_whose_a_token_is() -> None:
    """A renewed token with the same `sub` is the same caller's; static tokens tell their holders apart."""
    authenticator = Authenticator((TOKEN, "another static token"), SECRET)
    first = authenticator.admit(signed(sub="ada"))
    assert first.identity == authenticator.admit(signed(sub="ada", exp=time.time() + 120)).identity
    others = [signed(sub="bob"), signed(), signed(label="ada"), TOKEN, "another static token"]
    found = [authenticator.admit(token).identity for token in others]
    assert len({first.identity, *found}) == len(others) + 1 and all(found)
    assert TOKEN not in repr(authenticator.admit(TOKEN))


def test_an_access_token_ends_with_the_token_that_asked_for_it() -> None:
    authenticator = Authenticator(jwt_secret=SECRET)
    until = int(time.time()) + 30
    grant = authenticator.admit(signed(exp=until))
    token = authenticator.issue(grant, {"grants": {"stt": True}, "expires_in": 3600})
    assert jwt.decode(token, options={"verify_signature": False})["exp"] == until


def test_tokens_that_protect_nothing_are_refused_or_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text("x\n")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="protects nothing"):
        Authenticator.open(file)
    file.write_text("sesame\n")
    Authenticator.open(file)
    assert "1 of 1 tokens have fewer than 16 characters" in caplog.text and "sesame" not in caplog.text
    caplog.clear()
    file.write_text("0123456789abcdef\n")
    Authenticator.open(file)
    assert not caplog.records
    file.chmod(0o644)
    Authenticator.open(file)
    assert "can be read by every user" in caplog.text


# -- failed logins -------------------------------------------------------------------------------------


async def test_failed_logins_are_logged_without_the_token_and_slowed_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(COMBINATIONS["tokens"]) as client:
        for _ in range(FAILED_LOGINS_PER_MINUTE - 1):
            assert (await answer(client, "GET", "/calls", headers=bearer("guess")))[0] == 401
        forged = URL("/calls/x%0aWARNING%20forged?access_token=guess", encoded=True)
        async with client.get(forged, headers={"X-Forwarded-For": "guess"}) as response:
            assert response.status == 401
        logged = [record.message for record in caplog.records if record.name.startswith("rtcstt")]
        assert "login failed from 127.0.0.1: GET /calls: unauthorized" in logged
        assert not any("guess" in line or "\n" in line for line in logged)
        async with client.get("/calls", headers=bearer(TOKEN)) as response:
            assert response.status == 429 and int(response.headers["Retry-After"]) >= 1
        assert (await answer(client, "GET", "/calls"))[0] == 401
        assert (await answer(client, "GET", "/healthz"))[0] == 200


async def test_strangers_behind_the_same_address_lock_nobody_out() -> None:
    """As behind a proxy that is not named by --trusted-proxy."""
    async with serving(COMBINATIONS["all three"]) as client:
        assert (await answer(client, "GET", "/calls", headers=bearer(TOKEN)))[0] == 200
        for number in range(FAILED_LOGINS_PER_MINUTE + 5):
            await answer(client, "GET", "/calls", headers=bearer(f"guess {number}"))
        assert (await answer(client, "GET", "/calls", headers=bearer("guess")))[0] == 429
        assert (await answer(client, "GET", "/calls", headers=bearer(API_KEY)))[0] == 429
        for token in (TOKEN, signed()):
            assert (await answer(client, "GET", "/calls", headers=bearer(token)))[0] == 200


async def test_neither_a_missing_token_nor_an_expired_one_is_a_guess() -> None:
    async with serving(COMBINATIONS["signed tokens"]) as client:
        for headers in ({}, bearer(signed(exp=time.time() - 60))):
            for _ in range(FAILED_LOGINS_PER_MINUTE + 5):
                assert (await answer(client, "GET", "/calls", headers=headers))[0] == 401


@pytest.mark.parametrize("path", ["/pcm", "/media-stream", STT[1], "/stt/websocket"])
async def test_a_websocket_key_of_any_characters_is_no_server_error(path: str) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    query = "model=ink-2&encoding=pcm_s16le&sample_rate=16000"
    async with serving() as client:
        for key in ("dGhlIHNhbXBsZSBub2\U0001f600jZQ==", "\xff" * 24, "x", "=" * 24):
            got = await answer(
                client, "GET", f"{path}?{query}", headers={**upgrade, "Sec-WebSocket-Key": key}
            )
            assert got[0] < 500 or got[1] == "not_ready", (path, key, got)


HANDSHAKE = {
    "Connection": b"Upgrade",
    "Upgrade": b"websocket",
    "Sec-WebSocket-Version": b"13",
    "Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": b"media",
    "Sec-WebSocket-Extensions": b"permessage-deflate",
}


@pytest.mark.parametrize("name", HANDSHAKE)
async def test_a_handshake_of_any_bytes_is_refused(name: str) -> None:
    """What is no UTF-8 in a header that aiohttp would repeat in its own answer."""
    query = "model=ink-2&encoding=pcm_s16le&sample_rate=16000"
    async with serving() as client:
        for path in ("/pcm", "/media-stream", STT[1], "/stt/websocket"):
            sent = HANDSHAKE | {"Host": b"localhost", name: HANDSHAKE[name] + b"\xae\xff"}
            head = b"".join(key.encode() + b": " + value + b"\r\n" for key, value in sent.items())
            reader, writer = await asyncio.open_connection(client.host, client.port)
            writer.write(f"GET {path}?{query} HTTP/1.1\r\n".encode() + head + b"\r\n")
            status = await reader.readline()
            body = await reader.readuntil(b'"title"')
            writer.close()
            assert b" 400 " in status and b'"bad_handshake"' in body, (path, status, body)


@pytest.mark.parametrize("path", ["/pcm", "/media-stream"])
async def test_messages_of_gateways_are_not_compressed(path: str) -> None:
    async with serving() as client, client.ws_connect(path, compress=15) as socket:
        assert socket.compress == 0


# -- hosts and origins ---------------------------------------------------------------------------------

LOOPBACK_HOSTS = ["localhost", "localhost:8080", "page.localhost", "127.0.0.1:8080", "127.9.9.9", "[::1]:80"]
STRANGE_HOSTS = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
BROKEN_HOSTS = ["", "a b", "localhost@evil.example", "localhost:x", "[::1", "evil.example/localhost"]


@pytest.mark.parametrize("host", [*LOOPBACK_HOSTS, "192.168.1.7", "[2001:db8::1]:8080", None])
def test_hosts_that_no_dns_answer_can_lead_here(host: str | None) -> None:
    assert Hosts().allows(host)


@pytest.mark.parametrize("host", [*STRANGE_HOSTS, *BROKEN_HOSTS])
def test_hosts_of_strangers(host: str) -> None:
    assert not Hosts().allows(host)
    assert not Hosts(["stt.example.org", "::1"]).allows(host)


def test_hosts_that_are_allowed() -> None:
    hosts = Hosts(["STT.Example.org", "0.0.0.0", "::", "other.example:8443"])
    for host in ("stt.example.org", "stt.example.org.", "Stt.Example.Org:8080", "other.example"):
        assert hosts.allows(host)
    assert Hosts(["*"]).allows("anything.example")
    for name in ("http://stt.example.org", "a/b", ""):
        with pytest.raises(ConfigError, match="allow_host"):
            Hosts([name])


async def test_a_name_that_was_made_to_lead_here_reaches_nothing() -> None:
    """DNS rebinding: a page of evil.example that resolves to 127.0.0.1 is of the same origin as itself."""
    rebound = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
    async with serving() as client:
        for route in client.app.router.routes() if client.app else []:
            path = route.resource.canonical if route.resource else "/"
            for headers in (rebound, {"Host": "evil.example"}):
                got = await answer(client, route.method, path, headers=headers)
                assert got[0] == 403 and (got[1] == "host_not_allowed" or route.method == "HEAD"), route
        assert (await answer(client, "GET", "/nothing/here", headers=rebound))[0] == 403


async def test_pages_of_strangers_may_not_use_an_open_server() -> None:
    """Speech-to-text routes too: eight such sockets took every stream of a laptop."""
    async with serving(origins=("https://my.page",)) as client:
        here = f"http://{client.host}:{client.port}"
        for route in guarded_routes():
            for origin in (
                "https://evil.page",
                "null",
                "http://[",
                f"http://{client.host}:1",
                f"{here}.evil",
            ):
                got = await answer(client, route.method, route.path, headers={"Origin": origin})
                assert got == (403, "origin_not_allowed"), (route, origin)
            for origin in (here, "https://my.page"):
                got = await answer(client, route.method, route.path, headers={"Origin": origin})
                assert got[1] not in ("origin_not_allowed", "host_not_allowed"), (route, origin)
        for path in (
            "/pcm",
            "/media-stream",
            *(route.path for route in guarded_routes() if "socket" in route.path),
        ):
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect(path, origin="https://evil.page")
            assert refused.value.status == 403


async def test_with_a_key_pages_of_any_origin_may_use_the_speech_to_text_routes() -> None:
    async with serving(COMBINATIONS["all three"]) as client:
        origin = {"Origin": "https://page.example"}
        for route in guarded_routes():
            status, code = await answer(client, route.method, route.path, headers={**origin, **bearer(TOKEN)})
            assert (code == "origin_not_allowed") == (not route.any_origin), (route, status)
        async with client.options("/stt", headers=origin) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "*"
        async with client.options("/offer", headers=origin) as response:
            assert "Access-Control-Allow-Origin" not in response.headers


# -- headers, encodings, documentation -----------------------------------------------------------------


async def test_every_answer_has_the_headers_that_bind_browsers() -> None:
    async with serving(COMBINATIONS["tokens"], origins=("https://my.page",)) as client:
        for method, path in (
            ("GET", "/"),
            ("GET", "/static/page.js"),
            ("GET", "/healthz"),
            ("GET", "/calls"),
            ("GET", "/nothing"),
            ("POST", "/stt"),
        ):
            async with client.request(method, path) as response:
                headers = response.headers
                assert headers["Server"] == "rtcstt"
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Referrer-Policy"] == "no-referrer"
                assert headers["Permissions-Policy"].startswith("microphone=(self)")
                assert "frame-ancestors" in headers["Content-Security-Policy"]
                assert "unsafe" not in headers["Content-Security-Policy"]
        async with client.get("/") as response:
            policy = response.headers["Content-Security-Policy"]
            assert (
                policy.startswith("default-src 'self'") and "frame-ancestors 'self' https://my.page" in policy
            )
        async with client.get("/calls", headers=bearer(TOKEN)) as response:
            assert response.status == 200 and response.headers["Cache-Control"] == "no-store"


async def test_a_page_that_the_browser_has_kept_keeps_its_policy() -> None:
    """The headers of a 304 replace those of the kept answer (RFC 9111 section 3.2)."""
    async with serving() as client:
        async with client.get("/") as response:
            tag = response.headers["ETag"]
        async with client.get("/", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
            assert "default-src 'none'" not in response.headers.get("Content-Security-Policy", "")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "gzip, identity", "nonsense"])
async def test_compressed_bodies_are_refused_unread(encoding: str) -> None:
    async with serving() as client:
        headers = {"Content-Encoding": encoding}
        for method, path in (("POST", "/offer"), ("POST", "/whip"), ("POST", "/stt"), ("POST", "/nothing")):
            got = await answer(client, method, path, data=b"x" * 1000, headers=headers)
            assert got == (415, "unsupported_encoding")
        got = await answer(client, "POST", "/offer", data=b"{}", headers={"Content-Encoding": "identity"})
        assert got == (400, "bad_offer")


def shown(routes: Iterable[Route]) -> str:
    """The table of the documentation: the page's files as one line, and each request once."""
    files = ("/static/", ".js", ".ts", ".css", ".svg", ".html")
    return table(
        dataclasses.replace(route, summary=route.summary or "")
        for route in routes
        if route.method != "HEAD" and not any(part in route.path for part in files)
    )


def test_the_documentation_lists_every_route() -> None:
    guard = Guard(Authenticator())
    whole_server(guard)
    page = (DOCS / "security.md").read_text()
    assert shown(guard.routes) in page, "docs/security.md should have:\n" + shown(guard.routes)


async def test_a_list_is_json_whatever_is_in_it() -> None:
    guard = Guard(Authenticator())
    calls = Calls(
        stt=ScriptedUpstream(),
        settings=CallSettings(),
        peers=lambda: PeerSettings(loopback=True),
        limits=Limits(),
    )
    client: Client = TestClient(TestServer(Web(Context(calls, guard)).application()))
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    async with client:
        made = [calls.begin(metadata=metadata) for metadata in ({"x": float("inf")}, {"x": 1}, {"x": deep})]
        text = await (await client.get("/calls")).text()
        listed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["calls"]
        assert [call["call"] for call in listed] == [call.id for call in made]
        assert listed[1]["metadata"] == {"x": 1}
