"""Beam search: the likeliest text as a whole, to which the likeliest next token each time need not lead.

A core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Step = Callable[[Sequence[int], Sequence[int]], NDArray[np.float32]]
"""Which of the present texts go on, and the token that each goes on with; then the logits of what is next, a
row for each of them. A text may go on in several ways."""


MARGIN = 1.5  # of a log-probability, by which a text may be behind the likeliest to be gone on with


class Text(NamedTuple):
    """``logprob``: of all its tokens and its end; ``stop``: how probable a sentence's end was behind its last
    word."""

    ids: tuple[int, ...] = ()
    odds: tuple[float, ...] = ()
    logprob: float = 0.0
    stop: float = 0.0


NOTHING = Text()


class Sentence(NamedTuple):
    """``end``: the token that ends a text; ``stops``: those that end a sentence, that one among them."""

    end: int
    stops: NDArray[np.int64]
    is_mark: Callable[[int], bool]


def likeliest(
    logits: NDArray[np.float32],
    step: Step,
    sentence: Sentence,
    *,
    width: int,
    most: int,
    begun: Text = NOTHING,
) -> Text | None:
    """The likeliest text found that begins with ``begun`` and ends, of at most ``most`` tokens; None: none
    ended. ``logits``: of what comes next. Of the texts that have
    not ended ``width`` are looked at, fewer where one is much likelier."""
    best: Text | None = None
    open_texts, rows = [begun], logits[None]
    for _ in range(most - len(begun.ids) + 1):
        ways = []
        for row, text in enumerate(open_texts):
            probabilities = _probabilities(rows[row])
            if not (text.ids and sentence.is_mark(text.ids[-1])):
                text = text._replace(stop=float(probabilities[sentence.stops].sum()))
            for token in np.argpartition(-probabilities, min(width, len(probabilities) - 1))[: width + 1]:
                odds = float(probabilities[token])
                if odds > 0.0 and (token != sentence.end or text.ids):
                    ways.append((text.logprob + float(np.log(odds)), row, int(token), odds, text))
        ways.sort(key=lambda way: -way[0])
        for logprob, _, token, _, text in ways:
            if token == sentence.end and (best is None or logprob > best.logprob):
                best = text._replace(logprob=logprob)
        least = -np.inf if best is None else best.logprob
        going = [way for way in ways if way[2] != sentence.end and way[0] > least][:width]
        going = [way for way in going if way[0] > going[0][0] - MARGIN]
        if not going:
            break
        open_texts = [
            text._replace(ids=(*text.ids, token), odds=(*text.odds, odds), logprob=logprob)
            for logprob, _, token, odds, text in going
        ]
        rows = step([row for _, row, *_ in going], [token for _, _, token, *_ in going])
    return best


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max())
    probabilities: NDArray[np.float32] = weights / weights.sum()
    return probabilities
