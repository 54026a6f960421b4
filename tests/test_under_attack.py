"""A call with real speech beside each attack: no word is lost, and the server answers all the while.

Prints a table; run it with `-s` on a machine that does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile

from benchmarks.borders import AUDIO, HEAD, whole_offers
from benchmarks.table import markdown
from rtcstt.commands.demo import bundled_recording, transcript, word_errors
from rtcstt.errors import CallerError
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.connection import transports_of
from rtcstt.webrtc.playback import opus_packets
from tests.processes import RTCSTT, Server, check_ledgers, running

pytestmark = [pytest.mark.real, pytest.mark.heavy]

DESCRIPTORS = 256
SPEECH_S = 14.0
HEALTH_S = 0.25  # asked; the test allows for a machine that is busy, and prints what it was
BUSY = 8
GZIP = gzip.compress(b'{"sdp":"' + b"a" * 900_000_000, 1)[:1_000_000]
JSON = {"Content-Type": "application/json"}
Attack = Callable[[aiohttp.ClientSession, Server], Coroutine[Any, Any, object]]


async def nothing(http: aiohttp.ClientSession, server: Server) -> None:
    await asyncio.sleep(1)


async def idle_connections(http: aiohttp.ClientSession, server: Server) -> None:
    """370 of them, half in the middle of a header."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    writers = []
    for index in range(370):
        with contextlib.suppress(OSError):
            writers.append((await asyncio.open_connection(host, int(port)))[1])
            writers[-1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: " if index % 2 else b"")
    await asyncio.sleep(5)
    for writer in writers:
        writer.transport.abort()


async def gzip_bodies(http: aiohttp.ClientSession, server: Server) -> None:
    async def send() -> None:
        headers = {**JSON, "Content-Encoding": "gzip"}
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(server.url + "/offer", data=GZIP, headers=headers) as response:
                assert response.status == 415

    await asyncio.gather(*(send() for _ in range(20)))
    await asyncio.sleep(0.5)


async def trickled_candidates(http: aiohttp.ClientSession, server: Server) -> None:
    """2500 of them, 64 at a time."""
    offer = HEAD + AUDIO.format(0)
    async with http.post(server.url + "/whip", data=offer, headers={"Content-Type": "application/sdp"}) as r:
        if r.status != 201:
            await asyncio.sleep(0.5)
            return
        session = server.url + r.headers["Location"]
    headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
    for first in range(0, 2500, 64):
        lines = (f"a=candidate:{i} 1 udp {i} 127.1.{i % 250}.{i % 64} 9 typ host\r\n" for i in range(64))
        fragment = f"a=ice-ufrag:abcd\r\na=mid:0\r\na=x:{first}\r\n" + "".join(lines)
        async with http.patch(session, data=fragment, headers=headers) as response:
            assert response.status in (204, 429, 404), await response.text()
    async with http.delete(session):
        pass


class Hostile:
    """Answers by `/offer`, to an offer in which a payload type has a clock rate of 1 Hz."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url

    async def answer(self, text: str) -> str:
        text = re.sub(r"(m=audio \S+ \S+)", r"\1 100", text)
        text = text.replace("a=rtpmap:", "a=rtpmap:100 opus/1/2\r\na=rtpmap:", 1)
        async with self._http.post(self._url + "/offer", json={"type": "offer", "sdp": text}) as response:
            found = await response.json()
        if response.status != 200:
            raise CallerError(response.status, found["error_code"], "", "")
        return str(found["sdp"])


async def hostile_rtpmap(http: aiohttp.ClientSession, server: Server) -> None:
    """Malformed payloads that once stood for minutes, and malformed Opus of the right clock rate."""
    attacker = Caller(opus_packets(np.zeros(48000 * 4, np.int16)), loopback=True)
    try:
        await attacker.dial(Hostile(http, server.url))
        dtls = transports_of(attacker._pc)[0]
        for sequence in range(200):
            for payload_type in (100, 96):
                head = struct.pack("!BBHII", 0x80, payload_type, sequence, sequence * 960, 0xDEADBEEF)
                await dtls._send_rtp(head + b"\xff\x3f" + bytes(10))
            await asyncio.sleep(0.02)
    except (CallerError, ConnectionError):
        await asyncio.sleep(0.5)
    finally:
        await attacker.close()


async def largest_offers(http: aiohttp.ClientSession, server: Server) -> None:
    """Ten a second of those that are taken; each holds streams for 15 s, so that later ones get 503."""
    for _, offer in whole_offers(1.0):
        for sdp in (offer, offer.replace("fingerprint", "fingerprinx"), offer + "m=a 0 x 0\r\n" * 2000):
            body = json.dumps({"type": "offer", "sdp": sdp})
            async with http.post(server.url + "/offer", data=body, headers=JSON) as response:
                found = await response.json()
                assert response.status in (200, 400, 413, 429, 503), found
            if response.status == 200:
                async with http.delete(f"{server.url}/calls/{found['call']}"):
                    pass
            await asyncio.sleep(0.1)


ATTACKS: tuple[Attack, ...] = (
    *(nothing, idle_connections, gzip_bodies, trickled_candidates, hostile_rtpmap, largest_offers),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    events: list[dict[str, Any]]
    health_s: list[float]
    rounds: int

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]


async def probe(server: Server, took_s: list[float]) -> None:
    """On new connections, as a balancer asks; again at once where one was closed for others to come in."""
    while True:
        began, answered = time.monotonic(), False
        while not answered:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with aiohttp.ClientSession() as http, http.get(server.url + "/healthz") as response:
                    answered = response.status == 200
        took_s.append(time.monotonic() - began)
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            task.result()  # why it ended early
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def called(server: Server, attack: Attack, recording: Path) -> Outcome:
    """A call from its first word to its last, under one attack after the other."""
    took_s: list[float] = []
    rounds = 0

    async def again_and_again() -> None:
        nonlocal rounds
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            while True:
                await attack(http, server)
                rounds += 1

    command = [str(RTCSTT), "call", str(recording), "--to", server.url + "/offer", "--stay", "2"]
    caller = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with beside(probe(server, took_s)), beside(again_and_again()):
        output, _ = await caller.communicate()
    assert caller.returncode == 0, output
    return Outcome([json.loads(line) for line in output.splitlines()], took_s, rounds)


def test_a_call_in_progress_loses_no_word_to_any_attack(tmp_path: Path) -> None:
    limited = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS},) * 2)"
    program = (sys.executable, "-c", f"{limited}; os.execv({str(RTCSTT)!r}, sys.argv)")
    options = ("--offers-per-minute", "1000000", "--max-streams", "20")
    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    recording = tmp_path / "speech.wav"
    soundfile.write(recording, samples[: int(SPEECH_S * rate)], rate)
    outcomes: dict[str, Outcome] = {}
    for attack in ATTACKS:
        with running("serve", tmp_path, *options, program=program) as server:
            outcomes[attack.__name__] = asyncio.run(called(server, attack, recording))
            assert "Traceback" not in server.log.read_text()
    reference = transcript(outcomes["nothing"].events)
    rows = []
    for name, outcome in outcomes.items():
        wrong = word_errors(reference, transcript(outcome.events))
        longest_ms = 1000 * max(outcome.health_s)
        missing = len(outcome.end["missing"])
        complete = str(outcome.end["complete"])
        rows.append([name, f"{outcome.rounds}", f"{wrong.errors} of {wrong.words}", complete, f"{missing}"])
        rows[-1].append(f"{longest_ms:.0f}")
    header = ["attack", "times", "words that differ", "complete", "gaps", "longest /healthz, ms"]
    sys.stdout.write("\n" + markdown(header, rows) + "\n")
    for name, outcome in outcomes.items():
        assert outcome.end["type"] == "session.end" and outcome.end["complete"], (name, outcome.end)
        assert outcome.end["missing"] == [], name
        assert word_errors(reference, transcript(outcome.events)).errors <= 2, name
        assert max(outcome.health_s) < BUSY * HEALTH_S, name
        assert outcome.rounds or name == "nothing", name
        check_ledgers({one["track"]: one["ledger"] for one in outcome.end["tracks"]})
