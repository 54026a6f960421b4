"""`rtcstt call`: a WebRTC caller for tests."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtcstt.errors import ConfigError
from rtcstt.http.access import read_lines
from rtcstt.server.options import option, share

if TYPE_CHECKING:
    from rtcstt.webrtc.caller import Caller


def _span(text: str) -> tuple[float, float]:
    start, _, end = text.partition("-")
    try:
        span = float(start), float(end)
    except ValueError:
        raise ValueError("it is FROM-TO, in seconds") from None
    if not 0 <= span[0] < span[1]:
        raise ValueError("it begins before it ends, at 0 or later")
    return span


def _span_or_none(text: str) -> tuple[float, float] | None:
    return _span(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    files: tuple[Path, ...] = option(
        (), "a recording; several are several tracks", positional="+", metavar="FILE"
    )
    to: str | None = option(
        None, "the server's /offer or /whip, such as http://127.0.0.1:8080/offer", metavar="URL"
    )
    mode: str | None = option(None, "who ends an utterance", choices=("auto", "manual"))
    token_file: Path | None = option(None, "holds the bearer token (or set RTCSTT_TOKEN)")
    stay: float = option(3.0, "silence after the file, in seconds", metavar="S")
    loss: float = option(0.0, "lose packets: 5% or 0.05", read=share, metavar="SHARE")
    burst: float = option(1.0, "mean length of a loss, in packets", metavar="N")
    jitter: float = option(0.0, "delay packets at random, in ms", metavar="MS")
    mute: tuple[float, float] | None = option(
        None, "send nothing from second FROM to TO", read=_span_or_none, metavar="FROM-TO"
    )
    seed: int = option(0, "of the loss and the jitter", metavar="N")
    resume_s: float = option(
        30.0, "offer the call again for so long when its server is gone, in seconds; 0: never", metavar="S"
    )
    vanish: bool = option(False, "at the end send nothing any more, instead of hanging up")

    def __post_init__(self) -> None:
        if self.to is None:
            raise ConfigError("--to is needed, such as --to http://127.0.0.1:8080/offer")


def run(options: Options) -> int:
    return asyncio.run(_call(options))


async def _call(options: Options) -> int:
    from rtcstt.media.files import read
    from rtcstt.webrtc.caller import Caller
    from rtcstt.webrtc.impairment import Network
    from rtcstt.webrtc.playback import opus_packets

    tracks = [opus_packets(read(path)) for path in options.files]
    network = Network(loss=options.loss, burst=options.burst, jitter_ms=options.jitter, seed=options.seed)
    caller = Caller(*tracks, network=network, mute=options.mute, loopback=True, resume_s=options.resume_s)
    printing = asyncio.create_task(_print_events(caller))
    try:
        await caller.dial(str(options.to), token=_token(options.token_file), mode=options.mode)
        await caller.played()
        await asyncio.sleep(options.stay)
        if options.vanish:
            caller.vanish()
        else:
            await caller.hang_up()
    finally:
        await caller.close()
        ended = await printing
    return 0 if ended or options.vanish or not caller.drains else 1


async def _print_events(caller: Caller) -> bool:
    last = None
    async for event in caller.events():
        print(json.dumps(event, ensure_ascii=False), flush=True)
        last = event["type"]
    return last == "session.end"


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("RTCSTT_TOKEN")
    return read_lines(path)[0]
