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

from rtcstt.errors import bad_request
from rtcstt.wire.handshake import (
    ALL_ANSWERED,
    ENCODINGS,
    KEYTERM_STRENGTH,
    MAX_KEYTERM_CHARACTERS,
    MAX_KEYTERMS,
    PATHS,
    SAMPLE_RATES,
    UPDATE_MS,
    VERSION,
    Endpoint,
    Handshake,
    check_keyterms,
    check_language_code,
    retryable,
    retryable_close,
    retryable_status,
)
from rtcstt.wire.messages import (
    AUDIO_POSITION,
    ClientMessage,
    Close,
    Config,
    Connected,
    Done,
    Error,
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
    Unknown,
    as_fields,
    audio_position,
    decode_client,
    decode_server,
    encode,
    encode_client,
)
from rtcstt.wire.order import (
    TURN_TABLE,
    ManualClient,
    ManualServer,
    TurnOrder,
    TurnsClient,
    TurnsServer,
    TurnState,
)
from rtcstt.wire.settings import DEFAULT_TURN, TURN_RANGES, TurnSettings, turn_settings

__all__ = [
    "AUDIO_POSITION",
    "audio_position",
    "ALL_ANSWERED",
    "ClientMessage",
    "Close",
    "Config",
    "Connected",
    "DEFAULT_TURN",
    "Done",
    "ENCODINGS",
    "Endpoint",
    "Error",
    "Finalize",
    "FlushDone",
    "Handshake",
    "KEYTERM_STRENGTH",
    "MAX_KEYTERMS",
    "UPDATE_MS",
    "MAX_KEYTERM_CHARACTERS",
    "ManualClient",
    "ManualServer",
    "PATHS",
    "SAMPLE_RATES",
    "ServerMessage",
    "TURN_RANGES",
    "TURN_TABLE",
    "Transcript",
    "TurnEagerEnd",
    "TurnEnd",
    "TurnMessage",
    "TurnOrder",
    "TurnResume",
    "TurnSettings",
    "TurnStart",
    "TurnState",
    "TurnUpdate",
    "TurnsClient",
    "TurnsServer",
    "Unknown",
    "VERSION",
    "as_fields",
    "bad_request",
    "check_keyterms",
    "check_language_code",
    "decode_client",
    "decode_server",
    "encode",
    "encode_client",
    "retryable",
    "retryable_close",
    "retryable_status",
    "turn_settings",
]
