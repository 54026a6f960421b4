"""Aligning a repeated transcription with what was published of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.stt.alignment import TranscriptAligner, join_text, words


def joined(published: str, said: str, **places: int) -> str:
    """The listener's text, the new one arriving word by word."""
    overlap = TranscriptAligner(published, **places)
    parts = said.split(" ")
    for n in range(len(parts) + 1):
        text = " ".join(parts[:n])
        beyond = overlap.beyond(text)
        if beyond is not None:
            return published + beyond.text + said[beyond.skip :]
    return published


@pytest.mark.parametrize(
    ("published", "said", "expected"),
    [
        ("", "hello there", "hello there"),
        ("one two", "one two three", "one two three"),
        ("one two", "one", "one two"),
        ("one two", "one two", "one two"),
        ("no no no", "no no no no", "no no no no"),
        ("one two three four", "one too free four five", "one two three four five"),
        ("I cannot go there", "I can not go there now", "I cannot go there now"),
        ("I can not go there", "I cannot go there now", "I can not go there now"),
        ("it was the best of ti", "It was the best of times, it", "it was the best of times, it"),
        ("I see.", "I see, and then", "I see. and then"),
        ("I see", "I see.", "I see."),
        ("I see ", "I see and", "I see and"),
        ("a b c", "x a b c d", "a b c d"),
        ("It's eleven o\u2019clock", "it's eleven o'clock sharp", "It's eleven o\u2019clock sharp"),
        ("\u4eca\u65e5\u306f", "\u4eca\u65e5\u306f\u5bd2\u3044", "\u4eca\u65e5\u306f\u5bd2\u3044"),
        ("the", "the the end", "the the end"),
    ],
)
def test_joined(published: str, said: str, expected: str) -> None:
    assert joined(published, said) == expected


@given(st.lists(st.sampled_from("a b c no yes".split()), max_size=12), st.integers(0, 12))
def test_the_same_words_again_give_the_text_once(spoken: list[str], cut: int) -> None:
    text = " ".join(spoken)
    published = " ".join(spoken[:cut])
    assert joined(published, text).split() == spoken


@given(st.lists(st.text("abc ", max_size=8), min_size=1), st.lists(st.text("abc .,'", max_size=8)))
def test_what_was_said_never_changes(old: list[str], new: list[str]) -> None:
    published, said = "".join(old), "".join(new)
    overlap = TranscriptAligner(published)
    found = None
    for end in range(len(said) + 1):
        found = found or overlap.beyond(said[:end])
    assert found is None or (found.text.strip() and found.skip <= len(said))


def test_the_replay_may_begin_later() -> None:
    assert joined("a b c d e f", "d e f g", first=2, last=5) == "a b c d e f g"
    assert joined("a b c d e f", "e f g", first=2, last=5) == "a b c d e f g"
    assert joined("a b", "c d", first=0, last=2) == "a b c d"


@pytest.mark.parametrize(
    ("published", "said", "covered"),
    [
        ("a b c", "a b", False),
        ("a b c", "a b c", True),
        ("a b c", "a x", False),
        ("a b c", "a b c d", True),
        ("", "", True),
    ],
)
def test_covered(published: str, said: str, covered: bool) -> None:
    assert TranscriptAligner(published).covered(said) is covered


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "a", "a"),
        ("a", "b", " b"),
        ("a", " b", " b"),
        ("a ", " b", "b"),
        ("a.", "B", " B"),
        ("a.", ". B", " B"),
        ("a", ", b", ", b"),
        ("\u4eca", "\u65e5", "\u65e5"),
    ],
)
def test_join_text(before: str, after: str, expected: str) -> None:
    assert join_text(before, after) == expected


def test_words_know_their_place() -> None:
    text = "Don\u2019t stop, \u4eca\u65e5 2nd!"
    assert [word.key for word in words(text)] == ["don't", "stop", "\u4eca", "\u65e5", "2nd"]
    assert all(
        text[word.start : word.end].casefold().replace("\u2019", "'") == word.key for word in words(text)
    )
