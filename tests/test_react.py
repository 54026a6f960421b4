"""The recipe for React in docs/captions-in-my-page.md: built by vite, in StrictMode, in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import npm
import pytest
from playwright.async_api import expect
from processes import started
from test_page import browser

from rtcstt.testing import ScriptedUpstream

pytestmark = [pytest.mark.real, pytest.mark.heavy]

DOCS = Path(__file__).resolve().parents[1] / "docs" / "captions-in-my-page.md"
WAIT_MS = 60_000
MAIN = """
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { Captions } from "./captions.jsx";

const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
const url = new URLSearchParams(location.search).get("server");

function Page() {
  const [shown, show] = useState(true);
  return (
    <>
      <button onClick={() => show(!shown)}>Show</button>
      {shown && <Captions stream={stream} url={url} />}
    </>
  );
}
createRoot(document.getElementById("root")).render(<StrictMode><Page /></StrictMode>);
"""
CONFIG = """
import react from "@vitejs/plugin-react";
export default { plugins: [react()], build: { target: "es2022", minify: false }, mode: "development" };
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    modules = npm.modules("react")
    project = tmp_path_factory.mktemp("react")
    (project / "node_modules").mkdir()
    for one in modules.iterdir():
        (project / "node_modules" / one.name).symlink_to(one)
    npm.install_ours(project)
    (recipe,) = re.findall(r"```jsx\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    (project / "captions.jsx").write_text(recipe)
    (project / "main.jsx").write_text(MAIN)
    (project / "vite.config.mjs").write_text(CONFIG)
    (project / "package.json").write_text('{"type": "module"}')
    page = '<div id="root"></div><script type="module" src="/main.jsx"></script>'
    (project / "index.html").write_text(f"<!doctype html>{page}")
    vite = [str(project / "node_modules" / ".bin" / "vite"), "build", "--mode", "development"]
    subprocess.run(vite, cwd=project, check=True, capture_output=True)
    return project / "dist"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_component_places_one_call_and_ends_it_when_it_leaves(
    built: Path, chromium: str, tmp_path: Path
) -> None:
    with served(built) as origin:
        async with (
            ScriptedUpstream() as upstream,
            upstream.listening() as stt,
            started("serve", tmp_path, "--stt", stt, "--allow-origin", origin) as server,
            browser(chromium) as running,
        ):
            page = await running.new_page()
            page.on("pageerror", lambda error: pytest.fail(f"on the page: {error}"))
            await page.goto(f"{origin}/?server={server.url}")
            await expect(page.get_by_role("status")).to_have_text("live", timeout=WAIT_MS)
            event = {"type": "turn.end", "call": "C", "seq": 0, "time": 1, "track": "0", "turn": 0}
            event |= {"start": 0, "end": 1, "transcript": "Hello."}
            await page.evaluate("(event) => document.querySelector('rtcstt-captions').receive(event)", event)
            await expect(page.locator("rtcstt-captions .said")).to_have_text("Hello.")
            calls = server.get("/calls")["calls"]
            assert sum(call["state"] == "open" for call in calls) == 1, "StrictMode mounts twice"
            await page.click("button")
            async with asyncio.timeout(WAIT_MS / 1000):
                while any(call["state"] != "closed" for call in server.get("/calls")["calls"]):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # a process of its own has no event to wait for
