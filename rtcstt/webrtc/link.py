"""One connection of a caller to a server: it sends what it is given, and takes the events. A caller whose
server dies, or asks them to move, makes another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiortc import MediaStreamTrack, RTCSessionDescription

from rtcstt.errors import CallerError
from rtcstt.webrtc import sdp
from rtcstt.webrtc.aiortc_private import fall_silent, intercept_rtp, shape_gathering
from rtcstt.webrtc.connection import close_connection, new_connection, transports_of
from rtcstt.webrtc.impairment import GilbertElliottLoss, Network

CONNECT_S = 30.0


class Link:
    """``on_message`` gets what comes over the data channel, ``on_change`` is told of every other change."""

    def __init__(
        self,
        shape: Mapping[str, object],
        network: Network | None,
        *,
        channel: bool,
        on_message: Callable[[str | bytes], None],
        on_change: Callable[[], None],
    ) -> None:
        self.pc = new_connection(())
        self.channel = self.pc.createDataChannel("events") if channel else None
        self._shape = shape
        self._network = network
        self._on_message = on_message
        self._on_change = on_change
        self._delayed: set[asyncio.Task[None]] = set()

    @property
    def is_over(self) -> bool:
        """It will never work again."""
        gone = self.channel is not None and self.channel.readyState in ("closing", "closed")
        return gone or self.pc.connectionState in ("failed", "closed")

    async def connect(
        self, tracks: Sequence[MediaStreamTrack], answer_to: Callable[[str], Awaitable[str]]
    ) -> None:
        """Returns when the connection stands; `CallerError` with the refusal, or when none comes about."""
        for track in tracks:
            self.pc.addTrack(track)
        self.pc.on("connectionstatechange", self._on_change)
        if self.channel is not None:
            self.channel.on("message", self._on_message)
            self.channel.on("close", self._on_change)
        offer = await self.pc.createOffer()
        for dtls in transports_of(self.pc):
            shape_gathering(dtls, **self._shape)  # type: ignore[arg-type]
            if self._network is not None:
                intercept_rtp(dtls, self._impairment(self._network))
        await self.pc.setLocalDescription(offer)
        answer = await answer_to(self.pc.localDescription.sdp)
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        if not _answers_channel(answer):
            self.channel = None
        await self._wait_connected()

    async def packets(self) -> int:
        """How many came so far."""
        stats = await self.pc.getStats()
        return sum(getattr(one, "packetsReceived", 0) for one in stats.values() if one.type == "transport")

    def send(self, text: str) -> None:
        """On the data channel; without an open one it is lost."""
        if self.channel is not None and self.channel.readyState == "open":
            self.channel.send(text)

    def vanish(self) -> None:
        for dtls in transports_of(self.pc):
            fall_silent(dtls)

    async def close(self) -> None:
        await close_connection(self.pc)
        for task in self._delayed:
            task.cancel()
        await asyncio.gather(*self._delayed, return_exceptions=True)

    async def _wait_connected(self) -> None:
        changed = asyncio.Event()
        self.pc.on("connectionstatechange", changed.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                while self.pc.connectionState not in ("connected", "failed", "closed"):
                    changed.clear()
                    await changed.wait()
        if self.pc.connectionState != "connected":
            message = f"The connection is {self.pc.connectionState}."
            raise CallerError(502, "not_connected", "No connection", message)

    def _impairment(
        self, network: Network
    ) -> Callable[[bytes, Callable[[bytes], Awaitable[object]]], Awaitable[None]]:
        loss = GilbertElliottLoss(network)

        async def impair(data: bytes, send: Callable[[bytes], Awaitable[object]]) -> None:
            delay_s = loss.next_delay_s()
            if delay_s is None:
                return
            if not network.jitter_ms:
                await send(data)
                return
            task = asyncio.create_task(_send_later(delay_s, data, send))
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)

        return impair


async def _send_later(delay_s: float, data: bytes, send: Callable[[bytes], Awaitable[object]]) -> None:
    await asyncio.sleep(delay_s)
    with contextlib.suppress(ConnectionError):
        await send(data)


def _answers_channel(answer: str) -> bool:
    sections = sdp.Description.parse(answer).sections
    return any(section.kind == "application" and section.port != "0" for section in sections)
