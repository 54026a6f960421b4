"""What is kept in Redis, read back; a core. `Unreadable` for what is not as `writer` and `sharing` leave it:
other programs have keys there too, and the servers of a fleet are of two versions while it is updated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rtcstt.fleet.state import About, Entry, Unreadable


def entry_of(call: str, row: Mapping[bytes, bytes]) -> Entry | None:
    """The call; None when nothing, or not yet all, is there."""
    if b"owner" not in row or b"record" not in row:
        return None
    record, snapshot = object_of(f"call {call}", row[b"record"]), row.get(b"snapshot")
    created, first = record.get("created", 0.0), record.get("first", {})
    fence, is_number = row.get(b"fence", b""), isinstance(created, int | float)
    if not fence.isdigit() or not is_number or not isinstance(first, dict):
        raise Unreadable(f"call {call}: its owner or record cannot be read")
    return Entry(
        owner=text_of(row[b"owner"]),
        fence=int(fence),
        state=text_of(row.get(b"state", b"")),
        record=record,
        snapshot=object_of(f"call {call}", snapshot) if snapshot else None,
    )


def event_of(call: str, row: tuple[bytes, Mapping[bytes, bytes]]) -> tuple[int, Mapping[str, Any]]:
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
        about = object_of("a node", raw)
    except Unreadable:
        return None
    url, draining = about.get("url"), about.get("draining")
    calls, capacity = about.get("calls"), about.get("capacity")
    if not isinstance(url, str) or not isinstance(calls, int) or not isinstance(capacity, int):
        return None
    return About(url=url, calls=calls, capacity=capacity, draining=draining is True)


def object_of(what: str, raw: bytes) -> dict[str, Any]:
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
