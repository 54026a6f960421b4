"""One stream of audio becomes turns of text; a core: audio in, messages out, time is samples.

The text of a turn is append-only by construction. Audio of a turn is cut into segments; the open
segment is decoded again and again, with what was published forced as the beginning:

- Every half second of speech, what the last two hypotheses agree on is published, cut back to a whole
  word, less the newest word and punctuation, which may still change.
- In each pause, once, shortly after the last speech, the segment is decoded without the silence behind
  it (silence makes the model invent words). That text is what `turn.eager_end` and `turn.end` publish,
  so that the end of a turn costs no further decode.
- A segment is closed at a pause once it is long, and in any case before it gets so long that decoding it
  again grows costly; then at the quietest moment of the last half second. Who goes on after an eager end
  is understood better with what he said before ("... my fellow Americans", "Ask not"), so the segment
  stays open then; but a full stop may have the model believe that all is said, and say nothing of the
  rest. Then, and after a long silence, what was said since is decoded by itself.

Nothing is decoded in which there was not at least 0.2 s of voice, because a recogniser asked what was
said in a cough will answer. It answers music as well ("Thank you for watching!"), and is not ashamed
of it: its probabilities are no worse than for speech in noise. The voice detector is: the frames that it
takes for voice average 0.57 to 0.77 in music, 0.81 and more in speech of any quality. So what is said of
doubtful voice is believed only when the recogniser is very sure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rtcstt.embedded.endpointer import TAIL_S, UNFINISHED, Endpointer, TurnTransition, completeness
from rtcstt.embedded.hypothesis import FRAME, Audio, Hypothesis, Spoken
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import (
    TurnEagerEnd,
    TurnEnd,
    TurnMessage,
    TurnResume,
    TurnSettings,
    TurnStart,
    TurnState,
    TurnUpdate,
)

PRE_ROLL = int(0.5 * SAMPLE_RATE)  # before a turn, so that its first sound is in it
STEP = int(0.5 * SAMPLE_RATE)  # of speech between two updates
AGREE = 2  # hypotheses
SOFT, HARD = 6 * SAMPLE_RATE, 14 * SAMPLE_RATE  # when a segment should, and must, be closed
SOFT_PAUSE_S = 0.25
CUT_WITHIN = int(0.6 * SAMPLE_RATE)  # where a segment is cut without a pause
FAR = int(1.5 * SAMPLE_RATE)  # of silence; what was said before it is no help any more
TRIM = int(0.15 * SAMPLE_RATE)  # of silence that is decoded after the last speech
MIN_VOICED = int(0.2 * SAMPLE_RATE)
MIN_PRESSED = int(0.09 * SAMPLE_RATE)  # the same when somebody says that there was speech
UNLIKELY, LIKELY = -1.5, -0.2  # mean log-probabilities: never believed; believed whatever the voice
DOUBTFUL = 0.78  # mean voice activity of what may be no voice at all
HEARD_BY_SMART_TURN = 8 * SAMPLE_RATE


class Vocabulary(Protocol):
    """What tokens mean."""

    def text(self, ids: Sequence[int]) -> str: ...

    def starts_word(self, token: int) -> bool: ...

    def is_punctuation(self, token: int) -> bool: ...


class Recogniser(Protocol):
    """What `moonshine.Moonshine` and `whisper.WhisperStream` are to a listener."""

    @property
    def tokens(self) -> Vocabulary: ...

    def decode(self, audio: Audio, forced: Sequence[int] = ()) -> Hypothesis: ...


class Voice(Protocol):
    """What `vad.VadStream` is to a listener."""

    def probability(self, frame: Audio) -> float: ...


class Judge(Protocol):
    """What `smart_turn.SmartTurn` is to a listener."""

    def complete(self, audio: Audio) -> float: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was said between two samples of the stream. ``words``: where each is, if that is known."""

    text: str
    start: int
    end: int
    words: tuple[Spoken, ...] = ()


@dataclass(slots=True)
class Segment:
    """The open part of a turn: the sample at which it begins, what of it was published, what it holds."""

    start: int
    ids: tuple[int, ...] = ()
    text: str = ""
    recent: list[tuple[int, ...]] = field(default_factory=list)
    voiced: int = 0
    certainty: float = 0.0  # voice activity, summed over the voiced samples
    first_voiced: int | None = None
    last_speech: int = 0  # samples from the segment's beginning
    settled: int = 0  # where the speech ended that was decoded for an eager end
    resumed: int = 0  # where it went on
    paused: Hypothesis | None = None  # what was decoded in the present pause

    def rest(self, length: int) -> Segment:
        """A new one, which begins ``length`` samples into this one, with the speech since then."""
        begin = max(length, self.resumed)
        speech = max(0, self.last_speech - begin)
        if not speech:
            return Segment(self.start + length)
        certainty = speech * self.certainty / self.voiced
        first, last = begin - length, self.last_speech - length
        return Segment(self.start + length, (), "", [], speech, certainty, first, last)


class Listener:
    """One stream. `hear` its audio in order; `flush` ends the open turn at once.

    ``judge`` None: how it sounds is not asked, and turns end later. ``by_silence``: nor is what was said;
    turns end by ``end_timeout_ms`` alone. ``live`` False: the recogniser is too slow to hear the same speech
    again and again; text comes with the pauses.
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
    ) -> None:
        self._recogniser = recogniser
        self._voice = voice
        self._judge = judge
        self._by_silence = by_silence
        self._live = live
        self._endpointer = Endpointer(settings)
        self._rest = np.zeros(0, np.float32)
        self._audio = _Tail()  # of the open segment; between turns the pre-roll
        self._lately: deque[Audio] = deque(maxlen=HEARD_BY_SMART_TURN // FRAME)
        self._segment = Segment(0)
        self._closed: list[Piece] = []  # the open turn's segments before this one
        self._said = False  # anything, in an earlier turn
        self._since_update = 0
        self._shown = ""
        self.finished: list[Piece] = []
        """What the last turn that ended consisted of."""

    @property
    def in_turn(self) -> bool:
        return self._endpointer.state is not TurnState.IDLE

    @property
    def speaking(self) -> bool:
        return self._endpointer.speaking

    @property
    def position(self) -> int:
        """Samples heard."""
        return self._audio.end

    def configure(self, settings: TurnSettings) -> None:
        self._endpointer.configure(settings)

    def hear(self, samples: Audio, *, updates: bool = True) -> list[TurnMessage]:
        """The messages that 16 kHz ``samples`` bring about. Without ``updates`` a turn's text waits for its
        next pause; everything else happens as always."""
        audio = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        whole = len(audio) - len(audio) % FRAME
        self._rest = audio[whole:]
        messages: list[TurnMessage] = []
        for begin in range(0, whole, FRAME):
            messages += self._frame(audio[begin : begin + FRAME], updates)
        return messages

    def flush(self) -> list[TurnMessage]:
        """End the open turn now, with all its text. Speech too short to begin a turn is taken for one."""
        messages: list[TurnMessage] = []
        self._take_rest()
        if not self.in_turn:
            if self._segment.voiced < MIN_PRESSED:
                return messages
            messages.append(TurnStart())
        self._decode_pause(least=MIN_PRESSED)
        self._publish_pause()
        messages.append(TurnEnd(self._transcript()))
        self._endpointer = self._endpointer.restarted()
        self._begin_idle()
        return messages

    def _take_rest(self) -> None:
        """What is no whole frame: too short to be judged, but part of what is decoded, and of the clock."""
        self._audio.append(self._rest)
        if len(self._rest) and self.speaking:
            self._segment.last_speech = self._length()
            self._segment.paused = None
        self._rest = np.zeros(0, np.float32)

    def _frame(self, frame: Audio, updates: bool) -> list[TurnMessage]:
        probability = self._voice.probability(frame)
        self._audio.append(frame)
        self._lately.append(frame)
        messages = [
            message for turning in self._endpointer.frame(probability) for message in self._turn(turning)
        ]
        self._note(probability)
        if not self.in_turn:
            self._keep_pre_roll()
            return messages
        if self._endpointer.probe_due:
            self._pause()
        return messages + self._progress(updates)

    def _note(self, probability: float) -> None:
        """Keep account of where in the segment the voice is."""
        segment = self._segment
        if self.speaking or (not self.in_turn and probability > 0.5):
            if segment.first_voiced is None:
                segment.first_voiced = self._length() - FRAME
            if segment.settled and not segment.resumed:
                segment.resumed = self._length() - FRAME
            segment.voiced += FRAME
            segment.certainty += probability * FRAME
            segment.last_speech = self._length()
            segment.paused = None

    def _turn(self, turning: TurnTransition) -> list[TurnMessage]:
        match turning:
            case TurnTransition.START:
                self._since_update = 0
                while len(self._lately) > PRE_ROLL // FRAME:
                    self._lately.popleft()  # an earlier turn says nothing about how this one sounds
                return [TurnStart()]
            case TurnTransition.RESUME:
                if self._length() - self._segment.settled > FAR:
                    self._settle()
                return [TurnResume()]
            case TurnTransition.EAGER_END:
                self._decode_pause()
                self._publish_pause()
                self._segment.settled, self._segment.resumed = self._segment.last_speech, 0
                if not self._live:  # nothing can be forced on such a recogniser
                    self._settle()
                return [*self._update(), TurnEagerEnd(self._transcript())]
            case TurnTransition.END:
                self._decode_pause()
                self._publish_pause()
                text = self._transcript()
                self._begin_idle()
                return [TurnEnd(text)]

    def _progress(self, updates: bool) -> list[TurnMessage]:
        length, silence_s = self._length(), self._endpointer.silence_s
        active = self._endpointer.state is TurnState.SPEAKING
        if active and length > SOFT and silence_s >= SOFT_PAUSE_S:
            return self._close_segment(self._segment.last_speech + TRIM)
        if length > HARD:
            return self._close_segment(self._quietest())
        self._since_update += FRAME
        if updates and self._live and active and self.speaking and self._since_update >= STEP:
            self._since_update = 0
            self._agree()
        return self._update() if active else []

    def _update(self) -> list[TurnMessage]:
        text = self._transcript()
        if text == self._shown:
            return []
        self._shown = text
        return [TurnUpdate(text)]

    def _close_segment(self, length: int) -> list[TurnMessage]:
        """Publish all of the segment's first ``length`` samples; the rest begins a new one."""
        end = self._audio.start + min(length, self._length())
        self._decode_pause(end - self._audio.start)
        self._publish_pause()
        updates = self._update()
        length = end - self._audio.start
        self._drop(length, length)
        return updates

    def _settle(self) -> None:
        """What was decoded for an eager end stands; what follows the silence begins a new segment."""
        segment = self._segment
        if segment.settled:
            resumed = segment.resumed or self._length() - FRAME
            self._drop(max(segment.settled, resumed - PRE_ROLL), segment.settled)

    def _drop(self, length: int, spoken: int) -> None:
        """The segment ends after ``length`` samples, its speech after ``spoken``."""
        self._closed.append(self._piece(spoken))
        self._audio.drop(length)
        self._segment = self._segment.rest(length)

    def _begin_idle(self) -> None:
        self.finished = [piece for piece in (*self._closed, self._piece(self._length())) if piece.text]
        self._said = self._said or bool(self._transcript())
        self._audio.drop(self._length())
        self._segment = Segment(self._audio.start)
        self._closed = []
        self._shown = ""

    def _keep_pre_roll(self) -> None:
        """Between turns the last half second is kept, and a short word that began no turn a while longer."""
        segment = self._segment
        keep = PRE_ROLL
        if segment.first_voiced is not None:
            keep = max(keep, min(self._length() - segment.first_voiced + PRE_ROLL, 4 * PRE_ROLL))
        excess = self._length() - keep
        if excess <= 0:
            return
        self._audio.drop(excess)
        last = segment.last_speech - excess
        if segment.first_voiced is None or last <= 0:
            self._segment = Segment(self._audio.start)
        else:
            first = max(0, segment.first_voiced - excess)
            self._segment = Segment(
                self._audio.start,
                voiced=segment.voiced,
                certainty=segment.certainty,
                first_voiced=first,
                last_speech=last,
            )

    def _pause(self) -> None:
        """Shortly into a pause: what was said, and was it complete?"""
        self._decode_pause()
        if self._by_silence:
            self._endpointer.answer(UNFINISHED)
            return
        paused = self._segment.paused
        stop = paused.stop if paused and paused.ids else None
        self._endpointer.answer(completeness(self._sound(), stop, self._with_pause()))

    def _sound(self) -> float | None:
        """How complete it sounds, the silence behind it left out but for a moment."""
        if self._judge is None:
            return None
        spare = max(0, int((self._endpointer.silence_s - TAIL_S) * SAMPLE_RATE))
        heard = np.concatenate(self._lately)
        return self._judge.complete(heard[: len(heard) - spare])

    def _with_pause(self) -> str:
        paused = self._segment.paused
        text = self._recogniser.tokens.text(paused.ids) if paused else self._segment.text
        return _joined([piece.text for piece in self._closed] + [text])

    def _decode_pause(self, length: int | None = None, *, least: int = MIN_VOICED) -> None:
        segment = self._segment
        if length is None:
            length = min(self._length(), segment.last_speech + TRIM)
        if segment.paused is not None or segment.voiced < least:
            return
        found = self._recogniser.decode(self._audio.first(length), segment.ids)
        if found.ids == segment.ids and 0 < segment.settled <= min(length, segment.last_speech) - least:
            end = self._audio.start + length
            self._settle()
            self._decode_pause(end - self._audio.start, least=least)
            return
        segment.paused = found if self._believes(found) else Hypothesis(segment.ids, True, 0.0)

    def _believes(self, found: Hypothesis) -> bool:
        segment = self._segment
        if segment.ids:
            return True
        certain = segment.certainty >= DOUBTFUL * segment.voiced
        return found.logprob >= (UNLIKELY if certain else LIKELY)

    def _publish_pause(self) -> None:
        if self._segment.paused is not None:
            self._publish(self._segment.paused.ids)

    def _agree(self) -> None:
        """Publish what the last hypotheses have in common, as far as it is safe."""
        segment = self._segment
        if segment.voiced < MIN_VOICED:
            return
        found = self._recogniser.decode(self._audio.first(self._length()), segment.ids)
        if not found.finished or not self._believes(found):
            return
        segment.recent = [*segment.recent, found.ids][-AGREE:]
        if len(segment.recent) == AGREE:
            self._publish(self._safe(found.ids, _common(segment.recent)))

    def _safe(self, ids: tuple[int, ...], agreed: int) -> tuple[int, ...]:
        """Whole words within the agreed tokens, less the newest one and punctuation at the end."""
        tokens = self._recogniser.tokens
        starts = [index for index, token in enumerate(ids) if tokens.starts_word(token)]
        ends = [end for end in [*starts[1:], len(ids)] if end <= agreed][:-1]
        end = ends[-1] if ends else 0
        while end and tokens.is_punctuation(ids[end - 1]):
            end -= 1
        return ids[:end]

    def _publish(self, ids: tuple[int, ...]) -> None:
        segment = self._segment
        if len(ids) <= len(segment.ids) or ids[: len(segment.ids)] != segment.ids:
            return
        text = self._recogniser.tokens.text(ids)
        if text.startswith(segment.text):  # a token may be half of a character
            segment.ids, segment.text = ids, text

    def _transcript(self) -> str:
        text = _joined([piece.text for piece in self._closed] + [self._segment.text])
        return " " + text if text and self._said else text

    def _piece(self, length: int) -> Piece:
        """What was said in the open segment's first ``length`` samples."""
        segment = self._segment
        first = segment.start + (segment.first_voiced or 0)
        last = max(first, segment.start + min(length, segment.last_speech))
        found = segment.paused
        if found is None or found.ids != segment.ids:
            return Piece(segment.text, first, last)
        at = segment.start
        words = tuple(Spoken(word, at + begin, at + end) for word, begin, end in found.words)
        return Piece(segment.text, first, last, words)

    def _length(self) -> int:
        return self._audio.end - self._audio.start

    def _quietest(self) -> int:
        """The middle of the quietest 60 ms of late, as a length of the segment. The middle counts most: there
        it is cut, and between words of fluent speech it is quiet for hardly 20 ms."""
        length = self._length()
        late = self._audio.first(length)[-CUT_WITHIN:]
        step, window = SAMPLE_RATE // 200, np.bartlett(13)[1:-1]
        blocks = late[: len(late) // step * step].reshape(-1, step)
        loudness = np.convolve((blocks**2).mean(axis=1), window, "valid")
        return int(length - len(late) + (int(loudness.argmin()) + len(window) / 2) * step)


class _Tail:
    """Audio from the sample ``start`` to the sample ``end`` of a stream."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._parts: deque[Audio] = deque()

    def append(self, samples: Audio) -> None:
        self._parts.append(samples)
        self.end += len(samples)

    def first(self, length: int) -> Audio:
        joined = np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)
        self._parts = deque([joined])
        return joined[:length]

    def drop(self, length: int) -> None:
        self.start += length
        while length and self._parts:
            part = self._parts.popleft()
            if len(part) > length:
                self._parts.appendleft(part[length:])
                return
            length -= len(part)


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text for text in texts if text)


def _common(hypotheses: Sequence[tuple[int, ...]]) -> int:
    """How many tokens the hypotheses have in common from the beginning."""
    count = 0
    for tokens in zip(*hypotheses, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
