"""Append-only turns, with a recogniser that is made of a rule: every tenth of a second of voice is a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.embedded.completeness import Answers, Doubt, Fit, Fluent
from rtcstt.embedded.hypothesis import FRAME, Audio, Hypothesis
from rtcstt.embedded.listener import Listener
from rtcstt.embedded.segments import HARD
from rtcstt.errors import LocalProtocolError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import (
    DEFAULT_TURN,
    TurnEagerEnd,
    TurnEnd,
    TurnMessage,
    TurnOrder,
    TurnSettings,
    TurnStart,
    TurnUpdate,
)


class Words:
    """Token 10 + n is the word wn."""

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(f"w{token - 10}" for token in ids)

    def starts_word(self, token: int) -> bool:
        return True

    def is_punctuation(self, token: int) -> bool:
        return False


class Rule:
    """A recogniser: each frame of loud audio carries, as its level, the number of the word it belongs to.

    The newest word is misheard, as real ones are. Counts its work and the longest audio it was given.
    """

    def __init__(self, *, stop: float = 0.995, logprob: float = -0.1, finished: bool = True) -> None:
        self.stop, self.logprob, self.finished = stop, logprob, finished
        self.tokens = Words()
        self.decodes = 0
        self.longest = 0

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        self.decodes += 1
        self.longest = max(self.longest, len(audio))
        received = np.unique(np.round(audio[audio > 0] * 10_000).astype(int))
        ids = [10 + int(number) for number in received]
        if len(audio) and audio[-1] > 0 and len(ids) > len(forced):
            ids[-1] = 9_000  # cut off in mid-word
        return Hypothesis((*forced, *ids[len(forced) :]), self.finished, self.logprob, stop=self.stop)


class Loud:
    """Voice activity: whether the frame is loud."""

    def __init__(self, certainty: float = 0.95) -> None:
        self.certainty = certainty

    def probability(self, frame: Audio) -> float:
        return self.certainty if float(frame.max()) > 0 else 0.01


class Complete:
    def __init__(self, value: float) -> None:
        self.value = value

    def complete(self, audio: Audio) -> float:
        return self.value


def sound(*parts: float, first: int = 1) -> Audio:
    """Seconds of words (positive, a word each 0.1 s) and of silence (negative)."""
    blocks, word = [], first
    for part in parts:
        if part < 0:
            blocks.append(np.zeros(int(-part * SAMPLE_RATE), np.float32))
            continue
        for _ in range(round(part * 10)):
            block = np.full(SAMPLE_RATE // 10, word / 10_000, np.float32)
            block[-320:] = 0  # between words it is quiet for a moment, too short for the voice detector
            blocks.append(block)
            word += 1
    return np.concatenate(blocks)


# Constants of the tests' own: those of models are fitted to recordings, and may be fitted again.
FIT = Fit(
    {"bias": -3.95, "sound": 0.15, "stop": 0.8},
    ((-4.0, 5.6), (-3.0, 2.5), (-2.6, 1.26), (-0.9, 1.26), (-0.5, 0.55), (0.1, 0.45), (1.2, 0.4)),
    (1.0, 0.0),
    Answers(0.7, -3.5, -2.25),
    Doubt(0.0, 0.0),
    Fluent(0.4, 9.0, 0.0),
)


def listener(complete: float = 0.99, rule: Rule | None = None, **turn: float) -> Listener:
    return Listener(  # type: ignore[arg-type]
        rule or Rule(), Loud(), Complete(complete), TurnSettings(**turn), fit=FIT
    )


def receive(
    listening: Listener, audio: Audio, *, step: int = 1600, updates: bool = True
) -> list[TurnMessage]:
    return [
        message
        for start in range(0, len(audio), step)
        for message in listening.receive(audio[start : start + step], updates=updates)
    ]


def check(messages: Sequence[TurnMessage]) -> list[str]:
    """The four guarantees; the text of each turn."""
    order = TurnOrder()
    for message in messages:
        order.advance(message, LocalProtocolError)
    return [message.transcript for message in messages if isinstance(message, TurnEnd)]


def said(count: int, first: int = 1) -> str:
    return " ".join(f"w{number}" for number in range(first, first + count))


def test_a_turn_has_its_words_once() -> None:
    messages = receive(listener(), sound(-0.5, 4.0, -2.0))
    assert check(messages) == [said(40)]
    assert isinstance(messages[0], TurnStart) and isinstance(messages[-2], TurnEagerEnd)
    assert len([m for m in messages if isinstance(m, TurnUpdate)]) >= 3


def test_flushing_adds_nothing_to_the_clock() -> None:
    listening, audio = listener(), sound(-0.5, 1.0)
    for _ in range(20):
        texts = check([*receive(listening, audio), *listening.flush()])
        assert len(texts) == 1
    assert listening.position == 20 * len(audio), "times after many presses are still right"


def test_the_space_between_turns_is_in_the_text() -> None:
    texts = check(receive(listener(), sound(-0.5, 1.0, -2.0, 1.0, -2.0, 1.0, -2.0)))
    assert texts == [said(10), " " + said(10, 11), " " + said(10, 21)]
    assert "".join(texts) == said(30)


def test_speech_after_an_eager_end_joins_the_same_turn() -> None:
    listening = listener()
    messages = receive(listening, sound(-0.5, 1.0, -0.38, 1.0, -2.0))
    assert check(messages) == [said(20)]
    assert [m.type for m in messages].count("turn.resume") == 1


class Content(Rule):
    """A recogniser that believes all is said with the tenth word."""

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        found = super().decode(audio, forced)
        ids = found.ids[: found.ids.index(20) + 1] if 20 in found.ids else found.ids
        return replace(found, ids=ids)


class Forgetful(Rule):
    """A recogniser that cannot be forced: what it says is all of the audio."""

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        return super().decode(audio)


def test_what_follows_an_eager_end_is_decoded_with_what_came_before() -> None:
    rule = Rule()
    assert check(receive(listener(rule=rule), sound(-0.5, 1.0, -0.38, 1.0, -2.0))) == [said(20)]
    assert rule.longest > 2.3 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("rule", "live", "pause"),
    [(Rule(stop=0.7), True, 2.0), (Content(), True, 0.38), (Forgetful(), False, 0.38)],
)
def test_or_by_itself_where_that_is_of_no_use(rule: Rule, live: bool, pause: float) -> None:
    """After a long silence; when the recogniser believes that all is said; when nothing can be forced."""
    settings = TurnSettings(eager_end_threshold=0.59, end_threshold=0.01)
    listening = Listener(rule, Loud(), Complete(0.6), settings, live=live, fit=FIT)  # type: ignore[arg-type]
    messages = receive(listening, sound(-0.5, 1.0, -pause, 1.0, -6.0))
    assert check(messages) == [said(20)]
    assert [m.type for m in messages].count("turn.resume") == 1
    assert rule.longest < 2.3 * SAMPLE_RATE or isinstance(rule, Content)
    assert [(round(p.start / SAMPLE_RATE, 1), round(p.end / SAMPLE_RATE, 1)) for p in listening.finished] == [
        (0.5, 1.5),
        (round(1.5 + pause, 1), round(2.5 + pause, 1)),
    ]


def test_a_long_turn_does_not_make_decoding_costlier() -> None:
    rule = Rule()
    (text,) = check(receive(listener(rule=rule), sound(-0.5, 60.0, -2.0)))
    wrong = set(said(600).split()) ^ set(text.split())
    assert len(wrong) <= 2 * 60 * SAMPLE_RATE // HARD  # at most the word where a segment had to be cut
    assert rule.longest <= HARD + SAMPLE_RATE


def test_without_updates_turns_and_their_text_are_the_same() -> None:
    audio = sound(-0.5, 3.0, -1.5, 8.0, -0.3, 4.0, -2.0)
    with_updates, without = Rule(), Rule()
    first = check(receive(listener(rule=with_updates), audio))
    second = check(receive(listener(rule=without), audio, updates=False))
    assert first == second
    assert without.decodes < with_updates.decodes


def test_nothing_is_decoded_where_nobody_speaks() -> None:
    rule = Rule()
    listening = listener(rule=rule)
    assert receive(listening, sound(-30.0)) == []
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[1100:1500] = 0.5
    assert receive(listening, click) == []
    assert rule.decodes == 0


@pytest.mark.parametrize(
    ("certainty", "logprob", "words"),
    [
        (0.95, -0.1, 20),  # speech
        (0.95, -1.2, 20),  # speech in noise
        (0.95, -1.7, 0),  # nobody knows what
        (0.75, -1.1, 0),  # music, which the recogniser takes for words
        (0.75, -0.9, 20),  # a quiet voice on the telephone
    ],
)
def test_what_is_hardly_voice_or_hardly_words_is_not_written(
    certainty: float, logprob: float, words: int
) -> None:
    listening = Listener(
        Rule(logprob=logprob),
        Loud(certainty),
        None,
        TurnSettings(start_threshold=0.7),  # type: ignore[arg-type]
    )
    messages = receive(listening, sound(-0.5, 2.0, -6.0))
    assert check(messages) == [said(words)]
    assert any(isinstance(message, TurnUpdate) for message in messages) is bool(words)


def test_a_loop_is_not_published_before_its_end_is_cut_off() -> None:
    messages = receive(listener(rule=Rule(finished=False)), sound(-0.5, 3.0))
    assert not any(isinstance(message, TurnUpdate) for message in messages)


@pytest.mark.parametrize("judged", [True, False])
def test_half_a_sentence_is_waited_for_whatever_it_sounds_like(judged: bool) -> None:
    rule = Rule(stop=0.6)
    listening = Listener(
        rule,
        Loud(),  # type: ignore[arg-type]
        Complete(0.9) if judged else None,  # type: ignore[arg-type]
        TurnSettings(),
        fit=FIT,
    )
    assert check(receive(listening, sound(-0.5, 1.0, -0.9, 1.0))) == []


def test_by_silence_only_the_timeout_ends_a_turn() -> None:
    settings = TurnSettings(end_timeout_ms=3000)
    listening = Listener(Rule(), Loud(), None, settings, by_silence=True)  # type: ignore[arg-type]
    assert check(receive(listening, sound(-0.5, 1.0, -2.8))) == []
    assert check([TurnStart(), *receive(listening, sound(-0.4))]) == [said(10)]


@pytest.mark.parametrize("step", [512, 1600, 8000])
def test_messages_say_how_much_audio_they_are_made_from(step: int) -> None:
    """To the frame, however much came at once."""
    listening = Listener(Rule(), Loud(), None, TurnSettings())  # type: ignore[arg-type]
    messages = receive(listening, sound(-0.5, 1.0, -2.5, 1.0), step=step) + listening.flush()
    positions = [wire.audio_position(message) or 0.0 for message in messages]
    starts, ends = (
        [position for message, position in zip(messages, positions, strict=True) if message.type == kind]
        for kind in ("turn.start", "turn.end")
    )
    assert starts == pytest.approx([0.6, 4.1], abs=0.1)
    assert 1.7 < ends[0] < 3.9 and ends[1] == pytest.approx(5.0)
    assert positions == sorted(positions)


def test_smart_turn_gets_this_turn_and_a_moment_of_silence() -> None:
    received: list[Audio] = []

    class Judge:
        def complete(self, audio: Audio) -> float:
            received.append(audio)
            return 0.99

    listening = Listener(Rule(), Loud(), Judge(), TurnSettings())  # type: ignore[arg-type]
    receive(listening, sound(-2.0, 1.0, -1.5, 2.0, -1.5, 12.0, -1.0))
    lengths = [len(audio) / SAMPLE_RATE for audio in received]
    assert lengths == pytest.approx([1.5, 2.5, 8.0], abs=0.15)
    for audio in received:
        silent = len(audio) - 1 - int(np.flatnonzero(audio)[-1])
        assert silent / SAMPLE_RATE == pytest.approx(0.1, abs=0.04)


def test_flush_ends_the_turn_in_mid_word() -> None:
    listening = listener()
    messages = receive(listening, sound(-0.5, 1.0))
    messages += listening.flush()
    assert check(messages) == [said(10)]
    assert listening.flush() == []
    assert check(messages + receive(listening, sound(1.0, -2.0, first=11))) == [said(10), " " + said(10, 11)]


def test_flush_takes_a_word_too_short_to_begin_a_turn() -> None:
    listening = Listener(Rule(), Loud(0.85), None, TurnSettings())  # type: ignore[arg-type]
    word = np.zeros(SAMPLE_RATE, np.float32)
    word[FRAME * 20 : FRAME * 23] = 7 / 10_000
    assert receive(listening, word) == []
    assert check(listening.flush()) == ["w7"]


def test_what_a_turn_consists_of_is_known_with_its_place() -> None:
    listening = listener()
    receive(listening, sound(-0.5, 1.0, -2.0))
    (piece,) = listening.finished
    assert piece.text == said(10)
    assert piece.start / SAMPLE_RATE == pytest.approx(0.5, abs=0.07)
    assert piece.end / SAMPLE_RATE == pytest.approx(1.5, abs=0.07)


PARTS = st.lists(st.one_of(st.floats(0.05, 4.0), st.floats(-2.5, -0.05)), min_size=1, max_size=8)


@settings(max_examples=60)
@given(PARTS, st.floats(0, 1), st.integers(100, 9000), st.booleans())
@example([-1.0, 14.0], 0.0, 100, False)  # cut without a pause, close to a word
@example([-1.626, 14.0], 0.0, 100, False)
def test_every_word_comes_once_in_order_however_the_audio_is_cut(
    parts: list[float], complete: float, step: int, updates: bool
) -> None:
    audio = sound(-0.5, *parts, -0.5)
    listening = listener(complete, end_timeout_ms=DEFAULT_TURN.end_timeout_ms or 0)
    messages = receive(listening, audio, step=step, updates=updates)
    messages += listening.flush()
    words = " ".join(check(messages)).split()
    numbers = [int(word[1:]) for word in words]
    assert numbers == sorted(set(numbers))
    spoken = {int(value) for value in np.unique(np.round(audio[audio > 0] * 10_000))}
    assert set(numbers) <= spoken


@settings(max_examples=30)
@given(st.floats(0.5, 20), st.integers(100, 9000))
@example(13.625, 100)  # it ends just after a segment had to be cut
def test_clear_speech_is_complete(seconds: float, step: int) -> None:
    listening = listener()
    audio = sound(-0.5, seconds, -3.0)
    count = round(seconds * 10)
    assert check(receive(listening, audio, step=step)) == [said(count)]


def test_frames_of_any_size_are_the_same() -> None:
    audio = sound(-0.5, 2.0, -1.5, 1.0, -2.0)
    texts = {
        tuple(check(receive(listener(), audio, step=step))) for step in (160, FRAME, 1600, 7777, len(audio))
    }
    assert len(texts) == 1


@pytest.mark.parametrize(("doubted", "judged"), [(False, 1), (True, 0)])
def test_how_it_sounds_is_judged_once_in_a_pause_and_only_where_it_matters(
    doubted: bool, judged: int
) -> None:
    asked = []

    class Counting(Complete):
        def complete(self, audio: Audio) -> float:
            asked.append(len(audio))
            return super().complete(audio)

    fit = replace(FIT, doubt=Doubt(1.0, 6.0)) if doubted else FIT  # all is waited for as long as can be
    listener = Listener(Rule(), Loud(), Counting(0.9), TurnSettings(), fit=fit)
    messages = receive(listener, sound(-0.5, 2.0, -7.0))
    assert sum(isinstance(message, TurnEnd) for message in messages) == 1
    assert len(asked) == judged
