"""A call: what a caller addresses by an id. Tracks, transcription, events; it may outlive its connection.

A `Line` is one track: packets or PCM go in, chunks go on to the STT at an even pace, and what the
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from rtcstt import wire
from rtcstt.errors import CallerError
from rtcstt.feed import Feed
from rtcstt.pcm import Chunk, Samples
from rtcstt.receiver import AudioReceiver, Stalled
from rtcstt.resampling import Resampler, resampler
from rtcstt.rtp import Codec, Packet
from rtcstt.transcription import Outgoing
from rtcstt.upstream import Stream, Stt

log = logging.getLogger(__name__)

Mode = Literal["auto", "manual"]
MAX_COMMAND_CHARACTERS = 16_384
CHUNK_MS = (20, 200)


class Recorder(Protocol):
    """Keeps what was sent to the STT; see `rtcstt.recordings`."""

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        """Must not block for long, nor raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How the calls of a server, or of a `Transcriber`, are heard and transcribed."""

    mode: Mode = "auto"
    turn: wire.TurnSettings = wire.TurnSettings()
    keyterms: tuple[str, ...] = ()
    language: str | None = None
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
        if not CHUNK_MS[0] <= self.chunk_ms <= CHUNK_MS[1]:
            raise wire.bad_request(f"chunk_ms must be from {CHUNK_MS[0]} to {CHUNK_MS[1]}.")


class Line:
    """One track of a call. `push` or `push_pcm` as audio comes; `end` when no more will."""

    def __init__(self, call: Call, track: str, codecs: Mapping[int, Codec] | None) -> None:
        self.track = track
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

    def end(self, reason: str) -> None:
        """The track's sender is gone. What was heard still comes out; idempotent."""
        if reason == "bye" or not self._call.settings.outlives_peers:
            self._call.end_line(self, reason)

    def finalize(self) -> None:
        """Manual mode: everything that came until now is flushed, then transcribed."""
        self._advance()
        self._stream_or_new().finalize()

    def configure(self, turn: wire.TurnSettings) -> None:
        self._stream_or_new().configure(turn)

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
            await self._stream.close()

    def silent_s(self) -> float:
        """For how long no audio came."""
        last = self._receiver.last_heard
        return math.inf if last is None else self._loop.time() - last

    def ledger(self) -> dict[str, Any]:
        return self._receiver.ledger.as_dict()

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
        for signal in self._receiver.signals():
            if isinstance(signal, Stalled):
                self._call.publish("audio.stalled", track=self.track)
            else:
                self._call.publish("audio.resumed", track=self.track, stalled=round(signal.stalled_s, 3))

    def _send(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._stream_or_new().send(chunk)
            if self._call.recorder is not None:
                self._call.recorder.write(self.track, chunk, self._offset_s())

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whatever fails on one track's audio must not end the timer, and with it the track."""
        try:
            work()
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception("failed on a track's audio (further failures are only counted)")

    def _offset_s(self) -> float:
        return self._call.offset_s(self._receiver.origin)

    def _stream_or_new(self) -> Stream:
        """The way to the STT, made when the track's place on the call's clock is known."""
        if self._stream is None:
            settings = self._call.settings
            self._stream = Stream(
                self._call.stt,
                on_event=self._publish,
                mode=settings.mode,
                settings=self._call.turn,
                keyterms=settings.keyterms,
                language=settings.language,
                offset_s=self._offset_s(),
                fallback=settings.fallback,
                patience_s=settings.patience_s,
                drain_timeout_s=settings.drain_timeout_s,
            )
            self._stream.start()
        return self._stream

    def _publish(self, event: Outgoing) -> None:
        self._call.publish_outgoing(self.track, event)

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


@dataclass(slots=True)
class _Counts:
    turns: int = 0
    errors: int = 0
    reconnects: int = 0
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
        self.settings = settings or CallSettings(**options)
        self.turn = self.settings.turn
        self.feed = Feed(id)
        self.created = time.time()  # shown to people; every other time is the loop's
        self.lines: dict[str, Line] = {}
        self.counts = _Counts()
        self._loop = asyncio.get_running_loop()
        self._origin: float | None = None
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
        """Now, on the call's audio clock; 0 before the first audio."""
        return max(0.0, self._loop.time() - self._origin) if self._origin is not None else 0.0

    def offset_s(self, origin: float | None) -> float:
        """Where on the call's clock a track begins; the first one makes the clock begin."""
        if origin is None:
            return self.time
        if self._origin is None:
            self._origin = origin
        return max(0.0, origin - self._origin)

    def add_track(self, track: str, codecs: Mapping[int, Codec] | None = None) -> Line:
        """A line for a new track, or the line that a track of an earlier connection had."""
        line = self.lines.get(track)
        if line is not None and not line.ended:
            line.renegotiate(codecs or {})
            return line
        if line is not None:  # its sender said BYE and came back: a line of its own
            track = f"{track}.{sum(name.split('.')[0] == track for name in self.lines)}"
        line = self.lines[track] = Line(self, track, codecs)
        if self._ending is None:
            self.publish("track.start", track=track)
        else:
            line.ended = True
        return line

    def command(self, text: str) -> None:
        """Do what a caller asked for over a data channel; an `error` event says what cannot be done."""
        try:
            self._obey(text)
        except CallerError as error:
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

    def end_line(self, line: Line, reason: str) -> None:
        """One track is over; the others go on."""
        if not line.ended and self._ending is None:
            line.ended = True
            self._draining[line.track] = asyncio.create_task(self._drain_line(line, reason))

    async def close(self, reason: str = "closed") -> None:
        """Drain every line, publish `session.end` and end the feed. Idempotent; returns when it is done."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(reason))
        await asyncio.shield(self._ending)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def publish(self, type_: str, *, track: str | None = None, **fields: Any) -> None:
        """One of rtcstt's own events, now."""
        self.feed.publish(type_, time=self.time, track=track, fields=fields)

    def publish_outgoing(self, track: str, event: Outgoing) -> None:
        """What a track's STT said."""
        if self._closed.is_set():
            return
        self._count(event)
        self.feed.publish(
            event.type,
            time=event.time,
            track=track,
            turn=event.turn,
            start=event.start,
            end=event.end,
            fields={name: value for name, value in event.fields.items() if name != "type"},
        )

    def silent_s(self) -> float:
        """For how long no packet came, on any track."""
        return min((line.silent_s() for line in self.lines.values()), default=math.inf)

    def ledgers(self) -> dict[str, dict[str, Any]]:
        return {track: line.ledger() for track, line in self.lines.items()}

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
            "tracks": [line.snapshot() for line in self.lines.values()],
            "ledger": self.ledgers(),
            "listeners": self.feed.listeners,
        }

    def _begin(self) -> None:
        about = {"mode": self.settings.mode, "engine": self.stt.name, "label": self.label}
        about["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.created))
        self.publish("session.start", **{name: value for name, value in about.items() if value is not None})
        log.info("call %s: began (%s, %s)", self.id, self.settings.mode, self.stt.name)

    def _open_lines(self) -> list[Line]:
        return [line for line in self.lines.values() if not line.ended]

    def _obey(self, text: str) -> None:
        if len(text) > MAX_COMMAND_CHARACTERS:
            raise wire.bad_request("That message is too long.", "bad_message")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise wire.bad_request("That message is not JSON.", "bad_message") from None
        kind = message.get("type") if isinstance(message, dict) else None
        match kind:
            case "finalize":
                self.finalize()
            case "config":
                self.configure(wire.turn_settings(message.get("turn")))
            case "close":
                if self._ending is None:
                    self._ending = asyncio.create_task(self._end("asked"))
            case _:
                raise wire.bad_request("Known messages are finalize, config and close.", "unknown_message")

    def _say_error(self, error: CallerError) -> None:
        if self._closed.is_set():
            return
        fields = {**error.as_dict(), "status_code": error.status}
        self.counts.errors += 1
        self.publish("error", **fields)

    def _count(self, event: Outgoing) -> None:
        self.counts.turns += event.type == "turn.end"
        self.counts.errors += event.type == "error"
        self.counts.reconnects += event.type == "stt.reconnecting"
        if event.type == "turn.end" and event.end is not None and len(self.counts.end_delays_s) < 10_000:
            self.counts.end_delays_s.append(max(0.0, event.time - event.end))

    async def _drain_line(self, line: Line, reason: str) -> None:
        try:
            await line.drain()
        except Exception:
            log.exception("a track did not drain")
        self.publish("track.end", track=line.track, reason=reason, ledger=line.ledger())

    async def _end(self, reason: str) -> None:
        drains = [*self._draining.values()]
        drains += [asyncio.create_task(self._drain_line(line, reason)) for line in self._open_lines()]
        await asyncio.gather(*drains)
        tracks = [{"track": track, "ledger": ledger} for track, ledger in self.ledgers().items()]
        self.publish("session.end", reason=reason, tracks=tracks, ledger=self.ledgers())
        log.info("call %s: ended (%s) after %.1f s", self.id, reason, self.time)
        self._closed.set()
        self.feed.close()
