"""What people who read captions meet: the newest line in view, settings, search, names, a call's link.

The captions are fed events as a server sends them, so that a test needs no voice.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import npm
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Dialog, Page, expect
from processes import Server, started
from test_page import KEEP_CONNECTIONS, browser, open_panel

from rtcstt.testing import ScriptedUpstream

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

SIZES = [(1366, 650), (1280, 577), (1024, 600), (844, 390), (390, 844), (320, 256)]
WAIT_MS = 60_000

FEED = """({ from, to, open = true }) => {
  const captions = document.getElementById("captions");
  window.seq ??= 0;
  const say = (event) => captions.receive({ call: "C", seq: ++window.seq, time: 1, ...event });
  for (let turn = from; turn < to; turn++) {
    const place = { track: "0", turn, start: 3 * turn, end: 3 * turn + 2 };
    const transcript = `It was the best of times, it was the worst of times, number ${turn}. `;
    say({ type: "turn.start", ...place });
    say({ type: "turn.update", ...place, transcript });
    if (turn < to - 1 || !open) say({ type: "turn.end", ...place, transcript });
  }
}"""

NEWEST = """() => {
  const captions = document.getElementById("captions");
  const items = [...captions.shadowRoot.querySelectorAll(".turn:not([hidden]) .said")];
  const lines = items.at(-1).getClientRects();
  const last = lines[lines.length - 1];
  const box = captions.getBoundingClientRect();
  const inWindow = last.top >= box.top && last.bottom <= Math.min(box.bottom, innerHeight) && last.left >= 0;
  const onTop = document.elementFromPoint(last.left + 4, (last.top + last.bottom) / 2);
  const sideways = document.documentElement.scrollWidth > innerWidth;
  return { isSeen: inWindow && onTop === captions, sideways };
}"""

NOTICES = """async () => {
  const { Notices } = await import(new URL("static/notices.js", document.baseURI));
  const notices = new Notices();
  notices.receive({ type: "stt.behind", track: "0", lag: 12 });
  notices.receive({ type: "audio.stalled", track: "0" });
}"""


Place = tuple[Server, Browser]


@asynccontextmanager
async def place_of(chromium: str, folder: Path, *options: str) -> AsyncIterator[Place]:
    """A server whose recognizer says nothing by itself, and a browser."""
    async with (
        ScriptedUpstream() as upstream,
        upstream.listening() as stt,
        started("serve", folder, "--stt", stt, *options) as server,
        browser(chromium) as running,
    ):
        yield server, running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with place_of(chromium, tmp_path_factory.mktemp("place")) as both:
        yield both


@asynccontextmanager
async def opened(place: Place, path: str = "/", **how: str) -> AsyncIterator[Page]:
    """The page, in a browser context of its own."""
    server, running = place
    context = await running.new_context(**how)  # type: ignore[arg-type]
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"on the page: {error}"))
    await page.goto(server.url + path)
    try:
        yield page
    finally:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def notices_page(place: Place) -> AsyncIterator[Page]:
    async with opened(place) as page:
        yield page


async def start(page: Page) -> None:
    await page.click("#start")
    await expect(page.locator("#status")).to_have_text("Live", timeout=WAIT_MS)


async def is_newest_seen(page: Page) -> None:
    """Once the layout has settled. Not by `wait_for_function`, whose polling the page's policy forbids."""
    async with asyncio.timeout(WAIT_MS / 1000):
        while not (seen := await page.evaluate(NEWEST))["isSeen"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert not seen["sideways"], "nothing is to be scrolled sideways"


async def test_the_newest_line_is_in_view_on_every_screen(place: Place) -> None:
    async with opened(place) as page:
        await start(page)
        await page.evaluate(FEED, {"from": 0, "to": 30})
        for width, height in SIZES:  # as a phone is turned, or a window changed, in mid-call
            await page.set_viewport_size({"width": width, "height": height})
            await is_newest_seen(page)
        await page.evaluate(NOTICES)
        await page.evaluate(FEED, {"from": 30, "to": 32})
        for width, height in SIZES:
            await page.set_viewport_size({"width": width, "height": height})
            await is_newest_seen(page)
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.evaluate("document.documentElement.style.fontSize = '200%'")
        await is_newest_seen(page)
        await page.evaluate("document.documentElement.style.fontSize = ''")
        await page.evaluate("document.getElementById('captions').setAttribute('size', '300')")
        await is_newest_seen(page)


async def test_only_the_reader_stops_the_following(place: Place) -> None:
    async with opened(place) as page:
        await page.evaluate(FEED, {"from": 0, "to": 60})
        newest = page.locator("#captions .newest")
        await is_newest_seen(page)
        await page.locator("#captions .box").hover()
        await page.mouse.wheel(0, -600)
        await expect(newest).to_be_visible(timeout=WAIT_MS)
        row = page.locator("#captions .turn").nth(40)
        before = await row.bounding_box()
        await page.evaluate(FEED, {"from": 60, "to": 65})
        await expect(newest).to_have_text("Newest (5 new)", timeout=WAIT_MS)
        after = await row.bounding_box()
        assert before and after and after["y"] == pytest.approx(before["y"], abs=1), (
            "what is read stays in place"
        )
        await page.set_viewport_size({"width": 700, "height": 500})
        await expect(newest).to_be_visible()
        await newest.press("Enter")
        await expect(newest).to_be_hidden()
        await is_newest_seen(page)


UPDATES = """async ([turn, count]) => {
  const captions = document.getElementById("captions");
  for (let n = 0; n < count; n++) {
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const place = { call: "C", seq: ++window.seq, time: 1, track: "0", turn, start: 3 * turn, end: 3 * turn };
    captions.receive({ type: "turn.update", ...place, transcript: "word ".repeat(n + 1) });
  }
}"""


async def test_an_update_takes_no_longer_after_three_thousand_turns(place: Place) -> None:
    """By the processor time of the page's main thread, layout and paint included."""
    async with opened(place) as page:
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})

        async def update_s(turn: int, count: int = 60) -> float:
            await page.evaluate(UPDATES, [turn, 5])
            before = await busy_s()
            await page.evaluate(UPDATES, [turn, count])
            return (await busy_s() - before) / count

        async def busy_s() -> float:
            metrics = (await session.send("Performance.getMetrics"))["metrics"]
            return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

        await page.evaluate(FEED, {"from": 0, "to": 30})
        few = await update_s(29)
        await page.evaluate(FEED, {"from": 30, "to": 3000})
        many = await update_s(2999)
        assert many < 2 * few + 0.001, f"{few} s at 30 turns, {many} s at 3000"


async def test_the_page_says_what_has_no_text_and_who_waits(place: Place) -> None:
    async with opened(place) as page:
        await page.evaluate(FEED, {"from": 0, "to": 3})
        await page.evaluate(
            """() => {
              const captions = document.getElementById("captions");
              const place = { call: "C", time: 9, track: "0" };
              const say = (event) => captions.receive({ ...place, seq: ++window.seq, ...event });
              say({ type: "transcript.gap", start: 2.5, end: 3.7, reason: "network" });
              for (const digit of "42") say({ type: "dtmf", digit, duration_ms: 100 });
              say({ type: "audio.stalled" });
            }"""
        )
        rows = page.locator("#captions .row")
        assert [" ".join(text.split()) for text in await rows.all_inner_texts()] == [
            "It was the best of times, it was the worst of times, number 0.",
            "1.2 s without text: the network lost it",
            "It was the best of times, it was the worst of times, number 1.",
            "It was the best of times, it was the worst of times, number 2. waiting for audio",
            "Keys pressed: 4 2",
        ]
        await page.evaluate(
            """() => document.getElementById("captions").receive({
              type: "session.end", call: "C", seq: ++window.seq, time: 9, reason: "asked", ledger: {},
              complete: false, missing: [{ track: "0", start: 2.5, end: 3.7, reason: "network" }],
            })"""
        )
        assert (
            await page.locator("#captions [data-state=speaking], #captions [data-state=paused]").count() == 0
        )
        await expect(rows.last).to_have_text(re.compile("not complete: 1.2 s"))


TELL = """async (event) => {
  const { Notices } = await import(new URL("static/notices.js", document.baseURI));
  (window.board ??= new Notices()).receive({ track: "0", ...event });
}"""


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        ({"type": "audio.stalled"}, {"type": "audio.resumed", "stalled": 2}),
        ({"type": "track.muted"}, {"type": "track.unmuted"}),
        ({"type": "track.muted"}, {"type": "track.end", "reason": "bye"}),
        ({"type": "stt.reconnecting", "reason": "lost"}, {"type": "stt.recovered", "lag": 1}),
        ({"type": "stt.behind", "lag": 7}, {"type": "stt.caught_up"}),
        ({"type": "audio.suspect", "guess": "A-law"}, {"type": "track.end", "reason": "bye"}),
        ({"type": "error", "title": "Bad", "message": "Very."}, {"type": "session.end", "reason": "asked"}),
    ],
    ids=lambda event: event["type"],
)
async def test_a_notice_ends_with_its_cause(
    notices_page: Page, begins: dict[str, object], ends: dict[str, object]
) -> None:
    await notices_page.evaluate(TELL, begins)
    await expect(notices_page.locator(".notice")).to_have_count(1)
    await notices_page.evaluate(TELL, ends)
    await expect(notices_page.locator(".notice")).to_have_count(0)


DOUBTED = """(confidence) => {
  const captions = document.getElementById("captions");
  const place = { call: "E", seq: 1, time: 1, track: "0", turn: 0, start: 0, end: 1 };
  captions.receive({ type: "turn.end", ...place, transcript: "Dig the swin  of hope. ", confidence });
  return [...CSS.highlights.get("rtcstt-unsure")].map(String);
}"""


async def test_words_that_may_be_wrong_are_marked_for_who_wants_it(place: Place) -> None:
    async with opened(place, "/?unsure=1") as page:
        await expect(page.locator("#captions")).to_have_attribute("unsure", "1")
        assert await page.evaluate(DOUBTED, [0.4, 1, 0.74, 0.95, 0.9]) == ["Dig", "swin"]
        await page.evaluate("document.getElementById('captions').clear()")
        assert await page.evaluate(DOUBTED, [0.4]) == [], "as many words as figures, or no marks"


async def test_turns_of_which_audio_was_lost_are_told_apart(place: Place) -> None:
    async with opened(place) as page:
        await page.evaluate(
            """() => [undefined, 60].forEach((concealed, turn) => {
              const place = { call: "E", seq: turn, time: 1, track: "0", turn, start: turn, end: turn + 1 };
              const event = { type: "turn.end", ...place, transcript: "It was. ", concealed };
              document.getElementById("captions").receive(event);
            })"""
        )
        lines = page.locator("#captions .turn .said")
        await expect(lines.nth(0)).to_have_css("text-decoration-line", "none")
        await expect(lines.nth(1)).to_have_css("text-decoration-line", "underline")
        await expect(lines.nth(1)).to_have_css("text-decoration-style", "dotted")


async def test_how_captions_look_comes_from_the_address_or_is_remembered(place: Place) -> None:
    async with opened(place, "/?size=200&font=dyslexic&colors=yellow&lines=2&font2=x") as page:
        shown = page.locator("#captions")
        for name, value in {"size": "200", "font": "dyslexic", "colors": "yellow", "lines": "2"}.items():
            await expect(shown).to_have_attribute(name, value)
        await page.evaluate(FEED, {"from": 0, "to": 9})
        await is_newest_seen(page)
        await open_panel(page, "display")
        await page.select_option("#display-lines", "")
        await page.select_option("#display-spacing", "wide")
        await page.get_by_role("button", name="Larger text").click()
        await page.goto(page.url.partition("?")[0])
        await expect(shown).to_have_attribute("spacing", "wide")
        await expect(shown).to_have_attribute("size", "250")
        assert await shown.get_attribute("lines") is None


async def test_search_names_and_copies(place: Place) -> None:
    async with opened(place) as page:
        await page.evaluate(FEED, {"from": 0, "to": 40, "open": False})
        await open_panel(page, "search")
        await page.fill("#find", "NUMBER 7.")
        await expect(page.locator("#search output")).to_have_text("1 of 1")
        found = page.locator("#captions [data-current]")
        await expect(found).to_contain_text("number 7.")
        await expect(found).to_be_in_viewport()
        await open_panel(page, "speakers")
        await page.fill("#speaker-0", "Ada")
        await page.evaluate(
            """() => ["0", "1"].forEach((track, seq) => document.getElementById("captions").receive({
              type: "turn.end", call: "D", seq, time: 1, track, turn: 0, start: seq, end: 1,
              transcript: `Hello ${track}. `,
            }))"""
        )
        text = await page.evaluate("document.getElementById('captions').text({ times: true })")
        assert text.endswith("[0:00] Ada: Hello 0.\n[0:01] Speaker 2: Hello 1.\n")


@pytest.mark.parametrize("colors", ["light", "dark", "forced"])
async def test_axe_finds_nothing(place: Place, colors: str) -> None:
    axe = (npm.modules("axe") / "axe-core" / "axe.min.js").read_text()
    how = {"forced_colors": "active"} if colors == "forced" else {"color_scheme": colors}
    async with opened(place, **how) as page:
        await page.evaluate(axe)

        async def check(state: str) -> None:
            result = await page.evaluate("axe.run()")
            found = [(one["id"], [node["html"] for node in one["nodes"]]) for one in result["violations"]]
            assert not found, f"{state}: {found}"

        await check("idle")
        await start(page)
        await page.evaluate(FEED, {"from": 0, "to": 30})
        await page.evaluate(NOTICES)
        await page.locator("#captions .box").hover()
        await page.mouse.wheel(0, -300)
        await expect(page.locator("#captions .newest")).to_be_visible(timeout=WAIT_MS)
        await check("live, with notices")
        await page.click("#menu-button")
        for panel in await page.locator("#menu > details:visible > summary").all():
            await panel.click()
        await check("with the menu")
        await page.click("#hangup")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)
        await check("ended")


async def test_push_to_talk_by_keyboard_held_or_switched(place: Place) -> None:
    async with opened(place) as page:
        await page.focus("input[value=auto]")
        await page.keyboard.press("ArrowRight")
        await page.focus("#start")
        await page.keyboard.press("Enter")
        talk = page.locator("#talk")
        await expect(talk).to_be_focused(timeout=WAIT_MS)
        for key in ("Space", "Enter"):
            await page.keyboard.down(key)
            await expect(talk).to_have_attribute("aria-pressed", "true")
            await page.keyboard.up(key)
            await expect(talk).to_have_attribute("aria-pressed", "false")
        await page.evaluate("document.getElementById('toggle').checked = true")
        for pressed in ("true", "false"):
            await page.keyboard.press("Enter")
            await expect(talk).to_have_attribute("aria-pressed", pressed)
        said = {"type": "transcript", "call": "C", "time": 1, "track": "0", "turn": 0, "start": 0, "end": 1}
        texts = ["It was ", "the best."]
        for seq, text in enumerate(texts):
            event = {**said, "seq": seq, "is_final": True, "text": text}
            await page.evaluate("(event) => document.getElementById('captions').receive(event)", event)
        spoken = await page.locator("#captions [role=log] p").all_text_contents()
        # What the microphone gave while the keys were down may have its own text by now.
        assert [text for text in spoken if text in texts] == texts, "a screen reader is told, each word once"


async def test_a_call_can_be_read_after_a_reload_and_leaving_one_asks(place: Place) -> None:
    server, _ = place
    async with opened(place) as page:
        others = len(server.get("/calls")["calls"])
        await start(page)
        call = server.get("/calls")["calls"][-1]
        assert page.url.endswith(f"#call={call['call']}")
        asked: list[str] = []

        async def leave(dialog: Dialog) -> None:
            asked.append(dialog.type)
            await dialog.accept()

        page.on("dialog", leave)
        await page.reload()
        assert asked == ["beforeunload"]
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)
        assert call["call"] in (await page.get_attribute("#downloads a", "href") or "")
        await page.reload()
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)
        assert asked == ["beforeunload"], "nothing is lost by leaving a call that has ended"

        await start(page)
        await page.click("#hangup")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)
        await open_panel(page, "calls")
        listed = page.locator("#calls li button")
        await expect(listed).to_have_count(others + 2)
        await listed.nth(1).click()
        await expect(page).to_have_url(re.compile(call["call"]))
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)


async def test_a_call_is_read_along_by_its_link(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a token of the test\n")
    async with (
        place_of(chromium, tmp_path, "--token-file", str(tmp_path / "tokens")) as own,
        opened(own) as page,
    ):
        await page.click("#start")
        await page.fill("#token", "a token of the test")
        await start(page)
        await open_panel(page, "share")
        await expect(page.locator("#share .qr svg")).to_be_visible(timeout=WAIT_MS)
        link = await page.input_value("#share-link")
        reader = await page.context.new_page()
        reader.on("pageerror", lambda error: pytest.fail(f"on the page: {error}"))
        await reader.goto(link)
        await expect(reader.locator("#status")).to_have_text("Live", timeout=WAIT_MS)
        await open_panel(page, "speakers")
        await page.fill("#speaker-0", "Ada")
        await page.press("#speaker-0", "Tab")
        await open_panel(reader, "speakers")
        await expect(reader.locator("#speaker-0")).to_have_value("Ada", timeout=WAIT_MS)
        await reader.press("#speaker-0", "Escape")
        await page.click("#hangup")
        for one in (page, reader):
            await expect(one.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)
        await reader.evaluate(FEED, {"from": 0, "to": 30})
        for width, height in SIZES:
            await reader.set_viewport_size({"width": width, "height": height})
            await is_newest_seen(reader)


STRANGE = """() => {
  const captions = document.getElementById("captions");
  window.seq ??= 0;
  const say = (event) => captions.receive({ call: "C", seq: ++window.seq, time: 1, ...event });
  ["Ada", "أحمد", "Averyverylongname".repeat(5)].forEach((speaker, track) => {
    say({ type: "track.start", track: String(track) });
    say({ type: "track.named", track: String(track), speaker });
  });
  const texts = ["Good morning. ".repeat(9), "مرحبا، هذا مكتب المساعدة. ".repeat(9), "x".repeat(200)];
  texts.forEach((transcript, turn) => {
    say({ type: "turn.end", track: String(turn), turn, start: turn, end: turn + 1, transcript });
  });
  say({ type: "transcript.gap", track: "1", start: 5, end: 7.4, reason: "overflow" });
  say({ type: "turn.end", track: "0", turn: 9, start: 8, end: 9, transcript: "And then. " });
}"""

LAID_OUT = """() => {
  const root = document.getElementById("captions").shadowRoot;
  const box = root.querySelector(".box").getBoundingClientRect();
  const place = (element) => {
    const { left, right } = element.getBoundingClientRect();
    return { left: left - box.left, right: box.right - right };
  };
  return [...root.querySelectorAll(".row")].map((row) => ({
    name: place(row.querySelector(".name")),
    when: place(row.querySelector(".when")),
    said: place(row.querySelector(".said")),
  }));
}"""

CUT_LINES = """() => {
  const root = document.getElementById("captions").shadowRoot;
  const box = root.querySelector(".box").getBoundingClientRect();
  const lines = [...root.querySelectorAll(".row .said")].flatMap((said) => {
    const range = new Range(); // without the frame around a gap
    range.selectNodeContents(said);
    return [...range.getClientRects()];
  });
  const middle = ({ top, bottom }) => (top + bottom) / 2;
  const seen = lines.filter((line) => middle(line) > box.top && middle(line) < box.bottom);
  const cut = lines.filter((line) => line.bottom > box.top + 4 && line.top < box.bottom - 4);
  return cut.length - seen.length;
}"""


async def test_every_script_has_its_direction_and_nothing_is_cut_off(place: Place) -> None:
    async with opened(place, "/?times=1") as page:
        await page.evaluate(STRANGE)
        for width, height in SIZES:
            await page.set_viewport_size({"width": width, "height": height})
            rows = await page.evaluate(LAID_OUT)
            for row in rows:
                assert all(edge >= -1 for part in row.values() for edge in part.values()), (width, row)
            english, arabic = rows[0], rows[1]
            assert arabic["name"]["right"] == pytest.approx(english["name"]["left"], abs=20), (width, arabic)
            assert arabic["said"]["right"] == pytest.approx(english["said"]["left"], abs=20), (width, arabic)
        for lines in ("1", "2", "3"):
            await page.evaluate("(n) => document.getElementById('captions').setAttribute('lines', n)", lines)
            for width, height in SIZES:
                await page.set_viewport_size({"width": width, "height": height})
                assert await page.evaluate(CUT_LINES) == 0, (lines, width)


async def test_a_server_that_stands_still_is_not_live(chromium: str, tmp_path: Path) -> None:
    """No connection ends then: nothing comes any more. The page goes on when the server does."""
    async with place_of(chromium, tmp_path) as (server, running), opened((server, running)) as page:
        await start(page)
        reader = await page.context.new_page()
        await reader.goto(f"{server.url}/watch/{server.get('/calls')['calls'][0]['call']}")
        for one in (page, reader):
            await expect(one.locator("#status")).to_have_text("Live", timeout=WAIT_MS)
        server.process.send_signal(signal.SIGSTOP)
        try:
            for one in (page, reader):
                await expect(one.locator("#status")).to_contain_text("Connection lost", timeout=WAIT_MS)
        finally:
            server.process.send_signal(signal.SIGCONT)
        for one in (page, reader):
            await expect(one.locator("#status")).to_have_text("Live", timeout=WAIT_MS)
        await page.click("#hangup")
        for one in (page, reader):
            await expect(one.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)


BEHIND = """([type, lag]) => {
  const event = { type, lag, call: "C", seq: (window.seq = (window.seq ?? 1000) + 1), time: 1, track: "0" };
  window.channels[0].dispatchEvent(new MessageEvent("message", { data: JSON.stringify(event) }));
}"""


async def test_the_page_says_how_far_behind_the_captions_are(place: Place) -> None:
    async with opened(place) as page:
        await page.add_init_script(KEEP_CONNECTIONS)
        await page.reload()
        await start(page)
        shown = page.locator("#status")
        await expect(shown).to_have_text("Live", timeout=WAIT_MS)
        for type_, lag, said in [
            ("stt.behind", 2.4, "Live, 2 s behind"),
            ("stt.behind", 11.6, "Live, 12 s behind"),
            ("stt.caught_up", 0, "Live"),
        ]:
            await page.evaluate(BEHIND, [type_, lag])
            await expect(shown).to_have_text(said, timeout=WAIT_MS)
