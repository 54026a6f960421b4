"""The vendor's JavaScript client in Chromium, with a short-lived token instead of a key, from a page of
another origin."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cartesia import Cartesia
from outside import CLIENTS, assert_turns, assert_words, bundled, vendors_turns_example, vendors_typescript

pytestmark = [pytest.mark.real, pytest.mark.conformance, pytest.mark.heavy]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def page_url(tmp_path: Path, speech: dict[int, Path]) -> Iterator[str]:
    """A page on a server of its own, with the client bundled as a site's build would."""
    bundled(CLIENTS / "browser.mjs", tmp_path / "page.js", "browser")
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title><script src=page.js></script>")
    shutil.copy(speech[16000], tmp_path / "speech.wav")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()


@contextlib.contextmanager
def page_with(*options: str, token_from: str) -> Iterator[tuple[Any, str]]:
    """A page in Chromium, and a token for it."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    holder = Cartesia(api_key="sesame", base_url=token_from)
    token = holder.access_token.create(grants={"stt": True}, expires_in=60).token
    arguments = ["--no-sandbox", "--disable-gpu", *options]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=arguments)
        yield browser.new_page(), token
        browser.close()


def test_a_page_with_a_token(server: str, page_url: str) -> None:
    with page_with(token_from=server) as (page, token):
        page.goto(page_url)
        asked = [server, token, page_url + "speech.wav"]
        events = page.evaluate("([url, token, wav]) => listen(url, token, wav, 16000)", asked)
        answer = page.evaluate("([url, token, wav]) => transcribe(url, token, wav)", asked)
    assert_turns(events)
    assert_words(answer["text"])


def test_the_vendors_example_with_a_microphone(
    server: str, page_url: str, speech: dict[int, Path], shared_data: Path, tmp_path: Path
) -> None:
    """It listens for half a minute, then closes by itself."""
    end = "window.example = (token, baseURL) => sttAutoFinalizeWebsocket(new Cartesia({ token, baseURL }));"
    code = vendors_turns_example(shared_data, "TypeScript (Browser)")
    vendors_typescript(code, tmp_path, "browser", end)
    microphone = f"--use-file-for-fake-audio-capture={speech[48000]}%noloop"
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", microphone]
    printed: list[str] = []
    with page_with(*fake, "--autoplay-policy=no-user-gesture-required", token_from=server) as (page, token):
        page.on("console", lambda message: printed.append(message.text))
        page.goto(page_url)
        page.add_script_tag(url=page_url + "example.js")
        page.evaluate("([token, url]) => example(token, url)", [token, server])
    (line,) = [line for line in printed if line.startswith("Full transcript: ")]
    assert_words(json.loads(line.partition(": ")[2]))
