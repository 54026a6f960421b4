"""A call: what a caller addresses by an id. Tracks, transcription, events; it may outlive its connection.

A `Track` is one track: packets or PCM go in, chunks go on to the STT at an even pace, and what the
STT says is published. Lines have no task of their own; a timer asks the receiver for what is due.

The call's audio clock begins with the first audio of its first track. All times in events are
seconds on it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, cast

import numpy as np

from rtcstt import wire
from rtcstt.errors import CallerError
from rtcstt.events import (
    WITHOUT_WORDS,
    AnyEvent,
    AudioIgnored,
    AudioLedger,
    AudioResumed,
    AudioSources,
    AudioStalled,
    AudioSuspect,
    Dtmf,
    ErrorEvent,
    FlushDone,
    SessionEnd,
    SessionStart,
    SttReconnecting,
    TrackEnd,
    TrackLedger,
    TrackMuted,
    TrackStart,
    TrackUnmuted,
    TranscriptGap,
    TurnEnd,
)
from rtcstt.feed import Feed
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Samples
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.resampling import Resampler, resampler
from rtcstt.media.rtp import Codec, Packet
from rtcstt.media.signals import (
    Ignored,
    Lost,
    Muted,
    Pressed,
    Resumed,
    SeveralSources,
    Signal,
    Stalled,
    Suspect,
    Unmuted,
)
from rtcstt.stt.seam import Stt
from rtcstt.stt.stream import Stream

log = logging.getLogger(__name__)

Mode = Literal["auto", "manual"]
MAX_COMMAND_CHARACTERS = 16_384
COMMANDS_PER_S, COMMANDS_AT_ONCE = 2.0, 50  # what a caller may ask beyond that is ignored, and counted
MAX_TRACKS = 32  # tracks of one call, those of lost connections included
CHUNK_MS = (20, 200)


class Recorder(Protocol):
    """Keeps what was sent to the STT; see `rtcstt.recordings`."""

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        """Must not block for long, nor raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How the calls of a server, or of a `Transcriber`, are received and transcribed."""

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
    drain_timeout_s: float = 5.0
    outlives_peers: bool = False
    "A lost connection leaves the tracks open, in silence, for another connection to take up."

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "manual"):
            raise wire.bad_request("mode must be auto or manual.", "unknown_mode")
        if self.update_ms is not None and not wire.UPDATE_MS[0] <= self.update_ms <= wire.UPDATE_MS[1]:
            raise wire.bad_request("update_ms must be from {:g} to {:g}.".format(*wire.UPDATE_MS))
        if not CHUNK_MS[0] <= self.chunk_ms <= CHUNK_MS[1]:
            raise wire.bad_request(f"chunk_ms must be from {CHUNK_MS[0]} to {CHUNK_MS[1]}.")


class Track:
    """One track of a call. `push` or `push_pcm` as audio comes; `end` when no more will."""

    def __init__(self, call: Call, track: str, mid: str, codecs: Mapping[int, Codec] | None) -> None:
        self.track = track
        self.mid = mid
        self.ended = False
        self._call = call
        self._loop = asyncio.get_running_loop()
        settings = call.settings
        self._receiver = AudioReceiver(
            codecs or {}, chunk_ms=settings.chunk_ms, max_delay_ms=settings.max_delay_ms
        )
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resampler: tuple[int, Resampler] | None = None
        self._flushes: deque[int] = deque()  # samples to be sent before each `finalize` asked for
        self.failures = 0

    def push(self, packet: Packet) -> None:
        """One RTP packet, at the moment of its arrival."""
        if self.ended:
            return
        self._receiver.push(packet, self._loop.time())
        if self._timer is None:
            self._schedule()

    def push_pcm(self, samples: Samples, sample_rate: int) -> None:
        """Some int16 mono audio of a source that has no packets, in real time."""
        if self.ended:
            return
        self._receiver.push_pcm(self._resampled(samples, sample_rate), self._loop.time())
        if self._timer is None:
            self._schedule()

    def renegotiate(self, codecs: Mapping[int, Codec]) -> None:
        """Another connection carries the track on."""
        self._receiver.renegotiate(codecs)

    def bye(self, ssrc: int) -> None:
        """A source says that it leaves (RTCP BYE). The track goes on with the next packet that comes."""
        if not self.ended:
            self._receiver.bye(ssrc, self._loop.time())

    def mute(self, reason: str) -> None:
        """The sender says that it stops for now."""
        if not self.ended:
            self._receiver.mute(reason)

    def press(self, digit: str, duration_ms: int) -> None:
        """A key was pressed, as a gateway's message says."""
        self._call.publish(Dtmf(track=self.track, digit=digit, duration_ms=duration_ms))

    def end(self, reason: str) -> None:
        """The track's sender is gone. What was received still comes out; idempotent."""
        if not self._call.settings.outlives_peers:
            self._call.end_track(self, reason)

    def finalize(self) -> None:
        """Manual mode: what came until now is sent, which takes until its chunk is full, then transcribed."""
        if self._stream is None:  # nothing has come
            self._call.publish(FlushDone(track=self.track))
            return
        self._flushes.append(self._received_until())
        self._advance()

    def configure(self, turn: wire.TurnSettings) -> None:
        if self._stream is not None:  # one that is yet to be made begins with what the call has
            self._stream.configure(turn)

    async def drain(self) -> None:
        """Flush the receiver, then the STT; returns when both have given everything."""
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        self._guarded(self._flush_resampler)
        self._guarded(lambda: self._send(self._receiver.pull(now)))
        self._guarded(lambda: self._send(self._receiver.close(now)))
        if self._stream is not None:
            for _ in self._flushes:
                self._stream.finalize()
            await self._stream.close()

    def silent_s(self) -> float:
        """For how long no audio came."""
        last = self._receiver.last_received
        return math.inf if last is None else self._loop.time() - last

    @property
    def time(self) -> float:
        """The end of what was sent, on the call's audio clock."""
        return self._offset_s() + self._receiver.ledger.sent / SAMPLE_RATE if self._stream else 0.0

    @property
    def queued_s(self) -> float:
        """Audio that came and waits for its time to be sent: much, where it comes faster than real time."""
        return self._receiver.ledger.queued / SAMPLE_RATE

    def ledger(self) -> AudioLedger:
        return cast(AudioLedger, self._receiver.ledger.as_dict())

    def stats(self) -> dict[str, Any]:
        stt = self._stream.stats() if self._stream is not None else {}
        return {"audio": self._receiver.stats(), "stt": stt, "failures": self.failures}

    def snapshot(self) -> dict[str, Any]:
        return {"track": self.track, "ended": self.ended, "ledger": self.ledger(), **self.stats()}

    def _schedule(self) -> None:
        due = self._receiver.next_due(self._loop.time())
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._advance()
        if not self.ended:
            self._schedule()

    def _advance(self) -> None:
        now = self._loop.time()
        self._guarded(lambda: self._send(self._receiver.pull(now)))
        while self._flushes and self._stream and self._receiver.ledger.sent >= self._flushes[0]:
            self._flushes.popleft()
            self._stream.finalize()
        for signal in self._receiver.signals():
            self._report(signal)

    def _report(self, signal: Signal) -> None:
        track, publish = self.track, self._call.publish
        match signal:
            case Stalled():
                publish(AudioStalled(track=track))
            case Resumed():
                publish(AudioResumed(track=track, stalled=round(signal.stalled_s, 3)))
            case Lost():
                start, end = (self._offset_s() + at / SAMPLE_RATE for at in (signal.start, signal.end))
                publish(TranscriptGap(track=track, start=start, end=end, reason=signal.reason))
            case Muted():
                publish(TrackMuted(track=track, reason=signal.reason))
            case Unmuted():
                publish(TrackUnmuted(track=track))
            case Pressed():
                publish(Dtmf(track=track, digit=signal.digit, duration_ms=signal.duration_ms))
            case Ignored():
                publish(AudioIgnored(track=track, reason=signal.reason, payload_type=signal.payload_type))
            case SeveralSources():
                publish(AudioSources(track=track, sources=signal.count))
            case Suspect():
                publish(AudioSuspect(track=track, guess=signal.guess))

    def _send(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._stream_or_new().send(chunk)
            self._guarded(partial(self._record, chunk))

    def _record(self, chunk: Chunk) -> None:
        if self._call.recorder is not None:
            self._call.recorder.write(self.track, chunk, self._offset_s())

    def _received_until(self) -> int:
        """Where on the track the audio lies that comes now; all that came before lies before it."""
        assert self._receiver.origin is not None
        elapsed = self._loop.time() - self._receiver.origin
        lag_s: float = self._receiver.stats()["lag_ms"] / 1000
        return round((elapsed + lag_s) * SAMPLE_RATE)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whatever fails on one track's audio must not end the timer, and with it the track."""
        try:
            work()
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception("failed on a track's audio (further failures are only counted)")

    def _offset_s(self) -> float:
        assert self._receiver.origin is not None  # there is audio
        return self._call.offset_s(self._receiver.origin)

    def _stream_or_new(self) -> Stream:
        """The way to the STT, made when the track's place on the call's clock is known."""
        if self._stream is None:
            settings = self._call.settings
            self._stream = Stream(
                self._call.stt,
                track=self.track,
                on_event=self._call.publish,
                mode=settings.mode,
                settings=self._call.turn,
                keyterms=settings.keyterms,
                language=settings.language,
                update_ms=settings.update_ms,
                offset_s=self._offset_s(),
                fallback=settings.fallback,
                patience_s=settings.patience_s,
                drain_timeout_s=settings.drain_timeout_s,
            )
            self._stream.start()
        return self._stream

    def _resampled(self, samples: Samples, rate: int) -> Samples:
        if self._resampler is None or self._resampler[0] != rate:
            self._flush_resampler()
            self._resampler = (rate, resampler(rate))
        return self._resampler[1].push(np.asarray(samples, np.int16))

    def _flush_resampler(self) -> None:
        if self._resampler is not None:
            rest = self._resampler[1].flush()
            self._resampler = None
            if len(rest):
                self._receiver.push_pcm(rest, self._loop.time())


class _TokenBucket:
    """So much at once, and so much more each second."""

    def __init__(self, per_s: float, at_once: int) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left: float = at_once
        self._asked = 0.0

    def take(self, now: float) -> bool:
        self._left = min(self._at_once, self._left + (now - self._asked) * self._per_s)
        self._asked = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class _Counts:
    turns: int = 0
    errors: int = 0
    reconnects: int = 0
    ignored_commands: int = 0
    end_delays_s: list[float] = field(default_factory=list)


class Call:
    """One caller's session: lines, one event feed, and what the caller may ask for.

    ``options`` are those of `CallSettings`. `close` drains; the feed ends with `session.end`.
    """

    def __init__(
        self,
        id: str,
        *,
        stt: Stt,
        label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        recorder: Recorder | None = None,
        settings: CallSettings | None = None,
        **options: Any,
    ) -> None:
        self.id = id
        self.stt = stt
        self.label = label
        self.metadata = dict(metadata or {})
        self.recorder = recorder
        self.caller_may_listen = True
        self.settings = settings or CallSettings(**options)
        self.turn = self.settings.turn
        self.feed = Feed(id)
        self.created = time.time()  # shown to people; every other time is the loop's
        self.tracks: dict[str, Track] = {}
        self.counts = _Counts()
        self._loop = asyncio.get_running_loop()
        self._origin: float | None = None
        self._time = 0.0
        self._commands = _TokenBucket(COMMANDS_PER_S, COMMANDS_AT_ONCE)
        self._ending: asyncio.Task[None] | None = None
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._closed = asyncio.Event()
        self._begin()

    @property
    def state(self) -> str:
        """`open`, `draining` or `closed`."""
        if self._closed.is_set():
            return "closed"
        return "draining" if self._ending is not None else "open"

    @property
    def time(self) -> float:
        """Now, on the call's audio clock: the end of the audio sent, on any track; 0 before the first."""
        self._time = max([self._time, *(line.time for line in self.tracks.values())])
        return self._time

    def offset_s(self, origin: float) -> float:
        """Where on the call's clock a track begins; the first one makes the clock begin."""
        if self._origin is None:
            self._origin = origin
        return max(0.0, origin - self._origin)

    def add_track(self, track: str, codecs: Mapping[int, Codec] | None = None) -> Track:
        """A line for a new track, or the line that a track of an earlier connection had."""
        before = [line for line in self.tracks.values() if line.mid == track]
        if before and not before[-1].ended:
            before[-1].renegotiate(codecs or {})
            return before[-1]
        # One whose sender said BYE and came back gets a line of its own.
        name = f"{track}.{len(before)}" if before else track
        line = Track(self, name, track, codecs)
        if self._ending is not None or len(self.tracks) >= MAX_TRACKS:
            line.ended = True
            return line
        self.tracks[name] = line
        self.publish(TrackStart(track=name))
        return line

    def command(self, text: str) -> None:
        """Do what a caller asked for over a data channel; an `error` event says what cannot be done.

        Who asks too much is not answered any more, but `close` is always received.
        """
        try:
            message = _parse_command(text)
            if message["type"] == "close":
                self.hang_up("asked")
            elif self._is_allowed():
                self._obey(message)
        except CallerError as error:
            if self._is_allowed():
                self._say_error(error)

    def finalize(self) -> None:
        """Manual mode: transcribe what was said until now. `CallerError` 400 in auto mode."""
        if self.settings.mode != "manual":
            raise wire.bad_request("finalize is for calls in manual mode.", "not_manual")
        for line in self._open_lines():
            line.finalize()

    def configure(self, turn: wire.TurnSettings) -> None:
        """Change turn detection in mid-call; `CallerError` 400 when it cannot be."""
        if self.settings.mode != "auto":
            raise wire.bad_request("Turn settings are for calls in auto mode.", "not_auto")
        self.turn = self.turn.merged(turn).validated()
        for line in self._open_lines():
            line.configure(turn)

    def end_track(self, line: Track, reason: str) -> None:
        """One track is over; the others go on."""
        if not line.ended and self._ending is None:
            line.ended = True
            self._draining[line.track] = asyncio.create_task(self._drain_line(line, reason))

    async def close(self, reason: str = "closed") -> None:
        """Drain every line, publish `session.end` and end the feed. Idempotent; returns when it is done."""
        await asyncio.shield(self._end_task(reason))

    def hang_up(self, reason: str) -> None:
        """Begin to close, without waiting for it."""
        self._end_task(reason)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def publish(self, event: AnyEvent) -> None:
        """Number an event and give it to the listeners; what comes after the end is nobody's concern."""
        if self._closed.is_set():
            return
        self._time = max(self.time, event.time)
        self._count(self.feed.publish(event, time=self._time))

    def silent_s(self) -> float:
        """For how long no packet came, on any track."""
        return min((line.silent_s() for line in self.tracks.values()), default=math.inf)

    async def caller_events(self) -> AsyncIterator[AnyEvent]:
        """Every event for the caller's own connection: those without words, where they may not listen."""
        async for event in self.feed.subscribe():
            if self.caller_may_listen or isinstance(event, WITHOUT_WORDS):
                yield event

    def ledgers(self) -> dict[str, AudioLedger]:
        return {track: line.ledger() for track, line in self.tracks.items()}

    def snapshot(self) -> dict[str, Any]:
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
            "tracks": [line.snapshot() for line in self.tracks.values()],
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

    def _open_lines(self) -> list[Track]:
        return [line for line in self.tracks.values() if not line.ended]

    def _end_task(self, reason: str) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(reason))
        return self._ending

    def _is_allowed(self) -> bool:
        allowed = self._commands.take(self._loop.time())
        self.counts.ignored_commands += not allowed
        return allowed

    def _obey(self, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "finalize":
                self.finalize()
            case "config":
                self.configure(wire.turn_settings(message.get("turn"), self.turn))
            case _:
                raise wire.bad_request("Known messages are finalize, config and close.", "unknown_message")

    def _say_error(self, error: CallerError) -> None:
        self.publish(
            ErrorEvent(
                title=error.title,
                message=error.message,
                status_code=error.status,
                error_code=error.code,
                request_id=error.request_id,
            )
        )

    def _count(self, event: AnyEvent) -> None:
        self.counts.turns += event.ends_turn
        self.counts.errors += isinstance(event, ErrorEvent)
        self.counts.reconnects += isinstance(event, SttReconnecting)
        if isinstance(event, TurnEnd) and len(self.counts.end_delays_s) < 10_000:
            self.counts.end_delays_s.append(max(0.0, event.time - event.end))

    async def _drain_line(self, line: Track, reason: str) -> None:
        try:
            await line.drain()
        except Exception:
            log.exception("a track did not drain")
        self.publish(TrackEnd(track=line.track, reason=reason, ledger=line.ledger()))

    async def _end(self, reason: str) -> None:
        drains = [*self._draining.values()]
        drains += [asyncio.create_task(self._drain_line(line, reason)) for line in self._open_lines()]
        await asyncio.gather(*drains)
        tracks = [TrackLedger(track=track, ledger=ledger) for track, ledger in self.ledgers().items()]
        self.publish(
            SessionEnd(reason=reason, tracks=tracks, ledger=self.ledgers(), complete=True, missing=[])
        )
        log.info("call %s: ended (%s) after %.1f s", self.id, reason, self.time)
        self._closed.set()
        self.feed.close()


def _parse_command(text: str) -> dict[str, Any]:
    """A JSON object with a type; `CallerError` 400 for anything else."""
    if len(text) > MAX_COMMAND_CHARACTERS:
        raise wire.bad_request("That message is too long.", "bad_message")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise wire.bad_request("That message is not JSON.", "bad_message") from None
    return message if isinstance(message, dict) and "type" in message else {"type": None}
