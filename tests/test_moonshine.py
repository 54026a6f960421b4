"""The recogniser's model, with the speech that ships with it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded import dictated
from rtcstt.embedded.engines import models
from rtcstt.embedded.engines.moonshine import TOKENS_PER_S, Moonshine, loop_start
from rtcstt.embedded.hypothesis import Audio, Terms
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["tiny-en", pytest.param("base-en", marks=pytest.mark.heavy)])
def engine(request: pytest.FixtureRequest) -> Moonshine:
    try:
        return Moonshine(models.require(request.param))
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def voice() -> Audio:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32", frames=48000 * 8)
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha() or c == " ")


def test_it_knows_the_words(engine: Moonshine, voice: Audio) -> None:
    found = engine.decode(voice)
    text = engine.tokens.text(found.ids)
    assert plain(text).startswith("it was the best of times it was the worst of times")
    assert found.finished and -0.5 < found.logprob <= 0


def test_what_was_published_stays(engine: Moonshine, voice: Audio) -> None:
    whole = engine.decode(voice).ids
    assert engine.decode(voice, whole[:6]).ids[:6] == whole[:6]
    other = engine.decode(voice[: 4 * SAMPLE_RATE]).ids[:5]
    assert engine.decode(voice, other).ids[: len(other)] == other


def test_many_threads_may_ask_at_once(engine: Moonshine, voice: Audio) -> None:
    parts = [voice[: seconds * SAMPLE_RATE] for seconds in (2, 3, 4, 2, 3, 4)]
    alone = [engine.decode(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.decode, parts))
    assert [found.ids for found in together] == [found.ids for found in alone]


@pytest.mark.parametrize("length", [0, 1, 159, 1600])
def test_hardly_any_audio_is_no_failure(engine: Moonshine, length: int) -> None:
    found = engine.decode(np.zeros(length, np.float32))
    assert len(found.ids) <= (length / SAMPLE_RATE + 0.5) * TOKENS_PER_S + 1


@pytest.mark.parametrize("kind", ["noise", "loud", "nan"])
def test_what_is_no_speech_ends(engine: Moonshine, kind: str) -> None:
    """Never more tokens than anybody could say in that time."""
    audio = np.random.default_rng(1).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
    audio = {"noise": audio, "loud": audio * 1e6, "nan": audio * np.float32("nan")}[kind]
    with np.errstate(all="ignore"):
        found = engine.decode(audio)
    assert len(found.ids) <= 3.5 * TOKENS_PER_S + 1


def test_no_memory_pattern_is_kept_for_each_length_of_audio(engine: Moonshine) -> None:
    """What `benchmarks.soak` sees within half an hour."""
    for session in (engine._encoder, engine._decoder):
        assert not session.get_session_options().enable_mem_pattern


def test_every_token_has_text_and_some_begin_words(engine: Moonshine) -> None:
    tokens = engine.tokens
    assert tokens.text([]) == ""
    starts = [token for token in range(3, 5000) if tokens.starts_word(token)]
    assert len(starts) > 1000
    assert all(tokens.is_punctuation(token) for token in tokens.stops()[1:])


@pytest.mark.parametrize("missing", ["encoder_model", "decoder_model_merged", "tokenizer"])
def test_a_folder_without_one_of_its_files_is_named(tmp_path: Path, missing: str) -> None:
    try:
        source = models.require("tiny-en")
    except EngineError as error:
        pytest.skip(str(error))
    for file in models.MODELS["tiny-en"].files:
        if not file.name.startswith(missing):
            (tmp_path / file.name).symlink_to(source / file.name)
    with pytest.raises(EngineError, match=missing):
        Moonshine(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(4096)])
def test_a_file_that_is_no_model_is_an_engine_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "encoder_model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="encoder_model.onnx cannot be loaded"):
        Moonshine(tmp_path)


@given(
    st.lists(st.integers(3, 9), max_size=12), st.lists(st.integers(3, 9), min_size=1, max_size=5), st.data()
)
def test_a_loop_is_cut_to_one_copy(before: list[int], loop: list[int], data: st.DataObject) -> None:
    copies = data.draw(st.integers(max(4, -(-16 // len(loop))), 30))
    ids = [*(100 + token for token in before), *loop * copies]
    cut = loop_start(ids)
    assert cut is not None and len(before) < cut < len(ids)
    size = len(ids) - cut  # what is cut off repeats what stays
    assert all(ids[index] in loop for index in range(len(ids) - size - 1, len(ids)))


@pytest.mark.parametrize("ids", [[], [5], [5, 5, 5], [7, 8] * 3, [48, 45, 48, 45, 48], list(range(3, 60))])
def test_what_somebody_may_well_say_is_no_loop(ids: list[int]) -> None:
    assert loop_start(ids) is None


def test_a_draft_changes_nothing_but_the_cost(engine: Moonshine, voice: Audio) -> None:
    """Right, wrong from the middle on, too long, or of other audio: the words stay the same."""
    whole = engine.decode(voice)
    other = engine.decode(voice[3 * SAMPLE_RATE :]).ids
    for draft in (whole.ids, whole.ids[:7], (*whole.ids[:7], *other), (*whole.ids, *other), other):
        assert plain(engine.tokens.text(engine.decode(voice, (), draft).ids)) == plain(
            engine.tokens.text(whole.ids)
        )
    forced = whole.ids[:6]
    assert engine.decode(voice, forced, whole.ids).ids[:6] == forced
    assert engine.decode(voice, forced, other).ids[:6] == forced, "a draft that does not begin so is not used"


def test_how_sure_each_token_is(engine: Moonshine, voice: Audio) -> None:
    found = engine.decode(voice)
    assert len(found.odds) == len(found.ids) and all(0 < odds <= 1 for odds in found.odds)
    assert len(engine.decode(voice, found.ids[:5]).odds) == len(found.ids) - 5


def test_a_term_that_is_expected_is_found(engine: Moonshine) -> None:
    """A name that the model spells its own way without being told."""
    voice = spoken("My name is Moritz Zwirner.")
    without = engine.tokens.text(engine.stream().decode(voice).ids)
    with_terms = engine.tokens.text(engine.stream(keyterms=Terms(("Moritz", "Zwirner"))).decode(voice).ids)
    assert "Moritz" not in without and "Moritz" in with_terms, (without, with_terms)


@pytest.mark.parametrize("pace", [1.0, 0.67])
def test_no_number_is_lost_however_fast_it_is_dictated(engine: Moonshine, pace: float) -> None:
    """Moonshine writes two tokens for each ", one"."""
    numbers = (
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    )
    found = engine.decode(
        spoken(f"{', '.join(numbers.split())}, seventeen, eighteen, nineteen, twenty.", pace)
    )
    text = engine.tokens.text(found.ids).lower()
    assert found.finished and ("twenty" in text or "20" in text), text


def test_a_repeated_digit_is_not_left_out(engine: Moonshine) -> None:
    """Of four ones tiny-en writes three."""
    numbers = "four, two, four, two, four, two, four, two, one, one, one, one, nine, eight, seven, six"
    voice = spoken(f"the card number is {numbers}.", 0.85)
    stream = engine.stream()
    found = dictated.completed(stream.decode(voice), stream, voice)
    digits = [unit.value for unit in dictated.units(stream.tokens, found.ids) if unit.number]
    assert digits == numbers.split(", ")


def test_a_thorough_decode_finds_what_is_likelier_as_a_whole(engine: Moonshine, voice: Audio) -> None:
    for begin in range(0, 5 * SAMPLE_RATE, SAMPLE_RATE):
        audio = voice[begin : begin + 3 * SAMPLE_RATE]
        one, other = engine.decode(audio), engine.decode(audio, thorough=True)
        sums = [found.logprob * (len(found.odds) + 1) for found in (one, other)]
        assert other.finished and sums[1] >= sums[0] - 1e-3, (begin, sums)
        assert len(other.odds) == len(other.ids)
        again = engine.decode(audio, other.ids[:3], thorough=True)
        assert again.ids[:3] == other.ids[:3] and len(again.odds) == len(again.ids) - 3


def spoken(text: str, pace: float = 1.0) -> Audio:
    """By flite; ``pace`` below 1 is faster."""
    if shutil.which("flite") is None:
        pytest.skip("needs flite")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spoken.wav"
        options = ["-voice", "rms", "--setf", f"duration_stretch={pace}", "-t", text, "-o", str(file)]
        subprocess.run(["flite", *options], check=True)
        samples, rate = soundfile.read(file, dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)
