"""Every error that rtcstt raises.

RtcsttError
 ├── ConfigError        a setting is wrong; start-up refuses
 │    └── FileError     a recording cannot be read
 ├── UsageError         a program called something in the wrong place
 ├── CallerError        what a caller or an HTTP client sent is wrong, or may not be served now
 ├── UpstreamError      the speech-to-text service refused or failed
 │    └── ConnectionLost        the connection to it ended
 ├── ProtocolError      the speech-to-text wire protocol was broken
 │    ├── LocalProtocolError    by us: a bug here
 │    └── RemoteProtocolError   by the peer
 └── EngineError        the embedded recogniser cannot run; the message names the command that helps

Foreign exceptions are translated at one border each (`stt/cartesia.py` for websockets, `webrtc/` for
aiortc, `server/` for aiohttp), so that callers of rtcstt need to know only this tree.
"""

from __future__ import annotations

import uuid


class RtcsttError(Exception):
    """Root of the tree."""


class ConfigError(RtcsttError):
    """A setting has a value that cannot work."""


class FileError(ConfigError):
    """A recording cannot be read; the message says why. ``code``: "unreadable" or "too_long"."""

    def __init__(self, message: str, code: str = "unreadable") -> None:
        super().__init__(message)
        self.code = code


class UsageError(RtcsttError):
    """A program called what cannot work in this place; the message says what does."""


class CallerError(RtcsttError):
    """A refusal with its HTTP status, shown to the client as a JSON object.

    ``retry_after_s`` becomes the ``Retry-After`` header of a 429 or 503.
    """

    def __init__(
        self, status: int, code: str, title: str, message: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.title = title
        self.message = message
        self.retry_after_s = retry_after_s
        self.request_id = str(uuid.uuid4())

    def as_dict(self) -> dict[str, object]:
        """The object of `error_code`, `title`, `message` and `request_id` that HTTP refusals carry."""
        return {
            "error_code": self.code,
            "title": self.title,
            "message": self.message,
            "request_id": self.request_id,
        }


class UpstreamError(RtcsttError):
    """The STT refused the handshake, sent an error event, or went away.

    ``status`` is the HTTP-like status where one was given; ``retryable`` says whether the same
    request may succeed later (see `wire.retryable`), ``retry_after_s`` when, where it says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retryable: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.retryable = retryable


class ConnectionLost(UpstreamError):
    """The connection to the STT ended; raised by `Connection.recv` and `send`, also after a regular close.

    ``close_code`` is the one the STT sent (RFC 6455 section 7.4), 1006 where it sent none.
    """

    def __init__(self, close_code: int, reason: str = "") -> None:
        super().__init__(f"connection lost ({close_code}){': ' + reason if reason else ''}")
        self.close_code = close_code
        self.reason = reason


class ProtocolError(RtcsttError):
    """A message that the wire protocol does not allow here."""


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol forbids in this state."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids in this state, or something unreadable."""


class EngineError(RtcsttError):
    """The recogniser cannot run here; the message says what to do about it."""


def bad_request(message: str, code: str = "invalid_request") -> CallerError:
    return CallerError(400, code, "Invalid request", message)
