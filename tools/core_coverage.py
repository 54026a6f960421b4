"""Whether each core is covered by its own tests: `python tools/core_coverage.py [TESTS...]`, `make coverage`.

The test files of each row of `OWN_TESTS` are run alone, their tests in virtual time only, under coverage.py;
then of each core that they are for the share of statements and branches is told. Exit status 1 when one of
them is below `HELD` percent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELD = 94.0

OWN_TESTS: dict[str, tuple[str, ...]] = {
    "activity": ("stt.activity",),
    "addresses": ("server.addresses",),
    "alignment": ("stt.alignment",),
    "batch": ("embedded.batch",),
    "beam": ("embedded.beam",),
    "candidates": ("webrtc.candidates",),
    "capacity": ("embedded.capacity",),
    "captions": ("captions", "captions.cutting"),
    "codecs": ("media.codecs",),
    "demultiplexing": ("webrtc.demultiplexing",),
    "dictated": ("embedded.dictated",),
    "dtmf": ("media.dtmf", "media.red"),
    "endpointer": ("embedded.endpointer",),
    "events": ("events", "events.base", "events.session", "events.speech"),
    "fitting": ("events.fitting",),
    "held": ("call.concealed", "call.held", "call.stall"),
    "failover": ("stt.failover",),
    "files": (
        "media.files",
        "media.joined",
        "media.kinds",
        "media.layouts",
        "media.skipped",
        "media.mixing",
        "media.raw",
        "media.timeline",
        "media.tracks",
        "media.truncation",
        "media.window",
    ),
    "fleet": ("fleet.ids", "fleet.metrics", "fleet.placement", "fleet.restarts", "fleet.shares"),
    "keyterms": ("embedded.keyterms", "embedded.hypothesis"),
    "levelling": ("embedded.levelling",),
    "listener segments": ("embedded.completeness", "embedded.cuts", "embedded.listener", "embedded.segments"),
    "negotiation sdp": ("webrtc.negotiation", "webrtc.sdp"),
    "opus": ("media.opus",),
    "ownership": ("fleet.journal", "fleet.node", "fleet.ownership", "fleet.state"),
    "pcm": ("media.clock", "media.pcm"),
    "pool": ("stt.choice",),
    "media_cases media_formats receiver rtp unread": (
        "media.candidates",
        "media.g711",
        "media.losses",
        "media.pauses",
        "media.playout",
        "media.presence",
        "media.receiver",
        "media.rtp",
        "media.sequence",
        "media.signals",
        "media.source",
        "media.sources",
        "media.suspicion",
    ),
    "turn_taking": ("media.turn_taking",),
    "resampling": ("media.resampling",),
    "routing": ("webrtc.routing",),
    "service": ("embedded.audio", "embedded.versions"),
    "serving": ("limits",),
    "shared_facilities": ("wire.hosts", "wire.strict_json"),
    "account refusals restored transcription upstream": (
        "errors",
        "stt.account",
        "stt.floor",
        "stt.key",
        "stt.limits",
        "stt.manual",
        "stt.publisher",
        "stt.refusals",
        "stt.replay_buffer",
        "stt.seam",
        "stt.sending",
        "stt.speech_times",
        "stt.transcription",
        "stt.turns",
    ),
    "wire": ("wire", "wire.handshake", "wire.messages", "wire.order", "wire.settings"),
    "word_times": ("embedded.word_times",),
    "wording": ("embedded.wording",),
}


def measured(tests: str, folder: Path) -> dict[str, float]:
    """Percent of statements and branches of the cores that test files are for. `CalledProcessError` when they
    fail."""
    data, report = folder / "data", folder / "report.json"
    coverage = [sys.executable, "-m", "coverage"]
    quick = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not real and not heavy"]
    subprocess.run(
        [
            *coverage,
            "run",
            f"--data-file={data}",
            *quick,
            *(f"tests/test_{test}.py" for test in tests.split()),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run([*coverage, "json", "-q", f"--data-file={data}", "-o", report], cwd=ROOT, check=True)
    files = json.loads(report.read_text())["files"]
    return {core: files[path_of(core)]["summary"]["percent_covered"] for core in OWN_TESTS[tests]}


def path_of(core: str) -> str:
    path = Path("rtcstt", *core.split("."))
    return str(path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py"))


def main(chosen: list[str]) -> int:
    too_low = []
    with tempfile.TemporaryDirectory() as folder:
        for tests in chosen or OWN_TESTS:
            for core, percent in measured(tests, Path(folder)).items():
                print(f"{percent:6.1f} %  {core:24} {tests}", flush=True)
                too_low += [core] if percent < HELD else []
    if too_low:
        print(f"too low: {', '.join(too_low)}", file=sys.stderr)
    return bool(too_low)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
