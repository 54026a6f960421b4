"""A call as the server keeps it. In virtual time."""

from __future__ import annotations

import asyncio
import gc
from typing import cast

from rtcstt.call import Call, CallSettings
from rtcstt.http.access import Authenticator
from rtcstt.http.guard import Guard
from rtcstt.http.loop_monitor import Stalls
from rtcstt.server.admission import Limits
from rtcstt.server.calls import Calls
from rtcstt.server.entries import MOVE_S, Entry
from rtcstt.server.metrics import Metrics
from rtcstt.testing import ScriptedUpstream, run_virtual
from rtcstt.webrtc.connection import PeerSettings
from rtcstt.webrtc.peer import Peer


def test_who_is_silent_when_asked_to_move_has_time_to() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            entry = Entry(call, placed=0.0, peer=cast(Peer, object()))
            assert not entry.speaks, "a server that stops waits for nobody who is silent"
            entry.ask_to_move("drain")
            assert call.feed.history[-1].type == "session.move"
            await asyncio.sleep(MOVE_S - 1)
            assert entry.speaks
            await asyncio.sleep(2)
            assert not entry.speaks
            entry.ask_to_move("drain")
            await call.close()
            assert not entry.speaks

    run_virtual(main())


def test_metrics_keep_nothing_of_forgotten_calls_but_their_counts() -> None:
    """Also where nobody asks for them."""

    async def main() -> None:
        async with ScriptedUpstream() as stt:
            limits = Limits(keep_ended=2)
            calls = Calls(stt=stt, settings=CallSettings(), peers=PeerSettings, limits=limits)
            metrics = Metrics(calls, Stalls(), Guard(Authenticator()))
            for _ in range(10):
                await calls.begin().close()
                await asyncio.sleep(1)
            assert len(calls.all()) == 2
            gc.collect()
            assert len(metrics._counted) == 2
            assert b"rtcstt_events_total 20.0" in metrics.render(), "session.start and session.end of each"

    run_virtual(main())
