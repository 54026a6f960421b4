"""One track's transcription, across any number of connections to any number of STT engines.

The rules, and why they give every word once:

* **Audio** is kept in a bounded ring (`ReplayBuffer`) from the *floor* on: the sample up to which the
  text is finished. The floor moves when the STT says that a turn ended (or eagerly ended: its text is
  complete up to that pause; manual: at `flush_done`), into the pause that made it end, as found by
  a local energy track (`SpeechTimes`). Where no such pause can be told for certain, the floor
  moves only to before the turn that ended: receiving too much again is harmless, too little is not.
* **A connection** is a `Sending`: it starts at the floor and reads the ring at its own cursor, never faster
  than ``catch_up`` times real time, passing over pauses to win back time.
* **Text** published from the audio behind the floor is the *reference*. A new connection first says again
  what is in the reference; `TranscriptAligner` tells where it goes beyond, and only that is published,
  appended to what the listener has. Turn boundaries inside the reference are swallowed. Nothing that
  was published changes (guarantee 3 of the protocol), so a listener cannot see that there was a reconnect.
* **Times** are samples: a turn starts at the onset of the speech that precedes its `turn.start`, and ends
  with the last speech that the STT had received when it sent `turn.end`.
* **The account**: every sample was taken by a connection or is discarded with a reason (`Account`), and audio
  that may have held speech and can have no text any more is a `transcript.gap`.

`Turns` and `Manual` know what the two endpoints' messages mean; both work on one `Progress`, which together
with the audio from the floor on is all the state that another server would need (`state`).
No asyncio, no clock, no sockets here: `stream.Stream` is the shell around it.
"""

from __future__ import annotations

from collections.abc import Iterable

from rtcstt import wire
from rtcstt.errors import LocalProtocolError, RemoteProtocolError, UpstreamError
from rtcstt.events import AnyEvent
from rtcstt.media.pcm import SAMPLE_RATE, Chunk
from rtcstt.stt.account import Account, AccountedAudio, AudioState
from rtcstt.stt.activity import SpeechActivity
from rtcstt.stt.floor import TEXT_LAG, Progress, ProgressState
from rtcstt.stt.manual import Manual
from rtcstt.stt.publisher import Publisher
from rtcstt.stt.replay_buffer import ReplayBuffer
from rtcstt.stt.sending import LagWatch, Sending
from rtcstt.stt.speech_times import SHORTEST_PAUSE, SpeechTimes
from rtcstt.stt.turns import Turns

_OWN_EVENTS = ("session.", "track.", "audio.", "stt.")


class TranscriptionState(AudioState):
    """What of a `Transcription` another server needs, besides the audio from its floor on."""

    progress: ProgressState


class Transcription:
    """Feed it audio, connections and the STT's messages; it says what to send and what to publish.

    ``mode`` is "auto" or "manual". ``offset_s`` is the call's time at the track's sample 0.
    ``ring_s`` bounds the audio kept. After every call, `events()` has what is to be published.
    ``state`` is what `state` gave on another server; the audio from its floor on is to be fed again.
    """

    def __init__(
        self,
        track: str = "0",
        *,
        mode: str = "auto",
        settings: wire.TurnSettings | None = None,
        offset_s: float = 0.0,
        ring_s: float = 30.0,
        catch_up: float = 1.25,
        state: TranscriptionState | None = None,
    ) -> None:
        self._catch_up = catch_up
        self._progress = Progress.from_dict(state["progress"]) if state else Progress()
        self.account = Account(**state["account"]) if state else Account()
        self._floor = self._progress.floor
        self._activity = SpeechActivity()
        self._times = SpeechTimes(self._activity)
        self._buffer = ReplayBuffer(self._activity, capacity_s=ring_s, begin=self._floor.position)
        self._audio = AccountedAudio(self._buffer, self._floor, self.account, self._activity)
        if state:
            self._audio.restore(state)
        self._out = Publisher(track, offset_s)
        self._out.position = self._buffer.end
        self._mode = _mode(mode, self._progress, self._times, self._out, settings)
        self._sending: Sending | None = None
        self._links = 1 if state else 0
        self._config: wire.TurnSettings | None = None
        self._finishing = False
        self._lag = LagWatch(track)
        self._skipped = 0

    # -- audio and commands in -----------------------------------------------------------------------

    def audio(self, chunk: Chunk) -> None:
        """The next chunk of the track. Never refused: when the ring is full something older goes."""
        self._activity.push(chunk.samples, chunk.start)
        if self._audio.append(chunk, self._sending.cursor if self._sending else 0):
            self._mode.close_turn()
        self._out.position = self._buffer.end
        if self._buffer.begin > self._floor.position:
            self._floor.reference.forget(self._buffer.begin - TEXT_LAG)
        self._say_lag()
        self._say_gaps()

    def replay(self, chunks: Iterable[Chunk]) -> None:
        """The audio that was kept for the ``state``."""
        for chunk in self._audio.replayable(chunks):
            self.audio(chunk)

    def finalize(self) -> None:
        """Manual mode: everything received so far is to be transcribed now. Answered by `flush_done`, after a
        reconnect too."""
        if not isinstance(self._mode, Manual):
            raise LocalProtocolError("finalize belongs to manual mode")
        self._progress.flushes.append(self._buffer.end)

    def configure(self, turn: wire.TurnSettings) -> None:
        """Change turn detection on the living connection (a later one gets it in its handshake)."""
        if not isinstance(self._mode, Turns):
            raise LocalProtocolError("turn settings belong to auto mode")
        self._mode.settings = self._mode.settings.merged(turn)
        self._config = self._config.merged(turn) if self._config else turn

    def finish(self) -> None:
        """No more audio will come: after the last of it the STT is told to close."""
        self._finishing = True

    # -- the connection ------------------------------------------------------------------------------

    def connected(self, client: wire.TurnsClient | wire.ManualClient, now: float) -> None:
        """A connection is up; it will be sent the audio from the floor on."""
        self._audio.lose_evicted()
        self._say_gaps(everything=True)
        start = max(self._floor.position, self._buffer.begin)
        self._sending = Sending(client, start, self._catch_up, due=now)
        self._mode.connected(self._sending, self._floor.aligner(start), first=self._links == 0)
        self._links += 1

    def disconnected(self) -> None:
        """The connection is gone. What it was told and did not finish will be told to the next one."""
        if self._sending is not None:
            if not self._progress.waits and not self._mode.repeats:  # nothing of it is to be sent again
                self._audio.follow_silence(self._sending.cursor, isinstance(self._mode, Turns), at_once=True)
            self._skipped += self._sending.skipped
            self._sending = None
            self._mode.disconnected()

    def data_to_send(self, now: float) -> list[bytes | str]:
        """What may go out now, in order; `next_send` says when to ask again."""
        data: list[bytes | str] = []
        sending = self._sending
        if sending is None or sending.closing:
            return data
        if self._config is not None:
            data.append(sending.client.send(wire.Config(self._config)))
            self._config = None
        while True:
            data.extend(sending.due_flushes(self._progress.flushes, now))
            piece = sending.next_piece(self._buffer, now, self._mode.may_skip)
            if piece is None:
                break
            data.append(self._audio.take(piece))
        if self._finishing and sending.cursor >= self._buffer.end:
            data.append(sending.client.send(wire.Close()))
            sending.closing = True
        self._say_lag()
        self._mode.forget_stale_turn()
        if not self._progress.waits and not self._mode.repeats:
            self._audio.follow_silence(sending.cursor, isinstance(self._mode, Turns))
        self._audio.release()
        return data

    def next_send(self) -> float | None:
        """When `data_to_send` will have more, in the clock of its ``now``; None: when more audio comes."""
        return self._sending.next_send(self._buffer.end) if self._sending else None

    # -- messages of the STT -------------------------------------------------------------------------

    def receive(self, data: str | bytes) -> bool:
        """One message of the living connection; whether it is one that only a working recogniser sends.

        Raises `RemoteProtocolError` (unreadable, or illegal here) and `UpstreamError` (the STT's `error`):
        the connection must then be given up.
        """
        sending = self._sending
        if sending is None:
            return False
        if isinstance(data, bytes):
            raise RemoteProtocolError("a binary message from the STT")
        message = sending.client.receive_text(data)
        sending.note_answer(wire.audio_position(message))
        self._out.request_id = message.request_id or self._out.request_id
        match message:
            case wire.Connected():
                if self._links == 1 and isinstance(self._mode, Turns):  # manual has no such message
                    self._out.message(message)
            case wire.Error():
                raise _upstream_error(message)
            case wire.Unknown() if self._mode.repeats or message.type.startswith(_OWN_EVENTS):
                pass  # it may repeat what was said before, or could be taken for an event of ours
            case _:
                self._mode.receive(message)
                self._mode.forget_stale_turn()
        self._audio.release()
        return message.type.startswith(("turn.", "transcript", "flush_done"))

    # -- what is finished, and what is lost ----------------------------------------------------------

    def give_up(self) -> None:
        """There will be no connection any more: what has no text gets none, nor does what still comes."""
        self._audio.give_up()
        self._mode.close_turn()
        self._say_gaps(everything=True)

    def end(self, reason: str | None = None) -> None:
        """Nothing more will come: ends the listener's open turn. ``reason``: why the STT did not answer to
        the end (a `GapReason`); None when it did."""
        self._sending = None
        self._audio.end(reason if self.unfinished else None)
        self._mode.close_turn()
        self._say_gaps(everything=True)

    def _say_gaps(self, *, everything: bool = False) -> None:
        for loss in self.account.due(self._buffer.end, everything=everything):
            self._out.gap(loss.start, loss.end, loss.reason)

    def _say_lag(self) -> None:
        event = None if self._audio.given_up else self._lag.note(self.lag_s)
        if event is not None:
            self.announce(event)

    # -- events out ----------------------------------------------------------------------------------

    def announce(self, event: AnyEvent) -> None:
        self._out.announce(event)

    def events(self) -> list[AnyEvent]:
        """What is to be published, in order, each event once."""
        return self._out.events()

    # -- what the shell may ask ----------------------------------------------------------------------

    def state(self) -> TranscriptionState:
        """What another server needs to go on, besides the audio from `floor` on. For JSON."""
        return {"progress": self._progress.as_dict(), **self._audio.state()}

    @property
    def floor(self) -> int:
        """The sample up to which the text is finished."""
        return self._floor.position

    @property
    def lag_s(self) -> float:
        """Audio that the connection (or the next one) has yet to be sent."""
        cursor = self._sending.cursor if self._sending else max(self._floor.position, self._buffer.begin)
        piece = self._buffer.next(cursor)  # there may be a hole before it
        return (self._buffer.end - max(cursor, piece.start)) / SAMPLE_RATE if piece else 0.0

    @property
    def idle(self) -> bool:
        """Between two turns, with nothing being said: the moment to change engines."""
        since = max(self._floor.position, self._progress.last_end + SHORTEST_PAUSE)
        return not self._progress.waits and not self._activity.speech(since, self._buffer.end)

    @property
    def unfinished(self) -> bool:
        """Whether there is speech behind the floor, an open turn, or a flush without its answer."""
        speech = self._activity.speech(self._floor.position, self._buffer.end)
        return self._progress.waits or speech > SHORTEST_PAUSE // 4

    @property
    def told_to_close(self) -> bool:
        """Whether the connection has been sent all audio and `close`."""
        return self._sending is not None and self._sending.closing

    @property
    def answered(self) -> bool:
        """Whether a connection that was told to close, and closed, has said all that was due. One that left a
        turn open, or said nothing after speech, has not."""
        if self._sending is None or self._mode.in_turn:
            return False
        since = self._floor.position
        if isinstance(self._mode, Manual):  # only finals count
            since = max(since, self._floor.reference.position)
        return self._sending.has_answered(self._activity, self._buffer, since)

    def is_stalled(self, now: float, patience_s: float) -> bool:
        """Whether the STT should have said something and did not: it was sent more than ``patience_s`` of
        speech since its last message; manual: a `finalize` is older."""
        return self._sending is not None and self._sending.is_stalled(self._activity, now, patience_s)

    def stats(self) -> dict[str, float]:
        """Counters, in seconds of audio except for `turns` and `connections`."""
        skipped = self._skipped + (self._sending.skipped if self._sending else 0)
        return {
            "turns": self._progress.turns,
            "connections": self._links,
            "received_s": self._buffer.end / SAMPLE_RATE,
            "lag_s": self.lag_s,
            "replayed_s": self._audio.replayed / SAMPLE_RATE,
            "skipped_silence_s": skipped / SAMPLE_RATE,
            "lost_s": self.account.missing / SAMPLE_RATE,
        }


def _upstream_error(message: wire.Error) -> UpstreamError:
    retryable = wire.retryable(message.status_code)
    return UpstreamError(
        message.message, status=message.status_code, code=message.error_code, retryable=retryable
    )


def _mode(
    mode: str, progress: Progress, times: SpeechTimes, out: Publisher, settings: wire.TurnSettings | None
) -> Turns | Manual:
    if mode == "manual":
        return Manual(progress, times, out)
    return Turns(progress, times, out, settings or wire.TurnSettings())
