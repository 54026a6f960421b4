"""How far the embedded recogniser's word times are from Whisper's, on the reference recordings beside the
checkout.

    python -m benchmarks.word_times [--model tiny-en] [--reference whisper-tiny.en] [--data ../shared/data]

For every word that both wrote, the difference of where it begins. Whisper stretches a word before or after a
pause into it; of its words the part is taken in which there is voice. Prints Markdown.

Needs: pip install --group bench 'rtcstt[whisper]'
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jiwer
import numpy as np

from benchmarks.words import Bench, recordings
from rtcstt.embedded.batch import Word


def bare(words: list[Word]) -> str:
    """Words without marks and case, as many as there were."""
    return " ".join("".join(c for c in word.word.lower() if c.isalnum()) or "-" for word in words)


def differences(reference: list[Word], words: list[Word]) -> list[float]:
    if not reference or not words:
        return []
    aligned = jiwer.process_words(bare(reference), bare(words)).alignments[0]
    return [
        words[chunk.hyp_start_idx + step].start - reference[chunk.ref_start_idx + step].start
        for chunk in aligned
        if chunk.type == "equal"
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--reference", default="whisper-tiny.en")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    args = parser.parse_args()
    reference, bench = Bench(args.reference), Bench(args.model)
    found = [recording for recording in recordings(args.data) if recording.text]
    print("| word times | words | median | p90 | off by more than 0.3 s |\n|---|---|---|---|---|")
    for name, timed in (("laid over the voice by their length", False), ("by the decoder", True)):
        each: list[float] = []
        for recording in found:
            words = bench.words(recording.samples, timed=timed)
            each += differences(reference.words(recording.samples), words)
        off = np.abs(each)
        median, late = np.median(off), np.quantile(off, 0.9)
        print(f"| {name} | {len(off)} | {median:.2f} s | {late:.2f} s | {100 * (off > 0.3).mean():.0f} % |")


if __name__ == "__main__":
    main()
