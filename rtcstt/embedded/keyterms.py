"""Terms that are expected (names, product numbers): while a decoder writes, tokens that continue one are
raised.

The terms are a trie over their bytes, so any way to cut a term into tokens will do. A token that begins a
term becomes somewhat likelier, one that goes on within a term much likelier. Both are added to logits, and
were measured (`benchmarks/keyterms.py`); twice as much finds a few terms more and makes other words wrong.

A term is looked for at the beginning of words, as it was given and with a capital letter. A name is found
where the model takes its sound for something near; what sounds like nothing the model knows is not found.

A decoder that is led to a term often writes other words around it than it would have, and is now and then
led astray by one that was not said. So it writes twice, and of what it writes with the terms raised only
whole terms are taken, in the place of the words that are there without (`KeyTerms.spliced`). What it has to
begin with, because it is published, may hold such terms; without the terms it then begins with the words
that they took the place of, so that what follows is what would have followed (`KeyTerms.own`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import NamedTuple

from rtcstt.embedded.hypothesis import Hypothesis, Vocabulary

BEGIN, INSIDE = 1.0, 4.0
MARKS = ".,?!;:\"'()-"  # around words
LONGEST = 24  # bytes of a token that is looked for
WORD = "\u2581"  # what Moonshine's tokens have for the space before a word

REMEMBERED = 8  # hypotheses; what is published is a part of one of the last

_Range = tuple[int, int]


class _Splice(NamedTuple):
    """A term among tokens, and the ``own`` ones of the decoder that it took the place of."""

    start: int
    end: int
    own: tuple[int, ...]


@dataclass(slots=True)
class _Place:
    """In the trie; ``tokens`` are those that lead on from here, found when first asked for."""

    next: dict[int, _Place] = field(default_factory=dict)
    tokens: dict[int, _Place] | None = None


class KeyTerms:
    """The terms of one stream. ``vocabulary``: the token of some bytes. ``strength``: 1 as measured, 0
    nothing."""

    def __init__(
        self, terms: Sequence[str], vocabulary: Mapping[bytes, int], *, strength: float = 1.0
    ) -> None:
        self._vocabulary = vocabulary
        self._root = _Place()
        self._begin, self._inside = BEGIN * strength, INSIDE * strength
        self._words = {tuple(map(_bare, term.split())) for term in terms} - {()}
        self._written = deque[tuple[tuple[int, ...], tuple[_Splice, ...]]](maxlen=REMEMBERED)
        for term in terms:
            words = " ".join(term.split())
            for spelled in {words, words[:1].upper() + words[1:]} - {""}:
                place = self._root
                for byte in (WORD + spelled.replace(" ", WORD)).encode():
                    place = place.next.setdefault(byte, _Place())

    def after(self, ids: Sequence[int]) -> Progress:
        """Where a decoder is that wrote these tokens."""
        progress = Progress(self)
        for token in ids:
            progress.take(token)
        return progress

    def raised(self, places: Sequence[_Place]) -> dict[int, float]:
        """What to add to the logits of which tokens, for who is at these places."""
        raised = dict.fromkeys(self.tokens(self._root), self._begin)
        for place in places:
            raised |= dict.fromkeys(self.tokens(place), self._inside)
        return raised

    def step(self, places: Sequence[_Place], token: int) -> list[_Place]:
        """Where ``token`` leads from these places, and from outside all terms."""
        return [found for place in (*places, self._root) if (found := self.tokens(place).get(token))]

    def tokens(self, place: _Place) -> dict[int, _Place]:
        if place.tokens is None:
            place.tokens = dict(self._reached(place, b""))
        return place.tokens

    def _reached(self, place: _Place, spelled: bytes) -> list[tuple[int, _Place]]:
        found = []
        for byte, further in place.next.items() if len(spelled) < LONGEST else ():
            token = self._vocabulary.get(spelled + bytes([byte]))
            if token is not None:
                found.append((token, further))
            found += self._reached(further, spelled + bytes([byte]))
        return found

    def decode(
        self,
        write: Callable[[Sequence[int], Sequence[int], KeyTerms | None], Hypothesis],
        vocabulary: Vocabulary,
        forced: Sequence[int],
        draft: Sequence[int],
    ) -> Hypothesis:
        """What a decoder says of some audio with these terms expected. ``write(forced, draft, terms)``: what
        it writes that begins with ``forced``, where ``terms`` are raised if there are any."""
        own = self.own(forced)
        plain = write(own, self.own(draft), None)
        plain = replace(plain, ids=(*forced, *plain.ids[len(own) :]))
        led = write(forced, plain.ids, self) if plain.finished else plain
        return self.spliced(plain, led, vocabulary, len(forced))

    def own(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The beginning of a hypothesis as the decoder wrote it without the terms."""
        own = list(ids)
        for start, end, before in reversed(self._splices(tuple(ids))):
            own[start:end] = before
        return tuple(own)

    def _splices(self, ids: tuple[int, ...]) -> list[_Splice]:
        """The terms that were put into the beginning of a hypothesis."""
        for written, splices in reversed(self._written):
            if written[: len(ids)] == ids:
                return [splice for splice in splices if splice.end <= len(ids)]
        return []

    def spliced(self, plain: Hypothesis, led: Hypothesis, vocabulary: Vocabulary, forced: int) -> Hypothesis:
        """What was written without the terms, but for the whole terms that are in ``led``, written with them.
        Both begin with the same ``forced`` tokens."""
        known = self._splices(plain.ids[:forced])
        found, splices = plain, known
        if led.ids != plain.ids and led.finished and plain.finished:
            found, new = self._with_terms(plain, led, vocabulary, forced)
            splices = [*known, *new]
        self._written.append((found.ids, tuple(splices)))
        return found

    def _with_terms(
        self, plain: Hypothesis, led: Hypothesis, vocabulary: Vocabulary, forced: int
    ) -> tuple[Hypothesis, list[_Splice]]:
        own, other = _Words(plain, vocabulary, forced), _Words(led, vocabulary, forced)
        ids, odds, splices = list[int](), list[float](), list[_Splice]()
        at = 0
        for (first, last), (begin, end) in self._replaced(own.bare, other.bare):
            start, stop = own.starts[first], own.stop(last - 1)
            taken = slice(other.starts[begin], other.stop(end - 1))
            ids += plain.ids[at:start]
            odds += own.odds[at:start]
            splices.append(_Splice(len(ids), len(ids) + taken.stop - taken.start, plain.ids[start:stop]))
            ids += led.ids[taken]
            odds += other.odds[taken]
            at = stop
        ids += plain.ids[at:]
        odds += own.odds[at:]
        if tuple(ids[:forced]) != plain.ids[:forced]:
            return plain, []
        return replace(plain, ids=tuple(ids), odds=tuple(odds[forced:])), splices

    def _replaced(self, own: Sequence[str], led: Sequence[str]) -> Iterator[tuple[_Range, _Range]]:
        """Which words of their own make room for which of those they were led to. Where more words differ
        than those of a term, as many stay on both sides of it."""
        terms = list(self._whole(led))
        for tag, first, last, begin, end in SequenceMatcher(None, own, led, autojunk=False).get_opcodes():
            within = [
                (max(one, begin), min(other, end)) for one, other in terms if one < end and other > begin
            ]
            if tag != "replace" or not within:
                continue
            at, until = within[0][0], within[-1][1]
            room = first + at - begin, last - (end - until)
            if room[0] < room[1] and sum(other - one for one, other in within) == until - at:
                yield room, (at, until)

    def _whole(self, words: Sequence[str]) -> Iterator[_Range]:
        """Where there are terms among the words, the longest ones."""
        at = 0
        while at < len(words):
            fits = [len(term) for term in self._words if tuple(words[at : at + len(term)]) == term]
            if fits:
                yield at, at + max(fits)
            at += max(fits, default=1)


class _Words:
    """The words of a hypothesis: where each starts among its tokens, and how it reads without marks."""

    def __init__(self, found: Hypothesis, vocabulary: Vocabulary, forced: int) -> None:
        ids = found.ids
        self.odds = [1.0] * forced + list(found.odds)
        self.starts = [at for at, token in enumerate(ids) if at == 0 or vocabulary.starts_word(token)]
        spans = list(zip(self.starts, [*self.starts[1:], len(ids)], strict=False))
        self.bare = [_bare(vocabulary.text(ids[start:end])) for start, end in spans]
        self._stops = [
            max((at + 1 for at in range(start, end) if not vocabulary.is_punctuation(ids[at])), default=end)
            for start, end in spans
        ]

    def stop(self, word: int) -> int:
        """The token behind its last one that is no mark."""
        return self._stops[word]


def _bare(word: str) -> str:
    """Without marks, case, and the "'s" of a possessive."""
    return word.casefold().strip(MARKS).removesuffix("'s")


class Progress:
    """Where one decode is in the terms."""

    def __init__(self, terms: KeyTerms) -> None:
        self._terms = terms
        self._places: list[_Place] = []

    def raised(self) -> dict[int, float]:
        """What to add to the logits of which tokens, next."""
        return self._terms.raised(self._places)

    def take(self, token: int) -> None:
        """This token was chosen."""
        self._places = self._terms.step(self._places, token)
