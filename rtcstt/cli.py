"""The command line: ``rtcstt COMMAND``. Each command's module is imported only when it is the one asked for.

Exit status: 0 done, 1 it failed, 2 an option or setting is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from rtcstt import __version__
from rtcstt.errors import ConfigError, RtcsttError

if TYPE_CHECKING:
    from rtcstt.caller import Caller

COMMANDS = {
    "demo": ("rtcstt.demo", "place a real WebRTC call on this machine and print what was said"),
    "serve": ("rtcstt.server.command", "the server: web page, HTTP and WHIP doors, captions"),
    "stt": ("rtcstt.embedded.command", "the embedded speech-to-text server alone"),
    "call": ("rtcstt.cli", "a WebRTC caller for tests: play a file to a server, print the events"),
    "rtp": ("rtcstt.plain_rtp", "plain RTP from a gateway, on a UDP port, to events"),
    "transcribe": ("rtcstt.transcribe", "recordings to transcripts"),
    "models": ("rtcstt.embedded.models", "list the recogniser's models; fetch the missing ones"),
    "doctor": ("rtcstt.doctor", "say what is wrong: UDP, STUN and TURN, the STT, the recogniser"),
}
SERVERS = ("serve", "stt")


class Command(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args, command = _parse(words)
    _set_up_logging(verbose=args.verbose, server=args.command in SERVERS)
    try:
        return command.run(args)
    except ConfigError as error:
        return _fail(error, 2)
    except RtcsttError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left; say nothing when flushing fails, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, Command]:
    parser = argparse.ArgumentParser(prog="rtcstt", description="Live WebRTC calls into text.")
    parser.add_argument("--version", action="version", version=f"rtcstt {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what goes on inside")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if word in COMMANDS), None)
    command: Command | None = None
    for name, (module, text) in COMMANDS.items():
        about = text[0].upper() + text[1:] + "."
        # In full, or the KEY of `--stt-key KEY` would pass for the name of a file.
        options = commands.add_parser(name, help=text, description=about, allow_abbrev=False)
        if name == chosen:
            command = cast(Command, importlib.import_module(module))
            command.add_arguments(options)
    args = parser.parse_args(words)
    assert command is not None  # the parser has refused anything else
    return args, command


def _set_up_logging(*, verbose: bool, server: bool) -> None:
    """To stderr. Servers tell the lifecycle of calls; other commands have their own output."""
    quiet = logging.INFO if server else logging.WARNING
    logging.basicConfig(
        level=logging.DEBUG if verbose else quiet,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        for chatty in ("aioice", "aiortc", "aiohttp.access", "websockets"):
            logging.getLogger(chatty).setLevel(logging.WARNING)


def _fail(error: RtcsttError, status: int) -> int:
    print(f"rtcstt: {error}", file=sys.stderr)
    return status


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
    from rtcstt.caller import Caller
    from rtcstt.recording import Network, opus_packets, read

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


if __name__ == "__main__":
    sys.exit(main())
