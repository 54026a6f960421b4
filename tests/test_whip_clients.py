"""WHIP clients from npm in Chromium, on a page of another origin, with a recorded voice as the microphone."""

from __future__ import annotations

import asyncio
import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import npm
import numpy as np
import pytest
import soundfile
from playwright.async_api import Page
from processes import Server, check_events, started, until
from test_page import browser

from rtcstt.commands.demo import bundled_recording, transcript, word_errors

pytestmark = pytest.mark.real

TOKEN = "a-token-for-publishing"
WORDS = "It was the best of times, it was the worst of times,"
UNTIL_S = 4.9  # where the recording has said them
LEAD_S = 3.5  # the microphone runs while a client still gathers, one of them for 2 s

PAGE = """<!doctype html><title>WHIP</title><script type="module">
import { WHIPClient as Medooze } from "./medooze.js";
import { WHIPClient as Eyevinn } from "./eyevinn.js";

const processing = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const microphone = () => navigator.mediaDevices.getUserMedia({ audio: processing });

window.publish = {
  async medooze(url, token) {
    const [stream, pc, client] = [await microphone(), new RTCPeerConnection(), new Medooze()];
    pc.addTransceiver(stream.getAudioTracks()[0], { direction: "sendonly", streams: [stream] });
    await client.publish(pc, url, token);
    window.stop = () => client.stop();
    return client.resourceURL.href;
  },
  async eyevinn(url, token) {
    const client = new Eyevinn({ endpoint: url, opts: { authkey: token, iceServers: [] } });
    await client.setIceServersFromEndpoint();
    await client.ingest(await microphone());
    window.stop = () => client.destroy();
    return client.getResourceUrl();
  },
};
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with both clients: one as it is, one bundled as a site's build would."""
    packages, folder = npm.modules("whip"), tmp_path_factory.mktemp("page")
    shutil.copy(packages / "whip-whep" / "whip.js", folder / "medooze.js")
    source = packages / "@eyevinn" / "whip-web-client" / "dist" / "whip-client.modern.js"
    options = ["--bundle", "--format=esm", "--log-level=error", f"--outfile={folder / 'eyevinn.js'}"]
    subprocess.run([packages / ".bin" / "esbuild", source, *options], check=True)
    (folder / "index.html").write_text(PAGE)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    lead = np.zeros(int(LEAD_S * rate), np.float32)
    soundfile.write(path, np.concatenate([lead, 3 * samples[: int(UNTIL_S * rate)]]), rate)
    return path


def requests_of(page: Page) -> list[tuple[str, int]]:
    """(method, status) of what the page asks of the server; grows."""
    found: list[tuple[str, int]] = []
    page.on("response", lambda r: found.append((r.request.method, r.status)) if "/whip" in r.url else None)
    return found


async def published(
    page: Page, client: str, page_url: str, server: Server
) -> tuple[list[tuple[str, int]], list[dict[str, Any]]]:
    """What the client asked for, and the events of its call; its captions come while it lasts."""
    requests = requests_of(page)
    await page.goto(page_url)
    call = "([client, url, token]) => window.publish[client](url, token)"
    resource = await page.evaluate(call, [client, f"{server.url}/whip", TOKEN])
    id = resource.rsplit("/", 1)[1]

    def captions() -> str:
        return " ".join(server.get(f"/calls/{id}/captions.vtt?access_token={TOKEN}").lower().split())

    await until(lambda: "worst of times" in captions())
    await page.evaluate("window.stop()")
    await until(lambda: server.get(f"/calls/{id}?access_token={TOKEN}")["state"] == "closed")
    return requests, await asyncio.to_thread(server.events, id, TOKEN)


async def test_the_npm_clients_publish_and_stop(
    chromium: str, voice: Path, page_url: str, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text(TOKEN + "\n")
    options = ("--token-file", str(tmp_path / "tokens"), "--allow-origin", page_url)
    async with (
        started("serve", tmp_path, *options, "--ice-server", "stun:127.0.0.1:9") as server,
        browser(chromium, voice) as running,
    ):
        pages = [await (await running.new_context()).new_page() for _ in range(2)]
        medooze, eyevinn = await asyncio.gather(
            published(pages[0], "medooze", page_url, server),
            published(pages[1], "eyevinn", page_url, server),
        )
    for _, events in (medooze, eyevinn):
        check_events(events)
        text = transcript(events)
        assert word_errors(WORDS, text).errors == 0, text
    (first, *between, last), _ = medooze
    assert (first, set(between), last) == (("POST", 201), {("PATCH", 204)}, ("DELETE", 200))
    assert eyevinn[0] == [("OPTIONS", 200), ("OPTIONS", 200), ("POST", 201), ("DELETE", 200)]
