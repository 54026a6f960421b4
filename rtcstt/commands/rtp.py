"""`rtcstt rtp`: plain RTP that a gateway sends to a UDP port, as events on the standard output.

For Asterisk's ExternalMedia, Janus' rtp_forward, rtpengine, ffmpeg: whatever can be told an address and a
codec. RTP has no passwords. The first address that speaks is received, and no other.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rtcstt.embedded import DEFAULT_MODEL, Embedded
from rtcstt.errors import CallerError, ConfigError, RemoteProtocolError
from rtcstt.media.rtp import Codec
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.seam import Stt
from rtcstt.transcriber import Transcriber
from rtcstt.webrtc.sdp import Description, Section

log = logging.getLogger(__name__)

# Payload type and clock rate where nothing else is said (RFC 3551 section 6; 96 is the first dynamic one).
USUAL = {
    "PCMU": (0, Codec("PCMU", 8000)),
    "PCMA": (8, Codec("PCMA", 8000)),
    "G722": (9, Codec("G722", 8000)),
    "opus": (96, Codec("opus", 48000, 2)),
    "L16": (96, Codec("L16", 16000)),
}
CLOCK_RATES = (8000, 96000)  # of L16; the other codecs have their own
WATCH_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="UDP address that gets the RTP")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--codec", choices=list(USUAL), help="what the packets hold")
    what.add_argument("--sdp", type=Path, metavar="FILE", help="a session description that says so")
    parser.add_argument("--payload-type", type=int, metavar="N", help="default: the codec's usual one, or 96")
    parser.add_argument("--clock-rate", type=int, metavar="HZ", help="of L16 (16000)")
    parser.add_argument(
        "--idle-s",
        type=float,
        default=10.0,
        metavar="S",
        help="end so long after the last packet; 0: never (10)",
    )
    parser.add_argument(
        "--stt", default="embedded", metavar="URL", help="embedded, or a server's base URL (embedded)"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="of the embedded recogniser")


def run(args: argparse.Namespace) -> int:
    codecs = _from_sdp(args.sdp) if args.sdp else _from_options(args)
    host, port = _address(args.listen)
    return asyncio.run(_transcribe(codecs, host, port, args))


async def _transcribe(codecs: Mapping[int, Codec], host: str, port: int, args: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _stt(args.stt, args.model) as stt, Transcriber.from_rtp(codecs, stt=stt) as transcriber:
        ear = await _listen(transcriber, host, port)
        printing = asyncio.create_task(_print_events(transcriber))
        try:
            await _until_over(transcriber, stop, args.idle_s or math.inf)
            await transcriber.close("stopped" if stop.is_set() else "no more packets")
            await printing
        finally:
            ear.close()
            printing.cancel()
    return 0


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._source: str | None = None
        self.ignored = 0

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        if self._source not in (None, address[0]):
            self.ignored += 1
            return
        try:
            self._transcriber.push(data)
        except RemoteProtocolError:
            self.ignored += 1
        else:
            self._source = address[0]

    def connection_lost(self, _: Exception | None) -> None:
        if self.ignored:
            log.warning("%d datagrams were no RTP, or of another sender", self.ignored)


async def _listen(transcriber: Transcriber, host: str, port: int) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(transcriber), (host, port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    host, port = transport.get_extra_info("sockname")[:2]
    sys.stderr.write(f"listening for RTP on {host} port {port}\n")
    return transport


async def _until_over(transcriber: Transcriber, stop: asyncio.Event, idle_s: float) -> None:
    """Until it is told to stop, or no packet came for so long after the first."""
    while not stop.is_set():
        silent_s = transcriber.call.silent_s()
        if math.isfinite(silent_s) and silent_s >= idle_s:
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
async def _stt(name: str, model: str) -> AsyncIterator[Stt]:
    if name != "embedded":
        key = os.environ.get("RTCSTT_STT_KEY") or os.environ.get("CARTESIA_API_KEY")
        yield Cartesia(api_key=key, base_url=name)
        return
    embedded = Embedded(model)
    try:
        await embedded.describe()  # loads it before the first word comes
        yield embedded
    finally:
        await embedded.close()


def _from_options(args: argparse.Namespace) -> dict[int, Codec]:
    payload_type, codec = USUAL[args.codec]
    if args.payload_type is not None:
        payload_type = args.payload_type
    if not 0 <= payload_type <= 127:
        raise ConfigError("--payload-type must be from 0 to 127")
    if args.clock_rate is not None and args.clock_rate != codec.clock_rate:
        if codec.name != "L16":
            raise ConfigError(f"the clock rate of {codec.name} is {codec.clock_rate}")
        codec = _linear(args.clock_rate, 1)
    return {payload_type: codec}


def _from_sdp(path: Path) -> dict[int, Codec]:
    """The codecs of the first audio section; those of a description for plain RTP, so L16 as well."""
    try:
        sections = Description.parse(path.read_text()).sections
    except (OSError, UnicodeDecodeError, CallerError) as error:
        message = error.message if isinstance(error, CallerError) else error
        raise ConfigError(f"{path} cannot be read: {message}") from error
    audio = next((section for section in sections if section.kind == "audio"), None)
    codecs = {**audio.codecs(), **_linear_codecs(audio)} if audio is not None else {}
    if not any(codec.is_speech for codec in codecs.values()):
        raise ConfigError(f"{path} has no audio in a codec that is known here: {', '.join(USUAL)}")
    return codecs


def _linear_codecs(section: Section) -> dict[int, Codec]:
    found = {}
    for value in section.values("rtpmap"):
        payload_type, _, encoding = value.partition(" ")
        name, *rest = encoding.strip().split("/")
        if name.upper() == "L16" and payload_type in section.formats and rest and rest[0].isdecimal():
            found[int(payload_type)] = _linear(int(rest[0]), 2 if rest[1:] == ["2"] else 1)
    return found


def _linear(clock_rate: int, channels: int) -> Codec:
    low, high = CLOCK_RATES
    if not low <= clock_rate <= high:
        raise ConfigError(f"the clock rate must be from {low} to {high}")
    return Codec("L16", clock_rate, channels)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen is HOST:PORT, not {text}")
    return host.strip("[]"), int(port)
