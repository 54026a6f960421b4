"""Logging of the command line and of its worker processes: to the standard error, as text or as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TextIO

FORMATS = ("text", "json")
CHATTY = ("aioice", "aiortc", "aiohttp.access", "websockets")

_call: ContextVar[str | None] = ContextVar("call", default=None)


@contextlib.contextmanager
def about_call(call: str) -> Iterator[None]:
    """What is logged in the block, and by the tasks and callbacks made in it, names the call."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def set_up(*, verbose: bool, server: bool, log_format: str = "text", worker: int | None = None) -> None:
    """Servers tell the lifecycle of calls; other commands have their own output."""
    quiet = logging.INFO if server else logging.WARNING
    logging.basicConfig(level=logging.DEBUG if verbose else quiet, handlers=[handler(log_format, worker)])
    if not verbose:
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)


def handler(log_format: str = "text", worker: int | None = None) -> logging.StreamHandler[TextIO]:
    """Writes lines that name the call they are about."""
    made = logging.StreamHandler()
    made.addFilter(_name_the_call)
    made.setFormatter(_Json(worker) if log_format == "json" else _Text(worker))
    return made


def _name_the_call(record: logging.LogRecord) -> bool:
    call = _call.get()
    record.call = call
    record.about = "" if call is None or call in record.getMessage() else f"call {call}: "
    return True


class _Text(logging.Formatter):
    """What belongs to a record of several lines is indented: no message can pass for another record."""

    def __init__(self, worker: int | None) -> None:
        number = "" if worker is None else f" worker {worker}"
        super().__init__(f"%(asctime)s %(levelname)s{number} %(name)s: %(about)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(super().format(record).splitlines())


class _Json(logging.Formatter):
    """One object a line; what is unknown is left out."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "logger": record.name,
            "worker": self._worker,
            "call": getattr(record, "call", None),
            "message": record.getMessage(),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})
