"""Logging of the command line and of its worker processes."""

from __future__ import annotations

import logging


def set_up(*, verbose: bool, server: bool, worker: int | None = None) -> None:
    """To stderr. Servers tell the lifecycle of calls; other commands have their own output."""
    quiet = logging.INFO if server else logging.WARNING
    number = "" if worker is None else f" worker {worker}"
    logging.basicConfig(
        level=logging.DEBUG if verbose else quiet,
        format=f"%(asctime)s %(levelname)s{number} %(name)s: %(message)s",
    )
    if not verbose:
        for chatty in ("aioice", "aiortc", "aiohttp.access", "websockets"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
