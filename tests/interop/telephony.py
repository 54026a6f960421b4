"""Debian's telephony programs, each with its configuration in the test's folder, on free ports of loopback.

The configurations of Janus and Kamailio are those of deploy/sip; only the ports are others.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
import soxr
from ports import free_port
from processes import RTCSTT

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "deploy" / "sip"
EXAMPLE = ROOT / "examples" / "janus_sip.py"
BARESIP_MODULES = "/usr/lib/baresip/modules"  # where Debian has them; baresip looks beside itself
ANSWERED = "Call established"
START_S = 90.0


def need(*programs: str) -> None:
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


@contextlib.contextmanager
def program(folder: Path, *command: str | Path, ready: Callable[[str], bool]) -> Iterator[Path]:
    """Run it until the end of the block; yields its log, once that says that it is ready."""
    log = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while not ready(log.read_text(errors="replace")):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)  # a process of its own has no event to wait for
        yield log
    finally:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # now and then Kamailio waits for its children for ever
            process.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def kamailio(folder: Path) -> Iterator[int]:
    """A registrar; its port."""
    port = free_port()
    config = folder / "kamailio.cfg"
    config.write_text((CONFIGS / "kamailio.cfg").read_text().replace("5060", str(port)))
    command = ("kamailio", "-DD", "-E", "-Y", folder, "-f", config)
    with program(folder, *command, ready=lambda _: speaks_sip(port)):
        yield port


def speaks_sip(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(0.2)
        here = f"127.0.0.1:{one.getsockname()[1]}"
        lines = [
            f"OPTIONS sip:nobody@127.0.0.1:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP {here};branch=z9hG4bK1",
            "Max-Forwards: 9",
            f"From: <sip:test@{here}>;tag=1",
            f"To: <sip:nobody@127.0.0.1:{port}>",
            "Call-ID: 1",
            "CSeq: 1 OPTIONS",
            "Content-Length: 0",
        ]
        one.sendto("\r\n".join([*lines, "", ""]).encode(), ("127.0.0.1", port))
        with contextlib.suppress(OSError):
            return one.recv(2048).startswith(b"SIP/2.0")
    return False


@contextlib.contextmanager
def janus(folder: Path) -> Iterator[str]:
    """Janus with the configuration of deploy/sip; the URL of its WebSocket."""
    port = free_port()
    configs = folder / "janus"
    shutil.copytree(CONFIGS / "janus", configs)
    sockets = configs / "janus.transport.websockets.jcfg"
    sockets.write_text(sockets.read_text().replace("8188", str(port)))
    command = ("janus", "--disable-colors", "-F", configs, "-C", configs / "janus.jcfg")
    with program(folder, *command, ready=lambda _: is_listening(port)):
        yield f"ws://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def attached(url: str, plugin: str) -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
    """A handle of a Janus plugin: what is asked of it, and its answer."""
    ids: dict[str, int] = {}

    async def tell(kind: str, **fields: Any) -> dict[str, Any]:
        await ws.send_json({"janus": kind, "transaction": "-", **ids, **fields})
        while (message := await ws.receive_json(timeout=60))["janus"] not in ("success", "event"):
            assert message["janus"] != "error", message
        return dict(message)

    async def ask(request: str, *, offer: str | None = None, **fields: Any) -> dict[str, Any]:
        jsep = {"jsep": {"type": "offer", "sdp": offer}} if offer else {}
        answer = await tell("message", body={"request": request, **fields}, **jsep)
        data = dict(answer["plugindata"]["data"])
        assert "error" not in data, data
        return {**data, "answer": answer.get("jsep", {}).get("sdp")}

    async with aiohttp.ClientSession() as http, http.ws_connect(url, protocols=("janus-protocol",)) as ws:
        ids["session_id"] = (await tell("create"))["data"]["id"]
        ids["handle_id"] = (await tell("attach", plugin=plugin))["data"]["id"]
        yield ask


@contextlib.contextmanager
def bridge(folder: Path, account: str, *options: str) -> Iterator[Path]:
    """The example between Janus and rtcstt, registered."""
    command = (sys.executable, str(EXAMPLE), account, *options)
    with program(folder, *command, ready=lambda log: "calls at a time" in log) as log:
        yield log


@contextlib.contextmanager
def baresip(
    folder: Path, name: str, codec: str, samples: np.ndarray, callee: str, *, outcome: str = ANSWERED
) -> Iterator[Path]:
    """A telephone that dials and plays 48 kHz samples, then hangs up. Its log, once that has the outcome."""
    rate = int(codec.split("/")[1])
    home = folder / name
    home.mkdir()
    soundfile.write(home / "voice.wav", soxr.resample(samples, 48000, rate), rate, subtype="PCM_16")
    settings = [
        f"module_path {BARESIP_MODULES}",
        *(f"module {name}.so" for name in ("g711", "g722", "opus", "aufile")),
        *(f"module_app {name}.so" for name in ("account", "menu")),
        "sip_listen 127.0.0.1:0",
        f"audio_source aufile,{home}/voice.wav",
        f"ausrc_srate {rate}",
        "ausrc_channels 1",
    ]
    (home / "config").write_text("\n".join([*settings, ""]))
    (home / "accounts").write_text(f"<sip:{name}@127.0.0.1>;audio_codecs={codec};regint=0\n")
    (home / "contacts").write_text("")
    command = ("baresip", "-4", "-f", home, "-n", "127.0.0.1", "-e", f"/dial {callee}")
    with program(home, *command, ready=lambda log: outcome in log) as log:
        yield log


@contextlib.contextmanager
def rtp_command(folder: Path, *options: str) -> Iterator[tuple[Path, int]]:
    """`rtcstt rtp` with the embedded recogniser: what it writes, and its port."""
    command = (RTCSTT, "rtp", "--listen", "127.0.0.1:0", *options)
    with program(folder, *command, ready=lambda log: "port " in log) as log:
        yield log, int(re.findall(r"port (\d+)", log.read_text())[0])


def written_events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
