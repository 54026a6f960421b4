"""Manual mode: the STT's transcripts, each utterance ended by a `finalize`, across connections."""

from __future__ import annotations

from dataclasses import dataclass

from rtcstt import wire
from rtcstt.stt.alignment import TranscriptAligner, join_text
from rtcstt.stt.floor import Progress, Turn
from rtcstt.stt.publisher import Publisher
from rtcstt.stt.sending import Sending
from rtcstt.stt.speech_times import SpeechTimes, samples

_AROUND = samples(0.05)


@dataclass(slots=True)
class _Link:
    """One connection's transcripts. While there is an ``aligner`` it repeats the reference."""

    sending: Sending
    first: bool  # no connection was before it
    aligner: TranscriptAligner | None
    spoken: str = ""  # its finals, while it repeats
    attached: bool = False  # its text is known to follow what was published
    covered_s: float = 0.0  # sum of the finals' durations, while all had one
    durations: bool = True


class Manual:
    """What the transcripts of the present connection mean for the listener; see `transcription`."""

    def __init__(self, progress: Progress, times: SpeechTimes, out: Publisher) -> None:
        self._progress, self._times, self._out = progress, times, out
        self._floor = progress.floor
        self._link: _Link | None = None

    def connected(self, sending: Sending, aligner: TranscriptAligner | None, *, first: bool) -> None:
        self._link = _Link(sending, first, aligner)

    def disconnected(self) -> None:
        self._link = None

    @property
    def repeats(self) -> bool:
        """Whether the connection may still say what was published before it."""
        return self._link is not None and self._link.aligner is not None

    @property
    def in_turn(self) -> bool:
        """Never: there are no turns."""
        return False

    def may_skip(self, cursor: int) -> bool:
        """Silence may always be passed over: it ends nothing here."""
        return True

    def receive(self, message: wire.ServerMessage) -> None:
        if self._link is None:
            return
        match message:
            case wire.Transcript():
                self._transcript(self._link, message)
            case wire.FlushDone():
                self._flush_done(self._link, message)
            case wire.Unknown():
                self._out.message(message)

    def _transcript(self, link: _Link, message: wire.Transcript) -> None:
        text = self._new_text(link, link.aligner, message) if link.aligner else message.text
        if message.is_final:
            self._account(link, message)
        if text is None:
            return
        if not link.attached and text.strip():
            text = text if link.first else join_text(self._progress.last_text, text)
            link.attached = message.is_final
        start, end = self._span(link, message)
        self._out.message(message, Turn(self._progress.turns, start, end), text=text)
        if message.is_final:
            self._progress.turns += 1
            self._progress.last_end = end
            self._progress.last_text = text or self._progress.last_text
            self._floor.reference.add(text, link.sending.cursor)
            self._settle_by_duration(link)

    def _new_text(self, link: _Link, aligner: TranscriptAligner, message: wire.Transcript) -> str | None:
        """Of a connection that repeats the reference: what is beyond it, in finals only."""
        if not message.is_final:
            return None
        link.spoken += message.text
        beyond = aligner.beyond(link.spoken)
        if beyond is None and not aligner.covered(link.spoken):
            return None
        link.aligner, link.attached = None, True
        return beyond.text if beyond else None

    def _account(self, link: _Link, message: wire.Transcript) -> None:
        if message.duration is None:
            link.durations = False
        else:
            link.covered_s += message.duration

    def _settle_by_duration(self, link: _Link) -> None:
        """Finals that say how much audio they are of tell the floor, if that lies in a pause."""
        position = link.sending.track_sample(samples(link.covered_s))
        if (
            link.durations
            and link.aligner is None
            and self._floor.position < position <= link.sending.cursor
            and self._times.activity.quiet(position - _AROUND, position + _AROUND)
        ):
            self._floor.finish(position)

    def _span(self, link: _Link, message: wire.Transcript) -> tuple[int, int]:
        """Where the words of a transcript were said."""
        last_end = self._progress.last_end
        cursor = self._progress.flushes[0] if link.sending.flushes else link.sending.cursor
        timed = word_times(message.words)
        if timed is not None:
            start, end = (min(cursor, link.sending.track_sample(samples(second))) for second in timed)
        else:
            spoken = (s.start for s in self._times.stretches(cursor) if s.end > last_end)
            start, end = min(spoken, default=last_end), self._times.last_speech(cursor)
        start = max(start, last_end)
        return start, max(start, end)

    def _flush_done(self, link: _Link, message: wire.FlushDone) -> None:
        if not link.sending.flushes:
            return
        link.sending.flushes.popleft()
        self._floor.finish(self._progress.flushes.pop(0))
        link.aligner = None
        self._out.message(message)

    def close_turn(self) -> None:
        """There are no turns that could be open."""

    def forget_stale_turn(self) -> None:
        """There are no turns that could be open."""


def word_times(timed: object) -> tuple[float, float] | None:
    """Start of the first and end of the last word, in seconds of the connection's audio, out of any form of
    `words`: columns, a list of columns (so the vendor's types have it), or a list of single words. None
    where there are none or they make no sense."""
    columns = [timed] if isinstance(timed, dict) else timed
    if not isinstance(columns, list) or not columns:
        return None
    first, last = columns[0], columns[-1]
    if not isinstance(first, dict) or not isinstance(last, dict):
        return None
    start, end = _end_of(first.get("start"), 0), _end_of(last.get("end"), -1)
    return None if start is None or end is None else (start, end)


def _end_of(value: object, index: int) -> float | None:
    """A time, or the one at the ``index`` of a list of times."""
    time = value[index] if isinstance(value, list) and value else value
    return float(time) if isinstance(time, int | float) and 0 <= time < 1e6 else None
