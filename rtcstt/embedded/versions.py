"""What older versions of the vendor's API do differently. A version is a date; "" where the client names
none."""

from __future__ import annotations

from dataclasses import replace

from rtcstt import wire

NEWER_SINCE = "2025-11-04"  # the version that the first clients with words in columns ask for


def is_older(version: str) -> bool:
    """Whether words and errors take their older form."""
    return "" < version < NEWER_SINCE


def is_alias(name: str, model: str) -> bool:
    """A model or a dated alias of it, such as ink-whisper-2025-06-04."""
    return name == model or name.startswith(f"{model}-")


def is_impatient(handshake: wire.Handshake, version: str) -> bool:
    """Whether a client may send nothing for a short while only.

    The page of ink-whisper says 20 s, newer pages about 3 minutes, for every model. Clients rely on both:
    Pipecat opens ink-whisper with a newer version and sends its sign of life after two minutes or more. So
    the 20 s hold for ink-whisper unless the client names a newer version than that page's.
    """
    whisper = handshake.endpoint == "manual" and is_alias(handshake.model, "ink-whisper")
    return whisper and version < NEWER_SINCE


def older_form(message: wire.ServerMessage) -> wire.ServerMessage:
    """Words as a list of objects instead of columns, and an error's status as ``code``."""
    if isinstance(message, wire.Transcript) and isinstance(message.words, list):
        words = []
        for columns in message.words:
            names = ["word" if name == "words" else name for name in columns]
            words += [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return replace(message, words=words)
    if isinstance(message, wire.Error):
        return replace(message, extra={"code": message.status_code})
    return message
