"""Fakes for testing code that uses rtcstt, the ones its own tests use.

* `VirtualLoop`: an event loop whose clock jumps. Minutes of call pass in milliseconds, always the same way.
* `speech`, `silence`, `noise`: audio that *carries its own transcript*. Every word is written into the
  samples of a synthetic sound, so a test can say "no word lost, none twice" exactly.
* `Oracle`: the recogniser for such audio: legal turn events, with delays and cuts of your choice.
* `ScriptedUpstream`: an STT that behaves as badly as you say, connection by connection. In memory it is an
  `Stt` for virtual time (`ScriptedUpstream.connect`); with `listening()` it is a real WebSocket server on
  loopback.
* `Flaky`: a real STT whose connections die.
* `ScriptedCaller`: RTP packets with loss, jitter, mute, DTX and hang-up.

    upstream = ScriptedUpstream(Visit(drop_after_audio_s=1.5), Visit())
    async def main():
        async with upstream:
            stream = Stream(upstream, on_event=events.append)
            stream.start()
            await play(stream, speech("it was the best of times"))
            await stream.close()
    run_virtual(main())
    assert transcript(events) == "it was the best of times"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import selectors
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from rtcstt import wire
from rtcstt.errors import CallerError, ConnectionLost, UpstreamError
from rtcstt.pcm import SAMPLE_RATE, Chunk, Samples
from rtcstt.rtp import Packet
from rtcstt.upstream import Connection, Stt

T = TypeVar("T")

# -- virtual time ------------------------------------------------------------------------------------


class _Jump(selectors.DefaultSelector):
    """Instead of waiting for the time-out, lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock: nothing is scheduled and nothing is ready")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: sleeping takes no time, and a deadlock raises `RuntimeError`.

    Not for code with worker threads or network latency: neither moves the clock.
    """

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


# -- audio that carries its transcript ---------------------------------------------------------------

_FRAME = 160  # a word is a row of such frames, each with a header: magic, index, count, length, text
_MAGIC = (23130, -23131)
_MAX_LETTERS = 60


def _word(text: str, duration_s: float, seed: int) -> Samples:
    letters = text.encode()
    if not 0 < len(letters) <= _MAX_LETTERS:
        raise ValueError(f"a word of 1 to {_MAX_LETTERS} bytes, not {text!r}")
    count = max(2, round(duration_s * SAMPLE_RATE / _FRAME))
    sound = np.random.default_rng(seed).integers(-6000, 6000, (count, _FRAME)).astype(np.int16)
    sound[:, 0:2] = _MAGIC
    sound[:, 2] = np.arange(count)
    sound[:, 3:5] = (count, len(letters))
    sound[:, 5 : 5 + len(letters)] = np.frombuffer(letters, np.uint8)
    return sound.reshape(-1)


def speech(text: str | Sequence[str], *, word_s: float = 0.2, gap_s: float = 0.06) -> Samples:
    """The words of ``text``, each ``word_s`` long and with ``gap_s`` of silence behind it."""
    spoken = text.split() if isinstance(text, str) else text
    gap = silence(gap_s)
    parts = [part for i, word in enumerate(spoken) for part in (_word(word, word_s, i), gap)]
    return np.concatenate(parts) if parts else silence(0)


def silence(duration_s: float) -> Samples:
    """Zeros."""
    return np.zeros(round(duration_s * SAMPLE_RATE), np.int16)


def noise(duration_s: float, *, level_db: float = -30.0, seed: int = 0) -> Samples:
    """White noise that carries no word; ``level_db`` relative to full scale."""
    sound = np.random.default_rng(seed).normal(
        0.0, 32768.0 * 10 ** (level_db / 20), round(duration_s * SAMPLE_RATE)
    )
    return np.clip(sound, -32768, 32767).astype(np.int16)


def chunks(samples: Samples, *, chunk_ms: int = 100, start: int = 0) -> Iterator[Chunk]:
    """The audio cut as a call cuts it."""
    size = chunk_ms * SAMPLE_RATE // 1000
    for offset in range(0, len(samples), size):
        yield Chunk(samples[offset : offset + size], start + offset)


class _Sends(Protocol):
    def send(self, chunk: Chunk) -> None: ...


async def play(stream: _Sends, samples: Samples, *, chunk_ms: int = 100, start: int = 0) -> int:
    """Send audio to a stream at real-time pace; returns the sample behind it, to go on from."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for chunk in chunks(samples, chunk_ms=chunk_ms, start=start):
        due = begin + (chunk.start - start + len(chunk.samples)) / SAMPLE_RATE
        await asyncio.sleep(max(0.0, due - loop.time()))
        stream.send(chunk)
    return start + len(samples)


class _Event(Protocol):
    @property
    def type(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


def transcript(events: Iterable[_Event]) -> str:
    """The full text of what a listener got: `turn.end` transcripts (manual: final texts), verbatim."""
    texts = []
    for event in events:
        if event.type == "turn.end":
            texts.append(event.fields["transcript"])
        elif event.type == "transcript" and event.fields["is_final"]:
            texts.append(event.fields["text"])
    return "".join(texts)


# -- the recogniser for it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """A word found in the audio, with the sample behind its last one."""

    text: str
    end: int


class _Ear:
    """Finds the words in a stream of samples, however it is cut. A word of which less than half arrives
    (the audio began in the middle of it) is not heard."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.int16)
        self._position = 0
        self._frames = 0
        self._from = -1

    def hear(self, samples: Samples) -> list[tuple[int, str | None]]:
        """(sample, None) for every frame of a word; (sample, text) where a word is complete."""
        pcm = np.concatenate([self._rest, samples])
        usable = max(0, len(pcm) - _FRAME + 1)
        found: list[tuple[int, str | None]] = []
        for at in (
            np.flatnonzero((pcm[:usable][:-1] == _MAGIC[0]) & (pcm[1:usable] == _MAGIC[1]))
            if usable > 1
            else []
        ):
            found.append(self._frame(pcm[at : at + _FRAME], self._position + int(at)))
        self._position += max(0, usable - 1)
        self._rest = pcm[max(0, usable - 1) :]
        return found

    def _frame(self, frame: Samples, at: int) -> tuple[int, str | None]:
        index, count, length = (int(n) for n in frame[2:5])
        self._frames = 1 if index == 0 or at != self._from else self._frames + 1
        self._from = at + _FRAME
        complete = index == count - 1 and self._frames * 2 >= count
        text = bytes(frame[5 : 5 + length].astype(np.uint8)).decode(errors="replace") if complete else None
        return at + _FRAME, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """How the recogniser of `speech` behaves; times in seconds of audio.

    ``hold_words`` are kept back until the next word or the pause; ``latency_s`` delays every message;
    ``max_words`` ends a turn (manual: makes a final) in the middle of the speech. ``mishear`` changes words
    (a recogniser does not say twice the same). ``late_text`` gives no text before the end of the turn.
    ``durations``: whether manual finals say how much audio they are of.
    """

    start_s: float = 0.1
    eager_end_s: float | None = 0.35
    end_s: float = 0.6
    latency_s: float = 0.0
    hold_words: int = 1
    max_words: int | None = None
    late_text: bool = False
    mishear: Mapping[str, str] = field(default_factory=dict)
    durations: bool = True


class _Recogniser:
    """One connection's ears and mouth: audio and commands in, messages out, each with the sample from which
    it is due. Both endpoints; time is samples heard."""

    def __init__(self, oracle: Oracle, *, manual: bool, request_id: str) -> None:
        self._oracle = oracle
        self._manual = manual
        self._id = request_id
        self._ear = _Ear()
        self.heard = 0
        self._pending: deque[tuple[int, Any]] = deque()
        self._words: list[str] = []
        self._speaking = False
        self._eager = False
        self._voiced = 0
        self._last_voice = 0
        self._published = ""
        self._ended = 0
        self._finals_from = 0

    def hear(self, samples: Samples) -> None:
        """Take in audio; `due` then has what is to be said."""
        found = self._ear.hear(samples)
        self.heard += len(samples)
        for at, text in found:
            self._pause(at - _FRAME)
            self._voice(at)
            if text is not None:
                self._words.append(self._oracle.mishear.get(text, text))
                self._on_word(at)
        self._pause(self.heard)

    def due(self, *, everything: bool = False) -> Iterator[Any]:
        """The messages whose time has come."""
        while self._pending and (everything or self._pending[0][0] <= self.heard):
            yield self._pending.popleft()[1]

    def _say(self, at: int, message: Any) -> None:
        self._pending.append((at + round(self._oracle.latency_s * SAMPLE_RATE), message))

    def _text(self, held: int = 0) -> str:
        said = self._words[: max(0, len(self._words) - held)]
        text = " ".join(said)
        return " " + text if text and self._ended else text

    def _voice(self, at: int) -> None:
        self._voiced += _FRAME
        self._last_voice = at
        if self._manual:
            return
        if self._eager:
            self._eager = False
            self._say(at, wire.TurnResume(request_id=self._id))
        if not self._speaking and self._voiced >= self._oracle.start_s * SAMPLE_RATE:
            self._speaking = True
            self._say(at, wire.TurnStart(request_id=self._id))

    def _on_word(self, at: int) -> None:
        if self._manual:
            text = self._text()
            if self._oracle.max_words and len(self._words) >= self._oracle.max_words:
                self._final(at)
            elif not self._oracle.late_text:
                self._say(at, wire.Transcript(request_id=self._id, is_final=False, text=text))
            return
        if not self._speaking:
            return
        if self._oracle.max_words and len(self._words) >= self._oracle.max_words:
            self._end(at)
        elif not self._oracle.late_text:
            self._update(at, self._text(self._oracle.hold_words))

    def _update(self, at: int, text: str) -> None:
        if len(text) > len(self._published):
            self._published = text
            self._say(at, wire.TurnUpdate(request_id=self._id, transcript=text))

    def _pause(self, at: int) -> None:
        quiet = (at - self._last_voice) / SAMPLE_RATE
        if self._manual or not self._speaking:
            if quiet > 0.5:
                self._voiced = 0
            return
        eager = self._oracle.eager_end_s
        if eager is not None and quiet >= eager and not self._eager:
            self._eager = True
            self._published = self._text()
            self._say(
                self._last_voice + round(eager * SAMPLE_RATE),
                wire.TurnEagerEnd(request_id=self._id, transcript=self._published),
            )
        if quiet >= self._oracle.end_s:
            self._end(self._last_voice + round(self._oracle.end_s * SAMPLE_RATE))

    def _end(self, at: int) -> None:
        self._say(at, wire.TurnEnd(request_id=self._id, transcript=self._text()))
        self._ended += 1
        self._words, self._published = [], ""
        self._speaking = self._eager = False
        self._voiced = 0

    def finalize(self) -> None:
        """Manual: what was heard so far, then `flush_done`."""
        self._final(self.heard)
        self._say(self.heard, wire.FlushDone(request_id=self._id))

    def _final(self, at: int) -> None:
        if self._words:
            text = self._text()
            duration = (at - self._finals_from) / SAMPLE_RATE if self._oracle.durations else None
            self._say(at, wire.Transcript(request_id=self._id, is_final=True, text=text, duration=duration))
            self._ended += 1
            self._words = []
            self._finals_from = at

    def close(self) -> None:
        """Everything still due."""
        if self._manual:
            self._final(self.heard)
            self._say(self.heard, wire.Done(request_id=self._id))
        elif self._words or self._speaking:
            if not self._speaking:
                self._say(self.heard, wire.TurnStart(request_id=self._id))
            self._end(self.heard)


# -- an STT that behaves badly -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
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
class Visited:
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
    """An STT that plays one `Visit` per connection, the last one again and again.

    Use it as an asynchronous context manager: it owns the tasks of its connections. ``visited`` has a
    record of each connection, refused ones included.
    """

    def __init__(self, *visits: Visit, name: str = "scripted") -> None:
        self.name = name
        self.visited: list[Visited] = []
        self._visits = visits or (Visit(),)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedUpstream:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self, handshake: wire.Handshake, headers: Mapping[str, str]) -> tuple[Visit, Visited]:
        visit = self._visits[min(len(self.visited), len(self._visits) - 1)]
        visited = Visited(handshake, headers)
        self.visited.append(visited)
        return visit, visited

    # In memory: the `Stt` seam.

    async def connect(self, handshake: wire.Handshake) -> MemoryConnection:
        """`rtcstt.upstream.Stt`: a connection without a socket."""
        visit, visited = self._next(handshake, {})
        await asyncio.sleep(visit.delay_s)
        if visit.refuse is not None:
            visited.ended = "refused"
            raise UpstreamError(
                f"HTTP {visit.refuse}: scripted", status=visit.refuse, retryable=wire.retryable(visit.refuse)
            )
        client = MemoryConnection()
        task = asyncio.create_task(_Session(visit, visited, client.server).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return client

    # On loopback: a real server.

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on loopback; yields the base URL for `rtcstt.Cartesia(base_url=...)`."""
        from websockets.asyncio.server import ServerConnection, serve

        records: dict[ServerConnection, tuple[Visit, Visited]] = {}

        async def answer(websocket: ServerConnection, request: Any) -> Any:
            try:
                handshake = _parse(request.path)
            except CallerError as error:
                return _json_response(websocket, error.status, error.as_dict())
            visit, visited = self._next(handshake, dict(request.headers.raw_items()))
            await asyncio.sleep(visit.delay_s)
            if visit.refuse is not None:
                visited.ended = "refused"
                body = {"error_code": "scripted", "title": "Scripted", "message": "scripted"}
                return _json_response(websocket, visit.refuse, body)
            records[websocket] = visit, visited
            return None

        async def session(websocket: ServerConnection) -> None:
            visit, visited = records.pop(websocket)
            await _Session(visit, visited, _SocketPipe(websocket)).run()

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


def _json_response(websocket: Any, status: int, body: dict[str, Any]) -> Any:
    response = websocket.respond(status, json.dumps(body))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


class MemoryConnection:
    """Both ends of a connection in memory; this one is the client's (`rtcstt.upstream.Connection`)."""

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
    def __init__(self, websocket: Any) -> None:
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

    def __init__(self, visit: Visit, visited: Visited, pipe: _Pipe) -> None:
        self._visit, self._visited, self._pipe = visit, visited, pipe
        self._manual = visited.handshake.endpoint == "manual"
        self._turn = visited.handshake.turn
        self._recogniser = _Recogniser(visit.oracle, manual=self._manual, request_id=f"scripted-{id(self):x}")
        self._inject = deque(sorted(visit.inject, key=lambda item: item[0]))
        self._silent_since: float | None = None

    async def run(self) -> None:
        try:
            async with asyncio.timeout(self._visit.drop_after_s):
                await self._serve()
        except TimeoutError:
            await self._drop()
        except ConnectionLost:
            self._visited.ended = self._visited.ended or "left"

    async def _drop(self) -> None:
        self._visited.ended = "dropped"
        await self._pipe.close(self._visit.drop_code)

    async def _serve(self) -> None:
        if not self._manual:
            await self._send(wire.encode(wire.Connected(request_id="scripted")))
        while True:
            if self._passed(self._visit.deaf_after_audio_s):
                await asyncio.get_running_loop().create_future()
            data = await self._pipe.recv()
            if isinstance(data, bytes):
                if not await self._on_audio(data):
                    return
            elif not await self._on_command(data):
                return

    def _passed(self, audio_s: float | None) -> bool:
        return audio_s is not None and self._recogniser.heard >= round(audio_s * SAMPLE_RATE)

    async def _on_audio(self, data: bytes) -> bool:
        samples = np.frombuffer(data, "<i2").astype(np.int16)
        limit = self._visit.drop_after_audio_s
        if limit is not None:  # exact to the sample, in the middle of a message too
            samples = samples[: max(0, round(limit * SAMPLE_RATE) - self._recogniser.heard)]
        self._visited.audio.append((asyncio.get_running_loop().time(), len(samples)))
        self._recogniser.hear(samples)
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
        if not self._passed(self._visit.silent_after_audio_s):
            return False
        now = asyncio.get_running_loop().time()
        self._silent_since = now if self._silent_since is None else self._silent_since
        return now - self._silent_since < self._visit.silent_s

    async def _send(self, text: str) -> None:
        self._visited.said.append(text)
        await self._pipe.send(text)

    async def _on_command(self, text: str) -> bool:
        """Whether the connection goes on."""
        self._visited.commands.append(text)
        command = wire.decode_client(text, self._visited.handshake.endpoint, self._turn)
        if isinstance(command, wire.Config):
            self._turn = self._turn.merged(command.turn)
        if isinstance(command, wire.Finalize):
            self._recogniser.finalize()
            await self._speak(everything=True)
        if not isinstance(command, wire.Close):
            return True
        if self._visit.drop_on_close:
            await self._drop()
            return False
        if self._visit.ignore_close:
            return True
        self._recogniser.close()
        await self._speak(everything=True)
        self._visited.ended = "closed"
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


# -- a caller ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What happens to packets on the way. ``lost`` are indexes of packets (counted from 0) and ``loss`` a
    probability on top; ``jitter_s`` is the most a packet is late; ``duplicate`` a probability. All decided
    by ``seed``."""

    loss: float = 0.0
    lost: frozenset[int] = frozenset()
    jitter_s: float = 0.0
    delay_s: float = 0.02
    duplicate: float = 0.0
    seed: int = 0


class ScriptedCaller:
    """RTP packets of a caller, with the times of their arrival, for `rtcstt.rtp` and everything above it.

    Say what the caller does, in order: `say`, `mute` (packets of silence), `pause` (DTX: no packets, time
    goes on), `hold` (no packets and no time: the sender stopped), `switch` (a new SSRC, as after a
    renegotiation), then take `packets`. ``encode`` makes the payload from int16 samples at ``clock_rate``;
    the default is L16 (RFC 3551), which keeps the words of `speech`. Hanging up is the end of the packets.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Samples], bytes] | None = None,
        clock_rate: int = SAMPLE_RATE,
        sample_rate: int = SAMPLE_RATE,
        payload_type: int = 96,
        ptime_ms: int = 20,
        ssrc: int = 0x5EED,
        sequence: int = 65_500,
        timestamp: int = 2**32 - 16_000,
    ) -> None:
        self._encode = encode or (lambda samples: samples.astype(">i2").tobytes())
        self._size = sample_rate * ptime_ms // 1000
        self._ticks = clock_rate * ptime_ms // 1000
        self._ptime_s = ptime_ms / 1000
        self._payload_type = payload_type
        self._ssrc, self._sequence, self._timestamp = ssrc, sequence, timestamp
        self._time = 0.0
        self._marker = True
        self._sent: list[tuple[float, Packet]] = []

    def say(self, samples: Samples) -> ScriptedCaller:
        """Send this audio, the last packet filled with zeros."""
        for offset in range(0, len(samples), self._size):
            frame = samples[offset : offset + self._size]
            self._packet(np.pad(frame, (0, self._size - len(frame))))
        return self

    def mute(self, duration_s: float) -> ScriptedCaller:
        """`track.enabled = false`: packets go on, with silence."""
        for _ in range(round(duration_s / self._ptime_s)):
            self._packet(np.zeros(self._size, np.int16))
        return self

    def pause(self, duration_s: float) -> ScriptedCaller:
        """Discontinuous transmission: no packets; the timestamps of the next ones tell how long."""
        steps = round(duration_s / self._ptime_s)
        self._timestamp += steps * self._ticks
        self._time += steps * self._ptime_s
        self._marker = True
        return self

    def hold(self, duration_s: float) -> ScriptedCaller:
        """`replaceTrack(null)`: no packets, and the timestamps do not tell."""
        self._time += duration_s
        return self

    def switch(self, ssrc: int, *, sequence: int = 0, timestamp: int = 0) -> ScriptedCaller:
        """Another stream from here on (RFC 3550 section 8.2)."""
        self._ssrc, self._sequence, self._timestamp = ssrc, sequence, timestamp
        self._marker = True
        return self

    def _packet(self, samples: Samples) -> None:
        packet = Packet(
            ssrc=self._ssrc,
            sequence=self._sequence % 2**16,
            timestamp=self._timestamp % 2**32,
            payload_type=self._payload_type,
            payload=self._encode(samples),
            marker=self._marker,
        )
        self._time += self._ptime_s  # a packet leaves when its audio is complete
        self._sent.append((self._time, packet))
        self._sequence += 1
        self._timestamp += self._ticks
        self._marker = False

    def packets(self, network: Network | None = None) -> list[tuple[float, Packet]]:
        """(arrival, packet) in the order of arrival."""
        network = network or Network()
        dice = random.Random(network.seed)
        arrived = []
        for index, (time, packet) in enumerate(self._sent):
            lost = dice.random() < network.loss or index in network.lost
            copies = 2 if dice.random() < network.duplicate else 1
            late = dice.random() * network.jitter_s
            if not lost:
                arrived += [(time + network.delay_s + late, packet)] * copies
        return sorted(arrived, key=lambda item: item[0])
