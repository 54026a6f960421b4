"""What key terms do to the words of the embedded recogniser, on the reference recordings beside the checkout.

    python -m benchmarks.keyterms [--model tiny-en] [--strength 0.5 1 2] [--data ../shared/data]

Twenty terms are always expected, of which each recording holds a few or none: how many are found where they
were said, without and with them, how often one is written where it was not said, and how many of all the
other words are wrong. Live, as in `benchmarks.words`. Prints Markdown.

Needs: pip install --group bench
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import jiwer

from benchmarks.words import Bench, normal, recordings
from rtcstt.embedded.hypothesis import Terms

TERMS = (
    *("Chromecast", "Digium", "Asterisk", "Abigail Claflin", "Whittemore", "Dashwood", "Quilter", "Linnell"),
    *(
        "Carker",
        "Collier",
        "Birket Foster",
        "Tilney",
        "Mrs. Allen",
        "IAX",
        "PBX",
        "birch canoe",
        "telemarketers",
    ),
    *("Brooklyn Bridge", "ill-disposed", "echo test"),
)


def counted(text: str) -> Counter[str]:
    spoken = f" {normal(text)} "
    return Counter({term: spoken.count(f" {normal(term)} ") for term in TERMS})


def without_terms(text: str) -> str:
    spoken = f" {normal(text)} "
    for term in TERMS:
        spoken = spoken.replace(f" {normal(term)} ", " ")
    return spoken.strip()


def row(model: str, strength: float, folder: Path) -> list[str]:
    bench = Bench(model, Terms(TERMS if strength else (), strength))
    said = found = false = wrong = words = 0
    for recording in recordings(folder):
        text = bench.live(recording.samples).text
        there, written = counted(recording.text), counted(text)
        said += there.total()
        found += (there & written).total()
        false += (written - there).total()
        reference, others = without_terms(recording.text), without_terms(text)
        if reference:
            compared = jiwer.process_words(reference, others)
            wrong += compared.substitutions + compared.deletions + compared.insertions
            words += len(reference.split())
        else:
            wrong += len(others.split())
    return [f"{strength:g}" if strength else "none", f"{found} of {said}", str(false), f"{wrong} of {words}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--strength", type=float, nargs="+", default=[1.0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    args = parser.parse_args()
    print("| strength | terms found | written where not said | other words wrong |\n|---|---|---|---|")
    for strength in (0.0, *args.strength):
        print(f"| {' | '.join(row(args.model, strength, args.data))} |", flush=True)


if __name__ == "__main__":
    main()
