"""The command line: ``rtcstt COMMAND``. Each command's module is imported only when it is the one asked for.

Exit status: 0 done, 1 it failed, 2 an option or setting is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from rtcstt import __version__, logs
from rtcstt.errors import ConfigError, RtcsttError

COMMANDS = {
    "demo": ("rtcstt.commands.demo", "place a real WebRTC call on this machine and print what was said"),
    "serve": ("rtcstt.commands.serve", "the server: web page, HTTP and WHIP doors, captions"),
    "stt": ("rtcstt.commands.stt", "the embedded speech-to-text server alone"),
    "call": ("rtcstt.commands.call", "a WebRTC caller for tests: play a file to a server, print the events"),
    "rtp": ("rtcstt.commands.rtp", "plain RTP from a gateway, on a UDP port, to events"),
    "transcribe": ("rtcstt.commands.transcribe", "recordings to transcripts"),
    "models": ("rtcstt.commands.models", "list the recogniser's models; fetch the missing ones"),
    "doctor": ("rtcstt.commands.doctor", "say what is wrong: UDP, STUN and TURN, the STT, the recogniser"),
}
SERVERS = ("serve", "stt")


class Command(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args, command = _parse(words)
    logs.set_up(verbose=args.verbose, server=args.command in SERVERS)
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


def _fail(error: RtcsttError, status: int) -> int:
    print(f"rtcstt: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
