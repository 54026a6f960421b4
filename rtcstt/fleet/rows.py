"""What is kept in Redis, read back; a core. `Unreadable` for what is not as `writer` and `sharing` leave it:
other programs have keys there too, and the servers of a fleet are of two versions while it is updated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypedDict, TypeVar, cast

from rtcstt.events import fault
from rtcstt.fleet.state import About, Entry, Json, Unreadable

T = TypeVar("T")


class _Told(TypedDict, total=False):
    """What lists of calls show of a record."""

    created: float
    first: dict[str, object]


def entry_of(call: str, row: Mapping[bytes, bytes]) -> Entry | None:
    """The call; None when nothing, or not yet all, is there."""
    if b"owner" not in row or b"record" not in row:
        return None
    record, snapshot = object_of(f"call {call}", row[b"record"]), row.get(b"snapshot")
    told = checked(_Told, record, f"call {call}: its record")
    fence = row.get(b"fence", b"")
    if not fence.isdigit():
        raise Unreadable(f"call {call}: its fence is no number")
    return Entry(
        owner=text_of(row[b"owner"]),
        fence=int(fence),
        state=text_of(row.get(b"state", b"")),
        record=record,
        created=told.get("created", 0.0),
        first=told.get("first", {}),
        snapshot=object_of(f"call {call}", snapshot) if snapshot else None,
    )


def event_of(call: str, row: tuple[bytes, Mapping[bytes, bytes]]) -> tuple[int, Json]:
    """The event's number, and its JSON."""
    id, fields = row
    return number_of(id) - 1, object_of(f"call {call}, an event", fields.get(b"e", b""))


def chunk_of(call: str, row: tuple[bytes, Mapping[bytes, bytes]]) -> tuple[int, bytes]:
    """The number of the first sample, and PCM."""
    id, fields = row
    pcm = fields.get(b"a")
    if pcm is None or len(pcm) % 2:
        raise Unreadable(f"call {call}: audio that is none")
    return number_of(id) - 1, bytes(pcm)


def about_of(raw: bytes) -> About | None:
    """What a node said of itself; None where that cannot be read: it is there, and takes nothing."""
    try:
        return checked(About, object_of("a node", raw), "a node")
    except Unreadable:
        return None


def checked(kind: type[T], value: Json, name: str) -> T:
    """``value``, called ``name``, as the `TypedDict` ``kind``; `Unreadable` names the field that is not as
    that says. Fields that it does not name are left in."""
    if (wrong := fault(value, kind, name)) is not None:
        raise Unreadable(f"{wrong} cannot be read")
    return cast(T, value)


def object_of(what: str, raw: bytes) -> dict[str, object]:
    """A JSON object; `Unreadable` names ``what`` is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unreadable(f"{what}: no JSON object")
    return found


def number_of(id: object) -> int:
    """The first part of a stream's id."""
    return int(text_of(id).partition("-")[0])


def text_of(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
