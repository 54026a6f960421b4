"""Where turns begin and end, by tables and properties; no model is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.embedded.completeness import FITS, UNFINISHED_S, Evidence, Fit
from rtcstt.embedded.endpointer import FRAME_S, TABLE, Endpointer, TurnTransition
from rtcstt.wire import DEFAULT_TURN, TURN_TABLE, TurnSettings, TurnState

START, EAGER, RESUME, END = (
    TurnTransition.START,
    TurnTransition.EAGER_END,
    TurnTransition.RESUME,
    TurnTransition.END,
)


SURE, OPEN = 0.45, UNFINISHED_S  # seconds to wait
TINY = FITS["tiny-en"]
MODELS = pytest.mark.parametrize("fit", FITS.values(), ids=[name or "any" for name in FITS])


def waits_s(
    sound: float | None,
    stop: float | None,
    words: str,
    longest_s: float = 0.0,
    fit: Fit = TINY,
) -> float:
    return fit.wait_s(Evidence(sound, stop, words, longest_s))


def run(
    endpointer: Endpointer, *parts: tuple[float, float], wait_s: float = SURE
) -> list[tuple[TurnTransition, float]]:
    """Feed (voice activity, seconds) parts; what happened, and when."""
    happened, now = [], 0.0
    for probability, seconds in parts:
        for _ in range(round(seconds / FRAME_S)):
            now += FRAME_S
            happened += [(transition, now) for transition in endpointer.frame(probability)]
            if endpointer.probe_due:
                endpointer.answer(wait_s)
    return happened


def kinds(happened: list[tuple[TurnTransition, float]]) -> list[TurnTransition]:
    return [transition for transition, _ in happened]


def test_the_table_is_the_protocols_grammar() -> None:
    for state, rows in TABLE.items():
        for row in rows:
            assert TURN_TABLE[state, row.transition.value] is row.next


def test_a_finished_sentence_starts_fast_and_ends_fast() -> None:
    happened = run(Endpointer(TurnSettings()), (0.0, 1.0), (0.95, 2.0), (0.02, 2.0))
    assert kinds(happened) == [START, EAGER, END]
    start, eager, end = (when for _, when in happened)
    assert start - 1.0 <= 0.2
    assert eager - 3.0 <= 0.45
    assert end - 3.0 <= 0.75


def test_a_pause_in_mid_sentence_resumes() -> None:
    happened = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 1.2), (0.95, 1.0), wait_s=OPEN)
    assert kinds(happened) == [START]
    happened = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 0.35), (0.95, 1.0), wait_s=SURE)
    assert kinds(happened) == [START, EAGER, RESUME]


@pytest.mark.parametrize("wait_s", [0.34, 0.5, 1.1, 2.0])
def test_with_the_default_settings_a_turn_ends_after_so_many_seconds(wait_s: float) -> None:
    happened = run(Endpointer(TurnSettings()), (0.95, 1.0), (0.02, 6.0), wait_s=wait_s)
    assert kinds(happened) == [START, EAGER, END]
    assert happened[-1][1] - 1.0 == pytest.approx(wait_s, abs=0.07)


def test_who_went_on_at_once_and_again_is_given_longer() -> None:
    clause = ((0.95, 1.0), (0.02, 0.7))
    endpointer = Endpointer(TurnSettings())
    assert kinds(run(endpointer, *clause, *clause)) == 2 * [START, EAGER, END]
    assert kinds(run(endpointer, *clause, *clause, *clause)) == [START]
    assert kinds(run(endpointer, (0.02, 3.0))) == [EAGER, END]
    assert kinds(run(endpointer, *clause)) == [START, EAGER, END], "the next is taken as it sounds"


@MODELS
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 2))
def test_each_witness_counts_for_what_it_says(
    fit: Fit, sound: float, stop: float, more: float, longest_s: float
) -> None:
    waited = waits_s(sound, stop, "It is done.", longest_s, fit)
    assert waits_s(max(sound, more), stop, "It is done.", longest_s, fit) <= waited
    assert waits_s(sound, max(stop, more), "It is done.", longest_s, fit) <= waited
    assert waits_s(sound, stop, "It is the", longest_s, fit) >= waited
    assert waits_s(sound, stop, "It is done.", longest_s + more, fit) >= waited


@pytest.mark.parametrize(
    ("sound", "stop", "words", "least_s", "most_s"),
    [
        (0.37, 0.909, "Yes.", 0.3, 0.7),  # tiny-en and smart-turn of recordings
        (0.05, 0.855, "Okay.", 0.3, 0.7),
        (0.15, 0.869, "Right.", 0.3, 0.7),
        (0.97, 0.940, "Three.", 0.3, 0.7),
        (0.65, 0.951, " Goodbye.", 0.3, 0.7),
        (0.74, 0.863, "But.", 0.3, 1.3),  # "five", taken for something else
        (0.01, 0.892, "He was.", 1.2, 6.0),
        (0.90, 0.906, "I went home and", 0.8, 6.0),
    ],
)
def test_an_answer_of_one_or_two_words_ends_soon(
    sound: float, stop: float, words: str, least_s: float, most_s: float
) -> None:
    assert least_s <= waits_s(sound, stop, words) <= most_s


@pytest.mark.parametrize(
    (
        "sound",
        "stop",
        "words",
        "least_s",
    ),  # tiny-en and smart-turn of recordings, in which the speaker went on
    [
        (0.99, 0.879, "I saluted tornadoes.", 1.2),
        (0.98, 0.895, "The.", 1.2),
        (0.18, 0.872, "Listen.", 1.2),
        (0.99, 0.999, "My number is four one five", 1.2),
        (0.99, 0.999, "I want to fly from Boston and", 1.2),
        (0.97, 0.936, "With.", 0.8),
        (0.97, 0.770, "This.", 0.8),
        (0.02, 0.965, "Americans. Ask not.", 0.97),
        (0.97, 0.911, "Press six, to repeat this message press.", 1.2),
    ],
)
def test_what_sounds_complete_and_reads_otherwise_is_waited_for(
    sound: float, stop: float, words: str, least_s: float
) -> None:
    assert waits_s(sound, stop, words) >= least_s


@pytest.mark.parametrize(
    ("sound", "stop", "words", "longest_s", "most_s"),
    [  # of recordings, in which the speaker was done
        (0.97, 0.982, "The horizon seems extremely distant.", 0.0, 0.42),
        (0.98, 0.987, "A thin stripe runs down the middle.", 0.0, 0.4),
        (0.98, 0.997, "My voice is my passport, verify me.", 0.29, 0.4),
        (0.01, 0.985, "The child almost hurt the small dog.", 0.16, 1.1),
        (0.35, 0.995, "or by pressing the pound key.", 0.22, 0.85),
        (0.03, 0.997, "the same opportunities that we have today.", 0.26, 0.93),
    ],
)
def test_a_sentence_that_is_done_ends_soon(
    sound: float, stop: float, words: str, longest_s: float, most_s: float
) -> None:
    assert waits_s(sound, stop, words, longest_s) <= most_s


WORDS = st.sampled_from(["It is done.", "Yes.", "T. I.", "and the", "It is four five", ""])


@MODELS
@given(st.none() | st.floats(0, 1), WORDS, st.floats(0, 2), st.floats(0, 1))
def test_how_it_sounds_is_asked_only_where_it_makes_a_difference(
    fit: Fit, stop: float | None, words: str, longest_s: float, sound: float
) -> None:
    evidence = Evidence(None, stop, words, longest_s)
    soonest_s, waited_s = fit.soonest_s(evidence), fit.wait_s(replace(evidence, sound=sound))
    if soonest_s is None:
        assert waited_s == fit.wait_s(evidence)
    else:
        assert waited_s >= soonest_s


@MODELS
@given(st.floats(0, 1), st.floats(0.9, 1), st.lists(st.tuples(st.floats(0.1, 1.5), st.floats(0.1, 2.0))))
def test_to_be_asked_late_how_it_sounds_changes_no_turn(
    fit: Fit, sound: float, stop: float, parts: list[tuple[float, float]]
) -> None:
    happened, asked = list[list[tuple[TurnTransition, float]]](), list[int]()
    for late in (False, True):
        endpointer, now, count = Endpointer(TurnSettings()), 0.0, 0
        happened.append([])
        for spoken_s, pause_s in parts:
            frames = [0.95] * round(spoken_s / FRAME_S) + [0.02] * round(pause_s / FRAME_S)
            for probability in frames:
                now += FRAME_S
                happened[-1] += [(each, now) for each in endpointer.frame(probability)]
                if not endpointer.probe_due:
                    continue
                evidence = Evidence(None, stop, "It is done.", endpointer.longest_s)
                soonest_s = fit.soonest_s(evidence)
                if late and soonest_s is not None and not endpointer.hangs_on(soonest_s):
                    endpointer.answer(soonest_s, for_now=True)
                else:
                    count += 1
                    endpointer.answer(fit.wait_s(replace(evidence, sound=sound)))
        asked.append(count)
    assert happened[0] == happened[1]
    assert asked[1] <= asked[0]


@MODELS
def test_one_witness_alone_counts(fit: Fit) -> None:
    assert waits_s(0.99, None, "It is done", fit=fit) < waits_s(0.01, None, "It is done", fit=fit)
    assert waits_s(None, 0.999, "It is done") < waits_s(None, 0.8, "It is done")


def test_who_has_not_paused_in_the_turn_and_sounds_done_is_waited_for_less() -> None:
    assert waits_s(0.85, 0.992, "It is done.", 0.2) < 0.4
    assert waits_s(0.85, 0.992, "It is done.", 0.3) > 0.5, "who reads makes every clause sound so"
    assert waits_s(0.85, 0.94, "It is done.", 0.2) > 1.0, "is a full stop doubted, so is that"


@MODELS
def test_who_paused_before_in_the_turn_and_went_on_is_given_longer_than_that(fit: Fit) -> None:
    assert waits_s(0.99, 0.999, "It is done.", 0.0, fit) < 0.5
    assert 0.45 < waits_s(0.99, 0.999, "It is done.", 0.4, fit) < 1.0


def test_the_longest_pause_of_a_turn_is_known() -> None:
    endpointer = Endpointer(TurnSettings())
    run(endpointer, (0.95, 1.0), (0.02, 0.3), (0.95, 1.0), (0.02, 0.2), (0.95, 1.0))
    assert endpointer.longest_s == pytest.approx(0.3, abs=0.05)
    run(endpointer, (0.02, 6.0), (0.95, 1.0))
    assert endpointer.longest_s == 0


@pytest.mark.parametrize("timeout_ms", [640, 2000, 5600])
def test_the_timeout_is_the_last_word(timeout_ms: float) -> None:
    endpointer = Endpointer(TurnSettings(end_timeout_ms=timeout_ms))
    happened = run(endpointer, (0.95, 1.0), (0.02, 12.0), wait_s=OPEN)
    assert kinds(happened) == [START, EAGER, END]
    assert happened[-1][1] - 1.0 == pytest.approx(timeout_ms / 1000, abs=0.1)


def test_without_smart_turn_turns_end_later_but_end() -> None:
    waited = waits_s(None, 0.99, "It is done")
    assert waits_s(0.98, 0.99, "It is done") < waited < 4.0


@pytest.mark.parametrize("seconds", [0.03, 0.06])
def test_a_click_starts_nothing(seconds: float) -> None:
    assert run(Endpointer(TurnSettings()), (0.0, 0.5), (0.9, seconds), (0.0, 1.0)) == []


@pytest.mark.parametrize(
    ("name", "low", "high", "transition"),
    [
        ("start_threshold", 0.5, 0.9, START),
        ("eager_end_threshold", 0.3, 0.6, EAGER),
        ("end_threshold", 0.05, 0.3, END),
    ],
)
def test_settings_move_what_they_are_named_for(
    name: str, low: float, high: float, transition: TurnTransition
) -> None:
    def when(value: float) -> float:
        happened = run(Endpointer(TurnSettings(**{name: value})), (0.95, 1.0), (0.02, 6.0), wait_s=1.26)
        return next(at for found, at in happened if found is transition)

    if transition is START:
        assert when(low) < when(high)  # a lower threshold is passed sooner on the way up
    else:
        assert when(high) < when(low)  # and later on the way down


def test_settings_change_in_mid_stream() -> None:
    endpointer = Endpointer(TurnSettings())
    run(endpointer, (0.95, 1.0), (0.02, 1.0), wait_s=OPEN)
    endpointer.configure(TurnSettings(end_timeout_ms=1500))
    happened = run(endpointer, (0.02, 1.0), wait_s=OPEN)
    assert kinds(happened) == [EAGER, END]


def test_a_change_of_one_setting_leaves_the_others() -> None:
    endpointer = Endpointer(TurnSettings(end_timeout_ms=1500))
    endpointer.configure(TurnSettings(start_threshold=0.7))
    happened = run(endpointer, (0.95, 1.0), (0.02, 1.6), wait_s=OPEN)
    assert kinds(happened) == [START, EAGER, END]


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
    st.floats(0.3, 5.6),
)
def test_whatever_comes_the_grammar_holds_and_silence_ends_it(
    settings: TurnSettings, parts: list[tuple[float, float]], wait_s: float
) -> None:
    endpointer = Endpointer(settings)
    happened = kinds(run(endpointer, *parts, (0.0, 12.0), wait_s=wait_s))
    state = TurnState.IDLE
    for transition in happened:
        state = TURN_TABLE[state, transition.value]
    assert state is endpointer.state is TurnState.IDLE
    assert 0 <= endpointer.likelihood <= 1


def diagram() -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {TurnState.IDLE.value}"]
    for state, rows in TABLE.items():
        for row in rows:
            side = "above" if row.rises else "below"
            label = f"{row.transition.value}, at {row.setting} or {side}"
            lines.append(f"    {state.value} --> {row.next.value} : {label}")
    return "\n".join(lines)


def test_the_documentation_shows_this_table() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "turns.md").read_text()
    assert f"```mermaid\n{diagram()}\n```" in page, diagram()
    for name, value in DEFAULT_TURN.as_dict().items():
        assert f"| `{name}` | {value:g} |" in page, f"{name} is {value:g}"
