"""The receive path on a bad network, beside aiortc's jitter buffer and decoder: no sockets, simulated time.

    python -m benchmarks.receive_path
    python -m benchmarks.receive_path --seconds 120 --loss 0 5 --jitter-ms 30
    python -m benchmarks.receive_path --recordings ../shared/data

The same packets, with the same losses, go through `rtcstt.receiver.AudioReceiver` (chunks of 20 ms) and
through what servers on plain aiortc do: its `JitterBuffer` as it is made for audio, its decoder, and
PyAV's resampler to 16 kHz, forwarding each frame at once. The sound is bursts of a tone at irregular
times, Opus at 32 kbit/s with in-band FEC; loss is random, or in bursts of three on average.

- reached: how long the audio is that came out, as a share of what was sent
- thrown away: packets that came and were not received
- latency: from the sending of a packet with the beginning of a tone to its coming out
- CPU: this path alone (no SRTP, no threads, no event loop), in ms per second of audio

With ``--recordings`` (a folder with a manifest.json of files and reference texts) the recogniser that
comes with rtcstt receives recordings after such networks, and the table shows its word error rates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from aiortc.codecs.opus import OpusDecoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket
from av import AudioFrame, AudioResampler

from benchmarks.table import markdown
from benchmarks.tones import OnsetDetector, latencies, median_and_95th, tones
from rtcstt.media.files import OPUS_RATE, read
from rtcstt.media.pcm import SAMPLE_RATE, Label, Samples
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.rtp import PACKET_S, Codec, Packet
from rtcstt.webrtc.impairment import GilbertElliottLoss, Network
from rtcstt.webrtc.playback import PACKET_SAMPLES, opus_packets

OPUS = Codec("opus", OPUS_RATE, 2)
PAYLOAD_TYPE = 111
CHUNK_MS = 20
BURST_OF_LOSS = 3.0


@dataclass(frozen=True, slots=True)
class Sent:
    packet: Packet
    at: float
    arrival: float | None


@dataclass(slots=True)
class Received:
    """What came out of a receive path: (time, samples), and how many good packets were not in it."""

    parts: list[tuple[float, Samples]] = field(default_factory=list)
    thrown_away: int = 0
    cpu_s: float = 0.0

    @property
    def samples(self) -> Samples:
        return np.concatenate([samples for _, samples in self.parts] or [np.zeros(0, np.int16)])


Receive = Callable[[Sequence[Sent]], Received]


def send(payloads: Sequence[bytes], network: Network) -> list[Sent]:
    loss = GilbertElliottLoss(network)
    sent = []
    for index, payload in enumerate(payloads):
        packet = Packet(
            0x5EED, (65000 + index) & 0xFFFF, (PACKET_SAMPLES * index) & 0xFFFFFFFF, PAYLOAD_TYPE, payload
        )
        at = (index + 1) * PACKET_S  # a packet leaves when its audio is complete
        delay = loss.next_delay_s()
        sent.append(Sent(packet, at, None if delay is None else at + delay))
    return sent


def arrivals(sent: Sequence[Sent]) -> list[tuple[float, Packet]]:
    came = [(each.arrival, each.packet) for each in sent if each.arrival is not None]
    return sorted(came, key=lambda pair: pair[0])


def by_rtcstt(sent: Sequence[Sent]) -> Received:
    received = Received()
    receiver = AudioReceiver({PAYLOAD_TYPE: OPUS}, chunk_ms=CHUNK_MS)
    end = sent[-1].at
    came = arrivals(sent)
    now = 0.0
    begin = time.process_time()
    for arrival, packet in [*came, (end, None)]:
        while (due := max(now, receiver.next_due(now))) < arrival:
            now = due
            received.parts += [(now, chunk.samples) for chunk in receiver.pull(now)]
        now = arrival
        if packet is not None:
            receiver.push(packet, now)
    received.parts += [(now, chunk.samples) for chunk in receiver.close(now)]
    received.cpu_s = time.process_time() - begin
    received.thrown_away = len(came) - round(
        receiver.ledger.counts[Label.RECEIVED] / (PACKET_S * SAMPLE_RATE)
    )
    return received


def by_plain_aiortc(sent: Sequence[Sent]) -> Received:
    received = Received()
    jitter_buffer, decoder = JitterBuffer(capacity=16, prefetch=4), OpusDecoder()
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    came = arrivals(sent)
    decoded = 0
    begin = time.process_time()
    for now, packet in came:
        # `_data` is where aiortc's receiver leaves the payload for its jitter buffer.
        rtp = RtpPacket(PAYLOAD_TYPE, 0, packet.sequence, packet.timestamp, packet.ssrc, packet.payload)
        rtp._data = packet.payload  # type: ignore[attr-defined]
        _, encoded = jitter_buffer.add(rtp)
        if encoded is not None:
            decoded += 1
            received.parts += [(now, samples) for samples in _decoded(decoder, resampler, encoded)]
    received.cpu_s = time.process_time() - begin
    received.thrown_away = len(came) - decoded
    return received


def _decoded(decoder: OpusDecoder, resampler: AudioResampler, encoded: JitterFrame) -> Iterator[Samples]:
    for frame in decoder.decode(encoded):
        assert isinstance(frame, AudioFrame)
        for resampled in resampler.resample(frame):
            yield resampled.to_ndarray()[0]


def networks(losses: Sequence[float], jitter_ms: float) -> Iterator[tuple[str, Network]]:
    for loss in losses:
        yield f"{loss:g} %", Network(loss=loss / 100, jitter_ms=jitter_ms, seed=7)
        if loss:
            network = Network(loss=loss / 100, burst=BURST_OF_LOSS, jitter_ms=jitter_ms, seed=7)
            yield f"{loss:g} % in bursts", network


def measure(payloads: Sequence[bytes], onsets: Sequence[float], network: Network) -> list[str]:
    """One row: plain aiortc and rtcstt, cell by cell."""
    sent = send(payloads, network)
    sent_at = [sent[int(onset / PACKET_S)].at for onset in onsets]
    cells: list[list[str]] = []
    for receive in (by_plain_aiortc, by_rtcstt):
        received = receive(sent)
        detector = OnsetDetector()
        delays = latencies(sent_at, (at for at, samples in received.parts if detector.detects_onset(samples)))
        duration_s = len(payloads) * PACKET_S
        cells.append(
            [
                f"{len(received.samples) / SAMPLE_RATE / duration_s:.3f}",
                str(received.thrown_away),
                median_and_95th(delays),
                f"{1000 * received.cpu_s / duration_s:.2f}",
            ]
        )
    return [" → ".join(pair) for pair in zip(*cells, strict=True)]


def print_paths(seconds: float, losses: Sequence[float], jitters_ms: Sequence[float]) -> None:
    wave, onsets = tones(seconds)
    payloads = opus_packets(wave)
    header = ["loss", "reached", "thrown away", "latency, median / 95 %, ms", "CPU, ms per s"]
    for jitter_ms in jitters_ms:
        print(f"\nJitter up to {jitter_ms:g} ms; {seconds:g} s; plain aiortc → rtcstt:\n")
        rows = ([name, *measure(payloads, onsets, network)] for name, network in networks(losses, jitter_ms))
        print(markdown(header, rows), flush=True)


# -- word error rates --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    clean: Samples
    payloads: list[bytes]
    text: str


def recordings(folder: Path, longest_s: float = 20.0) -> Iterator[Recording]:
    """English recordings with a reference; short ones, so that many are received in a short time."""
    for entry in json.loads((folder / "manifest.json").read_text()):
        text, language = entry.get("text"), entry.get("language", "en")
        is_english = language == "en" and not re.search(r"_(de|fr)_", entry["file"])
        if text and is_english and entry["duration_s"] < longest_s and entry["channels"] == 1:
            if not entry["file"].endswith(".raw"):
                path = folder / entry["file"]
                yield Recording(read(path, SAMPLE_RATE), opus_packets(read(path)), text)


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split())


async def word_error_rates(folder: Path, losses: Sequence[float]) -> list[list[str]]:
    import jiwer

    from rtcstt.embedded.recognizer import Recognizer

    recognizer = await asyncio.to_thread(Recognizer.load)
    spoken = list(recordings(folder))
    references = [words(recording.text) for recording in spoken]

    async def rate(received: Sequence[Samples]) -> str:
        batches = [await recognizer.transcribe(samples.astype(np.float32) / 32768) for samples in received]
        return f"{100 * jiwer.wer(references, [words(batch.text) for batch in batches]):.1f} %"

    def through(receive: Receive, network: Network) -> list[Samples]:
        networks = [replace(network, seed=seed) for seed in range(len(spoken))]
        return [
            receive(send(recording.payloads, own)).samples
            for recording, own in zip(spoken, networks, strict=True)
        ]

    clean = await rate([recording.clean for recording in spoken])
    rows = [["the recordings themselves", clean, clean]]
    for name, network in networks(losses, jitter_ms=0.0):
        rows.append(
            [name, *[await rate(through(receive, network)) for receive in (by_plain_aiortc, by_rtcstt)]]
        )
    await recognizer.close()
    seconds = sum(len(recording.payloads) for recording in spoken) * PACKET_S
    print(f"\nWord error rate, {len(spoken)} recordings, {seconds:.0f} s of speech:\n")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The receive path beside plain aiortc's, in simulated time.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio (default: %(default)s)")
    parser.add_argument("--loss", type=float, nargs="+", default=[0, 1, 2, 5, 10, 20], help="in percent")
    parser.add_argument("--jitter-ms", type=float, nargs="+", default=[0, 80])
    parser.add_argument("--recordings", type=Path, help="a folder with a manifest.json, for word error rates")
    options = parser.parse_args(arguments)
    print_paths(options.seconds, options.loss, options.jitter_ms)
    if options.recordings is not None:
        rows = asyncio.run(word_error_rates(options.recordings, options.loss))
        print(markdown(["loss", "plain aiortc", "rtcstt"], rows))


if __name__ == "__main__":
    main()
