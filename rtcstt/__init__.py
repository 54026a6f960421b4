"""Live calls into text: WebRTC audio in, every word out once, with its time.

The names below are the public face; each is imported when it is first used, so that `import rtcstt`
costs nothing and a program that transcribes PCM never loads WebRTC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcstt.batch.api import transcribe, transcribe_sync
    from rtcstt.batch.transcripts import Transcription
    from rtcstt.call import Call, CallSettings
    from rtcstt.embedded import Embedded
    from rtcstt.errors import (
        CallerError,
        ConfigError,
        EngineError,
        FileError,
        ProtocolError,
        RtcsttError,
        UpstreamError,
        UsageError,
    )
    from rtcstt.events import Event
    from rtcstt.media.rtp import Codec, Packet
    from rtcstt.stt.cartesia import Cartesia
    from rtcstt.stt.seam import Stt
    from rtcstt.transcriber import Transcriber
    from rtcstt.webrtc.caller import Caller
    from rtcstt.webrtc.connection import IceServer, PeerSettings
    from rtcstt.webrtc.peer import Peer
    from rtcstt.wire import TurnSettings

__version__ = "0.1.0"

__all__ = [
    "Call",
    "CallSettings",
    "Caller",
    "CallerError",
    "Cartesia",
    "Codec",
    "ConfigError",
    "Embedded",
    "EngineError",
    "Event",
    "FileError",
    "IceServer",
    "Packet",
    "Peer",
    "PeerSettings",
    "ProtocolError",
    "RtcsttError",
    "Stt",
    "Transcriber",
    "Transcription",
    "TurnSettings",
    "UpstreamError",
    "UsageError",
    "__version__",
    "transcribe",
    "transcribe_sync",
]

_HOMES = {
    "Call": "call",
    "CallSettings": "call",
    "Caller": "webrtc.caller",
    "CallerError": "errors",
    "Cartesia": "stt.cartesia",
    "Codec": "media.rtp",
    "ConfigError": "errors",
    "Embedded": "embedded",
    "EngineError": "errors",
    "Event": "events",
    "FileError": "errors",
    "IceServer": "webrtc.connection",
    "Packet": "media.rtp",
    "Peer": "webrtc.peer",
    "PeerSettings": "webrtc.connection",
    "ProtocolError": "errors",
    "RtcsttError": "errors",
    "Stt": "stt.seam",
    "Transcriber": "transcriber",
    "Transcription": "batch.transcripts",
    "TurnSettings": "wire",
    "UpstreamError": "errors",
    "UsageError": "errors",
    "transcribe": "batch.api",
    "transcribe_sync": "batch.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rtcstt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rtcstt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
