"""The client's types, and the package that npm makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import event_types
import npm
import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "rtcstt" / "server" / "static"
BY_HAND = ("events.d.ts", "options.d.ts")  # or made from Python's events

DOCS = ROOT / "docs" / "captions-in-my-page.md"


def blocks(language: str, page: Path = DOCS) -> list[str]:
    """The code of a language on a page of the documentation."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


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
  document.querySelector("rtcstt-captions")?.show(call);
  document.createElement("rtcstt-captions").transcript.speakers.toFixed();
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


def test_the_modules_of_the_pages_are_typed(tmp_path: Path) -> None:
    """As strictly as the package, but that what is handed from one to the other may be anything."""
    sources = tmp_path / "sources"
    shutil.copytree(STATIC, sources)
    options = json.loads((ROOT / "tsconfig.json").read_text())["compilerOptions"]
    options |= {"rootDir": str(sources), "noImplicitAny": False, "useUnknownInCatchVariables": False}
    options |= {"noEmit": True, "emitDeclarationOnly": False, "declaration": False}
    files = [str(sources / name) for name in ("page.js", "watch.js")]
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": files}))
    tsc(tmp_path / "tsconfig.json")


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


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the package as npm packs it."""
    project = tmp_path_factory.mktemp("project")
    npm.install_ours(project)
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


def test_the_code_that_the_page_gives_away_is_code(tmp_path: Path) -> None:
    """What *Copy as JavaScript* and *Copy as Python* put into the clipboard."""
    if shutil.which("node") is None:
        pytest.skip("no Node here (Debian: apt-get install nodejs)")
    options = {"mode": "auto", "language": "en", "keyterms": ['a "term"'], "turn": {"end_timeout_ms": 900}}
    for name, file in (("javascript", "call.mjs"), ("python", "call.py")):
        code = f'import {{ {name} }} from "{(STATIC / "developer.js").as_uri()}";'
        code += f'console.log({name}("http://127.0.0.1:8080/", {json.dumps(options)}));'
        (tmp_path / "copy.mjs").write_text(code)
        done = subprocess.run(["node", tmp_path / "copy.mjs"], capture_output=True, text=True, check=True)
        (tmp_path / file).write_text(done.stdout)
    subprocess.run(["node", "--check", tmp_path / "call.mjs"], check=True)
    compile((tmp_path / "call.py").read_text(), "call.py", "exec")
    assert '"end_timeout_ms":900' in (tmp_path / "call.mjs").read_text()


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
