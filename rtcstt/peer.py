"""WebRTC by aiortc: the peer that answers a caller, and a caller to test it with.

A `Peer` is one caller's connection; the `Call` behind it may outlive it. Each audio section of the
offer becomes a line of the call; every data channel that the caller opens gets every event of the
call, from the first, and what the caller says there goes to the call as commands.

This module and `aiortc_private` are the only ones that import aiortc.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcicetransport import parse_stun_turn_uri
from aiortc.sdp import candidate_from_sdp

from rtcstt import sdp
from rtcstt.aiortc_private import (
    TrackTap,
    TransportTap,
    bend_sending,
    fall_silent,
    negotiated,
    shape_gathering,
)
from rtcstt.doors import Door, open_door
from rtcstt.errors import CallerError, ConfigError
from rtcstt.pcm import Samples
from rtcstt.recording import PACKET_S, PACKET_SAMPLES, TIME_BASE, Fate, Network, silence_packet

if TYPE_CHECKING:
    from rtcstt.call import Call

log = logging.getLogger(__name__)

MAX_CHANNELS = 8
BUFFERED_HIGH = 16 * 1024  # bytes waiting on a data channel before the feed is left to coalesce
BUFFERED_LOW = 4 * 1024
GOODBYE_S = 2.0  # how long the last events may take to reach the caller
SHUT_S = 5.0


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server; TURN needs ``username`` and ``credential``."""

    url: str
    username: str | None = None
    credential: str | None = None

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """``stun:HOST[:PORT]`` or ``turn:[USER:PASSWORD@]HOST[:PORT][?transport=tcp]``."""
        scheme, _, rest = text.partition(":")
        secret, at, host = rest.rpartition("@")
        user, _, password = secret.partition(":")
        server = cls(f"{scheme}:{host}", user or None, password or None) if at else cls(text)
        try:
            parse_stun_turn_uri(server.url)
        except ValueError as error:
            raise ConfigError(f"{server.url} is not the URL of a STUN or TURN server: {error}") from error
        return server


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How peers connect.

    ``hosts``: the local addresses to offer as candidates; empty means all that the machine has.
    ``loopback``: offer 127.0.0.1 as well. ``max_tracks``: audio sections of one offer that are
    taken. ``stereo``, ``dtx``: what the answer asks of an Opus sender.
    """

    ice_servers: tuple[IceServer, ...] = ()
    hosts: tuple[str, ...] = ()
    loopback: bool = False
    gather_timeout_s: float = 1.0
    connect_timeout_s: float = 30.0
    max_tracks: int = 8
    stereo: bool = False
    dtx: bool = False


class Ears:
    """Makes each audio track of a connection a line of the call, also of tracks that come later.

    ``offered`` tells of payload types that aiortc does not negotiate (telephone-event, comfort
    noise) and that a sender may use all the same.
    """

    def __init__(self, pc: RTCPeerConnection, call: Call, offered: sdp.Description | None = None) -> None:
        self._pc = pc
        self._call = call
        self._offered = offered
        self._transports: dict[Any, TransportTap] = {}
        self._heard: set[Any] = set()
        pc.on("track", self._on_track)
        self._on_track()

    @property
    def failures(self) -> int:
        """Packets that made our own code fail; each was dropped."""
        return sum(transport.failures for transport in self._transports.values())

    def end(self, reason: str) -> None:
        """No packet will come any more; the lines end."""
        with contextlib.suppress(KeyError):  # a closed connection has dropped its listeners
            self._pc.remove_listener("track", self._on_track)
        for transport in self._transports.values():
            transport.end(reason)

    def _on_track(self, _track: Any = None) -> None:
        for transceiver in self._pc.getTransceivers():
            receiver = transceiver.receiver
            if transceiver.kind == "audio" and receiver.track and transceiver.mid not in self._heard:
                self._heard.add(transceiver.mid)
                self._hear(transceiver)

    def _hear(self, transceiver: Any) -> None:
        codecs, mid_extension = negotiated(transceiver)
        section = self._offered.section(transceiver.mid) if self._offered else None
        codecs = {**(section.codecs() if section else {}), **codecs}
        line = self._call.add_track(transceiver.mid, codecs)
        track = TrackTap(
            transceiver, mid=transceiver.mid, codecs=codecs, on_packet=line.push, on_end=line.end
        )
        dtls = transceiver.receiver.transport
        transport = self._transports.get(dtls)
        if transport is None:
            transport = self._transports[dtls] = TransportTap(dtls)
        transport.add(track, mid_extension)


class Channels:
    """Sends every data channel that the caller opens every event, and takes his commands from there."""

    def __init__(self, pc: RTCPeerConnection, call: Call) -> None:
        self._pc = pc
        self._call = call
        self._speaking: set[asyncio.Task[None]] = set()
        self._closed = False
        self.refused = 0
        pc.on("datachannel", self._on_channel)

    def __len__(self) -> int:
        return len(self._speaking)

    async def finish(self, timeout_s: float) -> None:
        """Once the call has ended: let what is still due arrive."""
        if self._speaking:
            await asyncio.wait(self._speaking, timeout=timeout_s)

    async def close(self) -> None:
        self._closed = True
        with contextlib.suppress(KeyError):
            self._pc.remove_listener("datachannel", self._on_channel)
        speaking = list(self._speaking)
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._closed or len(self._speaking) >= MAX_CHANNELS:
            self.refused += 1
            channel.close()
            return
        channel.on("message", self._on_message)
        task = asyncio.create_task(_speak(channel, self._call))
        self._speaking.add(task)
        task.add_done_callback(self._speaking.discard)

    def _on_message(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode("utf-8", "replace")
        try:
            self._call.command(text)
        except Exception:  # an exception here would end the whole transport
            log.exception("a caller's command failed")


class Peer:
    """One caller's connection to a call.

    `answer` once; then the peer lives until the connection is lost, the call ends, or `close`.
    When the connection is lost ``on_lost`` is awaited with the reason; by default it closes the
    call, which drains it. When the call ends, every event reaches the data channels before the
    connection is closed.
    """

    def __init__(
        self,
        call: Call,
        *,
        settings: PeerSettings | None = None,
        on_lost: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._call = call
        self._settings = settings or PeerSettings()
        self._on_lost = on_lost or call.close
        self._pc = _connection(self._settings.ice_servers)
        self._pc.on("connectionstatechange", self._on_state)
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ears: Ears | None = None
        self._channels = Channels(self._pc, call)
        self._trickling: set[asyncio.Task[None]] = set()
        self._life: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """`new`, `connecting`, `connected`, `failed` or `closed`."""
        return str(self._pc.connectionState)

    def stats(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "channels": len(self._channels),
            "refused_channels": self._channels.refused,
            "packet_failures": self._ears.failures if self._ears else 0,
        }

    async def answer(self, text: str) -> str:
        """The SDP answer to a caller's offer.

        Raises `CallerError` 400 for an offer that cannot be answered, 409 for a second one, 503
        when no network address is there to answer with. After an error the peer is closed.
        """
        if self._ears is not None:
            raise CallerError(409, "already_answered", "Second offer", "This call has been answered already.")
        try:
            offer = sdp.Offer.parse(text, max_tracks=self._settings.max_tracks)
            self._ears = Ears(self._pc, self._call, offer.whole)
            await self._negotiate(offer)
        except BaseException:
            await self.close()
            raise
        self._life = asyncio.create_task(self._live())
        for mid, candidate in offer.trickled:
            self._trickle(mid, candidate)
        preference = sdp.opus_preference(stereo=self._settings.stereo, dtx=self._settings.dtx)
        return offer.answer(self._pc.localDescription.sdp, opus=preference)

    def add_candidates(self, fragment: str) -> None:
        """Candidates that come after the offer (RFC 8840); unusable ones are left out."""
        for mid, candidate in sdp.candidates(fragment):
            self._trickle(mid, candidate)

    async def wait_closed(self) -> None:
        """Until the connection is closed and nothing of it runs any more."""
        if self._life is not None:
            await asyncio.shield(self._life)

    async def close(self, reason: str = "closed") -> None:
        """End the connection as if the caller had gone, and wait until nothing of it runs any more."""
        self._lose(reason)
        if self._life is None:
            await self._shut()
        await self.wait_closed()

    async def _negotiate(self, offer: sdp.Offer) -> None:
        pc, settings = self._pc, self._settings
        try:
            await pc.setRemoteDescription(RTCSessionDescription(str(offer.taken), "offer"))
            answer = await pc.createAnswer()
        except Exception as error:
            # aiortc has no error of its own for a bad description: asserts, key and value errors.
            log.debug("aiortc refused an offer", exc_info=True)
            raise sdp.bad_offer(f"The offer cannot be used ({type(error).__name__}).") from error
        for dtls in _transports(pc):
            shape_gathering(
                dtls,
                timeout_s=settings.gather_timeout_s,
                hosts=settings.hosts,
                loopback=settings.loopback,
            )
        await pc.setLocalDescription(answer)
        if "a=candidate:" not in pc.localDescription.sdp:
            raise CallerError(
                503, "no_candidates", "No way to connect", "The server found no address to be reached at."
            )

    def _trickle(self, mid: str, candidate: str) -> None:
        if len(self._trickling) < sdp.MAX_CANDIDATES and not self._lost.done():
            task = asyncio.create_task(self._add_candidate(mid, candidate))
            self._trickling.add(task)
            task.add_done_callback(self._trickling.discard)

    async def _add_candidate(self, mid: str, candidate: str) -> None:
        try:
            found = candidate_from_sdp(candidate)
            found.sdpMid = mid or self._pc.getTransceivers()[0].mid
            await self._pc.addIceCandidate(found)
        except Exception:  # whatever one candidate does, the others may still connect
            log.debug("a candidate was not added", exc_info=True)

    def _on_state(self) -> None:
        log.debug("connection %s", self.state)
        if self.state in ("failed", "closed"):
            self._lose("connection " + self.state)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = self._settings.connect_timeout_s
        overdue = loop.call_later(timeout_s, self._check_connected, f"not connected within {timeout_s:g} s")
        ended = asyncio.create_task(self._call.wait_closed())
        try:
            await asyncio.wait({ended, self._lost}, return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                assert self._ears is not None
                self._ears.end(self._lost.result())
                await self._on_lost(self._lost.result())
            else:
                await self._channels.finish(GOODBYE_S)
        finally:
            overdue.cancel()
            ended.cancel()
            await self._shut()

    def _check_connected(self, reason: str) -> None:
        if self.state != "connected":
            self._lose(reason)

    async def _shut(self) -> None:
        self._lose("closed")
        if self._ears is not None:
            self._ears.end("closed")
        await self._channels.close()
        trickling = list(self._trickling)
        for task in trickling:
            task.cancel()
        await asyncio.gather(*trickling, return_exceptions=True)
        await _close(self._pc)


async def _speak(channel: RTCDataChannel, call: Call) -> None:
    """Send a channel every event of the call, as fast as it takes them, then close it."""
    state_changed = asyncio.Event()
    for event_name in ("open", "close", "bufferedamountlow"):
        channel.on(event_name, state_changed.set)
    channel.bufferedAmountLowThreshold = BUFFERED_LOW

    async def until(ready: Callable[[], bool]) -> None:
        while not ready() and channel.readyState != "closed":
            state_changed.clear()
            await state_changed.wait()

    await until(lambda: channel.readyState == "open")
    async for event in call.feed.subscribe():
        await until(lambda: channel.bufferedAmount <= BUFFERED_HIGH)
        if channel.readyState != "open":
            return
        channel.send(event.to_json())
    channel.close()  # a stream is reset only after all that was sent on it (RFC 8831 section 6.7)
    await until(lambda: False)


async def reachable_by(server: IceServer) -> list[str]:
    """The candidate types a STUN (`srflx`) or TURN server (`relay`) gives; none when it does not answer."""
    pc = _connection([server])
    pc.createDataChannel("probe")
    await pc.setLocalDescription(await pc.createOffer())
    section = sdp.Description.parse(pc.localDescription.sdp).sections[0]
    await _close(pc)
    found = [candidate.split()[7] for candidate in section.values("candidate")]
    return [kind for kind in found if kind != "host"]


async def read_track(track: Any) -> AsyncIterator[tuple[Samples, int]]:
    """The audio of a bare `MediaStreamTrack` as mono int16 with its rate, until the track ends."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        samples = frame.to_ndarray()
        channels = len(frame.layout.channels)
        by_time = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
        if samples.dtype.kind == "f":
            by_time = (by_time * 32767).clip(-32768, 32767)
        mono = by_time[:, 0] if channels == 1 else by_time.mean(axis=1, dtype=np.float32)
        yield mono.astype(np.int16), frame.sample_rate


def _connection(servers: Sequence[IceServer]) -> RTCPeerConnection:
    """Always with explicit servers: aiortc's default asks a public STUN server."""
    ice = [RTCIceServer(s.url, username=s.username, credential=s.credential) for s in servers]
    return RTCPeerConnection(RTCConfiguration(iceServers=ice))


def _transports(pc: RTCPeerConnection) -> list[Any]:
    found = {id(t.receiver.transport): t.receiver.transport for t in pc.getTransceivers()}
    if pc.sctp is not None:
        found[id(pc.sctp.transport)] = pc.sctp.transport
    return list(found.values())


async def _close(pc: RTCPeerConnection) -> None:
    try:
        await asyncio.wait_for(pc.close(), SHUT_S)
    except TimeoutError:
        log.warning("a peer connection did not close within %g s", SHUT_S)


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


class Caller:
    """A WebRTC caller that plays recordings; the sending side of the demo, of `rtcstt call` and of tests.

    Each item of ``tracks`` is one audio track, as Opus packets of 20 ms (`recording.opus_packets`).
    `dial`, then read `events` until `session.end`; `hang_up` or `close` ends the call. ``network``
    spoils what is sent; ``mute`` (from, to; seconds) stops sending in between.
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
        self._pc = _connection(())
        self._playbacks = [_Playback(packets, mute) for packets in tracks]
        self._network = network
        self._shape = {"timeout_s": 1.0, "hosts": tuple(hosts), "loopback": loopback}
        self._channel = self._pc.createDataChannel("events") if channel else None
        self._door: Door | None = None
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
        return self._door.call if self._door else None

    async def dial(self, door: str | Peer, *, token: str | None = None, mode: str | None = None) -> None:
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
        for dtls in _transports(self._pc):
            shape_gathering(dtls, **self._shape)  # type: ignore[arg-type]
            if self._network is not None:
                bend_sending(dtls, self._spoiler(self._network))
        await self._pc.setLocalDescription(offer)
        self._door = open_door(door, token=token, mode=mode)
        answer = await self._door.offer(self._pc.localDescription.sdp)
        await self._pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        if self._channel is None or not _answers_channel(answer):
            self._channel = None
            self._watch = asyncio.create_task(self._follow(self._door))
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

    async def hang_up(self, *, timeout_s: float = 15.0) -> None:
        """Ask for the drain, wait for `session.end`, and close."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._channel is not None:
                    self.send({"type": "close"})
                elif self._door is not None:
                    await self._door.hang_up()
                await self._until(lambda: self._over)
        except TimeoutError:
            log.warning("no session.end within %g s of hanging up", timeout_s)
        await self.close()

    def vanish(self) -> None:
        """Send nothing any more, not even a goodbye; as a caller does whose battery is empty."""
        for dtls in _transports(self._pc):
            fall_silent(dtls)

    async def close(self) -> None:
        """Close the connection at once, as a browser does whose page is left."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await _close(self._pc)
        for task in self._delayed:
            task.cancel()
        await asyncio.gather(*self._delayed, return_exceptions=True)
        if self._door is not None:
            await self._door.close()
        self._end()

    def _spoiler(self, network: Network) -> Callable[[bytes, Callable[[bytes], Any]], Any]:
        fate = Fate(network)

        async def spoil(data: bytes, send: Callable[[bytes], Any]) -> None:
            delay_s = fate.next_delay_s()
            if delay_s is None:
                return
            if not network.jitter_ms:
                await send(data)
                return
            task = asyncio.create_task(self._send_later(delay_s, data, send))
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)

        return spoil

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

    async def _follow(self, door: Door) -> None:
        async for text in door.events():
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


def _answers_channel(answer: str) -> bool:
    sections = sdp.Description.parse(answer).sections
    return any(section.kind == "application" and section.port != "0" for section in sections)
