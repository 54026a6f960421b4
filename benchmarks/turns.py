"""How the turns of the embedded recogniser feel, on the reference recordings beside the checkout.

    python -m benchmarks.turns [--model tiny-en] [--data ../shared/data] [--set end_threshold=0.3] [--each]

How soon turns start and finished sentences end; how often a pause in mid-sentence ends a turn: those that
were spoken, and hesitations of 0.6 and 1.2 s put in where a sentence is quietest; and what starts a turn,
or even has words, although nobody speaks. Times are in audio time, to the tenth of a second in which audio
comes. Prints Markdown.

Needs: pip install --group bench
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np

from benchmarks.words import RATE, Bench, Received, Recording, quantile, recordings
from rtcstt.embedded.hypothesis import FRAME, Audio
from rtcstt.wire import TurnSettings

Pause = tuple[int, int]  # samples
SHORT_S, LONG_S = 0.2, 1.2  # the pauses that are looked at
HESITATIONS_S = (0.6, 1.2)
CHUNK_S = 0.1
ENDS, BREAKS = (".", "?", "!"), (".", "?", "!", ":", ";", ",")


def pauses(bench: Bench, recording: Recording) -> list[Pause]:
    """Where nobody speaks for a while, though somebody goes on afterwards."""
    voice = bench.vad.stream()
    frames = recording.samples[: len(recording.samples) // FRAME * FRAME].reshape(-1, FRAME)
    voiced = [index * FRAME for index, frame in enumerate(frames) if voice.probability(frame) > 0.35]
    gaps = [(before + FRAME, after) for before, after in itertools.pairwise(voiced)]
    return [gap for gap in gaps if SHORT_S <= (gap[1] - gap[0]) / RATE <= LONG_S]


def in_mid_sentence(bench: Bench, recording: Recording) -> tuple[list[Pause], list[Pause]]:
    """The pauses within clauses, and those at a comma or the like, by the reference text.

    Where a pause is in the text is known to a word or so: what is near the end of a sentence is left out.
    """
    received, said = bench.words(recording.samples), recording.text.split()
    aligned = jiwer.process_words(_bare(said), _bare([word.word for word in received]))
    place = {
        chunk.hyp_start_idx + step: chunk.ref_start_idx + step
        for chunk in aligned.alignments[0]
        if chunk.type in ("equal", "substitute")
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    }
    within: list[tuple[int, int]] = []
    at_break: list[tuple[int, int]] = []
    for begin, end in pauses(bench, recording):
        before = [index for index, word in enumerate(received) if word.end <= (begin + end) / 2 / RATE]
        if not before or before[-1] not in place:
            continue
        at = place[before[-1]]
        near = [word.rstrip("\"'”") for word in said[max(0, at - 1) : at + 2]]
        if not any(word.endswith(ENDS) for word in near):
            (at_break if any(word.endswith(BREAKS) for word in near) else within).append((begin, end))
    return within, at_break


def _bare(words: list[str]) -> str:
    """Words without marks and case, as many as there were."""
    return " ".join("".join(c for c in word.lower() if c.isalnum()) or "-" for word in words)


def hesitating(
    samples: Audio, share: float, pause_s: float, paused: list[Pause]
) -> tuple[Audio, Pause] | None:
    """With a pause of its own quiet put in where it is quietest, about this share into it, but not where
    there is a pause."""
    window = RATE // 25
    around = range(int((share - 0.1) * len(samples)), int((share + 0.1) * len(samples)) - window, RATE // 200)
    spots = [at for at in around if not any(a - window <= at <= b for a, b in paused)]
    if not spots:
        return None
    begin = min(spots, key=lambda at: float((samples[at : at + window] ** 2).sum()))
    quiet = samples[begin : begin + window]
    pause = np.resize(np.concatenate((quiet, quiet[::-1])), int(pause_s * RATE))
    middle = begin + window // 2
    return np.concatenate((samples[:middle], pause, samples[middle:])), (middle, middle + len(pause))


def ended_in(bench: Bench, samples: Audio, found: list[Pause], settings: TurnSettings) -> Iterator[bool]:
    """For each pause whether a turn ended in it."""
    yield from within(bench.live(samples, settings).ends, found)


def within(ends: list[float], found: list[Pause]) -> Iterator[bool]:
    """For each pause whether one of the turns' ``ends`` is in it."""
    for begin, end in found:
        yield any(begin / RATE < at <= end / RATE + CHUNK_S for at in ends)


class Table:
    def __init__(self, bench: Bench, settings: TurnSettings, *, each: bool) -> None:
        self._bench, self._settings, self._each = bench, settings, each
        self._known: dict[int, Received] = {}

    def _live(self, recording: Recording) -> Received:
        if id(recording) not in self._known:
            self._known[id(recording)] = self._bench.live(recording.samples, self._settings)
        return self._known[id(recording)]

    def print(self, found: list[Recording]) -> None:
        print("| turns | |\n|---|---|")
        sentences = [each for each in found if each.text.rstrip("\"'”").endswith(ENDS)]
        self._delays(sentences)
        self._answers([each for each in found if 0 < len(each.text.split()) <= 2])
        self._spoken_pauses([each for each in found if each.text])
        plain = [each for each in sentences if "silence" not in each.tags and len(each.text.split()) > 4]
        self._hesitations([each for each in plain if sum(map(each.text.count, ENDS)) == 1])
        self._false_turns([each for each in found if "no_speech" in each.tags])

    def _delays(self, found: list[Recording]) -> None:
        starts, ends = [], []
        for recording in found:
            received = self._live(recording)
            if not received.ends:
                print(f"| {recording.name} | no turn |")
                continue
            level = np.abs(recording.samples)
            starts += [received.starts[0] - float(np.flatnonzero(level > level.max() / 10)[0]) / RATE]
            ends += [received.ends[-1] - recording.speech_end_s]
            if self._each:
                print(f"| {recording.name} | {starts[-1]:.2f}, {ends[-1]:.2f} s |")
        for what, delays in (("speech to `turn.start`", starts), ("end of speech to `turn.end`", ends)):
            median, late = statistics.median(delays), quantile(delays, 0.9)
            print(
                f"| {what}, median / p90 of {len(found)} finished sentences | {median:.2f} / {late:.2f} s |"
            )

    def _answers(self, found: list[Recording]) -> None:
        """Of one or two words, single digits among them."""
        ends = []
        for recording in found:
            received = self._live(recording)
            ends += [received.ends[-1] - recording.speech_end_s] if received.ends else []
        said = f"end of an answer of one or two words to `turn.end`, median / p90 of {len(ends)}"
        print(f"| {said} | {statistics.median(ends):.2f} / {quantile(ends, 0.9):.2f} s |")

    def _spoken_pauses(self, found: list[Recording]) -> None:
        clauses: list[bool] = []
        breaks: list[bool] = []
        for recording in found:
            for total, places in zip((clauses, breaks), in_mid_sentence(self._bench, recording), strict=True):
                ended = list(within(self._live(recording).ends, places))
                total += ended
                if self._each and any(ended):
                    print(f"| {recording.name} | {ended} {[round(end / RATE, 1) for _, end in places]} |")
        self._share(f"pauses up to {LONG_S} s within a clause that end a turn", clauses)
        self._share(f"pauses up to {LONG_S} s at a comma or the like that end a turn", breaks)

    def _hesitations(self, found: list[Recording]) -> None:
        for pause_s in HESITATIONS_S:
            ended: list[bool] = []
            for recording, share in itertools.product(found, (0.35, 0.65)):
                paused = pauses(self._bench, recording)
                made = hesitating(recording.samples, share, pause_s, paused)
                if made is None:
                    continue
                ended += ended_in(self._bench, made[0], [made[1]], self._settings)
                if self._each and ended[-1]:
                    print(f"| {recording.name} | {share} {pause_s} |")
            self._share(f"hesitations of {pause_s} s put into sentences that end a turn", ended)

    def _share(self, what: str, ended: list[bool]) -> None:
        print(f"| {what} | {sum(ended)} of {len(ended)} ({100 * sum(ended) / max(1, len(ended)):.0f} %) |")

    def _false_turns(self, found: list[Recording]) -> None:
        for recording in found:
            received = self._live(recording)
            seconds, words = len(recording.samples) / RATE, len(received.text.split())
            print(f"| turns, words in {recording.name} ({seconds:.0f} s) | {len(received.starts)}, {words} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="turn settings")
    parser.add_argument("--each", action="store_true", help="also a line for each recording")
    args = parser.parse_args()
    values = dict(item.split("=") for item in args.set)
    settings = TurnSettings(**{name: float(value) for name, value in values.items()})
    speech = [
        recording
        for recording in recordings(args.data)
        if "digits" not in recording.tags or len(recording.text.split()) == 1
    ]
    Table(Bench(args.model), settings, each=args.each).print(speech)


if __name__ == "__main__":
    main()
