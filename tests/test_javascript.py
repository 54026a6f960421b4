"""What the JavaScript client is given, and what its types promise."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import npm
import pytest
from playwright.async_api import expect
from processes import ended, started, until
from test_coturn import SECRET, coturn
from test_page import STATIC, browser

from rtcstt.testing import ScriptedUpstream

# Nothing but relays, so that without the server's TURN login there is no connection.
ONLY_RELAYS = """
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(given) {
    super({ ...given, iceTransportPolicy: "relay" });
    window.given = given;
  }
};
"""


async def test_the_page_connects_through_the_servers_turn_server(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    flags = ("--use-auth-secret", f"--static-auth-secret={SECRET}")
    with coturn(tmp_path, *flags) as port:
        turn = f"turn:127.0.0.1:{port}"
        options = ("--ice-server", turn, "--turn-secret-file", str(tmp_path / "secret"))
        async with (
            ScriptedUpstream() as upstream,
            upstream.listening() as stt,
            started("serve", tmp_path, *options, "--stt", stt) as server,
            browser(chromium) as running,
        ):
            page = await running.new_page()
            await page.add_init_script(ONLY_RELAYS)
            await page.goto(server.url)
            await page.click("#start")
            await expect(page.locator("#status")).to_have_text("Live", timeout=15_000)
            (given,) = await page.evaluate("window.given.iceServers")
            assert given["urls"] == turn and given["username"].endswith(":rtcstt") and given["credential"]
            await until(lambda: upstream.visited and upstream.visited[0].audio_s > 0.5)
            await page.click("#hangup")
            await expect(page.locator("#status")).to_have_text("Call ended", timeout=15_000)
            (call,) = server.get("/calls")["calls"]
            events = await ended(server, call["call"])
    assert next(iter(events[-1]["ledger"].values()))["received"] > 500


RIGHT = """
import { connect, RtcsttError, type CallEvent } from "./rtcstt.js";

const iceServers: RTCIceServer[] = [{ urls: "turn:a", username: "b", credential: "c" }];
const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
try {
  const call = await connect({ stream, mode: "manual", token: "t", metadata: { ticket: 77 }, iceServers });
  const off: () => void = call.on("turn.end", ({ turn, start, transcript }) => {
    const text: string = transcript.toUpperCase() + turn.toFixed() + start.toFixed();
    document.title = text;
  });
  call.on("*", (event: CallEvent) => {
    if (event.type === "transcript" && event.is_final) document.title = event.text;
    if (event.type === "state") document.title = `${event.state}: ${event.reason ?? ""}`;
  });
  call.on("turn.eager_end", (event) => event.transcript.length);
  call.press();
  call.release();
  const asked: boolean = call.configure({ end_timeout_ms: 900 }) && call.finalize();
  await (await call.fetch("captions.vtt")).text();
  await call.close();
  off();
  if (asked && call.state === "closed" && call.muted) document.title = call.id;
} catch (error) {
  if (error instanceof RtcsttError && error.retryAfterS !== null) document.title = error.code;
}
"""

WRONG = """
import { connect, type Call } from "./rtcstt.js";

// @ts-expect-error: no stream
await connect({});
// @ts-expect-error: no such mode
await connect({ stream: new MediaStream(), mode: "both" });
declare const call: Call;
// @ts-expect-error: no such event
call.on("turn.ended", () => {});
// @ts-expect-error: the start of a turn has no text yet
call.on("turn.start", (event) => event.transcript);
// @ts-expect-error: read-only
call.muted = true;
// @ts-expect-error: no such file
await call.fetch("captions.txt");
// @ts-expect-error: no such setting
call.configure({ end_timeout: 900 });
"""


@pytest.mark.parametrize("source", [RIGHT, WRONG], ids=["right", "wrong"])
def test_the_types_take_what_is_right_and_refuse_what_is_wrong(source: str, tmp_path: Path) -> None:
    compiler = npm.modules("typescript") / "typescript" / "bin" / "tsc"
    (tmp_path / "rtcstt.d.ts").write_text((STATIC / "rtcstt.d.ts").read_text())
    (tmp_path / "use.ts").write_text(source)
    options = {"target": "es2022", "module": "es2022", "moduleResolution": "bundler", "strict": True}
    options |= {"noEmit": True, "lib": ["es2022", "dom"], "types": []}
    config = tmp_path / "tsconfig.json"
    config.write_text(json.dumps({"compilerOptions": options, "include": ["*.ts"]}))
    done = subprocess.run(["node", compiler, "--project", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
