"""What the JavaScript client is given, and what its types promise."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import event_types
import npm
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect
from processes import Server, ended, started, until
from test_coturn import SECRET, coturn
from test_page import KEEP_CONNECTIONS, LOSE_CONNECTION, STATIC, browser

from rtcstt.testing import ScriptedUpstream

pytestmark = pytest.mark.real

ROOT = STATIC.parents[2]
BY_HAND = ("events.d.ts", "options.d.ts")  # or made from Python's events

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
            await expect(page.locator("#status")).to_have_text("Live", timeout=60_000)
            (given,) = await page.evaluate("window.given.iceServers")
            assert given["urls"] == turn and given["username"].endswith(":rtcstt") and given["credential"]
            await until(lambda: upstream.visited and upstream.visited[0].audio_s > 0.5)
            await page.click("#hangup")
            await expect(page.locator("#status")).to_have_text("Call ended", timeout=60_000)
            (call,) = server.get("/calls")["calls"]
            events = await ended(server, call["call"])
    assert next(iter(events[-1]["ledger"].values()))["received"] > 500


RIGHT = """
import { connect, RtcsttError, watch } from "./rtcstt.js";
import type { Gap } from "./events.js";
import type { CallEvent } from "./options.js";

const iceServers: RTCIceServer[] = [{ urls: "turn:a", username: "b", credential: "c" }];
const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
try {
  const leaving = new AbortController();
  const call = await connect({
    stream, mode: "manual", token: "t", metadata: { ticket: 77 }, iceServers, signal: leaving.signal,
    language: "en", keyterms: ["WHIP"], turn: { end_timeout_ms: 900 },
  });
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
  const first = await call.once("turn.end");
  document.title = first === null ? "none" : first.transcript;
  call.on("audio.stalled", ({ track }) => track.length);
  call.on("stt.behind", ({ lag }) => lag.toFixed());
  call.on("session.end", ({ complete, missing }) => complete || missing.length.toFixed());
  for await (const event of call) if (event.type === "dtmf") document.title = event.digit;
  const { complete, missing } = await call.close();
  const lost: Gap[] = complete ? [] : missing;
  document.title = lost.map(({ reason, start, end }) => `${reason} ${end - start}`).join();
  const reading = await watch({ call: call.id, url: "https://stt.example", token: "t" });
  reading.on("transcript.gap", ({ start, end, reason }) => (end - start).toFixed() + reason);
  reading.close();
  off();
  if (asked && call.state === "closed" && call.muted) document.title = call.id;
} catch (error) {
  if (error instanceof RtcsttError && error.retryAfterS !== null) document.title = error.code;
}
"""

WRONG = """
import { connect, watch, type Call } from "./rtcstt.js";

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
// @ts-expect-error: a list of terms
await connect({ stream: new MediaStream(), keyterms: "hello world" });
// @ts-expect-error: no such option
await connect({ stream: new MediaStream(), lang: "en" });
// @ts-expect-error: no call
await watch({});
// @ts-expect-error: there may be none
(await call.once("turn.end")).transcript;
// @ts-expect-error: made by connect
new Call();
// @ts-expect-error: no such setting
call.configure({ end_timeout: 900 });
"""


def tsc(project: Path) -> None:
    """Check a TypeScript project, and emit what it says."""
    compiler = npm.modules("typescript") / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", compiler, "--project", project], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("source", [RIGHT, WRONG], ids=["right", "wrong"])
def test_the_types_take_what_is_right_and_refuse_what_is_wrong(source: str, tmp_path: Path) -> None:
    for types in STATIC.glob("*.d.ts"):
        shutil.copy(types, tmp_path)
    (tmp_path / "use.ts").write_text(source)
    options = {"target": "es2022", "module": "es2022", "moduleResolution": "bundler", "strict": True}
    options |= {"noEmit": True, "lib": ["es2022", "dom"], "types": []}
    config = tmp_path / "tsconfig.json"
    config.write_text(json.dumps({"compilerOptions": options, "include": ["*.ts"]}))
    tsc(config)


def test_the_client_holds_its_own_types_and_the_declarations_are_made_from_it(tmp_path: Path) -> None:
    """`npm run types` makes them; they are kept, since a clone serves them without npm."""
    sources = tmp_path / "sources"
    sources.mkdir()
    for source in [*STATIC.glob("*.js"), *(STATIC / name for name in BY_HAND)]:
        shutil.copy(source, sources)
    project = json.loads((ROOT / "tsconfig.json").read_text())
    project["compilerOptions"] |= {"outDir": str(tmp_path), "rootDir": str(sources)}
    project["files"] = [str(sources / Path(file).name) for file in project["files"]]
    (tmp_path / "tsconfig.json").write_text(json.dumps(project))
    tsc(tmp_path / "tsconfig.json")
    kept = {types.name: types.read_text() for types in STATIC.glob("*.d.ts") if types.name not in BY_HAND}
    assert kept == {name: (tmp_path / name).read_text() for name in kept}


def test_the_events_types_are_made_from_those_of_python() -> None:
    assert event_types.FILE.read_text() == event_types.declarations(), "run python tests/event_types.py"


CONNECT = """async (url) => {
  const { connect, watch } = await import(`${url}/rtcstt.js`);
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  window.states = [];
  window.call = await connect({ stream, language: "en", keyterms: ["WHIP"], turn: { end_timeout_ms: 900 } });
  call.on("state", ({ state }) => states.push([state, window.connections[0].connectionState]));
}"""


@asynccontextmanager
async def calling(chromium: str, folder: Path, *options: str) -> AsyncIterator[tuple[Page, Server]]:
    """A page with a call of its own in `window.call`, and its server."""
    async with (
        ScriptedUpstream() as upstream,
        upstream.listening() as stt,
        started("serve", folder, "--stt", stt, *options) as server,
        browser(chromium) as running,
    ):
        page = await running.new_page(bypass_csp=True)  # of a page with nothing on it
        await page.add_init_script(KEEP_CONNECTIONS)
        await page.goto(f"{server.url}/healthz")
        await page.evaluate(CONNECT, server.url)
        yield page, server


async def state(page: Page, wanted: str) -> None:
    await page.wait_for_function(f"call.state === '{wanted}'", timeout=60_000)


IN_STATE = """(state) => {
  const [pc] = window.connections;
  if (state) Object.defineProperty(pc, "connectionState", { value: state, configurable: true });
  else delete pc.connectionState;
  pc.dispatchEvent(new Event("connectionstatechange"));
}"""


async def test_a_connection_that_comes_back_by_itself_is_live_again(chromium: str, tmp_path: Path) -> None:
    async with calling(chromium, tmp_path) as (page, server):
        await page.evaluate(IN_STATE, "disconnected")
        await state(page, "resuming")
        await page.evaluate(IN_STATE, "")
        await state(page, "live")

        # The server still gets the audio: its refusal of a second connection says that the first is whole.
        async with page.expect_response("**/offer", timeout=60_000) as asked:
            await page.evaluate(IN_STATE, "disconnected")
        assert (await asked.value).status == 409
        await page.evaluate("delete window.connections[0].connectionState")
        await state(page, "live")
        offers = await page.evaluate("window.connections.length")

        # A later loss is resumed like the first.
        await page.evaluate(LOSE_CONNECTION)
        await state(page, "resuming")
        await state(page, "live")
        assert await page.evaluate("window.connections.length") > offers
        ending = await page.evaluate("call.close()")
        assert ending["reason"] == "ended" and ending["complete"] == (not ending["missing"])
        assert len(server.get("/calls")["calls"]) == 1


async def test_a_server_that_died_is_noticed_before_ice_does(chromium: str, tmp_path: Path) -> None:
    async with calling(chromium, tmp_path) as (page, server):
        server.process.kill()
        await state(page, "resuming")
        assert (await page.evaluate("states"))[-1] == ["resuming", "connected"], "ICE takes 5 to 15 s"
        ending = page.evaluate("call.close()")
        assert (await ending)["complete"] is False


FAILURES = """async ([url, dead]) => {
  const { RtcsttError, connect } = await import(`${url}/rtcstt.js`);
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const describe = (error) => (error instanceof RtcsttError ? error.code : error.name);
  const code = (options) => connect(options).then(() => "none", describe);
  return [
    await code(undefined), await code({}), await code({ stream: new MediaStream() }),
    await code({ stream, lang: "en" }),
    await code({ stream, keyterms: "hello world" }), await code({ stream, language: "English" }),
    await code({ stream, url: dead }), await code({ stream, signal: AbortSignal.abort() }),
  ];
}"""
FROM_ELSEWHERE = """async (url) => {
  const { RtcsttError, connect } = await import("/rtcstt.js");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  return connect({ stream, url }).then(() => "none", (error) => error.code);
}"""


async def test_a_failure_says_what_it_is(chromium: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with calling(chromium, tmp_path) as (page, server):
            codes = await page.evaluate(FAILURES, [server.url, dead])
            bad = ["bad_option", "bad_option", "no_audio", "bad_option", "invalid_request", "invalid_request"]
            assert codes == [*bad, "unreachable", "AbortError"]
            async with started("serve", tmp_path, "--stt", "http://127.0.0.1:9") as other:
                assert await page.evaluate(FROM_ELSEWHERE, other.url) == "origin_not_allowed"
            assert len(server.get("/calls")["calls"]) == 1, "a failed one leaves nothing"


READ = """async (url) => {
  const { watch } = await import(`${url}/rtcstt.js`);
  const reading = await watch({ call: call.id, url });
  const of = async (source) => {
    const seen = [];
    for await (const event of source) if (event.seq !== undefined) seen.push(event.seq);
    return seen;
  };
  const both = [of(reading), of(call)];
  const first = reading.once("session.start");
  const never = reading.once("dtmf");
  await call.close();
  const [read, own] = await Promise.all(both);
  return { read, own, first: (await first).seq, never: await never, ending: await reading.ended };
}"""


async def test_a_reader_gets_the_whole_call_and_learns_of_its_end(chromium: str, tmp_path: Path) -> None:
    async with calling(chromium, tmp_path) as (page, server):
        seen = await page.evaluate(READ, server.url)
        assert seen["read"] == list(range(len(seen["read"]))) and seen["first"] == 0
        assert seen["own"] and set(seen["own"]) <= set(seen["read"])
        assert seen["never"] is None and seen["ending"]["complete"] is True


DOCS = ROOT / "docs" / "captions-in-my-page.md"


def blocks(language: str) -> list[str]:
    """The code of a language in the documentation."""
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


@asynccontextmanager
async def site(pages: list[str]) -> AsyncIterator[str]:
    """A web server with these pages at `/0`, `/1`...; its URL."""

    async def serve(request: web.Request) -> web.Response:
        return web.Response(text=pages[int(request.match_info["number"])], content_type="text/html")

    app = web.Application()
    app.router.add_get(r"/{number:\d}", serve)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}"


async def test_the_documented_pages_work_from_another_origin(chromium: str, tmp_path: Path) -> None:
    pages: list[str] = []
    async with (
        site(pages) as elsewhere,
        calling(chromium, tmp_path, "--allow-origin", elsewhere) as (page, server),
    ):
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        pages += [html.replace("http://127.0.0.1:8080", server.url) for html in blocks("html")]
        assert len(pages) == 2
        for number in range(2):
            await page.goto(f"{elsewhere}/{number}")
            await page.click("#go")
            await until(lambda number=number: len(server.get("/calls")["calls"]) == number + 2, 60)
            call = server.get("/calls")["calls"][-1]["call"]
            await until(lambda call=call: server.get(f"/calls/{call}")["time"] > 0.5, 60)
            (reading,) = blocks("js")
            code = reading.replace("http://127.0.0.1:8080", server.url).replace('"ID"', f'"{call}"')
            await page.evaluate("(code) => window.eval(code)", f"(async () => {{ {dynamic(code)} }})()")
        assert not errors


def dynamic(code: str) -> str:
    """A module's code, to be evaluated."""
    return re.sub(r"import (\{.*?\}) from (\".*?\");", r"const \1 = await import(\2);", code)


async def test_the_element_reads_a_call_from_its_attributes(chromium: str, tmp_path: Path) -> None:
    async with calling(chromium, tmp_path) as (page, server):
        await page.evaluate(
            """async (url) => {
              await import(`${url}/rtcstt-captions.js`);
              const attributes = `server="${url}" call-id="${call.id}"`;
              document.body.innerHTML = `<rtcstt-captions ${attributes}></rtcstt-captions>`;
              window.element = document.querySelector("rtcstt-captions");
            }""",
            server.url,
        )
        await page.wait_for_function("element.reading?.state === 'live'", timeout=60_000)
        await page.evaluate("call.close()")
        await page.wait_for_function("element.reading.state === 'closed'", timeout=60_000)
        missing = '<rtcstt-captions call-id="nobody"></rtcstt-captions>'
        await page.evaluate("(html) => { document.body.innerHTML = html }", missing)
        await expect(page.locator("rtcstt-captions")).to_contain_text("no call with this id", timeout=60_000)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the package as npm packs it."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here (Debian: apt-get install npm)")
    project = tmp_path_factory.mktemp("project")
    pack = ["npm", "pack", "--silent", "--pack-destination", str(project)]
    name = subprocess.run(pack, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    with tarfile.open(project / name) as packed:
        packed.extractall(project / "unpacked", filter="data")
    shutil.copytree(project / "unpacked" / "package", project / "node_modules" / "rtcstt")
    (project / "package.json").write_text('{"type": "module"}')
    (project / "use.ts").write_text(blocks("ts")[0])
    return project


def test_the_package_is_whole_and_typed(package: Path) -> None:
    about = json.loads((package / "node_modules" / "rtcstt" / "package.json").read_text())
    assert about["version"] == version("rtcstt")
    code = 'import { RtcsttError, connect } from "rtcstt"; import { RtcsttCaptions } from "rtcstt/captions";'
    code += "await connect({}).catch((error) => console.log(error.code, RtcsttCaptions.name));"
    (package / "use.mjs").write_text(code)
    done = subprocess.run(["node", package / "use.mjs"], capture_output=True, text=True)
    assert "bad_option RtcsttCaptions" in done.stdout, done.stderr
    for module, resolution in (("es2022", "bundler"), ("nodenext", "nodenext")):
        options = {"target": "es2022", "module": module, "moduleResolution": resolution, "strict": True}
        options |= {"noEmit": True, "lib": ["es2022", "dom", "dom.asynciterable"], "types": []}
        (package / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["use.ts"]}))
        tsc(package / "tsconfig.json")


@pytest.mark.heavy
@pytest.mark.parametrize("bundler", ["esbuild", "vite"])
def test_the_package_is_bundled(package: Path, bundler: str) -> None:
    modules = npm.modules("bundlers")
    (package / "index.html").write_text('<script type="module" src="/use.ts"></script>')
    command = {
        "esbuild": ["esbuild", "use.ts", "--bundle", "--format=esm", "--outfile=dist/assets/use.js"],
        "vite": ["vite", "build", "--target", "es2022"],
    }[bundler]
    shutil.rmtree(package / "dist", ignore_errors=True)
    subprocess.run([modules / ".bin" / command[0], *command[1:]], cwd=package, check=True)
    (built,) = (package / "dist" / "assets").glob("*.js")
    assert "rtcstt-captions" in built.read_text()
