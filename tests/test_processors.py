"""How many processors a container leaves to this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtcstt.embedded import processors

MACHINE = 16


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MACHINE)), raising=False)


def usable(folder: Path, place: str, limits: dict[str, str]) -> int:
    for group, limit in limits.items():
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / "cpu.max").write_text(limit)
    own = folder / "self"
    own.write_text(f"1:name=systemd:/elsewhere\n0::{place}\n")
    return processors.usable(folder, own)


@pytest.mark.parametrize(
    ("place", "limits", "found"),
    [
        ("/", {}, MACHINE),
        ("/", {"": "max 100000\n"}, MACHINE),
        ("/", {"": "200000 100000\n"}, 2),
        ("/", {"": "250000 100000\n"}, 3),
        ("/", {"": "20000 100000\n"}, 1),
        ("/", {"": "6400000 100000\n"}, MACHINE),
        ("/system.slice/own", {"system.slice/own": "400000 100000\n"}, 4),
        ("/pod/own", {"pod": "300000 100000\n", "pod/own": "max 100000\n"}, 3),
        ("/pod/own", {"pod/other": "100000 100000\n"}, MACHINE),
    ],
)
def test_the_tightest_quota_above_a_process_counts(
    tmp_path: Path, place: str, limits: dict[str, str], found: int
) -> None:
    assert usable(tmp_path, place, limits) == found


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert processors.usable(tmp_path, tmp_path / "none") == MACHINE


def test_of_this_machine_there_is_at_least_one() -> None:
    assert 1 <= processors.usable() <= MACHINE
