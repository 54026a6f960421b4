"""Every task on the pages by keyboard alone, with the focus seen at each step; what a screen reader is told.

No step uses a pointer: `Keys.to` presses Tab until the control is reached that has a name, and holds at each
stop that it is in view, not covered, and marked as focused.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from test_page import KEEP_CONNECTIONS
from test_reading_view import FEED, NOTICES, Place, opened, place_of

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module"), pytest.mark.heavy]

STOPS = 120  # of Tab, at most, until a control must have been reached

FOCUSED = """async () => {
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  await frame();
  await frame(); // until it was scrolled to
  let at = document.activeElement;
  while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  if (at === document.body || at.localName === "rtcstt-captions") return { name: "", wrong: "" };
  const text = at.labels?.[0]?.innerText ?? at.innerText;
  const name = (at.getAttribute("aria-label") ?? text ?? "").replace(/\\s+/g, " ").trim();
  const shown = at.type === "radio" ? at.nextElementSibling : at;
  const style = getComputedStyle(shown);
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const box = shown.getBoundingClientRect();
  const x = (Math.max(0, box.left) + Math.min(innerWidth, box.right)) / 2;
  const y = (Math.max(0, box.top) + Math.min(innerHeight, box.bottom)) / 2;
  let top = document.elementFromPoint(x, y);
  while (top?.shadowRoot?.elementFromPoint(x, y) && top.shadowRoot.elementFromPoint(x, y) !== top) {
    top = top.shadowRoot.elementFromPoint(x, y);
  }
  const seen = top && (shown === top || shown.contains(top) || top.contains(shown));
  let wrong = "";
  if (!name) wrong = "it has no name";
  else if (!ring) wrong = `its focus is not seen: ${style.outline}`;
  else if (!seen) wrong = `something covers it: ${top?.outerHTML.slice(0, 80)}`;
  return { name, wrong: wrong && `${at.outerHTML.slice(0, 120)}: ${wrong}` };
}"""


class Keys:
    """Somebody at a page who has a keyboard and no pointer."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def type(self, text: str) -> None:
        await self.page.keyboard.type(text)

    async def focused(self) -> str:
        found: dict[str, str] = await self.page.evaluate(FOCUSED)
        assert not found["wrong"], found["wrong"]
        return found["name"]

    async def to(self, name: str, *, back: bool = False) -> None:
        passed = [await self.focused()]
        while not passed[-1].startswith(name):
            assert len(passed) < STOPS, f"{name!r} is not reached by Tab; what is: {sorted(set(passed))}"
            await self.press("Shift+Tab" if back else "Tab")
            passed.append(await self.focused())

    async def panel(self, title: str) -> None:
        """Unfold a part of the menu."""
        await self.to(title)
        await self.press("Enter")

    async def status(self, words: str) -> None:
        await expect(self.page.locator("#status")).to_have_text(re.compile(words))

    async def clipboard(self) -> str:
        text: str = await self.page.evaluate("navigator.clipboard.readText()")
        return text


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with place_of(chromium, tmp_path_factory.mktemp("place")) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module")
async def keys(place: Place) -> AsyncIterator[Keys]:
    async with opened(place) as page:
        await page.context.grant_permissions(["clipboard-read", "clipboard-write", "microphone"])
        yield Keys(page)


async def started_by(keys: Keys) -> None:
    await keys.to("Start")
    await keys.press("Enter")
    await keys.status("^Live")


async def test_a_call_from_start_to_end(keys: Keys) -> None:
    await started_by(keys)
    assert await keys.focused() == "Mute"
    await keys.press("Space")
    assert await keys.focused() == "Unmute"
    await keys.press("Enter")
    assert await keys.focused() == "Mute"
    await keys.to("Hang up")
    await keys.press("Enter")
    await keys.status("Call ended")
    assert await keys.focused() == "Start"
    await keys.press("Enter")
    await keys.status("^Live")


async def test_push_to_talk_held_and_switched(keys: Keys) -> None:
    talk = keys.page.locator("#talk")
    await keys.to("Automatic")
    await keys.press("ArrowRight")
    assert await keys.focused() == "Push to talk"
    await started_by(keys)
    assert (await keys.focused()).startswith("Hold to talk")
    for key in ("Space", "Enter"):
        await keys.page.keyboard.down(key)
        await expect(talk).to_have_attribute("aria-pressed", "true")
        await keys.page.keyboard.up(key)
        await expect(talk).to_have_attribute("aria-pressed", "false")
    await keys.to("Captions")  # where the space bar means nothing else
    await keys.page.keyboard.down("Space")
    await expect(talk).to_have_attribute("aria-pressed", "true")
    await keys.page.keyboard.up("Space")
    await expect(talk).to_have_attribute("aria-pressed", "false")
    await keys.to("Hang up")
    await keys.press("Enter")
    await keys.status("Call ended")

    await keys.to("Sound and settings")
    await keys.press("Enter")
    await keys.to("More")
    await keys.press("Enter")
    await keys.to("Push to talk: press once")
    await keys.press("Space")
    await started_by(keys)
    assert (await keys.focused()).startswith("Press to talk")
    for pressed in ("true", "false"):
        await keys.press("Enter")
        await expect(talk).to_have_attribute("aria-pressed", pressed)


async def test_a_recording_is_chosen(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"no recording")
    await keys.to("Microphone")
    await keys.press("ArrowRight")
    assert await keys.focused() == "Recording"
    await keys.to("Audio or video file")
    async with keys.page.expect_file_chooser() as chooser:
        await keys.press("Enter")
    await (await chooser.value).set_files(tmp_path / "talk.wav")
    await keys.to("Start")
    await keys.press("Enter")
    await expect(keys.page.locator("#notices")).to_contain_text("cannot read that file")
    await keys.to("Dismiss")
    await keys.press("Enter")
    await expect(keys.page.locator(".notice")).to_have_count(0)


async def test_the_playground(keys: Keys) -> None:
    await keys.to("More")
    await keys.press("Enter")
    for label, text in {
        "Language": "en",
        "Name of the call": "Stand-up",
        "Key terms": "rtcstt, Ada",
        "Start threshold": "0.7",
        "This silence ends": "900",
    }.items():
        await keys.to(label)
        await keys.type(text)
    async with keys.page.expect_request("**/offer") as offered:
        await started_by(keys)
    offer = (await offered.value).post_data_json
    assert offer is not None
    assert (offer["language"], offer["keyterms"], offer["label"]) == ("en", ["rtcstt", "Ada"], "Stand-up")
    assert offer["turn"] == {"start_threshold": 0.7, "end_timeout_ms": 900}
    await keys.to("Menu")
    await keys.press("Enter")
    await keys.panel("For developers")
    for name, text in {"JavaScript": 'language: "en"', "Python": "urllib", "curl": "curl -N"}.items():
        await keys.to(f"Copy as {name}")
        await keys.press("Enter")
        await expect(keys.page.get_by_role("button", name="Copied").first).to_be_visible()
        assert text in await keys.clipboard()
    await keys.to("Events, newest last")
    assert "session.start" in await keys.page.inner_text("#events")


async def test_how_captions_look(keys: Keys) -> None:
    page = keys.page
    captions = page.locator("#captions")
    await page.evaluate(FEED, {"from": 0, "to": 9})
    await keys.to("Menu")
    await keys.press("Enter")
    assert await keys.focused() == "Display", "the menu is where to go on"
    await keys.press("Enter")
    await keys.to("A+")
    await keys.press("Enter", "Enter")
    await expect(captions).to_have_attribute("size", "150")
    await keys.to("A−", back=True)
    await keys.press("Space")
    await expect(captions).to_have_attribute("size", "125")
    for label, first, attribute, value in (
        ("Font", "For", "font", "dyslexic"),
        ("Spacing", "Wider", "spacing", "wider"),
        ("Colours", "White", "colors", "contrast"),
        ("Lines", "The last two", "lines", "2"),
    ):
        await keys.to(label)
        await keys.type(first)
        await expect(captions).to_have_attribute(attribute, value)
    for label, attribute in (("Show times", "times"), ("Underline words", "unsure")):
        await keys.to(label)
        await keys.press("Space")
        await expect(captions).to_have_attribute(attribute, "1")
    await keys.to("Full screen")
    await keys.press("Enter")
    in_full_screen = "document.fullscreenElement?.id ?? ''"
    assert await page.evaluate(in_full_screen) == "captions"
    await page.evaluate("document.exitFullscreen()")  # Escape is the browser's own, which a test cannot press
    await keys.press("Escape")
    await expect(page.locator("#menu")).to_be_hidden()
    assert await keys.focused() == "Menu", "back where the menu was opened"


async def test_names_search_copies(keys: Keys) -> None:
    page = keys.page
    await page.evaluate(FEED, {"from": 0, "to": 40, "open": False})
    await keys.to("Menu")
    await keys.press("Enter")
    await keys.panel("Speakers")
    await keys.to("Name of speaker 1")
    await keys.type("Ada")
    await keys.panel("Search")
    await keys.to("Find in the captions")
    await keys.type("number 1")
    count = page.locator("#search output")
    await expect(count).to_have_text("11 of 11")
    await keys.press("Enter")
    await expect(count).to_have_text("10 of 11")
    await keys.to("Later")
    await keys.press("Enter")
    await expect(count).to_have_text("11 of 11")
    await keys.panel("Copy and save")
    await keys.to("Copy the text")
    await keys.press("Enter")
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert (await keys.clipboard()).count("worst of times") == 40
    await keys.to("Copy with times")
    await keys.press("Enter")
    await expect(page.get_by_role("button", name="Copied")).to_have_count(2)
    assert "[1:57]" in await keys.clipboard()
    await keys.to("Save all")
    async with page.expect_download() as saved:
        await keys.press("Enter")
    assert "[1:57]" in (await (await saved.value).path()).read_text()


async def test_the_captions_are_scrolled_and_followed_again(keys: Keys) -> None:
    page = keys.page
    await page.evaluate(FEED, {"from": 0, "to": 60})
    await keys.to("Captions")
    await keys.press("PageUp")
    newest = page.locator("#captions .newest")
    await expect(newest).to_be_visible()
    await keys.to("Newest")
    await keys.press("Enter")
    await expect(newest).to_be_hidden()
    assert await keys.focused() == "Captions", "focus is not lost with the button"


async def test_a_link_past_calls_and_leaving(keys: Keys, place: Place) -> None:
    page = keys.page
    await started_by(keys)
    call = page.url.partition("#call=")[2]
    await keys.to("Menu")
    await keys.press("Enter")
    await keys.panel("Share")
    await expect(page.locator("#share .qr svg")).to_be_visible()
    await keys.to("Copy the link")
    await keys.press("Enter")
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = await keys.clipboard()
    assert link.endswith(f"/watch/{call}")

    reader = await page.context.new_page()
    await reader.goto(link)
    reading = Keys(reader)
    await reading.status("^Live")
    await reading.to("Captions")
    await reading.to("Menu")
    await reading.press("Enter")
    await reading.panel("Display")
    await reading.to("Lines")
    await reading.type("The last two")
    await expect(reader.locator("#captions")).to_have_attribute("lines", "2")
    await reader.close()

    asked: list[str] = []

    async def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    async with page.expect_event("dialog"):
        await page.evaluate("setTimeout(() => location.reload())")  # as F5, which is the browser's own
    assert asked == ["beforeunload"]
    await keys.status("^Live")

    await keys.to("Hang up", back=True)
    await keys.press("Enter")
    await keys.status("Call ended")
    await keys.panel("Calls")
    await keys.to("Look again")
    await keys.press("Enter")
    entry = page.locator("#calls li button").first
    await keys.to((await entry.inner_text()).strip(), back=True)
    await keys.press("Enter")
    await expect(page).to_have_url(re.compile(f"#call={call}"))
    await keys.status("Call ended")


async def test_a_token_is_asked_for_where_it_is_entered(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a token of the test\n")
    async with (
        place_of(chromium, tmp_path, "--token-file", str(tmp_path / "tokens")) as own,
        opened(own) as page,
    ):
        keys = Keys(page)
        await keys.to("Start")
        await keys.press("Enter")
        await expect(page.locator("#notices")).to_contain_text("access token")
        assert await keys.focused() == "Access token"
        await keys.type("a token of the test")
        await keys.press("Enter")
        await keys.status("^Live")


# -- what a screen reader is told -----------------------------------------------------------------------

SAY = """(events) => events.forEach((event) => document.getElementById("captions").receive({
  call: "C", seq: (window.seq = (window.seq ?? 0) + 1), time: 1, track: "0", turn: 0, start: 0, end: 1,
  ...event,
}))"""


async def live_regions(page: Page) -> dict[str, str]:
    """Name or role of each live region, as the browser gives it to a screen reader, and how urgent it is."""
    session = await page.context.new_cdp_session(page)
    nodes = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    regions = {}
    for node in nodes:
        live = [one["value"]["value"] for one in node.get("properties", []) if one["name"] == "live"]
        root = [one for one in node.get("properties", []) if one["name"] == "root"]
        if live and not root:
            regions[node["name"]["value"] or node["role"]["value"]] = live[0]
    return regions


async def test_live_regions(keys: Keys) -> None:
    page = keys.page
    regions = await live_regions(page)
    assert regions.pop("Notices") == "assertive"
    assert regions.pop("Finished turns") == regions.pop("status") == "polite"
    told = page.locator("#captions [role=log] p")
    await page.evaluate(SAY, [{"type": "turn.update", "transcript": "Good mor"}])
    await expect(told).to_have_count(0)  # updates would drown a screen reader
    turn = {"type": "turn.end", "transcript": "Good morning. "}
    gap = {"type": "transcript.gap", "start": 2, "end": 3.5, "reason": "network"}
    await page.evaluate(SAY, [turn, gap, {**turn, "track": "1", "transcript": "Hello. "}])
    await page.evaluate(SAY, [{"type": "track.named", "speaker": "Ada"}, {**turn, "turn": 1}])
    assert [" ".join(text.split()) for text in await told.all_text_contents()] == [
        "Good morning.",
        "1.5 s without text: the network lost it",
        "Speaker 2: Hello.",
        "Ada: Good morning.",
    ]
    await page.evaluate(NOTICES)
    assert "12 s behind" in await page.inner_text("#notices")


async def test_a_screen_reader_is_told_how_the_call_goes(keys: Keys) -> None:
    page = keys.page
    await page.add_init_script(KEEP_CONNECTIONS)
    await page.reload()
    status = page.get_by_role("status").first
    await started_by(keys)
    await expect(status).to_have_text("Live")
    await keys.to("Hang up")
    await keys.press("Enter")
    await expect(status).to_have_text(re.compile("Call ended"))
