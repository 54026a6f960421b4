"""The demo, and its reckoning."""

from __future__ import annotations

import re
import wave
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt import cli
from rtcstt.commands.demo import (
    REFERENCE,
    WordErrors,
    bundled_recording,
    end_delays_s,
    transcript,
    word_errors,
)
from rtcstt.media.files import read

pytestmark = pytest.mark.real

words = st.lists(st.sampled_from(["it", "was", "the", "best"]), max_size=8)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("It was the best", 0),
        ("it WAS, the best!", 0),
        ("it was best", 1),
        ("it was the very best", 1),
        ("it is the best", 1),
        ("", 4),
    ],
)
def test_word_errors(text: str, errors: int) -> None:
    assert word_errors("It was the best.", text) == WordErrors(errors, 4)


@given(words, words)
def test_word_errors_are_a_distance(a: list[str], b: list[str]) -> None:
    errors = word_errors(" ".join(a), " ".join(b)).errors
    assert errors == word_errors(" ".join(b), " ".join(a)).errors
    assert abs(len(a) - len(b)) <= errors <= max(len(a), len(b))
    assert (errors == 0) == (a == b)


def test_turns_are_joined_verbatim() -> None:
    events: list[dict[str, Any]] = [
        {"type": "turn.update", "transcript": "It"},
        {"type": "turn.end", "transcript": "It was.", "time": 2.0, "end": 1.5},
        {"type": "turn.end", "transcript": " The best.", "time": 4.0, "end": None},
        {"type": "session.end", "time": 5.0},
    ]
    assert transcript(events) == "It was. The best."
    assert end_delays_s(events) == [0.5]


def test_a_call_becomes_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole demo, on the first sentence of its recording."""
    with wave.open(str(tmp_path / "short.wav"), "wb") as short:
        short.setparams((1, 2, 16000, 0, "NONE", ""))
        short.writeframes(read(bundled_recording(), 16000)[: 5 * 16000].tobytes())
    assert cli.main(["demo", str(tmp_path / "short.wav")]) == 0
    shown = capsys.readouterr().out
    turns = [name for name in re.findall(r"turn\.(start|end)", shown.split("Transcript:")[0])]
    assert turns == ["start", "end"] * (len(turns) // 2)
    assert "it was the worst of times" in shown.split("Transcript:")[1].lower()
    assert "rtcstt serve" in shown


def test_the_default_recording_is_there_with_its_words() -> None:
    assert bundled_recording().exists()
    assert word_errors(REFERENCE, REFERENCE).words > 100
