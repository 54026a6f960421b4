"""Several speech-to-text servers as one: each connection goes to the least busy that answers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from rtcstt import wire
from rtcstt.errors import UpstreamError
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.choice import Choice
from rtcstt.stt.seam import Connection
from rtcstt.wire.hosts import is_address

log = logging.getLogger(__name__)

TRY_S = 3.0
RESOLVE_S = 5.0  # a name's addresses are asked for again after so long
_FULL = (429, 503)


class Pool:
    """``servers`` are tried in the order of `Choice`; one whose name has several addresses counts as several.

    The next one is tried at once when one is full, or does not answer; what any of them refuses for good is
    refused.
    """

    def __init__(self, servers: Sequence[Cartesia], *, try_s: float = TRY_S) -> None:
        """``try_s``: for one server to answer, while there are others."""
        self._try_s = try_s
        self._servers = tuple(servers)
        self._choice: Choice[Cartesia] = Choice()
        self._resolved: dict[str, tuple[float, list[str]]] = {}

    @property
    def name(self) -> str:
        return ", ".join(server.name for server in self._servers)

    async def connect(self, handshake: wire.Handshake) -> Connection:
        loop = asyncio.get_running_loop()
        targets = [target for server in self._servers for target in await self._addresses(server)]
        order = self._choice.order(targets, loop.time())
        for index, server in enumerate(order):
            is_last = index == len(order) - 1
            try:
                async with asyncio.timeout(None if is_last else self._try_s):
                    connection = await server.connect(handshake)
            except TimeoutError:
                self._choice.failed(server, loop.time())
                log.info("STT %s does not answer, trying another one", _where(server))
            except UpstreamError as error:
                if not error.retryable:
                    raise
                if error.status in _FULL:
                    self._choice.full(server, loop.time())
                else:
                    self._choice.failed(server, loop.time())
                if is_last:
                    raise
                log.info("STT %s: %s, trying another one", _where(server), error.status or "unreachable")
            else:
                self._choice.opened(server)
                return _Counted(connection, server, self._choice)
        raise UpstreamError("no speech-to-text server has an address")

    async def _addresses(self, server: Cartesia) -> list[Cartesia]:
        parts = urlsplit(server.base_url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme in ("https", "wss") else 80)
        if is_address(host):
            return [server]
        loop = asyncio.get_running_loop()
        at, found = self._resolved.get(parts.netloc, (0.0, []))
        if not found or loop.time() - at > RESOLVE_S:
            try:
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found = list(dict.fromkeys(str(info[4][0]) for info in infos))
            except OSError as error:
                if not found:  # else those that it had will do
                    log.warning("STT %s: %s", host, error)
                    return [server]  # whose connection says it
            self._resolved[parts.netloc] = loop.time(), found
        return [replace(server, address=address) for address in found]


class _Counted:
    """A connection that says when it is gone."""

    def __init__(self, connection: Connection, server: Cartesia, choice: Choice[Cartesia]) -> None:
        self._connection = connection
        self._server = server
        self._choice: Choice[Cartesia] | None = choice

    async def send(self, data: str | bytes) -> None:
        await self._connection.send(data)

    async def recv(self) -> str | bytes:
        return await self._connection.recv()

    async def close(self) -> None:
        choice, self._choice = self._choice, None
        if choice is not None:
            choice.closed(self._server)
        await self._connection.close()


def _where(server: Cartesia) -> str:
    return f"{server.name} ({server.address})" if server.address else server.name
