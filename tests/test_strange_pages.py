"""Real Chromium against a server as a user starts it, without any option: a page of another origin, and one
whose own name was made to resolve to 127.0.0.1 (DNS rebinding), reach nothing."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright
from processes import Server, running

from tests.descriptions import AUDIO, SESSION
from tests.fuzz.__main__ import routes

pytestmark = pytest.mark.real

NAMES = ("rebound.example", "attacker.example")
RULES = ", ".join(f"MAP {name} 127.0.0.1" for name in NAMES)
SOCKETS = ("/pcm", "/media-stream", "/stt/websocket", "/stt/turns/websocket")
# What each attempt came to: the status that the page could read, or that it could read nothing.
ATTEMPTS = """async ([base, routes, sockets]) => {
  const told = {};
  const tried = async (name, ask) => {
    try { told[name] = await ask(); } catch (error) { told[name] = "nothing"; }
  };
  const answered = (one) => new Promise((resolve) => {
    one.onopen = () => resolve("open");
    one.onerror = () => resolve("nothing");
  });
  const form = () => {
    const fields = new FormData();
    fields.append("file", new Blob([new Uint8Array(64)]), "a.wav");
    fields.append("model", "ink-whisper");
    return fields;
  };
  const body = (path) => {
    if (path === "/offer") return JSON.stringify({ type: "offer", sdp: "v=0" });
    if (path === "/access-token") return JSON.stringify({ grants: { stt: true } });
    return /stt|audio/.test(path) ? form() : "v=0";
  };
  for (const [method, path] of routes) {
    const init = ["GET", "HEAD", "OPTIONS"].includes(method) ? { method } : { method, body: body(path) };
    await tried(`${method} ${path}`, async () => (await fetch(base + path, init)).status);
    if (path.endsWith("/events")) await tried(`stream ${path}`, () => answered(new EventSource(base + path)));
  }
  for (const path of sockets) {
    const declared = path + "?model=ink-2&encoding=pcm_s16le&sample_rate=16000";
    await tried(`socket ${path}`, () => answered(new WebSocket(base.replace("http", "ws") + declared)));
  }
  return told;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("serve", tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def attacker(tmp_path: Path) -> Iterator[int]:
    """The port of a stranger's own server, with a page."""
    (tmp_path / "index.html").write_text("<!doctype html><title>a stranger's page</title>")
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as there:
        thread = threading.Thread(target=there.serve_forever)
        thread.start()
        yield there.server_address[1]
        there.shutdown()
        thread.join()


@pytest_asyncio.fixture
async def page(chromium: str) -> AsyncIterator[Page]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    async with async_playwright() as playwright:
        rules = f"--host-resolver-rules={RULES}"
        browser = await playwright.chromium.launch(executable_path=chromium, args=[*flags, rules])
        yield await browser.new_page()
        await browser.close()


async def attempts(page: Page, base: str, call: str) -> dict[str, Any]:
    """Every route of the documentation, with a call that is there, an event stream, and the sockets."""
    found = [(method, path) for method, path in routes() if path not in SOCKETS]
    found += [("GET", "/static/page.js"), ("OPTIONS", "/offer")]
    paths = [[m, path.replace("{id}", call).replace("{name}", "transcript.txt")] for m, path in found]
    told = await page.evaluate(ATTEMPTS, [base, paths, list(SOCKETS)])
    assert isinstance(told, dict) and len(told) == len(found) + len(SOCKETS) + 1
    return told


def placed(server: Server) -> str:
    """The id of a call that somebody else placed."""
    body = json.dumps({"type": "offer", "sdp": SESSION + AUDIO}).encode()
    with urllib.request.urlopen(server.url + "/offer", body) as response:
        return str(json.load(response)["call"])


def nothing(told: dict[str, Any], refused: int | None) -> None:
    """``refused``: the status that a page may see, since it is of the origin that refuses it."""
    assert {name: came for name, came in told.items() if came not in ("nothing", refused)} == {}


async def test_a_page_of_another_origin_reaches_nothing(server: Server, attacker: int, page: Page) -> None:
    call = placed(server)
    await page.goto(f"http://attacker.example:{attacker}/")
    nothing(await attempts(page, server.url, call), None)
    opaque = "async (url) => (await fetch(url, { mode: 'no-cors' })).type"
    assert await page.evaluate(opaque, server.url + "/calls") == "opaque", "nothing in it can be read"
    assert [one["call"] for one in server.get("/calls")["calls"]] == [call], "and no other was placed"


async def test_a_page_whose_name_leads_here_reaches_nothing(server: Server, page: Page) -> None:
    port, before = urlsplit(server.url).port, len(server.get("/calls")["calls"])
    call = placed(server)
    response = await page.goto(f"http://rebound.example:{port}/")
    assert response is not None and response.status == 403
    nothing(await attempts(page, f"http://rebound.example:{port}", call), 403)
    assert len(server.get("/calls")["calls"]) == before + 1


async def test_the_servers_own_page_reaches_what_it_needs(server: Server, page: Page) -> None:
    """The same attempts, which shows that they are not refused for another reason; and the page's policy
    is kept by the page itself."""
    broken: list[str] = []
    page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    response = await page.goto(server.url + "/")
    assert response is not None and response.status == 200
    assert broken == []
    call = placed(server)
    told = await attempts(page, server.url, call)
    assert told["GET /calls"] == told["GET /metrics"] == told["POST /access-token"] == 200
    assert told[f"DELETE /calls/{call}"] == told[f"GET /calls/{call}/transcript.txt"] == 200
    assert told["POST /offer"] == 400 and told[f"stream /calls/{call}/events"] == "open"
    assert [told[f"socket {path}"] for path in SOCKETS] == ["open"] * 4
    inline = "() => { const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
    assert await page.evaluate(inline + " document.body.append(one); return window.ran; }") is None
