"""The options of a command: one dataclass for its command line, the environment and a TOML file.

An option given on the command line wins over the environment (RTCSTT_ and its name in capitals), which wins
over the file (--config), which wins over the default. Where each value came from is kept, so that a refusal
can say it: see `explained`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import shlex
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rtcstt.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")

PREFIX = "RTCSTT_"
OTHER_VARIABLES = {"RTCSTT_STT_KEY", "RTCSTT_TOKEN", "RTCSTT_MODELS_DIR"}  # of the environment, no options
TESTS_VARIABLES = {"RTCSTT_SHARED", "RTCSTT_CHROMIUM"}

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def option(
    default: T,
    text: str,
    *,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    short: str = "",
    positional: str = "",
    group: str = "",
    read: Callable[[str], T] | None = None,
    each: Callable[[str], object] | None = None,
) -> T:
    """A field of a command's options. ``short``: its letter. ``positional``: how many words it takes, as
    argparse writes it (``+``, ``?``). ``group``: its heading in the help. ``read`` makes the value of a text,
    or ``each`` each of several, where the field's type does not say how; `ValueError` with the reason."""
    metadata = {
        "help": text,
        "choices": tuple(choices),
        "metavar": metavar,
        "short": short,
        "positional": positional,
        "group": group,
        "read": read,
        "each": each,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the values of one option are read."""

    read: Callable[[str], object]
    is_flag: bool = False
    is_list: bool = False
    choices: tuple[str, ...] = ()


def add_arguments(
    parser: argparse.ArgumentParser, of: type[DataclassInstance], *, default: str | None = None
) -> None:
    """``default``: of each, where it is not given; None or `argparse.SUPPRESS`."""
    kinds, fields = _kinds(of), dataclasses.fields(of)
    groups = {name: parser.add_argument_group(name) for name in _groups(fields)}
    has_words = any(field.metadata["positional"] for field in fields)  # these are not an option's
    for field in fields:
        about, kind = field.metadata, kinds[field.name]
        more: dict[str, Any] = {"help": _help(field), "default": default}
        if kind.is_flag:
            more["action"] = argparse.BooleanOptionalAction
        else:
            more["type"] = _for_argparse(kind.read)
            more["metavar"] = about["metavar"] or (
                None if kind.choices else _placeholder(field.name, kind.read)
            )
        if kind.choices:
            more["choices"] = kind.choices
        if about["positional"]:
            parser.add_argument(field.name, **more | {"nargs": about["positional"], "default": None})
            continue
        if kind.is_list:
            more |= {"action": "append"} if has_words else {"nargs": "+", "action": "extend"}
        flags = [about["short"]] * bool(about["short"]) + [flag_of(field.name)]
        groups.get(about["group"], parser).add_argument(*flags, **more)


def _placeholder(name: str, read: Callable[[str], object]) -> str:
    """What stands for an option's value in the help: its unit, N for a number, else the name's last word."""
    last = name.rsplit("_", 1)[-1].upper()
    if read is int and last not in ("S", "MS", "PORT"):
        return "N"
    return last


def _groups(fields: Iterable[dataclasses.Field[object]]) -> dict[str, None]:
    return dict.fromkeys(field.metadata["group"] for field in fields if field.metadata["group"])


def _help(field: dataclasses.Field[object]) -> str:
    said = (
        field.default in (None, (), False) or isinstance(field.default, tuple) or field.metadata["positional"]
    )
    shown = "" if said else f" ({field.default})"
    return (str(field.metadata["help"]) + shown).replace("%", "%%")


def load(
    of: type[D],
    args: argparse.Namespace,
    environment: Mapping[str, str],
    *,
    others: Iterable[type[DataclassInstance]] = (),
) -> tuple[D, dict[str, str]]:
    """The options that the command line, the environment and the file make together, and where each that was
    given came from. ``others``: what else the file may hold. `ConfigError` when one of them is wrong."""
    kinds = _kinds(of)
    words = {field.name for field in dataclasses.fields(of) if field.metadata["positional"]}
    values, sources = {}, {}
    if path := getattr(args, "config", None):
        elsewhere = {field.name for other in others for field in dataclasses.fields(other)}
        for name, value, source in _from_file(path, {*kinds, *elsewhere}):
            if name in kinds:
                values[name], sources[name] = _from_toml(name, kinds[name], value, source), source
    for name, kind in kinds.items():
        variable = PREFIX + name.upper()
        if (text := environment.get(variable)) is not None:
            values[name], sources[name] = _from_variable(name, kind, text, variable), variable
        given = getattr(args, name, None)
        if given is not None and given != []:
            values[name] = tuple(given) if isinstance(given, list) else given
            if name not in words:
                sources[name] = flag_of(name)
    try:
        return of(**values), sources
    except ConfigError as error:
        raise ConfigError(explained(str(error), sources)) from error


def explained(message: str, sources: Mapping[str, str], chosen: DataclassInstance | None = None) -> str:
    """A refusal with the places that the options came from which it names, by their names or values."""
    words = re.findall(r"--[a-z][\w-]+|\w+_\w+", message)
    named = {word.removeprefix("--").replace("-", "_") for word in words}
    named.add(message.partition(" ")[0].strip(":"))
    if chosen is not None:
        named |= {name for name in sources if _has_value(message, getattr(chosen, name, None))}
    said = [source for name, source in sources.items() if name in named and source not in message]
    return f"{message} ({', '.join(dict.fromkeys(said))})" if said else message


def _has_value(message: str, value: object) -> bool:
    """Whether a message quotes the value of an option. Short ones and parts of words do not count."""
    given = value if isinstance(value, tuple) else (value,)
    texts = [str(one) for one in given if isinstance(one, str | Path)]
    return any(len(text) > 3 and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message) for text in texts)


def unknown_variables(environment: Mapping[str, str], known: Iterable[type[DataclassInstance]]) -> list[str]:
    """What is wrong with names that begin as those of options do and are none."""
    options = {PREFIX + field.name.upper() for of in known for field in dataclasses.fields(of)}
    names = options | OTHER_VARIABLES | TESTS_VARIABLES
    strange = [name for name in environment if name.startswith(PREFIX) and name not in names]
    return [f"{name} in the environment is not an option{meant(name, names)}" for name in sorted(strange)]


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word."""
    close = difflib.get_close_matches(word, sorted(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def share(text: str) -> float:
    """A part of the whole: 0.05 or 5%."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError("it is a share, such as 0.05 or 5%") from None
    if 0 <= value <= 1:
        return value
    meant = f"; for {text} of 100 say {text}%" if 1 < value <= 100 and "%" not in text else ""
    raise ValueError(f"a share is from 0 to 1, or from 0% to 100%{meant}")


def host_and_port(text: str, flag: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{flag} is HOST:PORT, not {text}")
    return host.strip("[]"), int(port)


def check_range(name: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not low <= value <= high:
        raise ConfigError(f"{name} must be from {low:g} to {high:g}")


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _kinds(of: type[DataclassInstance]) -> dict[str, _Kind]:
    hints = typing.get_type_hints(of)
    return {field.name: _kind(hints[field.name], **_about(field)) for field in dataclasses.fields(of)}


def _about(field: dataclasses.Field[object]) -> dict[str, Any]:
    return {name: field.metadata[name] for name in ("read", "each", "choices")}


def _kind(
    hint: Any,
    read: Callable[[str], object] | None,
    each: Callable[[str], object] | None,
    choices: tuple[str, ...],
) -> _Kind:
    if each is not None:
        return _Kind(each, is_list=True)
    if choices:
        return _Kind(str, choices=choices)
    if read is not None:
        return _Kind(read)
    if hint is bool:
        return _Kind(_truth, is_flag=True)
    if typing.get_origin(hint) is tuple:
        return _Kind(typing.get_args(hint)[0], is_list=True)
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return _Kind(hint if hint in (int, float, Path) else str)


def _truth(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError("it is yes or no")
    return text.lower() in TRUE


def _for_argparse(read: Callable[[str], object]) -> Callable[[str], object]:
    """argparse leaves out why a `ValueError` was raised."""
    if isinstance(read, type):
        return read

    def reading(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error

    return reading


def _from_variable(name: str, kind: _Kind, text: str, variable: str) -> object:
    if kind.is_list:
        return tuple(_read(name, kind, word, variable) for word in shlex.split(text.replace(",", " ")))
    return _read(name, kind, text, variable)


def _from_toml(name: str, kind: _Kind, value: object, source: str) -> object:
    if isinstance(value, list) and not kind.is_list:
        raise ConfigError(f"{name} cannot be a list ({source})")
    if not kind.is_list:
        return _read(name, kind, str(value), source)
    values = value if isinstance(value, list) else [value]
    return tuple(_read(name, kind, str(one), source) for one in values)


def _read(name: str, kind: _Kind, text: str, source: str) -> object:
    if kind.choices and text not in kind.choices:
        raise ConfigError(f"{name} must be {' or '.join(kind.choices)}, not {text!r} ({source})")
    try:
        return kind.read(text)
    except ValueError as error:
        why = "" if isinstance(kind.read, type) else f": {error}"
        raise ConfigError(f"{name} cannot be {text!r}{why} ({source}){_hint(text)}") from error


def _hint(text: str) -> str:
    """Kubernetes names the port of a service "rtcstt" as the option is named."""
    linked = text.startswith("tcp://")
    return "; where Kubernetes sets it, say enableServiceLinks: false" if linked else ""


def _from_file(path: Path, known: set[str]) -> Iterable[tuple[str, object, str]]:
    try:
        text = path.read_text()
        found = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for written, value in found.items():
        name, source = written.replace("-", "_"), f"{path}{_line(text, written)}"
        if name not in known:
            raise ConfigError(f"there is no option {name} ({source}){meant(name, known)}")
        yield name, value, source


def _line(text: str, name: str) -> str:
    """`tomllib` does not tell where it found a key."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*[\"'\[]?{re.escape(name)}[\"'\]]?\s*(=|$)", line):
            return f" line {number}"
    return ""
