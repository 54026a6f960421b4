"""What the JavaScript client is given, and what its types promise."""

from __future__ import annotations

import functools
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, Route, expect
from processes import Server, ended, started, until
from test_coturn import SECRET, coturn
from test_npm_package import blocks
from test_page import KEEP_CONNECTIONS, LOSE_CONNECTION, browser
from test_reading_view import Place, place_of

from rtcstt.testing import ScriptedUpstream

ROOT = Path(__file__).resolve().parents[1]
README, PUSH_TO_TALK = ROOT / "README.md", ROOT / "docs" / "push-to-talk.md"

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


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
            await until(lambda: upstream.connections and upstream.connections[0].audio_s > 0.5)
            await page.click("#hangup")  # complete or not: this STT says nothing of the tone
            await expect(page.locator("#status")).to_have_text(re.compile("^Call ended"), timeout=60_000)
            (call,) = server.get("/calls")["calls"]
            events = await ended(server, call["call"])
    assert next(iter(events[-1]["ledger"].values()))["received"] > 500


CONNECT = """async (url) => {
  const { connect, watch } = await import(`${url}/rtcstt.js`);
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  window.states = [];
  window.seen = -1;
  window.call = await connect({ stream, language: "en", keyterms: ["WHIP"], turn: { end_timeout_ms: 900 } });
  call.on("*", ({ seq }) => (seen = seq ?? seen));
  call.on("state", ({ state }) => states.push([state, window.connections[0].connectionState]));
}"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with place_of(chromium, tmp_path_factory.mktemp("place")) as both:
        yield both


@asynccontextmanager
async def calling(place: Place) -> AsyncIterator[tuple[Page, Server]]:
    """A page with a call of its own in `window.call`, and its server."""
    server, running = place
    context = await running.new_context(bypass_csp=True)  # of a page with nothing on it
    page = await context.new_page()
    await page.add_init_script(KEEP_CONNECTIONS)
    await page.goto(f"{server.url}/healthz")
    await page.evaluate(CONNECT, server.url)
    try:
        yield page, server
    finally:
        await context.close()


async def state(page: Page, wanted: str) -> None:
    await page.wait_for_function(f"call.state === '{wanted}'", timeout=60_000)


IN_STATE = """(state) => {
  const [pc] = window.connections;
  if (state) Object.defineProperty(pc, "connectionState", { value: state, configurable: true });
  else delete pc.connectionState;
  pc.dispatchEvent(new Event("connectionstatechange"));
}"""


async def test_a_connection_that_comes_back_by_itself_is_live_again(place: Place) -> None:
    async with calling(place) as (page, server):
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


async def other_server(route: Route) -> None:
    """Takes the call over: here by another call, which it calls by the same name."""
    body = route.request.post_data_json or {}
    call = body.pop("call")
    response = await route.fetch(post_data=json.dumps({**body, "resume": None}))
    await route.fulfill(response=response, json={**await response.json(), "call": call})


async def test_a_call_moves_to_another_server_without_a_break(place: Place) -> None:
    async with calling(place) as (page, _):
        await page.route("**/offer", other_server)
        await page.evaluate(
            """() => {
              states.length = 0;
              window.before = call.id;
              const [channel] = window.channels;
              const seq = window.seen + 0.5; // between what came and what will
              const event = { type: "session.move", call: call.id, seq, time: 1, reason: "the server stops" };
              window.sent = [];
              // How soon the new channel opens is the machine's affair.
              const isOpen = () => window.channels[1]?.readyState === "open" ||
                (channel.readyState === "open" && window.connections[0].connectionState === "connected");
              window.sending = setInterval(() => sent.push(call.name("0", "Ada") || !isOpen()), 2);
              channel.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(event) }));
            }"""
        )
        await page.wait_for_function(
            "window.connections.length === 2 && window.connections[0].connectionState === 'closed'",
            timeout=60_000,
        )
        assert await page.evaluate("[call.state, states, call.id === before]") == ["live", [], True]
        assert await page.evaluate("clearInterval(sending), sent.every(Boolean)"), (
            "commands have a way all along"
        )
        assert await page.evaluate("window.connections[1].connectionState") == "connected"


async def test_a_server_that_died_is_noticed_before_ice_does(chromium: str, tmp_path: Path) -> None:
    async with place_of(chromium, tmp_path) as own, calling(own) as (page, server):
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


async def test_a_failure_says_what_it_is(place: Place, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with calling(place) as (page, server):
            codes = await page.evaluate(FAILURES, [server.url, dead])
            bad = ["bad_option", "bad_option", "no_audio", "bad_option", "invalid_request", "invalid_request"]
            assert codes == [*bad, "unreachable", "AbortError"]
            async with started("serve", tmp_path, "--stt", "http://127.0.0.1:9") as other:
                assert await page.evaluate(FROM_ELSEWHERE, other.url) == "origin_not_allowed"
            assert server.get("/calls")["calls"][-1]["call"] == await page.evaluate("call.id")


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


async def test_a_reader_gets_the_whole_call_and_learns_of_its_end(place: Place) -> None:
    async with calling(place) as (page, server):
        seen = await page.evaluate(READ, server.url)
        assert seen["read"] == list(range(len(seen["read"]))) and seen["first"] == 0
        assert seen["own"] and set(seen["own"]) <= set(seen["read"])
        assert seen["never"] is None and seen["ending"]["complete"] == (not seen["ending"]["missing"])


@asynccontextmanager
async def site(pages: list[str]) -> AsyncIterator[str]:
    """A web server with these pages at `/0`, `/1`...; its URL."""

    async def serve(request: web.Request) -> web.Response:
        return web.Response(text=pages[int(request.match_info["number"])], content_type="text/html")

    app = web.Application()
    app.router.add_get(r"/{number:\d}", serve)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}"


def has_calls(server: Server, count: int) -> bool:
    return len(server.get("/calls")["calls"]) == count


def lasts(server: Server, call: str, time_s: float) -> bool:
    return bool(server.get(f"/calls/{call}")["time"] > time_s)


async def test_the_documented_pages_work_from_another_origin(chromium: str, tmp_path: Path) -> None:
    pages: list[str] = []
    async with (
        site(pages) as elsewhere,
        place_of(chromium, tmp_path, "--allow-origin", elsewhere) as own,
        calling(own) as (page, server),
    ):
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        pages += [
            html.replace("http://127.0.0.1:8080", server.url)
            for html in (*blocks("html"), *blocks("html", README))
        ]
        assert len(pages) == 3
        for number in range(len(pages)):
            await page.goto(f"{elsewhere}/{number}")
            await page.click("#go")
            await until(functools.partial(has_calls, server, number + 2), 60)
            call = server.get("/calls")["calls"][-1]["call"]
            await until(functools.partial(lasts, server, call, 0.5), 60)
            (reading,) = blocks("js")
            code = reading.replace("http://127.0.0.1:8080", server.url).replace('"ID"', f'"{call}"')
            await page.evaluate("(code) => window.eval(code)", f"(async () => {{ {dynamic(code)} }})()")
        assert not errors


def dynamic(code: str) -> str:
    """A module's code, to be evaluated."""
    return re.sub(r"import (\{.*?\}) from (\".*?\");", r"const \1 = await import(\2);", code)


async def test_the_documented_push_to_talk_says_what_was_said(place: Place) -> None:
    (code,) = blocks("js", PUSH_TO_TALK)
    async with calling(place) as (page, server):
        said = await page.evaluate(
            """async ([code, url]) => {
              const { connect } = await import(`${url}/rtcstt.js`);
              const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
              const said = [], button = document.createElement("button"), say = (text) => said.push(text);
              const run = eval(`(async () => { ${code}; return call; })`);
              const talking = await run();
              button.onpointerdown();
              const unmuted = !talking.muted;
              button.onpointerup();
              const done = talking.once("flush_done");
              await Promise.race([done, new Promise((over) => setTimeout(over, 5000))]);
              const muted = talking.muted;
              await talking.close();
              return { said, unmuted, muted };
            }""",
            [code, server.url],
        )
        assert said["unmuted"] and said["muted"] and said["said"][-1:] == ["\n"]


async def test_the_element_reads_a_call_from_its_attributes(place: Place) -> None:
    async with calling(place) as (page, server):
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
