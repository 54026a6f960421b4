"""Where turns begin and end: the likelihood that the user is in an active turn, and what follows from it.

**The likelihood** L, 0 to 1, moves with every frame of 32 ms.

- While there is speech it climbs towards the voice activity p: ``L += 0.42 (p - L)``, which passes
  0.8 after about four frames of clear speech. A cough or a key press is over before.
- In a pause it decays, ``L = L0 exp(-h s)``, s being the seconds since the last speech. How fast
  depends on how complete the utterance sounds: ``h = H0 (H1/H0)^c``, where c is the square of
  smart-turn's probability. c near 1 gives `turn.end` after about 0.6 s, c near 0 after more than 5 s.
- An utterance whose last word is one that needs another ("and", "the", "my") is hardly ever complete,
  however it sounds: c is divided by five.
- Until smart-turn has answered, c is 0.3; where there is none, it is 0.5.
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

from rtcstt.embedded.vad import FRAME
from rtcstt.pcm import SAMPLE_RATE
from rtcstt.wire import DEFAULT_TURN, TurnSettings, TurnState

FRAME_S = FRAME / SAMPLE_RATE
SPEECH, STILL_SPEECH = 0.5, 0.35  # voice activity that begins speech, and that continues it
PROBE_S = 0.13  # so long into a pause it is worth asking whether the utterance is complete
TAIL_S = 0.1  # of silence that smart-turn hears
RISE, FALL = 0.42, 0.25
SLOW, FAST = 0.27, 2.8  # decay per second of an utterance that is not complete, and of one that is
UNASKED, UNKNOWN = 0.3, 0.5  # completeness before the answer, and where nobody can be asked

DANGLING = frozenset(
    "a an the and or but so because if of to with for from in on at by my your his her its our their this "
    "that is are was were i'm it's um uh like some".split()
)


class Turning(enum.Enum):
    """What happens to a turn; the value is the type of the message that says so."""

    START = "turn.start"
    EAGER_END = "turn.eager_end"
    RESUME = "turn.resume"
    END = "turn.end"


@dataclass(frozen=True, slots=True)
class Row:
    setting: str
    rises: bool
    turning: Turning
    next: TurnState


TABLE: Mapping[TurnState, tuple[Row, ...]] = {
    TurnState.IDLE: (Row("start_threshold", True, Turning.START, TurnState.SPEAKING),),
    TurnState.SPEAKING: (Row("eager_end_threshold", False, Turning.EAGER_END, TurnState.EAGER_ENDED),),
    TurnState.EAGER_ENDED: (
        Row("start_threshold", True, Turning.RESUME, TurnState.SPEAKING),
        Row("end_threshold", False, Turning.END, TurnState.IDLE),
    ),
}


class Endpointer:
    """One stream's turns. `frame` for each 32 ms; `probe_due` says when to ask whether the utterance is
    complete, `answer` takes what was found out."""

    def __init__(self, settings: TurnSettings) -> None:
        self.state = TurnState.IDLE
        self.likelihood = 0.0
        self.silence_s = 0.0  # since the last speech, within a turn
        self._settings: dict[str, float] = {}
        self._peak = 0.0  # the likelihood from which it decays
        self._completeness: float | None = None
        self._probed = False
        self.configure(settings)

    @property
    def speaking(self) -> bool:
        """Whether the last frame was speech of a turn."""
        return self.state is not TurnState.IDLE and self.silence_s == 0

    @property
    def probe_due(self) -> bool:
        return not self._probed and self.silence_s >= PROBE_S

    def configure(self, settings: TurnSettings) -> None:
        """From here on these settings hold, the defaults where they are None."""
        self._settings = DEFAULT_TURN.merged(settings).as_dict()

    def restarted(self) -> Endpointer:
        """A new one with the same settings, between turns."""
        return Endpointer(TurnSettings(**self._settings))

    def answer(self, complete: float | None, words: str) -> None:
        """What smart-turn said of this pause (None: nobody was asked), and the words so far."""
        completeness = UNKNOWN if complete is None else complete**2
        last = words.lower().rstrip(" .,?!").rsplit(" ", 1)[-1]
        self._completeness = completeness * (0.2 if last in DANGLING else 1)
        self._probed = True

    def frame(self, probability: float) -> list[Turning]:
        """What the next frame, of this voice activity, makes happen."""
        self._move(probability)
        happened = []
        while (row := self._row()) is not None:
            happened.append(row.turning)
            self.state = row.next
            if row.turning is Turning.START:
                self._peak = max(self.likelihood, 0.9)
            elif row.turning is Turning.END:
                self.likelihood = 0.0
        return happened

    def _move(self, probability: float) -> None:
        needed = STILL_SPEECH if self.silence_s == 0 and self.state is not TurnState.IDLE else SPEECH
        if probability > needed or self.state is TurnState.IDLE:
            step = RISE if probability > self.likelihood else FALL
            self.likelihood += step * (probability - self.likelihood)
            self.silence_s = 0.0
            self._completeness, self._probed = None, False
            if self.state is TurnState.SPEAKING:
                self._peak = max(self.likelihood, 0.9)
            return
        self.silence_s += FRAME_S
        completeness = UNASKED if self._completeness is None else self._completeness
        decay = SLOW * (FAST / SLOW) ** completeness
        self.likelihood = min(self.likelihood, self._peak * math.exp(-decay * self.silence_s))
        if self.silence_s >= self._settings["end_timeout_ms"] / 1000:
            self.likelihood = 0.0

    def _row(self) -> Row | None:
        for row in TABLE[self.state]:
            threshold = self._settings[row.setting]
            if row.rises and self.silence_s == 0 and self.likelihood >= threshold:
                return row
            if not row.rises and self.silence_s > 0 and self.likelihood <= threshold:
                return row
        return None
