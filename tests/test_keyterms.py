"""Terms that are expected, as a trie over bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.embedded.hypothesis import Hypothesis
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


class Letters:
    """Tokens that are the characters of a text; a space begins a word."""

    def text(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids)).strip()

    def starts_word(self, token: int) -> bool:
        return chr(token) == " "

    def is_punctuation(self, token: int) -> bool:
        return chr(token) in ".,?!"


def spliced(plain: str, led: str, *terms: str, forced: int = 0, finished: bool = True) -> str:
    def written(text: str, done: bool, odds: float) -> Hypothesis:
        ids = tuple(map(ord, text))
        return Hypothesis(ids, done, -0.1, odds=(odds,) * (len(ids) - forced))

    own = written(plain, True, 0.5)
    found = KeyTerms(terms, {}).spliced(own, written(led, finished, 0.9), Letters(), forced)
    assert len(found.odds) == len(found.ids) - forced
    return Letters().text(found.ids)


@pytest.mark.parametrize(
    ("plain", "led", "expected"),
    [
        # without terms, led by them, and what becomes of the two
        ("buy a chrome cast, and I", "buy a Chromecast and aye", "buy a Chromecast, and I"),
        ("as at Mr. Carcor, is to", "as at Mr. Carker as to", "as at Mr. Carker, is to"),
        ("at Digim.", "at Digium?", "at Digium."),
        ("the digim's box", "that Digium's box", "the Digium's box"),
        ("so Digium calls", "sew Digium falls", "so Digium calls"),  # it is there without
        ("it is there", "it was there", "it is there"),  # no term in it
        ("the dig", "the Digi", "the dig"),  # half a one
        ("go there", "go Digium there", "go there"),  # in the place of nothing
        ("in an asterisks change", "in an inter Asterisk exchange", "in an asterisks change"),
        ("Carca", "Carker", "Carker"),
    ],
)
def test_of_what_terms_lead_to_only_whole_terms_are_taken(plain: str, led: str, expected: str) -> None:
    assert spliced(plain, led, "Chromecast", "Carker", "Digium", "Asterisk") == expected


def test_a_term_of_two_words_may_replace_one_or_three() -> None:
    assert spliced("Mr. burked faster sees", "Mr. Birket Foster sees", "Birket Foster").startswith(
        "Mr. Birket"
    )
    assert spliced("a birch can new slid", "a birch canoe slid", "birch canoe") == "a birch canoe slid"
    assert spliced("the birds can use lid", "the birch canoe slid", "birch canoe") == "the birch canoe lid"


def test_what_was_forced_stays() -> None:
    assert spliced("my Di gim is", "my Digium is", "Digium", forced=5) == "my Digium is"


def test_what_did_not_stop_is_no_help() -> None:
    assert spliced("at Digim", "at Digium", "Digium", finished=False) == "at Digim"


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from("a b Digium dig Carker,".split())),
    st.lists(st.sampled_from("a c Digium".split())),
)
def test_other_words_are_never_touched(plain: list[str], led: list[str]) -> None:
    found = spliced(" ".join(plain), " ".join(led), "Digium").split()
    others = iter(word for word in plain if word != "Digium")
    assert all(word in others for word in found if word.strip(",") != "Digium")  # in this order
    assert found == plain or "Digium" in led


class Writing:
    """Writes `plain` whatever it begins with, if that is the same, and `led` where terms are raised; what it
    begins with otherwise it goes on with as `strange`."""

    def __init__(self, plain: str, led: str, strange: str = " strange") -> None:
        self.plain, self.led, self.strange = plain, led, strange
        self.forced: list[str] = []

    def __call__(
        self, forced: Sequence[int], draft: Sequence[int], terms: KeyTerms | None = None
    ) -> Hypothesis:
        begun = "".join(map(chr, forced))
        if terms is None:
            self.forced.append(begun)
        text = self.led if terms is not None else self.plain
        ids = tuple(map(ord, text if text.startswith(begun) else begun + self.strange))
        return Hypothesis(ids, True, -0.1, odds=(0.5,) * (len(ids) - len(forced)))


def test_what_follows_a_published_term_is_what_would_have_followed_without_it() -> None:
    terms = KeyTerms(["Digium"], {})
    writing = Writing("at a digim box", "at a Digium bogs")
    first = terms.decode(writing, Letters(), (), ())
    assert Letters().text(first.ids) == "at a Digium box"
    published = first.ids[: len("at a Digium")]
    writing.plain, writing.led = "at a digim boxing match", "at a Digium boxing glove"
    for begun in (published, first.ids, published):
        found = terms.decode(writing, Letters(), begun, first.ids)
        assert Letters().text(found.ids) == "at a Digium boxing match"
        assert found.ids[: len(begun)] == begun
        assert len(found.odds) == len(found.ids) - len(begun)
    assert writing.forced == ["", "at a digim", "at a digim box", "at a digim"]


def test_half_of_a_published_term_is_begun_with_as_it_is() -> None:
    terms = KeyTerms(["Birket Foster"], {})
    writing = Writing("Mr. burked faster sees", "Mr. Birket Foster sees", strange=" forced")
    first = terms.decode(writing, Letters(), (), ())
    begun = first.ids[: len("Mr. Birket")]
    assert terms.decode(writing, Letters(), begun, ()).ids[: len(begun)] == begun
    assert writing.forced[-1] == "Mr. Birket"


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from("a b Digium dig Carker,".split()), min_size=1),
    st.lists(st.sampled_from("a c Digium".split())),
    st.integers(0, 40),
)
def test_with_what_it_begins_decoding_changes_nothing_that_was_not_a_term(
    plain: list[str], led: list[str], count: int
) -> None:
    terms, writing = KeyTerms(["Digium"], {}), Writing(" ".join(plain), " ".join(led))
    first = terms.decode(writing, Letters(), (), ())
    begun = first.ids[:count]
    assert "".join(map(chr, terms.own(first.ids))) == writing.plain
    found = terms.decode(writing, Letters(), begun, first.ids)
    assert found.ids[: len(begun)] == begun
