"""Where turns begin and end, by tables and properties; no model is needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.embedded.endpointer import FRAME_S, TABLE, Endpointer, Turning
from rtcstt.wire import TURN_TABLE, TurnSettings, TurnState

START, EAGER, RESUME, END = Turning.START, Turning.EAGER_END, Turning.RESUME, Turning.END


def run(
    endpointer: Endpointer, *parts: tuple[float, float], complete: float | None = 0.98, words: str = "done"
) -> list[tuple[Turning, float]]:
    """Feed (voice activity, seconds) parts; what happened, and when."""
    happened, now = [], 0.0
    for probability, seconds in parts:
        for _ in range(round(seconds / FRAME_S)):
            now += FRAME_S
            happened += [(turning, now) for turning in endpointer.frame(probability)]
            if endpointer.probe_due:
                endpointer.answer(complete, words)
    return happened


def kinds(happened: list[tuple[Turning, float]]) -> list[Turning]:
    return [turning for turning, _ in happened]


def test_the_table_is_the_protocols_grammar() -> None:
    for state, rows in TABLE.items():
        for row in rows:
            assert TURN_TABLE[state, row.turning.value] is row.next


def test_a_finished_sentence_starts_fast_and_ends_fast() -> None:
    happened = run(Endpointer(TurnSettings()), (0.0, 1.0), (0.95, 2.0), (0.02, 2.0))
    assert kinds(happened) == [START, EAGER, END]
    start, eager, end = (when for _, when in happened)
    assert start - 1.0 <= 0.2
    assert eager - 3.0 <= 0.45
    assert end - 3.0 <= 0.75


def test_a_pause_in_mid_sentence_resumes() -> None:
    happened = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 1.2), (0.95, 1.0), complete=0.1)
    assert kinds(happened) == [START]
    happened = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 0.5), (0.95, 1.0), complete=0.99)
    assert kinds(happened) == [START, EAGER, RESUME]


def test_a_word_that_needs_another_keeps_the_turn_open() -> None:
    parts = ((0.95, 1.0), (0.02, 1.2), (0.95, 0.5))
    assert END in kinds(run(Endpointer(TurnSettings()), *parts, complete=0.99, words="It is done."))
    assert END not in kinds(run(Endpointer(TurnSettings()), *parts, complete=0.99, words="It is the"))


@pytest.mark.parametrize("timeout_ms", [640, 2000, 5600])
def test_the_timeout_is_the_last_word(timeout_ms: float) -> None:
    endpointer = Endpointer(TurnSettings(end_timeout_ms=timeout_ms))
    happened = run(endpointer, (0.95, 1.0), (0.02, 12.0), complete=0.0)
    assert kinds(happened) == [START, EAGER, END]
    assert happened[-1][1] - 1.0 == pytest.approx(timeout_ms / 1000, abs=0.1)


def test_without_smart_turn_turns_end_later_but_end() -> None:
    asked = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 6.0))
    alone = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 6.0), complete=None)
    assert kinds(alone) == [START, EAGER, END]
    assert asked[-1][1] < alone[-1][1] < 4.0


@pytest.mark.parametrize("seconds", [0.03, 0.06])
def test_a_click_starts_nothing(seconds: float) -> None:
    assert run(Endpointer(TurnSettings()), (0.0, 0.5), (0.9, seconds), (0.0, 1.0)) == []


@pytest.mark.parametrize(
    ("name", "low", "high", "turning"),
    [
        ("start_threshold", 0.5, 0.9, START),
        ("eager_end_threshold", 0.3, 0.6, EAGER),
        ("end_threshold", 0.05, 0.3, END),
    ],
)
def test_settings_move_what_they_are_named_for(name: str, low: float, high: float, turning: Turning) -> None:
    def when(value: float) -> float:
        happened = run(Endpointer(TurnSettings(**{name: value})), (0.95, 1.0), (0.02, 6.0), complete=0.7)
        return next(at for found, at in happened if found is turning)

    if turning is START:
        assert when(low) < when(high)  # a lower threshold is passed sooner on the way up
    else:
        assert when(high) < when(low)  # and later on the way down


def test_settings_change_in_mid_stream() -> None:
    endpointer = Endpointer(TurnSettings())
    run(endpointer, (0.95, 1.0), (0.02, 1.0), complete=0.0)
    endpointer.configure(TurnSettings(end_timeout_ms=1500))
    happened = run(endpointer, (0.02, 1.0), complete=0.0)
    assert kinds(happened) == [EAGER, END]


SETTINGS = st.builds(
    TurnSettings,
    start_threshold=st.floats(0.61, 0.9),
    eager_end_threshold=st.floats(0.51, 0.6),
    end_threshold=st.floats(0.05, 0.5),
    end_timeout_ms=st.floats(640, 11200),
)


@given(
    SETTINGS,
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.0, 1.5)), max_size=12),
    st.none() | st.floats(0, 1),
)
def test_whatever_is_heard_the_grammar_holds_and_silence_ends_it(
    settings: TurnSettings, parts: list[tuple[float, float]], complete: float | None
) -> None:
    endpointer = Endpointer(settings)
    happened = kinds(run(endpointer, *parts, (0.0, 12.0), complete=complete))
    state = TurnState.IDLE
    for turning in happened:
        state = TURN_TABLE[state, turning.value]
    assert state is endpointer.state is TurnState.IDLE
    assert 0 <= endpointer.likelihood <= 1
