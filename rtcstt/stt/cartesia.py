"""Cartesia's cloud, or any server that speaks its wire protocol, over WebSockets."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from rtcstt import wire
from rtcstt.errors import (
    ConfigError,
    ConnectionLost,
    UpstreamError,
)
from rtcstt.stt.refusals import refusal
from rtcstt.stt.seam import Connection

# `websockets` logs the headers of a handshake, with the key in it, and every message at DEBUG.
_QUIET = logging.getLogger("rtcstt.stt.websockets")
_QUIET.setLevel(logging.INFO)
# Audio that the kernel keeps is audio of which nobody knows how late it is: it keeps some seconds of it, not
# minutes.
_SEND_BUFFER = 32 * 1024
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


# -- the cloud ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cartesia:
    """The vendor's API, or another server that speaks its protocol at ``base_url``.

    ``base_url`` may be http, https, ws or wss; a path in it is kept as a prefix. ``api_key`` None sends no
    authorisation (a server on loopback).
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: str = "https://api.cartesia.ai"
    model: str = "ink-2"
    version: str = wire.VERSION
    ping_interval_s: float | None = 5.0
    ping_timeout_s: float = 60.0
    "A pong comes after all the audio that was sent before, so from an STT that is behind it comes late."
    max_message_bytes: int = 2**20
    address: str | None = None
    "Of the host in ``base_url``, where it has several."

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise ConfigError(f"not an http, https, ws or wss URL: {self.base_url!r}")

    @property
    def name(self) -> str:
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    def url(self, handshake: wire.Handshake) -> str:
        """Where to connect for this handshake."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/") + wire.PATHS[handshake.endpoint]
        query = urlencode(handshake.query(), quote_via=quote)  # a space in a keyterm is %20
        return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, query, ""))

    async def connect(self, handshake: wire.Handshake) -> Connection:
        headers = {"Cartesia-Version": self.version}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        elsewhere: dict[str, Any] = {} if self.address is None else {"host": self.address}
        with _mapped_errors(self.name):
            websocket = await websocket_connect(
                self.url(dataclasses.replace(handshake, model=self.model)),
                additional_headers=headers,
                compression=None,
                max_size=self.max_message_bytes,
                open_timeout=None,  # `Stream` bounds it, for every kind of STT
                close_timeout=0.5,
                **elsewhere,
                logger=_QUIET,
                ping_interval=self.ping_interval_s,
                ping_timeout=self.ping_timeout_s,
            )
        connected = websocket.transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return _WebSocket(websocket)


class _WebSocket:
    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket

    async def send(self, data: str | bytes) -> None:
        try:
            await self._websocket.send(data)
        except ConnectionClosed as error:
            raise _lost(error) from error

    async def recv(self) -> str | bytes:
        with _mapped_errors():
            return await self._websocket.recv()

    async def close(self) -> None:
        await self._websocket.close()


@contextlib.contextmanager
def _mapped_errors(name: str = "the STT") -> Iterator[None]:
    """Foreign exceptions become ours here and nowhere else."""
    try:
        yield
    except ConnectionClosed as error:
        raise _lost(error) from error
    except InvalidStatus as error:
        response = error.response
        retry_after = response.headers.get("Retry-After")
        raise refusal(response.status_code, bytes(response.body or b""), retry_after) from error
    except InvalidURI as error:
        raise UpstreamError(str(error), retryable=False) from error
    except InvalidHandshake as error:
        raise UpstreamError(f"{name} does not answer as a WebSocket server: {error}") from error
    except (OSError, EOFError) as error:
        raise UpstreamError(f"{name} cannot be reached: {error}") from error


def _lost(error: ConnectionClosed) -> ConnectionLost:
    # What we closed ourselves (an oversize message, a missed pong) is no verdict of the STT.
    if error.rcvd is None or not error.rcvd_then_sent:
        return ConnectionLost(1006, error.sent.reason if error.sent else "")
    lost = ConnectionLost(error.rcvd.code, error.rcvd.reason)
    lost.retryable = error.rcvd.code == 1000 or wire.retryable(error.rcvd.code)
    return lost
