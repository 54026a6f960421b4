"""Each example is run as its docstring says, with real speech, and says what was said."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import av
import jiwer
import numpy as np
import pytest
import soundfile
from ports import free_port
from processes import RTCSTT, Server, running

from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.engines import models
from rtcstt.errors import EngineError
from rtcstt.media.files import read

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SPEECH_S = 6.8
WORDS = "it was the best of times it was the worst of times it was the age of wisdom"
TIMEOUT_S = 240.0

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not EXAMPLES.exists(), reason="no examples in this package"),
]
_plain = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        models.require("silero-vad")
    except EngineError as error:
        pytest.skip(str(error))
    samples = read(bundled_recording(), 16000)[: int(SPEECH_S * 16000)]
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, np.concatenate([samples, np.zeros(8000, np.int16)]), 16000)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int]]:
    port = free_port()
    with running("serve", tmp_path_factory.mktemp("server"), "--audiosocket", f"127.0.0.1:{port}") as server:
        yield server, port


def run(name: str, *arguments: object, **options: Any) -> str:
    """What an example prints until it ends, and well."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextlib.contextmanager
def serving(name: str, port: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """An example that goes on until it is told to end."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PORT": str(port)}
    )
    try:
        yield process
    finally:
        process.kill() if process.poll() is None else None
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def answers(port: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/none", timeout=60)
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)  # a process of its own has no event to wait for


def embed(speech: Path, server: tuple[Server, int]) -> str:
    port = free_port()
    with serving("embed.py", port) as process:
        answers(port)
        call = [RTCSTT, "call", str(speech), "--to", f"http://127.0.0.1:{port}/offer"]
        subprocess.run(call, check=True, capture_output=True, timeout=TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=TIMEOUT_S)[0].partition("quit)\n")[2]


def call(speech: Path, server: tuple[Server, int]) -> str:
    return re.sub(r"[\d.]+ - +[\d.]+", "", run("call.py", speech, server[0].url + "/offer"))


def track(speech: Path, server: tuple[Server, int]) -> str:
    return re.sub(r"\d+\.\d+", "", run("track.py", speech))


def pcm(speech: Path, server: tuple[Server, int]) -> str:
    return fed("pcm.py", speech)


def bot(speech: Path, server: tuple[Server, int]) -> str:
    return re.sub(r"You said \d+ words: ", "", fed("bot.py", speech))


def fed(name: str, speech: Path) -> str:
    """What an example prints of speech on its standard input, in real time."""
    samples = read(speech, 16000).tobytes()
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    for start in range(0, len(samples), 3200):
        process.stdin.write(samples[start : start + 3200])
        process.stdin.flush()
        time.sleep(0.1)  # as a sound card would
    return process.communicate(timeout=TIMEOUT_S)[0].decode()


def rtp(speech: Path, server: tuple[Server, int]) -> str:
    port, audio = free_port(), mulaw(speech)
    with serving("rtp.py", 0, port) as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while not bound(port):
            assert process.poll() is None
            time.sleep(0.05)  # a process of its own has no event to wait for
        for number, start in enumerate(range(0, len(audio), 160)):
            header = struct.pack(">BBHII", 0x80, 0, number, start, 7)
            sender.sendto(header + audio[start : start + 160], ("127.0.0.1", port))
            time.sleep(0.02)  # as a gateway does
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=TIMEOUT_S)[0]


def mulaw(path: Path) -> bytes:
    out = io.BytesIO()
    with av.open(str(path)) as source, av.open(out, "w", format="mulaw") as target:
        stream: Any = target.add_stream("pcm_mulaw", rate=8000, layout="mono")
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return out.getvalue()


def bound(port: int) -> bool:
    """Whether a UDP socket has the port; asked of the kernel, since a probe might be in its way."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


def websocket(speech: Path, server: tuple[Server, int]) -> str:
    port, samples = free_port(), read(speech, 16000).tobytes()

    async def listen() -> str:
        text = ""
        async with aiohttp.ClientSession() as http:
            async with http.ws_connect(f"http://127.0.0.1:{port}/listen") as socket:
                for start in range(0, len(samples), 3200):
                    await socket.send_bytes(samples[start : start + 3200])
                    await asyncio.sleep(0.1)  # as a microphone would
                await socket.send_str("end")
                async for message in socket:
                    event = message.json()
                    text += event["transcript"] if event["type"] == "turn.end" else ""
        assert event["type"] == "session.end"
        return text

    with serving("websocket.py", port):
        answers(port)
        return asyncio.run(listen())


def audiosocket(speech: Path, server: tuple[Server, int]) -> str:
    return words_of(server[0], run("audiosocket.py", speech, f"127.0.0.1:{server[1]}"))


def media_stream(speech: Path, server: tuple[Server, int]) -> str:
    url = server[0].url.replace("http", "ws") + "/media-stream"
    return words_of(server[0], run("media_stream.py", speech, url))


def words_of(server: Server, printed: str) -> str:
    """Of the call with the label that an example printed, once it has ended."""
    label, deadline = printed.split()[-1], time.monotonic() + TIMEOUT_S
    while True:
        found = [call for call in server.get("/calls")["calls"] if call["label"] == label]
        if found and found[0]["state"] == "closed":
            turns = server.get(f"/calls/{found[0]['call']}")["turns"]
            return "".join(turn["transcript"] for turn in turns)
        assert time.monotonic() < deadline
        time.sleep(0.1)  # a process of its own has no event to wait for


RUNS = (embed, call, track, pcm, bot, rtp, websocket, audiosocket, media_stream)


@pytest.fixture(scope="module")
def printed(speech: Path, server: tuple[Server, int]) -> dict[str, concurrent.futures.Future[str]]:
    """Two at a time: each takes as long as the speech, and most of it is waiting."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        return {run.__name__: threads.submit(run, speech, server) for run in RUNS}


@pytest.mark.parametrize("name", [run.__name__ for run in RUNS])
def test_the_example_says_what_was_said(
    name: str, printed: dict[str, concurrent.futures.Future[str]]
) -> None:
    text = " ".join(printed[name].result().split())
    assert jiwer.wer(WORDS, _plain(text)) <= 0.2, text


def test_each_example_is_run() -> None:
    apart = {"janus_sip"}  # by test_sip.py
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {run.__name__ for run in RUNS} | apart
