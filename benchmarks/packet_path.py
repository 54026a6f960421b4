"""What a packet costs between the socket and the STT, and what an offer costs by its size: CPU alone.

    python -m benchmarks.packet_path

A packet's path here is parsing, ordering, decoding and the audio clock (no SRTP, no event loop), beside
libopus alone. Offers are of one kind of line again and again, up to the largest: parsed, and answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.table import markdown
from benchmarks.tones import tones
from rtcstt.errors import CallerError
from rtcstt.media import opus
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.rtp import Codec, Packet
from rtcstt.webrtc.negotiation import Offer
from rtcstt.webrtc.playback import opus_packets

RUNS = 15
SIZES_KB = (4, 16, 63)
HEAD = (
    """v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
t=0 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=rtpmap:111 opus/48000/2
a=mid:0
a=sendonly
a=rtcp-mux
a=ice-ufrag:abcd
a=ice-pwd:0123456789012345678901
a=setup:actpass
"""
    + f"a=fingerprint:sha-256 {':'.join(['AA'] * 32)}\n"
)
LINES = {
    "attributes": "a=x:some value of an attribute\n",
    "candidates": "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\n",
    "payload types": "a=rtpmap:111 opus/48000/2\n",
    "sources": "a=ssrc:1 cname:x\n",
}


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


def offer_ms(line: str, size: int) -> float:
    text = HEAD + line * min((size - len(HEAD)) // len(line), 3900)

    def answer() -> None:
        try:
            made = Offer.parse(text, max_tracks=8)
            made.answer(str(made.taken), opus="")
        except CallerError:
            pass

    return 1000 * best_s(answer)


def main() -> None:
    path, libopus = packet_us()
    print(f"A packet: {path:.1f} µs, of which libopus {libopus:.1f} µs\n")
    rows = [[name, *[f"{offer_ms(line, kb * 1024):.2f}" for kb in SIZES_KB]] for name, line in LINES.items()]
    print(markdown(["offers, ms of CPU", *[f"{kb} kB" for kb in SIZES_KB]], rows))


if __name__ == "__main__":
    main()
