"""The command line: what it says and how it ends."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtcstt import cli
from rtcstt.errors import ConfigError
from rtcstt.server import options


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
        ["call", "x", "--mute", "a-b"],
        ["call", "x", "--to", "http://127.0.0.1:1/offer", "--loss", "5"],
        ["demo", "--loss", "much"],
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
        (["call", "x"], "--to is needed"),
        (["rtp"], "--listen is needed"),
        (["rtp", "--listen", "127.0.0.1:0"], "--codec and --sdp"),
        (["rtp", "--listen", "127.0.0.1:0", "--codec", "PCMU", "--sdp", "x"], "--codec and --sdp"),
        (["rtp", "--listen", "x", "--codec", "PCMU"], "--listen is HOST:PORT, not x"),
        (["stt", "--host", "0.0.0.0"], "--key-file"),
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


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["srve"], "did you mean serve?"),
        (["serve", "--prot", "1"], "did you mean --port?"),
        (["call", "x", "--mode", "manuel"], "did you mean manual?"),
    ],
)
def test_what_may_have_been_meant_is_said(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(("text", "share"), [("0.05", 0.05), ("5%", 0.05), ("0", 0.0), ("100%", 1.0)])
def test_a_share_may_be_written_in_percent(text: str, share: float) -> None:
    assert options.share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "-0.1", "101%", "nan", "x", "%", ""])
def test_what_is_no_share_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match="%"):
        options.share(text)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_takes_its_options_from_all_three_places(name: str, tmp_path: Path) -> None:
    """Each option of each command: a text from the environment is read as the same text of the file."""
    of = cli.COMMANDS[name]
    command = importlib.import_module(of[0])
    for field in dataclasses.fields(command.Options):
        kind = options._kinds(command.Options)[field.name]
        text = next((t for t in ("7", "yes", "0.5", "1-2", "txt", *kind.choices) if reads(kind, t)), None)
        assert text is not None, field.name
        file = tmp_path / "options.toml"
        file.write_text(f'{field.name} = "{text}"\n')
        by_file = options._from_file(file, {field.name})
        [(_, value, source)] = by_file
        assert source == f"{file} line 1"
        from_file = options._from_toml(field.name, kind, value, source)
        assert from_file == options._from_variable(field.name, kind, text, "RTCSTT_X")


def reads(kind: options._Kind, text: str) -> bool:
    try:
        options._read("x", kind, text, "here")
    except ConfigError:
        return False
    return True


def test_unknown_variables_are_reported_with_what_may_be_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTCSTT_MAXCALLS", "1")
    monkeypatch.setenv("RTCSTT_KEY_FILE", "of another command")
    monkeypatch.setenv("RTCSTT_PORT", "wrong")
    assert cli.main(["serve"]) == 2
    said = capsys.readouterr().err
    assert "RTCSTT_MAXCALLS in the environment is not an option; did you mean RTCSTT_MAX_CALLS?" in said
    assert "RTCSTT_KEY_FILE" not in said


@pytest.mark.parametrize("words", [["-v", "doctor"], ["doctor", "-v"], ["doctor", "--verbose"]])
def test_verbose_may_stand_before_and_after_the_command(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("rtcstt.logs.set_up", lambda *, verbose, **_: asked.append(verbose))
    monkeypatch.setattr("rtcstt.commands.doctor.run", lambda _: 0)
    assert cli.main(words) == 0 and asked == [True]


def test_a_completion_script_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--print-completion", "bash"])
    assert end.value.code == 0
    script = capsys.readouterr().out
    assert "--max-calls" in script and "--codec" in script


def test_a_reader_of_the_output_who_leaves_is_no_failure_to_tell_of() -> None:
    read, write = os.pipe()
    os.close(read)
    program = "from rtcstt.cli import main; raise SystemExit(main(['--print-completion', 'bash']))"
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def write_silence(path: Path, seconds: float = 0.2) -> None:
    import wave

    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16000)
        wav.writeframes(bytes(int(32000 * seconds)))


@pytest.mark.parametrize("words", [["stt"], ["serve"], ["transcribe", "a.wav"], ["models", "fetch"]])
def test_a_model_that_nobody_knows_is_a_wrong_setting(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = [] if words[0] == "models" else ["--model"]
    assert cli.main([*words, *name, "nosuch"]) == 2
    assert "'nosuch'" in capsys.readouterr().err
