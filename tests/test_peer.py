"""The peer against real aiortc callers on loopback; the call behind it is a recorder."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import inspect
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import aioice.ice
import aioice.stun
import numpy as np
import pylibsrtp
import pytest
from aiortc import (
    RTCCertificate,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import VideoStreamTrack
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import HeaderExtensionsMap, RtcpByePacket, RtpPacket
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from rtcstt.call import Call
from rtcstt.errors import CallerError, ConfigError
from rtcstt.media.rtp import Codec, Packet
from rtcstt.testing import ScriptedUpstream, run_virtual
from rtcstt.webrtc import aiortc_private, attachment
from rtcstt.webrtc.aiortc_private.dtls import repeat_hello
from rtcstt.webrtc.aiortc_private.rtp import MAX_WAITING, mid_of
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.candidates import MAX_CHECKS, DeniedPeers
from rtcstt.webrtc.connection import IceServer, PeerSettings, new_connection, transports_of
from rtcstt.webrtc.impairment import Network
from rtcstt.webrtc.negotiation import MAX_TRANSPORTS, Offer
from rtcstt.webrtc.peer import Peer
from rtcstt.webrtc.playback import Playback, opus_packets
from rtcstt.webrtc.sdp import Description
from tests.descriptions import AUDIO, SESSION, TRANSPORT

pytestmark = pytest.mark.real

LOOPBACK = ("127.0.0.1",)
SETTINGS = PeerSettings(hosts=LOOPBACK)


@dataclass
class FakeEvent:
    fields: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(self.fields)


class FakeFeed:
    def __init__(self) -> None:
        self.history: list[FakeEvent] = []
        self.closed = False
        self.news = asyncio.Event()

    def publish(self, type: str, **fields: Any) -> None:
        self.history.append(FakeEvent({"type": type, "seq": len(self.history), **fields}))
        self.wake()

    def wake(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def subscribe(self, after: int = -1) -> AsyncIterator[FakeEvent]:
        index = after + 1
        while True:
            if index < len(self.history):
                yield self.history[index]
                index += 1
            elif self.closed:
                return
            else:
                await self.news.wait()


@dataclass
class FakeTrack:
    codecs: dict[int, Any]
    packets: list[Packet] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    byes: list[int] = field(default_factory=list)
    reports: list[tuple[int, int]] = field(default_factory=list)
    muted: list[str] = field(default_factory=list)
    failing: bool = False

    def push(self, packet: Packet) -> None:
        self.packets.append(packet)
        if self.failing:
            raise RuntimeError("a bug of ours")

    def finish(self, reason: str) -> None:
        self.end(reason)

    def bye(self, ssrc: int) -> None:
        self.byes.append(ssrc)

    def report(self, ssrc: int, sent: int) -> None:
        self.reports.append((ssrc, sent))

    def mute(self, reason: str) -> None:
        self.muted.append(reason)

    def renegotiate(self, codecs: dict[int, Any], *, reconnected: bool = True) -> None:
        self.codecs = dict(codecs)

    def end(self, reason: str) -> None:
        self.ended.append(reason)

    @property
    def sequences(self) -> list[int]:
        return [packet.sequence for packet in self.packets]


class FakeCall:
    id = "fake"

    def __init__(self) -> None:
        self.feed = FakeFeed()
        self.tracks: dict[str, FakeTrack] = {}
        self.commands: list[str] = []
        self.closed: list[str] = []
        self.over = asyncio.Event()
        self.feed.publish("session.start")

    def add_track(self, track_id: str, codecs: dict[int, Any]) -> FakeTrack:
        self.tracks[track_id] = FakeTrack(dict(codecs))
        return self.tracks[track_id]

    def publish(self, event: Any) -> None:
        fields = event.as_dict()
        self.feed.publish(fields.pop("type"), **{n: v for n, v in fields.items() if n not in ("call", "seq")})

    def command(self, text: str) -> None:
        self.commands.append(text)
        if text == '{"type": "close"}':
            self.end("caller")

    def end(self, reason: str) -> None:
        self.closed.append(reason)
        self.feed.publish("session.end", reason=reason)
        self.feed.closed = True
        self.feed.wake()
        self.over.set()

    def caller_events(self) -> Any:
        return self.feed.subscribe()

    async def close(self, reason: str) -> None:
        if not self.closed:
            self.end(reason)

    async def wait_closed(self) -> None:
        await self.over.wait()


@pytest.fixture(scope="module")
def tone() -> list[bytes]:
    """One second of Opus packets, no two alike."""
    wave = 8000 * np.sin(np.arange(48000) * np.linspace(0.01, 0.2, 48000))
    return opus_packets(wave.astype(np.int16))


async def until(condition: Callable[[], Any], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        waited = f"waited {timeout_s:g} s for"
        assert time.monotonic() < deadline, f"{waited} {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.01)


class Wire:
    """A caller connected to a peer, closed at the end of the test."""

    def __init__(self, caller: Caller, call: Any = None) -> None:
        self.call: Any = call if call is not None else FakeCall()
        self.peer = Peer(self.call, settings=SETTINGS)  # type: ignore[arg-type]
        self.caller = caller

    async def __aenter__(self) -> Wire:
        await self.caller.dial(self.peer)
        await until(lambda: self.peer.state == "connected")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.caller.close()
        await self.peer.close()

    @property
    def line(self) -> FakeTrack:
        return self.call.tracks["0"]

    async def send_rtp(self, data: bytes) -> None:
        """Protected and sent as it is, by the caller's DTLS transport."""
        with contextlib.suppress(pylibsrtp.Error):  # too broken even to be protected
            await self.caller._pc.getSenders()[0].transport._send_rtp(data)

    async def still_receives(self) -> None:
        received = len(self.line.packets)
        await until(lambda: len(self.line.packets) > received + 3)


def caller(*tracks: list[bytes], **options: Any) -> Caller:
    return Caller(*tracks, hosts=LOOPBACK, **options)


def mid_extension(number: int) -> HeaderExtensionsMap:
    class Mid:
        id, uri = number, "urn:ietf:params:rtp-hdrext:sdes:mid"

    class Parameters:
        headerExtensions = [Mid]

    extensions = HeaderExtensionsMap()
    extensions.configure(Parameters)  # type: ignore[arg-type]
    return extensions


def rtp(ssrc: int, sequence: int, payload: bytes, payload_type: int = 96) -> bytes:
    return struct.pack("!BBHLL", 0x80, payload_type, sequence, 0, ssrc) + payload


async def test_every_packet_arrives_untouched_and_without_a_thread(tone: list[bytes]) -> None:
    before = set(threading.enumerate())
    async with Wire(caller(tone)) as wire:
        await wire.caller.played()
        await until(lambda: len(wire.line.packets) > len(tone))
        assert [packet.payload for packet in wire.line.packets[: len(tone)]] == tone
        assert np.all(np.diff(wire.line.sequences) == 1)
        assert not [t.name for t in set(threading.enumerate()) - before if "decoder" in t.name]
        assert wire.line.codecs[96].name == "opus"


async def test_each_track_has_its_own_line(tone: list[bytes]) -> None:
    other = opus_packets(np.random.default_rng(1).normal(0, 3000, 48000).astype(np.int16))
    async with Wire(caller(tone, other)) as wire:
        await until(lambda: len(wire.call.tracks["1"].packets) > 20)
        assert [packet.payload for packet in wire.call.tracks["0"].packets[:10]] == tone[:10]
        assert [packet.payload for packet in wire.call.tracks["1"].packets[:10]] == other[:10]
        assert {packet.ssrc for packet in wire.call.tracks["0"].packets}.isdisjoint(
            {packet.ssrc for packet in wire.call.tracks["1"].packets}
        )


async def test_tracks_that_share_no_transport_have_each_their_own(
    tone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rtpengine offers the two sides of a call: no BUNDLE, and a port for each."""
    other = opus_packets(np.random.default_rng(1).normal(0, 3000, 48000).astype(np.int16))
    call = FakeCall()
    answering = Peer(call, settings=SETTINGS)  # type: ignore[arg-type]

    def apart(servers: Sequence[IceServer]) -> RTCPeerConnection:
        connection = new_connection(servers)
        aiortc_private.share_transport(connection, False)
        return connection

    monkeypatch.setattr("rtcstt.webrtc.link.new_connection", apart)
    answers: list[str] = []

    class Apart:
        async def answer(self, offer: str) -> str:
            answers.append(await answering.answer(re.sub("a=group:BUNDLE.*\r\n", "", offer)))
            return answers[0]

    dialling = caller(tone, other)
    await dialling.dial(Apart())
    await until(lambda: all(len(call.tracks[mid].packets) > 20 for mid in ("0", "1")))
    assert [packet.payload for packet in call.tracks["0"].packets[:10]] == tone[:10]
    assert [packet.payload for packet in call.tracks["1"].packets[:10]] == other[:10]
    assert "a=group" not in answers[0]
    await dialling.close()
    await answering.close()


async def test_a_new_source_finds_its_track_by_the_mid_it_carries(tone: list[bytes]) -> None:
    """Both tracks have all payload types in common and a source of their own already."""
    async with Wire(caller(tone, tone)) as wire:
        await until(lambda: all(len(line.packets) > 5 for line in wire.call.tracks.values()))
        for mid, ssrc in (("1", 1001), ("0", 1000)):
            packet = RtpPacket(96, 0, 1, 0, ssrc, b"\x78")
            packet.extensions.mid = mid
            await wire.send_rtp(packet.serialize(mid_extension(1)))
        await wire.send_rtp(rtp(1002, 1, b"\x78"))  # without a mid nobody can tell
        await until(lambda: {p.ssrc for p in wire.call.tracks["0"].packets} >= {1000})
        sources = {mid: {p.ssrc for p in line.packets} for mid, line in wire.call.tracks.items()}
        assert 1001 in sources["1"]
        assert 1001 not in sources["0"]
        assert 1002 not in sources["0"] | sources["1"]


async def test_packets_do_not_overtake_those_that_wait_for_aiortc(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        await until(lambda: wire.line.packets)
        connection = wire.peer._pc.getReceivers()[0].transport.transport._connection
        for protocol in connection._protocols:
            connection._queue.put_nowait((b"\x00", 1))
            protocol.datagram_received(b"\x80" + bytes(20), ("127.0.0.1", 9))
            assert connection._queue.qsize() == 2
            await wire.still_receives()
        assert wire.line.sequences == sorted(wire.line.sequences)


async def test_what_the_network_takes_is_missing_and_the_sender_is_told(tone: list[bytes]) -> None:
    async with Wire(caller(tone, network=Network(loss=0.3, jitter_ms=40, seed=3))) as wire:
        await until(lambda: len(wire.line.packets) > 40)
        assert wire.line.sequences != sorted(wire.line.sequences)  # jitter swaps
        sender = wire.caller._pc.getSenders()[0]

        async def told() -> list[int]:
            report = await sender.getStats()
            return [s.packetsLost for s in report.values() if s.type == "remote-inbound-rtp"]

        async with asyncio.timeout(60):
            while not any(lost > 5 for lost in await told()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "network", [Network(loss=0.1, seed=5), Network(loss=0.1, burst=2, jitter_ms=40, seed=6)]
)
async def test_lost_packets_are_repaired_and_time_is_kept(tone: list[bytes], network: Network) -> None:
    async with ScriptedUpstream() as stt:
        call = Call("lossy", stt=stt)
        async with Wire(caller(tone * 2, network=network), call) as wire:
            await wire.caller.played()
            await wire.caller.hang_up()
        ledger = call.ledgers()["0"]
        spoken = ledger["received"] + ledger["recovered"] + ledger["concealed"]
        assert spoken == pytest.approx(2000, abs=250)  # and what was sent until the hang-up got through
        assert ledger["recovered"] > 20
        assert ledger["sent"] == spoken + ledger["silence"] - ledger["discarded"]
        assert ledger["discarded"] <= ledger["silence"]  # only silence is ever trimmed


async def test_events_from_the_first_reach_every_channel(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        wire.call.feed.publish("turn.start")
        second = wire.caller._pc.createDataChannel("late")
        late: list[dict[str, Any]] = []
        second.on("message", lambda text: late.append(json.loads(text)))
        await until(lambda: len(late) == 2)
        second.send(b"\xff\x00")
        await until(lambda: wire.call.commands)
        wire.caller.send({"type": "close"})
        events = [event async for event in wire.caller.events()]
        assert [event["type"] for event in events] == ["session.start", "turn.start", "session.end"]
        await until(lambda: len(late) == 3)
        await wire.peer.wait_closed()
        assert wire.peer.state == "closed"
        assert wire.call.closed == ["caller"]


async def test_a_slow_channel_holds_back_the_feed_and_messages_stay_whole(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        sizes: list[int] = []
        transport = wire.peer._pc.sctp.transport.transport  # type: ignore[union-attr]
        send = transport._send

        async def measured(data: bytes) -> None:
            sizes.append(len(data))
            await send(data)

        transport._send = measured
        for number in range(60):
            wire.call.feed.publish("turn.update", transcript=f"{number} " + "words " * 1000)
        await asyncio.sleep(0)
        await until(lambda: len(wire.caller.received) == 61)
        assert max(sizes) <= 1280 - 40 - 8  # IPv6 and UDP headers; RFC 8831 section 5
        assert [event["seq"] for _, event in wire.caller.received] == list(range(61))


async def test_channel_takes_only_so_much_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class StuckChannel:
        readyState = "open"
        bufferedAmount = 0
        bufferedAmountLowThreshold = 0
        sent: list[str] = []

        def on(self, name: str, handler: Callable[[], None]) -> None:
            setattr(self, "on_" + name, handler)

        def send(self, text: str) -> None:
            self.sent.append(text)
            self.bufferedAmount += len(text)

    call, channel = FakeCall(), StuckChannel()
    for _ in range(100):
        call.feed.publish("turn.update", transcript="x" * 1000)
    task = asyncio.create_task(attachment._speak(channel, call))  # type: ignore[arg-type]
    await until(lambda: channel.bufferedAmount > attachment.BUFFERED_HIGH)
    await asyncio.sleep(0.05)
    assert len(channel.sent) < 20
    channel.bufferedAmount = 0
    channel.on_bufferedamountlow()  # type: ignore[attr-defined]
    await until(lambda: len(channel.sent) > 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_bye_is_told_to_the_track_and_ends_nothing(tone: list[bytes]) -> None:
    """libwebrtc says BYE where a sender is paused, and goes on with the same source or another."""
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        sender = wire.caller._pc.getSenders()[0]
        old = wire.line.packets[0].ssrc
        await sender.transport._send_rtp(bytes(RtcpByePacket(sources=[old])))
        await until(lambda: wire.line.byes)
        assert wire.line.byes == [old]
        await wire.still_receives()
        sender._ssrc = 4711
        await until(lambda: wire.line.packets[-1].ssrc == 4711)
        await sender.transport._send_rtp(bytes(RtcpByePacket(sources=[4711])))
        await until(lambda: wire.line.byes == [old, 4711])
        await wire.still_receives()
        assert (wire.line.ended, wire.call.closed) == ([], [])


async def test_a_caller_that_closes_ends_the_call(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        await wire.caller.close()
        async with asyncio.timeout(60):
            await wire.peer.wait_closed()
        assert wire.call.closed == ["connection closed"]
        assert wire.peer.hung_up
        assert len(wire.line.ended) == 1


async def test_a_caller_that_vanishes_is_missed(tone: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.05)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.05)
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        wire.caller.vanish()
        async with asyncio.timeout(60):
            await wire.peer.wait_closed()
        assert wire.call.closed[0].startswith("connection ")
        assert not wire.peer.hung_up
        assert wire.line.ended


async def test_a_muted_caller_is_not_lost_and_one_who_sends_nothing_at_all_is(
    tone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)
    wire = Wire(caller(tone, mute=(0.2, 60.0)))
    wire.peer = Peer(wire.call, settings=replace(SETTINGS, lost_after_s=1.0))
    async with wire:
        await until(lambda: len(wire.line.packets) >= 10)
        await asyncio.sleep(2.0)
        assert wire.peer.state == "connected" and not wire.line.ended
        wire.caller.vanish()
        async with asyncio.timeout(60):
            await wire.peer.wait_closed()
        assert wire.call.closed == ["nothing came for 1 s"]
        assert not wire.peer.hung_up


async def test_a_slow_network_is_no_reason_to_hang_up(
    tone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers to ICE's checks of consent that take longer than its first patience, 0.5 s in real calls."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.05)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.1)
    async with Wire(caller(tone)) as wire:
        loop = asyncio.get_running_loop()
        for protocol in wire.caller._pc.getSenders()[0].transport.transport._connection._protocols:

            def slowly(data: bytes, address: Any, take: Any = protocol.datagram_received) -> None:
                loop.call_later(0.15 if data[:2] == b"\x00\x01" else 0.0, take, data, address)

            protocol.datagram_received = slowly  # type: ignore[assignment]
        await asyncio.sleep(2.0)
        assert wire.peer.state == "connected"
        await wire.still_receives()


async def test_nobody_comes() -> None:
    call = FakeCall()
    lonely = Peer(call, settings=PeerSettings(hosts=LOOPBACK, connect_timeout_s=0.1))  # type: ignore[arg-type]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio")
    await lonely.answer(await offer_of(pc))
    await pc.close()
    async with asyncio.timeout(60):
        await lonely.wait_closed()
    assert call.closed[0].startswith("not connected within 0.1 s: no connectivity check came")


async def test_bad_packets_harm_nothing(tone: list[bytes]) -> None:
    chance = random.Random(1)
    async with Wire(caller(tone * 20)) as wire:
        await until(lambda: wire.line.packets)
        ssrc = wire.line.packets[0].ssrc
        for size in (0, 1, 11, 12, 13, 60, 1300):
            for first in (0x80, 0x90, 0xA0, 0xBF, 0x9F):
                junk = chance.randbytes(size)
                await wire.send_rtp(bytes([first, 96]) + chance.randbytes(6) + struct.pack("!L", ssrc) + junk)
                await wire.send_rtp(bytes([first, chance.randrange(192, 209)]) + chance.randbytes(6) + junk)
        for number in range(1000):  # a thousand sources
            await wire.send_rtp(rtp(number, number, b"\x78"))
        await wire.send_rtp(rtp(ssrc, 1, b"", payload_type=77))
        await wire.still_receives()
        assert len(wire.peer._pc.getReceivers()[0]._RTCRtpReceiver__remote_streams) <= 8  # type: ignore[attr-defined]
        assert wire.peer.state == "connected"


async def test_datagrams_from_strangers_harm_nothing(tone: list[bytes]) -> None:
    chance = random.Random(2)
    async with Wire(caller(tone)) as wire:
        candidate = wire.peer._pc.getReceivers()[0].transport.transport.iceGatherer.getLocalCandidates()[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for size in (0, 0, 1, 2, 20, 100, 1500):
                for first in (b"", b"\x00", b"\x01", b"\x16", b"\x80", b"\xff"):
                    stranger.sendto(first + chance.randbytes(size), (candidate.ip, candidate.port))
            stranger.sendto(b"", (candidate.ip, candidate.port))
        await wire.still_receives()


async def test_a_broken_stun_message_is_counted_without_a_traceback(
    tone: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Its PRIORITY has 0 bytes in place of 4; aioice reads it with `struct`."""
    message = b"\x00\x01\x00\x04\x21\x12\xa4\x42" + bytes(12) + b"\x00\x24\x00\x00"
    async with Wire(caller(tone)) as wire:
        candidate = wire.peer._pc.getReceivers()[0].transport.transport.iceGatherer.getLocalCandidates()[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(message, (candidate.ip, candidate.port))
        await until(lambda: wire.peer.stats()["dropped_packets"]["broken"] == 1)
        await wire.still_receives()
    assert "Traceback" not in caplog.text and "STUN" not in caplog.text


async def test_a_bug_of_ours_costs_packets_not_the_call(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        wire.line.failing = True
        await wire.still_receives()
        wire.line.failing = False
        await wire.still_receives()
        assert wire.peer.stats()["dropped_packets"]["failed"] > 3


async def test_alaw_packets_that_look_like_stun_arrive(tone: list[bytes]) -> None:
    """`aioice.stun` takes a packet of payload type 8 whose sequence number is its length - 20 for its own."""
    async with Wire(caller(tone)) as wire:
        await until(lambda: wire.line.packets)
        for tag in (16, 10):  # of AES-GCM and of SHA1-80
            await wire.send_rtp(rtp(7, 12 + 160 + tag - 20, bytes(160), payload_type=8))
        await until(lambda: {168, 162} <= {p.sequence for p in wire.line.packets if p.payload_type == 8})


async def test_an_rsa_certificate_connects(tone: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """As GStreamer's webrtcbin: DTLS server, with an RSA certificate, and so no ECDSA cipher suite."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gst")])
    some = RTCCertificate.generateCertificate()._cert
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7)
    builder = builder.not_valid_before(some.not_valid_before_utc).not_valid_after(some.not_valid_after_utc)

    class Rsa(RTCCertificate):
        def _create_ssl_context(self, srtp_profiles: Any) -> SSL.Context:
            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
            return context

    gst = caller(tone)
    certificate = Rsa(key, builder.sign(key, hashes.SHA256()))  # type: ignore[arg-type]
    gst._pc._RTCPeerConnection__certificates[:] = [certificate]  # type: ignore[attr-defined]
    for transport in transports_of(gst._pc):
        transport._RTCDtlsTransport__local_certificate = certificate
    wire = Wire(gst)
    answer = wire.peer.answer

    async def answer_server(offer: str) -> str:
        return await answer(offer.replace("a=setup:actpass", "a=setup:passive"))

    monkeypatch.setattr(wire.peer, "answer", answer_server)
    async with wire:
        await wire.still_receives()


async def offer_of(pc: RTCPeerConnection) -> str:
    await pc.setLocalDescription(await pc.createOffer())
    return str(pc.localDescription.sdp)


async def test_video_is_not_received() -> None:
    call = FakeCall()
    answering = Peer(call, settings=SETTINGS)  # type: ignore[arg-type]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(VideoStreamTrack())
    pc.addTransceiver("audio")
    pc.createDataChannel("events")
    for dtls in transports_of(pc):
        aiortc_private.shape_gathering(dtls, timeout_s=1, hosts=LOOPBACK, loopback=True)
    answer = await answering.answer(await offer_of(pc))
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await until(lambda: answering.state == "connected" and pc.connectionState == "connected")
    refused = next(event.fields for event in call.feed.history if event.fields["type"] == "track.refused")
    assert (refused["track"], refused["reason"]) == ("0", "video is not received")
    video, audio = pc.getTransceivers()
    assert (video.currentDirection, audio.currentDirection) == ("inactive", "sendonly")
    assert "useinbandfec=1" in answer
    assert list(call.tracks) == ["1"]
    await pc.close()
    await answering.close()


async def test_a_second_offer_is_refused_and_the_first_goes_on(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        with pytest.raises(CallerError) as refusal:
            await wire.peer.answer("v=0\r\n")
        assert refusal.value.status == 409
        await wire.still_receives()


@pytest.mark.parametrize("text", ["", "v=0\r\n", "{}", "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"])
async def test_a_bad_offer_is_refused_and_leaves_nothing(text: str) -> None:
    before = len(asyncio.all_tasks())
    refusing = Peer(FakeCall(), settings=SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(CallerError) as refusal:
        await refusing.answer(text)
    assert refusal.value.status == 400
    await refusing.close()
    assert refusing.state == "closed"
    assert len(asyncio.all_tasks()) == before


async def test_a_damaged_offer_is_refused_or_answered(tone: list[bytes]) -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio")
    lines = (await offer_of(pc)).splitlines()
    await pc.close()
    chance = random.Random(4)
    for _ in range(60):
        damaged = [line for line in lines if chance.random() > 0.05]
        victim = chance.randrange(len(damaged))
        damaged[victim] = damaged[victim][: chance.randrange(len(damaged[victim]) + 1)]
        answering = Peer(FakeCall(), settings=SETTINGS)  # type: ignore[arg-type]
        try:
            assert await answering.answer("\r\n".join(damaged) + "\r\n")
        except CallerError as refusal:
            assert refusal.status == 400
        await answering.close()


async def test_a_dead_stun_server_does_not_hold_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 60.0)  # of aioice itself, which then asks again
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        server = IceServer.parse(f"stun:127.0.0.1:{dead.getsockname()[1]}")
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.addTransceiver("audio")
        settings = PeerSettings(hosts=LOOPBACK, ice_servers=(server,), gather_timeout_s=0.2)
        answering = Peer(FakeCall(), settings=settings)  # type: ignore[arg-type]
        async with asyncio.timeout(50):
            answer = await answering.answer(await offer_of(pc))
        assert "typ host" in answer
        assert dead.recv(1500)  # it was asked
        await pc.close()
        await answering.close()


async def test_a_flood_before_the_connection_is_bounded() -> None:
    call = FakeCall()
    answering = Peer(call, settings=SETTINGS)  # type: ignore[arg-type]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio")
    await answering.answer(await offer_of(pc))
    connection = answering._pc.getReceivers()[0].transport.transport._connection
    for _ in range(2 * MAX_WAITING):
        connection._protocols[0].datagram_received(b"\x80" * 100, ("127.0.0.1", 9))
    assert connection._queue.qsize() == MAX_WAITING
    assert answering.stats()["dropped_packets"]["overflowed"] == MAX_WAITING
    await pc.close()
    await answering.close()


def test_ice_servers_are_parsed() -> None:
    assert IceServer.parse("stun:h:1") == IceServer("stun:h:1")
    assert IceServer.parse("turn:u:p@h?transport=tcp") == IceServer("turn:h?transport=tcp", "u", "p")
    with pytest.raises(ConfigError):
        IceServer.parse("http://h")


def resources() -> tuple[int, int, int]:
    gc.collect()
    return len(asyncio.all_tasks()), threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts sockets by /proc")
async def test_twenty_calls_leave_nothing_behind(tone: list[bytes]) -> None:
    async def one(number: int, stt: ScriptedUpstream) -> None:
        call = Call(str(number), stt=stt)
        async with Wire(caller(tone[:5]), call) as wire:
            await wire.caller.played()
            if number % 2:
                await wire.caller.hang_up()
        assert call.state == "closed"
        assert call.ledgers()["0"]["sent"] > 0

    async with ScriptedUpstream() as stt:
        await one(0, stt)  # what is made once stays: the default executor, say
        await until(lambda: not stt._tasks)
        before = resources()
        for batch in range(4):
            await asyncio.gather(*(one(number + batch, stt) for number in range(5)))
        await until(lambda: resources() == before)


def test_names_of_aiortc_that_are_used_exist() -> None:
    """The canary. A release of aiortc or aioice that renames one of them is named here, with the name."""
    missing = []
    for owner, names in aiortc_private.PRIVATE.items():
        module, _, name = owner.rpartition(".")
        source = inspect_source(module, name)
        missing += [f"{owner}.{attribute}" for attribute in names if plain(attribute, name) not in source]
    assert not missing, f"gone from aiortc or aioice, see aiortc_private.py: {missing}"


def inspect_source(module: str, name: str) -> str:
    import inspect

    return inspect.getsource(getattr(importlib.import_module(module), name))


def plain(attribute: str, owner: str) -> str:
    return attribute.removeprefix("_" + owner)


async def test_a_source_that_aiortc_has_counted_already_is_counted_on() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = pc.addTransceiver("audio")
    received: list[Packet] = []
    tap = aiortc_private.TrackTap(
        transceiver,
        mid="0",
        codecs={96: Codec("opus", 48000, 2)},
        on_packet=received.append,
        on_bye=Mock(),
        on_report=Mock(),
        on_end=Mock(),
    )
    receiver: Any = transceiver.receiver
    streams = receiver._RTCRtpReceiver__remote_streams
    streams[5] = StreamStatistics(48000)
    for number in range(3):
        tap.push(Packet(5, number, number * 960, 96, b"x"))
    assert len(received) == 3 and streams[5].packets_received == 3
    await pc.close()


async def test_checks_from_too_many_addresses_are_said() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    receivers = attachment.Receivers(pc, Mock(), denied=DeniedPeers())
    assert receivers.limit is not None and "ignored" not in receivers.stats()
    for port in range(MAX_CHECKS + 3):
        receivers.limit.note_check(("192.0.2.1", port))
    assert receivers.stats()["ignored"] == 3
    await pc.close()


async def test_the_hook_is_called_as_it_expects() -> None:
    """`receive` starts a thread that `_RTCRtpReceiver__stop_decoder` ends, and RTP statistics are a dict."""  # type: ignore[attr-defined]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    made = pc.addTransceiver("audio").receiver
    assert isinstance(made, RTCRtpReceiver)
    receiver: Any = made
    assert receiver._RTCRtpReceiver__decoder_thread is None
    assert receiver._RTCRtpReceiver__remote_streams == {}
    assert receiver.transport._rx_srtp is None
    assert receiver.transport._rtp_router.ssrc_table == {}
    await pc.close()


@given(
    st.integers(0, 127),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
    st.integers(0, 255),
    st.none() | st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True),
)
def test_packets_are_parsed_as_aiortc_writes_them(
    payload_type: int, sequence: int, timestamp: int, payload: bytes, padding: int, mid: str | None
) -> None:
    extensions = mid_extension(5)
    written = RtpPacket(payload_type, 1, sequence, timestamp, 99, payload)
    written.extensions.mid = mid
    written.csrc = [1, 2]
    written.padding_size = padding
    data = written.serialize(extensions)
    assert Packet.parse(data) == Packet(99, sequence, timestamp, payload_type, payload, True)
    found = mid_of(data, 5)
    assert found == mid


@given(st.binary(min_size=1, max_size=80), st.integers(1, 255))
def test_any_bytes_have_a_mid_or_none(data: bytes, wanted: int) -> None:
    found = mid_of(data, wanted)
    assert found is None or found


async def test_one_certificate_serves_all_connections_of_a_process() -> None:
    connections = [new_connection(()) for _ in range(2)]
    fingerprints = set()
    for pc in connections:
        pc.addTransceiver("audio")
        fingerprints.add(re.search("a=fingerprint:sha-256 .*", await offer_of(pc)))
        await pc.close()
    assert len({found[0] for found in fingerprints if found}) == 1


async def test_a_foreign_certificate_is_refused_with_the_reason(tone: list[bytes]) -> None:
    wire = Wire(caller(tone))
    answer = wire.peer.answer

    async def answer_another(offer: str) -> str:
        return await answer(re.sub(r"(fingerprint:sha-\d+) ..", r"\1 00", offer))

    wire.peer.answer = answer_another  # type: ignore[method-assign,assignment]
    with contextlib.suppress(CallerError):
        await wire.caller.dial(wire.peer)
    await until(lambda: wire.call.closed)
    assert "fingerprint" in wire.call.closed[0]
    await wire.caller.close()


async def test_checks_are_bounded_and_go_to_no_denied_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offer names hosts of its choice: 64 that never answer, on 4 local sockets."""
    sent: list[tuple[str, int]] = []
    send = aioice.ice.StunProtocol.send_stun

    def counted(self: Any, message: Any, address: tuple[str, int]) -> None:
        sent.append(address)
        send(self, message, address)

    monkeypatch.setattr(aioice.ice.StunProtocol, "send_stun", counted)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.01)
    hosts = [f"127.1.2.{number} 9" for number in range(1, 60)]
    hosts += ["169.254.169.254 80", "224.0.0.1 9", "0.0.0.0 9", "255.255.255.255 9", "100.100.100.200 80"]
    lines = [f"a=candidate:{i} 1 udp {i + 1} {host} typ host\n" for i, host in enumerate(hosts)]
    section = AUDIO.replace("a=candidate:1 1", "".join(lines) + "a=candidate:1 1")
    call = FakeCall()
    settings = replace(SETTINGS, hosts=("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"))
    lonely = Peer(call, settings=settings)  # type: ignore[arg-type]
    await lonely.answer(SESSION + section)
    limit = lonely._attached.receivers.limit
    assert limit is not None
    await until(lambda: limit.exceeded > 300)
    assert 0 < len(sent) <= 100
    assert {address.split(".")[0] for address, _ in sent} == {"127"}
    assert limit.denied > 0
    await lonely.close()


async def test_a_caller_of_many_addresses_does_not_fill_the_list_of_candidates() -> None:
    """Each port that a check comes from is another address, and a caller has 65,536 of them."""
    lonely = Peer(FakeCall(), settings=SETTINGS)  # type: ignore[arg-type]
    await lonely.answer(SESSION + AUDIO)
    (dtls,) = transports_of(lonely._pc)
    connection = dtls.transport._connection
    await until(lambda: connection._early_checks_done)
    limit = lonely._attached.receivers.limit
    assert limit is not None
    message = SimpleNamespace(attributes={"PRIORITY": 1})
    for port in range(1000, 2000):
        connection.check_incoming(message, ("127.0.0.9", port), connection._protocols[0])
    assert len(connection._remote_candidates) <= 101 and len(connection._check_list) <= 104
    assert limit.ignored == 900
    await lonely.close()


async def test_what_an_answer_makes_aiortc_do_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport is most of the cost, and to look for this machine's addresses more than all the rest."""
    made: list[object] = []
    make, looked = RTCPeerConnection._RTCPeerConnection__createDtlsTransport, []  # type: ignore[attr-defined]

    def counted(pc: RTCPeerConnection) -> Any:
        made.append(make(pc))
        return made[-1]

    def addresses(**families: bool) -> list[str]:
        looked.append(families)
        return ["127.0.0.1"]

    monkeypatch.setattr(RTCPeerConnection, "_RTCPeerConnection__createDtlsTransport", counted)
    monkeypatch.setattr(aiortc_private.ice, "get_host_addresses", addresses)
    aiortc_private.ice._addresses.cache_clear()
    bare = AUDIO.partition("a=candidate")[0] + TRANSPORT
    sections = "".join(bare.replace("a=mid:0", f"a=mid:{mid}") for mid in range(8))
    for group, transports in (("a=group:BUNDLE 0 1 2 3 4 5 6 7\n", 1), ("", MAX_TRANSPORTS)):
        made.clear()
        lonely = Peer(FakeCall(), settings=PeerSettings(loopback=True))  # type: ignore[arg-type]
        answer = Description.parse(await lonely.answer(SESSION + group + sections))
        await lonely.close()
        assert len(made) == transports
        assert sum(section.port != "0" for section in answer.sections) == (8 if group else MAX_TRANSPORTS)
    assert len(looked) <= 3, "once a second"


async def test_candidates_after_the_offer_are_bounded(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        fragment = "".join(f"a=candidate:{i} 1 udp 1 127.0.1.{i % 200 + 1} 9 typ host\n" for i in range(40))
        wire.peer.add_candidates(fragment)
        with pytest.raises(CallerError) as refusal:
            wire.peer.add_candidates(fragment)
        assert (refusal.value.status, refusal.value.code) == (429, "too_many_candidates")
        wire.peer.add_candidates("a=end-of-candidates\n")
        await wire.still_receives()


# -- later offers of a connection (RFC 3264 section 8) --------------------------------------------------


def later(wire: Wire, change: Callable[[str], str] = lambda text: text) -> Offer:
    """The caller's offer once more, changed."""
    text = change(wire.caller._pc.localDescription.sdp)
    return Offer.parse(text, max_tracks=8, held=wire.peer.tracks)


def answer_of(text: str) -> Description:
    return Description.parse(text)


async def test_hold_and_resume(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        held = later(wire, lambda text: text.replace("a=sendrecv", "a=inactive"))
        assert wire.peer.continues(held)
        answer = answer_of(await wire.peer.renegotiate(held))
        assert [s.direction for s in answer.sections if s.kind == "audio"] == ["inactive"]
        assert wire.line.muted == ["hold"]
        resumed = answer_of(await wire.peer.renegotiate(later(wire)))
        assert [s.direction for s in resumed.sections if s.kind == "audio"] == ["recvonly"]
        versions = [int(answer.session[1].split(" ")[2]) for answer in (answer, resumed)]
        assert versions[1] == versions[0] + 1
        assert wire.line.muted == ["hold"]
        assert wire.line.ended == []
        await wire.still_receives()


async def test_an_audio_section_is_added_and_removed_on_a_live_connection(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        pc = wire.caller._pc
        pc.addTrack(Playback(tone, None))
        await pc.setLocalDescription(await pc.createOffer())
        answer = await wire.peer.renegotiate(later(wire))
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        mid = next(mid for mid in wire.peer.tracks if mid != "0")
        await until(lambda: len(wire.call.tracks[mid].packets) > 5)
        await wire.still_receives()
        assert wire.line.ended == []

        def without_the_second(text: str) -> str:
            second = text.split("m=audio")[2]
            return text.replace("m=audio" + second, "m=audio 0" + second[second.index(" UDP") :])

        removed = later(wire, without_the_second)
        answered = answer_of(await wire.peer.renegotiate(removed))
        assert [s.port == "0" for s in answered.sections if s.kind == "audio"] == [False, True]
        assert wire.call.tracks[mid].ended == ["section removed"]
        await wire.still_receives()


async def test_an_offer_of_another_connection_is_not_a_later_one(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        other = later(wire, lambda text: re.sub("a=ice-ufrag:.*", "a=ice-ufrag:other", text))
        assert not wire.peer.continues(other)


async def test_payload_types_may_mean_something_else_later(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        offer = later(wire, lambda text: text.replace("PCMA/8000", "telephone-event/8000"))
        await wire.peer.renegotiate(offer)
        assert wire.line.codecs[8].name == "telephone-event"
        await wire.still_receives()


async def test_packets_of_no_section_are_said_once_and_counted(tone: list[bytes]) -> None:
    """Two sections that take the same payload types, each with its source; a third source is nobody's."""
    async with Wire(caller(tone, tone)) as wire:
        await until(lambda: all(len(line.packets) > 3 for line in wire.call.tracks.values()))
        for number in range(20):
            await wire.send_rtp(rtp(99, number, bytes(20)))
        dropped = wire.peer.stats
        await until(lambda: dropped()["dropped_packets"]["unroutable"] >= 20)
        said = [e.fields for e in wire.call.feed.history if e.fields["type"] == "audio.ignored"]
        assert len(said) == 1
        assert said[0]["payload_type"] == 96
        await wire.still_receives()


async def test_a_strangers_datagrams_are_no_sign_of_the_callers_life(tone: list[bytes]) -> None:
    async with Wire(caller(tone)) as wire:
        await until(lambda: len(wire.line.packets) > 5)
        (transport,) = wire.peer._attached.receivers._transports.values()
        (protocol,) = transport._dtls.transport._connection._protocols
        wire.caller.vanish()
        await asyncio.sleep(0.05)
        before = transport.last_received
        loop = asyncio.get_running_loop()
        here = protocol.transport.get_extra_info("sockname")
        stranger, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        for data in (b"\x80" * 40, b"\x16" * 40, bytes(20), b"x"):
            stranger.sendto(data, here)
        await asyncio.sleep(0.1)
        stranger.close()
        assert transport.last_received == before


class FakeDtls:
    """A DTLS client whose server answers after a while."""

    def __init__(self, answered_s: float) -> None:
        self._role = "client"
        self.sent: list[tuple[float, bytes]] = []
        self.transport = SimpleNamespace(_send=self.record)
        self._answered_s = answered_s

    async def record(self, data: bytes) -> None:
        self.sent.append((round(asyncio.get_running_loop().time(), 3), data))

    async def _do_handshake(self) -> None:
        await self.transport._send(b"hello")
        await asyncio.sleep(self._answered_s)
        await self.transport._send(b"finished")
        await asyncio.sleep(1.0)


@pytest.mark.parametrize(("answered_s", "hellos"), [(0.01, [0.0]), (0.1, [0.0, 0.03, 0.08])])
def test_a_hello_that_is_not_answered_is_said_again(answered_s: float, hellos: list[float]) -> None:
    async def main() -> None:
        dtls = FakeDtls(answered_s)
        repeat_hello(dtls)
        await dtls._do_handshake()
        assert dtls.sent == [*((at, b"hello") for at in hellos), (answered_s, b"finished")]
        assert dtls.transport._send == dtls.record

    run_virtual(main())
