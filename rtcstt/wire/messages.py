"""The messages of the wire protocol: JSON text both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from rtcstt.errors import RemoteProtocolError
from rtcstt.wire import strict_json
from rtcstt.wire.handshake import Endpoint
from rtcstt.wire.settings import NO_SETTINGS, TurnSettings, turn_settings

AUDIO_POSITION = "audio_position"
LONGEST_S = 1e7  # of a connection

# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """Turns endpoint: once, on connect; a client need not wait for it before it sends audio."""

    type: ClassVar[str] = "connected"
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnStart:
    """The user began to speak."""

    type: ClassVar[str] = "turn.start"
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnUpdate:
    """``transcript`` is all the text of this turn so far."""

    type: ClassVar[str] = "turn.update"
    transcript: str
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnEagerEnd:
    """The user might be done; `TurnResume` or `TurnEnd` follows."""

    type: ClassVar[str] = "turn.eager_end"
    transcript: str
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnResume:
    """The last `TurnEagerEnd` was wrong."""

    type: ClassVar[str] = "turn.resume"
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is over. The transcripts of a session, joined with nothing between, are its text."""

    type: ClassVar[str] = "turn.end"
    transcript: str
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Manual endpoint: the text since the last final one. Only final ones count; join verbatim.

    ``words`` is kept as it came: an object of the lists words, start, end, a list of such objects, or the
    older list of one object a word; times in seconds.
    """

    type: ClassVar[str] = "transcript"
    text: str
    is_final: bool
    request_id: str | None = None
    duration: float | int | None = None
    language: str | None = None
    words: list[Any] | dict[str, object] | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FlushDone:
    """Answers `Finalize`, after the transcripts that it brought about."""

    type: ClassVar[str] = "flush_done"
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """Answers `Close` on the manual endpoint; the server then closes with code 1000."""

    type: ClassVar[str] = "done"
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Something failed; a close of the connection usually follows."""

    type: ClassVar[str] = "error"
    title: str = ""
    message: str = ""
    status_code: int
    error_code: str | None = None
    doc_url: str | None = None
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a type that this version does not know, whole in ``extra``."""

    type: str
    request_id: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """Turns endpoint: change turn detection in mid-session."""

    type: ClassVar[str] = "config"
    turn: TurnSettings


@dataclass(frozen=True, slots=True)
class Finalize:
    """Manual endpoint: transcribe what has been sent so far."""

    type: ClassVar[str] = "finalize"


@dataclass(frozen=True, slots=True)
class Close:
    """No more audio comes: process what is buffered, send the rest, and close."""

    type: ClassVar[str] = "close"


TurnMessage = TurnStart | TurnUpdate | TurnEagerEnd | TurnResume | TurnEnd
ServerMessage = Connected | TurnMessage | Transcript | FlushDone | Done | Error | Unknown
ClientMessage = Config | Finalize | Close

_SERVER_MESSAGES: Mapping[str, type[Any]] = {
    message.type: message
    for message in (
        *(Connected, TurnStart, TurnUpdate, TurnEagerEnd, TurnResume, TurnEnd),
        *(Transcript, FlushDone, Done, Error),
    )
}
_HINTS = {
    message: {name: hint for name, hint in get_type_hints(message).items() if name not in ("type", "extra")}
    for message in _SERVER_MESSAGES.values()
}
_REQUIRED = {
    message: {f.name for f in dataclasses.fields(message) if f.default is f.default_factory}
    for message in _SERVER_MESSAGES.values()
}


def encode(message: ServerMessage) -> str:
    """A server message as JSON; fields that are None are left out, unknown ones put back."""
    return json.dumps(as_fields(message), ensure_ascii=False)


def as_fields(message: ServerMessage) -> dict[str, object]:
    """A server message as the object that stands on the wire."""
    fields = {"type": message.type}
    for f in dataclasses.fields(message):
        value = getattr(message, f.name)
        if f.name not in ("type", "extra") and value is not None:
            fields[f.name] = value
    return {**fields, **message.extra}


def audio_position(message: ServerMessage) -> float | None:
    """How much of the connection's audio, in seconds, the STT had taken in when it made the message; None
    where it does not say. An addition of rtcstt's own STT."""
    value = message.extra.get(AUDIO_POSITION)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= LONGEST_S else None


def encode_client(message: ClientMessage, endpoint: Endpoint) -> str:
    """A client message as the endpoint wants it: JSON on turns, a bare word on manual."""
    if endpoint == "manual":
        return message.type
    if isinstance(message, Config):
        return json.dumps({"type": "config", "turn": message.turn.as_dict()})
    return json.dumps({"type": message.type})


def decode_server(text: str | bytes) -> ServerMessage:
    """Raises `RemoteProtocolError` for what is no JSON object with a type, or lacks a field."""
    values = _json_object(text)
    request_id = values.get("request_id")
    kind = values.get("type")
    if not isinstance(kind, str):
        raise RemoteProtocolError("a message without a type")
    message = _SERVER_MESSAGES.get(kind)
    if message is None:
        rest = {name: value for name, value in values.items() if name not in ("type", "request_id")}
        return Unknown(kind, request_id if isinstance(request_id, str) else None, rest)
    hints = _HINTS[message]
    known = {name: value for name, value in values.items() if name in hints and value is not None}
    for name, value in known.items():
        if not isinstance(value, _plain(hints[name])) or (
            isinstance(value, bool) and hints[name] is not bool
        ):
            raise RemoteProtocolError(f"{kind} with a {name} of type {type(value).__name__}")
    missing = _REQUIRED[message] - known.keys()
    if missing:
        raise RemoteProtocolError(f"{kind} without {', '.join(sorted(missing))}")
    extra = {name: value for name, value in values.items() if name not in hints and name != "type"}
    decoded: ServerMessage = message(**known, extra=extra)
    return decoded


def decode_client(text: str, endpoint: Endpoint, turn: TurnSettings = NO_SETTINGS) -> ClientMessage:
    """Raises `RemoteProtocolError` for an unknown message, `CallerError` 400 for settings that are wrong, or
    become wrong by being changed: ``turn`` are those that hold.

    The manual endpoint's commands are bare words (`done` is the older name of `close`); the turns
    endpoint's are JSON. Each endpoint also takes the other's spelling of the commands it has.
    """
    word = text.strip()
    kind: Any = word
    values: dict[str, object] = {}
    if word not in ("close", "done", "finalize"):
        values = _json_object(text)
        kind = values.get("type")
    if kind == "close" or (kind == "done" and endpoint == "manual"):
        return Close()
    if kind == "finalize" and endpoint == "manual":
        return Finalize()
    if kind == "config" and endpoint == "turns":
        return Config(turn_settings(values.get("turn", {}), turn))
    raise RemoteProtocolError(f"no such message on the {endpoint} endpoint")


def _json_object(text: str | bytes) -> dict[str, object]:
    if isinstance(text, bytes):
        raise RemoteProtocolError("a binary message where JSON text was due")
    try:
        return strict_json.load_object(text)
    except ValueError as error:
        raise RemoteProtocolError("a message that is not a JSON object") from error


def _plain(hint: Any) -> Any:
    """A hint in the form that isinstance takes: list[Any] | None becomes list | None."""
    return _PLAIN.get(str(hint), hint)


_PLAIN = {str(list[Any] | dict[str, object] | None): list | dict | None}
