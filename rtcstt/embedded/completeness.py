"""How complete an utterance is at a pause, and how long it is then waited for more.

It is judged once in each pause, in log-odds, from what the endpointer, smart-turn and the recogniser know:

- how it was said: smart-turn's probability that the utterance is complete;
- what was said: how surely the recogniser expects a full stop. Each errs where the other knows better:
  smart-turn takes "How old is" for finished and "Hello world" not;
- whether the last word needs another ("and", "the", "um") or may ("to", "that"), is a number, which
  others may follow as somebody dictates, or a letter that is spelled.

Whatever is said, a speaker who has paused in this turn and gone on is given somewhat longer than that pause:
who reads aloud makes every clause sound like a sentence. Who has not, and sounds done, mostly is.

The weights, and the seconds to wait for each degree of completeness, differ from model to model. They are
fitted to recordings by `benchmarks/endpointing.py`, which prints them as they stand here; but the seconds of
tiny-en, its `Doubt` and its `Fluent` were chosen for its weights, as soon as no more pauses in clauses and at
commas end a turn. A core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

UNFINISHED_S, UNASKED_S = 5.6, 1.26  # to wait where nothing is asked, and until there is an answer

DANGLING = frozenset(
    "a an the and or but so because if my your his her its our their i'm it's um uh mr mrs ms dr".split()
)
HANGING = frozenset("of to with for from in on at by this that is are was were like some".split())
ANSWERS = frozenset(
    "yes|no|yeah|yep|nope|okay|ok|sure|right|correct|exactly|maybe|never|none|nothing|please|thanks|thank you"
    "|no thanks|yes please|no problem|all right|alright|of course|that's right|hello|hi|goodbye|bye"
    "|good morning|i see|fine|great|perfect|yes sir|yes ma'am|not yet|both|neither|cancel|stop|repeat".split(
        "|"
    )
)
NUMBERS = frozenset(
    "zero oh one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred "
    "thousand double triple dash plus".split()
)
LEADING = frozenset("not this these those very what which who as than then when while".split())
SHORT = 2  # words, at most, of an answer


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at a pause. ``sound`` is smart-turn's probability, ``stop`` the recogniser's of a full
    stop after ``words``, None where there is no such witness; ``longest_s``: the longest pause of this turn
    before, after which the speaker went on."""

    sound: float | None
    stop: float | None
    words: str
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """One or two words that are at least so complete (``known`` answers, and ``others``) are waited for so
    many seconds at most: both witnesses know little of so short a text, and who waits for it waits long."""

    seconds: float
    known: float
    others: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """Words behind which the recogniser expects a full stop with less than this probability are waited for
    so many seconds at least, however they sound: it writes one behind nearly everything that is followed by
    silence, but hardly ever doubts it where somebody was done. So are those that end with a number, which
    somebody dictates or spells, or with a word that needs another."""

    stop: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Fluent:
    """Who has not paused in this turn for ``pause_s``, and says something at least so complete that is not
    doubted, is waited for so many seconds at most."""

    seconds: float
    degree: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The constants of one model: a weight for each of `features`, and how complete an utterance has to be
    for how many seconds of silence to end its turn by default; in proportion between these. ``rhythm``: so
    many times the longest pause of the turn are waited for in any case, but at most so many seconds."""

    weights: Mapping[str, float]
    patience: tuple[tuple[float, float], ...]
    rhythm: tuple[float, float]
    answers: Answers
    doubt: Doubt
    fluent: Fluent

    def completeness(self, evidence: Evidence) -> float:
        """In log-odds."""
        return sum(self.weights.get(name, 0.0) * value for name, value in features(evidence).items())

    def soonest_s(self, evidence: Evidence) -> float | None:
        """The least that `wait_s` can be when ``sound`` is known, which is not yet; None: it makes no
        difference."""
        waits_s = [self.wait_s(replace(evidence, sound=sound)) for sound in (0.0, 1.0)]
        return min(waits_s) if min(waits_s) < max(waits_s) else None

    def wait_s(self, evidence: Evidence) -> float:
        """Of silence, until the turn ends with the default settings."""
        degree = self.completeness(evidence)
        degrees, seconds = zip(*self.patience, strict=True)
        waited = float(np.interp(degree, degrees, seconds))
        said = spoken(evidence.words)
        is_known = " ".join(said) in ANSWERS
        if is_answer(said) and degree >= (self.answers.known if is_known else self.answers.others):
            waited = min(waited, self.answers.seconds)
        elif is_doubted(evidence, said, self.doubt.stop):
            waited = max(waited, self.doubt.seconds)
        elif evidence.longest_s < self.fluent.pause_s and degree >= self.fluent.degree:
            waited = min(waited, self.fluent.seconds)
        times, most_s = self.rhythm
        return max(waited, min(times * evidence.longest_s, most_s))


def spoken(words: str) -> list[str]:
    """The words, bare."""
    return [bare for word in words.lower().split() if (bare := word.strip(".?!,;:\"'"))]


def is_answer(said: Sequence[str]) -> bool:
    """Whether these words may be all of an answer: few, of which the last leads to no other, as a letter
    does that is spelled."""
    leads = said and (said[-1] in DANGLING | HANGING | LEADING or (len(said[-1]) == 1 and said[-1].isalpha()))
    return 0 < len(said) <= SHORT and not leads


def is_doubted(evidence: Evidence, said: Sequence[str], stop: float) -> bool:
    found = features(evidence)
    needs_more = found["dangling"] or found["number"] or found["letter"]
    return bool(said) and (bool(needs_more) or (evidence.stop is not None and evidence.stop < stop))


def features(evidence: Evidence) -> dict[str, float]:
    """What is weighed. All are 0 where nothing is known."""
    said = spoken(evidence.words)
    last = said[-1] if said else ""
    return {
        "bias": 1.0,
        "sound": 0.0 if evidence.sound is None else _log_odds(evidence.sound, 0.01),
        "stop": 0.0 if evidence.stop is None else _log_odds(evidence.stop, 0.001),
        "dangling": float(last in DANGLING),
        "hanging": float(last in HANGING),
        "number": float(len(said) > SHORT and _is_number(last)),
        "letter": float(len(said) > 1 and len(last) == 1 and len(said[-2]) == 1 and not last.isdigit()),
    }


def _is_number(word: str) -> bool:
    bare = word.replace("-", "").replace(",", "").replace("$", "")
    return bare.isdigit() or all(part in NUMBERS for part in word.split("-"))


def _log_odds(probability: float, least: float) -> float:
    bounded = min(max(probability, least), 1 - least)
    return math.log(bounded / (1 - bounded))


_MOONSHINE = Fit(
    {"bias": -2.58, "sound": 0.44, "stop": 0.5, "dangling": -0.41, "number": -1.81},
    (
        (-6.0, 5.6),
        (-3.0, 1.0),
        (-2.0, 1.0),
        (-1.25, 0.9),
        (0.0, 0.8),
        (0.75, 0.55),
        (1.0, 0.37),
        (3.0, 0.37),
    ),
    (1.3, 0.85),
    Answers(seconds=0.55, known=-5.92, others=-1.6),
    Doubt(stop=0.95, seconds=1.25),
    Fluent(seconds=0.37, degree=-0.2, pause_s=0.25),
)

FITS: Mapping[str, Fit] = {
    "tiny-en": _MOONSHINE,
    "base-en": _MOONSHINE,  # does better with these constants than with those fitted to itself
    "": Fit(
        {"bias": -0.93, "sound": 0.46, "dangling": -0.96, "hanging": -0.65, "number": -1.92},
        ((-6.0, 5.6), (-3.0, 1.19), (-1.5, 1.19), (0.0, 0.51), (1.5, 0.4), (3.0, 0.4)),
        (1.2, 0.7),
        Answers(seconds=0.55, known=-4.73, others=-1.6),
        Doubt(stop=0.0, seconds=1.25),
        Fluent(seconds=0.4, degree=1.5, pause_s=0.25),
    ),
}


def fit_of(model: str) -> Fit:
    """That of a model by its name; of one that gives no odds of a full stop where it is not known."""
    return FITS.get(model, FITS[""])
