"""A WebRTC caller that plays recordings: the sending side of the demo, of `rtcstt call` and of tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import av
from aiortc import MediaStreamTrack, RTCSessionDescription

from rtcstt.errors import CallerError
from rtcstt.webrtc import sdp
from rtcstt.webrtc.aiortc_private import fall_silent, intercept_rtp, shape_gathering
from rtcstt.webrtc.connection import close_connection, new_connection, transports_of
from rtcstt.webrtc.impairment import GilbertElliottLoss, Network
from rtcstt.webrtc.playback import PACKET_S, PACKET_SAMPLES, TIME_BASE, silence_packet
from rtcstt.webrtc.signaling import Answering, SignalingClient, open_signaling

log = logging.getLogger(__name__)


class Caller:
    """One call to a server, or to a peer of this process.

    Each item of ``tracks`` is one audio track, as Opus packets of 20 ms (`recording.opus_packets`).
    `dial`, then read `events` until `session.end`; `hang_up` or `close` ends the call. ``network``
    impairs what is sent; ``mute`` (from, to; seconds) stops sending in between.
    """

    def __init__(
        self,
        *tracks: Sequence[bytes],
        network: Network | None = None,
        mute: tuple[float, float] | None = None,
        hosts: Sequence[str] = (),
        loopback: bool = False,
        channel: bool = True,
    ) -> None:
        self._pc = new_connection(())
        self._playbacks = [_Playback(packets, mute) for packets in tracks]
        self._network = network
        self._shape = {"timeout_s": 1.0, "hosts": tuple(hosts), "loopback": loopback}
        self._channel = self._pc.createDataChannel("events") if channel else None
        self._signaling: SignalingClient | None = None
        self._watch: asyncio.Task[None] | None = None
        self._delayed: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._over = False
        self.received: list[tuple[float, dict[str, Any]]] = []
        """Every event with the loop's time of its arrival."""

    @property
    def started(self) -> float | None:
        """The loop's time at which the first packet was sent."""
        future = self._playbacks[0].started
        return future.result() if future.done() else None

    @property
    def call(self) -> str | None:
        """The call's id, once the server has answered with it."""
        return self._signaling.call if self._signaling else None

    async def dial(
        self, target: str | Answering, *, token: str | None = None, mode: str | None = None
    ) -> None:
        """Call a server (the URL of its ``/offer`` or ``/whip``) or a peer of this process.

        Returns when the connection stands. Raises `CallerError` with the server's refusal, or when
        no connection comes about within 30 s.
        """
        for playback in self._playbacks:
            self._pc.addTrack(playback)
        self._pc.on("connectionstatechange", self._on_state)
        if self._channel is not None:
            self._channel.on("message", self._on_message)
            self._channel.on("close", self._end)
        offer = await self._pc.createOffer()
        for dtls in transports_of(self._pc):
            shape_gathering(dtls, **self._shape)  # type: ignore[arg-type]
            if self._network is not None:
                intercept_rtp(dtls, self._impairment(self._network))
        await self._pc.setLocalDescription(offer)
        self._signaling = open_signaling(target, token=token, mode=mode)
        answer = await self._signaling.offer(self._pc.localDescription.sdp)
        await self._pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        if self._channel is None or not _answers_channel(answer):
            self._channel = None
            self._watch = asyncio.create_task(self._follow(self._signaling))
        await self._wait_connected()

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Every event from the first; ends after `session.end`, or when the call is over without."""
        index = 0
        while True:
            await self._until(lambda: len(self.received) > index or self._over)  # noqa: B023
            if index >= len(self.received):
                return
            yield self.received[index][1]
            index += 1

    async def played(self) -> None:
        """Until every recording has been sent to its end, or the call is over."""
        for playback in self._playbacks:
            playback.played.add_done_callback(self._wake)
        await self._until(lambda: self._over or all(p.played.done() for p in self._playbacks))

    def send(self, message: dict[str, Any]) -> None:
        """Send a command on the data channel; without one (WHIP) it is lost."""
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps(message))

    @property
    def drains(self) -> bool:
        """The server has calls that end with `session.end`; others just answer offers."""
        return self._signaling is not None and self._signaling.drains

    async def hang_up(self, *, timeout_s: float = 60.0) -> None:
        """Ask for the drain, wait for `session.end`, and close."""
        if not self.drains:
            await self.close()
            return
        try:
            async with asyncio.timeout(timeout_s):
                if self._channel is not None:
                    self.send({"type": "close"})
                elif self._signaling is not None:
                    await self._signaling.hang_up()
                await self._until(lambda: self._over)
        except TimeoutError:
            log.warning("no session.end within %g s of hanging up", timeout_s)
        await self.close()

    def vanish(self) -> None:
        """Send nothing any more, not even a goodbye; as a caller does whose battery is empty."""
        for dtls in transports_of(self._pc):
            fall_silent(dtls)

    async def close(self) -> None:
        """Close the connection at once, as a browser does whose page is left."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await close_connection(self._pc)
        for task in self._delayed:
            task.cancel()
        await asyncio.gather(*self._delayed, return_exceptions=True)
        if self._signaling is not None:
            await self._signaling.close()
        self._end()

    def _impairment(self, network: Network) -> Callable[[bytes, Callable[[bytes], Any]], Any]:
        fate = GilbertElliottLoss(network)

        async def impair(data: bytes, send: Callable[[bytes], Any]) -> None:
            delay_s = fate.next_delay_s()
            if delay_s is None:
                return
            if not network.jitter_ms:
                await send(data)
                return
            task = asyncio.create_task(self._send_later(delay_s, data, send))
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)

        return impair

    async def _send_later(self, delay_s: float, data: bytes, send: Callable[[bytes], Any]) -> None:
        await asyncio.sleep(delay_s)
        with contextlib.suppress(ConnectionError):
            await send(data)

    async def _wait_connected(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await self._until(lambda: self._over or self._pc.connectionState == "connected")
        if self._pc.connectionState != "connected":
            raise CallerError(
                502, "not_connected", "No connection", f"The connection is {self._pc.connectionState}."
            )

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            await self._news.wait()

    def _wake(self, *_: object) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _end(self) -> None:
        self._over = True
        self._wake()

    async def _follow(self, signaling: SignalingClient) -> None:
        async for text in signaling.events():
            self._on_message(text)
        self._end()

    def _on_message(self, text: Any) -> None:
        event = json.loads(text)
        self.received.append((asyncio.get_running_loop().time(), event))
        if event["type"] == "session.end":
            self._over = True
        self._wake()

    def _on_state(self) -> None:
        if self._pc.connectionState in ("failed", "closed"):
            self._over = True
        self._wake()


class _Playback(MediaStreamTrack):
    """Opus packets in their time, then silence, as a microphone goes on.

    During ``mute`` (from, to; seconds from the start) nothing is sent and, as browsers do after
    `replaceTrack(null)`, sequence numbers and timestamps know nothing of the pause.
    """

    kind = "audio"

    def __init__(self, packets: Sequence[bytes], mute: tuple[float, float] | None) -> None:
        super().__init__()
        self._packets = packets
        self._mute = mute
        self._silence = silence_packet()
        self._index = 0
        self._origin = 0.0
        self.started: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.played: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def recv(self) -> Any:
        loop = asyncio.get_running_loop()
        if not self.started.done():
            self._origin = loop.time()
            self.started.set_result(self._origin)
        if self._mute and self._index == round(self._mute[0] / PACKET_S):
            self._origin += self._mute[1] - self._mute[0]
        await asyncio.sleep(self._origin + self._index * PACKET_S - loop.time())
        if self._index < len(self._packets):
            data = self._packets[self._index]
        else:
            data = self._silence
            if not self.played.done():
                self.played.set_result(loop.time())
        packet = av.Packet(data)
        packet.pts = packet.dts = self._index * PACKET_SAMPLES
        packet.time_base = TIME_BASE
        self._index += 1
        return packet


def _answers_channel(answer: str) -> bool:
    sections = sdp.Description.parse(answer).sections
    return any(section.kind == "application" and section.port != "0" for section in sections)
