"""Clients that nobody here wrote, with nothing changed but the base URL: legal events, and the words."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from outside import (
    assert_transcripts,
    assert_turns,
    assert_words,
    interpreter,
    node,
    run,
    run_to_its_end,
    vendors_manual_example,
    vendors_page,
    vendors_turns_example,
    vendors_typescript,
)

from rtcstt import wire
from rtcstt.errors import RemoteProtocolError

pytestmark = [pytest.mark.real, pytest.mark.conformance]
FOX = "The quick brown fox jumps over the lazy dog."  # what the vendor's examples have said
SEASHELLS = " Sandy sells seashells on the sea shore."


@pytest.fixture(scope="module")
def cartesia() -> str:
    """This environment's own interpreter, which has the version that the project is tested with."""
    pytest.importorskip("cartesia")
    assert importlib.metadata.version("cartesia") == "4.2.0"
    return sys.executable


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(("mode", "rate"), [("auto", 48000), ("manual", 16000)])
def test_cartesia_4(
    cartesia: str, server: str, speech: dict[int, Path], mode: str, rate: int, colour: str
) -> None:
    events = run(cartesia, "cartesia_socket.py", server, speech[rate], mode, colour)
    assert_turns(events) if mode == "auto" else assert_transcripts(events)


def test_cartesia_4_on_whole_files(cartesia: str, server: str, speech: dict[int, Path]) -> None:
    check_batch(run(cartesia, "cartesia_batch.py", server, speech[16000]))


def test_cartesia_4_with_a_token(cartesia: str, server: str) -> None:
    assert [event["type"] for event in run(cartesia, "cartesia_token.py", server)] == ["connected"]


def check_batch(answers: list[dict[str, Any]]) -> None:
    *transcripts, rest = answers
    for answer in transcripts:
        assert answer["type"] == "transcript" and answer["duration"] == pytest.approx(14.7, abs=0.1)
        assert_words(answer["text"])
    words = transcripts[0]["words"]
    assert " ".join(word["word"] for word in words) == transcripts[0]["text"]
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times) and times[-1] < 14.0
    assert all("words" not in answer for answer in transcripts[1:])
    assert rest == {
        "token": True,
        "refused": [[401, "unauthorized"], [400, "model_not_found"], [400, "invalid_audio"]],
    }


@pytest.mark.heavy
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("mode", ["auto", "manual"])
def test_cartesia_3(server: str, speech: dict[int, Path], mode: str, colour: str) -> None:
    events = run(interpreter("cartesia-3"), "cartesia_socket.py", server, speech[16000], mode, colour)
    assert_turns(events) if mode == "auto" else assert_transcripts(events)


@pytest.mark.heavy
def test_cartesia_3_on_whole_files(server: str, speech: dict[int, Path]) -> None:
    check_batch(run(interpreter("cartesia-3"), "cartesia_batch.py", server, speech[16000]))


@pytest.mark.heavy
@pytest.mark.parametrize("source", ["file", "speech made of text"])
@pytest.mark.parametrize("function", ["stt_auto_finalize_websocket", "stt_auto_finalize_websocket_async"])
@pytest.mark.parametrize("version", ["4.2.0", "3.2.0"])
def test_the_vendors_examples(
    server: str, speech: dict[int, Path], shared_data: Path, version: str, function: str, source: str
) -> None:
    python = interpreter("cartesia-3") if version == "3.2.0" else Path(sys.executable)
    files = [speech[16000]] if source == "file" else without_file()
    page, environment = vendors_page(shared_data), {"CARTESIA_BASE_URL": server}
    printed = run_to_its_end(python, "vendors_example.py", page, function, *files, **environment)
    assert printed.count("turn.start") == printed.count("turn.end") > 0
    found = re.search(r"^Full transcript: (.*)$", printed, re.MULTILINE)
    assert found
    assert_words(ast.literal_eval(found[1]), *([] if files else ["Hello, world! " + FOX]))


def without_file() -> list[Path]:
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed: no speech can be made of text")
    return []


@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["Auto", "Manual"])
def test_the_vendors_examples_in_node(server: str, shared_data: Path, tmp_path: Path, mode: str) -> None:
    without_file()
    auto = mode == "Auto"
    code = vendors_turns_example(shared_data, "TypeScript") if auto else vendors_manual_example(shared_data)
    client = f'new Cartesia({{ apiKey: "sesame", baseURL: "{server}" }})'
    failed = "(error) => (console.error(error), process.exit(1))"
    end = f"stt{mode}FinalizeWebsocket({client}, []).catch({failed});"
    printed = run_to_its_end(node(), vendors_typescript(code, tmp_path, "node", end))
    found = re.search(r"^Full transcript: (.*)$", printed, re.MULTILINE)
    assert found and "error" not in printed.lower()
    assert_words(json.loads(found[1]), FOX if auto else FOX + SEASHELLS)
    assert printed.count("flush_done |") == (0 if auto else 2)


@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["auto", "manual"])
def test_cartesia_js(server: str, speech: dict[int, Path], mode: str) -> None:
    events = run(node(), "cartesia.cjs", server, speech[16000], mode)
    assert_turns(events) if mode == "auto" else assert_transcripts(events)


@pytest.mark.heavy
def test_openai_on_whole_files(server: str, speech: dict[int, Path]) -> None:
    (answer,) = run(interpreter("openai"), "openai_batch.py", server, speech[16000])
    for name in ("json", "text", "verbose", "deltas", "done", "v1"):
        assert_words(answer[name])
    assert answer["vtt"].startswith("WEBVTT\n\n00:00:0")
    assert float(answer["duration"]) == pytest.approx(14.7, abs=0.1)
    assert " ".join(word["word"] for word in answer["words"]) == answer["verbose"]
    assert " ".join(answer["segments"]) == answer["verbose"]
    assert answer["refused"] and answer["named"] == "temperature"
    assert answer["usage"] == 15 and answer["logprob"] <= 0


@pytest.mark.heavy
def test_openai_js_on_whole_files(server: str, speech: dict[int, Path]) -> None:
    (answer,) = run(node(), "openai.cjs", server, speech[16000])
    for name in ("json", "verbose", "deltas", "done"):
        assert_words(answer[name])
    assert answer["words"] > 10 and "whisper-1" in answer["models"] and answer["named"] == "language"


@pytest.mark.heavy
def test_livekit_turns(server: str, speech: dict[int, Path]) -> None:
    events = run(interpreter("livekit"), "livekit_stream.py", server, speech[16000], "ink-2", speed=1.0)
    order = wire.TurnOrder()
    for event in events:
        if event["type"] == "start_of_speech":
            order.advance(wire.TurnStart(), RemoteProtocolError)
        elif event["type"] == "final_transcript":
            order.advance(wire.TurnEnd(event["text"]), RemoteProtocolError)
    assert order.state is wire.TurnState.IDLE
    assert_words("".join(event["text"] for event in events if event["type"] == "final_transcript"))


@pytest.mark.heavy
def test_livekit_with_the_older_protocol(server: str, speech: dict[int, Path]) -> None:
    events = run(interpreter("livekit"), "livekit_stream.py", server, speech[16000], "ink-whisper", speed=1.0)
    finals = [event for event in events if event["type"] == "final_transcript"]
    assert_words("".join(event["text"] for event in finals))
    words = [word for event in finals for word in event["words"]]
    assert (
        " ".join(text for text, _, _ in words).split() == "".join(event["text"] for event in finals).split()
    )
    assert all(0.0 <= start <= end <= 14.7 for _, start, end in words)


@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["turns", "manual"])
def test_pipecat(server: str, speech: dict[int, Path], mode: str) -> None:
    script = "pipecat_pipeline.py"
    frames = run(interpreter("pipecat"), script, server, speech[16000], mode, speed=1.0)
    types = [frame["type"] for frame in frames]
    assert "ErrorFrame" not in types
    assert "InterimTranscriptionFrame" in types
    if mode == "turns":
        started, stopped = (
            types.count(f"ProposedUser{what}SpeakingFrame") for what in ("Started", "Stopped")
        )
        assert started == stopped == types.count("TranscriptionFrame") > 0
    assert_words("".join(frame["text"] for frame in frames if frame["type"] == "TranscriptionFrame"))
