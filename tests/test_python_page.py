"""The code of docs/python.md runs, and is typed as it says."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rtcstt.errors import ConfigError
from rtcstt.testing import ScriptedUpstream, run_virtual, silence, speech
from rtcstt.transcriber import Transcriber

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no documentation in this package")


def block(having: str) -> str:
    """The block of the page that has this in it."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [textwrap.dedent(code) for _, code in blocks if having in code]
    return found


def test_the_loop_over_events_runs(capsys: pytest.CaptureFixture[str]) -> None:
    body = textwrap.indent(block("case SessionEnd"), "    ")
    names: dict[str, object] = {}
    exec("from rtcstt.events import *\nasync def loop(transcriber):\n" + body, names)

    async def main() -> None:
        async with ScriptedUpstream() as stt, Transcriber.from_pcm(stt=stt) as transcriber:
            await transcriber.send(speech("hello there"))
            await transcriber.send(silence(1.0))
            await transcriber.close()
            await names["loop"](transcriber)  # type: ignore[operator]

    run_virtual(main())
    printed = capsys.readouterr().out
    assert printed.startswith("somebody speaks") and "0 hello there" in printed and "all of it" in printed


def test_the_test_of_the_page_runs() -> None:
    names: dict[str, object] = {}
    exec("import rtcstt\nfrom rtcstt.testing import *\n" + block("test_my_bot"), names)
    names["test_my_bot"]()  # type: ignore[operator]


def test_each_way_to_make_a_transcriber_is_there() -> None:
    """With the parameters that it is called with."""
    found = 0
    for node in ast.walk(ast.parse(block("from_track"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("rtcstt.Transcriber"):
            name = ast.unparse(node.func).removeprefix("rtcstt.Transcriber").lstrip(".")
            signature = inspect.signature(getattr(Transcriber, name) if name else Transcriber)
            signature.bind(*node.args, **{keyword.arg or "": None for keyword in node.keywords})
            found += 1
    assert found == 4


def test_comparing_types_narrows_as_matching_does(tmp_path: Path) -> None:
    """As the page says, for mypy --strict."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import rtcstt
        from rtcstt.events import TurnEnd, Unknown

        async def main(transcriber: rtcstt.Transcriber) -> None:
            async for event in transcriber:
                if event.type == "turn.end":
                    print(event.transcript.upper(), event.start + event.end, event.turn + 1)
                match event:
                    case TurnEnd(transcript=text):
                        print(text.upper())
                    case Unknown(name=name):
                        print(name.upper())

        def make(stt: rtcstt.Stt) -> None:
            rtcstt.Transcriber.from_pcm(stt=stt, mode="manual", keyterms=["a"], turn=rtcstt.TurnSettings())
            rtcstt.Transcriber.from_pcm(stt=stt, mdoe="manual")
            rtcstt.Transcriber.from_pcm(stt=stt, mode="sometimes")
        """)
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    pytest.importorskip("mypy")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    wrong = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(wrong) == 2 and "mdoe" in wrong[0] and "sometimes" in wrong[1], done.stdout + done.stderr


async def test_a_setting_that_cannot_be_is_named() -> None:
    async with ScriptedUpstream() as stt:
        with pytest.raises(ConfigError, match="keyterms"):
            Transcriber.from_pcm(stt=stt, keyterms="Kubernetes")
