"""Loops over what comes from outside let others run, however much has come at once."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from aiohttp import StreamReader, WSMessage, WSMsgType
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict

from rtcstt.embedded.http import routes, upload
from rtcstt.embedded.http.limits import LIMITS
from rtcstt.errors import CallerError
from rtcstt.fleet import proxy
from rtcstt.http import serving
from rtcstt.server import audiosocket, gateways, intake

MANY = 20_000  # of the smallest things, which take 20 ms at the very least
EMPTY, OVER = WSMessage(WSMsgType.BINARY, b"", None), WSMessage(WSMsgType.CLOSE, 1000, None)


class Socket(dict[object, object]):
    """A WebSocket of which many empty messages have come, and then the end."""

    closed = False

    def __init__(self) -> None:
        super().__init__()
        self._messages = itertools.chain(itertools.repeat(EMPTY, MANY), itertools.repeat(OVER))
        self.unreadable = False

    async def receive(self) -> WSMessage:
        return next(self._messages)

    def __aiter__(self) -> Socket:  # type: ignore[override]
        return self

    async def __anext__(self) -> WSMessage:
        message = next(self._messages)
        if message is OVER:
            raise StopAsyncIteration
        return message


async def form() -> None:
    """Empty lines before the form begins."""
    content = StreamReader(BaseProtocol(asyncio.get_running_loop()), 1 << 16)
    content.feed_data(b"\r\n" * MANY)
    content.feed_eof()
    request: Any = Mock(content_type="multipart/form-data", content_length=None, content=content)
    request.headers = CIMultiDict({"Content-Type": "multipart/form-data; boundary=b"})

    async def multipart() -> Any:
        from aiohttp import MultipartReader

        return MultipartReader(request.headers, content)

    request.multipart = multipart
    with tempfile.TemporaryFile() as file, pytest.raises(CallerError, match="form is broken"):
        await upload.read_form(request, file, LIMITS)


async def audiosocket_frames() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"\x55\0\0" * MANY + bytes(3))
    await audiosocket._receive(Mock(), reader, intake.TIMING)


async def gateway_messages() -> None:
    messages: Any = Socket()
    assert len([one async for one in gateways._received(messages, 3600.0)]) == MANY


async def stt_messages() -> None:
    messages: Any = Socket()
    await routes._receive(messages, AsyncMock())


async def passed_on() -> None:
    messages: Any = Socket()
    await proxy._pump(messages, AsyncMock())


async def connections() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=400)
    listening.setblocking(False)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(300)]
    try:
        left = len(clients)
        async for client in serving.accepted(listening):
            client.close()
            left -= 1
            if not left:
                break
    finally:
        for one in (*clients, listening):
            one.close()


@pytest.mark.parametrize(
    "work", [form, connections, audiosocket_frames, gateway_messages, stt_messages, passed_on]
)
async def test_others_run_in_between(work: Callable[[], Awaitable[None]]) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await work()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert turns > 1
