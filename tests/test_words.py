"""One vocabulary: the field's own words, in names, comments, docs, help, metrics and messages.

`AVOIDED` says what to write instead. Names that the public knows from before are in `KEPT`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("rtcstt", "tests", "examples", "benchmarks", "tools", "docs", "deploy")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "pyproject.toml")
KINDS = {".py", ".md", ".js", ".mjs", ".cjs", ".ts", ".css", ".html", ".lua", ".yaml", ".yml", ".toml", ""}
OWN = {Path(__file__).name}

AVOIDED = {
    r"ears?|hear|hears|heard|hearing": "receive, received, Receiver",
    r"doors?|knock\w*|who may come in": "signaling client, authentication, RateLimiter",
    r"glue\w*": "alignment",
    r"turning": "TurnTransition",
    r"visits?|visited|fates?|spoil\w*|bend_\w+": "ConnectionScript, connections, loss, impair, intercept_rtp",
    r"mend|mends|mended|mending|anew|of late|to be had": "fix, again, recently, is supported",
    r"he|him|his|himself": "they, them, their",
    r"who comes late begins": "late subscribers get the full history first",
}
KEPT = (
    r"not heard",  # the mark of a gap in transcripts, as the contract has it
    r"Heard, Visit, Visited",  # as rtcstt.testing had them first
    r"def visited|name of ``connections``",
    r'"(?:[a-z]+ )+[a-z]+ ?"$|^\s+" [a-z ]+',  # lists of English words, and speech
    r'"He was\."',
    r"his (?:your|her|its)|your his|he she|her his",
)


def texts() -> Iterator[tuple[Path, int, str]]:
    files = [ROOT / name for name in FILES]
    files += [path for place in PLACES for path in sorted((ROOT / place).rglob("*"))]
    for path in files:
        if (
            path.is_file()
            and path.suffix in KINDS
            and path.name not in OWN
            and "__pycache__" not in path.parts
        ):
            try:
                lines = path.read_text().splitlines()
            except UnicodeDecodeError:
                continue
            for number, line in enumerate(lines, 1):
                yield path, number, line


def spoken(line: str) -> bool:
    """Whether it may be what somebody says in a recording."""
    return any(re.search(kept, line) for kept in KEPT)


@pytest.mark.parametrize("avoided", AVOIDED)
def test_the_words_are_the_fields_own(avoided: str) -> None:
    word = re.compile(rf"(?<![A-Za-z])(?:{avoided})(?![A-Za-z])", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, number, line in texts()
        if word.search(line) and not spoken(line)
    ]
    assert not found, f"say {AVOIDED[avoided]}:\n" + "\n".join(found)
