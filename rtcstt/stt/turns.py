"""Auto mode: the STT's turns into the listener's turns, across connections."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcstt import wire
from rtcstt.errors import RemoteProtocolError
from rtcstt.stt.alignment import TranscriptAligner, join_text, words
from rtcstt.stt.floor import Progress, Turn
from rtcstt.stt.publisher import Publisher
from rtcstt.stt.sending import Sending
from rtcstt.stt.speech_times import LOOK_BACK, Latency, SpeechTimes, samples

_WORDS_BEFORE = 4
_FORGOTTEN = samples(6.5)  # a turn that a new connection never continues is closed after so much silence
_AFTER_TIMEOUT = samples(1.0)  # an STT has ended a turn so long after its `end_timeout_ms` has passed

_Text = wire.TurnUpdate | wire.TurnEagerEnd | wire.TurnEnd


@dataclass(slots=True)
class Repeating:
    """A connection that says again what is in the reference: nothing of it is published. ``spoken`` is the
    text of its turns that ended."""

    aligner: TranscriptAligner
    spoken: str = ""


@dataclass(slots=True)
class Continuing:
    """A connection whose text is new: the listener's turn is ``lead`` and what it has said but for its first
    ``skip`` characters. Until it is ``attached`` it has said no word of the turn yet."""

    lead: str = ""
    skip: int = 0
    attached: bool = False
    spoken: str = ""  # of its turns that ended while it was repeating, within the listener's open turn
    said: str = ""  # these and the turn it is in

    @property
    def text(self) -> str:
        return self.lead + self.said[self.skip :] if self.attached else ""


@dataclass(slots=True)
class _Link:
    """One connection's turns."""

    sending: Sending
    first: bool  # no connection was before it
    text: Repeating | Continuing
    ended: int  # where the speech of its last turn ended
    latency: Latency = field(default_factory=Latency)
    in_turn: bool = False
    onset: int = 0


class Turns:
    """What the turns of the present connection mean for the listener; see `transcription`."""

    def __init__(
        self, progress: Progress, times: SpeechTimes, out: Publisher, settings: wire.TurnSettings
    ) -> None:
        self._progress, self._times, self._out = progress, times, out
        self._floor = progress.floor
        self.settings = settings
        self._link: _Link | None = None

    # -- the connection ------------------------------------------------------------------------------

    def connected(self, sending: Sending, aligner: TranscriptAligner | None, *, first: bool) -> None:
        text = Continuing() if aligner is None else Repeating(aligner)
        self._link = _Link(sending, first, text, ended=sending.cursor)

    def disconnected(self) -> None:
        self._link = None
        if self._progress.turn and self._progress.turn.eager_ended:
            self.close_turn()

    @property
    def repeats(self) -> bool:
        """Whether the connection may still say what was published before it."""
        return self._link is not None and isinstance(self._link.text, Repeating)

    @property
    def in_turn(self) -> bool:
        """Whether the connection has a turn of its own open."""
        return self._link is not None and self._link.in_turn

    def may_skip(self, cursor: int) -> bool:
        """Whether silence may be passed over at ``cursor``: the STT has ended its turns, or has been sent so
        much of the pause that it must have."""
        link, spoken = self._link, self._times.last_speech(cursor)
        timeout_ms = wire.DEFAULT_TURN.merged(self.settings).end_timeout_ms or 0.0
        if cursor - spoken > samples(timeout_ms / 1000) + _AFTER_TIMEOUT:
            return True
        return link is not None and not link.in_turn and spoken <= link.ended

    def receive(self, message: wire.ServerMessage) -> None:
        link = self._link
        if link is None:
            return
        match message:
            case wire.TurnStart():
                self._start(link, message)
            case wire.TurnUpdate() | wire.TurnEagerEnd() | wire.TurnEnd():
                self._text(link, message)
            case wire.TurnResume():
                self._resume(message)
            case wire.Unknown():
                about_turn = message.type.startswith("turn.")
                self._out.message(message, self._progress.turn if about_turn else None)

    # -- turns begin ---------------------------------------------------------------------------------

    def _start(self, link: _Link, message: wire.TurnStart) -> None:
        link.in_turn = True
        onset = self._times.onset(link.sending.reached, link.ended, link.latency)
        link.latency.note(onset)
        link.onset = onset.sample
        if isinstance(link.text, Repeating) and self._is_past_reference(link, link.text):
            self.close_turn()
            link.text = Continuing()
        if self._progress.turn is None and isinstance(link.text, Continuing):
            self._open_turn(link, message)

    def _is_past_reference(self, link: _Link, text: Repeating) -> bool:
        """Whether the turn that starts now can only be new speech: the connection was sent no other since its
        last turn, and has repeated everything."""
        unsaid = (s.start for s in self._times.stretches(link.sending.reached) if s.end > link.ended)
        repeated = not text.spoken or text.aligner.covered(text.spoken)
        return repeated and min(unsaid, default=0) >= self._floor.reference.position

    def _open_turn(self, link: _Link, message: wire.ServerMessage) -> Turn:
        start, last_end = link.onset, self._progress.last_end
        if start < last_end:  # the connection's turn began in what was published
            start = self._times.first_start(link.sending.reached, since=last_end, default=last_end)
        cursor = link.sending.reached
        turn = self._progress.turn = Turn(self._progress.turns, start=start, end=start, known=cursor)
        self._progress.turns += 1
        if isinstance(message, wire.TurnStart):
            self._out.message(message, turn)
        else:
            self._out.own("turn.start", turn)
        return turn

    # -- text ----------------------------------------------------------------------------------------

    def _text(self, link: _Link, message: _Text) -> None:
        ended = isinstance(message, wire.TurnEnd)
        link.in_turn = not ended
        said = link.text.spoken + message.transcript
        if isinstance(link.text, Repeating):
            beyond = self._beyond_reference(link, link.text, message, said)
            if beyond is None:
                if ended:  # a boundary inside what was published: swallowed
                    link.ended, _ = self._end_of_speech(link)
                    link.text.spoken = said
                return
            link.text = beyond
        link.text.said = said
        self._publish(link, link.text, message)
        if ended:
            link.ended = max(link.ended, self._progress.last_end)
            link.text = Continuing(attached=True)

    def _beyond_reference(self, link: _Link, text: Repeating, message: _Text, said: str) -> Continuing | None:
        """How a connection that repeats the reference goes on, once it has come to its end."""
        before = self._progress.turn.text if self._progress.turn else ""
        beyond = text.aligner.beyond(said)
        if beyond is not None:
            return Continuing(before + beyond.text, beyond.skip, attached=True, spoken=text.spoken)
        if isinstance(message, wire.TurnUpdate):
            return None
        if text.aligner.covered(said) or self._is_last_of_reference(link):
            return Continuing(before, len(said), attached=True, spoken=text.spoken)
        return None

    def _is_last_of_reference(self, link: _Link) -> bool:
        """Whether the turn that ends now is the last speech of the reference."""
        position = self._floor.reference.position
        _, cut = self._end_of_speech(link)
        if cut is None or link.sending.reached < position:
            return False
        return not self._times.activity.speech(cut, position)

    def _publish(self, link: _Link, text: Continuing, message: _Text) -> None:
        if not text.attached and text.said.strip():
            self._attach(link, text)
        turn = self._progress.turn
        if turn is None:
            if not text.text:
                return  # this turn of the connection lies within turns that were published and ended
            turn = self._open_turn(link, message)
        self._publish_text(link, turn, message, text.text or turn.text)

    def _attach(self, link: _Link, text: Continuing) -> None:
        """The first words of a connection that repeats nothing: they follow the open turn, or the last
        one."""
        open_text = self._progress.turn.text if self._progress.turn else ""
        before = open_text or ("" if link.first else self._progress.last_text)
        after = join_text(before, text.said)
        text.lead = open_text + (" " if len(after) > len(text.said) else "")
        text.skip = max(0, len(text.said) - len(after))
        text.attached = True

    def _publish_text(self, link: _Link, turn: Turn, message: _Text, text: str) -> None:
        if not text.startswith(turn.text):
            raise RemoteProtocolError("the STT changed text that it had published (guarantee 3)")
        self._floor.reference.add(text[len(turn.text) :], link.sending.reached)
        grown = text != turn.text
        turn.text, turn.known = text, link.sending.reached
        if isinstance(message, wire.TurnUpdate):
            self._resume(message)
            if grown:
                turn.end = max(turn.end, self._times.last_speech(link.sending.reached))
                self._out.message(message, turn, transcript=text)
            return
        end, cut = self._end_of_speech(link, turn.resumed)
        turn.end = max(turn.start, end)
        if isinstance(message, wire.TurnEnd):
            before = self._progress.last_text
            self._end_turn(turn, message)
            self._settle(link, cut, turn, before)
        elif not turn.eager_ended:
            turn.eager_ended = True
            self._out.message(message, turn, transcript=text)
            if cut is not None:
                self._floor.finish(cut)

    def _resume(self, message: wire.TurnResume | wire.TurnUpdate) -> None:
        turn = self._progress.turn
        if turn is None or not turn.eager_ended:
            return
        turn.eager_ended = False
        turn.resumed = turn.end
        if isinstance(message, wire.TurnResume):
            self._out.message(message, turn)
        else:
            self._out.own("turn.resume", turn)

    # -- turns end -----------------------------------------------------------------------------------

    def _end_of_speech(self, link: _Link, resumed: int = 0) -> tuple[int, int | None]:
        cursor = link.sending.reached
        if link.sending.closing:
            return self._times.last_speech(cursor), None
        return self._times.end_of_speech(cursor, link.onset, link.latency, resumed=resumed)

    def _end_turn(self, turn: Turn, message: wire.TurnEnd | None = None) -> None:
        self._progress.turn = None
        self._progress.last_end = max(self._progress.last_end, turn.end)
        self._progress.last_text = turn.text or self._progress.last_text
        if message is not None:
            self._out.message(message, turn, transcript=turn.text)
        else:
            self._out.own("turn.end", turn, transcript=turn.text)

    def close_turn(self) -> None:
        """End the listener's open turn on our own account; its text stays in the reference."""
        turn = self._progress.turn
        if turn is None:
            return
        if not turn.eager_ended:
            turn.end = max(turn.end, self._times.last_speech(turn.known))
        self._end_turn(turn)
        text = self._link.text if self._link else None
        if isinstance(text, Continuing) and text.attached:
            # What it says next of this turn of its own begins another one here.
            text.lead, text.skip = "", len(text.said)

    def _settle(self, link: _Link, cut: int | None, turn: Turn, before: str) -> None:
        """The turn ended. Its text is finished, and with ``cut`` it is known where its audio ends; otherwise
        it may be needed again, and some words of the turn ``before`` it may then be received with it."""
        if cut is not None:
            self._floor.finish(cut)
            return
        begin = min(turn.start, link.onset) - LOOK_BACK
        if self._floor.position > begin:
            return  # it is within the turn, and the reference goes on
        tail = words(before)[-_WORDS_BEFORE:]
        text = (before[tail[0].start :] if tail else "") + turn.text
        self._floor.begin_turn_again(begin, text, link.sending.reached, len(tail))

    def forget_stale_turn(self) -> None:
        """A turn that was opened on an earlier connection and that the new one never received is closed."""
        turn, link = self._progress.turn, self._link
        if turn is None or link is None or link.in_turn:
            return
        cursor = link.sending.cursor
        since = max(self._times.last_speech(cursor), self._floor.reference.position, turn.start)
        if cursor - since > _FORGOTTEN:
            self.close_turn()
