"""Recognisers that take audio as it comes: what a listener makes of them; small models of sherpa-onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_listener import Complete, Loud, check, receive, said, sound

from rtcstt.embedded.batch import BatchListener
from rtcstt.embedded.capacity import LISTENING
from rtcstt.embedded.completeness import Answers, Doubt, Fit, Fluent
from rtcstt.embedded.engines.streaming import StreamingEngine
from rtcstt.embedded.engines.timed import Said
from rtcstt.embedded.hypothesis import Audio
from rtcstt.embedded.listener import Listener
from rtcstt.embedded.recognizer import Recognizer, load_engine
from rtcstt.embedded.segments import HARD_STREAMED
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import DEFAULT_TURN, TurnEnd, TurnSettings, TurnUpdate

PATIENT = Fit(
    {},
    ((0.0, 1.26), (1.0, 1.26)),
    (1.0, 0.0),
    Answers(1.26, 0.0, 0.0),
    Doubt(0.0, 0.0),
    Fluent(1.26, 0.0, 0.0),
)
LAG = int(0.3 * SAMPLE_RATE)  # that the rule is behind


class Rule:
    """A library's stream: as in test_listener, loud audio carries the number of its word as its level. The
    newest word comes out in two halves."""

    def __init__(self, engine: Rules) -> None:
        self._engine = engine
        self._late = np.zeros(0, np.float32)
        self._passed = 0
        self._words: dict[int, tuple[int, int]] = {}  # where each begins, and how much of it has passed

    def accept(self, samples: Audio) -> None:
        self._engine.accepted += int(np.count_nonzero(samples))
        audio = np.concatenate((self._late, samples))
        passed, self._late = np.split(audio, [max(0, len(audio) - LAG)])
        numbers, begins, counts = np.unique(
            np.round(passed * 10_000).astype(int), return_index=True, return_counts=True
        )
        for number, begin, count in zip(numbers.tolist(), begins.tolist(), counts.tolist(), strict=True):
            if number:
                start, known = self._words.get(number, (self._passed + begin, 0))
                self._words[number] = start, known + count
        self._passed += len(passed)

    def said(self) -> Said:
        tokens: list[str] = []
        starts: list[float] = []
        for number, (begin, count) in self._words.items():
            halves = [f" w{number}"[:-1], f"{number}"[-1]][: 2 if count > 700 else 1]
            tokens += halves
            starts += [begin / SAMPLE_RATE] * len(halves)
        return Said("".join(tokens).strip(), tokens, starts, [-0.1] * len(tokens))


class Rules(StreamingEngine):
    """Counts the samples of voice that its streams were given."""

    def __init__(self) -> None:
        super().__init__("rule", "test", ("en",), lambda language: Rule(self), LAG + 160)
        self.accepted = 0


def listener(engine: Rules, complete: float = 0.99, **turn: float) -> Listener:
    settings = TurnSettings(**turn)  # type: ignore[arg-type]
    return Listener(engine.stream(), Loud(), Complete(complete), settings, timed=True, fit=PATIENT)  # type: ignore[arg-type]


PARTS = st.lists(st.one_of(st.floats(0.2, 5), st.floats(-2.5, -0.05)), min_size=1, max_size=8)


@given(PARTS, st.floats(0, 1), st.integers(100, 9000), st.booleans())
@example([20.0, -1.0, 3.0, -0.38, 1.0], 0.99, 1600, True)
def test_every_word_comes_once_in_order_however_the_audio_is_cut(
    parts: list[float], complete: float, step: int, updates: bool
) -> None:
    audio = sound(-0.5, *parts, -0.5)
    listening = listener(Rules(), complete, end_timeout_ms=DEFAULT_TURN.end_timeout_ms or 0)
    messages = receive(listening, audio, step=step, updates=updates)
    messages += listening.flush()
    numbers = [int(word[1:]) for word in " ".join(check(messages)).split()]
    assert numbers == sorted(set(numbers))
    spoken = {int(value) for value in np.unique(np.round(audio[audio > 0] * 10_000))}
    assert set(numbers) <= spoken


@given(st.floats(0.5, 20), st.integers(100, 9000))
def test_clear_speech_is_complete_and_decoded_once(seconds: float, step: int) -> None:
    engine = Rules()
    audio = sound(-0.5, seconds, -3.0)
    messages = receive(listener(engine), audio, step=step)
    assert check(messages) == [said(round(seconds * 10))]
    assert engine.accepted == np.count_nonzero(audio)


def test_text_grows_with_each_update_and_first_text_comes_early() -> None:
    listening = listener(Rules())
    texts = [
        message.transcript
        for message in receive(listening, sound(-0.5, 4.0), step=1600)
        if isinstance(message, TurnUpdate)
    ]
    assert len(texts) >= 6 and texts[0] in (said(1), said(2), said(3)), texts


def test_speech_after_an_eager_end_goes_on_in_the_same_stream() -> None:
    engine = Rules()
    audio = sound(-0.5, 1.0, -1.0, 1.0, -2.0)
    listening = listener(engine)
    messages = receive(listening, audio)
    assert check(messages) == [said(20)]
    assert [message.type for message in messages].count("turn.resume") == 1
    assert engine.accepted == np.count_nonzero(audio)


def test_words_have_their_times_without_the_silence_that_was_put_in() -> None:
    listening = listener(Rules())
    receive(listening, sound(-0.5, 1.0, -1.0, 1.0, -2.0))
    words = [word for piece in listening.finished for word in piece.words]
    starts = [0.5 + n / 10 + (1.0 if n >= 10 else 0) for n in range(20)]
    assert [round(word.start / SAMPLE_RATE, 2) for word in words] == pytest.approx(starts, abs=0.011)


def test_a_segment_that_has_to_be_cut_is_still_decoded_once() -> None:
    engine = Rules()
    seconds = HARD_STREAMED / SAMPLE_RATE + 15
    audio = sound(-0.5, seconds, -2.0)
    (text,) = check(receive(listener(engine), audio))
    assert len(set(said(round(seconds * 10)).split()) ^ set(text.split())) <= 2, "the word where it was cut"
    assert engine.accepted == np.count_nonzero(audio)


def test_a_recording_is_transcribed_with_times() -> None:
    audio = sound(-0.5, 3.0, -2.0, 2.0, -1.0)
    batch = BatchListener(Rules().stream(), Loud())
    words = [*batch.receive(audio), *batch.finish()]
    assert " ".join(word.word for word in words) == said(50)
    assert words[0].start == pytest.approx(0.5, abs=0.05) and words[30].start == pytest.approx(5.5, abs=0.05)


# sherpa-onnx


def noise(*parts: float) -> Audio:
    """Seconds of noise (positive) and of silence (negative)."""
    random = np.random.default_rng(0)
    blocks = [
        random.normal(0, 0.2, int(part * SAMPLE_RATE)) if part > 0 else np.zeros(int(-part * SAMPLE_RATE))
        for part in parts
    ]
    return np.concatenate(blocks).astype(np.float32)


def made(architecture: str, folder: Path) -> Any:
    pytest.importorskip("sherpa_onnx")
    pytest.importorskip("onnx")
    import small_models

    match architecture:
        case "FastConformer":
            small_models.fast_conformer(folder)
        case "Nemotron":
            small_models.fast_conformer(folder, '{"auto": 101, "en-US": 0, "de-DE": 3}')
        case "Zipformer":
            small_models.zipformer(folder, streaming=True)
        case "FastConformer CTC":
            small_models.fast_conformer(folder, ctc=True)
        case "Zipformer CTC":
            small_models.zipformer(folder, streaming=True, ctc=True)
        case _:
            small_models.zipformer(folder, streaming=False)
    return load_engine(f"sherpa:{folder}")


ARCHITECTURES = ("FastConformer", "Nemotron", "Zipformer", "FastConformer CTC", "Zipformer CTC")


@pytest.mark.real
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_streaming_model_says_the_same_however_the_audio_comes(architecture: str, tmp_path: Path) -> None:
    engine = made(architecture, tmp_path)
    audio = noise(-0.5, 1.0, -1.0, 1.5, -0.3)
    whole = engine.stream().decode(audio)
    stream = engine.stream()
    texts = [stream.tokens.text(stream.so_far(audio[:length]).ids) for length in range(0, len(audio), 3000)]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False)), texts
    found = stream.decode(audio)
    assert stream.tokens.text(found.ids) == "QUIET LOUD QUIET LOUD QUIET"
    assert found.words == whole.words
    starts = [word.start / SAMPLE_RATE for word in found.words]
    assert starts == pytest.approx([0.0, 0.5, 1.5, 2.5, 4.0], abs=0.1)


@pytest.mark.real
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_turns_by_a_streaming_model(architecture: str, tmp_path: Path) -> None:
    """Speech that is loud and soft by turns, in one long turn and a short one."""
    engine = made(architecture, tmp_path)
    loud, soft = noise(0.6), noise(0.6) * 0.0003
    speech = np.concatenate([noise(-0.5), *[loud, soft] * 20, loud, noise(-2.0), loud, noise(-2.0)])

    class Voice:
        def probability(self, frame: Audio) -> float:
            return 0.95 if float(np.abs(frame).max()) > 0 else 0.01

    listening = Listener(engine.stream(), Voice(), Complete(0.99), TurnSettings())
    messages = receive(listening, speech.astype(np.float32), step=1600)
    first, second = check(messages)
    assert first.split().count("LOUD") == 21 and second.split().count("LOUD") == 1
    assert sum(isinstance(message, TurnUpdate) for message in messages) > 20
    assert [message.type for message in messages].count(TurnEnd("").type) == 2


@pytest.mark.real
def test_the_languages_of_a_model_are_those_it_states(tmp_path: Path) -> None:
    engine = made("Nemotron", tmp_path)
    assert engine.languages == ("en", "de")
    stream = engine.stream("de")
    assert stream.decode(noise(-0.5, 1.0)).language == "de"


@pytest.mark.real
async def test_a_transducer_of_whole_pieces(tmp_path: Path) -> None:
    engine = made("offline Zipformer", tmp_path)
    assert not engine.live and "in the pauses" in engine.describe()
    stream = engine.stream()
    found = stream.decode(noise(-0.5, 1.0, -1.0))
    assert stream.tokens.text(found.ids) == "QUIET LOUD QUIET"
    assert [word.start / SAMPLE_RATE for word in found.words] == pytest.approx([0, 0.5, 1.5], abs=0.1)
    assert engine.stream().decode(np.zeros(0, np.float32)).words == (), "nothing was said"


@pytest.mark.real
def test_what_no_exporter_wrote_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    """sherpa-onnx ends the process where it misses something in a model."""
    made("Zipformer", tmp_path)
    import onnx

    model = onnx.load(str(tmp_path / "encoder.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "encoder.onnx"))
    with pytest.raises(EngineError, match="does not state model_type, T"):
        load_engine(f"sherpa:{tmp_path}")
    (tmp_path / "joiner.onnx").unlink()
    with pytest.raises(EngineError, match="neither a transducer"):
        load_engine(f"sherpa:{tmp_path}")


@pytest.mark.real
async def test_a_whole_recogniser_of_a_streaming_model(tmp_path: Path) -> None:
    made("FastConformer", tmp_path)
    recognizer = Recognizer.load(f"sherpa:{tmp_path}")
    try:
        assert "text comes as it is said" in recognizer.describe()[0]
        assert recognizer.cost_s() > 0 and recognizer.listening < LISTENING, "nothing is decoded twice"
    finally:
        await recognizer.close()
