"""Where does a second transcription of the same audio go beyond what was already published?

After a reconnect the STT receives again what it had received before, and says it again: perhaps in other
words, cut otherwise into turns, with other punctuation. The listener must get only what is new. So the
new text is aligned, word by word and regardless of case and punctuation, with the text that was
published from the same audio (weighted edit distance). Both begin at the same place in the audio; the
new text's end is free, because it grows while it comes in. Where the replayed audio could not begin
where the published text begins (the bounded ring had dropped it), the beginning of the published text
is free too, within the range of words where it can have been.

The rules lean to holding back: as long as the new text might still be a repetition, nothing of it is
published. What is held back is not lost, it comes with the next words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# A word is a run of letters and digits with inner apostrophes; where a script writes no spaces
# (CJK and its neighbours), every character.
_WORD = re.compile(r"[\u2e80-\ud7ff\uf900-\ufaff]|[^\W\u2e80-\ud7ff\uf900-\ufaff_]+(?:['\u2019][^\W_]+)*")
_MATCH = -1.0  # an equal pair is worth more than leaving both out, and than a similar one
_UNREACHABLE = 1e9


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text: what is compared, and where it stands."""

    key: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words of a text, in order."""
    return [
        Word(m.group().casefold().replace("\u2019", "'"), m.start(), m.end()) for m in _WORD.finditer(text)
    ]


@lru_cache(maxsize=4096)
def _difference(old: str, new: str) -> float:
    """Cost of receiving one word as the other: -1 for the same word, up to 1 for strangers."""
    if old == new:
        return _MATCH
    shorter = min(len(old), len(new))
    front = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    back = next((i for i in range(shorter - front) if old[-1 - i] != new[-1 - i]), shorter - front)
    return 1.0 - 0.8 * (front + back) / max(len(old), len(new))


def join_text(before: str, after: str) -> str:
    """``after`` as it must stand behind ``before`` where two connections' texts meet: exactly one space
    between two words (none in scripts without), no second full stop behind a full stop."""
    if not before:
        return after
    if before[-1].isspace():
        return after.lstrip()
    if not before[-1].isalnum():
        after = re.sub(r"^[.,;:!?\u2026]+", "", after)
    if not after or after[0].isspace() or not (after[0].isalnum() or after[0] in "\"'([\u00bf\u00a1$\u201c"):
        return after
    spaceless = any("\u2e80" <= c <= "\ud7ff" or "\uf900" <= c <= "\ufaff" for c in (before[-1], after[0]))
    return after if spaceless else " " + after


@dataclass(frozen=True, slots=True)
class Continuation:
    """New text that is not in the published one: publish ``text``, and from now on whatever the new
    transcription adds behind its character ``skip``."""

    text: str
    skip: int


class TranscriptAligner:
    """Aligns one growing text with a published one.

    ``first`` and ``last`` bound the index of the published word at which the replayed audio begins
    (0 and 0: at its first word).
    """

    def __init__(self, published: str, *, first: int = 0, last: int = 0) -> None:
        self._published = published
        self._old = words(published)
        self._new: list[Word] = []
        size = len(self._old)
        first, last = min(first, size), min(max(first, last), size)
        # Column j: cost of aligning the first i published words with the first j new ones.
        self._columns = [
            [_UNREACHABLE if i < first else float(max(0, i - last)) for i in range(size + 1)],
        ]

    def _align(self, text: str) -> list[Word]:
        new = words(text)
        same = 0
        while same < min(len(new), len(self._new)) and new[same].key == self._new[same].key:
            same += 1
        del self._columns[same + 1 :]
        for word in new[same:]:
            self._columns.append(self._column(self._columns[-1], word.key))
        self._new = new
        return new

    def _column(self, previous: list[float], key: str) -> list[float]:
        column = [previous[0] + 1.0]
        for i, old in enumerate(self._old, start=1):
            paired = previous[i - 1] + _difference(old.key, key)
            column.append(min(paired, previous[i] + 1.0, column[i - 1] + 1.0))
        return column

    def covered(self, text: str) -> bool:
        """Whether ``text`` seems to reach the end of the published text."""
        self._align(text)
        column = self._columns[-1]
        return column[-1] <= min(column)

    def beyond(self, text: str) -> Continuation | None:
        """What ``text`` has behind the published text; None while it has nothing certain."""
        new = self._align(text)
        ends = [column[-1] for column in self._columns]
        best = max(range(len(ends)), key=lambda j: (-ends[j], j))
        if min(self._columns[-1]) < ends[best]:
            return None  # more likely, all of it lies within the published text
        last = new[best - 1] if best else None
        stem = self._old[-1] if self._old and self._old[-1].end == len(self._published) else None
        if last and stem and last.key != stem.key and last.key.startswith(stem.key):
            rest = text[last.start + len(stem.key) :]  # published in the middle of the word
        else:
            rest = join_text(self._published, text[last.end if last else 0 :])
        return Continuation(rest, len(text)) if rest.strip() else None
