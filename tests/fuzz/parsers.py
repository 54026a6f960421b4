"""Mutated inputs for everything that reads what comes from outside: only the errors that are told of."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from rtcstt import wire
from rtcstt.errors import CallerError, ConfigError, ProtocolError
from rtcstt.events import from_dict
from rtcstt.http.access import Authenticator, Grant
from rtcstt.http.bodies import checked_metadata, parse_object
from rtcstt.http.guard import Hosts
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.rtp import Codec, Packet
from rtcstt.server import addresses, media_formats
from rtcstt.server.signaling_routes import about
from rtcstt.webrtc import candidates
from rtcstt.webrtc.connection import IceServer
from rtcstt.webrtc.negotiation import Offer
from tests.descriptions import AUDIO, DATA, SESSION, VIDEO
from tests.fuzz.mutations import mutated

REFUSALS = (CallerError, ConfigError, ProtocolError)
OFFER = (SESSION + "a=group:BUNDLE 0 1 2\n" + AUDIO + VIDEO + DATA).encode()
FRAGMENT = b"a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n" + (
    b"a=candidate:1 1 udp 2122260223 10.0.0.1 5000 typ host\r\na=end-of-candidates\r\n"
)
ABOUT: dict[str, object] = {
    "mode": "auto",
    "label": "desk",
    "metadata": {"a": [1, {"b": 2.5}]},
    "keyterms": ["x"],
}
ABOUT |= {"turn": {"end_timeout_ms": 900}, "language": "en", "update_ms": 500}
START: dict[str, object] = {
    "streamSid": "MZ",
    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
}
START |= {"tracks": ["inbound", "outbound"], "customParameters": {"label": "x", "n": 1}}
EVENT = {
    "type": "turn.end",
    "call": "c",
    "seq": 1,
    "time": 1.0,
    "track": "0",
    "turn": 0,
    "start": 0.5,
    "end": 1.0,
}
RTP = bytes(Packet(1, 2, 960, 111, bytes((0xFC, *range(60)))))


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _offer(data: bytes) -> None:
    Offer.parse(text(data), max_tracks=8)


def _fragment(data: bytes) -> None:
    candidates.in_fragment(text(data))


def _about(data: bytes) -> None:
    about(parse_object(data), Grant())


def _metadata(data: bytes) -> None:
    json.dumps(checked_metadata(parse_object(data)), allow_nan=False)


def _start(data: bytes) -> None:
    message = media_formats.media_message(text(data))
    if isinstance(message, media_formats.Start):
        json.dumps(message.about.metadata, allow_nan=False)


def _pcm(data: bytes) -> None:
    media_formats.pcm_message(text(data))


def _handshake(data: bytes) -> None:
    wire.Handshake.parse("turns", parse_qsl(text(data), keep_blank_values=True))


def _client(data: bytes) -> None:
    wire.decode_client(text(data), "manual")


def _server(data: bytes) -> None:
    wire.decode_server(text(data))


def _event(data: bytes) -> None:
    try:
        from_dict(json.loads(data)).to_json()
    except (ValueError, RecursionError, AttributeError):  # what is not JSON, or no event
        pass


class _Packets:
    """Packets of one sender into a receiver, on a clock of its own; now and then another one."""

    def __init__(self) -> None:
        self._count = 0
        self._receiver = AudioReceiver(CODECS)

    def __call__(self, data: bytes) -> None:
        self._count += 1
        if self._count % 500 == 0:
            self._receiver = AudioReceiver(CODECS)
        now = self._count * 0.02
        self._receiver.push(Packet.parse(data), now)
        self._receiver.pull(now)
        json.dumps([self._receiver.ledger.as_dict(), self._receiver.stats()], allow_nan=False)


def _token(data: bytes) -> None:
    _AUTHENTICATOR.admit(text(data))


def _names(data: bytes) -> None:
    Hosts().allows(text(data))
    addresses.caller("127.0.0.1", [text(data)], [text(data)], addresses.Networks(["127.0.0.1"]))


def _ice_server(data: bytes) -> None:
    IceServer.parse(text(data))


CODECS = {
    111: Codec("opus", 48000, 2),
    0: Codec("PCMU", 8000, 1),
    9: Codec("G722", 8000, 1),
    13: Codec("CN", 8000, 1),
}
_AUTHENTICATOR = Authenticator(("a static token of the fuzz",), "a secret of at least thirty-two characters")
TARGETS: Mapping[str, tuple[Callable[[bytes], None], bytes]] = {
    "offer": (_offer, OFFER),
    "fragment": (_fragment, FRAGMENT),
    "about": (_about, json.dumps(ABOUT).encode()),
    "metadata": (_metadata, json.dumps(ABOUT["metadata"]).encode()),
    "media stream": (_start, json.dumps({"event": "start", "start": START}).encode()),
    "media": (
        _start,
        b'{"event":"media","media":{"track":"inbound","chunk":"1","payload":"AAAA"}}',
    ),
    "fork": (_pcm, b'{"sampleRate": 8000, "mixType": "stereo", "callSid": "x", "metadata": {"a": 1}}'),
    "Asterisk": (_start, b"MEDIA_START connection_id:x channel:y format:ulaw optimal_frame_size:160"),
    "handshake": (_handshake, b"model=ink-2&encoding=pcm_s16le&sample_rate=16000&keyterms=a&max_volume=0.1"),
    "client message": (_client, b'{"type": "config", "turn": {"end_timeout_ms": 900}}'),
    "server message": (_server, b'{"type": "turn.update", "request_id": "r", "transcript": "words"}'),
    "event": (_event, json.dumps(EVENT).encode()),
    "packet": (_Packets(), RTP),
    "token": (_token, b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3OTU5MDIxNTJ9.R6dSkr2dA"),
    "names": (_names, b"for=192.0.2.1;host=localhost:8080, [2001:db8::1]:80"),
    "ICE server": (_ice_server, b"turn:user:password@turn.example.net:3478?transport=udp"),
}


@dataclass(slots=True)
class Found:
    """What came of it: ``slowest_s``: CPU of one input, and the faults with the inputs that show them."""

    inputs: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    faults: list[str] = field(default_factory=list)


def run(seed: int, *, inputs: int | None = None, seconds: float | None = None) -> Found:
    """Until there were so many ``inputs``, or so many ``seconds`` are over."""
    rng, found, names = random.Random(seed), Found(), list(TARGETS)
    until = None if seconds is None else time.monotonic() + seconds
    while (inputs is None or found.inputs < inputs) and (until is None or time.monotonic() < until):
        name = names[found.inputs % len(names)]
        target, sample = TARGETS[name]
        data = mutated(rng, sample, longest=64_000)
        begin = time.process_time()
        try:
            target(data)
        except REFUSALS:
            found.refused += 1
        except Exception as error:
            if len(found.faults) < 20:
                found.faults.append(f"{name}: {type(error).__name__}: {error} for {data[:2000]!r}")
        took = time.process_time() - begin
        if took > found.slowest_s:
            found.slowest_s, found.slowest = took, f"{name}, {len(data)} bytes"
        found.inputs += 1
    return found
