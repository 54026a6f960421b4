"""`rtcstt serve`: the server."""

from __future__ import annotations

import argparse
import asyncio
import os

from rtcstt.embedded import heap
from rtcstt.http import run_until_stopped
from rtcstt.server.assembly import _tls, application
from rtcstt.server.settings import Settings, add_arguments, load

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    settings = load(args, os.environ)
    heap.one()
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    async with application(settings, os.environ) as app:
        await run_until_stopped(app, host=settings.host, port=settings.port, tls=_tls(settings))
