"""The likeliest text, of decoders made of tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.embedded.beam import Sentence, Text, likeliest

END, STOP, VOCABULARY = 0, 1, 6
SENTENCE = Sentence(END, np.array([END, STOP]), lambda token: token == STOP)
Table = dict[tuple[int, ...], list[float]]


class Decoder:
    """Says how probable each next token is behind the tokens so far; nothing but the end where it was not
    told."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.texts: list[tuple[int, ...]] = []

    def logits(self, ids: tuple[int, ...]) -> np.ndarray:
        odds = self.table.get(ids, [1.0, 0, 0, 0, 0, 0])
        with np.errstate(divide="ignore"):
            return np.log(np.array(odds, np.float32))

    def search(self, width: int, most: int = 9, begun: Text | None = None) -> Text | None:
        begun = begun or Text()
        self.texts = [begun.ids]

        def step(rows: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
            self.texts = [(*self.texts[row], token) for row, token in zip(rows, tokens, strict=True)]
            assert len(self.texts) <= width
            return np.array([self.logits(text) for text in self.texts])

        return likeliest(self.logits(begun.ids), step, SENTENCE, width=width, most=most, begun=begun)


ASTRAY: Table = {(): [0, 0, 0.6, 0.4, 0, 0], (2,): [0, 0, 0, 0.1, 0.5, 0.4], (3,): [0, 0.9, 0, 0, 0, 0.1]}


def test_the_likeliest_token_may_not_begin_the_likeliest_text() -> None:
    best = Decoder(ASTRAY).search(1)
    assert best is not None and best.ids == (2, 4) and np.exp(best.logprob) == pytest.approx(0.3)
    best = Decoder(ASTRAY).search(3)
    assert best is not None and best.ids == (3, STOP) and np.exp(best.logprob) == pytest.approx(0.36)
    assert best.odds == pytest.approx((0.4, 0.9)) and best.stop == pytest.approx(0.9)


def test_it_goes_on_with_what_is_known() -> None:
    best = Decoder(ASTRAY).search(3, begun=Text((2,), (0.6,), float(np.log(0.6))))
    assert best is not None and best.ids[0] == 2 and best.odds[0] == 0.6
    assert np.exp(best.logprob) == pytest.approx(0.3)


def test_something_is_said_and_what_does_not_end_is_none() -> None:
    empty = Decoder({(): [0.9, 0, 0.1, 0, 0, 0]}).search(3)
    assert empty is not None and empty.ids == (2,)
    endless = {(2,) * count: [0.0, 0, 1.0, 0, 0, 0] for count in range(20)}
    assert Decoder(endless).search(3, most=8) is None


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_a_search_among_all_texts_finds_the_likeliest(seed: int) -> None:
    random = np.random.default_rng(seed)
    table: Table = {}
    texts: dict[tuple[int, ...], float] = {}

    def grow(ids: tuple[int, ...], probability: float) -> None:
        odds = random.dirichlet(np.ones(VOCABULARY)) if len(ids) < 2 else np.eye(VOCABULARY)[END]
        table[ids] = [float(each) for each in odds]
        if ids:
            texts[ids] = probability * odds[END]
        if len(ids) < 2:
            for token in range(1, VOCABULARY):
                grow((*ids, token), probability * odds[token])

    grow((), 1.0)
    best = Decoder(table).search(40)
    assert best is not None and np.exp(best.logprob) == pytest.approx(max(texts.values()), rel=1e-3)
