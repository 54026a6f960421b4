"""Mutated requests over every route and method, with tokens of every grade, against a running server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.fuzz.mutations import NUMBERS, TEXTS, mutated
from tests.fuzz.parsers import ABOUT, FRAGMENT, OFFER, START

READING = ("GET", "POST", "OPTIONS", "HEAD", "PUT", "TRACE", "CONNECT", "g\x00t")
METHODS = (*READING, "PATCH", "DELETE")
NAMES = ("captions.vtt", "captions.srt", "transcript.txt", "transcript.json", "events", "share", "x.y", "")
QUERY: tuple[str, ...] = (
    "model",
    "encoding",
    "sample_rate",
    "channels",
    "language",
    "mode",
    "label",
    "keyterms",
    "last_event_id",
)
QUERY += ("max_silence_duration_secs", "min_volume", "cartesia_version", "stream", "end_timeout_ms")
VALUES = ("ink-2", "pcm_s16le", "pcm_mulaw", "16000", "8000", "2", "en", "auto", "manual", "x", "2026-03-01")
WAV = b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0"
WAV += b"data\0\x08\0\0" + bytes(2048)
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nink-whisper\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + WAV + b"\r\n--b--\r\n"
)
TURN = {"type": "config", "turn": {"end_timeout_ms": 900}}
FRAMES = [json.dumps(TURN).encode(), b'{"type":"finalize"}', b"finalize", b"close", b"done", bytes(640)]
FRAMES += [
    json.dumps({"event": "start", "start": START}).encode(),
    b'{"event":"media","media":{"payload":"AAAA"}}',
]
SOCKETS = ("websocket", "/pcm", "/media-stream")
ANSWER_S = 20.0
BROKEN_S = 0.5  # for the answer to a request of which more may have been promised than was sent
MAX_ANSWER = 1 << 22


@dataclass(slots=True)
class Found:
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    """A server: ``routes`` as (method, path), ``tokens`` of every grade, calls that are there."""

    host: str
    port: int
    routes: Sequence[tuple[str, str]]
    tokens: Sequence[str]
    calls: Sequence[str]
    methods: Sequence[str] = METHODS


def body_of(rng: random.Random, path: str, calls: Sequence[str]) -> tuple[str, bytes]:
    """Content type and body, as the path takes it."""
    offer = OFFER.decode()
    if path == "/offer":
        resumed = {"call": rng.choice(calls), "resume": "x"} if calls and rng.random() < 0.2 else {}
        about = ABOUT if rng.random() < 0.5 else {}
        return "application/json", json.dumps({"type": "offer", "sdp": offer, **about, **resumed}).encode()
    if path == "/whip":
        return "application/sdp", OFFER
    if path.startswith("/whip/"):
        return "application/trickle-ice-sdpfrag", FRAGMENT
    if "stt" in path or "audio" in path:
        return "multipart/form-data; boundary=b", FORM
    return (
        "application/json",
        b'{"grants": {"stt": true}, "expires_in": 60, "page": "http://localhost/watch/x"}',
    )


@dataclass(frozen=True, slots=True)
class Request:
    """``is_whole``: nothing more is to come of it, so that there must be an answer; ``keeps``: another may
    follow on the same connection."""

    data: bytes
    is_socket: bool
    is_whole: bool
    keeps: bool
    method: str


def mutated_request(rng: random.Random, target: Target) -> Request:
    method, path = rng.choice(target.routes)
    if rng.random() < 0.15:
        method = rng.choice(target.methods)
    kind, body = body_of(rng, path, target.calls)
    path = path.replace("{id}", rng.choice((*target.calls, "x", "%00", "a" * 300, "..")))
    path = path.replace("{name}", rng.choice(NAMES))
    headers: dict[str, str] = {"Host": f"{target.host}:{target.port}"}
    query = {
        rng.choice(QUERY): rng.choice((*VALUES, *NUMBERS, *TEXTS)) for _ in range(rng.choice((0, 0, 1, 4)))
    }
    if "websocket" in path and rng.random() < 0.8:
        query = {"model": "ink-2", "encoding": "pcm_s16le", "sample_rate": "16000"} | query
    token = rng.choice(("", *target.tokens))
    if token:
        place = rng.random()
        if place < 0.7:
            headers["Authorization"] = f"Bearer {token}"
        elif place < 0.8:
            headers["X-API-Key"] = token
        else:
            query["access_token"] = token
    headers["X-Forwarded-For"] = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    is_socket = any(part in path for part in SOCKETS) and rng.random() < 0.7
    if is_socket:
        headers |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    odd = _odd_headers(rng)
    headers |= odd
    with_body = method not in ("GET", "HEAD", "OPTIONS") or rng.random() < 0.05
    if with_body:
        headers["Content-Type"] = kind
        body = mutated(rng, body, most=3)
    else:
        body = b""
    headers["Content-Length"] = str(len(body))
    is_whole = "Transfer-Encoding" not in odd and "Expect" not in odd
    if rng.random() < 0.02:
        headers["Content-Length"] = rng.choice(NUMBERS)
        is_whole = False
    asked = "&".join(f"{name}={_quoted(value)}" for name, value in query.items())
    head = f"{method} {path}{'?' if asked else ''}{asked} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    data = head.encode("utf-8", "surrogatepass") + b"\r\n"
    if rng.random() < 0.05:
        data, is_whole = mutated(rng, data, most=2), False
    keeps = is_whole and not is_socket and method in ("GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD")
    return Request(data + body, is_socket, is_whole, keeps, method)


def _odd_headers(rng: random.Random) -> Mapping[str, str]:
    odd: dict[str, Sequence[str]] = {
        "Origin": ("null", "http://evil.example", "http://[", "http://localhost"),
        "If-Match": ("*", '"x"', "x,y,,"),
        "Last-Event-ID": NUMBERS,
        "Accept": ("text/html", "*/*", ";;", "application/sdp;q=0"),
        "Content-Encoding": ("gzip", "identity", ""),
        "Content-Type": ("", ";", "application/json; charset=x", "multipart/form-data", "text/plain"),
        "Cartesia-Version": ("2026-03-01", "0", "x"),
        "Host": ("evil.example", "", "[::1", "localhost", "127.0.0.1:1"),
        "Forwarded": ("for=x", 'for="[::1]:1", for=1', ";;;"),
        "Range": ("bytes=0-1", "bytes=-5000000", "bytes=9-1", "x"),
        "Transfer-Encoding": ("chunked", "gzip"),
        "Expect": ("100-continue", "x"),
    }
    return {name: rng.choice(odd[name]) for name in odd if rng.random() < 0.06}


def _quoted(value: str) -> str:
    return "".join(
        letter if letter.isalnum() and letter.isascii() else f"%{byte:02x}"
        for letter in value[:3000]
        for byte in (letter.encode("utf-8", "surrogatepass")[:1])
    )


def frame(rng: random.Random, data: bytes) -> bytes:
    """A client's WebSocket frame (RFC 6455 section 5.2), often a good one."""
    opcode = rng.choice((1, 1, 2, 2, 2, 8, 9, 10, 0, 3, 15))
    head = bytes((rng.choice((0x80, 0x80, 0x80, 0, 0xC0)) | opcode,))
    if len(data) < 126:
        head += bytes((0x80 | len(data),))
    elif len(data) < 65536:
        head += b"\xfe" + len(data).to_bytes(2, "big")
    else:
        head += b"\xff" + len(data).to_bytes(8, "big")
    return head + bytes(4) + data


class Connection:
    """One request after the other, on a new connection where the one before cannot be kept."""

    def __init__(self, target: Target, found: Found) -> None:
        self._target, self._found = target, found
        self._writer: asyncio.StreamWriter | None = None
        self._reader = asyncio.StreamReader()

    async def exchange(self, rng: random.Random) -> None:
        request, found = mutated_request(rng, self._target), self._found
        begin, status, kept = time.monotonic(), 0, False
        try:
            async with asyncio.timeout(ANSWER_S if request.is_whole else BROKEN_S):
                status, kept = await self._ask(rng, request)
            found.slowest_s = max(found.slowest_s, time.monotonic() - begin)
        except TimeoutError:
            status = -1 if request.is_whole else 0
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            if not kept:
                await self.close()
        found.requests += 1
        found.statuses[status] += 1
        if (status < 0 or (status >= 500 and status != 503)) and len(found.faults) < 20:
            found.faults.append(f"{status} for {request.data[:3000]!r}")

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _ask(self, rng: random.Random, request: Request) -> tuple[int, bool]:
        """Status, and whether the connection may be used again."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._writer.write(request.data)
        status, head = await self._head()
        while 100 <= status < 200 and status != 101:
            status, head = await self._head()
        if status == 101 and request.is_socket:
            await self._talk(rng)
            return status, False
        if not request.keeps or b"text/event-stream" in head or b"connection: close" in head:
            return status, False
        if request.method == "HEAD" or status in (204, 304):
            return status, True
        return status, await self._skip_body(head)

    async def _head(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        fields = head.split(None, 2)
        return int(fields[1]) if head.startswith(b"http/1.") else 0, head

    async def _skip_body(self, head: bytes) -> bool:
        """Read it; False where it has no end that can be known."""
        if b"transfer-encoding: chunked" in head:
            size = -1
            while size:
                size = int((await self._reader.readline()).split(b";")[0], 16)
                await self._reader.readexactly(size + 2)
            return True
        _, announced, rest = head.partition(b"content-length: ")
        size = int(rest.split(b"\r")[0]) if announced else MAX_ANSWER
        if size < MAX_ANSWER:
            await self._reader.readexactly(size)
        return size < MAX_ANSWER

    async def _talk(self, rng: random.Random) -> None:
        assert self._writer is not None
        for _ in range(rng.randint(0, 12)):
            if self._writer.is_closing():  # the server has refused what came before
                return
            self._writer.write(frame(rng, mutated(rng, rng.choice(FRAMES), most=2, longest=70_000)))
        await self._writer.drain()
        if rng.random() < 0.5:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BROKEN_S):
                    await self._reader.read(4096)


async def run(
    target: Target,
    seed: int,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    side_by_side: int = 24,
) -> Found:
    """Until there were so many ``requests``, or so many ``seconds`` are over."""
    found = Found()
    until = None if seconds is None else time.monotonic() + seconds

    async def one(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        connection = Connection(target, found)
        while (requests is None or found.requests < requests) and (until is None or time.monotonic() < until):
            await connection.exchange(rng)
        await connection.close()

    await asyncio.gather(*map(one, range(side_by_side)))
    return found
