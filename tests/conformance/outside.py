"""Running clients that nobody here wrote, each in a process of its own, and judging what they got."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import install
import jiwer
import pytest

from rtcstt import wire

CLIENTS = Path(__file__).parent / "clients"
WORDS = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity"
)
WRONG = 0.2  # of the words at most

_plain = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
)


def assert_words(text: str, words: str = WORDS) -> None:
    assert jiwer.wer(_plain(words), _plain(text)) <= WRONG, text


def assert_turns(events: list[dict[str, Any]]) -> None:
    """A legal session on the turns endpoint whose text, joined with nothing between, is what was said."""
    client = wire.TurnsClient()
    messages = [client.receive_text(json.dumps(event)) for event in events]
    assert isinstance(messages[0], wire.Connected)
    assert client.order.state is wire.TurnState.IDLE
    assert len({event["request_id"] for event in events}) == 1
    assert_words("".join(m.transcript for m in messages if isinstance(m, wire.TurnEnd)))


def assert_transcripts(events: list[dict[str, Any]]) -> None:
    """A legal session on the manual endpoint, with one `finalize`, then `close`."""
    client = wire.ManualClient()
    client.send(wire.Finalize())
    messages = [client.receive_text(json.dumps(event)) for event in events]
    assert client.done and not client.flushes_due
    finals = [m for m in messages if isinstance(m, wire.Transcript) and m.is_final]
    assert_words("".join(m.text for m in finals))
    assert all(m.duration and m.language == "en" and isinstance(m.words, list) for m in finals)


def run(interpreter: str | Path, script: str, *args: str | Path, speed: float = 4.0) -> list[Any]:
    """The JSON that a client printed, line by line."""
    output = run_to_its_end(interpreter, script, *args, SPEED=str(speed))
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def run_to_its_end(interpreter: str | Path, script: str, *args: str | Path, **variables: str) -> str:
    """What a client printed; it must end by itself and well."""
    node_path = str(install.FOLDER / "node" / "node_modules")
    environment = {**os.environ, "PYTHONPATH": "", "NODE_PATH": node_path, **variables}
    command = [str(interpreter), str(CLIENTS / script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def interpreter(name: str) -> Path:
    """Of a client that is installed apart; the test is skipped where it is not."""
    if not (install.FOLDER / name / "installed").exists():
        pytest.skip(f"{name} is not installed: python tests/conformance/install.py {name}")
    return install.python(name)


def node() -> str:
    found = shutil.which("node")
    if found is None or not (install.FOLDER / "node" / "installed").exists():
        pytest.skip("the npm client is not installed: python tests/conformance/install.py node")
    return found


def vendors_page(shared_data: Path) -> Path:
    """The page of the vendor with the examples for turns."""
    return next((shared_data.parent / "seeds").glob("001_*.txt"))


def bundled(script: Path, out: Path, platform: str) -> Path:
    """A client's JavaScript with all that it imports, its types left out."""
    node()
    folder = install.FOLDER / "node"
    bundle = [folder / "node_modules" / ".bin" / "esbuild", script, "--bundle", f"--platform={platform}"]
    environment = {**os.environ, "NODE_PATH": str(folder / "node_modules")}
    subprocess.run([*bundle, "--log-level=error", f"--outfile={out}"], check=True, env=environment)
    return out


def vendors_turns_example(shared_data: Path, tab: str) -> str:
    """The TypeScript under a tab of the vendor's page for turns."""
    text = vendors_page(shared_data).read_text()
    return text.split(f'<Tab title="{tab}">')[1].split("```typescript")[1].split("\n", 1)[1].split("```")[0]


def vendors_manual_example(shared_data: Path) -> str:
    """The TypeScript for Node of the vendor's page for push-to-talk. We have that page as plain text, with
    nothing around the code, and without indents: its Python cannot be run."""
    text = next((shared_data.parent / "seeds").glob("000_*.txt")).read_text()
    begin = text.index("async function sttManualFinalizeWebsocket(")
    return text[begin : text.index("\nCaptures microphone audio", begin)]


def vendors_typescript(code: str, folder: Path, platform: str, end: str) -> Path:
    """An example of the vendor's, with the helpers that it imports and our ``end``, to be run."""
    helpers = CLIENTS / "vendors_helpers.ts"
    script = folder / "example.ts"
    script.write_text(
        'import { Cartesia } from "@cartesia/cartesia-js";\n'
        "import { AUDIO_CONTEXT_ENCODING, createFloat32AudioChunker, sendRealtimeAudioChunks }"
        f' from "{helpers}";\n{code}\n{end}\n'
    )
    return bundled(script, folder / "example.js", platform)
