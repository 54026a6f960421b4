"""The embedded STT's doors: both WebSocket endpoints, batch, and short-lived tokens, on aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import IO, Any

import av
import numpy as np
import soxr
from aiohttp import BodyPartReader, WSCloseCode, WSMsgType, web
from av.error import FFmpegError

from rtcstt import wire
from rtcstt.embedded.auth import Keys
from rtcstt.embedded.batch import Batch
from rtcstt.embedded.moonshine import Audio
from rtcstt.embedded.service import MAX_AUDIO_BYTES, Service, Session, check_model
from rtcstt.errors import CallerError, ConnectionLost
from rtcstt.pcm import SAMPLE_RATE

log = logging.getLogger(__name__)

MAX_UPLOAD = 512 * 1024 * 1024
HEARTBEAT_S = 30.0
DRAIN_S = 60.0
_VERSION = re.compile(r"20\d\d-\d\d-\d\d")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(app: web.Application, services: Callable[[], Awaitable[Service]], keys: Keys) -> None:
    """Mount the endpoints. ``services`` gives the service, once it is loaded."""
    doors = Doors(services, keys)
    routes: list[tuple[str, str, Handler]] = [
        ("GET", wire.PATHS["turns"], doors.turns),
        ("GET", wire.PATHS["manual"], doors.manual),
        ("POST", "/stt", doors.batch),
        ("POST", "/stt/transcribe", doors.batch),
        ("POST", "/audio/transcriptions", doors.openai),
        ("POST", "/access-token", doors.access_token),
    ]
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
        app.router.add_route("OPTIONS", path, _preflight)
    app.on_shutdown.append(doors.shut)


class Doors:
    """The handlers, and the sockets that are open."""

    def __init__(self, services: Callable[[], Awaitable[Service]], keys: Keys) -> None:
        self._services = services
        self._keys = keys
        self._sockets: set[web.WebSocketResponse] = set()

    async def turns(self, request: web.Request) -> web.StreamResponse:
        return await self._socket(request, "turns")

    async def manual(self, request: web.Request) -> web.StreamResponse:
        return await self._socket(request, "manual")

    async def batch(self, request: web.Request) -> web.StreamResponse:
        """`POST /stt`: a file, or raw audio declared in the query, to its whole text."""
        self._admit(request)
        fields, batch = await self._transcribe(request)
        answer: dict[str, Any] = {
            "type": "transcript",
            "text": batch.text,
            "duration": round(batch.duration, 3),
            "language": "en",
            "request_id": str(uuid.uuid4()),
        }
        if "word" in fields.get("timestamp_granularities[]", []):
            answer["words"] = _words(batch)
        return web.json_response(answer, headers=_CORS)

    async def openai(self, request: web.Request) -> web.StreamResponse:
        """`POST /audio/transcriptions`: the same, as OpenAI's clients ask for it."""
        self._admit(request)
        fields, batch = await self._transcribe(request)
        match fields.get("response_format", ["json"])[0]:
            case "json":
                return web.json_response({"text": batch.text}, headers=_CORS)
            case "text":
                return web.Response(text=batch.text + "\n", headers=_CORS)
            case "verbose_json":
                answer = {"task": "transcribe", "language": "english", "duration": batch.duration}
                words = _words(batch) if "word" in fields.get("timestamp_granularities[]", []) else None
                answer |= {"text": batch.text, "segments": [], **({"words": words} if words else {})}
                return web.json_response(answer, headers=_CORS)
        raise wire.bad_request("response_format must be json, text or verbose_json.")

    async def access_token(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            raise wire.bad_request("The body is not JSON.") from None
        token = self._keys.grant(request.headers, request.query, body)
        return web.json_response({"token": token}, headers=_CORS)

    async def shut(self, app: web.Application) -> None:
        for socket in list(self._sockets):
            with contextlib.suppress(Exception):
                await socket.close(code=WSCloseCode.GOING_AWAY, message=b"server stops")

    def _admit(self, request: web.Request) -> None:
        """Check the key and the version that the client speaks; a header, or the query, which wins."""
        self._keys.check(request.headers, request.query)
        version = request.query.get("cartesia_version") or request.headers.get("Cartesia-Version")
        if version is not None and not _VERSION.fullmatch(version):
            raise wire.bad_request("Cartesia-Version must be a date such as 2026-03-01.", "invalid_version")

    async def _socket(self, request: web.Request, endpoint: wire.Endpoint) -> web.StreamResponse:
        self._admit(request)
        handshake = wire.Handshake.parse(endpoint, request.query.items())
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise CallerError(426, "upgrade_required", "Upgrade required", "This is a WebSocket endpoint.")
        session = await (await self._services()).open(handshake)
        socket = web.WebSocketResponse(max_msg_size=MAX_AUDIO_BYTES, heartbeat=HEARTBEAT_S)
        try:
            await socket.prepare(request)
            self._sockets.add(socket)
            await _converse(socket, session)
        finally:
            self._sockets.discard(socket)
            await session.close()
        return socket

    async def _transcribe(self, request: web.Request) -> tuple[dict[str, list[str]], Batch]:
        """The form's fields, and the text of the file in it; memory does not grow with its length."""
        service = await self._services()
        with tempfile.TemporaryFile() as file:
            fields = await _read_form(request, file)
            check_model(fields.get("model", ["ink-whisper"])[0], endpoint=None)
            if fields.get("language", ["en"])[0] not in ("en", ""):
                raise wire.bad_request(
                    "This recogniser understands English (en) only.", "unsupported_language"
                )
            file.seek(0)
            blocks = _raw_blocks(file, request.query) if "encoding" in request.query else _file_blocks(file)
            try:
                batch = await service.recognizer.transcribe(blocks, words=True)
            except (FFmpegError, EOFError, ValueError) as error:
                raise wire.bad_request("The file is no audio that can be read.", "invalid_audio") from error
            return fields, batch


async def _converse(socket: web.WebSocketResponse, session: Session) -> None:
    """Both ways at once; the session says when it is over."""
    hearing = asyncio.create_task(_hear(socket, session))
    try:
        while True:
            await socket.send_str(await session.recv())
    except ConnectionLost as lost:
        await socket.close(code=lost.close_code, message=lost.reason.encode()[:120])
    except ConnectionError:  # the client has left
        pass
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


async def _hear(socket: web.WebSocketResponse, session: Session) -> None:
    try:
        async for message in socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await session.send(message.data)
    except ConnectionLost:
        return
    await session.close()  # the client closed, or left: nobody waits for the rest


async def _read_form(request: web.Request, file: IO[bytes]) -> dict[str, list[str]]:
    """Write the part named file into ``file``; the other parts are returned."""
    if not request.content_type.startswith("multipart/"):
        raise CallerError(
            415, "unsupported_media_type", "Unsupported media type", "Send multipart/form-data."
        )
    fields: dict[str, list[str]] = {}
    size = 0
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise wire.bad_request("The form has a part within a part.")
            if part.name != "file":
                value = (await part.read(decode=True))[:4096].decode("utf-8", "replace")
                name = (part.name or "").removesuffix("[]")
                fields.setdefault(
                    "timestamp_granularities[]" if name == "timestamp_granularities" else name, []
                )
                fields["timestamp_granularities[]" if name == "timestamp_granularities" else name].append(
                    value
                )
                continue
            while chunk := await part.read_chunk(1 << 16):
                size += len(chunk)
                if size > MAX_UPLOAD:
                    message = f"At most {MAX_UPLOAD >> 20} MB are taken."
                    raise CallerError(413, "file_too_big", "File too big", message)
                file.write(chunk)
    except (ValueError, AssertionError) as error:
        raise wire.bad_request("The form is broken.") from error
    if not size:
        raise wire.bad_request("The form has no file, or an empty one.", "no_file")
    return fields


def _file_blocks(file: IO[bytes]) -> Iterator[Audio]:
    """Any file that PyAV opens, as 16 kHz mono float32."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(file, "r") as container:
        if not container.streams.audio:
            raise ValueError("no audio")
        for frame in container.decode(audio=0):
            for resampled in resampler.resample(frame):
                yield resampled.to_ndarray()[0].astype(np.float32)
        for resampled in resampler.resample(None):
            yield resampled.to_ndarray()[0].astype(np.float32)


def _raw_blocks(file: IO[bytes], query: Any) -> Iterator[Audio]:
    """Raw audio as the query declares it."""
    declared = wire.Handshake.parse("turns", {"model": "ink-2", **query}.items())
    decoder = wire.AudioDecoder(declared.encoding)
    rate = declared.sample_rate
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ") if rate != SAMPLE_RATE else None
    while data := file.read(1 << 16):
        samples = decoder.decode(data)
        yield stream.resample_chunk(samples) if stream else samples
    if stream:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _words(batch: Batch) -> list[dict[str, Any]]:
    return [{"word": word.word, "start": word.start, "end": word.end} for word in batch.words]


async def _preflight(request: web.Request) -> web.StreamResponse:
    return web.Response(status=204, headers=_CORS)


# Pages of any origin may ask: what admits them is the key or token, never a cookie.
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Cartesia-Version, Content-Type, X-API-Key",
}
