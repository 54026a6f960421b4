"""Models by sherpa-onnx, from a folder: transducers that take whole pieces, streaming ones, and Moonshine."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtcstt.embedded.engines import models
from rtcstt.embedded.engines.moonshine import LEAD, TAIL, Tokens
from rtcstt.embedded.engines.onnx import Graph, graph
from rtcstt.embedded.engines.streaming import StreamingEngine
from rtcstt.embedded.engines.timed import Said, TimedEngine, library
from rtcstt.embedded.hypothesis import Audio, Device
from rtcstt.errors import EngineError
from rtcstt.media.pcm import SAMPLE_RATE

MOST_INPUTS = 3  # of a model that takes whole pieces: features, their length, a language
FRAME_S = 0.01  # of the features
CTC_SUBSAMPLING = 4  # what the library takes for that of every streaming CTC model
LATE_S = 0.3  # that a word may come out after it was said, beside the model's window
WINDOWS = ("window_size", "T")  # in frames, as NeMo's and icefall's models state it
PARTS = ("encoder", "decoder", "joiner")
# Without these the library ends the process.
NEEDED = {"nemo": ("vocab_size", "window_size", "chunk_shift", "subsampling_factor"), "": ("model_type", "T")}


def load(what: str, device: Device) -> TimedEngine | StreamingEngine:
    """A folder, or the name of a model of ours; `EngineError` says what is wrong with it."""
    package = library("sherpa_onnx", "sherpa")
    if device.name != "cpu" and device.name not in package.__version__:  # it would take the CPU
        raise EngineError(
            f"this sherpa-onnx ({package.__version__}) cannot use {device.name}; its project has one that can"
        )
    folder = models.require(what) if what in models.MODELS else Path(what).expanduser()
    if not folder.is_dir():
        raise EngineError(f"{folder} is no folder of a sherpa-onnx model")
    parts = {part: found for part in PARTS if (found := _one(folder, part)) is not None}
    if (folder / "encoder_model.ort").is_file():
        recogniser = _moonshine(package.OfflineRecognizer, folder, device)
        return _whole(folder.name, recogniser, (LEAD, TAIL))
    tokens = folder / "tokens.txt"
    model = _one(folder, "model")
    if not tokens.is_file() or (len(parts) < len(PARTS) and model is None):
        raise EngineError(
            f"{folder} holds neither a transducer (encoder, decoder, joiner, tokens.txt), nor a streaming CTC"
            " model (model, tokens.txt), nor Moonshine"
        )
    given = {"tokens": str(tokens), "num_threads": 1, "provider": device.name}
    if len(parts) == len(PARTS):
        seen = graph(parts["encoder"])
        given |= {part: str(path) for part, path in parts.items()}
        if len(seen.inputs) <= MOST_INPUTS:
            return _whole(folder.name, package.OfflineRecognizer.from_transducer(**given), (0, 0))
        _check(seen, parts["encoder"])
        return _streaming(folder.name, package.OnlineRecognizer.from_transducer(**given), seen)
    assert model is not None
    seen = graph(model)
    if len(seen.inputs) <= MOST_INPUTS:
        raise EngineError(f"{model} is no streaming CTC model; others are loaded by onnx-asr:TYPE@FOLDER")
    _check(seen, model)
    make = package.OnlineRecognizer
    load_ctc = make.from_nemo_ctc if _is_nemo(seen) else make.from_zipformer2_ctc
    stretch = int(seen.metadata.get("subsampling_factor", CTC_SUBSAMPLING)) / CTC_SUBSAMPLING
    return _streaming(folder.name, load_ctc(model=str(model), **given), seen, stretch)


def _whole(name: str, recogniser: Any, silence: tuple[int, int]) -> TimedEngine:
    def recognise(audio: Audio, language: str | None) -> Said:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, np.pad(audio, silence).astype(np.float32))
        recogniser.decode_stream(stream)
        found = stream.result
        return Said(found.text.strip(), found.tokens, found.timestamps)

    return TimedEngine(name, "sherpa-onnx", ("en",), recognise)


class _Online:
    """A stream of the library's, whose times are wrong by ``stretch``."""

    def __init__(self, recogniser: Any, language: str | None, stretch: float) -> None:
        self._stretch = stretch
        self._recogniser = recogniser
        self._stream = recogniser.create_stream()
        if language is not None:
            self._stream.set_option("language", language)

    def accept(self, samples: Audio) -> None:
        self._stream.accept_waveform(SAMPLE_RATE, samples)
        while self._recogniser.is_ready(self._stream):
            self._recogniser.decode_stream(self._stream)

    def said(self) -> Said:
        found = self._recogniser.get_result_all(self._stream)
        times_s = [at * self._stretch for at in found.timestamps]
        return Said(found.text.strip(), found.tokens, times_s, found.ys_probs)


def _streaming(name: str, recogniser: Any, seen: Graph, stretch: float = 1.0) -> StreamingEngine:
    languages = _languages(seen.metadata)
    window = next(int(seen.metadata[key]) for key in WINDOWS if key in seen.metadata)
    padding = int((window * FRAME_S + LATE_S) * SAMPLE_RATE)

    def open_stream(language: str | None) -> _Online:
        return _Online(recogniser, language if len(languages) > 1 else None, stretch)

    return StreamingEngine(name, "sherpa-onnx", languages, open_stream, padding)


def _languages(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """ISO 639 codes of those that a call may ask for; English where the model does not say."""
    try:
        listed = json.loads(metadata.get("prompt_dictionary", ""))
    except ValueError:
        listed = None
    names = [name for name in listed if name != "auto"] if isinstance(listed, dict) else []
    return tuple(dict.fromkeys(name.partition("-")[0].lower() for name in names)) or ("en",)


def _is_nemo(seen: Graph) -> bool:
    return "cache_last_channel" in seen.inputs


def _check(seen: Graph, path: Path) -> None:
    missing = [key for key in NEEDED["nemo" if _is_nemo(seen) else ""] if not seen.metadata.get(key)]
    if missing:
        raise EngineError(f"{path} does not state {', '.join(missing)}: it was not exported for sherpa-onnx")


def _moonshine(make: Any, folder: Path, device: Device) -> Any:
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
