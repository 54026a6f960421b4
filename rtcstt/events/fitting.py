"""Whether a JSON value is what a type says, to its depths; a core."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)


def fault(value: object, hint: object, name: str) -> str | None:
    """Where ``value``, called ``name``, is not what ``hint`` says, as in ``tracks[1].ledger``; None where all
    is. A `TypedDict` may have more fields than it names: those of a later version."""
    if hint is Any or hint is object:
        return None
    if hint in (None, type(None)):
        return None if value is None else name
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return None if number else name
    if is_typeddict(hint):
        return _fault_of_fields(value, hint, name)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        faults = [fault(value, part, name) for part in parts]
        return None if None in faults else max((one for one in faults if one is not None), key=len)
    if origin is Literal:
        return None if value in parts else name
    if origin is tuple:
        is_tuple = isinstance(value, list | tuple) and len(value) == len(parts)
        return _first(value, parts, name) if is_tuple else name  # type: ignore[arg-type]
    if origin in (dict, Mapping):
        return _fault_of_items(value, parts[1], name)
    if origin is list:
        return _first(value, parts * len(value), name) if isinstance(value, list) else name
    assert isinstance(hint, type), f"{hint!r} is no type of JSON"
    return None if isinstance(value, hint) else name


def _first(values: list[object] | tuple[object, ...], hints: tuple[object, ...], name: str) -> str | None:
    for index, (value, hint) in enumerate(zip(values, hints, strict=True)):
        if (wrong := fault(value, hint, f"{name}[{index}]")) is not None:
            return wrong
    return None


def _fault_of_items(value: object, hint: object, name: str) -> str | None:
    if not isinstance(value, Mapping):
        return name
    for key, item in value.items():
        if (wrong := fault(item, hint, f"{name}.{key!s:.40}")) is not None:
            return wrong
    return None


def _fault_of_fields(value: object, kind: Any, name: str) -> str | None:
    if not isinstance(value, Mapping):
        return name
    for key, (hint, is_required) in _fields(kind).items():
        if key in value:
            wrong = fault(value[key], hint, f"{name}.{key}")
        else:
            wrong = f"{name}.{key}" if is_required else None
        if wrong is not None:
            return wrong
    return None


@cache
def _fields(kind: Any) -> dict[str, tuple[object, bool]]:
    """A `TypedDict`'s fields: the type of each, and whether it must be there."""
    # `__required_keys__` does not know: it is made before annotations that are text are read.
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        may_be_absent = get_origin(hint) is NotRequired
        found[name] = (get_args(hint)[0] if may_be_absent else hint, kind.__total__ and not may_be_absent)
    return found
