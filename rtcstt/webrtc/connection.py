"""Peer connections of aiortc: settings, making, reading and closing them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcicetransport import parse_stun_turn_uri

from rtcstt.errors import ConfigError
from rtcstt.media.pcm import Samples
from rtcstt.webrtc import sdp
from rtcstt.webrtc.aiortc_private import (
    UdpPort,
    shape_gathering,
    share_certificate,
)
from rtcstt.webrtc.candidates import DENIED_BY_DEFAULT

__all__ = [
    "GOODBYE_S",
    "IceServer",
    "PeerSettings",
    "UdpPort",
    "close_connection",
    "new_connection",
    "reachable_by",
    "read_track",
    "transports_of",
]

log = logging.getLogger(__name__)

GOODBYE_S = 8.0  # how long the last events may take to reach the caller, on a slow network or a busy machine
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
    ``loopback``: offer 127.0.0.1 as well. ``public_ip``: the address that a NAT before this machine maps
    to it, port by port. ``ports``: the UDP ports to use; a connection takes one at each local address.
    ``udp_port``: one port for all connections instead, which its owner opens and closes.
    ``max_tracks``: audio sections of one offer that are taken. ``stereo``, ``dtx``: what the answer asks
    of an Opus sender. ``lost_after_s``: a caller of whom nothing at all came for so long is lost. One that
    lives, however muted, answers the checks of ICE every 5 s; browsers give up after 15 s themselves, and
    ICE's own consent takes 30 s to expire. ``deny_peers``: networks to which no connectivity check is sent,
    whatever a caller says; see `candidates.DeniedPeers`.
    """

    ice_servers: tuple[IceServer, ...] = ()
    hosts: tuple[str, ...] = ()
    loopback: bool = False
    public_ip: str | None = None
    ports: range | None = None
    udp_port: UdpPort | None = None
    gather_timeout_s: float = 1.0
    connect_timeout_s: float = 15.0
    lost_after_s: float = 15.0
    max_tracks: int = 8
    deny_peers: tuple[str, ...] = DENIED_BY_DEFAULT
    stereo: bool = False
    dtx: bool = False


async def reachable_by(server: IceServer, *, timeout_s: float) -> list[str]:
    """The candidate types a STUN (`srflx`) or TURN server (`relay`) gives; none when it does not answer."""
    pc = new_connection([server])
    try:
        pc.createDataChannel("probe")
        for dtls in transports_of(pc):
            shape_gathering(dtls, timeout_s=timeout_s, hosts=(), loopback=True)
        await pc.setLocalDescription(await pc.createOffer())
        section = sdp.Description.parse(pc.localDescription.sdp).sections[0]
    finally:
        await close_connection(pc)
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


def new_connection(servers: Sequence[IceServer]) -> RTCPeerConnection:
    """Always with explicit servers: aiortc's default asks a public STUN server."""
    ice = [RTCIceServer(s.url, username=s.username, credential=s.credential) for s in servers]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=ice))
    share_certificate(pc)
    return pc


def transports_of(pc: RTCPeerConnection) -> list[Any]:
    found = {id(t.receiver.transport): t.receiver.transport for t in pc.getTransceivers()}
    if pc.sctp is not None:
        found[id(pc.sctp.transport)] = pc.sctp.transport
    return list(found.values())


async def close_connection(pc: RTCPeerConnection) -> None:
    try:
        await asyncio.wait_for(pc.close(), SHUT_S)
    except TimeoutError:
        log.warning("a peer connection did not close within %g s", SHUT_S)
