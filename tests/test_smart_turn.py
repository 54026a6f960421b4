"""The judge of finished sentences: its features against their definition, its answers to real speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.engines import models
from rtcstt.embedded.engines.smart_turn import _FILTERS, WINDOW, SmartTurn, log_mel
from rtcstt.embedded.hypothesis import Audio
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def judge() -> SmartTurn:
    folder = models.find("smart-turn")
    if folder is None:
        pytest.skip("the model smart-turn is missing (rtcstt models fetch smart-turn)")
    return SmartTurn(folder)


@pytest.fixture(scope="module")
def voice() -> Audio:
    """It was the best of times, it was the worst of times, ..."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)


def tone(hertz: float) -> Audio:
    return np.sin(2 * np.pi * hertz * np.arange(WINDOW) / SAMPLE_RATE).astype(np.float32)


def test_a_tone_is_in_the_band_of_its_pitch() -> None:
    for hertz in (200, 500, 1000, 3000, 7000):
        loudest = log_mel(tone(hertz))[:, 400].argmax()
        expected = _FILTERS[round(hertz / (SAMPLE_RATE / 400))].argmax()
        assert abs(int(loudest) - int(expected)) <= 1, hertz


def test_the_filters_have_equal_areas_and_leave_no_gap() -> None:
    assert _FILTERS.shape == (201, 80) and (_FILTERS >= 0).all()
    assert (_FILTERS.sum(axis=0) > 0).all(), "no band is deaf"
    wide = _FILTERS[:, 40:].sum(axis=0) * SAMPLE_RATE / 400  # narrow ones are sampled too coarsely
    assert np.allclose(wide, 1.0, atol=0.15)


def test_features_do_not_depend_on_loudness_or_offset() -> None:
    wave = np.random.default_rng(4).normal(0, 0.1, WINDOW).astype(np.float32)
    assert np.allclose(log_mel(wave), log_mel(wave * 3 + 0.2), atol=0.02)
    assert log_mel(wave).shape == (80, 800) and log_mel(wave).dtype == np.float32


def test_features_span_no_more_than_they_should() -> None:
    """The floor is 8 powers of ten below the loudest."""
    for wave in (tone(440), np.zeros(WINDOW, np.float32)):
        features = log_mel(wave)
        assert np.isfinite(features).all()
        assert features.max() - features.min() <= 2.0 + 1e-5


@pytest.mark.parametrize("length", [0, 1, 400, WINDOW, 3 * WINDOW])
def test_any_length_has_an_answer(judge: SmartTurn, length: int) -> None:
    assert 0.0 <= judge.complete(np.zeros(length, np.float32)) <= 1.0


def test_only_the_last_eight_seconds_count(judge: SmartTurn, voice: Audio) -> None:
    end = voice[4 * SAMPLE_RATE : 4 * SAMPLE_RATE + WINDOW]
    assert judge.complete(np.concatenate([voice[:20000], end])) == judge.complete(end)


def test_a_finished_recording_is_likelier_finished_than_one_cut_in_mid_word(
    judge: SmartTurn, voice: Audio
) -> None:
    """Asked as the listener asks: 0.1 s after the last speech."""
    after = np.zeros(SAMPLE_RATE // 10, np.float32)
    loud = np.flatnonzero(np.abs(voice) > 0.05 * np.abs(voice).max())
    finished = judge.complete(np.concatenate([voice[: loud[-1]], after]))
    cut = [
        judge.complete(np.concatenate([voice[: int(at_s * SAMPLE_RATE)], after]))
        for at_s in np.linspace(2.0, 12.0, 8)
    ]
    assert finished > 0.5 and np.median(cut) < 0.5, (finished, cut)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "smart-turn-v3.2-cpu.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="cannot be loaded"):
        SmartTurn(tmp_path)
