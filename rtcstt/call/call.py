"""A call: what a caller addresses by an id. Tracks and events; it may outlive its connection.

The call's audio clock begins with the first audio of its first track. All times in events are
seconds on it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

from rtcstt import wire
from rtcstt.call.flow import Shared
from rtcstt.call.left_out import LeftOut
from rtcstt.call.restored import Restored
from rtcstt.call.settings import CallSettings, Recorder
from rtcstt.call.track import Track, TrackSnapshot
from rtcstt.errors import CallerError, UpstreamError
from rtcstt.events import (
    WITHOUT_WORDS,
    AnyEvent,
    AudioIgnored,
    AudioLedger,
    Dtmf,
    ErrorEvent,
    Gap,
    SessionEnd,
    SessionStart,
    SttReconnecting,
    TrackLedger,
    TrackNamed,
    TrackStart,
    TranscriptGap,
    TurnEnd,
    merged,
)
from rtcstt.feed import Feed
from rtcstt.limits import TokenBucket
from rtcstt.media.rtp import Codec
from rtcstt.stt.seam import Stt
from rtcstt.wire import strict_json

log = logging.getLogger(__name__)

MAX_COMMAND_CHARACTERS = 16_384
COMMANDS_PER_S, COMMANDS_AT_ONCE = 2.0, 50  # what a caller may ask beyond that is ignored, and counted
DIGITS_PER_S, DIGITS_AT_ONCE = 20.0, 100  # keys pressed, by RTP or as gateways tell
MAX_NAME = 100  # characters of a speaker's
_KNOWN = "Known messages are finalize, config, name and close."
MAX_TRACKS = 32  # tracks of one call, those of lost connections included


@dataclass(slots=True)
class _Counts:
    turns: int = 0
    errors: int = 0
    reconnects: int = 0
    ignored_commands: int = 0
    missing_ms: dict[str, float] = field(default_factory=dict)  # by the reason of the gap
    end_delays_s: list[float] = field(default_factory=list)
    missing: list[Gap] = field(default_factory=list)  # the gaps in the transcript so far

    def add(self, event: AnyEvent) -> None:
        self.turns += event.ends_turn
        self.errors += isinstance(event, ErrorEvent)
        self.reconnects += isinstance(event, SttReconnecting)
        if isinstance(event, TranscriptGap):
            self.missing.append(Gap(track=event.track, start=event.start, end=event.end, reason=event.reason))
            before_ms = self.missing_ms.get(event.reason, 0.0)
            self.missing_ms[event.reason] = before_ms + 1000 * (event.end - event.start)
        if isinstance(event, TurnEnd) and len(self.end_delays_s) < 10_000:
            self.end_delays_s.append(max(0.0, event.time - event.end))


class CallSnapshot(TypedDict):
    """A call in numbers, as `GET /calls` lists it. Times in seconds."""

    call: str
    state: str
    mode: str
    label: str | None
    metadata: Mapping[str, object]
    created: float
    """Unix time."""
    time: float
    """The call's audio clock."""
    engine: str
    turn_count: int
    tracks: list[TrackSnapshot]
    ledger: dict[str, AudioLedger]
    listeners: int
    ignored_commands: int


class Call:
    """One caller's session: tracks, one event feed, and what the caller may ask for.

    `close` drains; the feed ends with `session.end`. An ended call
    keeps its events and counters, not its audio, decoders and streams.
    """

    def __init__(
        self,
        id: str,
        *,
        stt: Stt,
        label: str | None = None,
        metadata: Mapping[str, object] | None = None,
        recorder: Recorder | None = None,
        settings: CallSettings | None = None,
        restored: Restored | None = None,
    ) -> None:
        """``restored``: what another server kept of the call, which goes on here."""
        self.id = id
        self.stt = stt
        self.label = label
        self.metadata = dict(metadata or {})
        self.settings = settings or CallSettings()
        self._shared = Shared(stt, self.settings, self.settings.turn, self.publish, recorder)
        self.caller_may_listen = True
        self.feed = Feed(id)
        self.created = time.time()  # shown to people; every other time is the loop's
        self.tracks: dict[str, Track] = {}
        self.counts = _Counts()
        self._loop = asyncio.get_running_loop()
        self._time = 0.0
        self._commands = TokenBucket(COMMANDS_PER_S, COMMANDS_AT_ONCE)
        self._digits = TokenBucket(DIGITS_PER_S, DIGITS_AT_ONCE)
        self._left_out = LeftOut()
        self._ending: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        if restored is None:
            self._begin()
        else:
            self._restore(restored)

    @property
    def state(self) -> str:
        """`open`, `draining` or `closed`."""
        if self._closed.is_set():
            return "closed"
        return "draining" if self._ending is not None else "open"

    @property
    def time(self) -> float:
        """Now, on the call's audio clock: the end of the audio sent, on any track; 0 before the first."""
        self._time = max([self._time, *(track.time for track in self.tracks.values())])
        return self._time

    @property
    def turn(self) -> wire.TurnSettings:
        """The turn settings that hold now."""
        return self._shared.turn

    @property
    def recorder(self) -> Recorder | None:
        return self._shared.recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self._shared.recorder = recorder

    @property
    def failure(self) -> UpstreamError | None:
        """Why a track's STT gives no text any more, once that is so."""
        return next((track.failure for track in self.tracks.values() if track.failure), None)

    def add_track(self, track: str, codecs: Mapping[int, Codec] | None = None) -> Track:
        """A new track, or the one that a track of an earlier connection had."""
        before = [known for known in self.tracks.values() if known.mid == track]
        if before and not before[-1].ended:
            before[-1].renegotiate(codecs or {})
            return before[-1]
        name = f"{track}.{len(before)}" if before else track  # one that came back after its end
        new = Track(self._shared, name, track, codecs)
        if self._ending is not None:
            new.discard()
            return new
        if len(self.tracks) >= MAX_TRACKS:
            self.publish(AudioIgnored(track=name, reason=f"a call has {MAX_TRACKS} tracks at most"))
            new.discard(partial(self.leave_out, ""))
            return new
        self.tracks[name] = new
        self.publish(TrackStart(track=name))
        if speaker := _named_at_first(self.metadata, len(self.tracks) - 1):
            self.publish(TrackNamed(track=name, speaker=speaker))
        return new

    def leave_out(self, track: str, duration_s: float) -> None:
        """Audio came for which there is no track, or no speech-to-text stream: that is a gap, said in parts.
        ``track`` empty: nobody knows whose it is."""
        start = self._shared.offset_s(self._loop.time() - duration_s)
        for gap in self._left_out.note(track, start, start + duration_s):
            self.publish(gap)

    def command(self, text: str) -> None:
        """Do what a caller asked for over a data channel; an `error` event says what cannot be done.

        Who asks too much is not answered any more, but `close` is always received.
        """
        try:
            message = _parse_command(text)
            if message["type"] == "close":
                self.hang_up("asked")
            elif self._is_allowed(self._commands):
                self._obey(message)
        except CallerError as error:
            self.refuse(error)

    def refuse(self, error: CallerError) -> None:
        """Tell the caller what of theirs is not taken, in an `error` event, unless it is too much."""
        if self._is_allowed(self._commands):
            self.publish(_said_of(error))

    def finalize(self) -> None:
        """Manual mode: transcribe what was said until now. `CallerError` 400 in auto mode."""
        if self.settings.mode != "manual":
            raise wire.bad_request("finalize is for calls in manual mode.", "not_manual")
        for track in self._open_tracks():
            track.finalize()

    def configure(self, turn: wire.TurnSettings) -> None:
        """Change turn detection in mid-call; `CallerError` 400 when it cannot be."""
        if self.settings.mode != "auto":
            raise wire.bad_request("Turn settings are for calls in auto mode.", "not_auto")
        self._shared.turn = self.turn.merged(turn).validated()
        for track in self._open_tracks():
            track.configure(turn)

    async def close(self, reason: str = "closed") -> None:
        """Drain every track, publish `session.end` and end the feed. Idempotent; returns when it is done."""
        await asyncio.shield(self._end_task(reason))

    def hang_up(self, reason: str) -> None:
        """Begin to close, without waiting for it."""
        self._end_task(reason)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def publish(self, event: AnyEvent) -> None:
        """Number an event and give it to the listeners; what comes after the end is nobody's concern."""
        if self._closed.is_set() or (isinstance(event, Dtmf) and not self._is_allowed(self._digits)):
            return
        self._time = max(self.time, event.time)
        self.counts.add(self.feed.publish(event, time=self._time))

    def silent_s(self) -> float:
        """For how long no packet came, on any track."""
        return min((track.silent_s() for track in self.tracks.values()), default=math.inf)

    async def caller_events(self) -> AsyncIterator[AnyEvent]:
        """Every event for the caller's own connection: those without words, where they may not listen."""
        async for event in self.feed.subscribe():
            if self.caller_may_listen or isinstance(event, WITHOUT_WORDS):
                yield event

    def abandon(self) -> None:
        """Another server has the call: nothing is published any more, and everything is let go."""
        self._closed.set()
        self.feed.close()
        self.hang_up("moved")

    def ledgers(self) -> dict[str, AudioLedger]:
        return {name: track.ledger() for name, track in self.tracks.items()}

    def snapshot(self) -> CallSnapshot:
        """The call in numbers, as `GET /calls` lists it."""
        return {
            "call": self.id,
            "state": self.state,
            "mode": self.settings.mode,
            "label": self.label,
            "metadata": self.metadata,
            "created": self.created,
            "time": round(self.time, 3),
            "engine": self.stt.name,
            "turn_count": self.counts.turns,
            "tracks": [track.snapshot() for track in self.tracks.values()],
            "ledger": self.ledgers(),
            "listeners": self.feed.listeners,
            "ignored_commands": self.counts.ignored_commands,
        }

    def _begin(self) -> None:
        self.publish(
            SessionStart(
                mode=self.settings.mode,
                engine=self.stt.name,
                label=self.label or "",
                created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.created)),
            )
        )
        log.info("call %s: began (%s, %s)", self.id, self.settings.mode, self.stt.name)

    def _restore(self, restored: Restored) -> None:
        self.feed, self.created = restored.feed, restored.created
        for event in self.feed.history:
            self._time = max(self._time, event.time)
            self.counts.add(event)
        self.tracks = restored.tracks_of(self._shared)
        for name, kept in restored.tracks.items():
            self.tracks[name].restore(kept)  # which may publish
        log.info("call %s: goes on here", self.id)

    def _open_tracks(self) -> list[Track]:
        return [track for track in self.tracks.values() if not track.ended]

    def _end_task(self, reason: str) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(reason))
        return self._ending

    def _is_allowed(self, bucket: TokenBucket) -> bool:
        allowed = bucket.take(self._loop.time())
        self.counts.ignored_commands += not allowed
        return allowed

    def _obey(self, message: Mapping[str, object]) -> None:
        match message["type"]:
            case "finalize":
                self.finalize()
            case "config":
                self.configure(wire.turn_settings(message.get("turn"), self.turn))
            case "name":
                self.publish(_named(message, self.tracks))
            case _:
                raise wire.bad_request(_KNOWN, "unknown_message")

    async def _end(self, reason: str) -> None:
        await asyncio.gather(*(track.drain(reason) for track in self.tracks.values()))
        ledgers = self.ledgers()
        for gap in self._left_out.due(math.inf):
            self.publish(gap)
        missing = merged(self.counts.missing)
        tracks = [TrackLedger(track=track, ledger=ledger) for track, ledger in ledgers.items()]
        self.publish(
            SessionEnd(reason=reason, tracks=tracks, ledger=ledgers, complete=not missing, missing=missing)
        )
        log.info("call %s: ended (%s) after %.1f s", self.id, reason, self.time)
        self._closed.set()
        self.feed.close()


def _said_of(error: CallerError) -> ErrorEvent:
    return ErrorEvent(
        title=error.title,
        message=error.message,
        status_code=error.status,
        error_code=error.code,
        request_id=error.request_id,
    )


def _named(message: Mapping[str, object], tracks: Collection[str]) -> TrackNamed:
    """What a caller says of who speaks on a track."""
    track, speaker = message.get("track"), message.get("speaker")
    if not isinstance(track, str) or track not in tracks:
        raise wire.bad_request("track must be one of this call.", "unknown_track")
    if not isinstance(speaker, str) or len(speaker) > MAX_NAME:
        raise wire.bad_request(f"speaker must be a text of at most {MAX_NAME} characters.")
    return TrackNamed(track=track, speaker=" ".join(speaker.split()))


def _named_at_first(metadata: Mapping[str, object], index: int) -> str:
    """The name that the metadata has for the track that came so late: ``{"speakers": {"0": "Ada"}}``."""
    names = metadata.get("speakers")
    name = names.get(str(index)) if isinstance(names, dict) else None
    return " ".join(name.split())[:MAX_NAME] if isinstance(name, str) else ""


def _parse_command(text: str) -> dict[str, object]:
    """A JSON object with a type; `CallerError` 400 for anything else."""
    if len(text) > MAX_COMMAND_CHARACTERS:
        raise wire.bad_request("That message is too long.", "bad_message")
    try:
        message = strict_json.loads(text)
    except ValueError:
        raise wire.bad_request("That message is not JSON.", "bad_message") from None
    return message if isinstance(message, dict) and "type" in message else {"type": None}
