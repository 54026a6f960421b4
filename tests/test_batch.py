"""Recordings cut into pieces, with the rule for a recogniser that the listener's tests have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_listener import Loud, Rule, said, sound

from rtcstt.embedded.batch import LONGEST, BatchListener, Word, spread, timed_words
from rtcstt.embedded.hypothesis import Audio, Hypothesis, Spoken
from rtcstt.media.pcm import SAMPLE_RATE


def listener(rule: Rule | None = None) -> BatchListener:
    return BatchListener(rule or Rule(), Loud())  # type: ignore[arg-type]


def words_of(listening: BatchListener, audio: Audio, step: int = 4000) -> list[Word]:
    words = [
        word
        for start in range(0, len(audio), step)
        for word in listening.receive(audio[start : start + step])
    ]
    return words + list(listening.finish())


def text(words: list[Word]) -> str:
    return " ".join(word.word for word in words)


def check_times(words: list[Word], length: int) -> None:
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and all(0 <= time <= length / SAMPLE_RATE for time in times)
    assert all(word.start < word.end for word in words)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 30000), min_size=1, max_size=4))
def test_the_blocks_it_comes_in_change_nothing(sizes: list[int]) -> None:
    audio = np.concatenate([sound(2.0), sound(-2.0), sound(3.0, first=21), sound(-0.5)])
    listening, begin, number, words = listener(), 0, 0, list[Word]()
    while begin < len(audio):
        size = sizes[number % len(sizes)]
        words += listening.receive(audio[begin : begin + size])
        begin, number = begin + size, number + 1
        if number > 400:
            words += listening.receive(audio[begin:])
            break
    words += listening.finish()
    assert words == words_of(listener(), audio)
    assert text(words) == said(50)


def test_words_are_where_the_voice_is() -> None:
    audio = np.concatenate([sound(-1.0), sound(2.0), sound(-3.0), sound(2.0, first=21), sound(-1.0)])
    words = words_of(listener(), audio)
    assert text(words) == said(40)
    check_times(words, len(audio))
    assert words[0].start == pytest.approx(1.0, abs=0.1) and words[19].end == pytest.approx(3.0, abs=0.1)
    assert words[20].start == pytest.approx(6.0, abs=0.1) and words[-1].end == pytest.approx(8.0, abs=0.1)


def test_long_speech_is_cut_at_its_pauses_and_no_piece_is_long() -> None:
    rule = Rule()
    parts = [part for _ in range(12) for part in (4.0, -0.4)]
    audio = sound(*parts)
    words = words_of(listener(rule), audio)
    assert text(words) == said(480)
    assert rule.longest <= LONGEST + SAMPLE_RATE
    check_times(words, len(audio))


def test_speech_without_a_pause_is_cut_all_the_same() -> None:
    rule = Rule()
    words = words_of(listener(rule), sound(40.0))
    assert rule.longest <= LONGEST + SAMPLE_RATE
    # where it is cut in mid-word, that word may come twice or be misheard; nothing else is lost
    assert len({word.word for word in words} & set(said(400).split())) >= 396


def test_an_hour_of_silence_is_not_decoded_and_not_kept() -> None:
    rule, minute = Rule(), np.zeros(60 * SAMPLE_RATE, np.float32)
    listening = listener(rule)
    for _ in range(60):
        assert not list(listening.receive(minute))
        assert len(listening._audio) < SAMPLE_RATE
    assert not list(listening.finish()) and rule.decodes == 0
    assert listening.received == 3600 * SAMPLE_RATE


def test_what_is_hardly_voice_is_not_decoded() -> None:
    rule = Rule()
    click = np.full(1024, 0.0001, np.float32)
    audio = np.concatenate([sound(-1.0), click, sound(-2.0)])
    assert not words_of(listener(rule), audio) and rule.decodes == 0


@pytest.mark.parametrize("length", [0, 1, 100, 511])
def test_a_recording_shorter_than_a_frame_has_no_words(length: int) -> None:
    listening = listener()
    assert not words_of(listening, np.full(length, 0.001, np.float32)) and listening.received == length


RUNS = st.lists(st.tuples(st.integers(1, 40_000), st.integers(1, 40_000)), min_size=1, max_size=6)


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=12), max_size=20), RUNS, st.integers(0, 10**9))
def test_spread_words_keep_their_order_and_stay_within_the_voice(
    names: list[str], gaps: list[tuple[int, int]], start: int
) -> None:
    runs, at = [], 0
    for silence, voice in gaps:
        runs.append((at + silence, at + silence + voice))
        at = runs[-1][1]
    words = spread(names, runs, start)
    assert [word.word for word in words] == names
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    voiced = [((start + begin) / SAMPLE_RATE, (start + end) / SAMPLE_RATE) for begin, end in runs]
    for word in words:  # in one stretch, to the millisecond
        assert any(begin - 0.001 <= word.start <= word.end <= end + 0.001 for begin, end in voiced), word


def test_a_decode_that_was_cut_is_decoded_again_in_parts() -> None:
    class Cut(Rule):
        """Does not come to an end with more than two seconds."""

        def decode(self, audio: Audio, *rest: Any, **options: Any) -> Hypothesis:
            found = super().decode(audio, *rest, **options)
            if len(audio) <= 2 * SAMPLE_RATE:
                return found
            return replace(found, ids=found.ids[:5], finished=False)

    rule = Cut()
    audio = sound(1.5, -0.3, 1.5, -1.0)
    words = words_of(listener(rule), audio)
    assert text(words) == said(30) and rule.decodes > 2
    check_times(words, len(audio))


def test_what_is_not_believed_is_no_word() -> None:
    assert not words_of(listener(Rule(logprob=-9.0)), sound(1.0, -1.0))


def test_times_and_confidence_that_the_model_gives_are_kept() -> None:
    spoken = [Spoken("one", 1600, 4800), Spoken("two", 6400, 9000)]
    words = timed_words("one two", spoken, 16000, [(16000, 21000), (22000, 24000)], 32000, [0.9, 0.25])
    assert words == [Word("one", 3.1, 3.3, 0.9), Word("two", 3.4, 3.5, 0.25)], "each within the voice"
