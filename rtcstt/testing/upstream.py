"""Scripted speech-to-text servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rtcstt import wire
from rtcstt.errors import CallerError, ConnectionLost, UpstreamError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.seam import Connection, Stt
from rtcstt.testing.speech import Oracle, _Recogniser

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

# -- an STT that behaves badly -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionScript:
    """How the upstream treats one connection; seconds "of audio" count what it was sent on it.

    ``refuse``: this HTTP status instead of a handshake. ``delay_s``: before the handshake is answered.
    ``drop_after_audio_s``, ``drop_after_s``: the connection dies, with ``drop_code`` or, None, without a
    word. ``silent_after_audio_s``: from then on it says nothing, for ``silent_s``, then everything at once.
    ``deaf_after_audio_s``: from then on it does not read. ``inject``: (seconds of audio, message sent as it
    is). ``ignore_close``: the farewell is not answered. ``drop_on_close``: the connection dies when told to
    close.
    """

    refuse: int | None = None
    delay_s: float = 0.0
    drop_after_audio_s: float | None = None
    drop_after_s: float | None = None
    drop_code: int | None = None
    silent_after_audio_s: float | None = None
    silent_s: float = float("inf")
    deaf_after_audio_s: float | None = None
    inject: tuple[tuple[float, str | bytes], ...] = ()
    ignore_close: bool = False
    drop_on_close: bool = False
    oracle: Oracle = Oracle()


@dataclass(slots=True)
class ConnectionRecord:
    """What one connection brought: for assertions afterwards."""

    handshake: wire.Handshake
    headers: Mapping[str, str]
    audio: list[tuple[float, int]] = field(default_factory=list)
    "(when, how many samples) of every audio message."
    commands: list[str] = field(default_factory=list)
    "The text messages, verbatim."
    said: list[str] = field(default_factory=list)
    ended: str = ""
    "How it ended: refused, dropped, closed, left."

    @property
    def audio_s(self) -> float:
        return sum(count for _, count in self.audio) / SAMPLE_RATE


class _Pipe(Protocol):
    """The server's end of a connection: a real socket or two queues."""

    async def send(self, data: str | bytes) -> None: ...
    async def recv(self) -> str | bytes: ...
    async def close(self, code: int | None) -> None: ...


class ScriptedUpstream:
    """An STT that plays one `ConnectionScript` per connection, the last one again and again.

    Use it as an asynchronous context manager: it owns the tasks of its connections. ``connections`` has a
    record of each connection, refused ones included.
    """

    def __init__(self, *scripts: ConnectionScript, name: str = "scripted") -> None:
        self.name = name
        self.connections: list[ConnectionRecord] = []
        self._scripts = scripts or (ConnectionScript(),)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def visited(self) -> list[ConnectionRecord]:
        """The name of ``connections`` in 0.1.0's first days."""
        return self.connections

    async def __aenter__(self) -> ScriptedUpstream:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(
        self, handshake: wire.Handshake, headers: Mapping[str, str]
    ) -> tuple[ConnectionScript, ConnectionRecord]:
        script = self._scripts[min(len(self.connections), len(self._scripts) - 1)]
        record = ConnectionRecord(handshake, headers)
        self.connections.append(record)
        return script, record

    # In memory: the `Stt` seam.

    async def connect(self, handshake: wire.Handshake) -> MemoryConnection:
        """`rtcstt.Stt`: a connection without a socket."""
        script, record = self._next(handshake, {})
        await asyncio.sleep(script.delay_s)
        if script.refuse is not None:
            record.ended = "refused"
            raise UpstreamError(
                f"HTTP {script.refuse}: scripted",
                status=script.refuse,
                retryable=wire.retryable(script.refuse),
            )
        client = MemoryConnection()
        task = asyncio.create_task(_Session(script, record, client.server).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return client

    # On loopback: a real server.

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on loopback; yields the base URL for `rtcstt.Cartesia(base_url=...)`."""
        from websockets.asyncio.server import serve

        records: dict[ServerConnection, tuple[ConnectionScript, ConnectionRecord]] = {}

        async def answer(websocket: ServerConnection, request: Request) -> Response | None:
            try:
                handshake = _parse(request.path)
            except CallerError as error:
                return _json_response(websocket, error.status, error.as_dict())
            script, record = self._next(handshake, dict(request.headers.raw_items()))
            await asyncio.sleep(script.delay_s)
            if script.refuse is not None:
                record.ended = "refused"
                body = {"error_code": "scripted", "title": "Scripted", "message": "scripted"}
                return _json_response(websocket, script.refuse, body)
            records[websocket] = script, record
            return None

        async def session(websocket: ServerConnection) -> None:
            script, record = records.pop(websocket)
            await _Session(script, record, _SocketPipe(websocket)).run()

        async with serve(
            session,
            "127.0.0.1",
            port,
            process_request=answer,
            compression=None,
            max_size=None,
            close_timeout=0.5,
        ) as server:
            yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def _parse(path: str) -> wire.Handshake:
    from urllib.parse import parse_qsl, urlsplit

    parts = urlsplit(path)
    endpoint: wire.Endpoint = "turns" if parts.path.endswith(wire.PATHS["turns"]) else "manual"
    return wire.Handshake.parse(endpoint, parse_qsl(parts.query, keep_blank_values=True))


def _json_response(websocket: ServerConnection, status: int, body: Mapping[str, object]) -> Response:
    response = websocket.respond(status, json.dumps(body))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


class MemoryConnection:
    """Both ends of a connection in memory; this one is the client's (`rtcstt.stt.seam.Connection`)."""

    def __init__(self) -> None:
        self._to_server: asyncio.Queue[str | bytes | None] = asyncio.Queue(maxsize=100)
        self._to_client: asyncio.Queue[str | bytes | ConnectionLost] = asyncio.Queue()
        self._lost: ConnectionLost | None = None
        self.server: _Pipe = _MemoryPipe(self)

    async def send(self, data: str | bytes) -> None:
        if self._lost is not None:
            raise self._lost
        await self._to_server.put(data)

    async def recv(self) -> str | bytes:
        if self._lost is not None and self._to_client.empty():
            raise self._lost
        data = await self._to_client.get()
        if isinstance(data, ConnectionLost):
            raise data
        return data

    async def close(self) -> None:
        if self._lost is None:
            self._end(ConnectionLost(1000))

    def _end(self, lost: ConnectionLost) -> None:
        self._lost = lost
        self._to_client.put_nowait(lost)
        if self._to_server.full():
            self._to_server.get_nowait()
        self._to_server.put_nowait(None)


class _MemoryPipe:
    def __init__(self, client: MemoryConnection) -> None:
        self._client = client

    async def send(self, data: str | bytes) -> None:
        if self._client._lost is None:
            self._client._to_client.put_nowait(data)

    async def recv(self) -> str | bytes:
        data = await self._client._to_server.get()
        if data is None:
            raise ConnectionLost(1000)
        return data

    async def close(self, code: int | None) -> None:
        if self._client._lost is None:
            lost = ConnectionLost(1006 if code is None else code)
            lost.retryable = code is None or code == 1000 or wire.retryable(code)
            self._client._end(lost)


class _SocketPipe:
    def __init__(self, websocket: ServerConnection) -> None:
        self._websocket = websocket

    async def send(self, data: str | bytes) -> None:
        with self._mapped():
            await self._websocket.send(data)

    async def recv(self) -> str | bytes:
        with self._mapped():
            data: str | bytes = await self._websocket.recv()
            return data

    async def close(self, code: int | None) -> None:
        if code is None:
            self._websocket.transport.abort()
        else:
            await self._websocket.close(code)

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        from websockets.exceptions import ConnectionClosed

        try:
            yield
        except ConnectionClosed as error:
            raise ConnectionLost(error.rcvd.code if error.rcvd else 1006) from error


class _Session:
    """One connection of the scripted upstream."""

    def __init__(self, script: ConnectionScript, record: ConnectionRecord, pipe: _Pipe) -> None:
        self._script, self._record, self._pipe = script, record, pipe
        self._manual = record.handshake.endpoint == "manual"
        self._turn = record.handshake.turn
        self._recogniser = _Recogniser(
            script.oracle, manual=self._manual, request_id=f"scripted-{id(self):x}"
        )
        self._inject = deque(sorted(script.inject, key=lambda item: item[0]))
        self._silent_since: float | None = None

    async def run(self) -> None:
        try:
            async with asyncio.timeout(self._script.drop_after_s):
                await self._serve()
        except TimeoutError:
            await self._drop()
        except ConnectionLost:
            self._record.ended = self._record.ended or "left"

    async def _drop(self) -> None:
        self._record.ended = "dropped"
        await self._pipe.close(self._script.drop_code)

    async def _serve(self) -> None:
        if not self._manual:
            await self._send(wire.encode(wire.Connected(request_id="scripted")))
        while True:
            if self._passed(self._script.deaf_after_audio_s):
                await asyncio.get_running_loop().create_future()
            data = await self._pipe.recv()
            if isinstance(data, bytes):
                if not await self._on_audio(data):
                    return
            elif not await self._on_command(data):
                return

    def _passed(self, audio_s: float | None) -> bool:
        return audio_s is not None and self._recogniser.received >= round(audio_s * SAMPLE_RATE)

    async def _on_audio(self, data: bytes) -> bool:
        samples = np.frombuffer(data, "<i2").astype(np.int16)
        limit = self._script.drop_after_audio_s
        if limit is not None:  # exact to the sample, in the middle of a message too
            samples = samples[: max(0, round(limit * SAMPLE_RATE) - self._recogniser.received)]
        self._record.audio.append((asyncio.get_running_loop().time(), len(samples)))
        self._recogniser.receive(samples)
        await self._speak()
        while self._inject and self._passed(self._inject[0][0]):
            await self._pipe.send(self._inject.popleft()[1])
        if self._passed(limit):
            await self._drop()
            return False
        return True

    async def _speak(self, *, everything: bool = False) -> None:
        if self._silent():
            return
        for message in self._recogniser.due(everything=everything):
            await self._send(wire.encode(message))

    def _silent(self) -> bool:
        if not self._passed(self._script.silent_after_audio_s):
            return False
        now = asyncio.get_running_loop().time()
        self._silent_since = now if self._silent_since is None else self._silent_since
        return now - self._silent_since < self._script.silent_s

    async def _send(self, text: str) -> None:
        self._record.said.append(text)
        await self._pipe.send(text)

    async def _on_command(self, text: str) -> bool:
        """Whether the connection goes on."""
        self._record.commands.append(text)
        command = wire.decode_client(text, self._record.handshake.endpoint, self._turn)
        if isinstance(command, wire.Config):
            self._turn = self._turn.merged(command.turn)
        if isinstance(command, wire.Finalize):
            self._recogniser.finalize()
            await self._speak(everything=True)
        if not isinstance(command, wire.Close):
            return True
        if self._script.drop_on_close:
            await self._drop()
            return False
        if self._script.ignore_close:
            return True
        self._recogniser.close()
        await self._speak(everything=True)
        self._record.ended = "closed"
        await self._pipe.close(1000)
        return False


# -- the way to a good STT ---------------------------------------------------------------------------


class Flaky:
    """A real STT behind a bad line: its first connections die after so many seconds of audio, each."""

    def __init__(self, stt: Stt, *after_audio_s: float) -> None:
        self._stt = stt
        self._after = deque(after_audio_s)

    @property
    def name(self) -> str:
        return self._stt.name

    async def connect(self, handshake: wire.Handshake) -> Connection:
        connection = await self._stt.connect(handshake)
        return _DyingConnection(connection, self._after.popleft()) if self._after else connection


class _DyingConnection:
    def __init__(self, connection: Connection, after_audio_s: float) -> None:
        self._connection = connection
        self._left = round(after_audio_s * SAMPLE_RATE) * 2
        self._dead = asyncio.Event()

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            self._left -= len(data)
        if self._left < 0:
            self._dead.set()
            raise ConnectionLost(1006)
        await self._connection.send(data)

    async def recv(self) -> str | bytes:
        tasks = asyncio.ensure_future(self._connection.recv()), asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._dead.is_set():
                raise ConnectionLost(1006)
            return await tasks[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        await self._connection.close()
