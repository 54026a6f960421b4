"""Terms that are expected, as a trie over bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.embedded.keyterms import BEGIN, INSIDE, KeyTerms

PIECES = [
    "▁",
    "▁D",
    "▁Di",
    "▁Dig",
    "▁digi",
    "D",
    "i",
    "g",
    "gi",
    "ium",
    "u",
    "m",
    "▁n",
    "▁no",
    "w",
    "▁now",
    "o",
    "n",
]
VOCABULARY = {piece.encode(): 10 + number for number, piece in enumerate(PIECES)}
NAMES = {token: piece.decode() for piece, token in VOCABULARY.items()}


def ids(*pieces: str) -> list[int]:
    return [VOCABULARY[piece.encode()] for piece in pieces]


def raised(terms: list[str], *before: str, strength: float = 1.0) -> dict[str, float]:
    found = KeyTerms(terms, VOCABULARY, strength=strength).after(ids(*before)).raised()
    return {NAMES[token]: by for token, by in found.items()}


def test_what_begins_a_term_is_raised_a_little() -> None:
    assert raised(["Digium"]) == dict.fromkeys(["▁", "▁D", "▁Di", "▁Dig"], BEGIN)


@pytest.mark.parametrize("before", [["▁Dig"], ["▁D", "i", "g"], ["▁now", "▁Di", "g"]])
def test_what_goes_on_in_it_is_raised_much_however_it_was_cut(before: list[str]) -> None:
    found = raised(["Digium"], *before)
    assert {name for name, by in found.items() if by == INSIDE} == {"i", "ium"}


def test_after_a_term_or_a_wrong_turn_there_is_nothing_to_go_on_with() -> None:
    for before in (["▁Dig", "ium"], ["▁Dig", "w"], ["Dig"[0:1]], ["▁now"]):
        assert INSIDE not in raised(["Digium"], *before).values()


def test_a_term_of_two_words_goes_on_behind_the_space() -> None:
    found = raised(["Digium  now"], "▁Dig", "ium")
    assert {name for name, by in found.items() if by == INSIDE} == {"▁", "▁n", "▁no", "▁now"}


def test_a_term_in_small_letters_may_begin_a_sentence() -> None:
    assert {"▁digi", "▁Dig"} <= set(raised(["digium"]))


def test_strength_scales_and_nothing_is_nothing() -> None:
    assert set(raised(["Digium"], strength=0.5).values()) == {BEGIN / 2}
    assert raised([]) == raised([" "]) == {}


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["Digium", "dig now", "no", "Dig"]), max_size=3),
    st.lists(st.sampled_from(PIECES)),
)
def test_only_what_continues_a_term_is_ever_raised_inside(terms: list[str], before: list[str]) -> None:
    written = "".join(before)
    spelled = ["▁" + word.replace(" ", "▁") for term in terms for word in (term, term[0].upper() + term[1:])]
    for piece, by in raised(terms, *before).items():
        inside = any(
            one.startswith(written[at:] + piece)
            for one in spelled
            for at in range(len(written))
            if written[at:]
        )
        assert inside if by == INSIDE else any(one.startswith(piece) for one in spelled)
