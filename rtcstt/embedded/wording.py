"""How the words of a recogniser become part of a text that was published before. A core."""

from __future__ import annotations

from collections.abc import Sequence

from rtcstt.embedded.hypothesis import Vocabulary

# Words that, with a capital letter behind no full stop, only seem to begin a sentence.
COMMON = frozenset(
    "a an the and or but nor so because if when while where who which that this these those of to for with"
    " from in into on at by as than then not is are was were be been has have had do does did can could will"
    " would shall should may might must my your his her its our their he she it we you they there here what"
    " how any all some no one two three four five six seven eight nine ten twenty thirty forty fifty"
    " hundred thousand".split()
)


def joined(texts: Sequence[str]) -> str:
    return " ".join(text for text in texts if text)


def letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum())


def uncapitalised(text: str) -> str:
    """What goes on with a sentence has no capital letter, as far as that can be known."""
    first = text.split(" ", 1)[0].rstrip(",.?!;:")
    return text[:1].lower() + text[1:] if first.lower() in COMMON else text


def continued(published: str, text: str) -> str:
    """The text, with the marks and capitals that were published where it begins with the same words."""
    before, words = published.split(), text.split()
    if text.startswith(published) or list(map(_bare, before)) != list(map(_bare, words[: len(before)])):
        return text
    rest = " ".join(words[len(before) :])
    if published.endswith((".", "?", "!")):
        rest = rest[:1].upper() + rest[1:]
    return joined([published, rest])


def _bare(word: str) -> str:
    return letters(word).casefold()


def whole_words(vocabulary: Vocabulary, ids: tuple[int, ...], agreed: int) -> tuple[int, ...]:
    """Those within the agreed tokens, less the newest one and punctuation at the end."""
    starts = [index for index, token in enumerate(ids) if vocabulary.starts_word(token)]
    ends = [end for end in [*starts[1:], len(ids)] if end <= agreed][:-1]
    end = ends[-1] if ends else 0
    return ids[: unmarked(vocabulary, ids[:end])]


def unmarked(vocabulary: Vocabulary, ids: Sequence[int]) -> int:
    """How many tokens there are before the punctuation at the end."""
    count = len(ids)
    while count and vocabulary.is_punctuation(ids[count - 1]):
        count -= 1
    return count


def common(hypotheses: Sequence[tuple[int, ...]]) -> int:
    """How many tokens the hypotheses have in common from the beginning."""
    count = 0
    for tokens in zip(*hypotheses, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
