"""Terms that are expected (names, product numbers): while a decoder writes, tokens that continue one are
raised.

The terms are a trie over their bytes, so any way to cut a term into tokens will do. A token that begins a
term becomes somewhat likelier, one that goes on within a term much likelier. Both are added to logits, and
were measured (`benchmarks/keyterms.py`); twice as much finds a few terms more and makes other words wrong.

A term is looked for at the beginning of words, as it was given and with a capital letter. A name is found
where the model takes its sound for something near; what sounds like nothing the model knows is not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BEGIN, INSIDE = 1.0, 4.0
LONGEST = 24  # bytes of a token that is looked for
WORD = "\u2581"  # what Moonshine's tokens have for the space before a word


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
