"""The public face, and who may import whom."""

from __future__ import annotations

import ast
import graphlib
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

import rtcstt

ROOT = Path(rtcstt.__file__).parent

# What a folder may import of the others (and each the errors). Whatever is above is for those who hold it:
# the order is that of the data, from the wire to the command line.
FOLDERS = {
    "wire": set[str](),
    "media": set[str](),
    "stt": {"wire", "media"},
    "embedded": {"wire", "media"},
    "embedded.http": {"wire", "media", "embedded", "http", "captions", "reading"},
    "http": {"wire"},
    "webrtc": {"stt", "wire", "media", "call"},
    "batch": {"stt", "wire", "media", "embedded", "captions", "reading", "http"},
    "testing": {"stt", "wire", "media", "call", "webrtc"},
    "fleet": {"call", "feed", "http", "logs", "media", "wire"},
}
EVERYBODY_CORES = {"errors", "events", "limits"}
EVERYBODY = EVERYBODY_CORES | {"whole_files"}

# Cores decide and do no I/O: time and chance are arguments. All of these folders is cores but what is named.
CORE_FOLDERS = {"events", "wire", "media", "stt", "embedded"}
SHELLS = {
    "stt.cartesia",
    "stt.connecting",
    "stt.outages",
    "stt.pool",
    "stt.serving",
    "stt.stream",
    "embedded",
    "embedded.engines",
    "embedded.heap",
    "embedded.http",
    "embedded.processors",
    "embedded.recognizer",
    "embedded.service",
    "embedded.streams",
    "embedded.workers",
}
OTHER_CORES = EVERYBODY_CORES | {
    "call.concealed",
    "call.held",
    "call.stall",
    "captions",
    "captions.cutting",
    "fleet.ids",
    "fleet.journal",
    "fleet.metrics",
    "fleet.node",
    "fleet.ownership",
    "fleet.placement",
    "fleet.restarts",
    "fleet.shares",
    "fleet.state",
    "server.addresses",
    "webrtc.candidates",
    "webrtc.demultiplexing",
    "webrtc.negotiation",
    "webrtc.routing",
    "webrtc.sdp",
}
NOT_IN_CORES = {
    "asyncio",
    "time",
    "random",
    "socket",
    "subprocess",
    "threading",
    "aiohttp",
    "websockets",
    "aiortc",
    "aioice",
    "onnxruntime",
    "ctranslate2",
}

# Foreign libraries that only these modules touch, so that their exceptions are translated at one border.
BORDERS = {
    "aiortc": ("webrtc",),
    "aioice": ("webrtc.aiortc_private",),
    "pylibsrtp": ("webrtc.aiortc_private",),
    "websockets": ("stt.cartesia", "testing.upstream"),
    "onnxruntime": ("embedded.engines",),
    "ctranslate2": ("embedded.engines",),
    "faster_whisper": ("embedded.engines.whisper",),
    "moonshine_voice": (),
    "aiohttp": ("http", "server", "fleet", "embedded.http", "batch.engines", "webrtc.signaling", "commands"),
    "ray": ("batch.ray",),
    "redis": ("fleet.store",),
}

MAX_MODULE, MAX_CLASS = 500, 250  # lines


@cache
def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }


@cache
def imports(path: Path, *, for_types: bool = False) -> frozenset[str]:
    """Every module imported anywhere in a file; ``for_types``: by the type checker alone, too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a module is one of these, or in one of these folders."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def is_core(name: str) -> bool:
    if name in OTHER_CORES:
        return True
    shell = name in SHELLS or within(name, SHELLS - {"embedded"})
    return within(name, CORE_FOLDERS) and not shell


def ours(path: Path, *, for_types: bool = False) -> set[str]:
    found = imports(path, for_types=for_types)
    names = {name.removeprefix("rtcstt.") for name in found if name.startswith("rtcstt.")}
    return names & set(modules())


@pytest.mark.parametrize("name", sorted(filter(is_core, modules())))
def test_cores_do_no_io(name: str) -> None:
    path = modules()[name]
    assert not {module.split(".")[0] for module in imports(path)} & NOT_IN_CORES
    packages = {module for module in ours(path) if modules()[module].name == "__init__.py"}
    assert all(map(is_core, ours(path) - packages)), "a core imports only cores"


def test_every_core_has_tests_of_its_own() -> None:
    place = Path(__file__).parents[1] / "tools" / "core_coverage.py"
    spec = importlib.util.spec_from_file_location("core_coverage", place)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    listed = [core for cores in tool.OWN_TESTS.values() for core in cores]
    empty = {name for name, path in modules().items() if not path.read_text().strip()}
    assert sorted(listed) == sorted(set(filter(is_core, modules())) - empty)
    tests = {name for names in tool.OWN_TESTS for name in names.split()}
    assert not [name for name in tests if not Path(__file__).with_name(f"test_{name}.py").exists()]


def test_the_named_shells_are_there() -> None:
    assert SHELLS | OTHER_CORES <= set(modules())


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_what_is_below_them(folder: str) -> None:
    for name, path in modules().items():
        if within(name, [folder]) and not (folder == "embedded" and within(name, ["embedded.http"])):
            above = {module.split(".")[0] for module in ours(path)} - {folder} - FOLDERS[folder] - EVERYBODY
            assert not above, f"{name} imports {above}"


def test_there_is_no_cycle_of_imports_late_ones_and_those_for_types_included() -> None:
    graph = {name: ours(path, for_types=True) - {name} for name, path in modules().items()}
    inits = {name for name, path in modules().items() if path.name == "__init__.py"}
    order = graphlib.TopologicalSorter({name: found - inits for name, found in graph.items()})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", sorted(modules()))
def test_modules_and_classes_can_be_overlooked(name: str) -> None:
    text = modules()[name].read_text()
    assert text.count("\n") <= MAX_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno <= MAX_CLASS, node.name


@pytest.mark.parametrize("library", BORDERS)
def test_foreign_libraries_stay_behind_their_border(library: str) -> None:
    users = {
        name
        for name, path in modules().items()
        if any(module.split(".")[0] == library for module in imports(path))
    }
    assert not {name for name in users if not within(name, BORDERS[library])}


def test_nobody_imports_the_command_line() -> None:
    assert not [name for name, path in modules().items() if "cli" in ours(path)]


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
