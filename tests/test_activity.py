"""Where somebody speaks, by energy."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.stt.activity import SpeechActivity, has_voice
from rtcstt.testing import noise, silence, speech


def received(samples: np.ndarray, cuts: list[int] | None = None) -> list[tuple[float, float]]:
    activity, start = SpeechActivity(), 0
    for cut in [*(cuts or range(1600, len(samples), 1600)), len(samples)]:
        activity.push(samples[start:cut], start)
        start = cut
    return [(s.start / 16000, s.end / 16000) for s in activity.stretches()]


def test_words_in_silence() -> None:
    audio = np.concatenate([silence(1.0), speech("a b c"), silence(1.0), speech("d"), silence(0.5)])
    assert received(audio) == [pytest.approx((1.0, 1.72), abs=0.02), pytest.approx((2.78, 2.98), abs=0.02)]


@pytest.mark.parametrize("level_db", [-55.0, -40.0, -32.0])
def test_words_in_noise(level_db: float) -> None:
    audio = np.concatenate([silence(3.0), speech("a b c"), silence(1.0), speech("d"), silence(0.5)])
    mixed = np.clip(audio.astype(np.int32) + noise(len(audio) / 16000, level_db=level_db), -32768, 32767)
    found = [s for s in received(mixed.astype(np.int16)) if s[1] > 2.0]
    assert found == [pytest.approx((3.0, 3.72), abs=0.06), pytest.approx((4.78, 4.98), abs=0.06)]


def test_silence_is_quiet_and_an_offset_is_no_sound() -> None:
    assert received(silence(5.0)) == []
    assert received(silence(5.0) + np.int16(500)) == []


@settings(max_examples=30)
@given(st.sets(st.integers(1, 40_000), max_size=20))
def test_any_cutting_gives_the_same(cuts: set[int]) -> None:
    audio = np.concatenate([silence(0.5), speech("a b"), silence(0.6), speech("c d e"), silence(0.3)])
    inside = sorted(cut for cut in cuts if cut < len(audio))
    found, whole = received(audio, inside or [len(audio) // 2]), received(audio)
    assert len(found) == len(whole)
    for a, b in zip(found, whole, strict=True):
        assert a == pytest.approx(b, abs=0.03)


def test_a_jump_is_silence() -> None:
    activity = SpeechActivity()
    activity.push(speech("a"), 0)
    activity.push(silence(0.5), 80_000)
    assert [s.open for s in activity.stretches()] == [False]
    assert activity.quiet(8_000, 88_000) and not activity.quiet(8_000, 88_001)
    assert activity.speech(0, 1_600) == 1_600


def test_against_known_word_times(shared_data: Path) -> None:
    entries = json.loads((shared_data / "manifest.json").read_text())
    (entry,) = (e for e in entries if e["file"] == "spm_audio_08_words.wav")
    with wave.open(str(shared_data / entry["file"])) as file:
        found = received(np.frombuffer(file.readframes(10**9), np.int16))
    assert len(found) == len(entry["segments"])
    for (start, end), word in zip(found, entry["segments"], strict=True):
        assert start == pytest.approx(word["start"], abs=0.1)
        assert end == pytest.approx(word["end"], abs=0.1)


def test_asking_often_changes_nothing() -> None:
    """Audio is looked at when somebody asks, at the latest after a second."""
    audio = np.concatenate([silence(0.5), speech("a b c"), silence(0.7), speech("d e"), silence(0.5)])
    asked, left_alone = SpeechActivity(), SpeechActivity()
    for start in range(0, len(audio), 320):
        for activity in (asked, left_alone):
            activity.push(audio[start : start + 320], start)
        assert asked.position == start + 320
    assert list(asked.stretches()) == list(left_alone.stretches())
    assert asked.last_speech(len(audio)) == left_alone.last_speech(len(audio)) > 0


def tone(hertz: float, duration_s: float) -> np.ndarray:
    return (3000 * np.sin(np.arange(round(16000 * duration_s)) * 2 * np.pi * hertz / 16000)).astype(np.int16)


def click() -> np.ndarray:
    samples = silence(0.3).copy()
    samples[2000:2040] = 12000
    return samples


@pytest.mark.parametrize(
    ("name", "samples", "voice"),
    [
        ("silence", silence(1.0), False),
        ("an offset", np.full(16000, 900, np.int16), False),
        ("noise", noise(1.0, level_db=-20), False),
        ("a click", click(), False),
        ("too short", tone(120, 0.02), False),
        ("a low voice", tone(80, 0.2), True),
        ("a high voice", tone(350, 0.2), True),
        ("a quiet voice", (tone(150, 0.2) / 100).astype(np.int16), True),
        ("a word", speech("a"), True),
        ("a word in noise", np.concatenate([noise(0.5, level_db=-30), speech("a")]), True),
    ],
)
def test_where_a_voice_may_sound(name: str, samples: np.ndarray, voice: bool) -> None:
    assert has_voice(samples) is voice, name


def test_a_voice_is_found_in_each_word_of_a_recording(shared_data: Path) -> None:
    entries = json.loads((shared_data / "manifest.json").read_text())
    (entry,) = (e for e in entries if e["file"] == "spm_audio_08_words.wav")
    with wave.open(str(shared_data / entry["file"])) as file:
        samples, rate = np.frombuffer(file.readframes(10**9), np.int16), file.getframerate()
    for word in entry["segments"]:
        assert has_voice(samples[round(word["start"] * rate) : round(word["end"] * rate)]), word
