"""Gateways that have lost their connection, or their server, and come back to their call."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rtcstt.call import Call
from rtcstt.server.admission import Requester
from rtcstt.server.calls import Calls
from rtcstt.server.entries import Entry, digest

log = logging.getLogger(__name__)

BACK_S = 10.0  # a gateway that comes back does it soon, and who reads along waits for the end of its call


def gateway_key(by: Requester, kind: str, id: str) -> str:
    """What finds a gateway's call by the gateway's own id for it: of nobody who has another token."""
    return digest("\n".join((by.identity, kind, id)))


class GatewayLink:
    """One connection of a gateway's call; it takes the place of the one before. ``drop`` ends the connection.
    ``grace_s`` says for how long the gateway may come back once it is lost."""

    def __init__(self, entry: Entry, grace_s: Callable[[], float], drop: Callable[[], None]) -> None:
        self._entry = entry
        self._grace_s = grace_s
        self.drop = drop
        before, entry.link = entry.link, self
        if before is not None:
            before.drop()

    def close(self, *, lost: bool) -> None:
        """It has ended. ``lost``: without a word of the gateway."""
        entry = self._entry
        if entry.link is not self:
            return
        entry.link = None
        grace_s = self._grace_s() if lost and not entry.never_received else 0
        if grace_s and entry.call.state == "open":
            log.info("call %s: connection lost, waiting for the gateway to come back", entry.call.id)
            entry.wait_for_caller(grace_s, "connection lost")
        else:
            entry.call.hang_up("hung up")


def attach(calls: Calls, call: Call, drop: Callable[[], None]) -> GatewayLink:
    """A gateway's connection has the call from now on; ``drop`` ends it when another one takes its place."""

    def grace_s() -> float:
        return 0.0 if calls.stopping else min(BACK_S, calls.limits.resume_grace_s)

    return GatewayLink(calls.entry(call.id), grace_s, drop)


def admit_tracks(calls: Calls, call: Call, count: int) -> bool:
    """Whether a gateway's call may have so many tracks, for which streams are reserved then."""
    streams = calls.entry(call.id).streams
    return streams is None or streams.grow(count)


async def rejoin(calls: Calls, key: str, by: Requester, *, several: bool = False) -> Call | None:
    """The call that a gateway lost, by its key, also from another server; None: there is none. `CallerError`
    503 where there is no room for it, 409 while it has a connection, unless there may be ``several`` with one
    key."""
    entry = calls.entries.of_gateway(key)
    if entry is None:
        calls.check_room(by, gateway=True)
        await calls.fetch(key)
        entry = calls.entries.of_gateway(key)
    if entry is None or (several and not entry.awaits_gateway):
        return None
    return entry.rejoin(by, None)
