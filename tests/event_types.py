"""`events.d.ts` from the classes of `rtcstt.events`; `python tests/event_types.py` writes it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from rtcstt import events

FILE = Path(__file__).resolve().parents[1] / "rtcstt" / "server" / "static" / "events.d.ts"
HEAD = "// The events of a call, made from the classes of rtcstt/events.py by tests/event_types.py.\n"
NAMES = {str: "string", int: "number", float: "number", bool: "boolean", object: "unknown", Any: "unknown"}


def declarations() -> str:
    """All of the file."""
    tables = [one for one in vars(events).values() if is_typeddict(one)]
    classes = [
        one
        for one in vars(events).values()
        if inspect.isclass(one) and issubclass(one, events.Event) and one is not events.Unknown
    ]
    typed = [one for one in classes if isinstance(vars(one).get("type"), str)]
    union = "\n".join(f"  | {one.__name__}" for one in typed)
    parts = [HEAD, *map(_table, tables), *map(_event, classes)]
    parts.append(f"/** What the server says. */\nexport type ServerEvent =\n{union};\n")
    return "\n".join(parts)


def _event(of: type[events.Event]) -> str:
    """Only the class's own fields; the others are inherited."""
    own = {one.name: one for one in dataclasses.fields(of) if one.name in vars(of).get("__annotations__", {})}
    own.pop("extra", None)
    hints = get_type_hints(of)
    lines = [f'  type: "{of.type}";'] if isinstance(vars(of).get("type"), str) else []
    for name, one in own.items():
        optional = "?" if one.default in ("", None) and of is not events.Event else ""
        lines.append(f"  {name}{optional}: {_type(hints[name])};")
    (parent,) = of.__bases__
    extends = f" extends {parent.__name__}" if parent is not object else ""
    return f"{_comment(of)}export interface {of.__name__}{extends} {{\n" + "\n".join([*lines, "}", ""])


def _table(of: Any) -> str:
    mark = "" if of.__total__ else "?"
    lines = [f"  {name}{mark}: {_type(hint)};" for name, hint in get_type_hints(of).items()]
    return f"{_comment(of)}export interface {of.__name__} {{\n" + "\n".join([*lines, "}", ""])


def _comment(of: Any) -> str:
    text = " ".join((inspect.cleandoc(of.__doc__ or "")).split()).replace("``", "`")
    own = bool(text) and not text.startswith((f"{of.__name__}(", "dict() -> "))
    return f"/** {text} */\n" if own else ""


def _type(hint: Any) -> str:
    if hint in NAMES:
        return NAMES[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(f'"{value}"' for value in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(one) for one in inner if one is not type(None))
    if origin is list:
        item = _type(inner[0])
        return f"{item}[]" if re.fullmatch(r"\w+", item) else f"({item})[]"
    if origin is dict:
        return f"Record<string, {_type(inner[1])}>"
    assert isinstance(hint, type), hint
    return hint.__name__


if __name__ == "__main__":
    FILE.write_text(declarations())
