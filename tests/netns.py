"""Networks of one's own for tests that need a NAT or a way out; for root on Linux only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest


def do(*words: str) -> None:
    """Run a command of the set-up; the test is skipped where the kernel or the container refuses it."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"not possible here: {' '.join(words)}: {done.stderr.strip()}")


def enter(name: str) -> tuple[str, ...]:
    """What to write before a command to run it there."""
    return ("ip", "netns", "exec", name)


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[list[str]]:
    """Network namespaces with nothing but loopback; the test is skipped where there can be none."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and Debian's iproute2")
    made: list[str] = []
    try:
        for name in names:
            full = f"rtcstt-{os.getpid()}-{name}"
            do("ip", "netns", "add", full)
            made.append(full)
            do("ip", "-n", full, "link", "set", "lo", "up")
        yield made
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True, capture_output=True)


def join(one: str, address: str, other: str, others_address: str, *, name: str) -> None:
    """A cable between two namespaces; its ends are NAME0 and NAME1."""
    do(
        "ip",
        "link",
        "add",
        f"{name}0",
        "netns",
        one,
        "type",
        "veth",
        "peer",
        "name",
        f"{name}1",
        "netns",
        other,
    )
    for namespace, end, its in ((one, f"{name}0", address), (other, f"{name}1", others_address)):
        do("ip", "-n", namespace, "addr", "add", its, "dev", end)
        do("ip", "-n", namespace, "link", "set", end, "up")
