"""Real Chromium against a server as a user starts it, without any option: a page of another origin, and one
whose own name was made to resolve to 127.0.0.1 (DNS rebinding), reach nothing."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright
from processes import Server, running

pytestmark = pytest.mark.real

NAMES = ("rebound.example", "attacker.example")
RULES = ", ".join(f"MAP {name} 127.0.0.1" for name in NAMES)
# What each attempt came to: the status that the page could read, or that it could read nothing.
ATTEMPTS = """async (base) => {
  const told = {};
  const tried = async (name, ask) => {
    try { told[name] = await ask(); } catch (error) { told[name] = "nothing"; }
  };
  const status = async (path, init) => (await fetch(base + path, init)).status;
  const socket = (path) => new Promise((resolve) => {
    const one = new WebSocket(base.replace("http", "ws") + path);
    one.onopen = () => resolve("open");
    one.onerror = () => resolve("nothing");
  });
  const json = (body) => ({ method: "POST", body: JSON.stringify(body) });
  const form = () => {
    const fields = new FormData();
    fields.append("file", new Blob([new Uint8Array(64)]), "a.wav");
    fields.append("model", "ink-whisper");
    return { method: "POST", body: fields };
  };
  for (const path of ["/", "/calls", "/metrics", "/healthz", "/ice-servers", "/static/page.js"]) {
    await tried(`GET ${path}`, () => status(path));
  }
  await tried("POST /offer", () => status("/offer", json({ type: "offer", sdp: "v=0" })));
  await tried("POST /whip", () => status("/whip", { method: "POST", body: "v=0" }));
  await tried("POST /access-token", () => status("/access-token", json({ grants: { stt: true } })));
  await tried("POST /stt", () => status("/stt", form()));
  await tried("POST /audio/transcriptions", () => status("/audio/transcriptions", form()));
  await tried("DELETE /calls/x", () => status("/calls/x", { method: "DELETE" }));
  const declared = "?model=ink-2&encoding=pcm_s16le&sample_rate=16000";
  const speech = ["/stt/websocket" + declared, "/stt/turns/websocket" + declared];
  for (const path of ["/pcm", "/media-stream", ...speech]) {
    await tried(`socket ${path}`, () => socket(path));
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


def nothing(told: dict[str, Any], refused: int | None) -> None:
    """``refused``: the status that a page may see, since it is of the origin that refuses it."""
    assert len(told) >= 16
    assert {name: came for name, came in told.items() if came not in ("nothing", refused)} == {}


async def test_a_page_of_another_origin_reaches_nothing(server: Server, attacker: int, page: Page) -> None:
    before = server.get("/calls")
    await page.goto(f"http://attacker.example:{attacker}/")
    nothing(await page.evaluate(ATTEMPTS, server.url), None)
    opaque = "async (url) => (await fetch(url, { mode: 'no-cors' })).type"
    assert await page.evaluate(opaque, server.url + "/calls") == "opaque", "nothing in it can be read"
    assert server.get("/calls") == before


async def test_a_page_whose_name_leads_here_reaches_nothing(server: Server, page: Page) -> None:
    port = urlsplit(server.url).port
    response = await page.goto(f"http://rebound.example:{port}/")
    assert response is not None and response.status == 403
    nothing(await page.evaluate(ATTEMPTS, f"http://rebound.example:{port}"), 403)
    assert server.get("/calls") == {"calls": []}


async def test_the_servers_own_page_reaches_what_it_needs(server: Server, page: Page) -> None:
    """The same attempts, which shows that they are not refused for another reason; and the page's policy
    is kept by the page itself."""
    broken: list[str] = []
    page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    response = await page.goto(server.url + "/")
    assert response is not None and response.status == 200
    assert broken == []
    told = await page.evaluate(ATTEMPTS, server.url)
    assert told["GET /calls"] == told["GET /metrics"] == told["POST /access-token"] == 200
    assert told["POST /offer"] == 400 and told["socket /pcm"] == "open"
    inline = "() => { const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
    assert await page.evaluate(inline + " document.body.append(one); return window.ran; }") is None
