"""The picture in docs/architecture.md, from the code's imports: `python tools/import_picture.py --write`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"

# What stands side by side on top belongs to one of these; what everybody imports is left out.
GROUPS = {
    "call": ("call", "feed", "recordings"),
    "reading": ("reading", "file_worker"),
    "commands": ("commands", "cli"),
}
EVERYWHERE = {"errors", "events", "limits", "logs", "whole_files", "__init__", ""}
BEGIN, END = "```mermaid\n", "```"


def group_of(module: str) -> str:
    top = module.split(".")[0]
    return next((name for name, members in GROUPS.items() if top in members), top)


def imports_of(path: Path) -> set[str]:
    """Every module of ours that a file imports, but for what is only for the type checker."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "rtcstt":
            found |= {f"rtcstt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.removeprefix("rtcstt.") for name in found if name.startswith("rtcstt.")}


def graph() -> dict[str, set[str]]:
    """Which group imports which."""
    edges: dict[str, set[str]] = {}
    for path in sorted((ROOT / "rtcstt").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "rtcstt").with_suffix("").parts)
        own = group_of(module)
        if own in EVERYWHERE:
            continue
        edges.setdefault(own, set())
        edges[own] |= {group_of(name) for name in imports_of(path)} - EVERYWHERE - {own}
    return {own: found & set(edges) for own, found in edges.items()}


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without arrows that follow from others."""

    def reach(begin: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges[begin])
        while todo:
            if (name := todo.pop()) not in seen:
                seen.add(name)
                todo += edges[name]
        return seen

    return {
        own: {name for name in found if not any(name in reach(other) for other in found - {name})}
        for own, found in edges.items()
    }


def picture() -> str:
    edges = reduced(graph())
    lines = ["flowchart TD"]
    lines += [f"    {own} --> {name}" for own in sorted(edges) for name in sorted(edges[own])]
    return "\n".join(lines) + "\n"


def main() -> None:
    text = picture()
    if "--write" in sys.argv:
        page = PAGE.read_text()
        PAGE.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}{text}{END}", page, flags=re.DOTALL))
    print(text, end="")


if __name__ == "__main__":
    main()
