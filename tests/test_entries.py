"""A call as the server keeps it. In virtual time."""

from __future__ import annotations

import asyncio
from typing import cast

from rtcstt.call import Call
from rtcstt.server.entries import MOVE_S, Entry
from rtcstt.testing import ScriptedUpstream, run_virtual
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
