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
import logging
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlsplit

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
from rtcstt.fleet.rows import about_of, chunk_of, entry_of, event_of, object_of, text_of
from rtcstt.fleet.state import About, Beat, Entry, Json, StoreAway, Unreadable, Write, Written
from rtcstt.limits import Once

log = logging.getLogger(__name__)

OLDEST = (7, 0)
OPEN_S = 24 * 3600  # an open call that nobody writes to any more is forgotten after so long
TIMEOUT_S = 2.0
PATIENCE_S = 10.0  # of a reader for a connection
MOST_WRITES, MOST_READS = 64, 16  # connections
_GARBAGE = ("WRONGTYPE", "attempt to", "not an integer", "Invalid stream ID")  # of Redis or its scripts
_QUERY = {"db", "username", "password", "client_name"}  # and `ssl_...`; the rest would change how it is used


class Store:
    """One server's connection to the shared state. ``keep_s``: how long ended calls are kept."""

    def __init__(self, url: str, *, keep_s: float, prefix: str = "rtcstt:") -> None:
        options: dict[str, Any] = {
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        check_url(url)
        try:
            # Many who ask for calls of others wait for each other; heartbeats and writes do not.
            self._redis: Any = Redis.from_url(url, max_connections=MOST_WRITES, **options)
            reading = BlockingConnectionPool.from_url(
                url, max_connections=MOST_READS, timeout=PATIENCE_S, **options
            )
            pool: Any = self._redis.connection_pool
            pool.make_connection()  # which does not connect yet
        except (ValueError, TypeError, RedisError) as error:  # which may quote the password
            raise _no_url(f"this URL cannot be read ({type(error).__name__})") from None
        self._reading: Any = Redis(connection_pool=reading)  # its stubs name every form of every answer
        self._keep_s = max(1, round(keep_s))
        self._prefix = prefix
        self._told = Once()  # calls that cannot be read
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
            check_server(await self._redis.info("server"))
            await self._redis.set(self._key("secret"), secrets.token_urlsafe(32), nx=True)
            found = await self._redis.get(self._key("secret"))
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise ConfigError(f"redis refuses this login: {error}") from error
        except ResponseError as error:
            if any(text in str(error) for text in ("NOAUTH", "WRONGPASS", "invalid DB", "DB index")):
                raise ConfigError(f"redis: {error}") from error
            failure = _failure(error)
            if isinstance(failure, Unreadable):  # the secret is somebody else's key
                raise ConfigError(f"redis: {self._key('secret')} is garbage ({failure})") from error
            raise failure from error
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(_brief(error)) from error
        if found is None:
            raise StoreAway("redis does not keep what is written")
        if not (secret := _secret_of(found)):
            raise ConfigError(f"redis: {self._key('secret')} is garbage: delete it")
        return secret

    async def beat(self, node: str, about: About, secret: str) -> Beat:
        """Say that this node lives, and learn who else does."""
        with _mapped():
            now, epoch, kept, *rest = await self._beat(
                keys=[self._key("nodes")],
                args=[node, json.dumps(about), DEAD_MS, self._prefix, secret, secrets.token_hex(8)],
            )
        rows = [(text_of(rest[i]), int(rest[i + 1]), rest[i + 2]) for i in range(0, len(rest), 3)]
        about_each = {name: about_of(raw) for name, _, raw in rows if raw}
        return Beat(
            int(now),
            text_of(epoch),
            {name: at for name, at, _ in rows},
            {name: found for name, found in about_each.items() if found is not None},
            _secret_of(kept),
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
            return [text_of(call) for call in await self._redis.smembers(self._key(f"owned:{node}"))]

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
            return entry_of(call, await self._reading.hgetall(self._key(f"call:{call}")))

    async def call_of_gateway(self, key: str) -> str | None:
        """The call that was last placed with a gateway's key."""
        with _mapped():
            call = await self._reading.get(self._key(f"gateway:{key}"))
        return None if call is None else text_of(call)

    async def all(self) -> dict[str, Entry]:
        """Every call that is known, in the order of their beginning."""
        with _mapped():
            names = [text_of(call) for call in await self._reading.zrange(self._key("calls"), 0, -1)]
            async with self._reading.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hgetall(self._key(f"call:{name}"))
                rows = await pipe.execute(raise_on_error=False) if names else []
            if gone := [name for name, row in zip(names, rows, strict=True) if row == {}]:
                await self._reading.zrem(self._key("calls"), *gone)
        return self._readable(dict(zip(names, rows, strict=True)))

    def _readable(self, rows: Mapping[str, Any]) -> dict[str, Entry]:
        """The calls of an answer; one that cannot be read is said once, and hides no other."""
        found: dict[str, Entry] = {}
        for call, row in rows.items():
            try:
                if isinstance(row, Exception):
                    raise _failure(row)
                entry = entry_of(call, row)
            except Unreadable as error:
                if self._told.new(call):
                    log.warning("redis: %s", error)
                continue
            if entry is not None:
                found[call] = entry
        return found

    async def tidy(self) -> None:
        """Take some of the oldest calls off the list, if they have expired."""
        with _mapped():
            names = await self._reading.zrange(self._key("calls"), 0, 99)
            async with self._reading.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.exists(self._key(f"call:{text_of(name)}"))
                there = await pipe.execute() if names else []
            gone = [name for name, is_there in zip(names, there, strict=True) if not is_there]
            if gone:
                await self._reading.zrem(self._key("calls"), *gone)

    async def events(self, call: str, after: int) -> list[tuple[int, Json]]:
        """The events of a call with a number above ``after``, as far as they are written."""
        with _mapped():
            rows = await self._reading.xrange(self._key(f"call:{call}:events"), min=f"({after + 1}-0")
        return [event_of(call, row) for row in rows]

    async def follow(self, cursors: Mapping[str, int], wait_ms: int) -> dict[str, list[tuple[int, Json]]]:
        """What comes after each call's cursor, waiting a while for it; at most 256 of each."""
        streams = {self._key(f"call:{call}:events"): f"{after + 1}-0" for call, after in cursors.items()}
        with _mapped():
            answer = await self._reading.xread(streams, count=256, block=wait_ms)
        names = {key: call for call, key in zip(cursors, streams, strict=True)}
        rows = answer.items() if isinstance(answer, dict) else answer or []
        found = {}
        for key, entries in rows:
            flat = entries[0] if entries and isinstance(entries[0], list) else entries
            call = names[text_of(key)]
            found[call] = [event_of(call, row) for row in flat]
        return found

    async def tracks(self, call: str) -> dict[str, Json]:
        """What was kept of each track, to be `rows.checked` by who knows what that is."""
        with _mapped():
            rows = await self._reading.hgetall(self._key(f"call:{call}:tracks"))
        return {text_of(track): object_of(f"call {call}, a track", raw) for track, raw in rows.items()}

    async def audio(self, call: str, track: str) -> list[tuple[int, bytes]]:
        """The audio of a track that is kept: its first samples' numbers, and PCM (int16, little-endian)."""
        with _mapped():
            rows = await self._reading.xrange(self._audio_prefix(call) + track)
        return [chunk_of(call, row) for row in rows]

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
        raise _failure(error) from error


def _outcome(answer: object) -> Written | StoreAway:
    return _failure(answer) if isinstance(answer, Exception) else Written(text_of(answer))


def _failure(error: Exception) -> StoreAway:
    """A key of another type is the fault of that key alone; anything else passes."""
    is_garbage = isinstance(error, ResponseError) and any(text in str(error) for text in _GARBAGE)
    return Unreadable(_brief(error)) if is_garbage else StoreAway(_brief(error))


def _brief(error: Exception) -> str:
    """Without what was to be written, which errors may quote."""
    return f"{type(error).__name__}: {str(error)[:100]}"


def check_url(url: str) -> None:
    """`ConfigError` for what is no URL of one Redis; without quoting it, as it may hold a password."""
    try:
        parts = urlsplit(url)
        query = [name for name, _ in parse_qsl(parts.query, strict_parsing=bool(parts.query))]
        wrong = bool(parts.fragment) or (parts.netloc and parts.port == 0)
    except ValueError:
        raise _no_url("its port, address or query cannot be read") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        hint = "; Sentinel and Cluster are not supported: give the primary" if "+" in parts.scheme else ""
        raise _no_url(f"it begins with redis://, rediss:// (TLS) or unix://{hint}")
    if wrong or (parts.scheme != "unix" and "," in parts.netloc.rpartition("@")[2]):
        raise _no_url("it names one host and port")
    if parts.scheme != "unix" and re.fullmatch(r"(/[0-9]*)?", parts.path) is None:
        raise _no_url("after the port comes /N, the number of the database")
    strange = [name for name in query if name not in _QUERY and not name.startswith("ssl_")]
    if strange:
        raise _no_url(f"{strange[0][:40]!r} is no option of it")


def _no_url(reason: str) -> ConfigError:
    hint = "; characters of a password such as / # ? @ : are written %2F %23 %3F %40 %3A"
    return ConfigError(f"redis: {reason}{hint}")


def _secret_of(raw: bytes) -> str:
    """What can be in a header; else empty."""
    text = text_of(raw)
    return text if re.fullmatch("[!-~]+", text) else ""


def check_server(info: Mapping[str, object]) -> None:
    """`ConfigError` for a Redis that will never do, by what it says of itself."""
    mode = str(info.get("redis_mode") or info.get("server_mode") or "standalone")
    if mode != "standalone":
        raise ConfigError(f"redis: this is a {mode}: give the URL of one primary, not of Sentinel or Cluster")
    check_version(str(info.get("redis_version", "unknown")))


def check_version(version: str) -> None:
    """`ConfigError` for a Redis that is too old."""
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    if found is None or (int(found[1]), int(found[2] or 0)) < OLDEST:
        raise ConfigError(f"redis: version {version[:40]} is too old: 7.0 (or Valkey 8) is needed")
