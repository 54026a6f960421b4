"""The recogniser's endpoints with very much at once; minutes, so not part of the usual run."""

from __future__ import annotations

import asyncio
import resource
import struct
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile
import soxr
from processes import started
from test_recognizer import Engine, made
from test_stt_server import MANUAL, Server, form, read_all, serving

from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.engines import models

pytestmark = [pytest.mark.real, pytest.mark.heavy]


async def test_a_thousand_idle_sockets_cost_little_and_harm_nobody(tmp_path: Path) -> None:
    """Against the real recogniser, whose own start is counted before."""
    if models.find("tiny-en") is None or models.find("silero-vad") is None:
        pytest.skip("the recogniser's models are missing (rtcstt models)")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("fewer than 4096 files may be open here (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    options = "--max-streams", "1100"
    async with (
        started("stt", tmp_path, *options) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        service = Server(server.url, None, http)  # type: ignore[arg-type]
        async with service.socket() as warm:
            await warm.receive()
        before = await asyncio.to_thread(server.resources)
        sockets = [await service.socket(MANUAL) for _ in range(1000)]
        after = await asyncio.to_thread(server.resources)
        each_kb = (after["memory_kb"] - before["memory_kb"]) / 1000
        assert after["sockets"] - before["sockets"] >= 999
        assert each_kb < 150  # 36 were measured
        async with service.socket() as talking:
            samples, rate = soundfile.read(bundled_recording(), dtype="float32", frames=48000 * 4)
            pcm = (soxr.resample(samples, rate, 16000) * 32767).astype("<i2").tobytes()
            for begin in range(0, len(pcm), 6400):
                await talking.send_bytes(pcm[begin : begin + 6400])
            await talking.send_str('{"type": "close"}')
            ends = [m["transcript"] for m in await read_all(talking) if m["type"] == "turn.end"]
        assert "best of times" in "".join(ends).lower()
        await asyncio.gather(*(socket.close() for socket in sockets))


async def test_a_recording_of_ten_hours_is_never_in_memory(tmp_path: Path) -> None:
    """Nearly all of it silence, with a second of sound every hour; 288 MB that take no disk."""
    hours, rate = 10, 4000
    size = hours * 3600 * rate * 2
    path = tmp_path / "long.wav"
    with path.open("wb") as file:  # noqa: ASYNC230
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt ")
        file.write(
            struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + b"data" + struct.pack("<I", size)
        )
        for number in range(hours):
            file.seek(44 + (2 * number + 1) * 3600 * rate)
            file.write(np.full(rate, 3000, "<i2").tobytes())
        file.truncate(44 + size)
    engine = Engine()
    async with serving(recognizer=made(engine)) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with path.open("rb") as file:  # noqa: ASYNC230
            status, answer = await server.post(
                "/stt", data=form(file, model="ink-whisper"), timeout=aiohttp.ClientTimeout(900)
            )
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert status == 200 and answer["duration"] == pytest.approx(hours * 3600, abs=1.0)
    assert engine.decodes == hours and engine.longest < 3 * 16000
    assert grown_kb < 64 * 1024  # 10 MB were measured
