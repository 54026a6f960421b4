"""Every block of code in the documentation is run, here or where `ELSEWHERE` says; or it says why not.

Commands are read by their own parsers, down to the values of their options, and not started: what they do has
tests of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import yaml
from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

import rtcstt
from rtcstt import cli, events
from rtcstt.commands.demo import bundled_recording
from rtcstt.media.files import read
from rtcstt.server import options
from rtcstt.testing import ScriptedUpstream, run_virtual, silence, speech

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="no documentation in this package")


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    not_run: str
    """Why, in the comment before it: ``<!-- not run: needs a key -->``."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        pattern = r"(?:<!-- not run: (?P<why>[^\n]+) -->\n\n?)?"
        pattern += r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```"
        text = page.read_text()
        for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
            line = text[: match.start("language")].count("\n") + 1
            code = textwrap.dedent(match["code"])
            found.append(Block(page.name, line, match["language"], code, match["why"] or ""))
    return [block for block in found if not languages or block.language in languages]


def containing(text: str) -> Block:
    (block,) = [block for block in blocks("python", "js") if text in block.code]
    return block


HERE = {"sh", "json", "yaml", "toml", "xml"}
PYTHON = {  # each by its own test below
    "README.md": ("transcribe_sync", "setRemoteDescription"),
    "python.md": (),  # by test_python_page.py, and below
    "recordings.md": ("whole.gaps",),
    "sip.md": ('"label": caller',),
}
ELSEWHERE = {
    ("captions-in-my-page.md", "html"): "test_javascript.py",
    ("captions-in-my-page.md", "js"): "test_javascript.py",
    ("captions-in-my-page.md", "ts"): "test_npm_package.py",
    ("captions-in-my-page.md", "jsx"): "test_react.py",
    ("README.md", "html"): "test_javascript.py",
    ("push-to-talk.md", "js"): "test_javascript.py",
    ("architecture.md", "mermaid"): "test_docs.py",
    ("turns.md", "mermaid"): "test_docs.py",
}


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_is_run_somewhere_or_says_why_not(block: Block) -> None:
    if block.language == "text":
        assert block.not_run, "a block that is not run says why in a comment before it"
    elif block.language == "python":
        assert any(text in block.code for text in PYTHON[block.page]) or block.page == "python.md"
    else:
        assert block.language in HERE or (block.page, block.language) in ELSEWHERE


@pytest.mark.parametrize("block", blocks("json", "yaml", "toml", "xml"), ids=str)
def test_data_can_be_read(block: Block) -> None:
    match block.language:
        case "json":
            value = json.loads(block.code)
            if "seq" in value:
                assert not isinstance(events.from_dict(value), events.Unknown)
        case "yaml":
            yaml.safe_load(block.code)
        case "toml":
            tomllib.loads(block.code)
        case "xml":
            ElementTree.fromstring(block.code)


# -- commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_are_what_they_should_be(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tokens", "keys", "stream.sdp", "talk.mp3", "meeting.mp4"):
        Path(name).write_text("a token of the test\n")
    for line in block.code.splitlines():
        for command in commands(line):
            check(command)


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, without their redirections and the environment before them."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&<>")
    words.whitespace_split = True
    command: list[str] = []
    skipped = False
    for word in words:
        if word in ("|", "&&", "&"):
            yield command
            command = []
        elif word in (">", "<", ">>"):
            skipped = True
        elif skipped:
            skipped = False
        elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
            command.append(word)
    if command:
        yield command


def check(command: list[str]) -> None:
    program, *words = command
    program = program.removeprefix(".venv/bin/")
    match program, words:
        case "rtcstt", _:
            parse(words)
        case "make", [target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case "pip", ["install", *wanted]:
            check_wanted(wanted)
        case (("python" | "python3"), ["-m", module, *_]):
            assert importlib.util.find_spec(module) is not None, module
        case (("python" | "python3"), [script, *_]):
            assert (ROOT / script).exists(), script
        case "export", [setting]:
            name = setting.partition("=")[0]
            known = (ROOT / "docs" / "options.md").read_text() + (ROOT / "docs" / "my-own-stt.md").read_text()
            assert name in known or name.removeprefix("RTCSTT_").lower().replace("_", "-") in known, name
        case (("curl" | "ffmpeg" | "git" | "cd" | "npm" | "."), _):
            pass  # not ours
        case _:
            pytest.fail(f"what is {program}?")


def parse(words: list[str]) -> None:
    """By the command's own parser, and by what reads its options."""
    args, command = cli._parse(words)
    assert isinstance(args, argparse.Namespace)
    with contextlib.suppress(rtcstt.FileError):
        options.load(command.Options, args, {}, others=[cli.General])


def check_wanted(wanted: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for at, word in enumerate(wanted):
        if extra := re.fullmatch(r"(?:rtcstt|\.)\[([\w,-]+)\]", word):
            assert set(extra[1].split(",")) <= project["project"]["optional-dependencies"].keys()
        if at and wanted[at - 1] == "--group":
            assert word in project["dependency-groups"]


def test_a_wrong_command_is_noticed() -> None:
    with pytest.raises(SystemExit):
        parse(["serve", "--tokens-file", "x"])
    assert list(commands("A=b rtcstt stt x | cat - > y && z  # c")) == [
        ["rtcstt", "stt", "x"],
        ["cat", "-"],
        ["z"],
    ]


# -- Python ------------------------------------------------------------------------------------------


async def executed(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run code as it stands in a coroutine; what it names afterwards."""
    body = textwrap.indent(code, "    ")
    exec(f"async def code():\n{body}\n    return locals()", names)
    found: dict[str, Any] = await names["code"]()
    return found


def test_a_bot_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    """The steps of docs/python.md: each answers, and the one that thinks ahead was ready."""
    begun: list[str] = []

    async def think(text: str) -> str:
        begun.append(text)
        await asyncio.sleep(0.2)
        return f"You said: {text}"

    class Bot:
        about = ""
        thinking: asyncio.Task[str] | None = None

        def begin(self, text: str) -> None:
            self.stop()
            self.about, self.thinking = text, asyncio.create_task(think(text))

        def stop(self) -> None:
            if self.thinking is not None:
                self.thinking.cancel()

    async def main(step: str) -> None:
        names: dict[str, Any] = {**vars(events), "think": think}
        cases = textwrap.indent(containing(step).code, "        ")
        exec(f"async def on(self, event):\n    match event:\n{cases}", names)
        bot = Bot()
        async with ScriptedUpstream() as stt, rtcstt.Transcriber.from_pcm(stt=stt) as transcriber:
            await transcriber.send(np.concatenate([speech("hello there"), silence(8)]))
            await transcriber.close()
            async for event in transcriber:
                await names["on"](bot, event)

    for step in ("print(await think(text))", "self.begin(text)  # a task"):
        begun.clear()
        run_virtual(main(step))
        assert capsys.readouterr().out.strip() == "You said: hello there" and begun == ["hello there"]


@pytest.mark.real
def test_python_of_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = read(bundled_recording(), 16000)[: 7 * 16000]
    for name, sound in (
        ("recording.wav", samples),
        ("interview.mp3", samples),
        ("call.wav", np.stack([samples, np.zeros_like(samples)], axis=1)),
    ):
        soundfile.write(tmp_path / name, sound, 16000)
    monkeypatch.chdir(tmp_path)
    exec(containing('transcribe_sync("recording.wav")').code, {})
    assert "worst of times" in capsys.readouterr().out.lower()
    made = asyncio.run(executed(containing("interview.mp3").code, {"rtcstt": rtcstt}))
    assert "worst of times" in made["transcription"].text.lower()
    asyncio.run(executed(containing("whole.gaps").code, {}))
    printed = capsys.readouterr().out
    assert "agent: " in printed and "worst of times" in printed.lower()


@pytest.mark.real
async def test_python_of_a_peer_connection_and_of_a_gateways_offer() -> None:
    async with ScriptedUpstream() as stt:
        for code in (containing("setRemoteDescription(offer)").code, containing('"label": caller').code):
            caller = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            caller.addTrack(AudioStreamTrack())
            await caller.setLocalDescription(await caller.createOffer())
            answering = asyncio.create_task(answer(code, caller, stt))
            await asyncio.wait_for(answering, 60)
            await caller.close()


async def answer(code: str, caller: RTCPeerConnection, stt: ScriptedUpstream) -> None:
    """Run the code of a server with a caller's offer, or of a gateway with its own."""
    offer = caller.localDescription
    if "http.post" in code:
        from aiohttp.test_utils import TestServer
        from test_share import server_of

        from rtcstt.http.access import Authenticator

        calls, web = server_of(Authenticator())
        async with TestServer(web.application()) as server, ClientSession() as http:
            code = code.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{server.port}")
            found = await executed(code, {"http": http, "offer": offer.sdp, "caller": "desk 4"})
            assert [call.id for call in calls.all()] == [found["answer"]["call"]]
        return
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    async def leave() -> None:
        while pc.connectionState != "connected":  # noqa: ASYNC110
            if pc.localDescription is not None and caller.remoteDescription is None:
                await caller.setRemoteDescription(pc.localDescription)
            await asyncio.sleep(0.05)
        await caller.close()

    leaving = asyncio.create_task(leave())
    names = {
        "rtcstt": Doubled(stt),
        "RTCPeerConnection": lambda: pc,
        "offer": RTCSessionDescription(offer.sdp, offer.type),
    }
    found = await executed(code, names)
    await leaving
    assert found["event"].type == "session.end"
    await pc.close()


class Doubled:
    """`rtcstt`, with a scripted service in the place of the recogniser."""

    def __init__(self, stt: ScriptedUpstream) -> None:
        self.Embedded = lambda: stt
        self.Transcriber = rtcstt.Transcriber
