"""A track's audio on its way: through the receiver, at an even pace, to the STT.

There is no task here; a timer asks the receiver for what is due.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np

from rtcstt import wire
from rtcstt.call.concealed import Concealed
from rtcstt.call.held import HeldPackets
from rtcstt.call.settings import CallSettings, Recorder
from rtcstt.call.stall import Stall
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
    TrackMuted,
    TrackUnmuted,
    TranscriptGap,
)
from rtcstt.media.clock import ClockState
from rtcstt.media.pcm import SAMPLE_RATE, Chunk, Label, Ledger, Samples
from rtcstt.media.receiver import AudioReceiver, AudioStats
from rtcstt.media.resampling import Resampler, resampler
from rtcstt.media.rtp import PACKET_S, Codec, Packet
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
from rtcstt.stt.transcription import TranscriptionState

log = logging.getLogger(__name__)

MAX_ARRIVED = 16  # packets that wait to be taken in together; 0.3 s
JITTER_S = 0.2  # of a call that is handed over: both servers received it, so a shorter hole is none


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


class FlowState(TypedDict):
    """What of a track whose audio has begun another server needs, besides the audio itself."""

    clock: ClockState
    stt: TranscriptionState
    flushes: list[int]


class FinalState(TypedDict):
    """Of a track that has ended."""

    time: float
    ledger: AudioLedger


class TrackState(TypedDict):
    """What `Track.state` gives: ``flow`` once audio has begun, ``final`` after the end."""

    mid: str
    flow: NotRequired[FlowState]
    final: NotRequired[FinalState]


@dataclass(frozen=True, slots=True)
class KeptTrack:
    """``state`` is what `Track.state` gave; ``audio`` that from the floor on, as far as it was kept.
    ``origin``: when its first sample was spoken, in the loop's time here; None when nothing had come."""

    state: TrackState
    audio: Sequence[Chunk] = ()
    origin: float | None = None


class TrackStats(TypedDict):
    """Counters of one track. ``stt`` is empty before the first audio."""

    audio: AudioStats
    stt: dict[str, float | str | bool]
    failures: int


class Flow:
    """What a `Track` has while it takes audio."""

    def __init__(self, shared: Shared, track: str, codecs: Mapping[int, Codec]) -> None:
        self.failures = 0
        self.outside_s = 0.0  # audio that came and waits, where there is no room for it yet
        self._shared = shared
        self.track = track
        self._loop = asyncio.get_running_loop()
        settings = shared.settings
        self._receiver = AudioReceiver(codecs, chunk_ms=settings.chunk_ms, max_delay_ms=settings.max_delay_ms)
        self._arrived: deque[tuple[Packet, float]] = deque()  # not yet taken in
        self.stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pcm = _PcmSource()
        self._concealed = Concealed()
        self._flushes: deque[int] = deque()  # samples to be sent before each `finalize` asked for
        self._held: HeldPackets | None = None
        self._on_held: Callable[[], None] = lambda: None
        self._nothing_since: int | None = None  # the sample from which on nothing was received on any server
        self._lag_s = 0.0  # what came there went out so late
        self._stall = Stall()
        self.moves = False  # another server may be receiving the caller already
        self._tolerated_s = PACKET_S  # a hole between two servers of so long

    @property
    def receiver(self) -> AudioReceiver:
        """With all that has arrived taken in."""
        while self._arrived:
            self._guarded(partial(_take_in, self._arrived, self._receiver))
        return self._receiver

    def push(self, packet: Packet) -> None:
        now = self._loop.time()
        if self._held is not None:
            self._held.add(packet, now)
            if len(self._held) == 1:
                self._on_held()
        elif self._timer is None or self._nothing_since is not None:
            self._guarded(partial(self._receive, packet, now))
        else:
            self._arrived.append((packet, now))  # taken in together they cost less than one by one
            if len(self._arrived) >= MAX_ARRIVED:
                self._advance()

    def _receive(self, packet: Packet, now: float) -> None:
        if self._nothing_since is not None:
            self._skip_what_nobody_received(now - PACKET_S)
        self._receiver.push(packet, now)
        if self._timer is None:
            self._schedule()

    def push_pcm(self, samples: Samples, sample_rate: int) -> None:
        now = self._loop.time()
        self._skip_what_nobody_received(now - len(samples) / sample_rate)
        self._receiver.push_pcm(self._pcm.resample(samples, sample_rate), now)
        if self._timer is None:
            self._schedule()

    def drop_pcm(self, duration_s: float, reason: str) -> None:
        now = self._loop.time()
        self._flush_pcm(now)
        self.receiver.drop_pcm(duration_s, now, reason)
        if self._timer is None:
            self._schedule()

    def finalize(self) -> None:
        if self.stream is None:  # nothing has come
            self._shared.report(FlushDone(track=self.track))
            return
        self._flushes.append(_received_until(self.receiver, self._loop.time()))
        self._advance()

    async def close(self) -> None:
        """Flush the receiver, then the STT; returns when both have given everything."""
        self.stop()
        now = self._loop.time()
        self._skip_what_nobody_received(now)
        self._guarded(lambda: self._flush_pcm(now))
        self._guarded(lambda: self._send(self.receiver.pull(now)))
        self._guarded(lambda: self._send(self.receiver.close(now)))
        if self.outside_s and self.receiver.origin is not None:
            self.receiver.note_outside(self.outside_s)
        self._report_signals()
        if self.stream is not None:
            for _ in self._flushes:
                self.stream.finalize()
            await self.stream.close()

    def stop(self) -> None:
        """Ask the receiver no more."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def time(self) -> float:
        """The end of what was sent, on the call's audio clock."""
        return self._seconds(self._receiver.position) if self.stream is not None else 0.0

    @property
    def failure(self) -> UpstreamError | None:
        return self.stream.failure if self.stream is not None else None

    def ledger(self) -> AudioLedger:
        return _ledger_of(self.receiver.ledger, self.stream.account() if self.stream else Account())

    def stats(self) -> TrackStats:
        stt = self.stream.stats() if self.stream is not None else {}
        return {"audio": self.receiver.stats(), "stt": stt, "failures": self.failures}

    # -- from one server to another ------------------------------------------------------------------

    def state(self) -> FlowState | None:
        """What `restore` wants, besides the audio from the floor on and the origin. For JSON. None before the
        first audio."""
        if self.stream is None:
            return None
        return {
            "clock": self.receiver.clock.state(),
            "stt": self.stream.state(),
            "flushes": list(self._flushes),
        }

    def restore(self, kept: KeptTrack) -> None:
        """Go on from what another server kept: with what it had received at once, then with what comes."""
        if kept.origin is None or "flow" not in kept.state:
            return
        flow = kept.state["flow"]
        self.receiver.clock.restore(flow["clock"], kept.origin)
        stt = flow["stt"]
        self._flushes.extend(flow["flushes"])
        self._stream_or_new(stt).replay(kept.audio)
        settled = stt["settled"]  # what was said before has its text
        self._nothing_since = kept.audio[-1].end if kept.audio else settled
        self._lag_s = flow["clock"]["lag"] / SAMPLE_RATE
        if kept.audio and kept.audio[0].start > max(settled, stt["begin"]):
            self._report(Lost(settled, kept.audio[0].start, "server"))

    def hand_over(self) -> None:
        """Another server takes the call: send on all that was received. What comes is kept, for `release`
        should it not take the call after all."""
        self.stop()
        self._timer = None
        self._held = HeldPackets()
        now = self._loop.time()
        self._guarded(lambda: self._flush_pcm(now))
        self._guarded(lambda: self._send(self.receiver.hand_over(now)))
        self._report_signals()

    def hold(self, on_held: Callable[[], None]) -> None:
        """See `Track.hold`."""
        self._held, self._on_held = HeldPackets(), on_held

    @property
    def held_since(self) -> float | None:
        """When the first of the packets kept came."""
        return self._held.since if self._held is not None else None

    def release(self, *, handed_over: bool = True) -> None:
        """See `Track.release`."""
        self._tolerated_s = JITTER_S if handed_over else PACKET_S
        held, self._held = self._held or HeldPackets(), None
        received = -math.inf
        if self._nothing_since is not None and self.receiver.origin is not None:
            received = self.receiver.origin + self._nothing_since / SAMPLE_RATE - self._lag_s
        for packet, at in held.after(received + PACKET_S / 2, self.receiver.codecs):
            self._guarded(partial(self._receive, packet, at))
        if held and self.stream is not None:  # whoever pauses now is connected all the same
            self._nothing_since = None
        if self._timer is None and self._nothing_since is None and self._receiver.origin is not None:
            self._schedule()

    def _skip_what_nobody_received(self, now: float) -> None:
        """What was sent while no server was there to receive it is a gap, however short: nothing stands for
        it, as it does for a lost packet."""
        start, self._nothing_since = self._nothing_since, None
        if start is None:
            return
        self.receiver.clock.skip(now, self._lag_s)
        if self.receiver.position - start > self._tolerated_s * SAMPLE_RATE:
            self._report(Lost(start, self.receiver.position, "server"))

    # -- inside --------------------------------------------------------------------------------------

    def _flush_pcm(self, now: float) -> None:
        rest = self._pcm.flush()
        if len(rest):
            self.receiver.push_pcm(rest, now)

    def _schedule(self) -> None:
        due = self._receiver.next_due(self._loop.time())
        self._timer = self._loop.call_at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        self._stall.note(due, self._loop.time())
        self._advance()
        self._schedule()

    def _advance(self) -> None:
        now = self._loop.time()
        waits = self.moves or self._stall.lasts(now)
        self._guarded(lambda: self._send(self.receiver.pull(now, waits=waits)))
        while self._flushes and self.stream and self._receiver.position >= self._flushes[0]:
            self._flushes.popleft()
            self.stream.finalize()
        self._report_signals()

    def _report_signals(self) -> None:
        for signal in self._receiver.signals():
            self._report(signal)

    def _report(self, signal: Signal) -> None:
        self._shared.report(event_of(signal, self.track, self._seconds))

    def _tell(self, event: AnyEvent) -> None:
        self._shared.report(self._concealed.told(event, self._offset_s))

    def _send(self, chunks: Sequence[Chunk]) -> None:
        self._concealed.note(self._receiver.position, self._receiver.ledger.counts[Label.CONCEALED])
        for chunk in chunks:
            self._stream_or_new().send(chunk)
            if (recorder := self._shared.recorder) is not None:
                self._guarded(partial(recorder.write, self.track, chunk, self._offset_s()))

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

    def _stream_or_new(self, state: TranscriptionState | None = None) -> Stream:
        """The way to the STT, made when the track's place on the call's clock is known. ``state``: of the one
        on another server, which it goes on from."""
        if self.stream is None:
            self.stream = _stream_of(self._shared, self.track, self._tell, self._offset_s(), state)
            self.stream.start()
        return self.stream


def _received_until(receiver: AudioReceiver, now: float) -> int:
    """Where on the track the audio lies that comes ``now``; all that came before lies before it."""
    assert receiver.origin is not None
    return round((now - receiver.origin + receiver.clock.lag_s) * SAMPLE_RATE)


def _stream_of(
    shared: Shared,
    track: str,
    on_event: Callable[[AnyEvent], None],
    offset_s: float,
    state: TranscriptionState | None,
) -> Stream:
    settings = shared.settings
    return Stream(
        shared.stt,
        track=track,
        on_event=on_event,
        mode=settings.mode,
        settings=shared.turn,
        keyterms=settings.keyterms,
        language=settings.language,
        update_ms=settings.update_ms,
        offset_s=offset_s,
        fallback=settings.fallback,
        patience_s=settings.patience_s,
        drain_timeout_s=settings.drain_timeout_s,
        state=state,
    )


def _ledger_of(received: Ledger, account: Account) -> AudioLedger:
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


def _take_in(arrived: deque[tuple[Packet, float]], receiver: AudioReceiver) -> None:
    """What has arrived, up to the packet that something fails on."""
    while arrived:
        receiver.push(*arrived.popleft())


class _PcmSource:
    """PCM at any sample rate as 16 kHz."""

    def __init__(self) -> None:
        self._resampler: tuple[int, Resampler] | None = None

    def resample(self, samples: Samples, rate: int) -> Samples:
        """What can be given of it; another rate than before ends what was held back."""
        rest = None
        if self._resampler is None or self._resampler[0] != rate:
            rest = self.flush()
            self._resampler = (rate, resampler(rate))
        resampled = self._resampler[1].push(np.asarray(samples, np.int16))
        return resampled if rest is None or not len(rest) else np.concatenate([rest, resampled])

    def flush(self) -> Samples:
        """What is held back; nothing is after it."""
        held, self._resampler = self._resampler, None
        return held[1].flush() if held is not None else np.zeros(0, np.int16)


def event_of(signal: Signal, track: str, seconds: Callable[[int], float]) -> AnyEvent:
    """What a track's receiver signals, as an event; ``seconds`` is the time of a sample."""
    match signal:
        case Stalled():
            return AudioStalled(track=track)
        case Resumed():
            return AudioResumed(track=track, stalled=round(signal.stalled_s, 3))
        case Lost():
            start, end = seconds(signal.start), seconds(signal.end)
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
