"""A wrong value is refused with the place it came from: the option, the variable, or the line of the file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path

import pytest

from rtcstt import cli
from rtcstt.errors import EngineError
from rtcstt.server import options

RTP = ("--listen", "127.0.0.1:0")
WRONG = [
    ("serve", (), "port", "70000"),
    ("serve", (), "port", "x"),
    ("serve", (), "max-calls", "0"),
    ("serve", (), "max-connections", "0"),
    ("serve", (), "udp-ports", "9-1"),
    ("serve", (), "language", "english"),
    ("serve", (), "turn-end-threshold", "2"),
    ("serve", (), "mode", "semi"),
    ("serve", (), "public-ip", "1.2.3"),
    ("serve", (), "workers", "many"),
    ("serve", (), "drain-s", "-1"),
    ("serve", (), "deny-peer", "nowhere"),
    ("serve", (), "allow-origin", "https://a/path"),
    ("serve", ("--host", "0.0.0.0"), "token-file", "/none"),
    ("stt", (), "port", "70000"),
    ("stt", (), "max-streams", "0"),
    ("stt", (), "update-ms", "1"),
    ("stt", (), "keyterm-strength", "9"),
    ("stt", (), "device", "gpu"),
    ("stt", (), "workers", "0"),
    ("stt", (), "key-file", "/nonexistent"),
    ("stt", (), "host", "203.0.113.1"),
    ("rtp", (*RTP, "--codec", "PCMU"), "payload-type", "128"),
    ("rtp", (*RTP, "--codec", "PCMU"), "clock-rate", "5"),
    ("rtp", (*RTP, "--codec", "PCMU"), "idle-s", "-1"),
    ("rtp", ("--codec", "PCMU"), "listen", "nowhere"),
    ("rtp", RTP, "codec", "mp3"),
    ("rtp", RTP, "sdp", "/nonexistent"),
    ("transcribe", ("a.wav",), "jobs", "0"),
    ("transcribe", ("a.wav",), "format", "pdf"),
    ("transcribe", ("a.wav",), "rate", "5"),
    ("transcribe", ("a.wav",), "channels", "0"),
    ("transcribe", ("a.wav",), "start", "-1"),
    ("transcribe", ("a.wav",), "engine", "spark"),
    ("transcribe", (), "watch", "/nonexistent"),
    ("doctor", (), "port", "70000"),
    ("doctor", (), "udp-ports", "5000"),
    ("doctor", (), "mode", "semi"),
    ("doctor", (), "public-ip", "1.2"),
    ("doctor", (), "turn-end-threshold", "7"),
]


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted would start a server."""

    def refuse(work: Coroutine[object, object, object]) -> None:
        work.close()
        pytest.fail("it was accepted")

    monkeypatch.setattr(asyncio, "run", refuse)
    for name in os.environ:
        if name.startswith("RTCSTT_"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("way", ["option", "variable", "file"])
@pytest.mark.parametrize(("command", "others", "name", "value"), WRONG, ids=lambda value: str(value))
def test_a_wrong_value_is_refused_with_where_it_came_from(
    command: str,
    others: tuple[str, ...],
    name: str,
    value: str,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, variable = [command, *others], f"RTCSTT_{name.replace('-', '_').upper()}"
    place = {"option": f"--{name}", "variable": variable, "file": "rtcstt.toml line 2"}[way]
    if way == "option":
        words.append(f"--{name}={value}")
    elif way == "variable":
        monkeypatch.setenv(variable, value)
    else:
        (tmp_path / "rtcstt.toml").write_text(f'# a comment\n{name} = "{value}"\n')
        words += ["--config", str(tmp_path / "rtcstt.toml")]
    try:
        status = cli.main(words)
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and place in said, said


def test_a_message_names_no_option_whose_value_it_holds_by_chance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise EngineError("fetching it failed: prefetch; rtcstt models fetch")

    monkeypatch.setattr("rtcstt.commands.models._fetch", fetch)
    assert cli.main(["models", "fetch", "tiny-en"]) == 1
    assert capsys.readouterr().err.strip() == "rtcstt: fetching it failed: prefetch; rtcstt models fetch"


@pytest.mark.parametrize(
    ("given", "advice"),
    [("5", "for 5 of 100 say 5%$"), ("101%", "from 0% to 100%$"), ("-1", "to 100%$"), ("nan", "to 100%$")],
)
def test_a_share_beyond_the_whole_is_refused_with_what_was_meant(given: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        options.share(given)
    assert (options.share("5%"), options.share("0.05"), options.share("1")) == (0.05, 0.05, 1)
