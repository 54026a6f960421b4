"""What a packet costs between the socket and the STT: CPU alone.

    python -m benchmarks.packet_path

Its path here is parsing, ordering, decoding and the audio clock (no SRTP, no event loop), and libopus alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.tones import tones
from rtcstt.media import opus
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.rtp import Codec, Packet
from rtcstt.webrtc.playback import opus_packets

RUNS = 15


def best_s(work: Callable[[], object], runs: int = RUNS) -> float:
    """The least CPU time of several runs: what other processes take is left out."""
    found = []
    for _ in range(runs):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def packet_us() -> tuple[float, float]:
    """Per packet of 20 ms: all of the path, and libopus alone."""
    payloads = opus_packets(tones(20)[0])
    datagrams = [
        bytes(Packet(7, (65000 + i) & 0xFFFF, 960 * i, 111, payload)) for i, payload in enumerate(payloads)
    ]
    library = opus.load()
    assert library is not None

    def receive() -> None:
        receiver, due = AudioReceiver({111: Codec("opus", 48000, 2)}, chunk_ms=100), 0.0
        for i, data in enumerate(datagrams):
            now = 10 + 0.02 * i
            while 0 < due < now:
                receiver.pull(due)
                receiver.signals()
                due = receiver.next_due(due)
            receiver.push(Packet.parse(data), now)
            due = due or receiver.next_due(now)

    def decode() -> None:
        decoder = opus.OpusDecoder(library)
        for payload in payloads:
            decoder.decode(payload)

    return tuple(1e6 * best_s(work) / len(payloads) for work in (receive, decode))  # type: ignore[return-value]


def main() -> None:
    path, libopus = packet_us()
    print(f"A packet: {path:.1f} µs, of which libopus {libopus:.1f} µs")


if __name__ == "__main__":
    main()
