"""The embedded STT over real sockets: keys, refusals, bad input, batch. The recogniser is a fake, but
for the tests that say otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import json
import resource
import threading
import time
import warnings
import wave
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import av
import jwt
import numpy as np
import pytest
import soundfile
from aiohttp import web
from fake_recognizer import FakeBatch, FakeRecognizer

from rtcstt import wire
from rtcstt.embedded.batch import Batch, Word
from rtcstt.embedded.http import prompt, routes
from rtcstt.embedded.http.answers import openai, segments
from rtcstt.embedded.http.limits import LIMITS, HttpLimits
from rtcstt.embedded.http.recordings import TemporaryFolders
from rtcstt.embedded.service import Service
from rtcstt.errors import CallerError, ConfigError
from rtcstt.http.access import Authenticator, Permission
from rtcstt.http.guard import Guard

pytestmark = pytest.mark.real

QUERY = "model=ink-2&encoding=pcm_s16le&sample_rate=16000"
TURNS, MANUAL = f"/stt/turns/websocket?{QUERY}", f"/stt/websocket?{QUERY}"
KEY = {"Authorization": "Bearer sesame"}
SOUND = np.full(16000, 3000, "<i2").tobytes()  # a second of it: one word


class Server:
    def __init__(self, url: str, service: Service, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.service = service
        self.http = http
        self.recognizer: Any = service.recognizer

    def socket(self, path: str = TURNS, **options: Any) -> Any:
        return self.http.ws_connect(self.url + path, **options)

    async def refused(self, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """What a WebSocket client gets that is turned away, with any HTTP client's eyes."""
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        headers = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **options.pop("headers", {})}
        async with self.http.get(self.url + path, headers=headers, **options) as response:
            assert response.content_type == "application/json"
            return response.status, await response.json()

    async def post(
        self, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any]:
        async with self.http.post(self.url + path, headers=headers or {}, **options) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()

    async def empty(self) -> None:
        """When no session is left; a client's goodbye takes a moment to get here."""
        await self.only(0)

    async def only(self, streams: int) -> None:
        while self.service.streams != streams:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(
    *keys: str, recognizer: Any = None, max_streams: int | None = None, limits: HttpLimits = LIMITS
) -> AsyncIterator[Server]:
    recognizer = recognizer or FakeRecognizer()
    service = Service(recognizer, max_streams=max_streams)

    async def services() -> Service:
        return service

    guard = Guard(Authenticator(api_keys=keys))
    app = guard.application(client_max_size=1 << 20)
    routes.add_routes(app, services, guard, limits=limits)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            yield Server(f"http://127.0.0.1:{runner.addresses[0][1]}", service, http)
    finally:
        await runner.cleanup()
        assert service.streams == 0
        await recognizer.close()


async def read_all(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    messages = []
    async for message in socket:
        messages.append(json.loads(message.data))
    return messages


def wav(pcm: bytes = SOUND, rate: int = 16000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm)
    return file.getvalue()


def form(data: bytes | io.IOBase | None = None, **fields: str) -> aiohttp.FormData:
    body = aiohttp.FormData(fields, quote_fields=False, default_to_multipart=True)
    if data is not None:
        body.add_field("file", data, filename="a.wav", content_type="audio/wav")
    return body


# -- sockets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TURNS, MANUAL])
async def test_messages_are_not_compressed(path: str) -> None:
    """Inflating 20 kB to the largest message would hold up everybody."""
    async with serving() as server, server.http.ws_connect(server.url + path, compress=15) as socket:
        assert socket.compress == 0


async def test_turns_over_a_socket() -> None:
    async with serving() as server, server.socket() as socket:
        for begin in range(0, len(SOUND), 3200):
            await socket.send_bytes(SOUND[begin : begin + 3200])
        await socket.send_str('{"type": "close"}')
        messages = await read_all(socket)
        assert [m["type"] for m in messages] == ["connected", "turn.start", "turn.update", "turn.end"]
        assert {m["request_id"] for m in messages} == {socket._response.headers["X-Request-Id"]}
        assert socket.close_code == 1000


async def test_manual_over_a_socket() -> None:
    async with serving() as server, server.socket(MANUAL) as socket:
        await socket.send_bytes(SOUND)
        await socket.send_str("finalize")
        await socket.send_str("close")
        messages = await read_all(socket)
        assert [m["type"] for m in messages] == ["transcript", "transcript", "flush_done", "done"]
        assert socket.close_code == 1000


async def test_the_older_page_needs_only_a_model() -> None:
    async with serving() as server, server.socket("/stt/websocket?model=ink-whisper") as socket:
        await socket.send_str("done")
        assert [m["type"] for m in await read_all(socket)] == ["done"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/stt/turns/websocket", 400, "invalid_request"),
        (TURNS.replace("ink-2", "ink-9"), 400, "model_not_found"),
        (TURNS.replace("ink-2", "ink-whisper"), 400, "model_not_found"),
        (TURNS.replace("pcm_s16le", "mp3"), 400, "invalid_request"),
        (TURNS.replace("16000", "96000"), 400, "invalid_request"),
        (TURNS + "&turn_start_threshold=0.95", 400, "invalid_request"),
        (TURNS + "&turn_end_threshold=0.45", 400, "invalid_request"),
        (TURNS + "&keyterm=a" * 101, 400, "invalid_request"),
        (MANUAL + "&language=fr", 400, "unsupported_language"),
        (TURNS + "&cartesia_version=yesterday", 400, "invalid_version"),
    ],
)
async def test_handshakes_that_are_refused(path: str, status: int, code: str) -> None:
    async with serving() as server:
        got, body = await server.refused(path)
        assert (got, body["error_code"]) == (status, code)
        assert set(body) == {"error_code", "title", "message", "request_id"} and all(body.values())
        assert server.service.streams == 0


async def test_the_version_in_the_query_wins() -> None:
    async with serving() as server:
        wrong = {"Cartesia-Version": "latest"}
        assert (await server.refused(TURNS, headers=wrong))[0] == 400
        async with server.socket(TURNS + "&cartesia_version=2026-03-01", headers=wrong):
            pass


@pytest.mark.parametrize(("version", "older"), [("2025-04-16", True), ("2025-11-04", False), (None, False)])
async def test_older_versions_get_errors_in_their_form(version: str | None, older: bool) -> None:
    headers = {"Cartesia-Version": version} if version else {}
    async with serving() as server, server.socket(MANUAL, headers=headers) as socket:
        await socket.send_str("nonsense")
        assert ("code" in (await read_all(socket))[-1]) is older


async def test_a_plain_request_is_told_to_upgrade() -> None:
    async with serving() as server, server.http.get(server.url + TURNS) as response:
        assert (response.status, (await response.json())["error_code"]) == (426, "upgrade_required")


async def test_more_streams_than_allowed() -> None:
    async with serving(max_streams=1) as server:
        async with server.socket():
            status, body = await server.refused(MANUAL)
            assert (status, body["error_code"]) == (429, "concurrency_limited")
        await server.empty()
        async with server.socket(MANUAL):
            pass


async def test_a_client_that_leaves_leaves_nothing() -> None:
    async with serving() as server:
        for _ in range(20):
            async with server.socket() as socket:
                await socket.send_bytes(SOUND)
            socket = await server.socket()
            socket._response.connection.transport.abort()  # without a goodbye
        await server.empty()
        assert server.service.opened == 40


async def test_two_hundred_idle_sockets_harm_nobody() -> None:
    async with serving(max_streams=201) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(server.socket())
        async with server.socket() as socket:
            await socket.send_bytes(SOUND)
            await socket.send_str('{"type": "close"}')
            assert (await read_all(socket))[-1]["transcript"] == "word"
        assert server.service.streams >= 200


async def test_a_server_that_stops_says_what_is_due() -> None:
    async with contextlib.AsyncExitStack() as http:
        async with serving() as server:
            outside = await http.enter_async_context(aiohttp.ClientSession())
            socket = await outside.ws_connect(server.url + TURNS)
            await socket.send_bytes(SOUND)
            while (await socket.receive_json())["type"] != "turn.update":
                pass
            reading = asyncio.create_task(read_all(socket))
        assert [m["type"] for m in await reading] == ["turn.end"]
        assert socket.close_code == 1001 and wire.retryable_close(1001)


# -- bad input over sockets ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TURNS, MANUAL])
@pytest.mark.parametrize("text", ["bonjour", "[" * 60_000, '{"a":' * 5000, "null", '"close', "x" * 100_000])
async def test_wrong_text_gets_an_error_event_and_a_close(path: str, text: str) -> None:
    async with serving() as server, server.socket(path) as socket:
        await socket.send_str(text)
        error = (await read_all(socket))[-1]
        assert error["type"] == "error" and error["status_code"] in (400, 413)
        assert socket.close_code in (1008, 1009)


@pytest.mark.parametrize("compress", [0, 15])
async def test_a_message_of_16_mb_closes_that_socket_alone(compress: int) -> None:
    async with serving() as server, server.socket() as other:
        async with server.socket(compress=compress) as socket:
            await socket.send_bytes(bytes(16 << 20))
            error = (await read_all(socket))[-1]
            assert (error["type"], error["status_code"]) == ("error", 413)
            assert socket.close_code == 1009
        await other.send_str('{"type": "close"}')
        await read_all(other)
        assert other.close_code == 1000


@pytest.mark.parametrize("compress", [0, 15])
@pytest.mark.parametrize("path", [TURNS, MANUAL])
async def test_what_is_too_long_to_be_received_is_told_so(path: str, compress: int) -> None:
    """Also a bomb of zeros, which is not unpacked. The client sends all of it, and then looks."""
    async with serving(limits=HttpLimits(linger_s=1.0)) as server, server.socket(path) as other:
        async with server.socket(path, compress=compress) as socket:
            await socket.send_bytes(bytes(routes.MAX_MESSAGE + 1))
            error = (await read_all(socket))[-1]
            assert (error["type"], error["status_code"]) == ("error", 413)
            assert socket.close_code == 1009
        await server.only(1)
        await other.send_bytes(SOUND)
        await other.send_str("close" if path == MANUAL else '{"type": "close"}')
        assert len(await read_all(other)) > 1 and other.close_code == 1000


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x82" + bytes(4) + b"\xff\xfe", 1007),  # text that is not UTF-8
        (b"\x83\x80" + bytes(4), 1002),  # a kind of frame that does not exist
    ],
)
async def test_what_is_no_websocket_message_is_told_so(frame: bytes, code: int) -> None:
    async with serving(limits=HttpLimits(linger_s=0.1)) as server, server.socket(MANUAL) as socket:
        socket._response.connection.transport.write(frame)
        error = (await read_all(socket))[-1]
        assert (error["type"], error["status_code"], socket.close_code) == ("error", 400, code)


async def test_a_client_that_goes_on_sending_is_told_why_and_not_reset() -> None:
    """A socket that is closed with bytes unread resets the client, who then may not see the error event."""
    audio = b"\x82\xfe" + len(SOUND).to_bytes(2, "big") + bytes(4) + SOUND
    async with serving(recognizer=FakeRecognizer(fails_after_s=1.0)) as server:
        address = server.url.removeprefix("http://")
        reader, writer = await asyncio.open_connection(*address.split(":"))
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        writer.write(f"GET {MANUAL} HTTP/1.1\r\nHost: {address}\r\n{upgrade}{key}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(2 * audio)
        told = await reader.readuntil(b"\x03\xf3internal_error")  # 1011, in the close frame
        assert b'"status_code": 500' in told
        for _ in range(200):
            writer.write(audio)
            await writer.drain()
        writer.write(b"\x88\x82" + bytes(4) + b"\x03\xf3")
        assert await reader.read() == b""
        writer.close()


async def test_odd_bytes_are_samples_torn_apart() -> None:
    async with serving() as server, server.socket(MANUAL) as socket:
        for begin in range(0, len(SOUND), 1601):
            await socket.send_bytes(SOUND[begin : begin + 1601])
        await socket.send_bytes(b"\x01")  # half a sample, whose rest never comes
        await socket.send_bytes(b"")
        await socket.send_str("close")
        finals = [m for m in await read_all(socket) if m.get("is_final")]
        assert [m["text"] for m in finals] == ["word"]


async def test_a_slow_reader_is_waited_for_and_memory_stays_flat() -> None:
    """A client that talks and never reads: the server stops taking audio instead of storing it."""
    async with serving() as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
        request = f"GET {MANUAL} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        frame = b"\x82\xfe" + (3200).to_bytes(2, "big") + bytes(4) + SOUND[:3200]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                while True:
                    writer.write(frame * 100)
                    await writer.drain()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KB
        writer.transport.abort()
        await server.empty()


async def test_a_client_that_never_closes_holds_no_stream() -> None:
    """It was told goodbye; whether it answers is its own affair. A stream is free for others at once."""
    async with serving(max_streams=1) as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
        request = f"GET {MANUAL} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        writer.write(request.encode() + b"\x81\x85" + bytes(4) + b"close")
        await reader.readuntil(b'"done"')
        await server.empty()
        async with server.socket() as socket:
            assert (await socket.receive_json())["type"] == "connected"
        writer.transport.abort()


async def test_who_gives_no_sign_of_life_loses_the_stream() -> None:
    """A client that answers pings keeps it, however silent."""
    async with serving(max_streams=1, limits=HttpLimits(silent_s=0.5, linger_s=0.1)) as server:
        deaf = server.socket(MANUAL, autoping=False)
        async with deaf as socket:
            await server.empty()
            kinds = [message.type async for message in socket]
            assert aiohttp.WSMsgType.PING in kinds and kinds[-1] is aiohttp.WSMsgType.TEXT
            assert socket.close_code == 1008
        async with server.socket() as socket:
            reading = asyncio.create_task(read_all(socket))
            await asyncio.sleep(1.5)
            assert not reading.done() and server.service.streams == 1
            await socket.send_str('{"type": "close"}')
            assert [message["type"] for message in await reading] == ["connected"]


async def test_who_reads_nothing_loses_the_stream() -> None:
    """Held back by answers that it does not take, a client is silent by its own doing."""
    async with serving(max_streams=1, limits=HttpLimits(silent_s=0.5)) as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
        request = f"GET {MANUAL} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        await server.only(1)
        reader._transport.pause_reading()  # type: ignore[attr-defined]

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write((b"\x89\xfd" + bytes(4) + bytes(125)) * 100)
                    await writer.drain()

        flooding = asyncio.create_task(flood())
        await server.empty()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        writer.transport.abort()


async def test_a_client_who_leaves_after_a_ping_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """The answer to a ping meets a connection that is closing."""

    class Gone:
        alive_at = 0.0
        unreadable = False
        limits = LIMITS

        async def __aiter__(self) -> AsyncIterator[aiohttp.WSMessage]:
            yield aiohttp.WSMessage(aiohttp.WSMsgType.PING, b"", None)

        async def pong(self, data: bytes) -> None:
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    class Session:
        request_id = "one"
        closed = False

        async def close(self) -> None:
            self.closed = True

    gone: Any = Gone()
    session: Any = Session()
    await routes._receive(gone, session)
    assert session.closed and not caplog.records


# -- keys and tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (KEY, ""),
        ({"X-API-Key": "sesame"}, ""),
        ({}, "&api_key=sesame"),
        ({}, "&access_token=sesame"),
        ({"Authorization": "bearer other"}, ""),
    ],
)
async def test_keys_that_open(headers: dict[str, str], query: str) -> None:
    async with serving("sesame", "other") as server, server.socket(TURNS + query, headers=headers):
        pass


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"Authorization": "Bearer Sesame"}, ""),
        ({"Authorization": "Basic sesame"}, ""),
        ({"Authorization": "Bearer "}, ""),
        ({"X-API-Key": "ses\udcff"}, ""),
        ({}, "&api_key="),
        ({}, "&access_token=%FF%D8"),
        ({}, "&access_token=eyJhbGciOiJub25lIn0.eyJncmFudHMiOnsic3R0Ijp0cnVlfSwiZXhwIjo5OTk5OTk5OTk5fQ."),
    ],
)
async def test_keys_that_do_not(headers: dict[str, str], query: str) -> None:
    async with serving("sesame") as server:
        status, body = await server.refused(TURNS + query, headers=headers)
        assert (status, body["error_code"]) == (401, "unauthorized")
        for path in ("/stt", "/audio/transcriptions"):
            assert (await server.post(path + "?" + query, headers=headers, data=form(wav())))[0] == 401
        assert (await server.post("/access-token?" + query, headers=headers, json={}))[0] == 401
        assert server.service.opened == 0


async def test_without_keys_anybody_on_this_machine_may() -> None:
    async with serving() as server:
        for headers in ({}, KEY, {"X-API-Key": "whatever"}):
            async with server.socket(headers=headers):
                pass


async def test_a_token_opens_for_its_time() -> None:
    async with serving("sesame") as server:
        wish = {"grants": {"stt": True}, "expires_in": 60}
        status, body = await server.post("/access-token", headers=KEY, json=wish)
        assert status == 200
        async with server.socket(TURNS + "&access_token=" + body["token"]):
            pass
        claims = jwt.decode(body["token"], options={"verify_signature": False})
        assert 0 < claims["exp"] - time.time() <= 60
        status, _ = await server.post("/access-token?access_token=" + body["token"], json=wish)
        assert status == 403, "a token does not make tokens"


def test_a_token_ends() -> None:
    secret = b"a secret that several processes share"
    keys = Authenticator(api_keys=("sesame",), access_secret=secret)
    wanted = {"grants": {"stt": True}, "expires_in": 3600}
    token = keys.issue(keys.authenticate(KEY, {}), wanted)
    assert keys.authenticate({}, {"access_token": token}).permissions == {Permission.TRANSCRIBE}
    for other in ("sesame", "another"):  # of a server that was started later
        with pytest.raises(CallerError):
            Authenticator(api_keys=(other,)).authenticate({}, {"access_token": token})
    past = jwt.encode({"grants": {"stt": True}, "exp": 1}, secret, algorithm="HS256")
    other_grant = jwt.encode({"grants": {"tts": True}, "exp": 9e9}, secret, algorithm="HS256")
    endless = jwt.encode({"grants": {"stt": True}}, secret, algorithm="HS256")
    no_object = jwt.encode({"grants": "stt", "exp": 9e9}, secret, algorithm="HS256")
    for token in (past, other_grant, endless, no_object):
        with pytest.raises(CallerError):
            keys.authenticate({}, {"access_token": token})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[" * 10_000,
        b"[]",
        b"{}",
        b'{"grants": {"tts": true}}',
        b'{"grants": {"stt": true}, "expires_in": 3601}',
        b'{"grants": {"stt": true}, "expires_in": 0}',
        b'{"grants": {"stt": true}, "expires_in": "60"}',
        b'{"grants": {"stt": true}, "expires_in": true}',
    ],
)
async def test_wrong_wishes_for_tokens(body: bytes) -> None:
    async with serving("sesame") as server:
        status, answer = await server.post("/access-token", headers=KEY, data=body)
        assert (status, answer["error_code"]) == (400, "invalid_request")


async def test_a_long_wish_for_a_token() -> None:
    async with serving() as server:
        assert (await server.post("/access-token", data=b" " * 100_000))[0] == 413


def test_the_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigError):
        Authenticator.open(None, None, file)
    file.write_text("# nobody yet\n\n")
    with pytest.raises(ConfigError):
        Authenticator.open(None, None, file)
    file.write_text("# the desk\nsesame\n  other  \n")
    keys = Authenticator.open(None, None, file)
    assert keys.is_guarded and not keys.may_publish_at_all
    grant = keys.authenticate({"X-API-Key": "other"}, {})
    assert grant.permissions == {Permission.TRANSCRIBE, Permission.ISSUE}


async def test_pages_of_other_origins_may_ask() -> None:
    async with serving("sesame") as server:
        page = {"Origin": "https://page.example", "Access-Control-Request-Headers": "authorization,x-new"}
        async with server.http.options(server.url + "/stt", headers=page) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Access-Control-Allow-Headers"] == "authorization,x-new"
        async with server.http.post(server.url + "/stt", headers=page) as response:
            assert response.status == 401
            assert response.headers["Access-Control-Allow-Origin"] == "*", "or it could not be read"


# -- batch ---------------------------------------------------------------------------------------------


async def test_a_recording_of_each_shape_is_received_whole() -> None:
    second = (np.sin(np.arange(48000) / 20) * 9000).astype("<i2")
    stereo = np.repeat(second, 2).tobytes()
    async with serving() as server:
        for data, query in (
            (wav(second.tobytes(), 48000), ""),
            (wav(stereo, 48000, 2), ""),
            (second.tobytes(), "?encoding=pcm_s16le&sample_rate=48000"),
            (second.tobytes() + b"\x01", "?encoding=pcm_s16le&sample_rate=48000"),
            (bytes(8000), "?encoding=pcm_mulaw&sample_rate=8000"),
        ):
            status, body = await server.post("/stt" + query, data=form(data, model="ink-whisper"))
            assert status == 200 and body["type"] == "transcript"
            assert body["duration"] == pytest.approx(1.0, abs=0.005)
            assert body["language"] == "en" and body["request_id"] and "words" not in body
        status, body = await server.post("/stt/transcribe", data=form(wav(), model="ink-whisper"))
        assert status == 200


async def test_word_times_come_when_asked_for() -> None:
    async with serving() as server:
        for name in ("timestamp_granularities[]", "timestamp_granularities"):
            _, body = await server.post("/stt", data=form(wav(), model="ink-whisper", **{name: "word"}))
            assert body["words"] == [{"word": "word0", "start": 0.0, "end": 0.9, "confidence": 0.5}]


FFCONCAT = b"ffconcat version 1.0\nfile %s\n"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://%s\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x00" * 100_000,
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        np.random.default_rng(1).bytes(200_000),
        b"ID3\x04\x00\x00\x00\x00\x00\x00",
        b"%PDF-1.7\n" * 1000,
        b"OggS" + b"\x00" * 200,
        b"\x1aE\xdf\xa3" + b"\xff" * 300,
        gzip.compress(wav()),
    ],
)
async def test_files_that_are_no_audio(data: bytes) -> None:
    async with serving() as server:
        status, body = await server.post("/stt", data=form(data, model="ink-whisper"))
        assert (status, body["error_code"]) == (400, "invalid_audio")


@pytest.mark.parametrize("playlist", [FFCONCAT, HLS])
async def test_a_playlist_cannot_name_files_of_the_server(
    playlist: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.wav").write_bytes(wav())
    monkeypatch.chdir(tmp_path)
    name = b"secret.wav" if playlist is FFCONCAT else str(tmp_path / "secret.wav").encode()
    async with serving() as server:
        status, body = await server.post("/stt", data=form(playlist % name, model="ink-whisper"))
        assert (status, body["error_code"]) == (400, "invalid_audio")


async def test_a_truncated_file_is_received_as_far_as_it_goes() -> None:
    async with serving() as server:
        status, body = await server.post("/stt", data=form(wav()[:16044], model="ink-whisper"))
        assert status == 200 and body["duration"] == pytest.approx(0.5, abs=0.01)


def mp3(duration_s: int, rate: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=rate, layout="mono")
        tone = (np.sin(np.arange(duration_s * rate) / 20) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16p", layout="mono")
        frame.sample_rate = rate
        for given in (frame, None):
            for packet in stream.encode(given):
                container.mux(packet)
    return file.getvalue()


async def test_what_is_around_the_damage_and_behind_it_is_received() -> None:
    whole = mp3(10, 48000)
    middle = len(whole) // 2
    damaged = whole[:middle] + np.random.default_rng(5).bytes(2000) + whole[middle + 2000 :]
    async with serving() as server:
        for data, least, most in [
            (whole, 9.9, 10.1),
            (damaged, 8.0, 10.5),
            (mp3(2, 48000) + mp3(2, 32000), 3.8, 4.2),
        ]:
            status, body = await server.post("/stt", data=form(data, model="ink-whisper"))
            assert status == 200 and least < body["duration"] < most


async def test_what_is_lost_is_said() -> None:
    async with serving() as server:
        flac = io.BytesIO()
        soundfile.write(flac, np.random.default_rng(1).normal(0, 0.1, 160000), 16000, format="FLAC")
        half = flac.getvalue()[: len(flac.getvalue()) // 2]
        status, body = await server.post("/stt", data=form(half, model="ink-whisper"))
        assert status == 200 and 4 < body["duration"] < 6
        (gap,) = body["gaps"]
        assert gap["reason"] == "truncated" and gap["end"] == 10.0


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (form(None, model="ink-whisper"), 400, "no_file"),
        (form(b"", model="ink-whisper"), 400, "no_file"),
        (form(wav(), model="ink-9"), 400, "model_not_found"),
        (form(wav(), model="ink-whisper", language="de"), 400, "unsupported_language"),
        (form(wav(), model="x" * 5000), 400, "invalid_request"),
        (form(wav(), **{f"f{n}": "" for n in range(300)}), 400, "invalid_request"),
        (wav(), 415, "unsupported_media_type"),
    ],
)
async def test_wrong_forms(data: Any, status: int, code: str) -> None:
    async with serving() as server:
        got, body = await server.post("/stt", data=data)
        assert (got, body["error_code"]) == (status, code)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"nothing like a form"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nabc"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header\r\n\r\nabc\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nLong: " + b"y" * 100_000 + b"\r\n\r\nabc\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
        ),
    ],
)
async def test_broken_forms(kind: str, data: bytes) -> None:
    async with serving() as server:
        status, body = await server.post("/stt", data=data, headers={"Content-Type": kind})
        assert status == 400 and body["error_code"] in ("invalid_request", "no_file", "invalid_audio")


async def test_a_file_that_is_too_big() -> None:

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)

    async with serving(limits=HttpLimits(upload=100_000, fields=10)) as server:
        status, body = await server.post("/stt", data=form(wav(SOUND * 10), model="ink-whisper"))
        assert (status, body["error_code"]) == (413, "file_too_big")
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            body = aiohttp.FormData()
            body.add_field("file", endless(), filename="a.wav")
            assert (await server.post("/stt", data=body))[0] == 413


async def test_an_upload_that_stops_in_the_middle_holds_no_place() -> None:
    """Four such requests held every place for recordings for as long as they liked."""
    async with serving(limits=HttpLimits(upload_stall_s=0.2)) as server:
        address = server.url.removeprefix("http://")
        writers = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writers.append(writer)
            head = f"POST /stt HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100000\r\n"
            head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            part = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
            writer.write((head + part).encode())
        async with asyncio.timeout(20):
            assert b" 408 " in await reader.readline()
        status, _ = await server.post("/stt", data=form(wav()))
        assert status == 200
        for writer in writers:
            writer.close()


async def test_audio_that_is_too_long() -> None:
    async with serving(limits=HttpLimits(audio_s=3.0)) as server:
        assert (await server.post("/stt", data=form(wav(SOUND * 3), model="ink-whisper")))[0] == 200
        status, body = await server.post("/stt", data=form(wav(SOUND * 5), model="ink-whisper"))
        assert (status, body["error_code"]) == (413, "audio_too_long")


async def test_only_so_many_recordings_at_once() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    class SlowBatch(FakeBatch):
        async def finish(self) -> list[Word]:
            begun.set()
            await release.wait()
            return []

    class Slow(FakeRecognizer):
        def batch(self, **options: object) -> FakeBatch:
            return SlowBatch()

    async with serving(recognizer=Slow(), limits=HttpLimits(recordings=1)) as server:
        first = asyncio.create_task(server.post("/stt", data=form(wav(), model="ink-whisper")))
        await begun.wait()
        status, body = await server.post("/stt", data=form(wav(), model="ink-whisper"))
        assert (status, body["error_code"]) == (429, "concurrency_limited")
        release.set()
        assert (await first)[0] == 200
        assert (await server.post("/stt", data=form(wav(), model="ink-whisper")))[0] == 200


# -- OpenAI's forms ------------------------------------------------------------------------------------

WORDS = tuple(
    Word(word, 0.5 * index, 0.5 * index + 0.4)
    for index, word in enumerate("Hello there, world. How are you today?".split())
)
BATCH = Batch(" ".join(word.word for word in WORDS), 4.0, WORDS)


def test_forms_of_the_answer() -> None:
    def body(response_format: str, *granularities: str) -> str:
        return openai(BATCH, response_format, granularities).text or ""

    used = {"type": "duration", "seconds": 4}
    assert json.loads(body("json")) == {"text": BATCH.text, "usage": used}
    assert body("text") == BATCH.text + "\n"
    verbose = json.loads(body("verbose_json", "word", "segment"))
    assert verbose["words"][0] == {"word": "Hello", "start": 0.0, "end": 0.4}
    assert [segment["text"] for segment in verbose["segments"]] == [
        "Hello there, world.",
        "How are you today?",
    ]
    needed = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob".split()
    assert all(sorted(segment) == sorted(needed) for segment in verbose["segments"])
    assert verbose["usage"] == used and verbose["task"] == "transcribe"
    assert "words" not in json.loads(body("verbose_json"))
    assert body("vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.400\nHello there, world.\n\n")
    marked = Batch("a --> <b>", 1.0, (Word("a", 0.0, 0.1), Word("-->", 0.1, 0.2), Word("<b>", 0.2, 0.5)))
    assert "a --&gt; &lt;b&gt;" in (openai(marked, "vtt").text or "")
    assert body("srt").startswith("1\n00:00:00,000 --> 00:00:01,400\nHello there, world.\n\n2\n00:00:01,500")
    with pytest.raises(CallerError):
        body("yaml")


def test_segments_are_short_and_hold_every_word() -> None:
    words = [Word(f"word{index}", float(index), index + 0.9) for index in range(100)]
    words += [Word("later", 200.0, 200.5), Word("x" * 200, 200.5, 201.0)]
    found = list(segments(words))
    assert " ".join(text for _, _, text in found) == " ".join(word.word for word in words)
    assert all(last.end - first.start <= 7.0 for first, last, _ in found)
    assert found[-2][2] == "later"
    assert list(segments([])) == []


async def test_what_openais_clients_send() -> None:
    async with serving() as server:
        for model in ("whisper-1", "gpt-4o-transcribe", "ink-whisper", "Systran/faster-whisper-small"):
            for path in ("/audio/transcriptions", "/v1/audio/transcriptions"):
                data = form(wav(), model=model, response_format="verbose_json", temperature="0", prompt="x")
                status, body = await server.post(path, data=data, headers=KEY)
                assert status == 200 and body["duration"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"timestamp_granularities[]": "word"}, True),
        ({"timestamp_granularities": "word,segment"}, True),
        ({"timestamp_granularities[0]": "segment", "timestamp_granularities[1]": "word"}, True),
        ({"timestamp_granularities": '["word"]'}, True),
        ({"timestamp_granularities": "segment"}, False),
    ],
)
async def test_granularities_in_every_spelling(fields: dict[str, str], asked: bool) -> None:
    async with serving() as server:
        data = form(wav(), model="whisper-1", response_format="verbose_json", **fields)
        status, body = await server.post("/v1/audio/transcriptions", data=data)
        assert status == 200 and ("words" in body) == asked and body["text"] == "word0"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_format": "yaml"}, "response_format"),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"language": "de"}, "language"),
        ({"model": "gpt-5"}, "model"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"prompt": "x" * 100_000}, "prompt"),
    ],
)
async def test_refusals_name_the_field_in_both_forms(fields: dict[str, str], field: str) -> None:
    async with serving() as server:
        data = form(wav(), **{"model": "whisper-1", **fields})
        status, body = await server.post("/v1/audio/transcriptions", data=data)
        assert status == 400 and body["error"]["param"] == field and field in body["message"]
        assert body["error"]["code"] == body["error_code"] and body["error"]["message"] == body["message"]


async def test_text_comes_as_events_where_a_stream_is_asked_for() -> None:
    async with serving() as server:
        data = form(wav(SOUND * 3), model="gpt-4o-transcribe", stream="true", **{"include[]": "logprobs"})
        async with server.http.post(server.url + "/v1/audio/transcriptions", data=data) as response:
            assert response.content_type == "text/event-stream"
            lines = (await response.text()).strip().split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert [event["type"] for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
        assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"] == "word0 word1 word2"
        assert events[-1]["type"] == "transcript.text.done" and events[-1]["usage"]["seconds"] == 3
        assert events[-1]["logprobs"][0]["token"] == "word0"


async def test_an_uploads_folder_is_removed_however_often_its_task_is_cancelled() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    folders, busy = TemporaryFolders(), threading.Event()
    occupied = asyncio.create_task(asyncio.to_thread(busy.wait))
    seen: asyncio.Queue[Path] = asyncio.Queue()

    async def upload() -> None:
        async with folders.open() as folder:
            seen.put_nowait(folder)
            await asyncio.Event().wait()

    task = asyncio.create_task(upload())
    folder = await seen.get()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        gc.collect()
        assert folder.exists()  # its removal waits for a thread
        busy.set()
        await folders.close()
        gc.collect()
    assert not folder.exists() and not [one for one in warned if one.category is ResourceWarning]
    await occupied


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, False),
        ({"response_format": "text"}, False),
        ({"stream": "true"}, False),
        ({"response_format": "srt"}, True),
        ({"response_format": "verbose_json"}, True),
        ({"timestamp_granularities[]": "word"}, True),
    ],
)
async def test_times_of_words_are_asked_for_where_they_are_answered(
    fields: dict[str, str], asked: bool
) -> None:
    async with serving() as server:
        data = form(wav(), model="whisper-1", **fields)
        async with server.http.post(server.url + "/v1/audio/transcriptions", data=data) as response:
            assert response.status == 200 and await response.read()
        assert server.recognizer.options["words"] is asked


async def test_models_are_listed() -> None:
    async with serving() as server:
        for path in ("/models", "/v1/models"):
            async with server.http.get(server.url + path) as response:
                body = await response.json()
            assert body["object"] == "list" and "whisper-1" in [model["id"] for model in body["data"]]
        async with server.http.get(server.url + "/v1/models/whisper-1") as response:
            assert (await response.json())["object"] == "model"
        async with server.http.get(server.url + "/v1/models/gpt-5") as response:
            assert response.status == 404 and (await response.json())["error"]["param"] == "model"


async def test_pages_may_read_refusals() -> None:
    async with serving("sesame") as server:
        headers = {**KEY, "Origin": "https://page.example"}
        for data in (form(wav(), model="gpt-5"), form(b"no audio", model="whisper-1")):
            async with server.http.post(
                server.url + "/v1/audio/transcriptions", data=data, headers=headers
            ) as response:
                assert response.status == 400
                assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_what_is_expected_reaches_the_recogniser() -> None:
    async with serving() as server:
        for fields, terms in [
            ({"prompt": "Kubernetes, Istio. We use Argo CD today"}, {"Kubernetes", "Istio", "Argo CD"}),
            ({"keyterm": "Zylker"}, {"Zylker"}),
            ({}, set()),
        ]:
            data = form(wav(), model="whisper-1", **fields)
            assert (await server.post("/v1/audio/transcriptions", data=data))[0] == 200
            assert set(server.recognizer.options["keyterms"].texts) == terms


def test_a_long_prompt_gives_no_more_terms_than_a_stream_may_have() -> None:
    found = prompt.terms(", ".join(f"Name{number}" for number in range(5000)))
    assert 50 < len(found) <= 100 and found[0] == "Name4999"
    assert prompt.terms("We met Ada Lovelace and then I saw model X200 at the fair in town.") == (
        *("X200", "Ada Lovelace"),
    )
    assert prompt.terms("") == ()
