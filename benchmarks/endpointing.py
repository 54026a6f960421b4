"""Fit the endpointer's constants to recordings: what `rtcstt.embedded.completeness` has for each model.

    python -m benchmarks.endpointing [--model tiny-en] [--data ../shared/data] [--keep FILE]

Every pause of the recordings is a sample: what the endpointer knows then, and either that the speaker was
done, or after how long they went on. Where the speaker was done is told from the reference text, and in
calls recorded in two files from who speaks next. Added are hesitations put into sentences, and, where flite
is installed, numbers dictated in groups, letters spelled, and sentences interrupted by "um" and "and".

The weights of the evidence, and the seconds of silence for each degree of completeness, are chosen so that
as many ends as can be come soon and few late, while no more pauses of each kind end a turn than `ALLOWED`.
They are judged by cross-validation: constants fitted to four fifths of the recordings, applied to
the rest. Prints that, and the constants fitted to all. ``--keep`` writes the samples to a file, or reads
them from it: collecting takes ten minutes, fitting two.

Needs: pip install --group bench
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.turns import ENDS, hesitating, in_mid_sentence, pauses
from benchmarks.words import LEAD_S, RATE, TRAIL_S, Bench, Recording, quantile, read, recordings, silence
from rtcstt.embedded.completeness import (
    ANSWERS,
    FITS,
    Answers,
    Doubt,
    Evidence,
    Fit,
    Fluent,
    features,
    is_answer,
    is_doubted,
    spoken,
)
from rtcstt.embedded.hypothesis import FRAME, Audio

FRAME_S = FRAME / RATE
Vector = NDArray[np.float64]
END, CLAUSE, BREAK, HESITATION, DICTATED = "end", "clause", "break", "hesitation", "dictated"
ALLOWED = {CLAUSE: 0.055, BREAK: 0.05, DICTATED: 0.045, HESITATION: 0.43}  # the shares that may end a turn
LONG_S = 1.0  # a pause this long behind a sentence is one in which its speaker was done
HESITATION_S = 1.2
LONGEST_PAUSE_S = 1.25  # that is no end of a turn, whatever was said
SHARES = (0.12, 0.35, 0.65)  # of a sentence, before a hesitation
FOLDS = 5
POPULATION, GENERATIONS = 60, 600
KNOTS, LONGEST_S = (-6.0, -3.0, -1.5, 0.0, 0.75, 1.5, 3.0), 5.6  # of completeness; the seconds at the first
SECONDS = ((0.36, 1.05),) * 4 + ((0.36, 0.8), (0.36, 0.6))  # at the others
RHYTHM = ((1.2, 2.0), (0.6, 1.0))
ANSWER_S, SHORT_FROM = 0.55, ((-6.0, -4.5), (-5.0, -1.6))  # how complete: known answers, others
DOUBT_S, DOUBTS = 1.26, (0.95, 0.97)  # seconds to wait at least; below which probability of a full stop
FLUENT_S, PAUSED_S, FLUENT_FROM = 0.37, 0.25, (0.0, 3.0)  # who has not paused for so long; how complete
LAST = (*RHYTHM, *SHORT_FROM, DOUBTS, FLUENT_FROM)  # the bounds of what is neither weight nor seconds
SIGNS = {"sound": 1, "stop": 1, "dangling": -1, "hanging": -1, "letter": -1, "number": -1}
MOST = {"sound": 1.0, "stop": 1.5}
SOON_S, LATE_S, SOFT_S = 0.41, 1.0, (0.03, 0.01)  # of ends; how sharply ends and pauses are told apart
DELAY, LATE, TOO_MANY, LARGE = 0.3, 3.0, 0.2, 0.002  # weights beside the share of ends not soon
MARGIN_S = 0.04  # a pause may as well have been so much longer

# What flite says, with pauses between these parts.
VOICES = ("rms", "slt", "awb")
DICTATIONS = (
    ("My number is four one five", "five five five", "one two three four."),
    ("Four one five", "five five five", "one two three four."),
    ("It is zero seven seven", "double three six", "nine nine eight."),
    ("The card number is four two four two", "four two four two", "one one one one", "nine eight seven six."),
    ("The account is six seven", "eight nine", "four three."),
    ("S. M.", "I. T. H."),
    ("My name is Kline, K. L.", "I. N. E."),
    ("The plate is B. X.", "four seven", "T. R. K."),
)
INTERRUPTED = (
    ("I would like to book a table for, um", "four people."),
    ("I want to fly from Boston and", "I need a hotel as well."),
    ("Can you tell me, uh", "when the next train leaves?"),
    ("We looked at the house but", "it was too small for us."),
    ("Please send it to my", "office address."),
    ("I think that the", "second one was better."),
    ("So", "what time do you open?"),
    ("Um", "I am not sure about that."),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A pause of a recording. ``hold_s``: after so long the speaker went on; None: they were done."""

    recording: str
    kind: str
    evidence: Evidence
    hold_s: float | None

    @property
    def fold(self) -> int:
        return zlib.crc32(self.recording.encode()) % FOLDS


@dataclass(frozen=True, slots=True)
class Pause:
    """In seconds of a recording."""

    at_s: float
    until_s: float | None
    evidence: Evidence


class Watched:
    """A voice detector, and what it said."""

    def __init__(self, bench: Bench) -> None:
        self._voice = bench.vad.stream()
        self.said: list[float] = []

    def probability(self, frame: Audio) -> float:
        self.said.append(self._voice.probability(frame))
        return self.said[-1]


class Asking(Fit):
    """Asks at once how it sounds, also where that makes no difference with the present constants."""

    def soonest_s(self, evidence: Evidence) -> float | None:
        return 0.01


def pauses_of(bench: Bench, samples: Audio) -> list[Pause]:
    """Those in which a listener asks how complete it is, and what it knows then."""
    voice = Watched(bench)
    present = FITS["tiny-en"]
    asking = Asking(*(getattr(present, each.name) for each in dataclasses.fields(present)))
    listener = bench.listener(voice, fit=asking)
    padded = np.concatenate([silence(LEAD_S), samples, silence(TRAIL_S)])
    found: list[tuple[int, Evidence]] = []
    for start in range(0, len(padded) - FRAME, FRAME):
        listener.receive(padded[start : start + FRAME])
        if listener.asked is not None and (not found or listener.asked is not found[-1]):
            found.append(listener.asked)
    return [_pause(voice.said, begin, evidence) for begin, evidence in found]


def _pause(said: Sequence[float], begin: int, evidence: Evidence) -> Pause:
    first = begin // FRAME
    later = [index for index in range(first, len(said)) if said[index] > 0.5]
    return Pause(begin / RATE - LEAD_S, later[0] * FRAME_S - LEAD_S if later else None, evidence)


def of_recording(bench: Bench, recording: Recording, name: str) -> Iterator[Sample]:
    """Its own pauses, by its reference text."""
    clauses, breaks = in_mid_sentence(bench, recording)
    is_sentence = recording.text.rstrip("\"'”").endswith(ENDS) or len(recording.text.split()) <= 2
    for pause in pauses_of(bench, recording.samples):
        within = [
            kind
            for kind, places in ((CLAUSE, clauses), (BREAK, breaks))
            if any(begin / RATE - 0.2 <= pause.at_s <= end / RATE for begin, end in places)
        ]
        if pause.until_s is None:
            if is_sentence:
                yield Sample(name, END, pause.evidence, None)
        elif within:
            yield Sample(name, within[0], pause.evidence, pause.until_s - pause.at_s)
        elif pause.until_s - pause.at_s >= LONG_S and recording.text.rstrip("\"'”").endswith(ENDS):
            yield Sample(name, END, pause.evidence, None)


def of_hesitations(bench: Bench, recording: Recording, name: str) -> Iterator[Sample]:
    """What is known in pauses that are put into a sentence."""
    paused = pauses(bench, recording)
    for share in SHARES:
        made = hesitating(recording.samples, share, HESITATION_S, paused)
        if made is None:
            continue
        samples, (begin, end) = made
        for pause in pauses_of(bench, samples):
            if begin / RATE - 0.3 <= pause.at_s <= begin / RATE + 0.3:
                yield Sample(name, HESITATION, pause.evidence, HESITATION_S)


def of_call(bench: Bench, own: Audio, other: Audio, name: str) -> Iterator[Sample]:
    """One side of a call: they were done where the other speaks next."""
    voice = Watched(bench)
    for start in range(0, len(other) - FRAME, FRAME):
        voice.probability(other[start : start + FRAME])
    theirs = [index * FRAME_S for index, said in enumerate(voice.said) if said > 0.8]
    for pause in pauses_of(bench, own):
        until_s = pause.until_s if pause.until_s is not None else len(own) / RATE
        if any(pause.at_s < at < until_s for at in theirs):
            yield Sample(name, END, pause.evidence, None)
        elif pause.until_s is not None:
            yield Sample(name, CLAUSE, pause.evidence, until_s - pause.at_s)


def of_synthesis(bench: Bench) -> Iterator[Sample]:
    """Numbers, letters and interruptions, said by flite, in which nobody is done yet. How it ends a sentence
    is no sample: smart-turn calls half of that unfinished."""
    if shutil.which("flite") is None:
        return
    for voice in VOICES:
        for number, groups in enumerate((*DICTATIONS, *INTERRUPTED)):
            name = f"flite {number}"
            said = [_spoken(voice, text) for text in groups]
            gap_s = 0.6 + 0.1 * (number % 6)
            parts = [part for one in said for part in (one, silence(gap_s))][:-1]
            ends_s = np.cumsum([len(part) for part in parts])[::2] / RATE
            for pause in pauses_of(bench, np.concatenate(parts)):
                if pause.until_s is not None and any(abs(pause.at_s - end_s) < 0.25 for end_s in ends_s[:-1]):
                    yield Sample(name, DICTATED, pause.evidence, pause.until_s - pause.at_s)


def _spoken(voice: str, text: str) -> Audio:
    """Without the silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
        (samples,) = read(path)
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() / 40)
    return samples[loud[0] : loud[-1] + 1]


def collect(bench: Bench, folder: Path) -> list[Sample]:
    found: list[Sample] = []
    for recording in recordings(folder):
        if not recording.text:
            continue
        name = recording.name
        found += of_recording(bench, recording, name)
        if recording.text.rstrip("\"'”").endswith(ENDS) and 4 < len(recording.text.split()) < 40:
            found += of_hesitations(bench, recording, name)
    for entry in json.loads((folder / "manifest.json").read_text()):
        if "pair" in entry:
            own, other = read(folder / entry["file"])[0], read(folder / entry["pair"])[0]
            found += of_call(bench, own, other, entry["file"])
    return [*found, *of_synthesis(bench)]


# -- fitting -------------------------------------------------------------------------------------------


def fit(samples: Sequence[Sample], *, without: frozenset[str] = frozenset()) -> Fit:
    """``without``: features that the model does not give. By differential evolution: of sixty sets of
    constants each is now and then replaced by the best one changed by the difference of two others, where
    that is better. Always the same for the same samples."""
    problem = Problem(samples, without)
    chance = np.random.default_rng(0)
    low, high = problem.bounds
    tried = low + chance.random((POPULATION, len(low))) * (high - low)
    costs = np.array([problem.cost(each) for each in tried])
    for _ in range(GENERATIONS):
        for place in range(POPULATION):
            one, first, second = tried[chance.integers(POPULATION, size=3)]
            base = tried[costs.argmin()] if chance.random() < 0.5 else one
            changed = np.clip(base + 0.6 * (first - second), low, high)
            changed = np.where(chance.random(len(low)) < 0.7, changed, tried[place])
            if (cost := problem.cost(changed)) < costs[place]:
                tried[place], costs[place] = changed, cost
    return problem.fit(tried[costs.argmin()])


class Problem:
    """What constants cost: a weight for each feature, the logarithm of the seconds at each of `KNOTS` but the
    first, the two of a rhythm, how complete short answers have to be, how sure a full stop, and how complete
    what is said without a pause."""

    def __init__(self, samples: Sequence[Sample], without: frozenset[str]) -> None:
        self._names = [name for name in features(samples[0].evidence) if name not in without]
        found = [features(sample.evidence) for sample in samples]
        self._matrix = np.array([[each[name] for name in self._names] for each in found])
        kinds = np.array([sample.kind for sample in samples])
        self._ends = kinds == END
        self._hold_s = np.array([sample.hold_s or 0.0 for sample in samples])
        said = [spoken(sample.evidence.words) for sample in samples]
        self._short = np.array([is_answer(words) for words in said])
        self._stop = np.array(
            [_least_stop(sample.evidence, with_odds="stop" not in without) for sample in samples]
        )
        self._known = np.array([" ".join(words) in ANSWERS for words in said])
        self._longest_s = np.array([sample.evidence.longest_s for sample in samples])
        self._may_break = [
            ((kinds == kind) & (self._hold_s <= LONGEST_PAUSE_S), share * int((kinds == kind).sum()))
            for kind, share in ALLOWED.items()
        ]

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        """No witness may count against itself."""
        signs = [SIGNS.get(name, 0) for name in self._names]
        most = [MOST.get(name, 3.0) for name in self._names]
        low = [0.0 if sign > 0 else -limit for sign, limit in zip(signs, most, strict=True)]
        high = [0.0 if sign < 0 else limit for sign, limit in zip(signs, most, strict=True)]
        soon, late = zip(*SECONDS, strict=True)
        return (
            np.array([*low, *np.log(soon), *(least for least, _ in LAST)]),
            np.array([*high, *np.log(late), *(most for _, most in LAST)]),
        )

    def cost(self, constants: Vector) -> float:
        """The share of ends that do not come soon, half their delay in seconds, what they are late, and for
        each kind of pauses those too many that would end a turn; a little for weights that are large."""
        weights, seconds, (times, most_s, known, others, stop, fluent) = self._parts(constants)
        degrees = self._matrix @ weights
        waited = np.interp(degrees, KNOTS, seconds)
        is_answer = self._short & (degrees >= np.where(self._known, known, others))
        is_doubted = ~is_answer & (self._stop < stop)
        is_fluent = ~is_answer & ~is_doubted & (self._longest_s < PAUSED_S) & (degrees >= fluent)
        waited = np.where(is_answer, np.minimum(waited, ANSWER_S), waited)
        waited = np.where(is_doubted, np.maximum(waited, DOUBT_S), waited)
        waited = np.where(is_fluent, np.minimum(waited, FLUENT_S), waited)
        waited = np.maximum(waited, np.minimum(times * self._longest_s, most_s))
        ends = waited[self._ends]
        cost = _share_above(ends, SOON_S, SOFT_S[0]).mean() + DELAY * ends.mean()
        cost += LATE * np.maximum(0, ends - LATE_S).mean() + LARGE * (weights[1:] ** 2).sum()
        for some, allowed in self._may_break:
            broken = _share_above(self._hold_s[some] - waited[some], MARGIN_S, SOFT_S[1]).sum()
            cost += TOO_MANY * max(0.0, float(broken) - allowed - 0.3)
        return float(cost)

    def fit(self, constants: Vector) -> Fit:
        weights, seconds, last = self._parts(constants)
        times, most_s, known, others, stop, fluent = (round(float(each), 2) for each in last)
        named = {name: round(float(weight), 2) for name, weight in zip(self._names, weights, strict=True)}
        curve = zip(KNOTS, (round(float(each), 2) for each in seconds), strict=True)
        return Fit(
            named,
            tuple(curve),
            (times, most_s),
            Answers(ANSWER_S, known, others),
            Doubt(stop, DOUBT_S),
            Fluent(FLUENT_S, fluent, PAUSED_S),
        )

    def _parts(self, constants: Vector) -> tuple[Vector, Vector, Vector]:
        count = len(self._names)
        seconds = np.minimum.accumulate([LONGEST_S, *np.exp(constants[count : -len(LAST)])])
        return constants[:count], seconds, constants[-len(LAST) :]


def _share_above(values: Vector, limit: float, soft: float) -> Vector:
    """1 for those that are above it, 0 for those below, and in between where it is close."""
    shares: Vector = 1 / (1 + np.exp(np.clip((limit - values) / soft, -30, 30)))
    return shares


def _least_stop(evidence: Evidence, *, with_odds: bool) -> float:
    """Below it `Doubt.stop` doubts nothing: 0 for what is doubted always, 1 for what never is."""
    said = spoken(evidence.words)
    if is_doubted(evidence, said, 0.0):
        return 0.0
    return evidence.stop if with_odds and said and evidence.stop is not None else 1.0


def table(title: str, samples: Sequence[Sample], fits: Sequence[Fit]) -> str:
    """A row: the waiting at ends, and the share of pauses of each kind that end a turn. ``fits``: one, or
    that of each fold."""
    waited: dict[str, list[float]] = {}
    broken: dict[str, list[bool]] = {}
    for sample in samples:
        fitted = fits[sample.fold % len(fits)]
        seconds = fitted.wait_s(sample.evidence)
        if sample.hold_s is None:
            waited.setdefault(END, []).append(seconds)
        else:
            broken.setdefault(sample.kind, []).append(seconds < sample.hold_s <= LONGEST_PAUSE_S)
    ends = waited[END]
    cells = [f"{statistics.median(ends):.2f} / {quantile(ends, 0.9):.2f} s of {len(ends)}"]
    for kind in (CLAUSE, BREAK, HESITATION, DICTATED):
        some = broken.get(kind, [])
        cells.append(f"{sum(some)} of {len(some)}")
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="a file for the samples")
    args = parser.parse_args()
    if args.keep is not None and args.keep.exists():
        samples = [
            Sample(each["recording"], each["kind"], Evidence(**each["evidence"]), each["hold_s"])
            for each in json.loads(args.keep.read_text())
        ]
    else:
        samples = collect(Bench(args.model), args.data)
        if args.keep is not None:
            args.keep.write_text(json.dumps([dataclasses.asdict(sample) for sample in samples], indent=0))
    print(f"| {args.model} | waiting at ends, median / p90 | clause | comma | put in | dictated |")
    print("|---|---|---|---|---|---|")
    for name, without in (
        (args.model, frozenset[str]()),
        ("without odds of words", frozenset({"stop"})),
    ):
        folds = [
            fit([sample for sample in samples if sample.fold != fold], without=without)
            for fold in range(FOLDS)
        ]
        fitted = fit(samples, without=without)
        if name in FITS:
            print(table(f"{name}, as it is", samples, [FITS[name]]))
        print(table(f"{name}, cross-validated", samples, folds))
        print(table(f"{name}, fitted to all", samples, [fitted]))
        print(f"\n{fitted}\n")


if __name__ == "__main__":
    main()
