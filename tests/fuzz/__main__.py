"""`make fuzz`: requests, datagrams and parser inputs for FUZZ_SECONDS; exit status 1 for faults."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import numpy as np

from rtcstt.errors import CallerError
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets
from tests.fuzz import datagrams, parsers, requests
from tests.fuzz.processes_apart import apart

SECRET = "a secret of at least thirty-two characters"
TOKEN, API_KEY = "a static token of the fuzz", "an API key of the fuzz"
CAME = ("received", "recovered", "concealed", "silence")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def signed(**claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 1e6, **claims}, SECRET, algorithm="HS256")


TOKENS: tuple[str, ...] = (
    TOKEN,
    API_KEY,
    signed(),
    signed(**{"may-listen": False}),
    signed(**{"may-publish": False}),
)
TOKENS += (signed(label="desk"), signed(exp=1), signed(may_listen=False), "guess", signed()[:-2], "\udcff")


def routes() -> list[tuple[str, str]]:
    """Those of the documentation, which a test keeps true."""
    return re.findall(r"^\| `([A-Z]+) (/\S*)` \|", DOCS.read_text(), re.MULTILINE)


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """`rtcstt serve` with every kind of token; its URL and its log."""
    files = {"token": TOKEN, "jwt-secret": SECRET, "api-key": API_KEY}
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    options = [word for name in files for word in (f"--{name}-file", str(folder / name))]
    options += [
        "--trusted-proxy",
        "127.0.0.1",
        "--offers-per-minute",
        "1000000",
        "--max-calls",
        "60",
        "--port",
        "0",
    ]
    log = folder / "log"
    with log.open("wb") as output:
        command = [str(Path(sys.executable).with_name("rtcstt")), "serve", "--max-streams", "64", *options]
        process = await asyncio.create_subprocess_exec(*command, stderr=output, stdout=output)
    try:
        async with asyncio.timeout(120):
            while not (found := re.search(r"listening on (http://\S+)", log.read_text())):
                if process.returncode is not None:
                    raise RuntimeError(log.read_text())
                await asyncio.sleep(0.1)
        yield found[1], log
        if process.returncode is not None:
            raise RuntimeError("the server ended: " + log.read_text()[-3000:])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class Placing:
    """A call by `/offer` whose answer is kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.call, self.sdp = "", ""

    async def answer(self, text: str) -> str:
        headers = {
            "Authorization": f"Bearer {signed(sub='a bystander')}"
        }  # whose call nobody else may resume
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.post(self._url + "/offer", json={"type": "offer", "sdp": text}) as response:
                found = await response.json()
                if response.status != 200:
                    raise CallerError(response.status, found["error_code"], found["title"], found["message"])
        self.call, self.sdp = found["call"], found["sdp"]
        return self.sdp


async def seen(url: str, path: str) -> tuple[float, str]:
    begin = time.monotonic()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url + path) as response:
        text = await response.text()
        return time.monotonic() - begin, text


async def probe(url: str, slowest: list[float]) -> None:
    while True:
        slowest.append((await seen(url, "/healthz"))[0])
        await asyncio.sleep(0.05)


async def ended(url: str, call: str, phase: str) -> list[str]:
    """What is to be said of a call that did not live through it."""
    shown = (await seen(url, f"/calls/{call}"))[1]
    if '"state": "open"' in shown:
        return []
    events = (await seen(url, f"/calls/{call}/events"))[1]
    return [f"after the {phase} the call is {shown[:300]}, its last events {events[-600:]}"]


async def live(seconds: float, seed: int) -> dict[str, Any]:
    """Requests, then datagrams, while a call runs; what became of the call and the server."""
    tone = (np.sin(np.arange(48000 * 10) / 20) * 8000).astype(np.int16)
    packets = opus_packets(tone) * int(seconds / 10 + 100)  # however long it takes on a busy machine
    with tempfile.TemporaryDirectory() as name:
        async with server(Path(name)) as (url, log):
            placing = Placing(url)
            caller = Caller(packets, loopback=True)
            await caller.dial(placing)
            found = datagrams.ports_of(placing.sdp)
            host, _, port = url.removeprefix("http://").partition(":")
            target = requests.Target(host, int(port), routes(), TOKENS, [placing.call, "ended"])
            slowest: list[float] = []
            probing = asyncio.create_task(probe(url, slowest))
            # The bystander's call must not be deleted by a token that may: its id is one that is only read.
            readers = [one for one in target.routes if one[0] not in ("DELETE", "PATCH")]
            asked = await apart(
                requests.run,
                requests.Target(host, int(port), readers, TOKENS, [placing.call], requests.READING),
                seed,
                seconds=seconds * 0.35,
            )
            others = await apart(
                requests.run,
                requests.Target(host, int(port), target.routes, TOKENS, ["x"]),
                seed + 1,
                seconds=seconds * 0.35,
            )
            faults = await ended(url, placing.call, "requests")
            sent = await apart(datagrams.run, found, seed, seconds=seconds * 0.3)
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            faults += await ended(url, placing.call, "datagrams")
            metrics = (await seen(url, "/metrics"))[1]
            await caller.hang_up()
            await caller.close()
            after = json.loads((await seen(url, f"/calls/{placing.call}"))[1])
            ledger = after.get("ledger", {}).get("0") or dict.fromkeys((*CAME, "discarded", "sent"), 0.0)
            text = log.read_text()
            faults += [line for line in text.splitlines() if placing.call in line][-5:] if faults else []
    whole = sum(ledger[kind] for kind in CAME) - ledger["discarded"]
    faults += [*asked.faults, *others.faults]
    faults += [text[text.index("Traceback") :][:4000]] if "Traceback" in text else []
    faults += [] if abs(whole - ledger["sent"]) <= 0.001 else [f"the ledger does not add up: {ledger}"]
    return {
        "requests": asked.requests + others.requests,
        "statuses": dict(sorted((asked.statuses + others.statuses).items())),
        "datagrams": sent,
        "longest_healthz_ms": round(1000 * max(slowest)),
        "stalls_ms": buckets(metrics, "rtcstt_loop_stall_seconds"),
        "stalls_of_its_own_ms": buckets(metrics, "rtcstt_loop_work_stall_seconds"),
        "call": {"concealed_ms": ledger["concealed"], "received_ms": ledger["received"]},
        "faults": faults,
    }


def buckets(metrics: str, name: str) -> dict[str, int]:
    """How many took at most so many ms; the last has all."""
    found = re.findall(rf'{name}_bucket\{{le="([0-9.+Inf]+)"\}} (\S+)', metrics)
    return {str(round(1000 * float(most))) if most != "+Inf" else "all": int(float(n)) for most, n in found}


def main() -> int:
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    seed = int(os.environ.get("FUZZ_SEED", str(int(time.time()))))
    sys.stdout.write(f"FUZZ_SEED={seed} FUZZ_SECONDS={seconds:g}\n")
    parsed = parsers.run(seed, seconds=seconds * 0.18)
    found = asyncio.run(live(seconds * 0.82, seed))
    found["parser_inputs"] = parsed.inputs
    found["slowest_parser_ms"] = round(1000 * parsed.slowest_s, 1)
    found["slowest_parser_input"] = parsed.slowest
    found["faults"] += parsed.faults
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
