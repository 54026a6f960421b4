"""Which recordings are meant, and where their transcripts go."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STDIN = Path("-")
DIRECTIONS = frozenset(["LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"])
# In folders, files of these endings are taken for recordings; a file that is named is read whatever its
# ending.
ENDINGS = frozenset(
    """
    3g2 3gp 722 aa aa3 aac ac3 act adts adx aea aif aifc aiff alac amr apc ape aptx aptxhd asf ast au avi
    avr awb bonk c2 caf dav dff dif divx dsf dss dts dtshd dv eac3 ec3 f4a f4v fap flac flv g722 g723_1 g729
    gsm gxf hcom iamf iff ircam isma ismv ivr kar kux latm lc3 loas m2a m2ts m4a m4b m4r m4v mac mj2 mk3d
    mka mkv mlp mov mp1 mp2 mp3 mp4 mpa mpc mpeg mpg mpga msbc mts mxf nist nsp nsv nut oga ogg ogv ogx
    oma omg opus osq paf psp pvf qcp qoa qt ra rco rf64 rka rm rmvb rso sbc sd2 sds sdx sf shn sln snd
    sou sox spdif sph spx tak tco thd ts tta ty viv vob voc vqe vqf vql w64 wa wav wave weba webm wma
    wmv wsd wtv wv xwma
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Work:
    """A recording and where its transcripts go, by format: nowhere means to standard output. ``spool``: the
    file that has what came from standard input."""

    source: Path
    outputs: Mapping[str, Path] = field(default_factory=dict)
    spool: Path | None = None

    @property
    def path(self) -> Path:
        return self.spool or self.source

    @property
    def title(self) -> str:
        return "stdin" if self.source == STDIN else printable(self.source.name)


def find(given: Sequence[str]) -> list[tuple[Path, Path]]:
    """The recordings that files, folders and patterns stand for, each with the folder it was found under
    (of a folder's, that folder; else its own). What does not exist is among them: whoever reads it tells."""
    found: dict[Path, Path] = {}
    for word in given:
        for path, root in _found(word):
            found.setdefault(path, root)
    return list(found.items())


def _found(word: str) -> Iterator[tuple[Path, Path]]:
    path = Path(word)
    if path.is_dir():
        inside = in_folder(path)
        yield from ((one, path) for one in inside)
        if not inside:
            yield path, path.parent
    elif not os.path.lexists(path) and glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        for match in map(Path, matches):
            if match.is_dir():
                yield from ((inside, match) for inside in in_folder(match))
            else:
                yield match, match.parent
        if not matches:
            yield path, path.parent
    else:
        yield path, path.parent


def in_folder(folder: Path) -> list[Path]:
    """The recordings in a folder and those below, by their endings; none that is hidden."""
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(top, name) for name in sorted(names) if is_recording(name)]
    return found


def printable(path: Path | str) -> str:
    """A name may hold bytes that are no UTF-8, and characters that would steer a terminal."""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if _steers(c) else c for c in name)


def _steers(character: str) -> bool:
    """Whether it is a control character: of the terminal, of lines, or of the direction of writing."""
    return (
        unicodedata.category(character) in ("Cc", "Zl", "Zp")
        or unicodedata.bidirectional(character) in DIRECTIONS
    )


def is_recording(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix[1:].lower() in ENDINGS


def plan(
    found: Sequence[tuple[Path, Path]], formats: Sequence[str], folder: Path | None, spool: Path | None = None
) -> list[Work]:
    """Names outputs after the recording; its whole name where two differ only in what follows the dot, or
    where the output would be a recording itself. In an output folder, recordings of a folder keep their
    folders."""
    sources = {source for source, _ in found}
    stems = {source: _stem(source, root, folder) for source, root in found if source != STDIN}
    counts = Counter(stems.values())
    works = []
    for source, _ in found:
        if source == STDIN:
            works.append(Work(source, {} if folder is None else _outputs(folder / "stdin", formats), spool))
            continue
        stem = stems[source]
        outputs = _outputs(stem, formats)
        if counts[stem] > 1 or sources & set(outputs.values()):
            outputs = _outputs(stem.with_name(source.name), formats)
        works.append(Work(source, outputs))
    return works


def _stem(source: Path, root: Path, folder: Path | None) -> Path:
    if folder is None:
        return source.parent / source.stem
    return folder / source.parent.relative_to(root) / source.stem


def _outputs(base: Path, formats: Sequence[str]) -> dict[str, Path]:
    return {name: base.with_name(f"{base.name}.{name}") for name in formats}
