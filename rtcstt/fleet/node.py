"""The name of a process in the fleet; a core."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A process: its ``machine`` (a parent and its workers), its number there, and a text that no other start
    of it had."""

    machine: str
    worker: int
    start: str

    @property
    def name(self) -> str:
        return f"{self.machine}.{self.worker}.{self.start}"

    def sibling(self, name: str) -> int | None:
        """The number of a worker behind the same port; None for any other node."""
        machine, _, rest = name.partition(".")
        worker = rest.partition(".")[0]
        return int(worker) if machine == self.machine and worker.isdecimal() else None
