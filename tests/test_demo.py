"""The demo's reckoning; the whole demo runs in `make demo` and in the server's tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.demo import REFERENCE, WordErrors, bundled_recording, end_delays_s, transcript, word_errors

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
    events = [
        {"type": "turn.update", "transcript": "It"},
        {"type": "turn.end", "transcript": "It was.", "time": 2.0, "end": 1.5},
        {"type": "turn.end", "transcript": " The best.", "time": 4.0, "end": None},
        {"type": "session.end", "time": 5.0},
    ]
    assert transcript(events) == "It was. The best."
    assert end_delays_s(events) == [0.5]


def test_the_default_recording_is_there_with_its_words() -> None:
    assert bundled_recording().exists()
    assert word_errors(REFERENCE, REFERENCE).words > 100
