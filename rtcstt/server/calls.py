"""The calls of a server: placing them, finding them, resuming them, ending them all."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rtcstt.call import Call, CallSettings, Recorder
from rtcstt.errors import CallerError
from rtcstt.peer import Peer, PeerSettings
from rtcstt.upstream import Stt

log = logging.getLogger(__name__)

KEPT_ENDED = 200  # calls that can still be read after their end
QUIET_S = 2.0  # a connection that sent nothing for so long may be replaced by a new offer


@dataclass(slots=True)
class Entry:
    """A call, its present connection, and the timers that end it."""

    call: Call
    peer: Peer | None = None
    waiting: asyncio.TimerHandle | None = None
    longest: asyncio.TimerHandle | None = None
    ending: set[asyncio.Task[None]] = field(default_factory=set)


class Calls:
    """``recorder`` makes the recorder of a new call, where calls are recorded."""

    def __init__(
        self,
        *,
        stt: Stt,
        settings: CallSettings,
        peers: PeerSettings,
        max_calls: int,
        max_call_s: float,
        resume_grace_s: float,
        recorder: Callable[[str], Recorder] | None = None,
    ) -> None:
        self.stt = stt
        self.settings = replace(settings, outlives_peers=resume_grace_s > 0)
        self._peers = peers
        self._max_calls = max_calls
        self._max_call_s = max_call_s
        self._grace_s = resume_grace_s
        self._recorder = recorder
        self._entries: dict[str, Entry] = {}
        self._stopping = False
        self.placed = 0
        self.refused = 0

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return sum(entry.call.state != "closed" for entry in self._entries.values())

    def all(self) -> list[Call]:
        """Every call that is remembered, newest last."""
        return [entry.call for entry in self._entries.values()]

    def find(self, id: str) -> Call:
        """`CallerError` 404 when there is none."""
        return self._entry(id).call

    def peer(self, id: str) -> Peer | None:
        """The call's present connection."""
        return self._entry(id).peer

    async def place(
        self, sdp: str, *, mode: str | None, label: str | None, metadata: Mapping[str, Any] | None
    ) -> tuple[Call, str]:
        """A new call, and the answer to its offer. Nothing of it is left when the offer is refused."""
        self._check_room()
        settings = self.settings if mode is None else replace(self.settings, mode=mode)  # type: ignore[arg-type]
        id = secrets.token_urlsafe(12)
        recorder = self._recorder(id) if self._recorder else None
        call = Call(id, stt=self.stt, label=label, metadata=metadata, settings=settings, recorder=recorder)
        entry = Entry(call)
        self._entries[id] = entry  # counts from now on, so that offers at once cannot be too many
        try:
            answer = await self._connect(entry, sdp)
        except BaseException:
            del self._entries[id]
            await call.close("refused")
            raise
        self.placed += 1
        loop = asyncio.get_running_loop()
        entry.longest = loop.call_later(self._max_call_s, self._end_soon, entry, "longest call reached")
        self._forget_oldest()
        return call, answer

    async def resume(self, id: str, sdp: str) -> tuple[Call, str]:
        """Another connection for a call whose caller lost his; 409 while the old one still speaks."""
        entry = self._entry(id)
        if entry.call.state != "open":
            raise CallerError(409, "call_ended", "The call has ended", "Place a new call.")
        if entry.peer is not None and entry.call.silent_s() < QUIET_S:
            raise CallerError(409, "call_connected", "Second offer", "This call has a connection that works.")
        old = entry.peer
        answer = await self._connect(entry, sdp)
        if old is not None:
            await old.close("replaced")
        return entry.call, answer

    async def hang_up(self, id: str, reason: str = "hung up") -> None:
        """Drain a call and end it."""
        await self._entry(id).call.close(reason)

    async def close(self, reason: str = "server stops") -> None:
        """Take no more calls, drain those that are open, and wait until all connections are closed."""
        self._stopping = True
        entries = list(self._entries.values())
        await asyncio.gather(*(entry.call.close(reason) for entry in entries))
        peers = [entry.peer for entry in entries if entry.peer is not None]
        await asyncio.gather(*(peer.wait_closed() for peer in peers))
        for entry in entries:
            self._cancel_timers(entry)
            await asyncio.gather(*entry.ending)

    def _entry(self, id: str) -> Entry:
        entry = self._entries.get(id)
        if entry is None:
            raise CallerError(404, "call_not_found", "No such call", "There is no call with this id.")
        return entry

    def _check_room(self) -> None:
        if self._stopping:
            self.refused += 1
            raise CallerError(503, "stopping", "The server stops", "Try another one.", retry_after_s=30)
        if self.open >= self._max_calls:
            self.refused += 1
            message = f"{self._max_calls} calls are going on."
            raise CallerError(503, "full", "The server is full", message, retry_after_s=10)

    async def _connect(self, entry: Entry, sdp: str) -> str:
        peer: Peer

        async def on_lost(reason: str) -> None:
            await self._lost(entry, peer, reason)

        peer = Peer(entry.call, settings=self._peers, on_lost=on_lost)
        answer = await peer.answer(sdp)
        entry.peer = peer
        if entry.waiting is not None:
            entry.waiting.cancel()
            entry.waiting = None
        return answer

    async def _lost(self, entry: Entry, peer: Peer, reason: str) -> None:
        """A caller who hung up is gone; one who lost the network may come back."""
        if entry.peer is not peer:
            return  # replaced already
        if self._grace_s > 0 and not peer.hung_up and not self._stopping:
            entry.peer = None
            log.info("call %s: %s, waiting for the caller to come back", entry.call.id, reason)
            loop = asyncio.get_running_loop()
            entry.waiting = loop.call_later(self._grace_s, self._end_soon, entry, reason)
            return
        await entry.call.close(reason)

    def _end_soon(self, entry: Entry, reason: str) -> None:
        task = asyncio.create_task(entry.call.close(reason))
        entry.ending.add(task)
        task.add_done_callback(entry.ending.discard)

    def _cancel_timers(self, entry: Entry) -> None:
        for timer in (entry.waiting, entry.longest):
            if timer is not None:
                timer.cancel()

    def _forget_oldest(self) -> None:
        ended = [id for id, entry in self._entries.items() if entry.call.state == "closed"]
        for id in ended[: max(0, len(ended) - KEPT_ENDED)]:
            self._cancel_timers(self._entries.pop(id))
