"""A WebRTC caller that plays recordings: the sending side of the demo, of `rtcstt call` and of tests."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

from aiortc import RTCPeerConnection

from rtcstt.errors import CallerError
from rtcstt.webrtc.impairment import Network
from rtcstt.webrtc.link import Link
from rtcstt.webrtc.playback import Playback
from rtcstt.webrtc.signaling import Answering, SignalingClient, open_signaling

log = logging.getLogger(__name__)

LOOK_S = 0.3  # between two looks whether anything comes
SILENT_S = 2.5  # servers report on what they receive (RTCP) every 0.5 to 1.5 s; nothing for longer: ask
OVERLAP_S = 2.0  # how long the old connection stays beside the new one
RETRY_S = (0.25, 2.0)  # the first wait between two offers, and the longest


class Caller:
    """One call to a server, or to a peer of this process.

    Each item of ``tracks`` is one audio track, as Opus packets of 20 ms (`recording.opus_packets`).
    `dial`, then read `events` until `session.end`; `hang_up` or `close` ends the call. ``network``
    impairs what is sent; ``mute`` (from, to; seconds) stops sending in between. ``resume_s``: for how long
    the call is offered again where its server does not answer any more, or asks for it (`session.move`).
    """

    def __init__(
        self,
        *tracks: Sequence[bytes],
        network: Network | None = None,
        mute: tuple[float, float] | None = None,
        hosts: Sequence[str] = (),
        loopback: bool = False,
        channel: bool = True,
        resume_s: float = 0.0,
    ) -> None:
        self._playbacks = [Playback(packets, mute) for packets in tracks]
        self._network = network
        self._shape = {"timeout_s": 1.0, "hosts": tuple(hosts), "loopback": loopback}
        self._resume_s = resume_s
        self._link = self._new_link(channel=channel)
        self._signaling: SignalingClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._over = self._asked_to_move = self._resuming = False
        self._seq = -1
        self.resumed = 0
        "How often the call went on over another connection."
        self.received: list[tuple[float, dict[str, object]]] = []
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

    @property
    def _pc(self) -> RTCPeerConnection:
        return self._link.pc

    async def dial(
        self, target: str | Answering, *, token: str | None = None, mode: str | None = None
    ) -> None:
        """Call a server (the URL of its ``/offer`` or ``/whip``) or a peer of this process.

        Returns when the connection stands. Raises `CallerError` with the server's refusal, or when
        no connection comes about within 30 s.
        """
        self._signaling = open_signaling(target, token=token, mode=mode)
        await self._link.connect(self._playbacks, self._signaling.offer)
        if self._link.channel is None:
            self._own(self._follow(self._signaling))
        if self._resume_s > 0 and self._signaling.resumes:
            self._own(self._keep_connected(self._signaling))

    async def events(self) -> AsyncIterator[dict[str, object]]:
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

    def send(self, message: Mapping[str, object]) -> None:
        """Send a command on the data channel; without one (WHIP) it is lost."""
        self._link.send(json.dumps(message))

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
                await self._until(lambda: self._over or not self._resuming)
                if self._link.channel is not None:
                    self.send({"type": "close"})
                elif self._signaling is not None:
                    await self._signaling.hang_up()
                await self._until(lambda: self._over)
        except TimeoutError:
            log.warning("no session.end within %g s of hanging up", timeout_s)
        await self.close()

    def vanish(self) -> None:
        """Send nothing any more, not even a goodbye; as a caller does whose battery is empty."""
        self._link.vanish()

    async def close(self) -> None:
        """Close the connection at once, as a browser does whose page is left."""
        self._end()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()
        if self._signaling is not None:
            await self._signaling.close()

    # -- another connection ----------------------------------------------------------------------------

    async def _keep_connected(self, signaling: SignalingClient) -> None:
        """Offer again when nothing comes any more, or when the server asks for it."""
        clock = asyncio.get_running_loop().time
        count, since = -1, clock()
        while not self._over:
            await asyncio.sleep(LOOK_S)
            before, count = count, await self._link.packets()
            since = clock() if count != before else since
            if self._asked_to_move or self._link.is_over or clock() - since > SILENT_S:
                self._resuming = True
                await self._offer_again(signaling)
                self._resuming = self._asked_to_move = False
                self._wake()
                count, since = -1, clock()

    async def _offer_again(self, signaling: SignalingClient) -> None:
        clock = asyncio.get_running_loop().time
        deadline, (wait_s, longest_s) = clock() + self._resume_s, RETRY_S
        while not self._over:
            link = self._new_link(channel=self._link.channel is not None)
            try:
                await link.connect([one.again() for one in self._playbacks], signaling.offer)
            except CallerError as error:
                log.info("the call cannot go on yet: %s", error.message)
                await link.close()
                if error.code == "call_connected":  # the server still gets what the old connection brings
                    return
                if error.code in ("call_ended", "call_not_found", "not_your_call") or clock() > deadline:
                    self._end()
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, longest_s)
            except asyncio.CancelledError:
                await link.close()
                raise
            else:
                old, self._link = self._link, link
                self.resumed += 1
                self._own(_closed_later(old))
                return

    def _new_link(self, *, channel: bool) -> Link:
        link = Link(
            self._shape,
            self._network,
            channel=channel,
            on_message=self._on_message,
            on_change=lambda: self._on_change(link),
        )
        return link

    # -- inside ----------------------------------------------------------------------------------------

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        """The events by HTTP."""
        while True:
            try:
                async for text in signaling.events(self._seq):
                    self._on_message(text)
            except CallerError as error:
                log.info("no events: %s", error.message)
            if self._over or not self._resume_s or not signaling.resumes:
                break
            await asyncio.sleep(LOOK_S)
        self._end()

    def _on_message(self, text: str | bytes) -> None:
        event = json.loads(text)
        seq = event.get("seq", self._seq + 1)
        if seq <= self._seq:  # another connection brings all of them once more
            return
        self._seq = seq
        self.received.append((asyncio.get_running_loop().time(), event))
        self._asked_to_move |= event["type"] == "session.move"
        if event["type"] == "session.end":
            self._over = True
        self._wake()

    def _on_change(self, link: Link) -> None:
        resumes = self._resume_s > 0 and self._signaling is not None and self._signaling.resumes
        if link is self._link and link.is_over and not resumes:
            self._over = True
        self._wake()


async def _closed_later(link: Link) -> None:
    """The server goes over to the new connection within this time."""
    try:
        await asyncio.sleep(OVERLAP_S)
    finally:
        await link.close()
