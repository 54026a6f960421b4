"""`rtcstt serve`: the server."""

from __future__ import annotations

import os

from rtcstt.commands.models import ensure
from rtcstt.embedded import heap, processors
from rtcstt.fleet import parent
from rtcstt.fleet.member import MEMBER
from rtcstt.fleet.shares import count_of
from rtcstt.http import run_until_stopped
from rtcstt.http.serving import raise_descriptor_limit
from rtcstt.server import wakeups
from rtcstt.server.assembly import application, check, tls_context
from rtcstt.server.settings import Settings

Options = Settings


def run(settings: Settings) -> int:
    check(settings, os.environ)
    if "embedded" in (*settings.stt, settings.fallback):
        ensure(settings.model, offline=settings.offline)
    count = count_of(settings.workers, processors.usable())
    if count == 1:
        heap.one()
        raise_descriptor_limit()
        wakeups.run(_serve(settings, None))
        return 0
    plan = parent.Plan(
        count=count,
        entry=_work,
        settings=lambda index: settings.of_worker(index, count),
        host=settings.host,
        port=settings.port,
        scheme="https" if settings.tls_cert else "http",
        stop_s=settings.drain_s + settings.drain_timeout_s,
    )
    return parent.run(plan)


def _work(assignment: parent.Assignment, settings: Settings) -> None:
    """One of the workers, in its process."""
    heap.one()
    raise_descriptor_limit()
    processors.share(assignment.count)
    wakeups.run(_serve(settings, assignment))


async def _serve(settings: Settings, assignment: parent.Assignment | None) -> None:
    async with application(settings, os.environ, assignment) as app:
        member = app[MEMBER]
        heap.settle()
        await run_until_stopped(
            app,
            host=settings.host,
            port=settings.port,
            tls=tls_context(settings),
            ready=member.ready,
            sockets=assignment.listeners if assignment else None,
            local=member.local_sockets(),
            drain=member.drain,
            max_connections=settings.max_connections,
        )
