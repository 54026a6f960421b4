"""The public face, and who may import whom."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rtcstt

ROOT = Path(rtcstt.__file__).parent

# Cores decide and do no I/O: time and chance are arguments.
CORES = {
    "captions",
    "errors",
    "events",
    "fleet.ids",
    "fleet.journal",
    "fleet.metrics",
    "fleet.node",
    "fleet.ownership",
    "fleet.placement",
    "fleet.restarts",
    "fleet.shares",
    "fleet.state",
    "embedded.audio",
    "embedded.capacity",
    "embedded.endpointer",
    "embedded.hypothesis",
    "media",
    "stt.activity",
    "stt.alignment",
    "stt.choice",
    "stt.replay_buffer",
    "stt.transcription",
    "webrtc.candidates",
    "webrtc.negotiation",
    "webrtc.routing",
    "webrtc.sdp",
    "wire",
}
NOT_IN_CORES = {
    "asyncio",
    "time",
    "random",
    "socket",
    "threading",
    "aiohttp",
    "websockets",
    "aiortc",
    "aioice",
}

# Foreign libraries that only these modules touch, so that their exceptions are translated at one border.
BORDERS = {
    "aiortc": {"webrtc"},
    "aioice": {"webrtc.aiortc_private"},
    "pylibsrtp": {"webrtc.aiortc_private"},
    "websockets": {"stt.cartesia", "testing.upstream"},
    "moonshine_voice": set(),
    "faster_whisper": {"embedded.engines.whisper"},
    "ray": {"batch.ray"},
    "redis": {"fleet.store"},
}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file, except for the eyes of the type checker alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_core(name: str) -> bool:
    return name in CORES or name.split(".")[0] in CORES


def ours(path: Path) -> set[str]:
    names = {name.removeprefix("rtcstt.") for name in imports(path) if name.startswith("rtcstt.")}
    return names & set(modules())


@pytest.mark.parametrize("name", sorted(filter(is_core, modules())))
def test_cores_do_no_io(name: str) -> None:
    path = modules()[name]
    assert not {module.split(".")[0] for module in imports(path)} & NOT_IN_CORES
    assert all(map(is_core, ours(path))), "a core imports only cores"


@pytest.mark.parametrize("library", BORDERS)
def test_foreign_libraries_stay_behind_their_border(library: str) -> None:
    users = {
        name
        for name, path in modules().items()
        if any(module.split(".")[0] == library for module in imports(path))
    }
    assert not {name for name in users if not any(f"{name}.".startswith(f"{b}.") for b in BORDERS[library])}


def test_nobody_imports_the_command_line() -> None:
    assert not [name for name, path in modules().items() if "cli" in ours(path)]


def test_the_embedded_recogniser_stands_alone() -> None:
    for name, path in modules().items():
        if name.startswith("embedded"):
            foreign = {module.split(".")[0] for module in ours(path)} - {"embedded"}
            shell = {"http", "limits", "captions", "reading"} if name.startswith("embedded.http") else set()
            assert foreign <= {"errors", "wire", "media"} | shell, name


def test_every_public_name_is_there() -> None:
    assert sorted(rtcstt.__all__) == rtcstt.__all__
    for name in rtcstt.__all__:
        value = getattr(rtcstt, name)
        assert name == "__version__" or value.__module__.startswith("rtcstt.")
    assert set(rtcstt.__all__) <= set(dir(rtcstt))
    assert set(rtcstt._HOMES) | {"__version__"} == set(rtcstt.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        rtcstt.no_such_name  # noqa: B018


def test_importing_the_package_is_cheap() -> None:
    script = (
        "import sys, rtcstt; print([m for m in ('aiortc', 'onnxruntime', 'aiohttp') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(modules()) - {"cli"}))
def test_every_module_can_be_imported_first(name: str) -> None:
    importlib.import_module(f"rtcstt.{name}" if name != "__init__" else "rtcstt")


PARTS = {"processes", "netns", "npm", "interop", "playwright"}


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("test_*.py")), ids=lambda path: path.stem)
def test_what_runs_other_programs_is_not_part_of_the_quick_check(path: Path) -> None:
    if {module.split(".")[0] for module in imports(path)} & PARTS:
        assert "mark.real" in path.read_text(), "mark its tests or the module with pytest.mark.real"
