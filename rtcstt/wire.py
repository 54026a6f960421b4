"""The speech-to-text wire protocol: one reading of it, for the client side and the server side.

Three things live here: the messages, the handshake's query, and the order in which messages may
come. No sockets and no clock; one `TurnsClient`, `TurnsServer`, `ManualClient` or `ManualServer`
lives exactly as long as its WebSocket.

The order on the turns endpoint is the table `TURN_TABLE`. A pair of state and message that is not
in the table is an error by construction: `RemoteProtocolError` when the peer sent it,
`LocalProtocolError` when we were about to. Besides the order, the transcript of a turn only ever
grows: each is a prefix of the next one. A message of an unknown type is passed through as
`Unknown`, and unknown fields of known messages are kept, so that a newer server loses nothing here.

    IDLE ── turn.start ──▶ SPEAKING ── turn.eager_end ──▶ EAGER_ENDED
      ▲                     │  ▲ └ turn.update               │   │
      ├───── turn.end ──────┘  └───────── turn.resume ───────┘   │
      └───────────────────────── turn.end ───────────────────────┘

The manual endpoint has no turns; there, each `finalize` is answered by one `flush_done`, and
`close` by one `done` which is the last message.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from rtcstt.errors import CallerError, LocalProtocolError, ProtocolError, RemoteProtocolError
from rtcstt.g711 import ALAW, MULAW

Endpoint = Literal["turns", "manual"]
PATHS: Mapping[Endpoint, str] = {"turns": "/stt/turns/websocket", "manual": "/stt/websocket"}
VERSION = "2026-03-01"  # of the API, for the Cartesia-Version header

MAX_KEYTERMS = 100
MAX_KEYTERM_CHARACTERS = 1200
SAMPLE_RATES = (8000, 48000)  # Hz, lowest and highest


# --- turn settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """What decides where turns begin and end; None leaves the server's default (`DEFAULT_TURN`).

    Thresholds are likelihoods, 0 to 1, that the user is in an active turn. `validated` is the only
    check: an instance by itself may hold anything.
    """

    start_threshold: float | None = None
    eager_end_threshold: float | None = None
    end_threshold: float | None = None
    end_timeout_ms: float | None = None

    def merged(self, change: TurnSettings) -> TurnSettings:
        """These settings with those of ``change`` that are not None."""
        return dataclasses.replace(self, **change.as_dict())

    def as_dict(self) -> dict[str, float]:
        """The settings that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def validated(self) -> TurnSettings:
        """These settings; `CallerError` 400 when one is out of range, or when, with the defaults
        filled in, start > eager_end > end does not hold."""
        for name, value in self.as_dict().items():
            low, high = TURN_RANGES[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise bad_request(f"{name} must be a number from {low:g} to {high:g}.")
        full = DEFAULT_TURN.merged(self).as_dict()
        if not full["start_threshold"] > full["eager_end_threshold"] > full["end_threshold"]:
            raise bad_request("The thresholds must keep the order start > eager_end > end.")
        return self


DEFAULT_TURN = TurnSettings(
    start_threshold=0.8, eager_end_threshold=0.4, end_threshold=0.2, end_timeout_ms=5600
)
TURN_RANGES: Mapping[str, tuple[float, float]] = {
    "start_threshold": (0.5, 0.9),
    "eager_end_threshold": (0.3, 0.8),
    "end_threshold": (0.05, 0.5),
    "end_timeout_ms": (640, 11200),
}


def turn_settings(values: Any, now: TurnSettings = TurnSettings()) -> TurnSettings:
    """Settings from the JSON object of a `config` message, which change some of those that hold ``now``;
    `CallerError` 400 when they are wrong, by themselves or with the others."""
    if not isinstance(values, dict) or not values.keys() <= TURN_RANGES.keys():
        raise bad_request(f"turn must be an object with some of {', '.join(TURN_RANGES)}.")
    change = TurnSettings(**values)
    now.merged(change).validated()
    return change


# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """Turns endpoint: once, on connect; a client need not wait for it before it sends audio."""

    type: ClassVar[str] = "connected"
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnStart:
    """The user began to speak."""

    type: ClassVar[str] = "turn.start"
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnUpdate:
    """``transcript`` is all the text of this turn so far."""

    type: ClassVar[str] = "turn.update"
    transcript: str
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnEagerEnd:
    """The user might be done; `TurnResume` or `TurnEnd` follows."""

    type: ClassVar[str] = "turn.eager_end"
    transcript: str
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnResume:
    """The last `TurnEagerEnd` was wrong."""

    type: ClassVar[str] = "turn.resume"
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is over. The transcripts of a session, joined with nothing between, are its text."""

    type: ClassVar[str] = "turn.end"
    transcript: str
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    words: list[Any] | dict[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FlushDone:
    """Answers `Finalize`, after the transcripts that it brought about."""

    type: ClassVar[str] = "flush_done"
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """Answers `Close` on the manual endpoint; the server then closes with code 1000."""

    type: ClassVar[str] = "done"
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a type that this version does not know, whole in ``extra``."""

    type: str
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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


def as_fields(message: ServerMessage) -> dict[str, Any]:
    """A server message as the object that stands on the wire."""
    fields = {"type": message.type}
    for f in dataclasses.fields(message):
        value = getattr(message, f.name)
        if f.name not in ("type", "extra") and value is not None:
            fields[f.name] = value
    return {**fields, **message.extra}


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


def decode_client(text: str, endpoint: Endpoint, turn: TurnSettings = TurnSettings()) -> ClientMessage:
    """Raises `RemoteProtocolError` for an unknown message, `CallerError` 400 for settings that are wrong, or
    become wrong by being changed: ``turn`` are those that hold.

    The manual endpoint's commands are bare words (`done` is the older name of `close`); the turns
    endpoint's are JSON. Each endpoint also takes the other's spelling of the commands it has.
    """
    word = text.strip()
    kind: Any = word
    values: dict[str, Any] = {}
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


def _json_object(text: str | bytes) -> dict[str, Any]:
    if isinstance(text, bytes):
        raise RemoteProtocolError("a binary message where JSON text was due")
    try:
        values = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if "\\u" in text:  # the only way in for half of a surrogate pair, which no socket or file takes
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("a message that is not JSON") from error
    if not isinstance(values, dict):
        raise RemoteProtocolError("a message that is not a JSON object")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # NaN and Infinity, which Python would take


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):  # 1e999, which would be sent on as Infinity
        raise ValueError("a number that not all readers of JSON take")
    return number


def _plain(hint: Any) -> Any:
    """A hint in the form that isinstance takes: list[Any] | None becomes list | None."""
    return _PLAIN.get(str(hint), hint)


_PLAIN = {str(list[Any] | dict[str, Any] | None): list | dict | None}


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

_Fault = TypeVar("_Fault", bound=ProtocolError)


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

    def __init__(self, turn: TurnSettings = TurnSettings()) -> None:
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


# --- what may be tried again ----------------------------------------------------------------------

_RETRYABLE_CLOSES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1015})


def retryable_close(code: int) -> bool:
    """Whether a client may connect again after its WebSocket was closed with ``code``."""
    return code in _RETRYABLE_CLOSES


def retryable_status(status: int) -> bool:
    """Whether the same request may succeed later: never after a 4xx, but for 408 and 429."""
    return status >= 500 or status in (408, 429)


def retryable(code: int) -> bool:
    """`retryable_close` or `retryable_status`: close codes begin at 1000, statuses end below."""
    return retryable_close(code) if code >= 1000 else retryable_status(code)


# --- handshake ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What a client declares when it opens a WebSocket."""

    endpoint: Endpoint
    model: str = "ink-2"
    encoding: str = "pcm_s16le"
    sample_rate: int = 16000
    keyterms: tuple[str, ...] = ()
    turn: TurnSettings = TurnSettings()
    language: str | None = None
    min_volume: float | None = None
    max_silence_duration_secs: float | None = None

    def query(self) -> list[tuple[str, str]]:
        """The query parameters, not yet percent-encoded (encode a space as ``%20``, not ``+``)."""
        pairs = [("model", self.model), ("encoding", self.encoding), ("sample_rate", str(self.sample_rate))]
        pairs += [("keyterm", term) for term in self.keyterms]
        if self.endpoint == "turns":
            pairs += [(f"turn_{name}", _plain_number(value)) for name, value in self.turn.as_dict().items()]
        optional = ("language", "min_volume", "max_silence_duration_secs")
        values = ((name, getattr(self, name)) for name in optional if self.endpoint == "manual")
        return pairs + [(name, f"{value}") for name, value in values if value is not None]

    @classmethod
    def parse(cls, endpoint: Endpoint, query: Iterable[tuple[str, str]]) -> Handshake:
        """Raises `CallerError` 400 when something is missing or wrong; unknown names are ignored."""
        pairs = list(query)
        values = dict(pairs)
        model = values.get("model", "")
        if not model:
            raise bad_request("The query parameter model is missing.")
        older = endpoint == "manual" and model.startswith("ink-whisper")
        defaults = {"encoding": "pcm_s16le", "sample_rate": "16000"} if older else {}
        for name in ("encoding", "sample_rate"):
            if name not in values and name not in defaults:
                raise bad_request(f"The query parameter {name} is missing.")
        values = {**defaults, **values}
        manual = endpoint == "manual"
        return cls(
            endpoint=endpoint,
            model=model,
            encoding=_encoding(values["encoding"]),
            sample_rate=_sample_rate(values["sample_rate"]),
            keyterms=_keyterms(tuple(value for name, value in pairs if name == "keyterm")),
            turn=TurnSettings() if manual else _turn(values),
            language=values.get("language"),  # on the turns endpoint an addition of our server's
            min_volume=_number(values, "min_volume", 0.0, 1.0) if manual else None,
            max_silence_duration_secs=(
                _number(values, "max_silence_duration_secs", 0.0, 60.0) if manual else None
            ),
        )


def bad_request(message: str, code: str = "invalid_request") -> CallerError:
    return CallerError(400, code, "Invalid request", message)


def check_keyterms(terms: tuple[str, ...]) -> tuple[str, ...]:
    """The terms; `CallerError` 400 when there are too many or they are too long."""
    return _keyterms(terms)


def _keyterms(terms: tuple[str, ...]) -> tuple[str, ...]:
    if len(terms) > MAX_KEYTERMS or sum(map(len, terms)) > MAX_KEYTERM_CHARACTERS:
        raise bad_request(
            f"At most {MAX_KEYTERMS} key terms of {MAX_KEYTERM_CHARACTERS} characters in all are taken."
        )
    return terms


def _encoding(name: str) -> str:
    if name not in ENCODINGS:
        raise bad_request(f"encoding must be one of {', '.join(ENCODINGS)}.")
    return name


def _sample_rate(text: str) -> int:
    low, high = SAMPLE_RATES
    if not text.isascii() or not text.isdecimal() or not low <= int(text[:9]) <= high:
        raise bad_request(f"sample_rate must be a whole number of Hz from {low} to {high}.")
    return int(text)


def _plain_number(value: float) -> str:
    """The shortest text that reads back the same; 900 rather than 900.0."""
    return repr(int(value) if value == int(value) else value)


def _turn(values: Mapping[str, str]) -> TurnSettings:
    found = {}
    for name, (low, high) in TURN_RANGES.items():
        number = _number(values, f"turn_{name}", low, high)
        if number is not None:
            found[name] = number
    return TurnSettings(**found).validated()


def _number(values: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    if name not in values:
        return None
    try:
        number = float(values[name])
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise bad_request(f"{name} must be a number from {low:g} to {high:g}.")
    return number


# --- audio ----------------------------------------------------------------------------------------


ENCODINGS: Mapping[str, int] = {  # name: bytes per sample
    "pcm_s16le": 2,
    "pcm_s32le": 4,
    "pcm_f16le": 2,
    "pcm_f32le": 4,
    "pcm_mulaw": 1,
    "pcm_alaw": 1,
}


class AudioDecoder:
    """Raw audio bytes in one of `ENCODINGS` -> float32 samples of -1 to 1; any cutting of the bytes
    into messages gives the same samples (what is left of a sample waits for its rest)."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._width = ENCODINGS[encoding]
        self._rest = b""

    def decode(self, data: bytes) -> NDArray[np.float32]:
        data = self._rest + data
        whole = len(data) - len(data) % self._width
        self._rest = data[whole:]
        return _samples(self._encoding, data[:whole])


def _samples(encoding: str, data: bytes) -> NDArray[np.float32]:
    match encoding:
        case "pcm_s16le":
            return (np.frombuffer(data, "<i2") / np.float32(32768)).astype(np.float32)
        case "pcm_s32le":
            return (np.frombuffer(data, "<i4") / 2147483648).astype(np.float32)
        case "pcm_mulaw":
            return (MULAW[np.frombuffer(data, np.uint8)] / np.float32(32768)).astype(np.float32)
        case "pcm_alaw":
            return (ALAW[np.frombuffer(data, np.uint8)] / np.float32(32768)).astype(np.float32)
    floats = np.frombuffer(data, "<f2" if encoding == "pcm_f16le" else "<f4").astype(np.float32)
    return np.clip(np.nan_to_num(floats, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
