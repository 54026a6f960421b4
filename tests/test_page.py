"""The served page and its client in a real browser, with a recorded voice as the microphone.

The browser is Debian's Chromium, driven by playwright; the server is `rtcstt serve` as a user starts
it. A test is skipped, with the reason, where there is no browser.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import webvtt
from playwright.async_api import Browser, Page, Route, async_playwright, expect
from processes import running

from rtcstt.commands.demo import bundled_recording

pytestmark = pytest.mark.real

expect.set_options(timeout=60_000)  # of every expectation of a page, in ms

STATIC = Path(__file__).resolve().parents[1] / "rtcstt" / "server" / "static"
PICTURES = Path(__file__).resolve().parents[1] / "build" / "pictures"
LEAD_S = 4.0  # the recording plays from getUserMedia on, so the call must be up before the first word

# two_cities.wav by the pauses of its reader: (second where the phrase begins, words).
PHRASES = [
    (1.2, "It was the best of times, it was the worst of times,"),
    (5.0, "it was the age of wisdom, it was the age of foolishness,"),
    (8.8, "it was the epoch of belief, it was the epoch of incredulity,"),
    (13.5, "it was the season of Light, it was the season of Darkness,"),
    (17.6, "it was the spring of hope, it was the winter of despair,"),
    (21.2, "we had everything before us, we had nothing before us,"),
]
PAUSES = (4.9, 8.7, 13.0, 17.1)  # seconds of the recording; each is made longer, for what is done in it
LONGER_S = 3.0
CUT_S = 24.3
MUTED = PHRASES[3]

normal = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
)


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, int]:
    """The recording that ships with the recogniser's package, cut after a phrase."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    return samples[: int(CUT_S * rate)] * 3, rate


@pytest.fixture(scope="module")
def voice(speech: tuple[np.ndarray, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples, rate = speech
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    parts = [np.zeros(int(LEAD_S * rate), np.float32)]
    for part in np.split(samples, [int(pause * rate) for pause in PAUSES]):
        parts += [part, np.zeros(int(LONGER_S * rate), np.float32)]
    soundfile.write(path, np.concatenate(parts), rate)
    return path


MICROPHONE = """
const ask = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
if (ask) navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await ask(wanted);
  window.speaking = Date.now();
  return stream;
};
"""


LEDGER_COLORS = """() => {  // whether the ledger is painted in the colors of its legend
  const canvas = document.querySelector("#timelines canvas");
  const pixel = canvas.getContext("2d").getImageData(2, canvas.height - 2, 1, 1).data;
  const legend = document.querySelector("[data-kind=received]");
  const told = getComputedStyle(legend, "::before").backgroundColor;
  return told === `rgb(${pixel[0]}, ${pixel[1]}, ${pixel[2]})`;
}"""


async def until_pause(page: Page, index: int) -> None:
    """The middle of a pause of the voice, as the page's microphone plays it."""
    await page.wait_for_function("window.speaking", timeout=60_000)
    begun = await page.evaluate("window.speaking / 1000")
    await asyncio.sleep(begun + LEAD_S + PAUSES[index] + (index + 0.5) * LONGER_S - time.time())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`rtcstt serve` with the embedded recogniser; its URL."""
    with running("serve", tmp_path_factory.mktemp("server")) as started:
        yield started.url


@asynccontextmanager
async def browser(chromium: str, voice: Path | None = None, *, ask: bool = False) -> AsyncIterator[Browser]:
    """``voice``: what the microphone receives. ``ask``: do not allow the microphone unasked."""
    flags = (
        "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    )
    flags += " --use-fake-device-for-media-stream --allow-loopback-in-peer-connection"
    flags += " --autoplay-policy=no-user-gesture-required"
    flags += "" if ask else " --use-fake-ui-for-media-stream"
    flags += f" --use-file-for-fake-audio-capture={voice}%noloop" if voice else ""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=flags.split())
        try:
            yield running
        finally:
            await running.close()


async def opened(running: Browser, url: str) -> tuple[Page, list[str]]:
    """The page, and the list that its uncaught errors go to."""
    page = await running.new_page(viewport={"width": 1000, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.add_init_script(MICROPHONE)
    await page.goto(url)
    return page, errors


async def open_panel(page: Page, name: str) -> None:
    """A panel of the menu, by its id."""
    if await page.locator("#menu").is_hidden():
        await page.click("#menu-button")
    await page.click(f"#{name} > summary")


async def captions(page: Page, speaker: int | None = None) -> str:
    turns = ".turn" if speaker is None else f".turn[data-speaker='{speaker}']"
    return " ".join(await page.locator(f"{turns} .said").all_inner_texts())


def word_errors(spoken: list[str], text: str) -> float:
    return jiwer.wer(normal(" ".join(spoken)), normal(text))


async def test_a_voice_becomes_captions_and_mute_hides_only_what_was_muted(
    server: str, chromium: str, voice: Path
) -> None:
    async with browser(chromium, voice) as running:
        page, errors = await opened(running, server)
        await page.click("#start")
        await expect(page.locator("#status")).to_have_text("Live")
        await until_pause(page, 2)
        before = await captions(page)
        await page.click("#mute")
        await expect(page.locator("#mute")).to_have_text("Unmute")
        await until_pause(page, 3)
        await page.click("#mute")
        await expect(page.locator("#captions")).to_contain_text("nothing before us", ignore_case=True)
        PICTURES.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=PICTURES / "page.png")
        await page.click("#hangup")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)

        text = await captions(page)
        received = [words for start, words in PHRASES if (start, words) != MUTED]
        assert "best of times" in before.lower(), "captions must come while the caller still speaks"
        assert word_errors(received, text) <= 0.25, text
        assert "light" not in text.lower().split(), "what was said while muted must not be received"
        assert await page.locator(".turn:not([data-state=ended])").count() == 0
        await open_panel(page, "ledger")
        await expect(page.locator("#timelines")).to_contain_text("received")
        await page.wait_for_function(LEDGER_COLORS, timeout=60_000)
        assert not errors

        await open_panel(page, "keep")
        async with page.expect_download() as started:
            await page.click("#downloads >> text=VTT")
        cues = webvtt.read(await (await started.value).path())
        assert word_errors(received, " ".join(cue.text for cue in cues)) <= 0.25


async def test_a_recording_of_two_channels_is_two_speakers(
    server: str, chromium: str, speech: tuple[np.ndarray, int], tmp_path: Path
) -> None:
    samples, rate = speech
    left, right = samples[int(1.0 * rate) : int(4.9 * rate)], samples[int(17.4 * rate) : int(21.0 * rate)]
    both = np.zeros((len(left) + len(right), 2), np.float32)
    both[: len(left), 0] = left
    both[len(left) :, 1] = right
    soundfile.write(tmp_path / "call.wav", both, rate)

    async with browser(chromium) as running:
        page, errors = await opened(running, server)
        await page.click("text=Recording")
        await page.set_input_files("#file", tmp_path / "call.wav")
        await page.click("#start")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)
        first, second = [await captions(page, speaker) for speaker in (0, 1)]
        assert "worst of times" in first.lower() and "despair" not in first.lower()
        assert "winter of despair" in second.lower() and "worst" not in second.lower()

        soundfile.write(tmp_path / "next.wav", left, rate)
        await page.set_input_files("#file", tmp_path / "next.wav")
        await page.click("#start")
        await expect(page.locator("#status")).to_have_text("Live")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)
        text = await captions(page)
        assert text.lower().count("worst of times") == 2, "what was said before stays above the new call"
        assert "winter of despair" in text.lower()
        assert not errors


async def test_push_to_talk_receives_what_is_said_while_held(server: str, chromium: str, voice: Path) -> None:
    async with browser(chromium, voice) as running:
        page, errors = await opened(running, server)
        await page.click("text=Push to talk")
        await page.click("#start")
        await expect(page.locator("#status")).to_have_text("Live")
        await until_pause(page, 0)
        await page.keyboard.down("Space")
        await until_pause(page, 1)
        await page.keyboard.up("Space")
        await expect(page.locator(".turn .said")).to_contain_text(
            "foolishness", ignore_case=True, timeout=60_000
        )
        assert word_errors([PHRASES[1][1]], await captions(page)) <= 0.25
        await page.click("#hangup")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)
        assert not errors


async def test_by_keyboard_a_window_left_lets_go_and_a_hang_up_leads_back_to_start(
    server: str, chromium: str
) -> None:
    async with browser(chromium) as running:
        page, errors = await opened(running, server)
        await page.click("text=Push to talk")
        await page.focus("#start")
        await page.keyboard.press("Enter")
        await expect(page.locator("#talk")).to_be_focused()
        await page.keyboard.down("Space")
        await expect(page.locator("#talk")).to_have_attribute("data-held", "")
        await page.evaluate("window.dispatchEvent(new Event('blur'))")  # the key comes up in another window
        await expect(page.locator("#talk")).not_to_have_attribute("data-held", "")
        await page.keyboard.up("Space")
        await page.focus("#hangup")
        await page.keyboard.press("Enter")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)
        await expect(page.locator("#start")).to_be_focused()
        assert not errors


NO_CHANNEL = """
RTCPeerConnection.prototype.createDataChannel = () =>
  Object.assign(new EventTarget(), { readyState: "closed" });
"""


async def test_without_a_data_channel_the_events_come_as_server_sent_events(
    server: str, chromium: str, voice: Path
) -> None:
    async with browser(chromium, voice) as running:
        page, errors = await opened(running, "about:blank")
        await page.add_init_script(NO_CHANNEL)
        await page.goto(server)
        await page.click("#start")
        await expect(page.locator(".turn .said").first).to_contain_text(
            "best of times", ignore_case=True, timeout=60_000
        )
        await page.click("#hangup")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)
        assert not errors


KEEP_CONNECTIONS = """
window.connections = [];
window.channels = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...given) { super(...given); window.connections.push(this); }
  createDataChannel(...given) {
    const channel = super.createDataChannel(...given);
    window.channels.push(channel);
    return channel;
  }
};
"""
LOSE_CONNECTION = """async () => {
  const lost = window.connections[0];
  await lost.getSenders()[0].replaceTrack(null); // nothing arrives any more; the server is not told
  Object.defineProperty(lost, "connectionState", { value: "failed" });
  lost.dispatchEvent(new Event("connectionstatechange"));
}"""


async def test_a_lost_connection_is_made_again_and_the_captions_go_on(
    server: str, chromium: str, voice: Path
) -> None:
    async with browser(chromium, voice) as running:
        page, errors = await opened(running, "about:blank")
        await page.add_init_script(KEEP_CONNECTIONS)
        await page.goto(server)
        await page.click("#start")
        await expect(page.locator(".turn .said").first).to_contain_text(
            "best of times", ignore_case=True, timeout=60_000
        )
        before = await page.locator("#downloads a").first.get_attribute("href")
        await page.evaluate(LOSE_CONNECTION)
        await expect(page.locator("#status")).to_have_text("Live", timeout=60_000)
        await expect(page.locator("#captions")).to_contain_text("epoch", ignore_case=True, timeout=60_000)
        assert await page.evaluate("window.connections.length") > 1
        assert await page.locator("#downloads a").first.get_attribute("href") == before, "it is the same call"
        assert "best of times" in (await captions(page)).lower()
        await page.click("#hangup")
        await expect(page.locator("#status")).to_contain_text("Call ended", timeout=60_000)
        assert not errors


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "The server does not answer."),
        (
            (503, {"title": "The server is full", "message": "It takes 5 at once."}, "7"),
            "Try again in 7 s.",
        ),
        ((401, {"title": "Unauthorized", "message": "No token."}, ""), "This server wants an access token."),
    ],
)
async def test_a_refusal_is_told_in_words(
    server: str, chromium: str, answer: tuple[int, dict[str, str], str] | None, words: str
) -> None:
    async def refuse(route: Route) -> None:
        if answer is None:
            await route.abort()
        else:
            await route.fulfill(status=answer[0], json=answer[1], headers={"Retry-After": answer[2]})

    async with browser(chromium) as running:
        page, errors = await opened(running, server)
        await page.route("**/offer", refuse)
        await page.click("#start")
        await expect(page.locator("#notices")).to_contain_text(words)
        await expect(page.locator("#status")).to_have_text("Not connected")
        await expect(page.locator("#start")).to_be_enabled()
        assert await page.locator("#token").is_visible() == bool(answer and answer[0] == 401)
        assert not errors


async def test_a_microphone_that_is_not_allowed_is_told_in_words(server: str, chromium: str) -> None:
    async with browser(chromium, ask=True) as running:  # headless, nobody can say yes
        page, errors = await opened(running, server)
        await page.click("#start")
        await expect(page.locator("#notices")).to_contain_text("may not be used")
        assert not errors


async def test_every_control_is_reached_by_keyboard_and_has_a_name(server: str, chromium: str) -> None:
    async with browser(chromium) as running:
        page, _ = await opened(running, server)
        names = []
        for _ in range(12):
            await page.keyboard.press("Tab")
            names.append(
                await page.evaluate("""() => {
                  const root = document.activeElement.shadowRoot;
                  const at = root?.activeElement ?? document.activeElement;
                  const name = at.getAttribute("aria-label") ?? at.labels?.[0]?.innerText ?? at.innerText;
                  return at === document.body ? "end" : name.trim();
                }""")
            )
        until_end = names[: names.index("end")] if "end" in names else names
        assert {"Microphone", "Device", "Automatic", "Start"} <= set(until_end)
        assert all(until_end)
