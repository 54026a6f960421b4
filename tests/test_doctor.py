"""`rtcstt doctor` against servers that work and servers that do not."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from redis_server import redis_server

from rtcstt import cli
from rtcstt.commands import doctor
from rtcstt.errors import EngineError
from rtcstt.testing import ConnectionScript, ScriptedUpstream

pytestmark = pytest.mark.real


async def examine(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """The command in a thread, since it has an event loop of its own."""
    status = await asyncio.to_thread(cli.main, ["doctor", "--port", "0", *words])
    return status, capsys.readouterr().out.splitlines()


def line_of(lines: list[str], what: str) -> tuple[str, str]:
    """What was found about something, and what to do about it."""
    index = next(index for index, line in enumerate(lines) if f" {what}: " in line)
    fix = lines[index + 1] if lines[index].startswith("FAIL") else ""
    return lines[index], fix


async def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedUpstream() as stt, stt.listening() as url:
        status, lines = await examine(capsys, "--stt", url)
    assert status == 0
    assert "rtcstt 0.1.0, Python 3." in lines[0]
    assert all(line.startswith("ok") for line in lines[1:])
    assert url in line_of(lines, "STT")[0]


async def test_a_wrong_key(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedUpstream(ConnectionScript(refuse=401)) as stt, stt.listening() as url:
        status, lines = await examine(capsys, "--stt", url)
    assert status == 1
    assert "RTCSTT_STT_KEY" in line_of(lines, "STT")[1]


async def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        ice = f"stun:127.0.0.1:{dead.getsockname()[1]}"
        checks = dict(doctor.checks_of(doctor.Options(ice_server=(ice,)), ask_s=0.5))
        found = await checks[ice]()
    assert found.found == "no answer" and "UDP" in found.fix
    status, lines = await examine(capsys, "--stt", "ws://127.0.0.1:9")
    assert status == 1
    assert "--stt" in line_of(lines, "STT")[1]


async def test_models_are_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise EngineError("run: rtcstt models fetch")

    monkeypatch.setattr("rtcstt.embedded.recognizer.Recognizer.load", load)
    status, lines = await examine(capsys)
    assert status == 1
    assert "rtcstt models fetch" in line_of(lines, "STT")[1]


async def test_a_wrong_setting_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = await examine(capsys, "--stt", "ftp://x")
    assert status == 2


async def test_the_file_of_a_server_is_tried_whole_and_told_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = [
            f"port = {port}",
            "udp_ports = '20000-20001'",
            "max_calls = 2",
            "public-ip = '192.0.2.7'",
            f"record = '{tmp_path / 'calls'}'",
            "audiosocket = '127.0.0.1:0'",
            "tls-cert = 'no-such-file'",
            "tls-key = 'no-such-file'",
            "token-file = 'no-such-file'",
            "stt = 'ws://127.0.0.1:9'",
        ]
        (tmp_path / "serve.toml").write_text("\n".join(lines))
        words = ["doctor", "--json", "--config", str(tmp_path / "serve.toml")]
        status = await asyncio.to_thread(cli.main, words)
    told = json.loads(capsys.readouterr().out)
    assert status == 2 and told["ok"] is False and told["versions"]["rtcstt"] == "0.1.0"
    checks = {check["what"]: check for check in told["checks"]}
    wrong = {what for what, check in checks.items() if not check["ok"]}
    assert wrong - {"UDP ports"} == {"HTTP", "Access", "TLS", "STT"}
    assert str(port) in checks["HTTP"]["found"] and "no-such-file" in checks["Access"]["fix"]
    assert {"UDP ports", "Public address", "Recordings", "AudioSocket", "Opus"} <= set(checks)
    assert "192.0.2.7" in checks["Public address"]["found"] and (tmp_path / "calls").is_dir()


async def test_redis_and_the_one_udp_port_of_each_worker_are_tried(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with redis_server(tmp_path) as redis, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1] - 1
        settings = doctor.Options(redis=redis.url, udp_port=port, workers="2")
        checks = dict(doctor.checks_of(settings))
        assert (await checks["Redis"]()).ok
        found = await checks["UDP ports"]()
        assert not found.ok and "of 2 are free" in found.found and "--udp-port" in found.fix
        redis.stop()
        status, lines = await examine(capsys, "--redis", redis.url, "--stt", "ws://127.0.0.1:9")
    assert status == 1
    assert "--redis" in line_of(lines, "Redis")[1]
    status, lines = await examine(capsys, "--redis", "http://x", "--stt", "ws://127.0.0.1:9")
    assert status == 2 and "begins with redis://" in line_of(lines, "Redis")[1]
