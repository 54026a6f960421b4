"""The command line: what it says and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtcstt import cli


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, level = logging.getLogger(), logging.getLogger().level
    yield
    root.setLevel(level)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in cli.COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["call"],
        ["call", "x", "--to"],
        ["call", "x", "--mute", "3-1"],
        ["call", "x", "--to", "http://127.0.0.1:1/offer", "--token", "a secret, not --token-file"],
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage: rtcstt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["call", "no-such-file.wav", "--to", "http://127.0.0.1:1/offer"],
            "cannot read audio from no-such-file",
        ),
        (["doctor", "--ice-server", "http://x"], "not the URL of a STUN or TURN server"),
        (["demo", "no-such-file.wav"], "cannot read audio from no-such-file.wav"),
    ],
)
def test_wrong_settings_end_with_2_and_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert said in shown[0]


def test_no_server_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path / "short.wav"
    write_silence(recording)
    assert cli.main(["call", str(recording), "--to", "http://127.0.0.1:1/offer"]) == 1
    assert "http://127.0.0.1:1/offer" in capsys.readouterr().err


def test_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rtcstt.commands.doctor.run", interrupted)
    assert cli.main(["doctor"]) == 130


def write_silence(path: Path, seconds: float = 0.2) -> None:
    import wave

    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16000)
        wav.writeframes(bytes(int(32000 * seconds)))
