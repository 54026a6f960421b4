"""How calls are received and transcribed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from rtcstt import wire
from rtcstt.media.pcm import Chunk
from rtcstt.stt.seam import Stt

Mode = Literal["auto", "manual"]
CHUNK_MS = (20, 200)


class Recorder(Protocol):
    """Keeps what was received; see `rtcstt.recordings`."""

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        """Must not block for long, nor raise."""


class CallOptions(TypedDict, total=False):
    """Those `CallSettings` that a call may have of its own."""

    mode: Mode
    turn: wire.TurnSettings
    keyterms: tuple[str, ...]
    language: str | None
    update_ms: float | None
    outlives_peers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How the calls of a server, or of a `Transcriber`, are received and transcribed.

    ``keyterms`` are words and phrases to be expected. ``language`` is an ISO 639 code; None leaves it to the
    speech-to-text service. `CallerError` 400 names the setting that cannot be.
    """

    mode: Mode = "auto"
    turn: wire.TurnSettings = wire.TurnSettings()
    keyterms: tuple[str, ...] = ()
    language: str | None = None
    update_ms: float | None = None
    "Of speech between two updates of a turn's text, by the embedded recogniser; None: as it is set there."
    chunk_ms: int = 100
    max_delay_ms: int = 200
    fallback: Stt | None = None
    patience_s: float = 3.0
    "How long the service may be away before the fallback takes over."
    drain_timeout_s: float = 5.0
    "At the end, how long the service may make no progress before the rest is given up."
    outlives_peers: bool = False
    "A lost connection leaves the tracks open, in silence, for another connection to take up."

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "manual"):
            raise wire.bad_request("mode must be auto or manual.", "unknown_mode")
        if not isinstance(self.turn, wire.TurnSettings):
            raise wire.bad_request("turn must be a TurnSettings.")
        self.turn.validated()
        if isinstance(self.keyterms, str) or not all(isinstance(term, str) for term in self.keyterms):
            raise wire.bad_request("keyterms must be a sequence of strings, not one string.")
        object.__setattr__(self, "keyterms", wire.check_keyterms(tuple(self.keyterms)))
        if self.language is not None:
            wire.check_language_code(self.language)
        if self.fallback is not None and not hasattr(self.fallback, "connect"):
            kind = type(self.fallback).__name__
            raise wire.bad_request(f"fallback must be an Stt such as rtcstt.Embedded(), not {kind}.")
        if self.update_ms is not None and not wire.UPDATE_MS[0] <= self.update_ms <= wire.UPDATE_MS[1]:
            raise wire.bad_request("update_ms must be from {:g} to {:g}.".format(*wire.UPDATE_MS))
        if not CHUNK_MS[0] <= self.chunk_ms <= CHUNK_MS[1]:
            raise wire.bad_request(f"chunk_ms must be from {CHUNK_MS[0]} to {CHUNK_MS[1]}.")
