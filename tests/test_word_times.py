"""When words were said, from how surely a decoder expects them while it is shown more of the audio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.embedded.word_times import LATE_S, word_starts

STEP_S = 0.2


def shown(
    starts_s: list[float], seconds: float, *, early: float = -6.0, late: float = -0.2
) -> tuple[list[float], np.ndarray]:
    """What a decoder would find that knows each word from its start on."""
    times_s = [STEP_S * (step + 1) for step in range(round(seconds / STEP_S))]
    rows = [[late if at >= start else early for start in starts_s] for at in times_s]
    return times_s, np.array(rows, np.float32)


def test_words_begin_where_they_become_known() -> None:
    starts_s = [2.0, 2.9, 3.3, 4.6]
    times_s, rows = shown(starts_s, 6.0)
    found = word_starts(times_s, rows, rows[-1], [3, 3, 3, 3])
    assert found == pytest.approx([start + LATE_S for start in starts_s], abs=STEP_S)


def test_a_stray_value_and_what_was_not_looked_at_change_nothing() -> None:
    times_s, rows = shown([0.3, 1.1, 2.5], 4.0)
    clean = word_starts(times_s, rows, rows[-1], [3, 3, 3])
    rows[3, 2] = -0.1  # known for a moment, far too early
    rows[15, 0] = -7.0
    rows[:2, 2] = rows[17:, 0] = np.nan
    assert word_starts(times_s, rows, np.full(3, -0.2, np.float32), [3, 3, 3]) == pytest.approx(
        clean, abs=STEP_S
    )


def test_a_word_that_was_to_be_expected_is_put_between_its_neighbours() -> None:
    times_s, rows = shown([0.5, 0.0, 3.0], 4.0)
    rows[:, 1] = -0.3  # from the beginning
    first, between, last = word_starts(times_s, rows, rows[-1], [7, 3, 4])
    assert between == pytest.approx(first + (last - first) * 8 / 12, abs=0.01)


def test_nothing_said_and_nothing_shown() -> None:
    nothing = np.zeros((0, 0), np.float32)
    assert word_starts([], nothing, np.zeros(0, np.float32), []) == []
    assert word_starts([], np.zeros((0, 2), np.float32), np.zeros(2, np.float32), [1, 1]) == [0.0, 0.0]


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_words_come_one_after_the_other_whatever_was_found(words: int, steps: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    rows = chance.uniform(-12, 0, (steps, words)).astype(np.float32)
    rows[chance.random(rows.shape) < 0.3] = np.nan
    final = chance.uniform(-12, 0, words).astype(np.float32)
    times_s = [STEP_S * (step + 1) for step in range(steps)]
    found = word_starts(times_s, rows, final, [3] * words)
    assert found == sorted(found) and all(0 <= at <= times_s[-1] + LATE_S for at in found)
