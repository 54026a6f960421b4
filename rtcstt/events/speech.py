"""Events of the speech-to-text service, and what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rtcstt.events.base import Event, TrackEvent, TurnEvent

# -- the way to the speech-to-text service -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptGap(TrackEvent):
    """The audio from ``start`` to ``end`` will have no text, although it may have held speech."""

    type: ClassVar[Literal["transcript.gap"]] = "transcript.gap"
    start: float
    end: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SttReconnecting(TrackEvent):
    """The connection was lost or refused, and will be tried again."""

    type: ClassVar[Literal["stt.reconnecting"]] = "stt.reconnecting"
    attempt: int
    reason: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SttRecovered(TrackEvent):
    """It is there again; ``lag`` seconds of audio wait for it, ``lost`` seconds were too many to keep."""

    type: ClassVar[Literal["stt.recovered"]] = "stt.recovered"
    lag: float
    attempts: int
    lost: float
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SttBehind(TrackEvent):
    """``lag`` seconds of audio wait for the service; said at 2 s, and each time it has doubled."""

    type: ClassVar[Literal["stt.behind"]] = "stt.behind"
    lag: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SttCaughtUp(TrackEvent):
    """After `SttBehind`: text comes as soon as usual again."""

    type: ClassVar[Literal["stt.caught_up"]] = "stt.caught_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(TrackEvent):
    """The service's first message, on the first connection."""

    type: ClassVar[Literal["connected"]] = "connected"
    request_id: str = ""


# -- what was said -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStart(TurnEvent):
    """Somebody began to speak."""

    type: ClassVar[Literal["turn.start"]] = "turn.start"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnUpdate(TurnEvent):
    """``transcript`` is all the text of this turn so far, verbatim; it only ever grows."""

    type: ClassVar[Literal["turn.update"]] = "turn.update"
    transcript: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEagerEnd(TurnEvent):
    """The speaker might be done: `TurnResume` or `TurnEnd` follows."""

    type: ClassVar[Literal["turn.eager_end"]] = "turn.eager_end"
    transcript: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResume(TurnEvent):
    """They were not done."""

    type: ClassVar[Literal["turn.resume"]] = "turn.resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd(TurnEvent):
    """The turn is over. The transcripts of a track, joined with nothing between, are its text.
    ``confidence``: how sure the service is of each word (as spaces part them), 0 to 1, where known.
    ``concealed``: ms of its audio that were lost and bridged by packet loss concealment, where some were."""

    type: ClassVar[Literal["turn.end"]] = "turn.end"
    transcript: str
    confidence: list[float] | None = None
    concealed: float | None = None

    @property
    def ends_turn(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript(TurnEvent):
    """Manual mode: the text since the last final one. Only final ones count; join verbatim."""

    type: ClassVar[Literal["transcript"]] = "transcript"
    text: str
    is_final: bool
    duration: float | None = None
    language: str = ""
    words: list[Any] | dict[str, object] | None = None
    "As the service gave them, or None."

    @property
    def transcript(self) -> str:
        """The text, under the name that it has in turns."""
        return self.text

    @property
    def ends_turn(self) -> bool:
        return self.is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushDone(TrackEvent):
    """Manual mode: answers a `finalize`, after the transcripts that it brought about."""

    type: ClassVar[Literal["flush_done"]] = "flush_done"
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Event):
    """A message of a newer service, passed through. Its own type is ``name``, its fields are in ``extra``;
    ``type`` is "unknown" so that comparing ``type`` tells the other classes apart."""

    type: ClassVar[Literal["unknown"]] = "unknown"
    unknown_type: str
    track: str = ""
    turn: int | None = None
    start: float | None = None
    end: float | None = None

    @property
    def name(self) -> str:
        return self.unknown_type
