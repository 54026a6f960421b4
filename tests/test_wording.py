"""How recognised words become part of a text that was published."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.embedded.wording import common, continued, joined, letters, uncapitalised, whole_words


@pytest.mark.parametrize(
    ("published", "text", "expected"),
    [
        ("", "ask not.", "ask not."),
        ("To ask", "To ask not.", "To ask not."),
        ("To ask.", "To ask, not this", "To ask. Not this"),
        ("To ask,", "to ask not", "To ask, not"),
        ("To ask.", "To ask", "To ask."),
        ("To ask. Not", "To ask, not this.", "To ask. Not this."),
        ("To ask.", "To asks not", "To asks not"),
        ("To ask.", "To", "To"),
    ],
)
def test_marks_and_capitals_stay_as_they_were_published(published: str, text: str, expected: str) -> None:
    assert continued(published, text) == expected


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["a", "A.", "b,", "B", "c?", "-"])), st.lists(st.sampled_from("aA.bB,c -?")))
def test_a_continued_text_is_that_which_was_published_or_none_of_it(
    words: list[str], text: list[str]
) -> None:
    published, whole = " ".join(words), "".join(text).strip()
    found = continued(published, whole)
    assert letters(found).casefold() == letters(whole).casefold()
    assert found == whole or found.startswith(published)


def test_only_a_common_word_loses_its_capital_letter() -> None:
    assert uncapitalised("The box") == "the box"
    assert uncapitalised("Because, well") == "because, well"
    assert uncapitalised("Paris is") == "Paris is"
    assert uncapitalised("") == ""


def test_what_is_empty_joins_nothing() -> None:
    assert joined(["a", "", "b"]) == "a b"


class Pieces:
    """Tokens are their own texts."""

    def text(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def starts_word(self, token: int) -> bool:
        return chr(token).isupper()

    def is_punctuation(self, token: int) -> bool:
        return chr(token) == "."


@pytest.mark.parametrize(
    ("written", "agreed", "whole"),
    [
        ("AbCdE", 5, "AbCd"),
        ("AbCdE", 3, ""),
        ("AbCd", 4, "Ab"),
        ("AbC.D", 5, "AbC"),
        ("", 0, ""),
        ("A", 1, ""),
    ],
)
def test_of_what_is_agreed_on_whole_words_are_taken_but_the_newest(
    written: str, agreed: int, whole: str
) -> None:
    assert Pieces().text(whole_words(Pieces(), tuple(map(ord, written)), agreed)) == whole


def test_how_much_hypotheses_have_in_common() -> None:
    assert common([(1, 2, 3), (1, 2)]) == 2
    assert common([(1, 2), (2, 1)]) == common([(), (1,)]) == 0
