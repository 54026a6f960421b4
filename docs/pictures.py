"""Makes the pictures of the page: `python docs/pictures.py` in a clone (after `make test`).

A real call: Chromium's microphone plays the bundled recording to `rtcstt serve` with its own recognizer.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from playwright.async_api import async_playwright, expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from processes import started  # noqa: E402

from rtcstt.commands.demo import bundled_recording  # noqa: E402

DOCS = Path(__file__).resolve().parent
FLAGS = (
    "--no-sandbox --disable-gpu --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    " --allow-loopback-in-peer-connection --autoplay-policy=no-user-gesture-required"
)
WAIT_MS = 60_000


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples, rate = soundfile.read(bundled_recording(), dtype="float32")
        voice = Path(folder) / "voice.wav"
        soundfile.write(voice, np.concatenate([np.zeros(3 * rate, np.float32), samples * 3]), rate)
        flags = [*FLAGS.split(), f"--use-file-for-fake-audio-capture={voice}%noloop"]
        async with started("serve", Path(folder)) as server, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
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
