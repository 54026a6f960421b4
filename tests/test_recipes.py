"""The recipes run in their frameworks, with real speech. `pip install --group recipes` brings those."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import jiwer
import pytest
from ports import free_port
from processes import RTCSTT
from test_examples import TIMEOUT_S, WORDS, _plain, answers, speech  # noqa: F401  speech is a fixture

from rtcstt.media.files import read

RECIPES = Path(__file__).resolve().parents[1] / "examples" / "recipes"

pytestmark = [
    pytest.mark.real,
    pytest.mark.heavy,
    pytest.mark.skipif(not RECIPES.exists(), reason="no examples in this package"),
]


def need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module} here: pip install --group recipes")


@contextlib.contextmanager
def uvicorn(app: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{app}:app", "--app-dir", str(RECIPES)]
    command += ["--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        answers(port)
        yield port, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_fastapi(speech: Path) -> None:  # noqa: F811
    need("fastapi", "uvicorn")
    with uvicorn("fastapi_app") as (port, process):
        call = [RTCSTT, "call", str(speech), "--to", f"http://127.0.0.1:{port}/offer"]
        subprocess.run(call, check=True, capture_output=True, timeout=TIMEOUT_S)
        process.terminate()
        printed = process.communicate(timeout=TIMEOUT_S)[0]
    assert jiwer.wer(WORDS, _plain(" ".join(printed.split()))) <= 0.2, printed


@pytest.mark.parametrize(
    ("app", "needed"),
    [("starlette_app", ["starlette"]), ("django_app", ["django", "channels"])],
)
def test_pcm_over_a_websocket(app: str, needed: list[str], speech: Path) -> None:  # noqa: F811
    need("uvicorn", *needed)
    samples = read(speech, 16000).tobytes()

    async def listen(port: int) -> str:
        text = ""
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}/listen"
            origin = f"http://127.0.0.1:{port}"
            async with http.ws_connect(url, origin=origin) as leaving:  # in mid-sentence, and without a word
                await leaving.send_bytes(samples[:32000])
            async with http.ws_connect(url, origin=origin) as socket:
                for start in range(0, len(samples), 3200):
                    await socket.send_bytes(samples[start : start + 3200])
                    await asyncio.sleep(0.1)  # as a microphone would
                await socket.send_str("end")
                async for message in socket:
                    event = message.json()
                    text += event["transcript"] if event["type"] == "turn.end" else ""
        assert event["type"] == "session.end"
        return text

    with uvicorn(app) as (port, process):
        text = asyncio.run(listen(port))
        process.terminate()
        logged = process.communicate(timeout=TIMEOUT_S)[0]
    assert jiwer.wer(WORDS, _plain(" ".join(text.split()))) <= 0.2, text
    assert "Traceback" not in logged


def test_the_notebook(speech: Path) -> None:  # noqa: F811
    need("nbclient", "nbformat", "ipykernel")
    program = (
        "import sys, nbclient, nbformat\n"
        "notebook = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(notebook, timeout=600).execute()\n"
        "print(nbformat.writes(notebook))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, RECIPES / "notebook.ipynb"],
        env={**os.environ, "RECORDING": str(speech)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall("worst of times", done.stdout, re.IGNORECASE)) >= 2, done.stdout[-3000:]


def test_pyright_finds_nothing_in_the_examples() -> None:
    need("pyright", "fastapi", "starlette", "django", "channels")
    root = RECIPES.parents[1]
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S)
    if "unable to" in done.stderr.lower() or "urlopen" in done.stderr:
        pytest.skip(f"pyright could not fetch itself: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout
