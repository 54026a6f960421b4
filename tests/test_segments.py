"""Append-only text of a turn, with recognisers made of rules: where it is cut, what is taken back, what is
believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_listener import FIT, Complete, Loud, Rule, Words, check, receive, said, sound

from rtcstt.embedded.hypothesis import Audio, Hypothesis
from rtcstt.embedded.listener import Listener
from rtcstt.embedded.segments import HARD, LETTERS_PER_S, Segment, word_odds
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import TurnEagerEnd, TurnEnd, TurnResume, TurnSettings, TurnUpdate

SPELLED = {
    1: "my",
    2: "fellow",
    3: "America",
    4: "ns",
    5: "ask",
    6: "not",
    7: ".",
    8: "The",
    9: "Paris",
    10: ",",
}


class Spelled:
    """Tokens of which not every one is a word."""

    def text(self, ids: Sequence[int]) -> str:
        return "".join(SPELLED[i] if i in (4, 7, 10) else f" {SPELLED[i]}" for i in ids).strip()

    def starts_word(self, token: int) -> bool:
        return token not in (4, 7, 10)

    def is_punctuation(self, token: int) -> bool:
        return token in (7, 10)


class Script:
    """Says, of so many seconds of audio, what it was told to; what was forced comes first."""

    def __init__(self, *answers: tuple[float, tuple[int, ...], float]) -> None:
        """``answers``: up to so many seconds, these tokens, with this probability of a full stop."""
        self.tokens = Spelled()
        self.answers = answers
        self.forced: list[tuple[int, ...]] = []

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        self.forced.append(tuple(forced))
        seconds = len(audio) / SAMPLE_RATE
        ids, stop = next((ids, stop) for until, ids, stop in self.answers if seconds <= until)
        if ids[: len(forced)] != tuple(forced):
            ids = (*forced, *ids[len(forced) :])
        return Hypothesis(ids, True, -0.1, stop)


def listening(recogniser: object, complete: float = 0.99) -> Listener:
    return Listener(recogniser, Loud(), Complete(complete), TurnSettings(), fit=FIT)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stop", "eager"), [(0.7, "my fellow America"), (0.995, "my fellow America.")])
def test_a_full_stop_in_the_midst_of_a_turn_is_there_only_where_it_is_sure(stop: float, eager: str) -> None:
    script = Script((9.0, (1, 2, 3, 7), stop))
    messages = receive(listening(script), sound(-0.5, 1.0, -7.0))
    assert [m.transcript for m in messages if isinstance(m, TurnEagerEnd)] == [eager]
    assert [m.transcript for m in messages if isinstance(m, TurnEnd)] == ["my fellow America."], (
        "at the end always"
    )


def test_the_last_word_before_an_eager_end_may_turn_out_to_be_half_of_one() -> None:
    script = Script((1.6, (1, 2, 3, 7), 0.8), (9.0, (1, 2, 3, 4, 5, 6, 7), 0.995))
    listener = listening(script)
    messages = receive(listener, sound(-0.5, 1.0, -1.1, 2.0, -6.0))
    assert any(isinstance(m, TurnResume) for m in messages)
    assert check(messages) == ["my fellow Americans ask not."]
    assert (1, 2) in script.forced, "decoded again from where the words were sure"


def test_a_full_stop_of_an_eager_end_stays_but_does_not_keep_the_sentence_from_going_on() -> None:
    """The recogniser is not told of it again, where it expects a comma now."""
    script = Script((1.6, (1, 2, 3, 7), 0.995), (9.0, (1, 2, 3, 10, 5, 6, 7), 0.995))
    messages = receive(listening(script), sound(-0.5, 1.0, -0.38, 2.0, -6.0))
    assert [m.transcript for m in messages if isinstance(m, TurnEagerEnd)][0] == "my fellow America."
    assert check(messages) == ["my fellow America. Ask not."]
    assert not any(7 in forced for forced in script.forced)


def test_what_would_change_published_text_is_not_taken() -> None:
    script = Script((1.6, (1, 2, 3, 7), 0.8), (9.0, (1, 2, 9, 5, 6, 7), 0.995))
    messages = receive(listening(script), sound(-0.5, 1.0, -1.1, 2.0, -6.0))
    assert check(messages) == ["my fellow America ask not."]


def test_a_sentence_that_goes_on_in_the_next_segment_has_no_capital_letter() -> None:
    class Parts(Script):
        parts = 0

        def decode(
            self,
            audio: Audio,
            forced: Sequence[int] = (),
            draft: Sequence[int] = (),
            *,
            timed: bool = False,
            thorough: bool = False,
        ) -> Hypothesis:
            first = float(audio.max()) < 71 / 10_000  # words 1 to 70 are in the first segment
            return Hypothesis((1, 2, 7) if first else (8, 5, 6, 7), True, -0.1, 0.5 if first else 0.995)

    messages = receive(listening(Parts()), sound(-0.5, 7.0, -0.4, 3.0, -2.0))
    assert check(messages) == ["my fellow the ask not."]


def test_the_longer_a_segment_the_shorter_the_pause_at_which_it_is_closed() -> None:
    """At 11 s a tenth of a second will do; nothing is cut in mid-word."""
    rule = Rule()
    audio = np.concatenate([sound(-0.5, 11.0), sound(-0.1), sound(6.0, -2.0, first=111)])
    assert check(receive(listening(rule), audio)) == [said(170)]
    assert rule.longest < 12.5 * SAMPLE_RATE


def test_a_pause_in_which_a_segment_was_closed_is_judged_by_what_was_said_in_it() -> None:
    """It is closed before it is asked whether all is said; a finished sentence ends as soon as any other."""
    ends = []
    for seconds in (3.0, 11.0):
        listener = listening(Rule(stop=0.995))
        receive(listener, sound(-0.5, seconds))
        silent = [receive(listener, sound(-0.1)) for _ in range(15)]
        ends.append(next(n for n, found in enumerate(silent) if any(isinstance(m, TurnEnd) for m in found)))
    assert abs(ends[0] - ends[1]) <= 1, "tenths of a second"


def test_without_any_pause_it_is_cut_where_it_is_quietest_within_two_seconds() -> None:
    audio = sound(-0.5, 20.0, -2.0)
    gap = int(13.0 * SAMPLE_RATE)  # a moment that the voice detector does not notice
    audio[gap - 800 : gap + 320] = 0
    words = check(receive(listening(Rule()), audio))[0].split()
    assert [word for word in said(200).split() if word not in words] == []
    assert len(words) == 200


class Looping(Rule):
    """Goes in circles on more than three seconds: says half of it, and does not know the rest."""

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
        if len(audio) <= 3 * SAMPLE_RATE:
            return found
        return replace(found, ids=found.ids[: max(len(forced), len(found.ids) // 2)], finished=False)


@pytest.mark.parametrize("updates", [True, False])
def test_what_was_cut_off_is_decoded_in_parts(updates: bool) -> None:
    messages = receive(listening(Looping()), sound(-0.5, 8.0, -2.0), updates=updates)
    assert check(messages) == [said(80)]


def test_no_update_before_there_is_enough_voice_to_understand_the_first_words() -> None:
    for update_s, first_s in ((0.5, 1.5), (0.2, 0.6), (1.0, 3.0)):
        rule = Rule()
        listener = Listener(rule, Loud(), Complete(0.99), TurnSettings(), update_s=update_s, fit=FIT)  # type: ignore[arg-type]
        receive(listener, sound(-0.5, first_s - 0.1))
        assert rule.decodes == 0
        assert any(
            isinstance(m, TurnUpdate)
            for m in receive(listener, sound(2.5, first=1 + round(10 * first_s) - 1))
        )


def test_updates_get_rarer_in_a_long_segment() -> None:
    def decodes(seconds: float) -> int:
        rule = Rule()
        receive(listening(rule), sound(-0.5, seconds))
        return rule.decodes

    assert decodes(3.4) - decodes(1.4) >= 3
    assert decodes(12.0) - decodes(8.0) <= 4


def test_what_is_understood_in_a_pause_is_an_update_as_well() -> None:
    """One decode after 1.5 s, one in the pause: they agree. Speech that goes on is not decoded at once."""
    rule = Rule()
    listener = listening(rule)
    receive(listener, sound(-0.5, 1.9))
    assert rule.decodes == 1
    paused = receive(listener, sound(-0.25))
    assert [m.transcript for m in paused if isinstance(m, TurnUpdate)] == [said(14)]
    assert rule.decodes == 2
    receive(listener, sound(0.4, first=20))
    assert rule.decodes == 2
    receive(listener, sound(0.5, first=24))
    assert rule.decodes == 3


@pytest.mark.parametrize(
    ("text", "voiced_s", "certainty", "logprob", "believed"),
    [
        ("Okay, okay, that makes sense.", 1.4, 0.70, -0.8, True),  # a quiet caller
        ("Sure.", 0.4, 0.75, -0.9, True),
        ("I'll be right back.", 0.22, 0.79, -0.53, False),  # jazz: nobody speaks that fast
        ("It's hard to.", 0.29, 0.80, -1.0, False),
        ("You know.", 0.22, 0.86, -1.29, False),
        ("You", 0.5, 0.71, -0.14, False),
        ("♪♪", 0.6, 0.78, -0.5, False),
        ("It's a happy one.", 0.51, 0.832, -1.03, False),
        ("So, for example,", 0.67, 0.737, -0.94, False),
        ("Thank you for watching!", 1.38, 0.656, -0.5, False),
        ("This is the show.", 1.5, 0.785, -0.95, False),
        ("© transcript Emily Beynon", 1.06, 0.683, -0.28, False),  # a flute
        ("12", 0.5, 0.9, -0.3, True),
        ("Mm.", 0.35, 0.816, -0.47, False),
        ("You", 0.51, 0.857, -0.13, False),  # an organ
        ("So", 0.51, 0.9, -0.13, True),
        ("Oh.", 0.29, 0.80, -0.85, False),  # a hold music
        ("Hi.", 0.26, 0.834, -0.31, True),  # over the telephone
        ("regular chroma", 1.5, 0.83, -1.05, True),  # the same, at -50 dB
        ("In being comparatively modern.", 1.5, 0.95, -1.2, True),  # speech in noise
        ("In being comparatively modern.", 1.5, 0.95, -1.7, False),
    ],
)
def test_what_is_believed(
    text: str, voiced_s: float, certainty: float, logprob: float, believed: bool
) -> None:
    class Says(Words):
        def text(self, ids: Sequence[int]) -> str:
            return text

    segment = Segment(0)
    segment.voice(0, int(voiced_s * SAMPLE_RATE), certainty)
    assert segment.believes(Hypothesis((10,), True, logprob), Says()) is believed
    assert LETTERS_PER_S < 30 and HARD == 14 * SAMPLE_RATE


def test_how_sure_a_word_is() -> None:
    assert word_odds(Spelled(), (1, 3, 4, 7), (0.9, 0.8, 0.6, 0.1)) == pytest.approx((0.9, 0.5))
    assert word_odds(Spelled(), (1, 3), (0.9,)) == (), "where it is not known of all"


class Doubtful(Script):
    """As sure of each token as it was told; asked with more than a tenth of a second before the speech, it
    says what is in ``again``."""

    def __init__(self, ids: tuple[int, ...], odds: tuple[float, ...], again: tuple[int, ...] = ()) -> None:
        super().__init__((99.0, ids, 0.995))
        self._odds = odds
        self._again = again
        self.asked = 0

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        self.asked += 1
        found = super().decode(audio, forced, draft, timed=timed)
        silent = int(np.flatnonzero(audio)[0]) / SAMPLE_RATE
        if self._again and silent > 0.2:
            return replace(found, ids=self._again, logprob=-0.2, odds=(0.8,) * len(self._again))
        odds = self._odds[len(forced) :]
        return replace(found, odds=odds, logprob=float(np.log(odds).mean()) if odds else 0.0)


def test_a_word_of_which_the_model_is_not_sure_waits_for_more_agreement() -> None:
    sure, unsure = Doubtful((1, 2, 3, 5), (0.9, 0.9, 0.9, 0.9)), Doubtful((1, 2, 3, 5), (0.9, 0.3, 0.9, 0.9))
    first: dict[str, float] = {}
    for name, script in (("sure", sure), ("unsure", unsure)):
        listener = listening(script)
        for at in range(40):
            for message in receive(listener, sound(0.1, first=1 + at)):
                if isinstance(message, TurnUpdate) and "fellow" in message.transcript:
                    first.setdefault(name, at)
    assert first["sure"] + 10 <= first["unsure"] < 40


def test_what_the_model_is_not_sure_of_is_asked_again_with_more_before_the_speech() -> None:
    script = Doubtful((1, 2, 9), (0.5, 0.5, 0.5), again=(1, 2, 3))
    assert check(receive(listening(script), sound(-1.0, 1.0, -7.0))) == ["my fellow America"]
    known = Doubtful((1, 2, 9), (0.9, 0.9, 0.9), again=(1, 2, 3))
    assert check(receive(listening(known), sound(-1.0, 1.0, -7.0))) == ["my fellow Paris"]
    assert known.asked == 1


class Forgetful(Script):
    """Understands the first words of so many seconds of audio, and later not, unless they are forced."""

    def __init__(self, understood: float) -> None:
        super().__init__()
        self.understood = understood

    def decode(
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        self.forced.append(tuple(forced))
        ids: tuple[int, ...] = (8, 9, 5, 6, 7)
        odds = [0.7] * 5
        if len(audio) < 1.8 * SAMPLE_RATE:
            ids, odds = (1, 2, 7), [self.understood] * 3
        elif forced:
            ids, odds = (*forced, 5, 6, 7), [0.9] * 3
        return Hypothesis(ids, True, float(np.mean(np.log(odds))), 0.5, odds=tuple(odds))


@pytest.mark.parametrize(("understood", "said"), [(0.9, "my fellow ask not."), (0.38, "The Paris ask not.")])
def test_what_is_not_sure_is_asked_again_with_the_beginning_that_was_understood_in_the_pause_before(
    understood: float, said: str
) -> None:
    script = Forgetful(understood)
    messages = receive(listening(script, complete=0.01), sound(-0.5, 1.0, -0.4, 1.0, -6.0), updates=False)
    assert check(messages) == [said]
    assert (1, 2) in script.forced
    end = next(message for message in messages if isinstance(message, TurnEnd))
    assert len(end.extra["confidence"]) == 4  # type: ignore[arg-type]
