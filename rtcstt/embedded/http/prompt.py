"""Key terms in what OpenAI's clients send as ``prompt``: a list of terms, or text in the style of what is
spoken; a core."""

from __future__ import annotations

import itertools
import re

from rtcstt import wire

MOST = 100  # terms taken of a prompt, the last of them
LONGEST_WORDS = 4
_ENDS = re.compile(r"[,;\n\u3001]|[.!?:](?:\s|$)")
_CLEAN = " \t\"'()[]{}\u201c\u201d"


def terms(prompt: str) -> tuple[str, ...]:
    """Short phrases between commas are terms; of sentences, the words that look like names or codes."""
    found: list[str] = []
    for phrase in _ENDS.split(prompt):
        words = phrase.strip(_CLEAN).split()
        if 0 < len(words) <= LONGEST_WORDS:
            found.append(" ".join(words))
        else:
            found += _names(words)
    return _fitting(tuple(dict.fromkeys(reversed(found)))[:MOST])


def _names(words: list[str]) -> list[str]:
    """Words with a capital letter or a digit, neighbours together; a sentence's first word is no name."""
    found = []
    for named, group in itertools.groupby(
        enumerate(words), key=lambda item: item[0] > 0 and _looks_named(item[1])
    ):
        if named:
            found.append(" ".join(word.strip(_CLEAN) for _, word in group))
    return [name for name in found if name and name != "I"]


def _looks_named(word: str) -> bool:
    bare = word.strip(_CLEAN)
    return bool(bare) and (bare[0].isupper() or any(c.isdigit() or c.isupper() for c in bare[1:]))


def _fitting(found: tuple[str, ...]) -> tuple[str, ...]:
    """As many as a stream may have."""
    length = 0
    kept: list[str] = []
    for term in found:
        length += len(term)
        if len(kept) == wire.MAX_KEYTERMS or length > wire.MAX_KEYTERM_CHARACTERS:
            break
        kept.append(term)
    return tuple(kept)
