"""Makes the pictures of the page and the recording of the README: `python docs/pictures.py` in a clone, after
`make test` and `pip install --group docs`.

A real call: Chromium's microphone plays the bundled recording to `rtcstt serve` with its own recognizer.
"""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright, expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from processes import started  # noqa: E402

from rtcstt.commands.demo import bundled_recording  # noqa: E402

DOCS = Path(__file__).resolve().parent
FLAGS = (
    "--no-sandbox --disable-gpu --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    " --allow-loopback-in-peer-connection --autoplay-policy=no-user-gesture-required"
)
WAIT_MS = 60_000
FRAME_S = 0.25
RECORDED_S = 20.0


async def record(browser: Browser, url: str) -> None:
    """What somebody sees who presses Start and speaks, for twenty seconds."""
    page = await browser.new_page(viewport={"width": 800, "height": 450}, color_scheme="light")
    await page.goto(url)
    shots = [await page.screenshot()]
    await page.click("#start")
    await expect(page.locator("#status")).to_have_text("Live", timeout=WAIT_MS)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while loop.time() < begin + RECORDED_S:
        shots.append(await page.screenshot())
        await asyncio.sleep(max(0.0, begin + FRAME_S * len(shots) - loop.time()))
    await hang_up(page)
    shots.append(await page.screenshot())
    frames = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    palette = frames[len(frames) // 2].quantize(48)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pauses = [1200, *[int(1000 * FRAME_S)] * (len(small) - 2), 2500]
    small[0].save(
        DOCS / "recording.gif", save_all=True, append_images=small[1:], duration=pauses, loop=0, optimize=True
    )
    await page.close()


async def hang_up(page: Page) -> None:
    await page.click("#hangup")
    await expect(page.locator("#status")).to_contain_text("Call ended", timeout=WAIT_MS)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples, rate = soundfile.read(bundled_recording(), dtype="float32")
        voice = Path(folder) / "voice.wav"
        soundfile.write(voice, np.concatenate([np.zeros(3 * rate, np.float32), samples * 3]), rate)
        flags = [*FLAGS.split(), f"--use-file-for-fake-audio-capture={voice}%noloop"]
        async with started("serve", Path(folder)) as server, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            await record(browser, server.url)
            page = await browser.new_page(viewport={"width": 1200, "height": 560}, color_scheme="light")
            await page.goto(server.url)
            await page.click("#start")
            await expect(page.locator("#captions")).to_contain_text(
                "despair", ignore_case=True, timeout=WAIT_MS
            )
            await page.click("#menu-button")
            await page.click("#share > summary")
            await expect(page.locator("#share .qr svg")).to_be_visible(timeout=WAIT_MS)
            await page.screenshot(path=DOCS / "page.png")
            phone = await browser.new_page(viewport={"width": 390, "height": 620}, color_scheme="dark")
            await phone.goto(await page.input_value("#share-link"))
            await expect(phone.locator("#captions")).to_contain_text(
                "despair", ignore_case=True, timeout=WAIT_MS
            )
            await phone.screenshot(path=DOCS / "watch.png")
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
