"""What a server writes of its calls, behind them: in virtual time, with a store that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rtcstt.call import Call
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.state import Written
from rtcstt.fleet.store import Store
from rtcstt.fleet.writer import Writer
from rtcstt.testing import ScriptedUpstream, run_virtual

ANSWER_S = 0.01  # of the store, to each write


class _Slow:
    """A store that keeps the operations of each write."""

    def __init__(self) -> None:
        self.writes: list[list[str | int | bytes]] = []

    async def create(
        self, call: str, node: str, fence: int, *, begun: float, record: Mapping[str, Any]
    ) -> Written:
        return Written.OK

    async def write(
        self, call: str, node: str, fence: int, operations: Sequence[str | int | bytes], *, ended: bool
    ) -> Written:
        self.writes.append(list(operations))
        await asyncio.sleep(ANSWER_S)
        return Written.OK


def test_a_call_that_another_server_takes_is_not_ended_by_a_write_that_began_before() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            store = _Slow()
            writer = Writer(cast(Store, store), "a", SharedClock(), keeps_audio=True)
            call = Call("c", stt=stt)
            writer.lost = lambda _: call.abandon()
            writer.begin(call, {})
            running = asyncio.create_task(writer.run())
            await asyncio.sleep(10 * ANSWER_S)  # all is written
            call.feed.on_published()  # as any call's event does: a round over all calls begins
            release = asyncio.create_task(writer.release("c"))  # once the round has chosen what to write
            await release
            await asyncio.sleep(10 * ANSWER_S)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await call.wait_closed()
        assert store.writes and not writer.has("c")
        assert not [operations for operations in store.writes if "closed" in operations]

    run_virtual(main())
