"""The command line: ``rtcstt COMMAND``. Each command's module is imported only when it is the one asked for.

Exit status: 0 done, 1 it failed, 2 an option or setting is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

import shtab

from rtcstt import __version__, logs
from rtcstt.errors import ConfigError, RtcsttError
from rtcstt.server import options
from rtcstt.server.options import option

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COMMANDS = {
    "demo": ("rtcstt.commands.demo", "place a real WebRTC call on this machine and print what was said"),
    "serve": ("rtcstt.commands.serve", "the server: web page, HTTP and WHIP signaling, captions"),
    "stt": ("rtcstt.commands.stt", "the embedded speech-to-text server alone"),
    "call": ("rtcstt.commands.call", "a WebRTC caller for tests: play a file to a server, print the events"),
    "rtp": ("rtcstt.commands.rtp", "plain RTP from a gateway, on a UDP port, to events"),
    "transcribe": ("rtcstt.commands.transcribe", "recordings to transcripts"),
    "models": ("rtcstt.commands.models", "list the recogniser's models; fetch the missing ones"),
    "doctor": (
        "rtcstt.commands.doctor",
        "try all that serve would use, and say what is wrong: ports, UDP, STUN, TURN, TLS, Redis, the STT",
    ),
}
SERVERS = ("serve", "stt")


@dataclass(frozen=True, slots=True, kw_only=True)
class General:
    """What every command takes, before its name or after it."""

    verbose: bool = option(False, "log what goes on inside", short="-v")
    log_format: str = option("text", "of the log, on the standard error", choices=logs.FORMATS)


class Command(Protocol):
    """What the module of a command has."""

    Options: type[DataclassInstance]

    def run(self, options: DataclassInstance) -> int:
        """The exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    sources: dict[str, str] = {}
    chosen = None
    try:
        args, command = _parse(words)
        _report_unknown_variables(command)
        general, _ = options.load(General, args, os.environ, others=[command.Options])
        logs.set_up(verbose=general.verbose, server=args.command in SERVERS, log_format=general.log_format)
        chosen, sources = options.load(command.Options, args, os.environ, others=[General])
        return command.run(chosen)
    except ConfigError as error:
        return _fail(options.explained(str(error), sources, chosen), 2)
    except RtcsttError as error:
        return _fail(options.explained(str(error), sources, chosen), 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left; say nothing when flushing fails, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    """Says what may have been meant, as argparse does from Python 3.14 on."""

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += options.meant(found[1], re.findall(r"[\w.:-]+", found[2]))
        elif found := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            message += options.meant(found[1], self.known_flags)
        super().error(message)

    known_flags: Sequence[str] = ()


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, Command]:
    parser = _Parser(prog="rtcstt", description="Live WebRTC calls into text.")
    parser.add_argument("--version", action="version", version=f"rtcstt {__version__}")
    shtab.add_argument_to(
        parser, "--print-completion", help="print what makes this shell complete commands and options"
    )
    options.add_arguments(parser, General)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if word in COMMANDS), None)
    for name, (_, text) in COMMANDS.items():
        about = text[0].upper() + text[1:] + "."
        # In full, or the KEY of `--stt-key KEY` would pass for the name of a file.
        sub = commands.add_parser(name, help=text, description=about, allow_abbrev=False)
        if name == chosen or "--print-completion" in words:
            _add_options(sub, name)
            parser.known_flags = [flag for flag in sub._option_string_actions if flag.startswith("--")]
    args = parser.parse_args(words)
    return args, _module(args.command)


def _add_options(parser: argparse.ArgumentParser, name: str) -> None:
    config = 'options as TOML, e.g. log-format = "json"'
    parser.add_argument("--config", type=Path, metavar="FILE", help=config)
    options.add_arguments(parser, _module(name).Options)
    options.add_arguments(parser, General, default=argparse.SUPPRESS)  # keeps what came before the command


def _module(name: str) -> Command:
    return cast(Command, importlib.import_module(COMMANDS[name][0]))


def _report_unknown_variables(command: Command) -> None:
    """Of other commands too, whose modules are imported only where there is something to look up."""
    names: Mapping[str, str] = os.environ
    if not options.unknown_variables(names, [General, command.Options]):
        return
    known: list[type[DataclassInstance]] = [General, *(_module(name).Options for name in COMMANDS)]
    for message in options.unknown_variables(names, known):
        print(f"rtcstt: {message}", file=sys.stderr)


def _fail(message: str, status: int) -> int:
    print(f"rtcstt: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
