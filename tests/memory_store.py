"""What `rtcstt.fleet.store` does with Redis, in memory and virtual time: for servers that share calls."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rtcstt.fleet.rows import about_of, entry_of
from rtcstt.fleet.state import About, Beat, Entry, StoreAway, Write, Written


@dataclass
class Kept:
    """A call; its hash as Redis gives it."""

    row: dict[bytes, bytes]
    events: dict[int, str] = field(default_factory=dict)
    tracks: dict[str, str] = field(default_factory=dict)
    audio: defaultdict[str, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))


class MemoryStore:
    """One for all servers. ``away`` names methods that fail as when Redis does not answer."""

    def __init__(self) -> None:
        self.calls: dict[str, Kept] = {}
        self.away: set[str] = set()
        self.secret = "first"
        self._nodes: dict[str, tuple[int, bytes]] = {}
        self._owned: defaultdict[str, dict[str, None]] = defaultdict(dict)

    async def _asked(self, name: str) -> None:
        await asyncio.sleep(0.001)
        if name in self.away:
            raise StoreAway(f"{name} is away")

    async def check(self) -> str:
        return self.secret

    async def close(self) -> None:
        pass

    async def beat(self, node: str, about: About, secret: str) -> Beat:
        await self._asked("beat")
        now = round(asyncio.get_running_loop().time() * 1000) + 1_000_000
        self._nodes[node] = now, json.dumps(about).encode()
        seen = {name: at for name, (at, _) in self._nodes.items()}
        each = {name: about_of(raw) for name, (at, raw) in self._nodes.items() if now - at < 5000}
        return Beat(now, "epoch", seen, {n: a for n, a in each.items() if a is not None}, self.secret)

    async def leave(self, node: str) -> None:
        self._nodes.pop(node, None)

    async def forget_node(self, node: str) -> None:
        self._nodes.pop(node, None)

    async def owned(self, node: str) -> list[str]:
        await self._asked("owned")
        return list(self._owned[node])

    async def disown(self, node: str, call: str) -> None:
        self._owned[node].pop(call, None)

    async def tidy(self) -> None:
        pass

    async def write(self, node: str, writes: Sequence[Write]) -> list[Written | StoreAway]:
        await self._asked("write")
        return [self._write(node, one) for one in writes]

    def _write(self, node: str, one: Write) -> Written:
        kept = self.calls.get(one.call)
        fence = int(kept.row[b"fence"]) if kept else -1
        if kept and (fence > one.fence or (fence == one.fence and kept.row[b"owner"] != node.encode())):
            return Written.LOST
        if one.creation is not None:
            record = json.dumps(one.creation.record).encode()
            row = {b"owner": node, b"fence": one.fence, b"state": "open"}
            self.calls[one.call] = kept = Kept(
                {name: str(value).encode() for name, value in row.items()} | {b"record": record}
            )
            self._owned[node][one.call] = None
        elif fence < one.fence:
            return Written.UNKNOWN
        assert kept is not None
        rest = list(one.operations)
        while rest:
            self._do(node, kept, rest)
        return Written.OK

    def _do(self, node: str, kept: Kept, rest: list[Any]) -> None:
        match rest.pop(0), rest.pop(0):
            case "event", id:
                kept.events.setdefault(id, rest.pop(0))
            case "field", name:
                kept.row[name.encode()] = str(rest.pop(0)).encode()
            case "track", track:
                kept.tracks[track] = rest.pop(0)
            case "audio", track:
                start, pcm = rest.pop(0), rest.pop(0)
                kept.audio[track].setdefault(start - 1, pcm)
            case "trim", track:
                first = rest.pop(0) - 1
                kept.audio[track] = {at: pcm for at, pcm in kept.audio[track].items() if at >= first}
            case "end", call:
                kept.tracks.clear()
                kept.audio.clear()
                self._owned[node].pop(call, None)

    async def claim(self, call: str, entry: Entry, node: str) -> int | None:
        await self._asked("claim")
        row = self.calls[call].row
        expected = (entry.owner.encode(), str(entry.fence).encode(), b"open")
        if (row[b"owner"], row[b"fence"], row[b"state"]) != expected:
            return None
        row[b"owner"], row[b"fence"] = node.encode(), str(entry.fence + 1).encode()
        self._owned[entry.owner].pop(call, None)
        self._owned[node][call] = None
        return entry.fence + 1

    async def find(self, call: str) -> Entry | None:
        await self._asked("find")
        return entry_of(call, self.calls[call].row) if call in self.calls else None

    async def all(self) -> dict[str, Entry]:
        await self._asked("all")
        found = {call: entry_of(call, kept.row) for call, kept in self.calls.items()}
        return {call: entry for call, entry in found.items() if entry is not None}

    async def events(self, call: str, after: int) -> list[tuple[int, Mapping[str, Any]]]:
        await self._asked("events")
        found = sorted(self.calls[call].events.items())
        return [(id - 1, json.loads(text)) for id, text in found if id - 1 > after]

    async def tracks(self, call: str) -> dict[str, Mapping[str, Any]]:
        await self._asked("tracks")
        return {track: json.loads(state) for track, state in self.calls[call].tracks.items()}

    async def audio(self, call: str, track: str) -> list[tuple[int, bytes]]:
        await self._asked("audio")
        return sorted(self.calls[call].audio[track].items())
