"""Recognisers that give a whole piece's text, with times where they have them: onnx-asr and sherpa-onnx.

Both bring many models (Parakeet, Canary, GigaAM, Zipformer, Whisper; docs/engines.md says which were run
here). Nothing can be forced on them, so they are asked in the pauses, as Whisper is.
"""

from __future__ import annotations

import base64
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtcstt.embedded.engines import models
from rtcstt.embedded.engines.moonshine import LEAD, TAIL, Tokens
from rtcstt.embedded.engines.onnx import PROVIDERS
from rtcstt.embedded.hypothesis import CPU, NO_TERMS, Audio, Device, Hypothesis, Spoken, Terms
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

PREFIXES = ("onnx-asr:", "sherpa:")
UNKNOWN_LOGPROB = -0.5  # of what a library says nothing about: believed where the voice is clear
MOST_WORDS = 10_000  # that a stream knows by number

ONNX_ASR_FOLDER = "onnx-asr:TYPE@FOLDER"


class Said(NamedTuple):
    """What a library found. ``tokens`` begin with a space where a word begins; ``starts_s``: of each, or
    nothing."""

    text: str
    tokens: Sequence[str] = ()
    starts_s: Sequence[float] = ()
    logprobs: Sequence[float] = ()


class Words:
    """Words by number, as a listener wants tokens. Those not used for longest are forgotten."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._words: dict[int, str] = {}
        self._next = 0

    def numbers(self, words: Sequence[str]) -> tuple[int, ...]:
        return tuple(self._number(word) for word in words)

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(self._words.get(number, "") for number in ids).strip()

    def starts_word(self, token: int) -> bool:
        return True

    def is_punctuation(self, token: int) -> bool:
        return not any(map(str.isalnum, self._words.get(token, "")))

    def _number(self, word: str) -> int:
        number = self._numbers.pop(word, self._next)
        self._numbers[word], self._words[number] = number, word
        self._next = max(self._next, number + 1)
        if len(self._numbers) > MOST_WORDS:
            oldest = next(iter(self._numbers))
            del self._words[self._numbers.pop(oldest)]
        return number


class TimedEngine:
    """A model, loaded once; `stream` gives what listens. ``recognise`` may be called by many threads."""

    live = False

    def __init__(
        self,
        name: str,
        library: str,
        languages: tuple[str, ...],
        recognise: Callable[[Audio, str | None], Said],
    ) -> None:
        self.name, self.languages = name, languages
        self._library = library
        self.recognise = recognise

    def describe(self) -> str:
        return f"{self.name} on {self._library}; text comes in the pauses"

    def stream(self, language: str | None = None, keyterms: Terms = NO_TERMS) -> TimedStream:
        """Terms are not expected by these models."""
        return TimedStream(self, language)


class TimedStream:
    """What one stream asks."""

    def __init__(self, engine: TimedEngine, language: str | None) -> None:
        self._engine = engine
        self._language = language
        self.tokens = Words()

    def decode(
        self, audio: Audio, forced: Sequence[int] = (), draft: Sequence[int] = (), *, timed: bool = False
    ) -> Hypothesis:
        """What was said. Nothing can be ``forced``, nor has to be: pieces are published whole."""
        said = self._engine.recognise(audio, self._language)
        words = said.text.split()
        logprob = float(np.mean(said.logprobs)) if len(said.logprobs) else UNKNOWN_LOGPROB
        spoken = spoken_words(said, words, len(audio))
        ids = self.tokens.numbers(words)
        return Hypothesis(ids, True, logprob, None, self._language or self._engine.languages[0], spoken)


def spoken_words(said: Said, words: Sequence[str], length: int) -> tuple[Spoken, ...]:
    """Where the words are, from where their first tokens are; nothing where that does not fit together."""
    if len(said.starts_s) != len(said.tokens):
        return ()
    pairs = zip(said.tokens, said.starts_s, strict=True)
    starts = [at for index, (token, at) in enumerate(pairs) if index == 0 or token[:1] in (" ", "\u2581")]
    if len(starts) != len(words):
        return ()
    samples = [min(round(at * SAMPLE_RATE), length) for at in starts]
    ends = [*samples[1:], length]
    return tuple(Spoken(*each) for each in zip(words, samples, ends, strict=True))


def load(model: str, device: Device = CPU) -> TimedEngine:
    """``onnx-asr:NAME``, ``onnx-asr:TYPE@FOLDER`` or ``sherpa:FOLDER``; `EngineError` says what is wrong."""
    library, _, what = model.partition(":")
    try:
        return _onnx_asr(what, device) if library == "onnx-asr" else _sherpa(what, device)
    except EngineError:
        raise
    except (
        Exception
    ) as error:  # the libraries raise what they like, RuntimeError and plain Exception among it
        raise EngineError(f"{model} cannot be loaded: {error}") from error


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f"this model needs one more package: pip install 'rtcstt[{extra}]'") from error


def _onnx_asr(what: str, device: Device) -> TimedEngine:
    library = _library("onnx_asr", "onnx-asr")
    kind, at, folder = what.partition("@")
    path = Path(folder).expanduser() if at else None
    if path is not None and not path.is_dir():
        raise EngineError(f"{path} is no folder; name the model as {ONNX_ASR_FOLDER}")
    quantised = path is not None and any(path.glob("*int8.onnx"))
    model = library.load_model(
        kind, path, quantization="int8" if quantised else None, providers=[PROVIDERS[device.name]]
    ).with_timestamps()

    def recognise(audio: Audio, language: str | None) -> Said:
        found = model.recognize(audio, sample_rate=SAMPLE_RATE)
        return Said(found.text, found.tokens or (), found.timestamps or (), found.logprobs or ())

    return TimedEngine(path.name if path is not None else kind, "onnx-asr", ("en",), recognise)


def _sherpa(what: str, device: Device) -> TimedEngine:
    library = _library("sherpa_onnx", "sherpa")
    folder = models.require(what) if what in models.MODELS else Path(what).expanduser()
    if not folder.is_dir():
        raise EngineError(f"{folder} is no folder of a sherpa-onnx model")
    make = library.OfflineRecognizer
    silence = (0, 0)
    if (folder / "encoder_model.ort").is_file():
        recogniser = _sherpa_moonshine(make, folder, device)
        silence = (LEAD, TAIL)
    elif joiner := _one(folder, "joiner"):
        parts = [_one(folder, "encoder"), _one(folder, "decoder"), joiner, folder / "tokens.txt"]
        names = ("encoder", "decoder", "joiner", "tokens")
        given = {name: str(part) for name, part in zip(names, parts, strict=True)}
        recogniser = make.from_transducer(**given, num_threads=1, provider=device.name)
    else:
        raise EngineError(f"{folder} holds neither a transducer (encoder, decoder, joiner) nor Moonshine")

    def recognise(audio: Audio, language: str | None) -> Said:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, np.pad(audio, silence).astype(np.float32))
        recogniser.decode_stream(stream)
        found = stream.result
        return Said(found.text.strip(), found.tokens, found.timestamps)

    return TimedEngine(folder.name, "sherpa-onnx", ("en",), recognise)


def _sherpa_moonshine(make: Any, folder: Path, device: Device) -> Any:
    """Our own tiny-en. sherpa-onnx wants its tokens as text: base64 and number, a line each."""
    tokens = Tokens(folder / "tokenizer.bin").spelled
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "tokens.txt"
        listed.write_text(
            "".join(f"{base64.b64encode(text).decode()} {n}\n" for n, text in enumerate(tokens))
        )
        encoder, decoder = folder / "encoder_model.ort", folder / "decoder_model_merged.ort"
        given = (str(encoder), str(decoder), str(listed))
        return make.from_moonshine_v2(*given, num_threads=1, provider=device.name)


def _one(folder: Path, stem: str) -> Path | None:
    """The model's part of that name, the quantised one where there are two."""
    found = sorted(folder.glob(f"{stem}*.onnx"), key=lambda path: ("int8" not in path.name, path.name))
    return found[0] if found else None
