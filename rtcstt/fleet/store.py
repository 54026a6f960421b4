"""The state that servers share, in Redis 7 (or Valkey 8): nodes, and of each call its owner, events, tracks
and audio. The only module that talks to Redis; what fails there becomes `StoreAway` here.

| key (after `rtcstt:`) | what | lives |
|---|---|---|
| `secret` | what servers show each other | for ever |
| `epoch` | a random text; another one: Redis has forgotten everything | for ever |
| `gateway:D` | the call that was last placed with this digest of a gateway's own id | `OPEN_S` |
| `nodes` | sorted set: node by its last heartbeat (Redis' time, in ms) | until its calls are taken over |
| `node:N` | JSON: url, load | 5 s |
| `owned:N` | set: the open calls of a node | with them |
| `calls` | sorted set: call by its beginning | with them |
| `call:C` | hash: owner, fence, state, record, snapshot | `--keep-ended-s` after the end |
| `call:C:events` | stream; an entry's id is seq + 1: a second writer of a number is refused | the same |
| `call:C:tracks` | hash: track to JSON, what its transcription needs to go on | until the end |
| `call:C:audio:T` | stream; an entry's id is its first sample + 1 | until the text of it is finished |

Every write of an owner goes through one script that checks its fence first: the number that grows by one
with each owner. A node that slept, and whose call was taken over, is told so by its next write.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)

from rtcstt.errors import ConfigError
from rtcstt.fleet.ownership import DEAD_MS
from rtcstt.fleet.state import Beat, Entry, StoreAway, Write, Written

OLDEST = (7, 0)
OPEN_S = 24 * 3600  # an open call that nobody writes to any more is forgotten after so long
TIMEOUT_S = 2.0
PATIENCE_S = 10.0  # of a reader for a connection
MOST_WRITES, MOST_READS = 64, 16  # connections


class Store:
    """One server's connection to the shared state. ``keep_s``: how long ended calls are kept."""

    def __init__(self, url: str, *, keep_s: float, prefix: str = "rtcstt:") -> None:
        options: dict[str, Any] = {
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        try:
            # Many who ask for calls of others wait for each other; heartbeats and writes do not.
            self._redis: Any = Redis.from_url(url, max_connections=MOST_WRITES, **options)
            reading = BlockingConnectionPool.from_url(
                url, max_connections=MOST_READS, timeout=PATIENCE_S, **options
            )
        except ValueError as error:
            raise ConfigError(f"redis: {error}") from error
        self._reading: Any = Redis(connection_pool=reading)  # its stubs name every form of every answer
        self._keep_s = max(1, round(keep_s))
        self._prefix = prefix
        self._beat = self._redis.register_script(_lua("beat"))
        self._write = self._redis.register_script(_lua("write"))
        self._create = self._redis.register_script(_lua("create"))
        self._claim = self._redis.register_script(_lua("claim"))

    async def close(self) -> None:
        await self._redis.aclose()
        await self._reading.aclose(close_connection_pool=True)

    async def check(self) -> str:
        """The secret of the fleet, made by the first server. `ConfigError` when this Redis will never do;
        `StoreAway` when it is not there."""
        try:
            info = await self._redis.info("server")
            check_version(str(info["redis_version"]))
            await self._redis.set(self._key("secret"), secrets.token_urlsafe(32), nx=True)
            found = await self._redis.get(self._key("secret"))
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise ConfigError(f"redis refuses this login: {error}") from error
        except ResponseError as error:
            if "NOAUTH" in str(error) or "WRONGPASS" in str(error) or "invalid DB" in str(error):
                raise ConfigError(f"redis: {error}") from error
            raise StoreAway(_brief(error)) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(_brief(error)) from error
        if not found:
            raise StoreAway("redis does not keep what is written")
        return bytes(found).decode()

    async def beat(self, node: str, about: Mapping[str, Any], secret: str) -> Beat:
        """Say that this node lives, and learn who else does."""
        with _mapped():
            now, epoch, *rest = await self._beat(
                keys=[self._key("nodes")],
                args=[node, json.dumps(about), DEAD_MS, self._prefix, secret, secrets.token_hex(8)],
            )
        rows = [(_text(rest[i]), int(rest[i + 1]), rest[i + 2]) for i in range(0, len(rest), 3)]
        return Beat(
            int(now),
            _text(epoch),
            {name: at for name, at, _ in rows},
            {name: json.loads(about) for name, _, about in rows if about},
        )

    async def leave(self, node: str) -> None:
        """This node stops in order; its calls have ended."""
        with _mapped():
            await self._redis.zrem(self._key("nodes"), node)
            await self._redis.delete(self._key(f"node:{node}"))

    async def forget_node(self, node: str) -> None:
        """A dead one without calls."""
        with _mapped():
            if not await self._redis.scard(self._key(f"owned:{node}")):
                await self._redis.zrem(self._key("nodes"), node)

    async def owned(self, node: str) -> list[str]:
        """The open calls of a node."""
        with _mapped():
            return [_text(call) for call in await self._redis.smembers(self._key(f"owned:{node}"))]

    async def disown(self, node: str, call: str) -> None:
        """The call is not there any more, though the node's list has it."""
        with _mapped():
            await self._redis.srem(self._key(f"owned:{node}"), call)

    async def write(self, node: str, writes: Sequence[Write]) -> list[Written | StoreAway]:
        """Writes of one owner, in one go, and what became of each. `StoreAway` when that is not known."""
        with _mapped():
            answers = await self._send(node, writes)
            if any(isinstance(answer, NoScriptError) for answer in answers):  # a Redis that was restarted
                for script in (self._create, self._write):
                    await self._redis.script_load(script.script)
                answers = await self._send(node, writes)
        return [_outcome(answer) for answer in answers]

    async def _send(self, node: str, writes: Sequence[Write]) -> list[object]:
        """The last answer to each write. One that is sent again does no harm: numbers are written once."""
        async with self._redis.pipeline(transaction=False) as pipe:
            ends = []
            for one in writes:
                keys = self._keys(one.call, node)
                audio = self._audio_prefix(one.call)
                if one.creation is not None:
                    begun, record = one.creation.begun, json.dumps(one.creation.record)
                    if (key := one.creation.record.get("gateway_key")) is not None:
                        pipe.set(self._key(f"gateway:{key}"), one.call, ex=OPEN_S)
                    rest = [node, one.fence, OPEN_S, audio, one.call, begun, record]
                    pipe.evalsha(self._create.sha, len(keys), *keys, *rest)
                lifetime = self._keep_s if one.ended else OPEN_S
                rest = [node, one.fence, lifetime, audio, *one.operations]
                pipe.evalsha(self._write.sha, len(keys), *keys, *rest)
                ends.append(len(pipe) - 1)
            answers = await pipe.execute(raise_on_error=False)
        return [answers[end] for end in ends]

    async def claim(self, call: str, entry: Entry, node: str) -> int | None:
        """Become the owner of a call that another node had; the new fence, or None when somebody was
        quicker, or the call has ended."""
        with _mapped():
            fence = await self._claim(
                keys=[
                    self._key(f"call:{call}"),
                    self._key(f"owned:{entry.owner}"),
                    self._key(f"owned:{node}"),
                ],
                args=[call, entry.owner, entry.fence, node, OPEN_S],
            )
        return int(fence) if int(fence) >= 0 else None

    async def find(self, call: str) -> Entry | None:
        with _mapped():
            return _entry(await self._reading.hgetall(self._key(f"call:{call}")))

    async def call_of_gateway(self, key: str) -> str | None:
        """The call that was last placed with a gateway's key."""
        with _mapped():
            call = await self._reading.get(self._key(f"gateway:{key}"))
        return None if call is None else _text(call)

    async def all(self) -> dict[str, Entry]:
        """Every call that is known, in the order of their beginning."""
        with _mapped():
            names = [_text(call) for call in await self._reading.zrange(self._key("calls"), 0, -1)]
            async with self._reading.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hgetall(self._key(f"call:{name}"))
                rows = await pipe.execute() if names else []
            found = {name: _entry(row) for name, row in zip(names, rows, strict=True)}
            gone = [name for name, entry in found.items() if entry is None]
            if gone:
                await self._reading.zrem(self._key("calls"), *gone)
        return {name: entry for name, entry in found.items() if entry is not None}

    async def tidy(self) -> None:
        """Take some of the oldest calls off the list, if they have expired."""
        with _mapped():
            names = await self._reading.zrange(self._key("calls"), 0, 99)
            async with self._reading.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.exists(self._key(f"call:{_text(name)}"))
                there = await pipe.execute() if names else []
            gone = [name for name, is_there in zip(names, there, strict=True) if not is_there]
            if gone:
                await self._reading.zrem(self._key("calls"), *gone)

    async def events(self, call: str, after: int) -> list[tuple[int, Mapping[str, Any]]]:
        """The events of a call with a number above ``after``, as far as they are written."""
        with _mapped():
            rows = await self._reading.xrange(self._key(f"call:{call}:events"), min=f"({after + 1}-0")
        return [_event(row) for row in rows]

    async def follow(
        self, cursors: Mapping[str, int], wait_ms: int
    ) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
        """What comes after each call's cursor, waiting a while for it; at most 256 of each."""
        streams = {self._key(f"call:{call}:events"): f"{after + 1}-0" for call, after in cursors.items()}
        with _mapped():
            answer = await self._reading.xread(streams, count=256, block=wait_ms)
        names = {key: call for call, key in zip(cursors, streams, strict=True)}
        rows = answer.items() if isinstance(answer, dict) else answer or []
        found = {}
        for key, entries in rows:
            flat = entries[0] if entries and isinstance(entries[0], list) else entries
            found[names[_text(key)]] = [_event(row) for row in flat]
        return found

    async def tracks(self, call: str) -> dict[str, Mapping[str, Any]]:
        with _mapped():
            rows = await self._reading.hgetall(self._key(f"call:{call}:tracks"))
        return {_text(track): json.loads(state) for track, state in rows.items()}

    async def audio(self, call: str, track: str) -> list[tuple[int, bytes]]:
        """The audio of a track that is kept: its first samples' numbers, and PCM (int16, little-endian)."""
        with _mapped():
            rows = await self._reading.xrange(self._audio_prefix(call) + track)
        return [(int(_text(id).partition("-")[0]) - 1, bytes(fields[b"a"])) for id, fields in rows]

    async def now_ms(self) -> int:
        """Redis' time, which all servers share."""
        with _mapped():
            seconds, us = await self._redis.time()
        return int(seconds) * 1000 + int(us) // 1000

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _audio_prefix(self, call: str) -> str:
        return self._key(f"call:{call}:audio:")

    def _keys(self, call: str, node: str) -> list[str]:
        whole = self._key(f"call:{call}")
        return [whole, f"{whole}:events", f"{whole}:tracks", self._key(f"owned:{node}"), self._key("calls")]


def _lua(name: str) -> str:
    return (files("rtcstt.fleet") / "lua" / f"{name}.lua").read_text()


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """Redis' exceptions become ours here and nowhere else."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreAway(_brief(error)) from error


def _outcome(answer: object) -> Written | StoreAway:
    return StoreAway(_brief(answer)) if isinstance(answer, Exception) else Written(_text(answer))


def _brief(error: Exception) -> str:
    """Without what was to be written, which errors may quote."""
    return f"{type(error).__name__}: {str(error)[:100]}"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _entry(row: Mapping[bytes, bytes]) -> Entry | None:
    if b"owner" not in row or b"record" not in row:
        return None
    snapshot = row.get(b"snapshot")
    return Entry(
        owner=row[b"owner"].decode(),
        fence=int(row[b"fence"]),
        state=row[b"state"].decode(),
        record=json.loads(row[b"record"]),
        snapshot=json.loads(snapshot) if snapshot else None,
    )


def _event(row: tuple[bytes, Mapping[bytes, bytes]]) -> tuple[int, Mapping[str, Any]]:
    id, fields = row
    return int(_text(id).partition("-")[0]) - 1, json.loads(fields[b"e"])


def check_version(version: str) -> None:
    """`ConfigError` for a Redis that is too old."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ConfigError(f"redis: version {version} is too old: 7.0 (or Valkey 8) is needed")
