"""Words of the embedded recogniser on the reference recordings beside the checkout.

    python -m benchmarks.words [--model tiny-en] [--offline] [--conditions clean opus 8khz noise]

Word error rate with Whisper's English normaliser, live (what `turn.end` says) and offline (whole files),
under several conditions. Live means: audio in tenths of a second, as fast as the machine does it, with
all times in audio time. Prints Markdown. How turns behave: `python -m benchmarks.turns`.

Needs: pip install --group bench
"""

from __future__ import annotations

import argparse
import fractions
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import jiwer
import numpy as np
import soxr
from whisper_normalizer.english import EnglishTextNormalizer

from rtcstt.embedded.batch import BatchListener, Word
from rtcstt.embedded.completeness import Fit, fit_of
from rtcstt.embedded.engines import models
from rtcstt.embedded.engines.smart_turn import SmartTurn
from rtcstt.embedded.engines.vad import Vad
from rtcstt.embedded.hypothesis import NO_TERMS, Audio, Terms
from rtcstt.embedded.listener import Listener, Voice
from rtcstt.embedded.recognizer import load_engine
from rtcstt.media.files import AudioFile
from rtcstt.media.tracks import RawAudio, ReadSettings, Sound
from rtcstt.wire import DEFAULT_TURN, TurnEnd, TurnSettings, TurnStart

RATE = 16000
LEAD_S, TRAIL_S = 0.5, 4.0
NORMAL = EnglishTextNormalizer()


@dataclass(frozen=True)
class Recording:
    name: str
    samples: Audio
    text: str
    tags: tuple[str, ...]

    @property
    def speech_end_s(self) -> float:
        """Where the last sound is: within 10 ms windows, 30 dB below the loudest."""
        windows = self.samples[: len(self.samples) // 160 * 160].reshape(-1, 160)
        level = np.sqrt((windows**2).mean(axis=1))
        return float(np.flatnonzero(level > level.max() / 30)[-1] + 1) / 100


@dataclass
class Received:
    text: str = ""
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def read(path: Path) -> list[Audio]:
    """Each channel of a recording, at 16 kHz."""
    raw = RawAudio("pcm_s16le", RATE) if path.suffix == ".raw" else None
    parts = list(AudioFile(path, ReadSettings(split=True, raw=raw)))
    return list(np.concatenate([part.samples for part in parts if isinstance(part, Sound)], axis=1))


def recordings(folder: Path) -> list[Recording]:
    """Those in English whose text is known, or in which nobody speaks; each channel by itself."""
    found = []
    for entry in json.loads((folder / "manifest.json").read_text()):
        if any(tag.startswith("lang:") for tag in entry["tags"]):
            continue
        if entry["text"] or "no_speech" in entry["tags"]:
            channels = read(folder / entry["file"])
            texts = entry.get("text_by_channel") or (entry["text"] or "").split("\n")
            if len(texts) != len(channels):  # one text of both, as mixed
                texts, channels = [entry["text"] or ""], [np.mean(channels, axis=0, dtype=np.float32)]
            for text, samples in zip(texts, channels, strict=True):
                found.append(Recording(entry["file"], samples, text, tuple(entry["tags"])))
    return found


def through_opus(samples: Audio) -> Audio:
    """24 kbit/s, there and back."""
    pcm = (np.clip(soxr.resample(samples, RATE, 48000), -1, 1) * 32767).astype(np.int16)
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = 48000, "mono", "s16", 24000
    encoder.time_base = fractions.Fraction(1, 48000)
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48000, "mono"
    parts = []
    for start in range(0, len(pcm) - 959, 960):
        frame = av.AudioFrame.from_ndarray(pcm[None, start : start + 960], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, encoder.time_base
        for packet in encoder.encode(frame):
            parts += [out.to_ndarray().ravel() for out in decoder.decode(av.Packet(bytes(packet)))]
    joined = np.concatenate(parts).astype(np.float32)
    level = 32768 if np.abs(joined).max() > 2 else 1
    return np.asarray(soxr.resample(joined / level, 48000, RATE), np.float32)


def narrow(samples: Audio) -> Audio:
    """8 kHz mu-law, there and back."""
    pcm = (np.clip(soxr.resample(samples, RATE, 8000), -1, 1) * 32767).astype(np.int16)
    encoder = av.CodecContext.create("pcm_mulaw", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
    frame.sample_rate = 8000
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    from rtcstt.embedded.audio import AudioDecoder

    return np.asarray(soxr.resample(AudioDecoder("pcm_mulaw").decode(data), 8000, RATE), np.float32)


def noisy(samples: Audio) -> Audio:
    """White noise 10 dB below the speech."""
    level = float(np.sqrt((samples**2).mean())) / 10**0.5
    return samples + np.random.default_rng(0).normal(0, level, len(samples)).astype(np.float32)


def silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * RATE), np.float32)


CONDITIONS: dict[str, Callable[[Audio], Audio]] = {
    "clean": lambda samples: samples,
    "opus": through_opus,
    "8khz": narrow,
    "noise": noisy,
}


class Bench:
    def __init__(self, model: str, keyterms: Terms = NO_TERMS) -> None:
        self._engine = load_engine(model)
        self._keyterms = keyterms
        self.vad = Vad(models.require("silero-vad"))
        judge = models.find("smart-turn")
        self._judge = SmartTurn(judge) if judge else None

    def listener(
        self, voice: Voice, settings: TurnSettings = DEFAULT_TURN, fit: Fit | None = None
    ) -> Listener:
        engine, fit = self._engine.stream("en", self._keyterms), fit or fit_of(self._engine.name)
        return Listener(engine, voice, self._judge, settings, live=self._engine.live, fit=fit)

    def live(self, samples: Audio, settings: TurnSettings = DEFAULT_TURN) -> Received:
        received = Received()
        listener = self.listener(self.vad.stream(), settings)
        padded = np.concatenate([silence(LEAD_S), samples, silence(TRAIL_S)])
        begin = time.process_time()
        for start in range(0, len(padded), RATE // 10):
            self._take(
                received, listener.receive(padded[start : start + RATE // 10]), start / RATE + 0.1 - LEAD_S
            )
        received.cpu_s = time.process_time() - begin
        self._take(received, listener.flush(), len(padded) / RATE)
        return received

    def _take(self, received: Received, messages: list[Any], now: float) -> None:
        for message in messages:
            if isinstance(message, TurnStart):
                received.starts.append(now)
            elif isinstance(message, TurnEnd):
                received.ends.append(now)
                received.text += message.transcript

    def offline(self, samples: Audio) -> Received:
        begin = time.process_time()
        words = self.words(samples, timed=False)
        return Received(" ".join(word.word for word in words), cpu_s=time.process_time() - begin)

    def words(self, samples: Audio, *, timed: bool = True) -> list[Word]:
        engine = self._engine.stream("en", self._keyterms)
        listener = BatchListener(engine, self.vad.stream(), timed=timed)
        return [*listener.receive(samples), *listener.finish()]


def normal(text: str) -> str:
    """Whisper's normal form, numbers digit by digit: "one two" and "12" are the same."""
    return re.sub(r"(?<=\d)(?=\d)", " ", NORMAL(text))


def rate(pairs: list[tuple[str, str]]) -> float:
    pairs = [(normal(reference), normal(text)) for reference, text in pairs]
    return 100 * float(jiwer.wer([reference for reference, _ in pairs], [text for _, text in pairs]))


def groups(found: list[Recording]) -> Iterator[tuple[str, list[Recording]]]:
    speech = [recording for recording in found if recording.text and "digits" not in recording.tags]
    wide = [recording for recording in speech if "narrowband" not in recording.tags]
    yield "read", [recording for recording in wide if "read" in recording.tags]
    yield "spoken freely", [recording for recording in wide if "read" not in recording.tags]
    yield "telephone", [recording for recording in speech if "narrowband" in recording.tags]
    yield "digits", [recording for recording in found if "digits" in recording.tags]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def table_of_words(
    bench: Bench, found: list[Recording], conditions: list[str], out: io.StringIO, *, live: bool = True
) -> None:
    out.write("| recordings | condition | words | live | offline | CPU s per s live | offline |\n")
    out.write("|---|---|---|---|---|---|---|\n")
    for group, members in groups(found):
        for condition in conditions:
            said, offline, cpu, cpu_offline, seconds = [], [], 0.0, 0.0, 0.0
            for recording in members:
                samples = CONDITIONS[condition](recording.samples)
                received, whole = bench.live(samples) if live else Received(), bench.offline(samples)
                said.append((recording.text, received.text))
                offline.append((recording.text, whole.text))
                cpu, cpu_offline = cpu + received.cpu_s, cpu_offline + whole.cpu_s
                seconds += len(samples) / RATE
            words = sum(len(normal(text).split()) for text, _ in said)
            out.write(f"| {group} ({len(members)}) | {condition} | {words} ")
            out.write(f"| {f'{rate(said):.1f} %' if live else '-'} | {rate(offline):.1f} % ")
            out.write(f"| {f'{cpu / seconds:.3f}' if live else '-'} | {cpu_offline / seconds:.3f} |\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-en", help="as for rtcstt: base-en, whisper-base, a folder")
    parser.add_argument("--offline", action="store_true", help="whole files only")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    args = parser.parse_args()
    bench, found, out = Bench(args.model), recordings(args.data), io.StringIO()
    table_of_words(bench, found, args.conditions, out, live=not args.offline)
    print(out.getvalue(), end="")


if __name__ == "__main__":
    main()
