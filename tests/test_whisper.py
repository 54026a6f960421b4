"""Whisper as the engine: where models are found, what is said when they are not, and its words."""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr

from rtcstt.embedded.batch import timed_words
from rtcstt.embedded.engines import fetching, models, whisper
from rtcstt.embedded.hypothesis import Spoken
from rtcstt.embedded.recognizer import Recognizer, load_engine
from rtcstt.embedded.service import check_language
from rtcstt.errors import CallerError, EngineError
from rtcstt.wire import Transcript, TurnEnd, TurnUpdate

pytestmark = pytest.mark.real

RATE = 16000
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, and packages can be put beside it."""
    monkeypatch.setenv("RTCSTT_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"no model")
    return folder


def test_a_folder_with_a_model_is_recognised_with_and_without_prefix(own: Path) -> None:
    folder = model_in(own / "mine")
    assert whisper.locate(str(folder)) == whisper.locate(f"whisper:{folder}") == folder
    assert whisper.locate(str(own)) is None
    assert whisper.locate("tiny-en") is None


def test_a_model_is_found_in_an_installed_package_without_importing_it(own: Path) -> None:
    (own / "carries_a_model").mkdir()
    (own / "carries_a_model" / "__init__.py").write_text("raise AssertionError('imported')")
    folder = model_in(own / "carries_a_model" / "data" / "inner")
    assert whisper.locate("whisper:carries-a-model") == folder


def test_a_missing_model_names_the_command_that_brings_it(own: Path) -> None:
    with pytest.raises(EngineError, match="rtcstt models fetch whisper-base"):
        whisper.locate("whisper-base")


def test_without_the_extra_the_command_that_installs_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faster_whisper":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.delitem(sys.modules, "faster_whisper", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EngineError, match=r"pip install 'rtcstt\[whisper\]'"):
        load_engine(str(model_in(own / "mine")))


def test_the_hub_is_asked_last_and_its_failure_is_explained(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def download_model(name: str, *, local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        if name == "kept":
            return str(own / "kept")
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(download_model=download_model))
    assert whisper.locate("whisper:kept") == own / "kept"
    with pytest.raises(EngineError, match=r"OSError.*hf download some/model --local-dir"):
        whisper.locate("whisper:some/model")
    with pytest.raises(EngineError, match="rtcstt models fetch whisper-base"):
        whisper.locate("whisper:base")
    assert asked[:3] == [("kept", True), ("some/model", True), ("some/model", False)]


def test_words_are_what_stands_between_spaces() -> None:
    parts = [
        (" an", 0.0, 0.1),
        (" ill", 0.1, 0.3),
        ("-disposed", 0.3, 0.8),
        (" man", 0.9, 1.0),
        (".", 1.0, 1.0),
    ]
    words = [SimpleNamespace(word=word, start=start, end=end) for word, start, end in parts]
    assert [(w.word, w.start, w.end) for w in whisper._spoken(words)] == [
        ("an", 0, 1600),
        ("ill-disposed", 1600, 12800),
        ("man.", 14400, 16000),
    ]


def test_a_word_that_was_stretched_into_a_pause_is_cut_back_to_the_voice() -> None:
    runs = [(8000, 16000), (40000, 48000)]
    spoken = [Spoken("before", 0, 10000), Spoken("after", 10000, 42000)]
    found = timed_words("before after", spoken, 6000, runs, RATE)
    assert [(word.start, word.end) for word in found] == [(1.5, 2.0), (3.5, 4.0)]
    assert [word.word for word in timed_words("other words here", spoken, 6000, runs, 0)] == [
        "other",
        "words",
        "here",
    ]


@pytest.mark.parametrize(("asked", "taken"), [("fr", "fr"), ("FR-ca", "fr"), ("", None), (None, None)])
def test_languages_are_those_of_the_model(asked: str | None, taken: str | None) -> None:
    assert check_language(asked, ("en", "fr")) == taken
    with pytest.raises(CallerError, match="understands en, fr only"):
        check_language("xx", ("en", "fr"))
    with pytest.raises(CallerError, match="English"):
        check_language("fr", ("en",))


# The real thing


def the(model: str) -> str:
    if importlib.util.find_spec("faster_whisper") is None:
        pytest.skip("faster-whisper is not installed (the extra whisper)")
    if models.find(model) is None:
        try:
            fetching.fetch([model])
        except EngineError as error:
            pytest.skip(str(error))
    return model


def recording(name: str) -> np.ndarray:
    soundfile = pytest.importorskip("soundfile")
    if not DATA.is_dir():
        pytest.skip("the reference recordings are not beside this checkout")
    samples, rate = soundfile.read(DATA / name, dtype="float32")
    return samples if rate == RATE else np.asarray(soxr.resample(samples, rate, RATE), np.float32)


@pytest.mark.heavy
def test_a_file_that_is_no_model_is_refused(own: Path) -> None:
    pytest.importorskip("faster_whisper")
    with pytest.raises(EngineError, match="cannot be loaded as a Whisper model"):
        load_engine(str(model_in(own / "mine")))


def test_what_follows_a_pause_is_kept_and_what_silence_sounds_like_is_not() -> None:
    """Segments as tiny.en gives them of recordings."""

    def segment(start: float, text: str, logprob: float, no_speech: float) -> SimpleNamespace:
        return SimpleNamespace(start=start, text=text, avg_logprob=logprob, no_speech_prob=no_speech)

    passport = segment(0.0, " My voice is my passport. Verify me.", -0.25, 0.01)
    bridge = segment(4.12, " How old is the Brooklyn Bridge?", -0.09, 0.04)
    thanks = segment(5.92, " Thank you.", -1.1, 0.45)
    assert whisper._said([passport, bridge, thanks], 6.05) == [passport, bridge]
    assert whisper._said([passport, segment(2.84, " Okay.", -0.5, 0.1)], 2.9) == [passport], "no room for it"
    assert whisper._said([], 1.0) == []


@pytest.mark.heavy
def test_speech_behind_a_pause_is_not_lost() -> None:
    engine = load_engine(the("whisper-tiny.en"))
    assert isinstance(engine, whisper.Whisper)
    first, second = recording("LJ001-0002.wav"), recording("passport_01.wav")
    audio = np.concatenate((first, np.zeros(int(1.4 * RATE), np.float32), second))
    found = engine.stream("en").decode(audio)
    text = engine.tokens.text(found.ids).lower()
    assert "comparatively modern" in text and "verify me" in text, text
    assert " ".join(word.word for word in found.words).lower() == text


@pytest.mark.heavy
async def test_a_recording_with_the_times_of_its_words() -> None:
    recognizer = Recognizer.load(the("whisper-tiny.en"))
    try:
        batch = await recognizer.transcribe(recording("jfk.wav"), words=True)
    finally:
        await recognizer.close()
    assert "ask not what your country can do for you" in batch.text
    assert " ".join(word.word for word in batch.words) == batch.text
    assert all(word.start <= word.end for word in batch.words)
    asked = [word for word in batch.words if word.word.lower().strip(",") == "ask"]
    assert [round(word.start) for word in asked] == [3, 8]
    assert all(word.end - word.start < 0.8 for word in asked), "the pause before it is no part of a word"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("language", "file", "words"),
    [
        ("fr", "fleurs_fr_000378.wav", {"soleil", "partie"}),
        ("de", "fleurs_de_000675.wav", {"einreise", "auto"}),
    ],
)
async def test_other_languages_batch_manual_and_turns(language: str, file: str, words: set[str]) -> None:
    samples = recording(file)
    recognizer = Recognizer.load(the("whisper-base"))

    async def through(stream: Any) -> list[Any]:
        for start in range(0, len(samples), RATE // 10):
            await stream.feed(samples[start : start + RATE // 10])
        await stream.finish()
        return [message async for message in stream]

    try:
        batch = await recognizer.transcribe(samples)
        manual, turns = await asyncio.gather(
            through(recognizer.manual(language=language)), through(recognizer.turns())
        )
    finally:
        await recognizer.close()
    assert batch.language == language
    finals = [message for message in manual if isinstance(message, Transcript) and message.is_final]
    ends = "".join(message.transcript for message in turns if isinstance(message, TurnEnd))
    for text in (batch.text, "".join(final.text for final in finals), ends):
        assert words <= set(text.lower().replace(",", "").split()), text
    assert {final.language for final in finals} == {language}
    columns: list[Any] = [column for final in finals for column in final.words or ()]
    assert sum(len(column["words"]) for column in columns) == sum(len(final.text.split()) for final in finals)
    shown = ""
    for message in turns:
        if isinstance(message, (TurnUpdate, TurnEnd)):
            assert message.transcript.startswith(shown)
            shown = "" if isinstance(message, TurnEnd) else message.transcript
