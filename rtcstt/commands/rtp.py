"""`rtcstt rtp`: plain RTP that a gateway sends to a UDP port, as events on the standard output.

For Asterisk's ExternalMedia, Janus' rtp_forward, rtpengine, ffmpeg: whatever can be told an address and a
codec. RTP has no passwords. The first address that speaks is received, and no other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtcstt.commands.models import OFFLINE, ensure
from rtcstt.embedded import DEFAULT_MODEL, MODEL_NAMES, Embedded
from rtcstt.errors import CallerError, ConfigError, RemoteProtocolError
from rtcstt.events import AudioIgnored
from rtcstt.http.serving import cannot_listen, on_stop_signals
from rtcstt.media.rtp import CLOCK_RATES, Codec
from rtcstt.server.options import check_range, host_and_port, option
from rtcstt.server.remote_stt import remote_stt
from rtcstt.stt.seam import Stt
from rtcstt.transcriber import Transcriber
from rtcstt.webrtc.sdp import Description, Encoding, Section

log = logging.getLogger(__name__)

# Payload type and clock rate where nothing else is said (RFC 3551 section 6; 96 is the first dynamic one).
USUAL = {
    "PCMU": (0, Codec("PCMU", 8000)),
    "PCMA": (8, Codec("PCMA", 8000)),
    "G722": (9, Codec("G722", 8000)),
    "opus": (96, Codec("opus", 48000, 2)),
    "L16": (96, Codec("L16", 16000)),
}
WATCH_S = 0.2
MAX_SAID = 8  # reasons why something is ignored
IDLE_S = (0.0, 86400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    listen: str | None = option(None, "UDP address that gets the RTP", metavar="HOST:PORT")
    codec: str | None = option(None, "what the packets hold", choices=tuple(USUAL))
    sdp: Path | None = option(None, "a session description that says so", metavar="FILE")
    payload_type: int | None = option(None, "default: the codec's usual one, or 96", metavar="N")
    clock_rate: int | None = option(None, "of L16; default: 16000", metavar="HZ")
    idle_s: float = option(10.0, "end so long after the last packet; 0: never", metavar="S")
    stt: str = option("embedded", "embedded, or a server's base URL", metavar="URL")
    stt_key_file: Path | None = option(None, "key of the STT, in place of RTCSTT_STT_KEY")
    model: str = option(DEFAULT_MODEL, f"of the embedded recogniser: {MODEL_NAMES}", metavar="NAME")
    offline: bool = option(False, OFFLINE)

    def __post_init__(self) -> None:
        if self.listen is None:
            raise ConfigError("--listen is needed, such as --listen 127.0.0.1:5004")
        if (self.codec is None) == (self.sdp is None):
            raise ConfigError("one of --codec and --sdp is needed, to say what the packets hold")
        check_range("idle_s", self.idle_s, IDLE_S)


def run(options: Options) -> int:
    codecs = _from_sdp(options.sdp) if options.sdp else _from_options(options)
    host, port = host_and_port(str(options.listen), "--listen")
    if options.stt == "embedded":
        ensure(options.model, offline=options.offline)
    return asyncio.run(_transcribe(codecs, host, port, options))


async def _transcribe(codecs: Mapping[int, Codec], host: str, port: int, options: Options) -> int:
    stop = asyncio.Event()
    with on_stop_signals(lambda _: stop.set()):
        return await _until_stopped(codecs, host, port, options, stop)


async def _until_stopped(
    codecs: Mapping[int, Codec], host: str, port: int, options: Options, stop: asyncio.Event
) -> int:
    async with _stt(options) as stt, Transcriber.from_rtp(codecs, stt=stt) as transcriber:
        transport, receiver = await _listen(transcriber, host, port)
        printing = asyncio.create_task(_print_events(transcriber))
        try:
            await _until_over(transcriber, receiver, stop, options.idle_s or math.inf)
            await transcriber.close("stopped" if stop.is_set() else "no more packets")
            await printing
        finally:
            transport.close()
            printing.cancel()
    return 0


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._source: str | None = None
        self._clock = asyncio.get_running_loop().time
        self.first_packet = math.inf
        "The loop's time at which the first packet came."
        self.ignored = 0
        self._said: set[str] = set()

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        if self._source not in (None, address[0]):
            self._ignore(f"packets of {address[0]} arrive, but {self._source} spoke first")
            return
        try:
            self._transcriber.push(data)
        except RemoteProtocolError:
            self._ignore("datagrams arrive that are no RTP")
        else:
            self._source = address[0]
            self.first_packet = min(self.first_packet, self._clock())

    def _ignore(self, reason: str) -> None:
        """Said once for each of the first reasons; the rest is counted."""
        self.ignored += 1
        if reason not in self._said and len(self._said) < MAX_SAID:
            self._said.add(reason)
            self._transcriber.call.publish(AudioIgnored(track="", reason=reason))

    def connection_lost(self, _: Exception | None) -> None:
        if self.ignored:
            log.warning("%d datagrams were no RTP, or of another sender", self.ignored)


async def _listen(
    transcriber: Transcriber, host: str, port: int
) -> tuple[asyncio.DatagramTransport, _Receiver]:
    loop = asyncio.get_running_loop()
    try:
        transport, receiver = await loop.create_datagram_endpoint(
            lambda: _Receiver(transcriber), (host, port)
        )
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    host, port = transport.get_extra_info("sockname")[:2]
    sys.stderr.write(f"listening for RTP on {host} port {port}\n")
    return transport, receiver


async def _until_over(
    transcriber: Transcriber, receiver: _Receiver, stop: asyncio.Event, idle_s: float
) -> None:
    """Until it is told to stop, or no audio came for so long after the first packet, whatever that held."""
    now = asyncio.get_running_loop().time
    while not stop.is_set():
        if min(transcriber.call.silent_s(), now() - receiver.first_packet) >= idle_s:
            for track in transcriber.call.tracks.values():
                track.mute("idle")  # that is how a stream without signaling ends: nothing of it is lost
            return
        try:
            await asyncio.wait_for(stop.wait(), WATCH_S)
        except TimeoutError:
            pass


async def _print_events(transcriber: Transcriber) -> None:
    async for event in transcriber:
        sys.stdout.write(event.to_json() + "\n")
        sys.stdout.flush()


@asynccontextmanager
async def _stt(options: Options) -> AsyncIterator[Stt]:
    if options.stt != "embedded":
        yield remote_stt(options.stt, os.environ, options.stt_key_file)
        return
    embedded = Embedded(options.model)
    try:
        await embedded.describe()  # loads it before the first word comes
        yield embedded
    finally:
        await embedded.close()


def _from_options(options: Options) -> dict[int, Codec]:
    payload_type, codec = USUAL[str(options.codec)]
    if options.payload_type is not None:
        payload_type = options.payload_type
    if not 0 <= payload_type <= 127:
        raise ConfigError("--payload-type must be from 0 to 127")
    if options.clock_rate is not None and options.clock_rate != codec.clock_rate:
        if codec.name != "L16":
            raise ConfigError(f"clock_rate of {codec.name} is {codec.clock_rate}")
        codec = _linear(options.clock_rate, 1)
    return {payload_type: codec}


def _from_sdp(path: Path) -> dict[int, Codec]:
    """The codecs of the first audio section that is not refused (port 0), as it states them."""
    try:
        sections = Description.parse(path.read_text()).sections
    except (OSError, UnicodeDecodeError, CallerError) as error:
        message = error.message if isinstance(error, CallerError) else error
        raise ConfigError(f"{path} cannot be read: {message}") from error
    audio = next((s for s in sections if s.kind == "audio" and not s.is_refused), None)
    if audio is None:
        raise ConfigError(f"{path} has no audio section that is not refused (port 0)")
    _check_plain(path, audio)
    codecs = {}
    for encoding in audio.encodings:
        codec = _plain_codec(encoding)
        if codec is not None:
            codecs[encoding.payload_type] = codec
        elif encoding.name.lower() in _PLAIN:
            line = f"a=rtpmap:{encoding.payload_type} {encoding}"
            raise ConfigError(f"{path}: {line}: {_PLAIN[encoding.name.lower()]} is what can be taken")
    if not any(codec.is_speech for codec in codecs.values()):
        raise ConfigError(
            f"{path}: {audio.lines[0]}: none of its codecs is known here: {', '.join(USUAL)} and red"
        )
    return codecs


def _check_plain(path: Path, audio: Section) -> None:
    """`ConfigError` where packets cannot be read: they are encrypted, or a payload type means two things."""
    if "SAVP" in audio.protocol.upper() or audio.values("crypto"):
        raise ConfigError(f"{path}: {audio.lines[0]}: only unencrypted RTP (RTP/AVP) can be taken here")
    meanings: dict[str, str] = {}
    for number, _, encoding in (value.partition(" ") for value in audio.values("rtpmap")):
        if number in audio.formats and meanings.setdefault(number, encoding).lower() != encoding.lower():
            raise ConfigError(f"{path}: a=rtpmap:{number} {encoding}: it is {meanings[number]} before")


# By the names of the codecs, what of each is taken; beyond RFC 7587 and 3551 where gateways do so.
_PLAIN = {
    "opus": "opus/48000/2",
    "pcmu": "PCMU at 8000 to 96000 Hz with 1 or 2 channels",
    "pcma": "PCMA at 8000 to 96000 Hz with 1 or 2 channels",
    "g722": "G722/8000",
    "l16": "L16 at 8000 to 96000 Hz with 1 or 2 channels",
}


def _plain_codec(encoding: Encoding) -> Codec | None:
    name, rate = encoding.name.lower(), encoding.clock_rate
    if name not in ("pcmu", "pcma", "l16", "red"):
        return encoding.codec
    low, high = CLOCK_RATES
    known = name if name == "red" else name.upper()
    return (
        Codec(known, rate, encoding.channels) if low <= rate <= high and encoding.channels in (1, 2) else None
    )


def _linear(clock_rate: int, channels: int) -> Codec:
    low, high = CLOCK_RATES
    if not low <= clock_rate <= high:
        raise ConfigError(f"clock_rate must be from {low} to {high}")
    return Codec("L16", clock_rate, channels)
