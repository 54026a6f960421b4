"""One track's transcription, across any number of connections to any number of STT engines.

The rules, and why they give every word once:

* **Audio** is kept in a bounded ring (`ReplayBuffer`) from the *floor* on: the sample up to which the
  text is finished. The floor moves when the STT says that a turn ended (or eagerly ended: its text is
  complete up to that pause; manual: at `flush_done`), into the pause that made it end, as found by
  a local energy track (`activity.SpeechActivity`). Where no such pause can be told for certain, the floor
  moves only to before the turn that ended: receiving too much again is harmless, too little is not.
* **A connection** is a `_Link`: it starts at the floor and reads the ring at its own cursor, never faster
  than `catch_up` times real time. Its sample 0 is a known sample of the track, and where it skipped a
  pause to win back time that is written down, so every moment of it is a moment of the track.
* **Text** published from the audio behind the floor is the *reference*. A new link first says again what
  is in the reference; `joining.TranscriptAligner` tells where it goes beyond, and only that is published,
  appended to what the listener has. Turn boundaries inside the reference are swallowed. Nothing that
  was published changes (protocol.md, guarantee 3), so a listener cannot see that there was a reconnect.
* **Times** are samples: a turn starts at the onset of the speech that precedes its `turn.start`, and ends
  with the last speech that the STT had received when it sent `turn.end`.

No asyncio, no clock, no sockets here: `upstream.Stream` is the shell around it.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rtcstt import events, wire
from rtcstt.errors import LocalProtocolError, RemoteProtocolError, UpstreamError
from rtcstt.events import AnyEvent
from rtcstt.media.pcm import SAMPLE_RATE, Chunk
from rtcstt.stt.activity import SpeechActivity, Stretch
from rtcstt.stt.alignment import TranscriptAligner, join_text, words
from rtcstt.stt.replay_buffer import ReplayBuffer


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


_BURST_S = 0.25  # audio that may go out at once before the pace binds
_LAG_TO_SKIP = _samples(0.5)  # pauses are shortened only while at least this much is unsent
_START_DELAY = _samples(0.15)  # a turn.start comes about so long after the onset
_LONGEST_START = _samples(1.5)
_SHORTEST_SPEECH = _samples(0.08)
_SHORTEST_PAUSE = _samples(0.2)  # no turn ends after less silence than this
_LAG_SPREAD = _samples(0.25)  # the end of a turn takes an STT so much longer than its start, at most
_CERTAIN_PAUSE = _samples(0.25)
_LOOK_BACK = _samples(0.4)
_TEXT_LAG = _samples(4.0)  # text is published at most so long after its audio was sent
_SILENCE_KEPT = _samples(2.0)  # however sure the energy track is that nothing was said
_LOOK_EVERY = _samples(1.0)  # for silence to forget
_CLEAR_AFTER = _samples(3.0)
_WORDS_BEFORE = 4
_OWN_EVENTS = ("session.", "track.", "audio.", "stt.")
_FORGOTTEN = _samples(6.5)  # a turn that a new link never continues is closed after so much silence


class _Listening(enum.Enum):
    """What the listener has been told of the open turn."""

    SPEAKING = "speaking"
    EAGER_ENDED = "eager_ended"


@dataclass(slots=True)
class _Turn:
    index: int
    start: int
    end: int
    text: str = ""
    state: _Listening = _Listening.SPEAKING
    resumed: int = 0  # where its speech had ended when it was last resumed: it ends later than that


@dataclass(slots=True)
class _Reference:
    """Text published from the audio behind the floor, and when which part of it was published."""

    text: str = ""
    marks: list[tuple[int, int]] = field(default_factory=list)  # (length of the text, cursor)
    optional: int = 0  # so many words at its beginning may have been spoken before the floor

    def add(self, text: str, cursor: int) -> None:
        if text:
            self.text += text
            self.marks.append((len(self.text), cursor))

    @property
    def position(self) -> int:
        """All its words were spoken before this sample; 0 when it is empty."""
        return self.marks[-1][1] if self.marks else 0

    def words_until(self, position: int) -> int:
        """How many of its words were published when the link had been sent up to ``position``."""
        length = max((size for size, cursor in self.marks if cursor <= position), default=0)
        return len(words(self.text[:length]))

    def forget(self, position: int) -> None:
        """Drop what was published before ``position``: its audio is gone."""
        gone = max((size for size, cursor in self.marks if cursor <= position), default=0)
        self.optional = max(0, self.optional - len(words(self.text[:gone])))
        self.text = self.text[gone:]
        self.marks = [(size - gone, cursor) for size, cursor in self.marks if size > gone]


@dataclass(slots=True)
class _Link:
    """One connection, seen from the track."""

    client: wire.TurnsClient | wire.ManualClient
    cursor: int  # the next sample of the track to send
    first: bool  # no connection was before it
    overlap: TranscriptAligner | None = None  # while it repeats the reference
    jumps: list[tuple[int, int]] = field(default_factory=list)  # (sample of the link, of the track)
    sent: int = 0
    due: float = 0.0
    closing: bool = False
    in_turn: bool = False
    onset: int = 0
    ended: int = 0  # where the speech of its last turn ended
    spoken: str = ""  # ended turns (manual: finals) of this link that are still being joined
    said: str = ""  # these and the current turn
    lead: str = ""  # stands before this link's text in the listener's turn
    skip: int = 0  # so much of this link's text is in `lead` already
    attached: bool = False  # `lead` is settled for the current turn
    answered: int = 0  # cursor when the STT last said something
    trusted_until: int = 0  # cursor up to which it cannot have stalled
    lags: deque[int] = field(default_factory=lambda: deque(maxlen=5))  # of its turn.start, in samples
    longest_lags: deque[int] = field(default_factory=lambda: deque(maxlen=5))  # what they might have been
    flushes: deque[float] = field(default_factory=deque)  # when `finalize` was sent, unanswered ones
    covered_s: float = 0.0  # manual: sum of the finals' durations, while all had one
    durations: bool = True

    @property
    def usual_lag(self) -> int:
        """How late this STT's messages are, beyond what every STT needs."""
        return sorted(self.lags)[len(self.lags) // 2] if self.lags else 0

    def track_sample(self, sample: int) -> int:
        """The sample of the track that was this connection's ``sample``."""
        base = self.jumps[0]
        for jump in self.jumps:
            if jump[0] > sample:
                break
            base = jump
        return base[1] + sample - base[0]


class Transcription:
    """Feed it audio, connections and the STT's messages; it says what to send and what to publish.

    ``mode`` is "auto" or "manual". ``offset_s`` is the call's time at the track's sample 0.
    ``ring_s`` bounds the audio kept. After every call, `events()` has what is to be published.
    """

    def __init__(
        self,
        track: str = "0",
        *,
        mode: str = "auto",
        offset_s: float = 0.0,
        ring_s: float = 30.0,
        catch_up: float = 1.25,
    ) -> None:
        self._track = track
        self._manual = mode == "manual"
        self._offset_s = offset_s
        self._catch_up = catch_up
        self._activity = SpeechActivity()
        self._replay_buffer = ReplayBuffer(self._activity, capacity_s=ring_s)
        self._link: _Link | None = None
        self._links = 0
        self._floor = 0
        self._reference = _Reference()
        self._turn: _Turn | None = None
        self._turns = 0
        self._last_text = ""  # of the turn that ended last
        self._last_end = 0
        self._flushes: list[int] = []  # positions of unanswered finalizes, oldest first
        self._config: wire.TurnSettings | None = None
        self._finishing = False
        self._events: list[AnyEvent] = []
        self._lost = 0
        self._reported_lost = 0
        self._skipped = 0
        self._replayed = 0
        self._furthest = 0
        self._looked = 0  # cursor when `_forget_silence` last looked
        self._request_id: str | None = None
        self._on_message: dict[str, Callable[[_Link, Any], None]] = {
            "connected": self._connected,
            "turn.start": self._turn_start,
            "turn.update": self._turn_text,
            "turn.eager_end": self._turn_text,
            "turn.resume": self._turn_resume,
            "turn.end": self._turn_text,
            "transcript": self._transcript,
            "flush_done": self._flush_done,
            "error": self._error,
        }

    # -- audio and commands in -----------------------------------------------------------------------

    def audio(self, chunk: Chunk) -> None:
        """The next chunk of the track. Never refused: when the ring is full something older goes."""
        self._activity.push(chunk.samples, chunk.start)
        self._replay_buffer.append(chunk)
        sent = self._link.cursor if self._link else 0
        lost = self._replay_buffer.make_room(sent, max(self._floor, self._reference.position - SAMPLE_RATE))
        if lost:
            self._lost += lost
            self._close_turn()
        if self._replay_buffer.begin > self._floor:
            self._reference.forget(self._replay_buffer.begin - _TEXT_LAG)

    def finalize(self) -> None:
        """Manual mode: everything received so far is to be transcribed now. Answered by `flush_done`, after a
        reconnect too."""
        if not self._manual:
            raise LocalProtocolError("finalize belongs to manual mode")
        self._flushes.append(self._replay_buffer.end)

    def configure(self, turn: wire.TurnSettings) -> None:
        """Change turn detection on the living connection (a later one gets it in its handshake)."""
        if self._manual:
            raise LocalProtocolError("turn settings belong to auto mode")
        self._config = self._config.merged(turn) if self._config else turn

    def finish(self) -> None:
        """No more audio will come: after the last of it the STT is told to close."""
        self._finishing = True

    # -- the connection ------------------------------------------------------------------------------

    def connected(self, client: wire.TurnsClient | wire.ManualClient, now: float) -> None:
        """A connection is up; it will be sent the audio from the floor on."""
        start = max(self._floor, self._replay_buffer.begin)
        overlap = None
        if words(self._reference.text):
            first, last = 0, self._reference.optional
            if start > self._floor:
                first = self._reference.words_until(start)
                last = max(last, self._reference.words_until(start + _TEXT_LAG))
            overlap = TranscriptAligner(self._reference.text, first=first, last=last)
        self._link = _Link(client, cursor=start, first=self._links == 0, overlap=overlap, due=now)
        self._link.jumps.append((0, start))
        self._link.answered = self._link.ended = start
        self._links += 1

    def disconnected(self) -> None:
        """The connection is gone. What it was told and did not finish will be told to the next one."""
        link, self._link = self._link, None
        if link and self._turn and self._turn.state is _Listening.EAGER_ENDED:
            self._close_turn()

    def data_to_send(self, now: float) -> list[bytes | str]:
        """What may go out now, in order; `next_send` says when to ask again."""
        link = self._link
        if link is None or link.closing:
            return []
        data: list[bytes | str] = []
        if self._config is not None:
            data.append(link.client.send(wire.Config(self._config)))
            self._config = None
        while True:
            data.extend(self._due_flushes(link, now))
            audio = self._next_audio(link, now)
            if audio is None:
                break
            data.append(audio)
        if self._finishing and link.cursor >= self._replay_buffer.end:
            data.append(link.client.send(wire.Close()))
            link.closing = True
        self._forget_stale_turn(link)
        self._forget_silence(link)
        return data

    def _due_flushes(self, link: _Link, now: float) -> list[bytes | str]:
        data: list[bytes | str] = []
        while len(link.flushes) < len(self._flushes) and self._flushes[len(link.flushes)] <= link.cursor:
            data.append(link.client.send(wire.Finalize()))
            link.flushes.append(now)
        return data

    def _next_audio(self, link: _Link, now: float) -> bytes | None:
        if now < link.due - _BURST_S:
            return None
        piece = self._replay_buffer.next(link.cursor)
        while (
            piece
            and self._replay_buffer.end - link.cursor > _LAG_TO_SKIP
            and self._replay_buffer.is_quiet(piece)
        ):
            self._skipped += piece.end - max(piece.start, link.cursor)
            link.cursor = piece.end
            piece = self._replay_buffer.next(link.cursor)
        if piece is None:
            return None
        begin = max(piece.start, link.cursor)
        if link.track_sample(link.sent) != begin:
            link.jumps.append((link.sent, begin))
        samples = piece.samples[begin - piece.start :]
        link.sent += len(samples)
        link.cursor = piece.end
        link.due = max(link.due, now) + len(samples) / SAMPLE_RATE / self._catch_up
        self._replayed += max(0, min(self._furthest, link.cursor) - begin)
        self._furthest = max(self._furthest, link.cursor)
        return samples.astype("<i2", copy=False).tobytes()

    def next_send(self) -> float | None:
        """When `data_to_send` will have more audio, in the clock of its ``now``; None: not before more audio
        comes in."""
        link = self._link
        if link is None or link.closing or link.cursor >= self._replay_buffer.end:
            return None
        return link.due - _BURST_S

    # -- messages of the STT -------------------------------------------------------------------------

    def receive(self, data: str | bytes) -> bool:
        """One message of the living connection; whether it is one that only a working recogniser sends.

        Raises `RemoteProtocolError` (unreadable, or illegal here) and `UpstreamError` (the STT's `error`):
        the connection must then be given up.
        """
        link = self._link
        if link is None:
            return False
        if isinstance(data, bytes):
            raise RemoteProtocolError("a binary message from the STT")
        message = link.client.receive_text(data)
        link.answered = link.trusted_until = link.cursor
        handler = self._on_message.get(message.type)
        if handler is not None:
            handler(link, message)
            self._forget_stale_turn(link)
        elif isinstance(message, wire.Unknown):
            self._newer(link, message)
        return message.type.startswith(("turn.", "transcript", "flush_done"))

    def _connected(self, link: _Link, message: Any) -> None:
        self._request_id = message.request_id
        if link.first and not self._manual:  # the manual endpoint has no such message
            self._emit(message, "connected")

    def _newer(self, link: _Link, message: wire.Unknown) -> None:
        """What this version does not know passes through, unless it may repeat what was said before a
        reconnect, or could be taken for an event of rtcstt's own."""
        if link.overlap is None and not message.type.startswith(_OWN_EVENTS):
            self._emit(message, message.type, turn=self._turn if message.type.startswith("turn.") else None)

    def _error(self, link: _Link, message: Any) -> None:
        retryable = wire.retryable(message.status_code)
        raise UpstreamError(
            message.message, status=message.status_code, code=message.error_code, retryable=retryable
        )

    # -- turns ---------------------------------------------------------------------------------------

    def _turn_start(self, link: _Link, message: Any) -> None:
        link.in_turn = True
        link.onset = self._onset(link)
        if link.overlap is not None and self._past_reference(link):
            self._close_turn()
            link.overlap, link.attached = None, False
            link.spoken = link.said = link.lead = ""
            link.skip = 0
        if self._turn is None and link.overlap is None:
            self._open_turn(link, message)

    def _past_reference(self, link: _Link) -> bool:
        """Whether the turn that starts now can only be new speech: the link was sent no other since its last
        turn, and has repeated everything."""
        assert link.overlap is not None
        unsaid = (s.start for s in self._stretches(link.cursor) if s.end > link.ended)
        repeated = not link.spoken or link.overlap.covered(link.spoken)
        return repeated and min(unsaid, default=0) >= self._reference.position

    def _turn_text(self, link: _Link, message: Any) -> None:
        ended = message.type == "turn.end"
        link.in_turn = not ended
        link.said = link.spoken + message.transcript
        if link.overlap is None or self._joined(link, message):
            self._publish(link, message)
            if ended:
                link.ended = max(link.ended, self._last_end)
                link.spoken = link.said = link.lead = ""
                link.skip, link.attached = 0, True
        elif ended:
            link.ended, _ = self._end_of_speech(link)
            link.spoken = link.said  # a boundary inside what was published: swallowed

    def _joined(self, link: _Link, message: Any) -> bool:
        """Whether a link that repeats the reference has come to its end with this message."""
        assert link.overlap is not None
        said = link.said
        before = self._turn.text if self._turn else ""
        beyond = link.overlap.beyond(said)
        if beyond is not None:
            link.lead, link.skip = before + beyond.text, beyond.skip
        elif message.type == "turn.update":
            return False
        elif link.overlap.covered(said) or self._nothing_between(link, self._reference.position):
            link.lead, link.skip = before, len(said)
        else:
            return False
        link.overlap, link.attached = None, True
        return True

    def _nothing_between(self, link: _Link, position: int) -> bool:
        """Whether the turn that ends now is the last speech of the reference."""
        _, cut = self._end_of_speech(link)
        return cut is not None and link.cursor >= position and not self._activity.speech(cut, position)

    def _publish(self, link: _Link, message: Any) -> None:
        if not link.attached and link.said.strip():
            self._attach(link, link.said)
        text = link.lead + link.said[link.skip :] if link.attached else ""
        if self._turn is None:
            if not text:
                return  # this turn of the link lies within turns that were published and ended
            self._open_turn(link, message)
        assert self._turn is not None
        self._publish_text(link, message, text or self._turn.text)

    def _attach(self, link: _Link, said: str) -> None:
        """The first words of a link that repeats nothing: they follow the open turn, or the last one."""
        open_text = self._turn.text if self._turn else ""
        before = open_text or ("" if link.first else self._last_text)
        after = join_text(before, said)
        link.lead = open_text + (" " if len(after) > len(said) else "")
        link.skip = max(0, len(said) - len(after))
        link.attached = True

    def _open_turn(self, link: _Link, message: Any) -> None:
        start = link.onset
        if start < self._last_end:  # the link's turn began in what was published
            later = (s.start for s in self._stretches(link.cursor) if s.start >= self._last_end)
            start = min(later, default=self._last_end)
        self._turn = _Turn(self._turns, start=start, end=start)
        self._turns += 1
        self._emit(message, "turn.start", turn=self._turn)

    def _publish_text(self, link: _Link, message: Any, text: str) -> None:
        turn = self._turn
        assert turn is not None
        if not text.startswith(turn.text):
            raise RemoteProtocolError("the STT changed text that it had published (guarantee 3)")
        self._reference.add(text[len(turn.text) :], link.cursor)
        grown = text != turn.text
        turn.text = text
        if message.type == "turn.update":
            self._resume(message)
            if grown:
                turn.end = max(turn.end, self._last_speech(link.cursor))
                self._emit(message, "turn.update", turn=turn, transcript=text)
            return
        end, cut = self._end_of_speech(link, turn.resumed)
        turn.end = max(turn.start, end)
        if message.type == "turn.end":
            before = self._last_text
            self._end_turn(message)
            self._settle(cut, turn, before)
        elif turn.state is _Listening.SPEAKING:
            turn.state = _Listening.EAGER_ENDED
            self._emit(message, "turn.eager_end", turn=turn, transcript=text)
            if cut is not None:
                self._finished(cut)

    def _turn_resume(self, link: _Link, message: Any) -> None:
        self._resume(message)

    def _resume(self, message: Any) -> None:
        if self._turn and self._turn.state is _Listening.EAGER_ENDED:
            self._turn.state = _Listening.SPEAKING
            self._turn.resumed = self._turn.end
            self._emit(message, "turn.resume", turn=self._turn)

    def _end_turn(self, message: Any | None) -> None:
        turn, self._turn = self._turn, None
        assert turn is not None
        self._last_end = max(self._last_end, turn.end)
        self._last_text = turn.text or self._last_text
        self._emit(message, "turn.end", turn=turn, transcript=turn.text)

    def _close_turn(self) -> None:
        """End the listener's open turn on our own account; its text stays in the reference."""
        if self._turn is not None:
            if self._turn.state is _Listening.SPEAKING:
                position = self._reference.position or self._replay_buffer.end
                self._turn.end = max(self._turn.end, self._last_speech(position))
            self._end_turn(None)
            if self._link:  # what it says next of this turn of its own begins another one here
                self._link.lead, self._link.skip, self._link.attached = "", len(self._link.said), True

    def _settle(self, cut: int | None, turn: _Turn, before: str) -> None:
        """The turn ended. Its text is finished, and with ``cut`` it is known where its audio ends;
        otherwise it may be needed again, and some words of the turn ``before`` it may then be received with
        it."""
        if cut is not None:
            self._finished(cut)
            return
        if self._floor > turn.start - _LOOK_BACK:
            return  # it is within the turn, and the reference goes on
        tail = words(before)[-_WORDS_BEFORE:]
        text = (before[tail[0].start :] if tail else "") + turn.text
        cursor = self._link.cursor if self._link else 0
        self._reference = _Reference(text, [(len(text), cursor)], optional=len(tail))
        self._floor = max(self._floor, turn.start - _LOOK_BACK)
        self._replay_buffer.release(self._floor)

    def _forget_stale_turn(self, link: _Link) -> None:
        """A turn that was opened on an earlier connection and that the new one never received."""
        turn = self._turn
        if turn is None or link.in_turn or self._manual:
            return
        since = max(self._last_speech(link.cursor), self._reference.position, turn.start)
        if link.cursor - since > _FORGOTTEN:
            self._close_turn()

    def _forget_silence(self, link: _Link) -> None:
        """Between turns the floor follows, well behind, as long as nothing is said."""
        if self._turn or self._flushes or link.overlap or link.cursor < self._looked + _LOOK_EVERY:
            return
        self._looked = link.cursor
        if self._reference.text:  # it ended, but nobody knew exactly where; after a while that is clear
            since = self._reference.position
            quiet = self._last_speech(link.cursor) <= since < link.cursor - _CLEAR_AFTER
            if quiet and not self._manual:
                self._finished(since)
            return
        first = next(self._activity.stretches(self._floor), None)
        quiet_until = first.start - _LOOK_BACK if first else link.cursor
        self._floor = max(self._floor, min(quiet_until, link.cursor - _SILENCE_KEPT))
        self._replay_buffer.release(self._floor)

    # -- times ---------------------------------------------------------------------------------------

    def _stretches(self, until: int) -> list[Stretch]:
        return [s for s in self._activity.stretches() if s.start < until]

    def _onset(self, link: _Link) -> int:
        """Where the speech began that a `turn.start` arriving now speaks of: of the onsets that no turn has
        yet, the one that fits best how late this STT usually is."""
        since = max(link.ended, link.cursor - _LONGEST_START)
        onsets = [
            s.start
            for s in self._stretches(link.cursor)
            if s.start >= since and s.end - s.start >= _SHORTEST_SPEECH
        ]
        if not onsets:
            return max(link.ended, link.cursor - _START_DELAY)
        expected = link.cursor - _START_DELAY - link.usual_lag
        onset = min(onsets, key=lambda start: abs(start - expected))
        link.lags.append(max(0, link.cursor - onset - _START_DELAY))
        link.longest_lags.append(max(0, link.cursor - onsets[0] - _START_DELAY))
        return onset

    def _last_speech(self, cursor: int) -> int:
        """The last speech before ``cursor``."""
        return self._activity.last_speech(cursor)

    def _end_of_speech(self, link: _Link, resumed: int = 0) -> tuple[int, int | None]:
        """Where the speech ended that a `turn.end` (or `eager_end`) arriving now closes, and a sample in the
        pause behind it; None where it is not certain which pause it was. Speech up to ``resumed`` it closes
        only if there is no other."""
        if link.closing:
            return self._last_speech(link.cursor), None
        received = link.cursor - _SHORTEST_PAUSE
        spoken = [s for s in self._stretches(link.cursor) if s.end > link.onset]
        spoken = [s for s in spoken if s.end > resumed] or spoken
        ended = [s for s in spoken if s.end <= received]
        if not ended:
            return max(link.onset, resumed, link.cursor - _LOOK_BACK), None
        likely = [s for s in ended if s.end <= received - link.usual_lag] or ended
        surely = [s for s in ended if s.end <= received - max(link.longest_lags, default=0) - _LAG_SPREAD]
        end = likely[-1].end
        following = min(
            (s.start for s in self._stretches(link.cursor) if s.start >= end), default=link.cursor
        )
        decided = link.cursor - min(link.lags, default=0) - _SHORTEST_SPEECH  # at the latest
        certain = surely[-1:] == ended[-1:] and following >= max(decided, end + _CERTAIN_PAUSE)
        return end, end + (following - end) // 2 if certain else None

    # -- manual mode ---------------------------------------------------------------------------------

    def _transcript(self, link: _Link, message: Any) -> None:
        text = self._new_text(link, message) if link.overlap else message.text
        if message.is_final:
            self._account(link, message)
        if text is None:
            return
        if not link.attached and text.strip():
            text = text if link.first else join_text(self._last_text, text)
            link.attached = message.is_final
        start, end = self._span(link, message)
        turn = _Turn(self._turns, start, end)
        self._emit(message, "transcript", turn=turn, text=text)
        if message.is_final:
            self._turns += 1
            self._last_end = end
            self._last_text = text or self._last_text
            self._reference.add(text, link.cursor)
            self._settle_by_duration(link)

    def _new_text(self, link: _Link, message: Any) -> str | None:
        """Of a link that repeats the reference: what is beyond it, in finals only."""
        assert link.overlap is not None
        if not message.is_final:
            return None
        link.spoken += message.text
        beyond = link.overlap.beyond(link.spoken)
        if beyond is None and not link.overlap.covered(link.spoken):
            return None
        link.overlap, link.attached = None, True
        return beyond.text if beyond else None

    def _account(self, link: _Link, message: Any) -> None:
        if message.duration is None:
            link.durations = False
        else:
            link.covered_s += message.duration

    def _settle_by_duration(self, link: _Link) -> None:
        """Finals that say how much audio they are of tell the floor, if that lies in a pause."""
        position = link.track_sample(_samples(link.covered_s))
        around = _samples(0.05)
        if (
            link.durations
            and link.overlap is None
            and self._floor < position <= link.cursor
            and self._activity.quiet(position - around, position + around)
        ):
            self._finished(position)

    def _finished(self, position: int) -> None:
        self._floor = max(self._floor, position)
        self._reference = _Reference()
        self._replay_buffer.release(self._floor)

    def _span(self, link: _Link, message: Any) -> tuple[int, int]:
        """Where the words of a transcript were said."""
        cursor = self._flushes[0] if link.flushes else link.cursor
        timed = _word_times(message.words)
        if timed is not None:
            start, end = (min(cursor, link.track_sample(_samples(second))) for second in timed)
        else:
            start = min(
                (s.start for s in self._stretches(cursor) if s.end > self._last_end), default=self._last_end
            )
            end = self._last_speech(cursor)
        start = max(start, self._last_end)
        return start, max(start, end)

    def _flush_done(self, link: _Link, message: Any) -> None:
        if not link.flushes:
            return
        link.flushes.popleft()
        self._finished(self._flushes.pop(0))
        link.overlap = None
        self._emit(message, "flush_done")

    # -- events out ----------------------------------------------------------------------------------

    def _emit(self, message: Any | None, type_: str, *, turn: _Turn | None = None, **fields: Any) -> None:
        own = wire.as_fields(message) if message is not None and message.type == type_ else {}
        request_id = message.request_id if message is not None else self._request_id
        own |= {**fields, "type": type_} | ({"request_id": request_id} if request_id is not None else {})
        self._events.append(
            events.from_message(
                own,
                time=self.time,
                track=self._track,
                turn=turn.index if turn else None,
                start=self._seconds(turn.start) if turn else None,
                end=self._seconds(turn.end) if turn else None,
            )
        )

    def announce(self, event: AnyEvent) -> None:
        """An event of rtcstt's own (`stt.reconnecting`, `error`, ...) gets its time."""
        self._events.append(replace(event, time=self.time))

    def events(self) -> list[AnyEvent]:
        """What is to be published, in order; each event is handed out once."""
        due, self._events = self._events, []
        return due

    def end(self) -> None:
        """Nothing more will come: ends the listener's open turn."""
        self._close_turn()

    # -- what the shell may ask ----------------------------------------------------------------------

    def _seconds(self, sample: int) -> float:
        return round(self._offset_s + sample / SAMPLE_RATE, 3)

    @property
    def time(self) -> float:
        """The audio clock, in seconds: the end of the audio taken in."""
        return self._seconds(self._replay_buffer.end)

    @property
    def lag_s(self) -> float:
        """Audio that the connection (or the next one) has yet to be sent."""
        cursor = self._link.cursor if self._link else max(self._floor, self._replay_buffer.begin)
        return (self._replay_buffer.end - cursor) / SAMPLE_RATE

    @property
    def idle(self) -> bool:
        """Between two turns, with nothing being said: the moment to change engines."""
        since = max(self._floor, self._last_end + _SHORTEST_PAUSE)
        return (
            not self._turn and not self._flushes and not self._activity.speech(since, self._replay_buffer.end)
        )

    @property
    def unfinished(self) -> bool:
        """Whether there is speech behind the floor, an open turn, or a flush without its answer."""
        speech = self._activity.speech(self._floor, self._replay_buffer.end)
        return bool(self._turn or self._flushes or speech > _SHORTEST_PAUSE // 4)

    @property
    def told_to_close(self) -> bool:
        """Whether the connection has been sent all audio and the protocol's `close`."""
        return self._link is not None and self._link.closing

    def is_stalled(self, now: float, patience_s: float) -> bool:
        """Whether the STT should have said something and did not: it was sent more than ``patience_s`` of
        speech since its last message; manual: a `finalize` is older."""
        link = self._link
        if link is None:
            return False
        if self._manual:
            return bool(link.flushes) and now - link.flushes[0] > patience_s
        if link.cursor <= link.trusted_until:
            return False
        unanswered = self._activity.speech(link.answered, link.cursor)
        link.trusted_until = link.cursor + _samples(patience_s) - unanswered  # there cannot be more before
        return unanswered > _samples(patience_s)

    def take_lost_s(self) -> float:
        """Seconds of audio lost to the ring's bound since last asked."""
        lost, self._reported_lost = self._lost - self._reported_lost, self._lost
        return lost / SAMPLE_RATE

    def stats(self) -> dict[str, float]:
        """Counters, in seconds of audio except for `turns` and `connections`."""
        return {
            "turns": self._turns,
            "connections": self._links,
            "received_s": self._replay_buffer.end / SAMPLE_RATE,
            "lag_s": self.lag_s,
            "replayed_s": self._replayed / SAMPLE_RATE,
            "skipped_silence_s": self._skipped / SAMPLE_RATE,
            "dropped_silence_s": self._replay_buffer.dropped_quiet / SAMPLE_RATE,
            "lost_s": self._lost / SAMPLE_RATE,
        }


def _word_times(timed: Any) -> tuple[float, float] | None:
    """Start of the first and end of the last word, in seconds of the connection's audio, out of any form of
    `words`: columns, a list of columns (so the vendor's types have it), or a list of single words. None
    where there are none or they make no sense."""
    try:
        first, last = (timed, timed) if isinstance(timed, dict) else (timed[0], timed[-1])
        start, end = first["start"], last["end"]
        start = start[0] if isinstance(start, list) else start
        end = end[-1] if isinstance(end, list) else end
    except (LookupError, TypeError):
        return None
    if not all(isinstance(t, int | float) and 0 <= t < 1e6 for t in (start, end)):
        return None
    return float(start), float(end)
