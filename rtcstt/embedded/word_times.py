"""When words were said, from how surely a decoder expects them while it is shown more and more of the audio.

A word's first token is improbable until its first sound is within what the decoder sees, and as probable as
it will ever be from then on. Both levels are known, so the moment between them is found even if single values
stray; and since words come one after the other, those moments are found together. A word that was to be
expected anyway ("the", after "of") tells nothing, and is put between its neighbours by its length.

Measured against Whisper's times over 1100 words (`benchmarks/word_times.py`). A core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LATE_S = 0.1  # what is seen holds a little of what comes next
CONTRAST = 1.0  # between the two levels, for a word to tell anything
LEAST = -8.0  # all below is the same
STRAY = 2.0  # the most that a single value counts

Matrix = NDArray[np.float32]


def word_starts(
    times_s: Sequence[float], shown: Matrix, final: Matrix, lengths: Sequence[int]
) -> list[float]:
    """When each word begins, in seconds; never before the one before it.

    ``shown``: a row for each of ``times_s``, with the log-probability of each word's first token when the
    audio up to there is seen (nan: not known); ``final``: the same when all is seen; ``lengths``: of the
    words, in letters.
    """
    count, steps = len(final), len(times_s)
    if not count or not steps:
        return [0.0] * count
    bounded, last = np.clip(shown, LEAST, 0), np.clip(final, LEAST, 0)
    middles = np.array([_middle(bounded[:, word], float(last[word])) for word in range(count)])
    indices = _moments(np.clip(np.nan_to_num(bounded - middles), -STRAY, STRAY))
    found: list[float | None] = []
    for word, index in enumerate(indices):
        tells = 2 * (last[word] - middles[word]) >= CONTRAST
        found.append(_between(times_s, bounded[:, word], middles[word], index) + LATE_S if tells else None)
    return _filled(found, lengths, float(times_s[-1]))


def _middle(values: Matrix, last: float) -> float:
    """Half way between what is found of a word before it was said, and after."""
    known = values[~np.isnan(values)]
    early = float(np.median(known[: max(1, len(known) // 3)])) if len(known) else last
    return (min(early, last) + last) / 2


def _moments(above: Matrix) -> list[int]:
    """For each word (a column) the step from which on it is above its middle, in the order of the words, such
    that as little as possible contradicts."""
    steps, count = above.shape
    early = np.vstack([np.zeros(count), np.maximum(above, 0).cumsum(axis=0)])
    late = np.vstack([np.zeros(count), np.maximum(-above, 0).cumsum(axis=0)])
    costs = early + (late[-1] - late)  # of the moments 0 to ``steps``
    total, chosen = costs[:, 0], list[NDArray[np.intp]]()
    for word in range(1, count):
        least = np.minimum.accumulate(total)
        chosen.append(np.maximum.accumulate(np.where(total <= least, np.arange(steps + 1), 0)))
        total = least + costs[:, word]
    moments = [int(total.argmin())]
    for before in reversed(chosen):
        moments.append(int(before[moments[-1]]))
    return moments[::-1]


def _between(times_s: Sequence[float], values: Matrix, middle: float, index: int) -> float:
    """Where between two steps the middle was passed."""
    after = times_s[min(index, len(times_s) - 1)]
    if index == 0 or index == len(times_s):
        return after
    before, low, high = times_s[index - 1], values[index - 1], values[index]
    share = float(np.clip((middle - low) / (high - low), 0, 1)) if high > low else 0.5
    return before + (after - before) * share


def _filled(found: Sequence[float | None], lengths: Sequence[int], end_s: float) -> list[float]:
    """Words that told nothing between their neighbours, as long as they are written."""
    known = [(word, at) for word, at in enumerate(found) if at is not None]
    known = [(0, 0.0), *known] if not known or known[0][0] else known
    known.append((len(found), max(end_s, known[-1][1])))
    edges = np.concatenate(([0.0], np.cumsum([length + 1 for length in lengths])))
    words, times = zip(*known, strict=True)
    starts = np.interp(edges[:-1], edges[list(words)], times)
    return [float(at) for at in np.maximum.accumulate(starts)]
