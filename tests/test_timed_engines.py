"""Models by onnx-asr and sherpa-onnx: loaded as users load them, and what is made of what they say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_listener import Complete, Loud, check, receive, sound

from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.engines import models, timed
from rtcstt.embedded.engines.moonshine import Moonshine
from rtcstt.embedded.engines.timed import MOST_WORDS, Said, TimedEngine, Words, spoken_words
from rtcstt.embedded.hypothesis import Audio, Device
from rtcstt.embedded.listener import Listener
from rtcstt.embedded.recognizer import Recognizer, load_engine
from rtcstt.embedded.service import check_language
from rtcstt.errors import CallerError, EngineError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import DEFAULT_TURN, TurnSettings


def words(text: str) -> list[str]:
    return "".join(c for c in text.lower() if c.isalpha() or c == " ").split()


def speech(seconds: int) -> Audio:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32", frames=48000 * seconds)
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)


@pytest.mark.real
async def test_sherpa_onnx_runs_tiny_en_with_the_same_words() -> None:
    pytest.importorskip("sherpa_onnx")
    audio = speech(8)
    ours = Moonshine(models.require("tiny-en"))
    engine = load_engine("sherpa:tiny-en")
    found = engine.stream("en").decode(audio)
    assert words(ours.tokens.text(ours.decode(audio).ids)) == words(text_of(engine, audio))
    assert found.finished and found.words == (), "Moonshine gives sherpa-onnx no times"
    recognizer = Recognizer.load("sherpa:tiny-en")
    try:
        batch = await recognizer.transcribe(audio, words=True)
    finally:
        await recognizer.close()
    assert "best of times" in batch.text.lower() and len(batch.words) == len(batch.text.split())


def text_of(engine: Any, audio: Audio) -> str:
    stream = engine.stream("en")
    return str(stream.tokens.text(stream.decode(audio).ids))


@pytest.mark.real
def test_onnx_asr_loads_a_folder_of_a_ctc_model(tmp_path: Path) -> None:
    """Of the shape of NeMo's Conformer, with weights that say one word wherever it is loud."""
    pytest.importorskip("onnx_asr")
    conformer(tmp_path)
    engine = load_engine(f"onnx-asr:nemo-conformer-ctc@{tmp_path}")
    audio = np.zeros(2 * SAMPLE_RATE, np.float32)
    audio[SAMPLE_RATE:] = np.random.default_rng(0).normal(0, 0.2, SAMPLE_RATE)
    found = engine.stream().decode(audio)
    text = text_of(engine, audio)
    assert text.split() and set(text.split()) <= {"quiet", "loud"}, text
    assert len(found.words) == len(text.split()) and found.logprob <= 0
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)


def conformer(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.zeros((80, 3), np.float32)
    weights[:, 1], weights[:, 2] = 0.05, -0.05
    nodes = [
        helper.make_node("Transpose", ["audio_signal"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["frames", "zero", "far", "one", "eight"], ["states"]),
        helper.make_node("MatMul", ["states", "weights"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["logprobs"], axis=-1),
        helper.make_node("Identity", ["length"], ["unused"]),
    ]
    constants = {"zero": [0], "far": [1 << 40], "one": [1], "eight": [8]}
    initial = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    initial.append(numpy_helper.from_array(weights, "weights"))
    number, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "conformer",
        [
            helper.make_tensor_value_info("audio_signal", number, ["batch", 80, "time"]),
            helper.make_tensor_value_info("length", whole, ["batch"]),
        ],
        [helper.make_tensor_value_info("logprobs", number, ["batch", "states", 3])],
        initial,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "vocab.txt").write_text("\u2581loud 0\n\u2581quiet 1\n<blk> 2\n")


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("sherpa:/no/such/folder", "is no folder"),
        ("onnx-asr:nemo-conformer-ctc@/no/such/folder", "is no folder"),
    ],
)
def test_what_is_wrong_is_named(model: str, problem: str) -> None:
    pytest.importorskip("sherpa_onnx")
    pytest.importorskip("onnx_asr")
    with pytest.raises(EngineError, match=problem):
        load_engine(model)


def test_a_folder_that_is_no_model_is_an_engine_error(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx")
    with pytest.raises(EngineError, match="neither a transducer"):
        load_engine(f"sherpa:{tmp_path}")


@pytest.mark.parametrize(
    ("model", "extra"), [("sherpa:tiny-en", "sherpa"), ("onnx-asr:nemo-parakeet", "onnx-asr")]
)
def test_without_the_extra_the_command_that_installs_it(
    model: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(timed.importlib, "import_module", missing)
    with pytest.raises(EngineError, match=rf"pip install 'rtcstt\[{extra}\]'"):
        load_engine(model)


@pytest.mark.parametrize("model", ["sherpa:tiny-en", "onnx-asr:nemo-conformer-ctc@."])
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(model: str) -> None:
    pytest.importorskip("sherpa_onnx")
    pytest.importorskip("onnx_asr")
    with pytest.raises(EngineError, match="cannot use cuda"):
        load_engine(model, device=Device("cuda"))


def test_words_are_where_their_first_tokens_are() -> None:
    said = Said("How old is", (" How", " o", "ld", " is"), (0.1, 0.4, 0.5, 0.9))
    found = spoken_words(said, ["How", "old", "is"], SAMPLE_RATE)
    assert [(each.word, each.start) for each in found] == [("How", 1600), ("old", 6400), ("is", 14400)]
    assert found[-1].end == SAMPLE_RATE
    assert spoken_words(said, ["How", "old"], SAMPLE_RATE) == (), "where it does not fit together"
    assert spoken_words(Said("How"), ["How"], SAMPLE_RATE) == (), "and where there are none"
    assert spoken_words(Said(""), [], SAMPLE_RATE) == (), "nothing was said"


def test_a_streams_words_have_numbers_and_the_oldest_are_forgotten() -> None:
    known = Words()
    ids = known.numbers(["How", "old", "is", "How"])
    assert ids[0] == ids[3] and known.text(ids) == "How old is How"
    for number in range(3 * MOST_WORDS):
        last = known.numbers([f"word{number}"])
        assert known.text(last) == f"word{number}"
    assert len(known._words) == len(known._numbers) == MOST_WORDS
    assert known.is_punctuation(known.numbers(["..."])[0]) and not known.is_punctuation(last[0])


def test_what_is_said_of_itself() -> None:
    engine = TimedEngine(
        "parakeet", "onnx-asr", ("en",), lambda audio, language: Said("Hi there.", logprobs=(-0.2, -0.4))
    )
    found = engine.stream().decode(np.zeros(160, np.float32))
    assert found.logprob == pytest.approx(-0.3) and found.stop is None and found.language == "en"
    assert "parakeet on onnx-asr" in engine.describe() and not engine.live


def test_the_languages_that_a_call_may_ask_for() -> None:
    whisper = SimpleNamespace(
        _tokens={"<|endoftext|>": 0, "<|de|>": 1, "<|en|>": 2, "<|haw|>": 3, "<|pnc|>": 4}
    )
    assert timed.choosable(whisper) == ("en", "de", "haw")
    assert timed.choosable(SimpleNamespace()) == ()
    assert timed.spoken_by("nemo-parakeet-tdt-0.6b-v2") == ("en",)
    assert timed.spoken_by("gigaam-v3-e2e-rnnt") == timed.spoken_by("vosk-model-small-ru") == ("ru",)
    assert len(timed.spoken_by("nemo-parakeet-tdt-0.6b-v3")) == 25
    with pytest.raises(CallerError, match="understands ru only"):
        check_language("en", timed.spoken_by("gigaam-v2-ctc"))


PARTS = st.lists(st.one_of(st.floats(0.2, 5), st.floats(-2.5, -0.05)), min_size=1, max_size=8)


LOUD = 0.1  # above what is raised for the decoder


def written_in(audio: Audio) -> NDArray[np.int64]:
    """The numbers of the words that `sound` writes into samples, on top of `LOUD`; 0 where it is silent."""
    return np.where(audio > LOUD / 2, np.round((audio - LOUD) * 10_000), 0).astype(np.int64)


@given(PARTS, st.floats(0, 1), st.integers(100, 9000))
def test_every_word_comes_once_in_order_however_the_audio_is_cut(
    parts: list[float], complete: float, step: int
) -> None:
    """By an engine that nothing can be forced on."""

    def recognise(audio: Audio, language: str | None) -> Said:
        numbers = written_in(audio)
        each, begins = np.unique(numbers[numbers > 0], return_index=True)
        at = np.flatnonzero(numbers > 0)[begins] / SAMPLE_RATE
        tokens = [f" w{number}" for number in each]
        return Said("".join(tokens).strip(), tokens, at.tolist(), [-0.1] * len(tokens))

    engine = TimedEngine("rule", "test", ("en",), recognise)
    silent_or_not = sound(-0.5, *parts, -0.5)
    audio = np.where(silent_or_not > 0, silent_or_not + LOUD, 0).astype(np.float32)
    settings = TurnSettings(end_timeout_ms=DEFAULT_TURN.end_timeout_ms)
    listening = Listener(engine.stream(), Loud(), Complete(complete), settings, live=engine.live, timed=True)
    messages = [*receive(listening, audio, step=step), *listening.flush()]
    numbers = [int(word[1:]) for word in " ".join(check(messages)).split()]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(np.unique(written_in(audio)).tolist())
