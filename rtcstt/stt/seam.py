"""What a speech-to-text service is for the rest: `Stt` opens a `Connection`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rtcstt import wire


class Connection(Protocol):
    """One connection to an STT, speaking the wire protocol: JSON or command texts, audio as bytes."""

    async def send(self, data: str | bytes) -> None:
        """Raises `ConnectionLost`. May wait when the peer reads slowly."""

    async def recv(self) -> str | bytes:
        """The next message; messages that came before the end are delivered before `ConnectionLost`."""

    async def close(self) -> None:
        """Let go at once, without draining; idempotent."""


@runtime_checkable
class Watched(Protocol):
    """A connection to a recogniser in this process, of which is known how far it has come."""

    @property
    def position(self) -> int:
        """Samples (16 kHz) that it has worked on."""


class Stt(Protocol):
    """Something that transcribes: a server, or a recogniser in this process."""

    @property
    def name(self) -> str:
        """Shown in events, so that it is clear who spoke."""

    async def connect(self, handshake: wire.Handshake) -> Connection:
        """Raises `UpstreamError`; its ``retryable`` says whether trying again makes sense. The STT puts in
        its own model where ``handshake`` names none of its."""
