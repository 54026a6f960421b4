"""Whisper on CTranslate2 (faster-whisper): other languages, and the times of words.

It takes the same time for a word as for half a minute, so it decodes what was said once, in each pause,
and nothing is published while somebody speaks: text comes with the pauses and the ends of turns. That
also is what keeps it append-only, since Whisper would not be held to what it said before.

A piece of audio is decoded in one window, without the time marks that Whisper can write among its words:
those made it look at the last tenths of a second once more, and invent something there. Word times come
from the attention of the decoder to the audio, which costs next to nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtcstt.embedded.engines import models
from rtcstt.embedded.hypothesis import CPU, NO_TERMS, Audio, Device, Hypothesis, Spoken, Terms
from rtcstt.embedded.levelling import raised
from rtcstt.errors import ConfigError, EngineError
from rtcstt.media.pcm import SAMPLE_RATE

WINDOW = 30 * SAMPLE_RATE  # the most that one decode takes
CERTAIN = 0.8  # of the language: then it is not asked again
TEMPERATURES = (0.0, 0.4)  # the second only when it went round in circles, or was far from sure
MODEL_FILE = "model.bin"
COMPUTE_TYPES = {"cpu": "int8", "cuda": "float16"}
# What follows the first segment is speech behind a pause, or what the model makes of the silence at the end.
# Of the latter it says itself that it is hardly speech, and it has no room: at most 0.3 s (tiny.en, base).
NO_SPEECH, UNLIKELY = 0.3, -1.0
ROOM_S = 0.4


class WhisperTokens:
    """The text of Whisper's tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._end = tokenizer.token_to_id("<|endoftext|>")  # all above are marks

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, without space around it."""
        return str(self._tokenizer.decode([token for token in ids if token < self._end])).strip()

    def starts_word(self, token: int) -> bool:
        return str(self._tokenizer.decode([token])).startswith(" ")

    def is_punctuation(self, token: int) -> bool:
        text = str(self._tokenizer.decode([token])).strip()
        return bool(text) and not any(letter.isalnum() for letter in text)


class Whisper:
    """A model, loaded once; `stream` gives what listens. May be used by ``workers`` threads at once."""

    live = False

    def __init__(self, folder: Path, *, workers: int = 2, device: Device = CPU) -> None:
        self.name = folder.name
        self._model = _load(folder, workers, device)
        self.tokens = WhisperTokens(self._model.hf_tokenizer)
        self.languages: tuple[str, ...] = tuple(self._model.supported_languages)
        """ISO 639 codes."""

    def describe(self) -> str:
        speaks = f"{len(self.languages)} languages" if len(self.languages) > 1 else "English"
        return f"Whisper {self.name} on CTranslate2, {speaks}; text comes in the pauses"

    def stream(self, language: str | None = None, keyterms: Terms = NO_TERMS) -> WhisperStream:
        """For one stream; ``language`` None: found out from the speech. Terms are given as a hint, of one
        strength."""
        if language is None and len(self.languages) == 1:
            language = self.languages[0]
        hint = ", ".join(keyterms.texts) if keyterms.strength else ""
        return WhisperStream(self, language, hint)

    def detect(self, audio: Audio) -> tuple[str, float]:
        """The language of speech, and how sure that is."""
        language, probability, _ = self._model.detect_language(audio)
        return str(language), float(probability)

    def decode(self, audio: Audio, language: str, hint: str = "") -> Hypothesis:
        segments, _ = self._model.transcribe(
            audio[:WINDOW],
            language=language,
            beam_size=1,
            temperature=TEMPERATURES,
            condition_on_previous_text=False,
            hotwords=hint or None,
            without_timestamps=True,
            word_timestamps=True,
            max_new_tokens=min(20 + 20 * len(audio) // SAMPLE_RATE, 220),
        )
        kept = _said(segments, min(len(audio), WINDOW) / SAMPLE_RATE)
        if not any(letter.isalnum() for segment in kept for letter in segment.text):
            return Hypothesis((), True, 0.0, None, language)
        ids = tuple(token for segment in kept for token in segment.tokens)
        lengths = [max(1, len(segment.tokens)) for segment in kept]
        logprob = float(np.average([segment.avg_logprob for segment in kept], weights=lengths))
        words = [word for segment in kept for word in segment.words or ()]
        return Hypothesis(ids, True, logprob, None, language, _spoken(words))


class WhisperStream:
    """What one stream asks, in its language. Where that is not given, the language is looked for until it
    is certain and then kept: it costs as much as a decode, and short pieces are easily mistaken."""

    def __init__(self, whisper: Whisper, language: str | None, hint: str) -> None:
        self._whisper = whisper
        self._hint = hint
        self._language = language
        self.tokens = whisper.tokens

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
        audio = raised(audio)
        language = self._language
        if language is None:
            language, probability = self._whisper.detect(audio)
            if probability >= CERTAIN:
                self._language = language
        return self._whisper.decode(audio, language, self._hint)


def _said(segments: Iterable[Any], length_s: float) -> list[Any]:
    """Those of the model's segments in which somebody spoke."""
    kept: list[Any] = []
    for segment in segments:
        speech = segment.no_speech_prob < NO_SPEECH and segment.avg_logprob > UNLIKELY
        if not kept or (speech and segment.start <= length_s - ROOM_S):
            kept.append(segment)
    return kept


def _spoken(words: Sequence[Any]) -> tuple[Spoken, ...]:
    """Whisper's words between spaces: it takes "ill" and "-disposed" for two, and every sign of Chinese for
    one, but the space that separates words is in them."""
    joined: list[Spoken] = []
    for word in words:
        begin, end = round(word.start * SAMPLE_RATE), round(word.end * SAMPLE_RATE)
        if joined and not word.word.startswith(" "):
            last = joined.pop()
            joined.append(Spoken(last.word + word.word.strip(), last.start, end))
        else:
            joined.append(Spoken(word.word.strip(), begin, end))
    return tuple(word for word in joined if word.word)


# Where models are


def locate(model: str) -> Path | None:
    """What `Whisper` loads for ``--model``; None when that means no Whisper.

    ``whisper-tiny.en`` and ``whisper-base`` are fetched as other models are. A folder is one's own model,
    ``whisper:NAME`` a folder, an installed package with a model in it, or a name on the hub.
    """
    if model in models.MODELS and model.startswith("whisper-"):
        return models.require(model)
    name = model.removeprefix("whisper:")
    path = Path(name).expanduser()
    if (path / MODEL_FILE).is_file():
        return path
    if name == model:
        return None
    if f"whisper-{name}" in models.MODELS and (found := models.find(f"whisper-{name}")):
        return found
    return _in_package(name) or _on_hub(name)


def _in_package(name: str) -> Path | None:
    """The first folder with a model in an installed package, which is not imported."""
    name = name.replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(place).rglob(MODEL_FILE)):
            return file.parent
    return None


def _on_hub(name: str) -> Path:
    """A model of the hub: as kept by an earlier download, else downloaded now."""
    faster_whisper = _import()
    for kept in (True, False):
        try:
            return Path(faster_whisper.download_model(name, local_files_only=kept))
        except ValueError as error:  # no name of theirs, nor of anybody's
            raise ConfigError(f"no model whisper:{name}: {error}") from error
        except Exception as error:  # of the hub's client: many, without a common base
            problem = error
    known, hub = f"whisper-{name}", name if "/" in name else f"Systran/faster-whisper-{name}"
    fix = f"hf download {hub} --local-dir FOLDER, where there is a network, then --model FOLDER"
    if known in models.MODELS:
        fix = f"rtcstt models fetch {known}"
    raise EngineError(
        f"the model whisper:{name} is no folder and no installed package with a {MODEL_FILE} in it, and the"
        f" hub did not give it ({type(problem).__name__}); to get it: {fix}"
    ) from problem


def _load(folder: Path, workers: int, device: Device) -> Any:
    faster_whisper = _import()
    try:
        return faster_whisper.WhisperModel(
            str(folder),
            device=device.name,
            compute_type=device.compute_type or COMPUTE_TYPES.get(device.name, "default"),
            cpu_threads=1,  # of each worker
            num_workers=workers,
            local_files_only=True,
        )
    except Exception as error:  # RuntimeError of CTranslate2, and what tokenizers raises: a plain Exception
        raise EngineError(f"{folder} cannot be loaded as a Whisper model: {error}") from error


def _import() -> Any:
    try:
        import faster_whisper
    except ImportError as error:
        raise EngineError("Whisper models need one more package: pip install 'rtcstt[whisper]'") from error
    return faster_whisper
