"""The gain before the voice detector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.embedded.hypothesis import FRAME, Audio
from rtcstt.embedded.levelling import (
    FOUND_FRAMES,
    MOST_DB,
    RAISED_BELOW_DB,
    START_DB,
    TARGET_DB,
    Leveller,
    Search,
    raised,
    voice_level_db,
)


def frame(level_db: float) -> Audio:
    return np.full(FRAME, 10 ** (level_db / 20), np.float32)


def after(leveller: Leveller, level_db: float, seconds: float, voice: float = 0.95) -> float:
    for _ in range(round(seconds / 0.032)):
        leveller.note(frame(level_db), voice)
    return leveller.gain_db


@pytest.mark.parametrize("level_db", [-50, -40, -30])
def test_a_quiet_voice_is_brought_to_the_usual_level(level_db: float) -> None:
    leveller = Leveller()
    assert after(leveller, level_db, 15.0) == pytest.approx(min(TARGET_DB - level_db, MOST_DB), abs=1.0)
    louder = leveller.level(frame(level_db))
    assert 20 * np.log10(louder[0]) == pytest.approx(TARGET_DB, abs=1.0)


def test_a_loud_voice_after_a_quiet_one_is_let_through_within_half_a_second() -> None:
    leveller = Leveller()
    after(leveller, -50, 15.0)
    assert after(leveller, -15, 0.5) < 3.0


def test_what_is_no_voice_moves_nothing() -> None:
    leveller = Leveller()
    before = leveller.gain_db
    assert after(leveller, -80, 60.0, voice=0.1) == before
    assert after(leveller, -60, 60.0, voice=0.7) == before, "music is taken for voice now and then"


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-120, 20), st.floats(0, 1)), max_size=200))
def test_the_gain_is_bounded_and_so_is_the_sound(received: list[tuple[float, float]]) -> None:
    leveller = Leveller()
    for level_db, voice in received:
        leveller.note(frame(level_db), voice)
        assert 0 <= leveller.gain_db <= MOST_DB
    assert np.abs(leveller.level(frame(0))).max() <= 1


def test_no_number_is_no_level() -> None:
    leveller = Leveller()
    before = leveller.gain_db
    leveller.note(np.full(FRAME, np.nan, np.float32), 0.99)
    assert leveller.gain_db == before


def test_a_recordings_level_is_known_from_its_beginning_where_voices_stand_out() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1e-4, 160_000).astype(np.float32)
    assert voice_level_db(noise) == voice_level_db(noise[:100]) == voice_level_db(0 * noise) == START_DB
    speech = noise.copy()
    for start in range(0, 160_000, 32_000):
        speech[start : start + 16_000] += rng.normal(0, 1e-3, 16_000).astype(np.float32)  # -60 dB
    assert voice_level_db(speech) == pytest.approx(-60, abs=1)
    assert voice_level_db(300 * speech) == START_DB


def noise(level_db: float, seconds: float = 1.0) -> Audio:
    samples = np.random.default_rng(2).normal(0, 10 ** (level_db / 20), round(16_000 * seconds))
    return samples.astype(np.float32)


@pytest.mark.parametrize("level_db", [0.0, -20.0, -40.0, RAISED_BELOW_DB + 1])
def test_the_decoder_gets_a_usual_level_as_it_is(level_db: float) -> None:
    samples = noise(level_db)
    assert raised(samples) is samples


@pytest.mark.parametrize("level_db", [RAISED_BELOW_DB - 1, -60.0, -75.0, -81.0])
def test_the_decoder_gets_a_quiet_stretch_with_one_gain(level_db: float) -> None:
    samples = noise(level_db)
    louder = raised(samples)
    gain = 2.0 ** np.round(np.log2(np.std(louder) / np.std(samples)))
    assert TARGET_DB - 7 < 20 * np.log10(np.std(louder)) < TARGET_DB + 1
    assert np.abs(louder - gain * samples).max() <= gain * 0.5 / 32768 * 1.001
    assert np.array_equal(louder, raised(samples)), "the same audio is always decoded alike"


def test_what_is_raised_stays_within_full_scale_and_short_or_silent_audio_is_left() -> None:
    samples = noise(-70)
    samples[8000] = 0.5  # a click
    assert np.abs(raised(samples)).max() <= 1
    assert len(raised(samples[:100])) == 100 and len(raised(samples[:0])) == 0


def searched(usual: float, quiet: float | None, frames: int = FOUND_FRAMES) -> Search:
    search = Search()
    for _ in range(frames):
        search.note(usual, quiet)
    return search


def test_a_very_quiet_voice_is_looked_for_until_one_is_known() -> None:
    assert searched(0.1, 0.95).found and searched(0.1, 0.95).over
    assert not searched(0.1, 0.95, FOUND_FRAMES - 1).over
    assert not searched(0.1, 0.6, 500).over, "music"
    assert not searched(0.1, None, 500).over
    loud = searched(0.95, None)
    assert loud.over and not loud.found, "a voice of the usual level needs no other gain"
    assert searched(0.95, 0.95).found, "one that is so quiet does, also where the usual gain was enough"


@pytest.mark.parametrize("level_db", [-92, -81, -60, -46, -44, -20])
def test_it_is_looked_for_where_it_can_be(level_db: float) -> None:
    assert Search().looks_at(frame(level_db)) == (level_db < -45)
    assert not Search().looks_at(np.full(FRAME, np.nan, np.float32))


def test_it_is_not_looked_for_in_lasting_silence() -> None:
    search = Search()
    assert not search.looks_at(frame(-100)), "as long as nothing has come"
    assert search.looks_at(frame(-70))
    looked = [search.looks_at(frame(-100)) for _ in range(100)]
    assert looked[0] and not looked[-1], "weak sounds between others are rounded to zeros"
    assert search.looks_at(frame(-70))
