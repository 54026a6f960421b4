"""`rtcstt call`: a WebRTC caller for tests."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rtcstt.errors import ConfigError

if TYPE_CHECKING:
    from rtcstt.webrtc.caller import Caller

# rtcstt call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a recording; several are several tracks")
    parser.add_argument("--to", required=True, metavar="URL", help="the server's /offer or /whip")
    parser.add_argument("--mode", choices=["auto", "manual"], help="who ends an utterance")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="holds the bearer token (or set RTCSTT_TOKEN)"
    )
    parser.add_argument("--stay", type=float, default=3.0, metavar="S", help="silence after the file (3)")
    parser.add_argument("--loss", type=float, default=0.0, metavar="SHARE", help="lose packets: 0.05 is 5 %%")
    parser.add_argument("--burst", type=float, default=1.0, metavar="N", help="mean length of a loss (1)")
    parser.add_argument("--jitter", type=float, default=0.0, metavar="MS", help="delay packets at random")
    parser.add_argument("--mute", type=_span, metavar="A-B", help="send nothing from second A to B")
    parser.add_argument("--seed", type=int, default=0, help="of the loss and the jitter (0)")
    parser.add_argument("--vanish", action="store_true", help="at the end fall silent instead of hanging up")


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_call(args))


async def _call(args: argparse.Namespace) -> int:
    from rtcstt.media.files import read
    from rtcstt.webrtc.caller import Caller
    from rtcstt.webrtc.impairment import Network
    from rtcstt.webrtc.playback import opus_packets

    tracks = [opus_packets(read(path)) for path in args.files]
    network = Network(loss=args.loss, burst=args.burst, jitter_ms=args.jitter, seed=args.seed)
    caller = Caller(*tracks, network=network, mute=args.mute, loopback=True)
    printing = asyncio.create_task(_print_events(caller))
    try:
        await caller.dial(args.to, token=_token(args.token_file), mode=args.mode)
        await caller.played()
        await asyncio.sleep(args.stay)
        if args.vanish:
            caller.vanish()
        else:
            await caller.hang_up()
    finally:
        await caller.close()
        ended = await printing
    return 0 if ended or args.vanish else 1


async def _print_events(caller: Caller) -> bool:
    last = None
    async for event in caller.events():
        print(json.dumps(event, ensure_ascii=False), flush=True)
        last = event["type"]
    return last == "session.end"


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("RTCSTT_TOKEN")
    try:
        return path.read_text().split("\n")[0].strip()
    except OSError as error:
        raise ConfigError(f"cannot read the token: {error}") from error


def _span(text: str) -> tuple[float, float]:
    start, _, end = text.partition("-")
    if not 0 <= float(start) < float(end):
        raise ValueError(text)
    return float(start), float(end)
