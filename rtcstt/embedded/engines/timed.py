"""Recognisers that give a whole piece's text, with times where they have them: by onnx-asr, and by `sherpa`.

Both bring many models (Parakeet, Canary, GigaAM, Zipformer, Whisper; docs/engines.md says which were run
here). Nothing can be forced on them, so they are asked in the pauses, as Whisper is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtcstt.embedded.engines.onnx import provider
from rtcstt.embedded.hypothesis import NO_TERMS, Audio, Device, Hypothesis, Spoken, Terms
from rtcstt.embedded.levelling import raised
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

UNKNOWN_LOGPROB = -0.5  # of what a library says nothing about: believed where the voice is clear
MOST_WORDS = 10_000  # that a stream knows by number

# Of models without a choice, by what is in their names. Parakeet TDT v3 finds the language by itself.
_RUSSIAN = ("ru",)
NAMED = (
    ("gigaam", _RUSSIAN),
    ("t-one", _RUSSIAN),
    ("-ru", _RUSSIAN),
    (
        "parakeet-tdt-0.6b-v3",
        tuple("en bg cs da de el es et fi fr hr hu it lt lv mt nl pl pt ro ru sk sl sv uk".split()),
    ),
)
ONNX_ASR_FOLDER = "onnx-asr:TYPE@FOLDER"


@dataclass(frozen=True, slots=True)
class Said:
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
        self,
        audio: Audio,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
        *,
        timed: bool = False,
        thorough: bool = False,
    ) -> Hypothesis:
        """What was said. Nothing can be ``forced``, nor has to be: pieces are published whole."""
        said = self._engine.recognise(raised(audio), self._language)
        return hypothesis(said, self.tokens, len(audio), self._language or self._engine.languages[0])


def hypothesis(said: Said, known: Words, length: int, language: str) -> Hypothesis:
    """What was said in so many samples, as a listener takes it."""
    words = said.text.split()
    logprob = float(np.mean(said.logprobs)) if len(said.logprobs) else UNKNOWN_LOGPROB
    spoken = spoken_words(said, words, length)
    return Hypothesis(known.numbers(words), True, logprob, None, language, spoken)


def spoken_words(said: Said, words: Sequence[str], length: int) -> tuple[Spoken, ...]:
    """Where the words are, from where their first tokens are; nothing where that does not fit together."""
    if not words or len(said.starts_s) != len(said.tokens):
        return ()
    pairs = zip(said.tokens, said.starts_s, strict=True)
    starts = [at for index, (token, at) in enumerate(pairs) if index == 0 or token[:1] in (" ", "\u2581")]
    if len(starts) != len(words):
        return ()
    samples = [min(round(at * SAMPLE_RATE), length) for at in starts]
    ends = [*samples[1:], length]
    return tuple(Spoken(*each) for each in zip(words, samples, ends, strict=True))


def library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f"this model needs one more package: pip install 'rtcstt[{extra}]'") from error


def load(what: str, device: Device) -> TimedEngine:
    """``NAME``, or ``TYPE@FOLDER``, of onnx-asr."""
    package = library("onnx_asr", "onnx-asr")
    kind, at, folder = what.partition("@")
    path = Path(folder).expanduser() if at else None
    if path is not None and not path.is_dir():
        raise EngineError(f"{path} is no folder; name the model as {ONNX_ASR_FOLDER}")
    quantised = path is not None and any(path.glob("*int8.onnx"))
    model = package.load_model(
        kind, path, quantization="int8" if quantised else None, providers=[provider(device.name)]
    ).with_timestamps()

    name = path.name if path is not None else kind
    choice = choosable(model.asr)

    def recognise(audio: Audio, language: str | None) -> Said:
        found = model.recognize(audio, sample_rate=SAMPLE_RATE, language=language if choice else None)
        return Said(found.text, found.tokens or (), found.timestamps or (), found.logprobs or ())

    return TimedEngine(name, "onnx-asr", choice or spoken_by(name), recognise)


def choosable(model: Any) -> tuple[str, ...]:
    """The languages that a call may ask of a model of onnx-asr (Canary, Whisper): it has a token for each.
    English comes first, since where nothing is asked for most models take that."""
    tokens = getattr(model, "_tokens", None)  # of no other use there than ours
    names = re.findall(r"<\|([a-z]{2}|haw|yue)\|>", " ".join(tokens)) if isinstance(tokens, dict) else []
    return tuple(sorted(set(names), key=lambda name: (name != "en", name)))


def spoken_by(name: str) -> tuple[str, ...]:
    """The languages of a model that takes whichever is spoken, as far as its name says."""
    return next((codes for part, codes in NAMED if part in name.lower()), ("en",))
