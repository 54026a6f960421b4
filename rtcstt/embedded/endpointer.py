"""Where turns begin and end: the likelihood that the user is in an active turn, and what follows from it.

**The likelihood** L, 0 to 1, moves with every frame of 32 ms.

- While there is speech it climbs towards the voice activity p: ``L += (p - L) / 2``, which passes 0.8
  after three frames of clear speech. A cough or a key press is over before.
- In a pause it falls, ``L = L0 exp(-(h s)^2)``, s being the seconds since the last speech, and h such
  that with the default settings the turn ends after as many seconds as `completeness.Fit.wait_s` says.
  (Squared, it hardly falls at first: most pauses between words end before `turn.eager_end`, and the
  recogniser keeps its context.)
- That is judged once in each pause, from how complete what was said sounds and reads; the sound just before
  it makes a difference.
- Who twice in a row speaks again within 0.7 s of a turn's end was not done: they read aloud, say, where every
  clause sounds like a sentence. The next turn waits out their pauses.
- After ``end_timeout_ms`` of silence L is 0, whatever else.

**The states** are those of the protocol. A row says: in this state, when L rises to (or falls to) this
setting, this happens. What is not in the table does not happen. Two rows may follow each other in one
frame (a timeout ends an eager end as well).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from rtcstt.embedded.completeness import UNASKED_S
from rtcstt.embedded.hypothesis import FRAME
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.wire import DEFAULT_TURN, TurnSettings, TurnState

FRAME_S = FRAME / SAMPLE_RATE
SPEECH, STILL_SPEECH = 0.5, 0.35  # voice activity that begins speech, and that continues it
PROBE_S = 0.19  # so long into a pause it is worth asking whether the utterance is complete
TAIL_S = 0.1  # of silence that smart-turn gets
AHEAD_S = 2 * FRAME_S  # so long before an answer would end a turn it is asked for, as it takes a while
RISE, FALL = 0.5, 0.25
PEAK, END = 0.9, 0.2  # the likelihood at the beginning of a pause, and at the end of a turn by default

SOON_S, MORE_PATIENCE_S = 0.7, 1.1  # who twice begins again so soon after a turn's end is given more


class TurnTransition(enum.Enum):
    """What happens to a turn; the value is the type of the message that says so."""

    START = "turn.start"
    EAGER_END = "turn.eager_end"
    RESUME = "turn.resume"
    END = "turn.end"


@dataclass(frozen=True, slots=True)
class Row:
    setting: str
    rises: bool
    transition: TurnTransition
    next: TurnState


TABLE: Mapping[TurnState, tuple[Row, ...]] = {
    TurnState.IDLE: (Row("start_threshold", True, TurnTransition.START, TurnState.SPEAKING),),
    TurnState.SPEAKING: (Row("eager_end_threshold", False, TurnTransition.EAGER_END, TurnState.EAGER_ENDED),),
    TurnState.EAGER_ENDED: (
        Row("start_threshold", True, TurnTransition.RESUME, TurnState.SPEAKING),
        Row("end_threshold", False, TurnTransition.END, TurnState.IDLE),
    ),
}


class Endpointer:
    """One stream's turns. `frame` for each 32 ms; `probe_due` says when to ask whether the utterance is
    complete, `answer` takes what was found out."""

    def __init__(self, settings: TurnSettings) -> None:
        self.state = TurnState.IDLE
        self.likelihood = 0.0
        self.silence_s = 0.0  # since the last speech, within a turn
        self._settings = DEFAULT_TURN.merged(settings).as_dict()
        self._peak = 0.0  # the likelihood from which it decays
        self._wait_s = UNASKED_S
        self._probed = False
        self._for_now = False  # the answer is not known for good
        self.longest_s = 0.0  # pause of this turn, after which they went on
        self._since_end_s = math.inf
        self._went_on = 0  # so many times in a row, soon after a turn's end

    @property
    def speaking(self) -> bool:
        """Whether the last frame was speech of a turn."""
        return self.state is not TurnState.IDLE and self.silence_s == 0

    @property
    def probe_due(self) -> bool:
        if self._for_now:
            return self.hangs_on(self._wait_s)
        return not self._probed and self.silence_s >= PROBE_S

    def hangs_on(self, wait_s: float) -> bool:
        """Whether the turn is about to end, eagerly or not, if ``wait_s`` is the answer in this pause."""
        falls = [self._settings[row.setting] for row in TABLE[self.state] if not row.rises]
        return bool(falls) and self._decayed(self.silence_s + AHEAD_S, wait_s) <= max(falls)

    def configure(self, settings: TurnSettings) -> None:
        """From here on these settings hold; those that are None stay as they are."""
        self._settings |= settings.as_dict()

    def restarted(self) -> Endpointer:
        """A new one with the same settings, between turns."""
        return Endpointer(TurnSettings(**self._settings))

    def answer(self, wait_s: float, *, for_now: bool = False) -> None:
        """So many seconds of this pause end the turn, with the default settings; see `Fit.wait_s`.
        ``for_now``: it may be more; `probe_due` is true again before that makes a difference."""
        self._wait_s = wait_s
        self._probed, self._for_now = True, for_now

    def frame(self, probability: float) -> list[TurnTransition]:
        """What the next frame, of this voice activity, makes happen."""
        self._move(probability)
        happened = []
        while (row := self._row()) is not None:
            happened.append(row.transition)
            self.state = row.next
            if row.transition is TurnTransition.START:
                self._peak = max(self.likelihood, PEAK)
                self._went_on = self._went_on + 1 if self._since_end_s < SOON_S else 0
            elif row.transition is TurnTransition.END:
                self.likelihood = self._since_end_s = 0.0
        return happened

    def _move(self, probability: float) -> None:
        needed = STILL_SPEECH if self.silence_s == 0 and self.state is not TurnState.IDLE else SPEECH
        if probability > needed or self.state is TurnState.IDLE:
            step = RISE if probability > self.likelihood else FALL
            self.likelihood += step * (probability - self.likelihood)
            self.longest_s = 0.0 if self.state is TurnState.IDLE else max(self.longest_s, self.silence_s)
            self.silence_s = 0.0
            self._wait_s, self._probed, self._for_now = UNASKED_S, False, False
            self._since_end_s += FRAME_S
            if self.state is TurnState.SPEAKING:
                self._peak = max(self.likelihood, PEAK)
            return
        self.silence_s += FRAME_S
        self.likelihood = min(self.likelihood, self._decayed(self.silence_s, self._wait_s))
        if self.silence_s >= self._settings["end_timeout_ms"] / 1000:
            self.likelihood = 0.0

    def _decayed(self, silence_s: float, wait_s: float) -> float:
        """The likelihood after so much silence, if so much ends a turn."""
        least = MORE_PATIENCE_S if self._went_on > 1 else 0.0
        return self._peak * float((END / PEAK) ** (silence_s / max(wait_s, least)) ** 2)

    def _row(self) -> Row | None:
        for row in TABLE[self.state]:
            threshold = self._settings[row.setting]
            if row.rises and self.silence_s == 0 and self.likelihood >= threshold:
                return row
            if not row.rises and self.silence_s > 0 and self.likelihood <= threshold:
                return row
        return None
