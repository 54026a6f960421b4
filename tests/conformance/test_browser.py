"""The vendor's JavaScript client in Chromium, with a short-lived token instead of a key, from a page of
another origin."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import install
import pytest
from cartesia import Cartesia
from outside import CLIENTS, assert_turns, assert_words, node

pytestmark = [pytest.mark.conformance, pytest.mark.heavy]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def page_url(tmp_path: Path, speech: dict[int, Path]) -> Iterator[str]:
    """A page on a server of its own, with the client bundled as a site's build would."""
    node()
    folder = install.FOLDER / "node"
    bundle = [folder / "node_modules" / ".bin" / "esbuild", CLIENTS / "browser.mjs", "--bundle"]
    options = ["--platform=browser", "--log-level=error", f"--outfile={tmp_path / 'page.js'}"]
    environment = {"NODE_PATH": str(folder / "node_modules"), "PATH": "/usr/bin:/bin"}
    subprocess.run([*bundle, *options], check=True, env=environment)
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title><script src=page.js></script>")
    shutil.copy(speech[16000], tmp_path / "speech.wav")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()


def test_a_page_with_a_token(server: str, page_url: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    holder = Cartesia(api_key="sesame", base_url=server)
    token = holder.access_token.create(grants={"stt": True}, expires_in=60).token
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(page_url)
        asked = [server, token, page_url + "speech.wav"]
        events = page.evaluate("([url, token, wav]) => listen(url, token, wav, 16000)", asked)
        answer = page.evaluate("([url, token, wav]) => transcribe(url, token, wav)", asked)
        browser.close()
    assert_turns(events)
    assert_words(answer["text"])
