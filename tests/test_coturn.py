"""A call through a TURN server: Debian's coturn, with fixed and with time-limited logins."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.contrib.media import MediaPlayer
from ports import free_port
from processes import check_events, ended, started, until

from rtcstt.commands.demo import bundled_recording
from rtcstt.server.assembly import turn_login
from rtcstt.testing import ScriptedUpstream
from rtcstt.webrtc.connection import IceServer

pytestmark = pytest.mark.real

SECRET = "a secret that coturn and rtcstt share"


def answers(port: int) -> bool:
    """Whether a STUN server is there (RFC 8489: a binding request)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(0.2)
        one.sendto(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), ("127.0.0.1", port))
        try:
            return len(one.recv(2048)) > 0
        except OSError:
            time.sleep(0.05)  # a process of its own has no event to wait for
            return False


@contextlib.contextmanager
def coturn(folder: Path, *login: str) -> Iterator[int]:
    """A TURN server on loopback; its port."""
    command = shutil.which("turnserver")
    if command is None:
        pytest.skip("Debian's coturn is not installed")
    port, log = free_port(), folder / "turn.log"
    options = [
        *("-n", "--listening-ip=127.0.0.1", f"--listening-port={port}", "--relay-ip=127.0.0.1"),
        *("--min-port=49160", "--max-port=49260", "--realm=test", "--no-tcp", "--no-tls", "--no-dtls"),
        *("--allow-loopback-peers", "--cli-password=x", "--no-cli", "--log-file=stdout", "--simple-log"),
        *(f"--pidfile={folder / 'turn.pid'}", f"--userdb={folder / 'turn.db'}", *login),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen([command, *options], stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        yield port
    finally:
        process.terminate()
        process.wait(60)


@contextlib.asynccontextmanager
async def relayed_call(url: str, turn: IceServer) -> AsyncIterator[tuple[RTCPeerConnection, str]]:
    """A caller who shows nothing but the relay's address."""
    login = RTCIceServer(turn.url, username=turn.username, credential=turn.credential)
    pc = RTCPeerConnection(RTCConfiguration([login], iceTransportPolicy=RTCIceTransportPolicy.RELAY))
    try:
        audio = MediaPlayer(str(bundled_recording())).audio
        assert audio is not None
        pc.addTrack(audio)
        await pc.setLocalDescription(await pc.createOffer())
        offer = pc.localDescription.sdp
        assert "typ relay" in offer and "typ host" not in offer
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{url}/offer", json={"type": "offer", "sdp": offer}) as response,
        ):
            answer = await response.json()
        assert "typ relay" in answer["sdp"], "the server has a relay of its own"
        await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        yield pc, answer["call"]
    finally:
        await pc.close()


@pytest.mark.parametrize("login", ["fixed", "time-limited"])
async def test_a_call_through_a_relay(tmp_path: Path, login: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    if login == "fixed":
        flags = ("--lt-cred-mech", "--user=u1:p1")
    else:
        flags = ("--use-auth-secret", f"--static-auth-secret={SECRET}")
    with coturn(tmp_path, *flags) as port:
        if login == "fixed":
            options: tuple[str, ...] = ("--ice-server", f"turn:u1:p1@127.0.0.1:{port}")
            turn = IceServer(f"turn:127.0.0.1:{port}", "u1", "p1")
        else:
            options = (
                "--ice-server",
                f"turn:127.0.0.1:{port}",
                "--turn-secret-file",
                str(tmp_path / "secret"),
            )
            turn = turn_login(IceServer(f"turn:127.0.0.1:{port}"), SECRET, time.time() + 60)
        async with ScriptedUpstream() as upstream, upstream.listening() as url:
            options = (*options, "--stt", url, "--resume-grace-s", "0")
            async with started("serve", tmp_path, *options) as server:
                async with relayed_call(server.url, turn) as (_, call):
                    await until(lambda: upstream.connections and upstream.connections[0].audio_s > 2.0)
                events = await ended(server, call)
    check_events(events)
    (ledger,) = events[-1]["ledger"].values()
    assert ledger["received"] > 1500
    assert json.dumps(events).count(SECRET) == 0
