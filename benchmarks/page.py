"""`python -m benchmarks.page`: what the page costs a browser, and how soon it says that the server is gone.

Chromium and playwright are needed (`make test` brings both).

- An update of a call with so many turns: all that the main thread does for it (script, style, layout, paint),
  one update in each frame, at 1366x650; as Chromium counts it (TaskDuration).
- A server that was killed, or that stands still (SIGSTOP, as when the network is gone): until the caller's
  page and a reader's are not "Live" any more.
"""

from __future__ import annotations

import argparse
import asyncio
import mimetypes
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, Route, async_playwright

from benchmarks.table import markdown

STATIC = Path(__file__).resolve().parents[1] / "rtcstt" / "server" / "static"
FLAGS = (
    "--no-sandbox --disable-gpu --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    " --allow-loopback-in-peer-connection"
)
TURNS = (30, 300, 3000)
UPDATES = 200
WAIT_MS = 60_000

FILL = """([from, to]) => {
  const captions = document.getElementById("captions");
  window.seq ??= 0;
  for (let turn = from; turn < to; turn++) {
    const place = { call: "C", seq: ++window.seq, time: 1, track: String(turn % 2), turn };
    const transcript = `It was the best of times, it was the worst of times, number ${turn}. `;
    captions.receive({ type: "turn.end", ...place, start: 3 * turn, end: 3 * turn + 2, transcript });
  }
}"""
UPDATE = """async ([turn, count]) => {
  const captions = document.getElementById("captions");
  for (let n = 0; n < count; n++) {
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const place = { call: "C", seq: ++window.seq, time: 1, track: "0", turn, start: 3 * turn, end: 3 * turn };
    const transcript = "It was the age of wisdom, ".repeat(1 + (n % 12));
    captions.receive({ type: "turn.update", ...place, transcript });
  }
}"""


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield running
        await running.close()


async def serve_file(route: Route) -> None:
    """The page without a server."""
    path = route.request.url.partition("://")[2].partition("/")[2].partition("?")[0]
    file = STATIC / (path.removeprefix("static/") or "index.html")
    kind = "text/javascript" if file.suffix == ".js" else mimetypes.guess_type(file.name)[0]
    await route.fulfill(body=file.read_bytes(), content_type=kind or "application/octet-stream")


async def updates(running: Browser) -> list[Sequence[str | float]]:
    page = await running.new_page(viewport={"width": 1366, "height": 650})
    await page.route("**/*", serve_file)
    await page.goto("http://127.0.0.1/")
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")

    async def busy_s() -> float:
        metrics = (await session.send("Performance.getMetrics"))["metrics"]
        return {metric["name"]: float(metric["value"]) for metric in metrics}["TaskDuration"]

    rows: list[Sequence[str | float]] = []
    filled = 0
    for turns in TURNS:
        await page.evaluate(FILL, [filled, turns])
        filled = turns
        await page.evaluate(UPDATE, [turns, 20])
        before = await busy_s()
        await page.evaluate(UPDATE, [turns, UPDATES])
        rows.append([str(turns), f"{1000 * (await busy_s() - before) / UPDATES:.2f}"])
        filled += 1
    await page.close()
    return rows


@asynccontextmanager
async def server() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    program = str(Path(sys.executable).with_name("rtcstt"))
    with tempfile.TemporaryFile() as log:
        command = [program, "serve", "--port", "0", "--model", "tiny-en"]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            while b"listening on " not in (text := _read(log.fileno())):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            yield process, text.partition(b"listening on ")[2].split()[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _read(descriptor: int) -> bytes:

    return os.pread(descriptor, 100_000, 0)


async def noticed_s(page: Page, since: float) -> float:
    while (await page.locator("#status").text_content()) == "Live":
        if time.monotonic() > since + WAIT_MS / 1000:
            return float("inf")
        await asyncio.sleep(0.02)
    return time.monotonic() - since


async def gone(running: Browser, what: signal.Signals) -> tuple[float, float]:
    async with server() as (process, url):
        context = await running.new_context()
        page = await context.new_page()
        await page.goto(url)
        await page.click("#start")
        await page.wait_for_selector("#status[data-state=live]", timeout=WAIT_MS)
        reader = await (await running.new_context()).new_page()
        await reader.goto(f"{url.rstrip('/')}/watch/{page.url.partition('#call=')[2]}")
        await reader.wait_for_selector("#status[data-state=live]", timeout=WAIT_MS)
        await asyncio.sleep(2)
        process.send_signal(what)
        since = time.monotonic()
        both = await asyncio.gather(noticed_s(page, since), noticed_s(reader, since))
        await page.close(run_before_unload=False)
        return both


async def main(trials: int) -> None:
    async with browser() as running:
        print(markdown(["turns shown", "main thread for one update, ms"], await updates(running)))
        rows: list[Sequence[str | float]] = []
        for name, what in (("killed", signal.SIGKILL), ("stands still", signal.SIGSTOP)):
            found = [await gone(running, what) for _ in range(trials)]
            row = [name]
            for times in zip(*found, strict=True):
                row.append(f"{statistics.median(times):.1f} / {max(times):.1f}")
            rows.append(row)
        print(markdown(["the server", "caller's page, s, median / longest", "reader's page"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=5, help="servers that go, of each kind")
    asyncio.run(main(parser.parse_args().trials))
