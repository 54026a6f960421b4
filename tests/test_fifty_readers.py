"""Fifty pages of a real browser read one call along: each event once and in order, however late they came."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.async_api import BrowserContext, Page, expect
from processes import RTCSTT, started
from test_page import browser

from rtcstt.commands.demo import bundled_recording

pytestmark = [pytest.mark.real, pytest.mark.heavy]

WAIT_MS = 240_000
CONTEXTS, PAGES_EACH = 10, 5  # a browser opens six connections to a server for each of its profiles
TOLD = """
window.told = [];
document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("captions").addEventListener("reading", ({ detail: reading }) => {
    reading.on("*", (event) => event.type === "state" || window.told.push(event.seq));
  });
});
"""


async def open_pages(context: BrowserContext, url: str) -> list[Page]:
    await context.add_init_script(TOLD)
    pages = []
    for _ in range(PAGES_EACH):
        page = await context.new_page()
        page.on("pageerror", lambda error: pytest.fail(f"on the page: {error}"))
        await page.goto(url, timeout=WAIT_MS)
        pages.append(page)
    return pages


async def test_fifty_pages_read_one_call(chromium: str, tmp_path: Path) -> None:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    soundfile.write(
        tmp_path / "voice.wav", np.tile(samples, 40), rate
    )  # the call ends when all pages are open
    async with started("serve", tmp_path) as server, browser(chromium) as running:
        command = [str(RTCSTT), "call", str(tmp_path / "voice.wav"), "--to", f"{server.url}/offer"]
        caller = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(60):
            while not server.get("/calls")["calls"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # a process of its own has no event to wait for
        call = server.get("/calls")["calls"][0]["call"]
        pages: list[Page] = []
        for _ in range(CONTEXTS):
            pages += await open_pages(await running.new_context(), f"{server.url}/watch/{call}")
        assert server.get(f"/calls/{call}")["state"] == "open"
        for page in pages:  # each goes on with the call once it is open
            before = await page.evaluate("window.told.length")
            while await page.evaluate("window.told.length") == before:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the page's policy forbids what wait_for_function does
        server.hang_up(call)
        assert await caller.wait() == 0
        events = server.events(call)
        assert events[-1]["type"] == "session.end"
        for page in pages:
            await expect(page.locator("#status")).to_have_text(re.compile("Call ended"), timeout=WAIT_MS)
            assert await page.evaluate("window.told") == [event["seq"] for event in events]
            assert "worst of times" in (await page.inner_text("#captions .rows")).lower()
        assert len(pages) == 50
