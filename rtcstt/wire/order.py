"""The order in which messages may come: one object per WebSocket, driven by a table."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from rtcstt.errors import LocalProtocolError, RemoteProtocolError
from rtcstt.wire.handshake import Endpoint
from rtcstt.wire.messages import (
    ClientMessage,
    Close,
    Config,
    Connected,
    Done,
    Finalize,
    FlushDone,
    ServerMessage,
    Transcript,
    TurnEagerEnd,
    TurnEnd,
    TurnMessage,
    TurnResume,
    TurnStart,
    TurnUpdate,
    decode_client,
    decode_server,
    encode,
    encode_client,
)
from rtcstt.wire.settings import NO_SETTINGS, TurnSettings

# --- order ----------------------------------------------------------------------------------------


class TurnState(enum.Enum):
    IDLE = "idle"
    SPEAKING = "speaking"
    EAGER_ENDED = "eager_ended"


TURN_TABLE: Mapping[tuple[TurnState, str], TurnState] = {
    (TurnState.IDLE, TurnStart.type): TurnState.SPEAKING,
    (TurnState.SPEAKING, TurnUpdate.type): TurnState.SPEAKING,
    (TurnState.SPEAKING, TurnEagerEnd.type): TurnState.EAGER_ENDED,
    (TurnState.SPEAKING, TurnEnd.type): TurnState.IDLE,
    (TurnState.EAGER_ENDED, TurnResume.type): TurnState.SPEAKING,
    (TurnState.EAGER_ENDED, TurnEnd.type): TurnState.IDLE,
}

_Fault = TypeVar("_Fault", bound=Exception)


class TurnOrder:
    """The turn grammar and the append-only rule, for one connection or for one listener's view."""

    def __init__(self) -> None:
        self.state = TurnState.IDLE
        self.transcript = ""

    def advance(self, message: TurnMessage, fault: type[_Fault]) -> None:
        """Take one step; raises ``fault``, and stays where it is, when it is not allowed."""
        state = TURN_TABLE.get((self.state, message.type))
        if state is None:
            raise fault(f"{message.type} while {self.state.value}")
        if isinstance(message, TurnStart):
            self.transcript = ""
        elif not isinstance(message, TurnResume):
            if not message.transcript.startswith(self.transcript):
                raise fault(f"{message.type} takes back text of its turn")
            self.transcript = message.transcript
        self.state = state


class TurnsClient:
    """The client's end of one connection to the turns endpoint."""

    endpoint: Endpoint = "turns"

    def __init__(self) -> None:
        self.order = TurnOrder()

    def receive_text(self, text: str | bytes) -> ServerMessage:
        """Raises `RemoteProtocolError` for an unreadable message or one out of order."""
        message = decode_server(text)
        if isinstance(message, TurnMessage):
            self.order.advance(message, RemoteProtocolError)
        elif isinstance(message, Transcript | FlushDone | Done):
            raise RemoteProtocolError(f"{message.type} on the turns endpoint")
        return message

    def send(self, message: ClientMessage) -> str:
        if isinstance(message, Finalize):
            raise LocalProtocolError("finalize on the turns endpoint")
        return encode_client(message, "turns")


class TurnsServer:
    """The server's end of one connection to the turns endpoint. ``turn`` are the settings of its handshake,
    later those that hold."""

    endpoint: Endpoint = "turns"

    def __init__(self, turn: TurnSettings = NO_SETTINGS) -> None:
        self.order = TurnOrder()
        self.turn = turn

    def receive_text(self, text: str) -> ClientMessage:
        message = decode_client(text, "turns", self.turn)
        if isinstance(message, Config):
            self.turn = self.turn.merged(message.turn)
        return message

    def send(self, message: ServerMessage) -> str:
        if isinstance(message, TurnMessage):
            self.order.advance(message, LocalProtocolError)
        elif isinstance(message, Transcript | FlushDone | Done):
            raise LocalProtocolError(f"{message.type} on the turns endpoint")
        return encode(message)


class ManualClient:
    """The client's end of one connection to the manual endpoint.

    ``flushes_due`` is the number of `finalize` commands not yet answered.
    """

    endpoint: Endpoint = "manual"

    def __init__(self) -> None:
        self.flushes_due = 0
        self.done = False

    def receive_text(self, text: str | bytes) -> ServerMessage:
        """Raises `RemoteProtocolError` for an unreadable message or one out of order."""
        message = decode_server(text)
        if self.done:
            raise RemoteProtocolError(f"{message.type} after done")
        if isinstance(message, TurnMessage):
            raise RemoteProtocolError(f"{message.type} on the manual endpoint")
        if isinstance(message, FlushDone):
            if not self.flushes_due:
                raise RemoteProtocolError("flush_done that nobody asked for")
            self.flushes_due -= 1
        self.done = isinstance(message, Done)
        return message

    def send(self, message: ClientMessage) -> str:
        if isinstance(message, Config):
            raise LocalProtocolError("config on the manual endpoint")
        if isinstance(message, Finalize):
            self.flushes_due += 1
        return encode_client(message, "manual")


class ManualServer:
    """The server's end of one connection to the manual endpoint."""

    endpoint: Endpoint = "manual"

    def __init__(self) -> None:
        self.flushes_due = 0
        self.closing = False
        self.done = False

    def receive_text(self, text: str) -> ClientMessage:
        message = decode_client(text, "manual")
        if isinstance(message, Finalize):
            self.flushes_due += 1
        self.closing = self.closing or isinstance(message, Close)
        return message

    def send(self, message: ServerMessage) -> str:
        if self.done:
            raise LocalProtocolError(f"{message.type} after done")
        if isinstance(message, TurnMessage | Connected):
            raise LocalProtocolError(f"{message.type} on the manual endpoint")
        if isinstance(message, FlushDone):
            if not self.flushes_due:
                raise LocalProtocolError("flush_done that nobody asked for")
            self.flushes_due -= 1
        if isinstance(message, Done):
            if not self.closing:
                raise LocalProtocolError("done before close")
            self.done = True
        return encode(message)
