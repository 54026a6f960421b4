"""One track of a call: packets or PCM go in, events come out."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rtcstt import wire
from rtcstt.call.flow import Flow, KeptTrack, Shared, TrackState, TrackStats
from rtcstt.errors import UpstreamError
from rtcstt.events import AudioLedger, GapReason, TrackEnd
from rtcstt.media.pcm import SAMPLE_RATE, Samples
from rtcstt.media.rtp import PACKET_S, Codec, Packet

log = logging.getLogger(__name__)


class TrackSnapshot(TrackStats):
    """An item of `CallSnapshot.tracks`."""

    track: str
    ended: bool
    ledger: AudioLedger


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is kept of a track that has ended: not its audio, decoder and stream."""

    time: float
    last_received: float | None
    ledger: AudioLedger
    stats: TrackStats
    failure: UpstreamError | None = None


class Track:
    """`push` or `push_pcm` as audio comes; `end` when no more will."""

    def __init__(
        self, shared: Shared, track: str, mid: str, codecs: Mapping[int, Codec] | None = None
    ) -> None:
        self._name = track
        self.mid = mid
        self.ended = False
        "No more audio is taken."
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._flow: Flow | _Ended = Flow(shared, track, codecs or {})
        self._draining: asyncio.Task[None] | None = None
        self._leave_out: Callable[[float], None] = lambda duration_s: None

    @property
    def track(self) -> str:
        """Its id, in events."""
        return self._name

    @track.setter
    def track(self, name: str) -> None:
        self._name = name
        if isinstance(self._flow, Flow):
            self._flow.track = name

    # -- audio and commands in -----------------------------------------------------------------------

    def push(self, packet: Packet) -> None:
        """One RTP packet, at the moment of its arrival."""
        if flow := self._open():
            flow.push(packet)
        elif packet.payload:
            self._leave_out(PACKET_S)

    def push_pcm(self, samples: Samples, sample_rate: int) -> None:
        """Some int16 mono audio of a source that has no packets, in real time."""
        if flow := self._open():
            flow.push_pcm(samples, sample_rate)
        else:
            self._leave_out(len(samples) / sample_rate)

    def drop_pcm(self, duration_s: float = 0.0, reason: GapReason = "network") -> None:
        """Audio came that is not understood: that is a gap. ``duration_s`` 0: nobody knows how much; then all
        since the last that came."""
        if flow := self._open():
            flow.drop_pcm(duration_s, reason)
        else:
            self._leave_out(duration_s)

    def wait_outside(self, duration_s: float) -> None:
        """So much PCM has come and waits until there is room. If the track ends before, it is a gap."""
        if isinstance(self._flow, Flow):
            self._flow.outside_s = duration_s

    def renegotiate(self, codecs: Mapping[int, Codec], *, reconnected: bool = True) -> None:
        """Payload types mean something else. ``reconnected``: another connection carries the track on."""
        if flow := self._open():
            flow.receiver.renegotiate(codecs, reconnected=reconnected)

    def bye(self, ssrc: int) -> None:
        """A source says that it leaves (RTCP BYE). The track goes on with the next packet that comes."""
        if flow := self._open():
            flow.receiver.bye(ssrc, self._loop.time())

    def report(self, ssrc: int, sent: int) -> None:
        """A source says how many packets it has sent (RTCP sender report)."""
        if flow := self._open():
            flow.receiver.report(ssrc, sent, self._loop.time())

    def mute(self, reason: str) -> None:
        """The sender says that it stops for now."""
        if flow := self._open():
            flow.receiver.mute(reason)

    def leave(self) -> None:
        """The caller is asked to offer to another server: what comes no more here is no silence."""
        if flow := self._open():
            flow.moves = True

    def hand_over(self) -> None:
        """Another server takes the call: send on all that was received, and keep what comes. `release` when
        it does not take it after all."""
        if flow := self._open():
            flow.hand_over()

    def finalize(self) -> None:
        """Manual mode: what came until now is sent, which takes until its chunk is full, then transcribed."""
        if flow := self._open():
            flow.finalize()

    def configure(self, turn: wire.TurnSettings) -> None:
        """Change turn detection; a stream that is yet to be made begins with what the call has."""
        flow = self._open()
        if flow and flow.stream is not None:
            flow.stream.configure(turn)

    def _open(self) -> Flow | None:
        return self._flow if isinstance(self._flow, Flow) and not self.ended else None

    # -- the end -------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """The track's sender is gone. What was received still comes out; idempotent."""
        if not self._shared.settings.outlives_peers:
            self.finish(reason)

    def finish(self, reason: str) -> None:
        """End the track whether or not the call outlives its connections."""
        if isinstance(self._flow, Flow):
            self._begin_drain(self._flow, reason)

    async def drain(self, reason: str) -> None:
        """End the track, and wait until the STT has given everything and `track.end` is reported."""
        if isinstance(self._flow, Flow):
            await asyncio.shield(self._begin_drain(self._flow, reason))

    def discard(self, leave_out: Callable[[float], None] = lambda duration_s: None) -> None:
        """Take no audio: there are too many tracks, or the call is at its end. ``leave_out`` is told how much
        comes, in s."""
        self.ended = True
        self._leave_out = leave_out

    def _begin_drain(self, flow: Flow, reason: str) -> asyncio.Task[None]:
        self.ended = True
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(flow, reason))
        return self._draining

    async def _drain(self, flow: Flow, reason: str) -> None:
        try:
            await flow.close()
        except Exception:
            log.exception("a track did not drain")
        self._flow = _Ended(flow.time, flow.receiver.last_received, flow.ledger(), flow.stats(), flow.failure)
        self._shared.report(TrackEnd(track=self.track, reason=reason, ledger=self.ledger()))

    # -- from one server to another ------------------------------------------------------------------

    def state(self) -> TrackState:
        """What another server needs to go on with the track, besides the audio from `floor` on and `origin`.
        For JSON."""
        if isinstance(self._flow, Flow):
            flow = self._flow.state()
            return {"mid": self.mid} if flow is None else {"mid": self.mid, "flow": flow}
        return {"mid": self.mid, "final": {"time": self._flow.time, "ledger": self._flow.ledger}}

    @property
    def origin(self) -> float | None:
        """When its first sample was spoken, in the loop's time; None before anything came, and after the
        end."""
        return self._flow.receiver.origin if isinstance(self._flow, Flow) else None

    @property
    def floor(self) -> int:
        """The sample up to which its text is finished."""
        flow = self._flow
        return flow.stream.floor if isinstance(flow, Flow) and flow.stream is not None else 0

    def restore(self, kept: KeptTrack) -> None:
        """Go on from what another server kept; before anything else."""
        if not isinstance(self._flow, Flow):
            return
        final = kept.state.get("final")
        if final is None:
            self._flow.restore(kept)
        else:
            self.ended = True
            self._flow = _Ended(final["time"], None, final["ledger"], self._flow.stats())

    def hold(self, on_held: Callable[[], None]) -> None:
        """Keep packets for `release`, since another server still receives the caller as well. ``on_held`` is
        called with the first one."""
        if isinstance(self._flow, Flow):
            self._flow.hold(on_held)

    @property
    def held_since(self) -> float | None:
        """When the first of the packets kept came."""
        return self._flow.held_since if isinstance(self._flow, Flow) else None

    def release(self, *, handed_over: bool = True) -> None:
        """From now on it is this server that receives the caller; first the packets that the other one did
        not have. ``handed_over``: the other one sent on all that it had received, so that both received the
        caller for a moment."""
        if isinstance(self._flow, Flow):
            self._flow.release(handed_over=handed_over)

    # -- what others may ask -------------------------------------------------------------------------

    def silent_s(self) -> float:
        """For how long no audio came."""
        flow = self._flow
        last = flow.receiver.last_received if isinstance(flow, Flow) else flow.last_received
        return math.inf if last is None else self._loop.time() - last

    @property
    def time(self) -> float:
        """The end of what was sent, on the call's audio clock."""
        return self._flow.time

    @property
    def queued_s(self) -> float:
        """Audio that came and waits for its time to be sent: much, where it comes faster than real time."""
        return self._flow.receiver.ledger.queued / SAMPLE_RATE if isinstance(self._flow, Flow) else 0.0

    @property
    def failure(self) -> UpstreamError | None:
        """Why the STT gives no text any more, once that is so."""
        return self._flow.failure

    @property
    def failures(self) -> int:
        """How often something failed on its audio."""
        return int(self.stats()["failures"])

    def ledger(self) -> AudioLedger:
        """What became of the track's audio, in ms. At the end ``sent`` = ``received`` + ``recovered`` +
        ``concealed`` + ``silence`` - ``discarded``; before it, some audio waits."""
        return self._flow.ledger() if isinstance(self._flow, Flow) else self._flow.ledger

    def stats(self) -> TrackStats:
        return self._flow.stats() if isinstance(self._flow, Flow) else self._flow.stats

    def snapshot(self) -> TrackSnapshot:
        return {"track": self.track, "ended": self.ended, "ledger": self.ledger(), **self.stats()}
