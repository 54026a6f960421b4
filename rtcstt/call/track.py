"""One track of a call: packets or PCM go in, chunks go on to the STT at an even pace, events come out.

A track has no task while it lasts; a timer asks the receiver for what is due.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from rtcstt import wire
from rtcstt.call.settings import CallSettings, Recorder
from rtcstt.errors import UpstreamError
from rtcstt.events import (
    AnyEvent,
    AudioIgnored,
    AudioLedger,
    AudioResumed,
    AudioSources,
    AudioStalled,
    AudioSuspect,
    Dtmf,
    FlushDone,
    TrackEnd,
    TrackMuted,
    TrackUnmuted,
    TranscriptGap,
)
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
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
from rtcstt.stt.account import Account
from rtcstt.stt.seam import Stt
from rtcstt.stt.stream import Stream

log = logging.getLogger(__name__)

MAX_HELD = 500  # packets; 10 s
PACKET_S = 0.02  # of audio lies before the arrival of its packet
LOST_S = 0.2  # a shorter time without packets is concealed, or silence


@dataclass(slots=True)
class Shared:
    """What the tracks of one call have in common."""

    stt: Stt
    settings: CallSettings
    turn: wire.TurnSettings  # those that hold now
    report: Callable[[AnyEvent], None]  # gets every event of every track
    recorder: Recorder | None = None
    origin: float | None = None  # when the call's audio clock began

    def offset_s(self, origin: float) -> float:
        """Where on the call's clock a track begins; the first one makes the clock begin."""
        if self.origin is None:
            self.origin = origin
        return max(0.0, origin - self.origin)


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is kept of a track whose audio, decoder and stream are gone."""

    time: float
    last_received: float | None
    ledger: AudioLedger
    stats: dict[str, Any]
    failure: UpstreamError | None


@dataclass(frozen=True, slots=True)
class KeptTrack:
    """``state`` is what `Track.state` gave; ``audio`` that from the floor on, as far as it was kept.
    ``origin``: when its first sample was spoken, in the loop's time here; None when nothing had come."""

    state: Mapping[str, Any]
    audio: Sequence[Chunk] = ()
    origin: float | None = None


class Track:
    """`push` or `push_pcm` as audio comes; `end` when no more will."""

    def __init__(
        self, shared: Shared, track: str, mid: str, codecs: Mapping[int, Codec] | None = None
    ) -> None:
        self.track = track
        self.mid = mid
        self.ended = False
        "No more audio is taken."
        self.failures = 0
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        settings = shared.settings
        self._receiver = AudioReceiver(
            codecs or {}, chunk_ms=settings.chunk_ms, max_delay_ms=settings.max_delay_ms
        )
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resampler: tuple[int, Resampler] | None = None
        self._flushes: deque[int] = deque()  # samples to be sent before each `finalize` asked for
        self._draining: asyncio.Task[None] | None = None
        self._final: _Ended | None = None
        self._held: deque[tuple[Packet, float]] | None = None
        self._on_held: Callable[[], None] = lambda: None
        self._nothing_since: int | None = None  # the sample from which on nothing was received on any server

    # -- audio and commands in -----------------------------------------------------------------------

    def push(self, packet: Packet) -> None:
        """One RTP packet, at the moment of its arrival."""
        if self.ended:
            return
        if self._held is not None:
            self._held.append((packet, self._loop.time()))
            if len(self._held) == 1:
                self._on_held()
            return
        self._receive(packet, self._loop.time())

    def _receive(self, packet: Packet, now: float) -> None:
        self._skip_what_nobody_received(now - PACKET_S)
        self._receiver.push(packet, now)
        if self._timer is None:
            self._schedule()

    def push_pcm(self, samples: Samples, sample_rate: int) -> None:
        """Some int16 mono audio of a source that has no packets, in real time."""
        if self.ended:
            return
        self._skip_what_nobody_received(self._loop.time())
        self._receiver.push_pcm(self._resampled(samples, sample_rate), self._loop.time())
        if self._timer is None:
            self._schedule()

    def renegotiate(self, codecs: Mapping[int, Codec], *, reconnected: bool = True) -> None:
        """Payload types mean something else. ``reconnected``: another connection carries the track on."""
        self._receiver.renegotiate(codecs, reconnected=reconnected)

    def bye(self, ssrc: int) -> None:
        """A source says that it leaves (RTCP BYE). The track goes on with the next packet that comes."""
        if not self.ended:
            self._receiver.bye(ssrc, self._loop.time())

    def mute(self, reason: str) -> None:
        """The sender says that it stops for now."""
        if not self.ended:
            self._receiver.mute(reason)

    def finalize(self) -> None:
        """Manual mode: what came until now is sent, which takes until its chunk is full, then transcribed."""
        if self._stream is None:  # nothing has come
            self._shared.report(FlushDone(track=self.track))
            return
        self._flushes.append(self._received_until())
        self._advance()

    def configure(self, turn: wire.TurnSettings) -> None:
        """Change turn detection; a stream that is yet to be made begins with what the call has."""
        if self._stream is not None:
            self._stream.configure(turn)

    # -- from one server to another ------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What another server needs to go on with the track, besides the audio from `floor` on and `origin`.
        For JSON."""
        if self._final is not None:
            return {"mid": self.mid, "final": {"time": self._final.time, "ledger": self._final.ledger}}
        if self._stream is None:
            return {"mid": self.mid}
        return {
            "mid": self.mid,
            "clock": self._receiver.clock.state(),
            "stt": self._stream.state(),
            "flushes": list(self._flushes),
        }

    @property
    def origin(self) -> float | None:
        """When its first sample was spoken, in the loop's time; None before anything came."""
        return self._receiver.origin

    @property
    def floor(self) -> int:
        """The sample up to which its text is finished."""
        return self._stream.floor if self._stream is not None else 0

    def restore(self, kept: KeptTrack) -> None:
        """Go on from what another server kept: at once with what it had received, with new audio when some
        comes. Before anything else."""
        final = kept.state.get("final")
        if final is not None:
            self.ended = True
            ledger = cast(AudioLedger, final["ledger"])
            stats = {"audio": self._receiver.stats(), "stt": {}, "failures": 0}
            self._final = _Ended(float(final["time"]), None, ledger, stats, None)
        elif kept.origin is not None and "stt" in kept.state:
            self._receiver.clock.restore(kept.state["clock"], kept.origin)
            stt = kept.state["stt"]
            self._flushes.extend(kept.state["flushes"])
            self._stream_or_new(stt).replay(kept.audio)
            settled = int(stt["settled"])  # what was said before has its text
            self._nothing_since = kept.audio[-1].end if kept.audio else settled
            if kept.audio and kept.audio[0].start > max(settled, int(stt["begin"])):
                self._report(Lost(settled, kept.audio[0].start, "server"))

    def hold(self, on_held: Callable[[], None]) -> None:
        """Keep packets for `release`, since another server still receives the caller as well. ``on_held`` is
        called with the first one."""
        self._held, self._on_held = deque(maxlen=MAX_HELD), on_held

    @property
    def held_since(self) -> float | None:
        """When the first of the packets kept came."""
        return self._held[0][1] if self._held else None

    def release(self) -> None:
        """From now on it is this server that receives the caller; first the packets that the other one did
        not have."""
        held, self._held = self._held or (), None
        received = -math.inf
        if self._nothing_since is not None and self._receiver.origin is not None:
            received = self._receiver.origin + self._nothing_since / SAMPLE_RATE
        for packet, at in held:
            if at > received:
                self._receive(packet, at)
        if held and self._stream is not None:  # whoever pauses now is connected all the same
            self._nothing_since = None
            if self._timer is None:
                self._schedule()

    def _skip_what_nobody_received(self, now: float) -> None:
        """What was sent while no server was there to receive it is a gap, unless it is short."""
        start, self._nothing_since = self._nothing_since, None
        if start is None:
            return
        self._receiver.clock.skip(now)
        if self._receiver.position - start > LOST_S * SAMPLE_RATE:
            self._report(Lost(start, self._receiver.position, "server"))

    # -- the end -------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """The track's sender is gone. What was received still comes out; idempotent."""
        if not self._shared.settings.outlives_peers:
            self._begin_drain(reason)

    def finish(self, reason: str) -> None:
        """End the track whether or not the call outlives its connections."""
        self._begin_drain(reason)

    async def drain(self, reason: str) -> None:
        """End the track, and wait until the STT has given everything and `track.end` is reported."""
        await asyncio.shield(self._begin_drain(reason))

    def discard(self) -> None:
        """Take no audio, and say nothing: there are too many tracks, or the call is at its end."""
        self.ended = True

    def _begin_drain(self, reason: str) -> asyncio.Task[None]:
        self.ended = True
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(reason))
        return self._draining

    async def _drain(self, reason: str) -> None:
        try:
            await self._flush_all()
        except Exception:
            log.exception("a track did not drain")
        self._final = _Ended(
            self.time, self._receiver.last_received, self.ledger(), self.stats(), self.failure
        )
        self._stream = self._resampler = None
        self._receiver = AudioReceiver({})
        self._shared.report(TrackEnd(track=self.track, reason=reason, ledger=self.ledger()))

    async def _flush_all(self) -> None:
        """Flush the receiver, then the STT."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        self._skip_what_nobody_received(now)
        self._guarded(self._flush_resampler)
        self._guarded(lambda: self._send(self._receiver.pull(now)))
        self._guarded(lambda: self._send(self._receiver.close(now)))
        self._report_signals()
        if self._stream is not None:
            for _ in self._flushes:
                self._stream.finalize()
            await self._stream.close()

    # -- what others may ask -------------------------------------------------------------------------

    def silent_s(self) -> float:
        """For how long no audio came."""
        last = self._receiver.last_received if self._final is None else self._final.last_received
        return math.inf if last is None else self._loop.time() - last

    @property
    def time(self) -> float:
        """The end of what was sent, on the call's audio clock."""
        if self._final is not None:
            return self._final.time
        return self._seconds(self._receiver.position) if self._stream else 0.0

    @property
    def queued_s(self) -> float:
        """Audio that came and waits for its time to be sent: much, where it comes faster than real time."""
        return self._receiver.ledger.queued / SAMPLE_RATE

    @property
    def failure(self) -> UpstreamError | None:
        """Why the STT gives no text any more, once that is so."""
        if self._final is not None:
            return self._final.failure
        return self._stream.failure if self._stream is not None else None

    def ledger(self) -> AudioLedger:
        """What became of the track's audio, in ms. At the end ``sent`` = ``received`` + ``recovered`` +
        ``concealed`` + ``silence`` - ``discarded``; before it, some audio waits."""
        if self._final is not None:
            return self._final.ledger
        return _ledger(self._receiver.ledger, self._stream.account() if self._stream else Account())

    def stats(self) -> dict[str, Any]:
        if self._final is not None:
            return self._final.stats
        stt = self._stream.stats() if self._stream is not None else {}
        return {"audio": self._receiver.stats(), "stt": stt, "failures": self.failures}

    def snapshot(self) -> dict[str, Any]:
        return {"track": self.track, "ended": self.ended, "ledger": self.ledger(), **self.stats()}

    # -- inside --------------------------------------------------------------------------------------

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
        while self._flushes and self._stream and self._receiver.position >= self._flushes[0]:
            self._flushes.popleft()
            self._stream.finalize()
        self._report_signals()

    def _report_signals(self) -> None:
        for signal in self._receiver.signals():
            self._report(signal)

    def _report(self, signal: Signal) -> None:
        self._shared.report(self._event(signal))

    def _event(self, signal: Signal) -> AnyEvent:
        track = self.track
        match signal:
            case Stalled():
                return AudioStalled(track=track)
            case Resumed():
                return AudioResumed(track=track, stalled=round(signal.stalled_s, 3))
            case Lost():
                start, end = self._seconds(signal.start), self._seconds(signal.end)
                return TranscriptGap(track=track, start=start, end=end, reason=signal.reason)
            case Muted():
                return TrackMuted(track=track, reason=signal.reason)
            case Unmuted():
                return TrackUnmuted(track=track)
            case Pressed():
                return Dtmf(track=track, digit=signal.digit, duration_ms=signal.duration_ms)
            case Ignored():
                return AudioIgnored(track=track, reason=signal.reason, payload_type=signal.payload_type)
            case SeveralSources():
                return AudioSources(track=track, sources=signal.count)
            case Suspect():
                return AudioSuspect(track=track, guess=signal.guess)

    def _send(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._stream_or_new().send(chunk)
            self._guarded(partial(self._record, chunk))

    def _record(self, chunk: Chunk) -> None:
        if self._shared.recorder is not None:
            self._shared.recorder.write(self.track, chunk, self._offset_s())

    def _received_until(self) -> int:
        """Where on the track the audio lies that comes now; all that came before lies before it."""
        assert self._receiver.origin is not None
        elapsed = self._loop.time() - self._receiver.origin
        return round((elapsed + self._receiver.lag_s) * SAMPLE_RATE)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whatever fails on one track's audio must not end the timer, and with it the track."""
        try:
            work()
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception("failed on a track's audio (further failures are only counted)")

    def _seconds(self, sample: int) -> float:
        """On the call's clock."""
        return self._offset_s() + sample / SAMPLE_RATE

    def _offset_s(self) -> float:
        assert self._receiver.origin is not None  # there is audio
        return self._shared.offset_s(self._receiver.origin)

    def _stream_or_new(self, state: Mapping[str, Any] | None = None) -> Stream:
        """The way to the STT, made when the track's place on the call's clock is known. ``state``: of the one
        on another server, which it goes on from."""
        if self._stream is None:
            settings = self._shared.settings
            self._stream = Stream(
                self._shared.stt,
                track=self.track,
                on_event=self._shared.report,
                mode=settings.mode,
                settings=self._shared.turn,
                keyterms=settings.keyterms,
                language=settings.language,
                update_ms=settings.update_ms,
                offset_s=self._offset_s(),
                fallback=settings.fallback,
                patience_s=settings.patience_s,
                drain_timeout_s=settings.drain_timeout_s,
                state=state,
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


def _ledger(received: Ledger, account: Account) -> AudioLedger:
    """The account of a track's audio from its packets to the STT; a sample is 1/16 ms, so sums are exact."""
    by_reason = dict(received.discarded)
    for reason, count in account.discarded.items():
        by_reason[reason] = by_reason.get(reason, 0) + count
    return AudioLedger(
        received=received.counts[Label.RECEIVED] / 16,
        recovered=received.counts[Label.RECOVERED] / 16,
        concealed=received.counts[Label.CONCEALED] / 16,
        silence=received.counts[Label.SILENCE] / 16,
        sent=account.taken / 16,
        discarded=sum(by_reason.values()) / 16,
        discarded_by_reason={reason: count / 16 for reason, count in by_reason.items()},
        unanswered=account.unanswered / 16,
    )
