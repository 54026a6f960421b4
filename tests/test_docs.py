"""The documentation agrees with the code: the picture of the imports, the names of the API, the links."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import rtcstt

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="no documentation in this package")


def test_the_picture_of_the_packages_is_that_of_the_imports() -> None:
    spec = importlib.util.spec_from_file_location("import_picture", ROOT / "tools" / "import_picture.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (DOCS / "architecture.md").read_text()
    assert f"{tool.BEGIN}{tool.picture()}{tool.END}" in page, "run: python tools/import_picture.py --write"


def test_modules_that_the_architecture_names_exist() -> None:
    page = (DOCS / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+)(?:\.py|`|\.[A-Z])", page))
    assert len(named) > 15
    missing = [name for name in named if not any(ROOT.glob(f"**/{name}.py")) and not (ROOT / name).exists()]
    assert not [name for name in missing if not (ROOT / "rtcstt" / name).exists()]


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text()
    listed = set(re.findall(r"^::: rtcstt\.([A-Za-z_]+)$", page, re.MULTILINE))
    errors = {name for name in rtcstt.__all__ if name.endswith("Error")}
    assert set(rtcstt.__all__) - errors - {"__version__"} <= listed
    assert "errors" in listed and "events" in listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


def test_what_a_package_index_shows_has_no_relative_links() -> None:
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    shown = (ROOT / "README.md").read_text()
    for one in hooks["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(one["pattern"], one["replacement"], shown)
    targets = re.findall(r"\]\(([^)\s]+)", shown)
    assert targets and not [target for target in targets if not re.match(r"https?:|#", target)]
