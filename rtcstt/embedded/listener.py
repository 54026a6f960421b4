"""One stream of audio becomes turns of text; a core: audio in, messages out, time is samples.

`Endpointer` says when turns begin and end, `TurnText` turns audio into append-only text; here is when the
text is asked for and what is said of it:

- While somebody speaks, the open segment is decoded every ``update_s`` of speech. Not before so much voice
  that its first words are understood well (they could not be taken back), and more rarely the longer the
  segment is.
- In each pause, once, shortly after the last speech, it is decoded without the silence behind it. That text
  is what `turn.eager_end` and `turn.end` publish; if they go on, it was an update like others.
- A segment is closed at a pause, and the longer it is the shorter a pause will do; in any case before it gets
  so long that decoding it again grows costly; then at the quietest moment of the last two seconds. Who goes
  on after an eager end is understood better with what they said before ("... my fellow Americans", "Ask
  not"), so the segment stays open then; but a full stop may have the model believe that all is said, and say
  nothing of the rest. Then, and after a long silence, what was said since is decoded by itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Protocol

import numpy as np

from rtcstt.embedded.completeness import FITS, UNFINISHED_S, Evidence, Fit
from rtcstt.embedded.endpointer import TAIL_S, Endpointer, TurnTransition
from rtcstt.embedded.hypothesis import FRAME, Audio, Recogniser
from rtcstt.embedded.segments import (
    CUT_WITHIN,
    DOUBTFUL,
    MIN_VOICED,
    PRE_ROLL,
    TRIM,
    Piece,
    TurnText,
)
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import (
    AUDIO_POSITION,
    TurnEagerEnd,
    TurnEnd,
    TurnMessage,
    TurnResume,
    TurnSettings,
    TurnStart,
    TurnState,
    TurnUpdate,
)

UPDATE_MS = 500.0  # of speech between two decodes
FIRST_UPDATE = 3  # times that, of voice, before the first
RARER = ((0.0, 1.0), (3.0, 1.5), (5.5, 2.0))  # seconds of the segment, and how many times as long between two
# Seconds of a segment, and the pause at which it is then closed; in between in proportion, before never.
PAUSES = ((6.0, 0.25), (12.0, 0.06))
FAR = int(1.5 * SAMPLE_RATE)  # of silence; what was said before it is no help any more
MIN_PRESSED = int(0.09 * SAMPLE_RATE)  # of voice, when somebody says that there was speech
JUDGED = 8 * SAMPLE_RATE  # of audio, by its sound
SILENT = SAMPLE_RATE  # of silence behind it, at most, when that is asked


class Voice(Protocol):
    """What `vad.VadStream` is to a listener."""

    def probability(self, frame: Audio) -> float: ...


class Judge(Protocol):
    """What `smart_turn.SmartTurn` is to a listener."""

    def complete(self, audio: Audio) -> float: ...


class Listener:
    """One stream. `receive` its audio in order; `flush` ends the open turn at once.

    ``judge`` None: how it sounds is not asked, and turns end later. ``by_silence``: nor is what was said;
    turns end by ``end_timeout_ms`` alone. ``live`` False: the recogniser is too slow to decode the same
    speech again and again; text comes with the pauses. ``timed``: `finished` says when each word was said.
    ``update_s``: of speech between two decodes. ``fit``: of the endpointer, to this recogniser.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        voice: Voice,
        judge: Judge | None,
        settings: TurnSettings,
        *,
        by_silence: bool = False,
        live: bool = True,
        timed: bool = False,
        update_s: float = UPDATE_MS / 1000,
        fit: Fit = FITS[""],
    ) -> None:
        self._voice = voice
        self._judge = judge
        self._by_silence = by_silence
        self._live = live
        self._update_s = update_s
        self._endpointer = Endpointer(settings)
        self._fit = fit
        self._rest = np.zeros(0, np.float32)
        self._text = TurnText(recogniser, timed=timed)
        self._recent: deque[Audio] = deque(maxlen=(JUDGED + SILENT) // FRAME)
        self._since_update = 0
        self._shown = ""
        self.finished: list[Piece] = []
        """What the last turn that ended consisted of."""
        self.asked: tuple[int, Evidence] | None = None
        """Where in the stream the last pause began, in samples, and what was known then."""

    @property
    def in_turn(self) -> bool:
        return self._endpointer.state is not TurnState.IDLE

    @property
    def speaking(self) -> bool:
        return self._endpointer.speaking

    @property
    def position(self) -> int:
        """Samples received."""
        return self._text.position

    def configure(self, settings: TurnSettings) -> None:
        self._endpointer.configure(settings)

    def receive(self, samples: Audio, *, updates: bool = True) -> list[TurnMessage]:
        """The messages that 16 kHz ``samples`` bring about. Without ``updates`` a turn's text waits for its
        next pause; everything else happens as always."""
        audio = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        whole = len(audio) - len(audio) % FRAME
        self._rest = audio[whole:]
        messages: list[TurnMessage] = []
        for begin in range(0, whole, FRAME):
            messages += self._placed(self._frame(audio[begin : begin + FRAME], updates))
        return messages

    def flush(self) -> list[TurnMessage]:
        """End the open turn now, with all its text. Speech too short to begin a turn is taken for one."""
        messages: list[TurnMessage] = []
        self._take_rest()
        if not self.in_turn:
            if self._text.segment.voiced < MIN_PRESSED:
                return messages
            messages.append(TurnStart())
        self._text.decode_pause(least=MIN_PRESSED)
        messages.append(self._end())
        self._endpointer = self._endpointer.restarted()
        return self._placed(messages)

    def _placed(self, messages: list[TurnMessage]) -> list[TurnMessage]:
        """With how much audio they are made from: who is told late can know when it was said."""
        position = {AUDIO_POSITION: round(self.position / SAMPLE_RATE, 3)} if messages else {}
        return [replace(message, extra={**message.extra, **position}) for message in messages]

    def _take_rest(self) -> None:
        """What is no whole frame: too short to be judged, but part of what is decoded, and of the clock."""
        self._text.append(self._rest)
        if len(self._rest) and self.speaking:
            self._text.voice(len(self._rest), DOUBTFUL)
        self._rest = np.zeros(0, np.float32)

    def _frame(self, frame: Audio, updates: bool) -> list[TurnMessage]:
        probability = self._voice.probability(frame)
        self._text.append(frame)
        self._recent.append(frame)
        messages = [
            message
            for transition in self._endpointer.frame(probability)
            for message in self._turn(transition)
        ]
        if self.speaking or (not self.in_turn and probability > 0.5):
            self._text.voice(FRAME, probability)
        if not self.in_turn:
            self._text.keep_pre_roll()
            return messages
        if self._endpointer.probe_due:
            self._pause()
        return messages + self._progress(updates)

    def _turn(self, transition: TurnTransition) -> list[TurnMessage]:
        match transition:
            case TurnTransition.START:
                self._since_update = 0
                while len(self._recent) > PRE_ROLL // FRAME:
                    self._recent.popleft()  # an earlier turn says nothing about how this one sounds
                return [TurnStart()]
            case TurnTransition.RESUME:
                if self._text.length - self._text.segment.settled > FAR:
                    self._text.settle()
                else:
                    self._text.resume()
                return [TurnResume()]
            case TurnTransition.EAGER_END:
                self._text.decode_pause()
                self._text.eager_end()
                if not self._live:  # nothing can be forced on such a recogniser
                    self._text.settle()
                return [*self._update(), TurnEagerEnd(self._text.transcript)]
            case TurnTransition.END:
                self._text.decode_pause()
                return [self._end()]

    def _end(self) -> TurnEnd:
        text = self._text.final()
        self.finished = self._text.end()
        self._shown = ""
        odds = [round(odd, 2) for piece in self.finished for odd in piece.odds]
        return TurnEnd(text, extra={"confidence": odds} if odds and len(odds) == len(text.split()) else {})

    def _progress(self, updates: bool) -> list[TurnMessage]:
        active = self._endpointer.state is TurnState.SPEAKING
        length = self._text.length
        if length > self._text.longest:
            self._text.close(self._text.cut())
        elif active and self._endpointer.silence_s >= _closing_pause_s(length):
            self._text.close(self._text.segment.last_speech + TRIM)
        if self.speaking:
            self._since_update += FRAME
        if updates and self._live and active and self.speaking and self._update_due():
            self._since_update = 0
            self._text.agree()
        return self._update() if active else []

    def _update_due(self) -> bool:
        """Whether it is time to decode again. What is published has to lie before where a segment may be
        cut."""
        length, voiced = self._text.length, self._text.segment.voiced
        if self._text.streaming is not None:
            return voiced >= MIN_VOICED and self._since_update >= self._update_s * SAMPLE_RATE
        rarer = next(times for after_s, times in reversed(RARER) if length >= after_s * SAMPLE_RATE)
        early = voiced < max(MIN_VOICED, FIRST_UPDATE * self._update_s * SAMPLE_RATE)
        late = length > self._text.longest - CUT_WITHIN
        return not early and not late and self._since_update >= rarer * self._update_s * SAMPLE_RATE

    def _update(self) -> list[TurnMessage]:
        text = self._text.transcript
        if text == self._shown:
            return []
        self._shown = text
        return [TurnUpdate(text)]

    def _pause(self) -> None:
        """Shortly into a pause: what was said, and was it complete? How it sounds, which costs most, is asked
        when it makes a difference: most who pause have gone on by then."""
        self._text.decode_pause()
        self._since_update = 0
        if self._by_silence:
            self._endpointer.answer(UNFINISHED_S)
            return
        evidence = Evidence(None, self._text.stop, self._text.with_pause, self._endpointer.longest_s)
        soonest_s = self._fit.soonest_s(evidence) if self._judge is not None else None
        if self._judge is not None and soonest_s is not None:
            if not self._endpointer.hangs_on(soonest_s):
                self._endpointer.answer(soonest_s, for_now=True)
                return
            evidence = replace(evidence, sound=self._sound(self._judge))
        self.asked = self.position - round(self._endpointer.silence_s * SAMPLE_RATE), evidence
        self._endpointer.answer(self._fit.wait_s(evidence))

    def _sound(self, judge: Judge) -> float:
        """How complete it sounds, the silence behind it left out but for a moment."""
        spare = max(0, int((self._endpointer.silence_s - TAIL_S) * SAMPLE_RATE))
        recent = np.concatenate(self._recent)
        return judge.complete(recent[: len(recent) - spare][-JUDGED:])


def _closing_pause_s(length: int) -> float:
    """The silence after which a segment of so many samples is closed."""
    (soft, longest), (hard, shortest) = PAUSES
    seconds = length / SAMPLE_RATE
    if seconds < soft:
        return np.inf
    return float(np.interp(seconds, (soft, hard), (longest, shortest)))
