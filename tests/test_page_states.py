"""Every state of the two pages: axe-core finds nothing, nothing is scrolled sideways; pictures to look at.

The pictures are in build/pictures/states, a file for each state, size and colours.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import npm
import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect
from test_page import KEEP_CONNECTIONS, LOSE_CONNECTION, PICTURES
from test_reading_view import FEED, NOTICES, WAIT_MS, Place, opened, place_of, start

pytestmark = [pytest.mark.real, pytest.mark.heavy, pytest.mark.asyncio(loop_scope="module")]

SIZES = [(1366, 650), (844, 390), (390, 844), (320, 256)]
FOLDER = PICTURES / "states"

CONVERSATION = [
    (0, 0.8, "Good morning, this is the service desk. How can I help? "),
    (1, 4.1, "Hello. My laptop shows a blue screen since this morning, and I have a talk at ten. "),
    (0, 9.6, "That is unfortunate. Do you see a code on it, or a square of dots? "),
    (1, 14.2, "Yes, it says zero x zero zero zero zero zero zero three B. "),
    (0, 19.9, "Thank you. Please hold the power button for ten seconds, then start it again. "),
    (1, 25.3, "One moment. "),
]
TALK = """(turns) => {
  const captions = document.getElementById("captions");
  window.seq = 3; // after what the server says of the beginning, before the end
  const call = new URLSearchParams(location.hash.slice(1)).get("call")
    ?? location.pathname.split("/").at(-1);
  const say = (event) => captions.receive({ call, seq: (window.seq += 0.001), time: 30, ...event });
  for (const track of ["0", "1"]) say({ type: "track.start", track });
  turns.forEach(([speaker, start, transcript], turn) => {
    const place = { track: String(speaker), turn, start, end: start + 3 };
    say({ type: "turn.end", ...place, transcript });
  });
  const newest = { track: "1", turn: 50, start: 27, end: 29 };
  say({ type: "turn.update", ...newest, transcript: "It is starting now, and I can see the" });
}"""
GAP = """() => {
  const captions = document.getElementById("captions");
  const call = new URLSearchParams(location.hash.slice(1)).get("call");
  const say = (event) => captions.receive({ call, seq: (window.seq += 0.001), time: 31, ...event });
  say({ type: "transcript.gap", track: "1", start: 30, end: 31.2, reason: "network" });
  say({ type: "turn.end", track: "1", turn: 51, start: 32, end: 34, transcript: "and there it is. " });
  for (const digit of "42") say({ type: "dtmf", track: "1", digit, duration_ms: 100 });
}"""


async def idle(page: Page) -> None:
    await expect(page.locator("#status")).to_have_text("Ready")


async def live(page: Page) -> None:
    await start(page)
    await expect(page.locator("#engine")).not_to_have_text("-", timeout=WAIT_MS)  # session.start has come
    await page.evaluate(TALK, CONVERSATION)


async def notices(page: Page) -> None:
    await live(page)
    await page.evaluate(NOTICES)


async def gap(page: Page) -> None:
    await live(page)
    await page.evaluate(GAP)


async def two_lines(page: Page) -> None:
    await page.evaluate("document.getElementById('captions').setAttribute('lines', '2')")
    await live(page)


async def full_screen(page: Page) -> None:
    await live(page)
    await page.click("#menu-button")
    await page.click("#display > summary")
    await page.get_by_role("button", name="Full screen").click()


async def resuming(page: Page) -> None:
    await live(page)

    async def refuse(route: Route) -> None:
        await route.abort()

    await page.route("**/offer", refuse)
    await page.route("**/calls/**", refuse)
    await page.evaluate(LOSE_CONNECTION)
    await expect(page.locator("#status")).to_contain_text("Connection lost", timeout=WAIT_MS)


async def ended(page: Page) -> None:
    await live(page)
    await page.click("#hangup")
    await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)


async def refused(page: Page) -> None:
    async def full(route: Route) -> None:
        body = {"title": "The server is full", "message": "It takes 5 calls at once."}
        await route.fulfill(status=503, json=body, headers={"Retry-After": "7"})

    await page.route("**/offer", full)
    await page.click("#start")
    await expect(page.locator("#status")).to_have_text("Not connected", timeout=WAIT_MS)


async def push_to_talk(page: Page) -> None:
    await page.click("text=Push to talk")
    await live(page)
    await page.keyboard.down("Space")
    await expect(page.locator("#talk")).to_have_attribute("aria-pressed", "true")


async def playground(page: Page) -> None:
    await page.click("#more > summary")


async def menu(page: Page) -> None:
    await live(page)
    await page.click("#menu-button")


async def all_panels(page: Page) -> None:
    await menu(page)
    for panel in await page.locator("#menu > details:visible > summary").all():
        await panel.click()
    await page.locator("#menu").evaluate("(menu) => (menu.scrollTop = 0)")


async def scrolled(page: Page) -> None:
    await start(page)
    await page.evaluate(FEED, {"from": 0, "to": 40})
    await page.locator("#captions .box").hover()
    await page.mouse.wheel(0, -300)
    await page.evaluate(FEED, {"from": 40, "to": 43})
    await expect(page.locator("#captions .newest")).to_be_visible(timeout=WAIT_MS)


async def watching(page: Page) -> None:
    await start(page)
    call = re.search("call=(.*)", page.url)
    assert call is not None
    reader = await page.context.new_page()
    await page.evaluate("window.onbeforeunload = null")
    await reader.goto(page.url.partition("#")[0] + f"watch/{call[1]}")
    await expect(reader.locator("#status")).to_have_text("Live", timeout=WAIT_MS)
    await reader.evaluate(TALK, CONVERSATION)


STATES: list[Callable[[Page], Awaitable[None]]] = [
    idle, live, notices, gap, two_lines, full_screen, resuming, ended, refused, push_to_talk, playground,
    menu, all_panels, scrolled, watching,
]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    async with place_of(chromium, tmp_path_factory.mktemp("place")) as both:
        yield both


@asynccontextmanager
async def in_state(
    place: Place, state: Callable[[Page], Awaitable[None]], colors: str
) -> AsyncIterator[Page]:
    how = {"forced_colors": "active"} if colors == "forced" else {"color_scheme": colors}
    async with opened(place, **how) as page:
        await page.add_init_script(KEEP_CONNECTIONS)
        await page.reload()
        await state(page)
        yield page.context.pages[-1]


def picture(state: Callable[[Page], Awaitable[None]], width: int, height: int, colors: str) -> Path:
    return FOLDER / f"{state.__name__}-{width}x{height}-{colors}.png"


@pytest.mark.parametrize("colors", ["light", "dark", "forced"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_state_of_the_page(
    place: Place, state: Callable[[Page], Awaitable[None]], colors: str
) -> None:
    axe = (npm.modules("axe") / "axe-core" / "axe.min.js").read_text()
    wrong = []
    async with in_state(place, state, colors) as page:
        await page.evaluate(axe)
        for width, height in SIZES:
            await page.set_viewport_size({"width": width, "height": height})
            await page.screenshot(path=picture(state, width, height, colors))
            result = await page.evaluate("axe.run()")
            for one in result["violations"]:
                wrong.append((width, one["id"], [node["html"] for node in one["nodes"]]))
            if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wrong.append((width, "scrolled sideways", []))
    assert not wrong
