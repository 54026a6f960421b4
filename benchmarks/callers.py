"""Some calls to a server at once, of tones that were encoded before.

    python -m benchmarks.callers --url http://127.0.0.1:8080/offer -n 40 --seconds 30

Prints a line of JSON when the first call has stood for a moment, one when all do, and another at the end: for
each call, when the packets in which a tone begins were sent, on the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from benchmarks.tones import tones
from rtcstt.media.rtp import PACKET_S
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.impairment import Network
from rtcstt.webrtc.playback import opus_packets

FIRST_S = 1.0
DIALLING_S = 2.0  # at most, for each call; meanwhile those that stand are sending


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("-n", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="after all calls stand")
    parser.add_argument("--loss", type=float, default=0.0, help="in percent")
    options = parser.parse_args()
    wave, onsets = tones(options.seconds + DIALLING_S * options.n)
    packets = opus_packets(wave)
    callers = []
    for seed in range(options.n):
        caller = Caller(packets, network=Network(loss=options.loss / 100, seed=seed), loopback=True)
        await caller.dial(options.url)
        callers.append(caller)
        if len(callers) == 1:
            await asyncio.sleep(FIRST_S)
            print(json.dumps({"calls": 1}), flush=True)
    print(json.dumps({"calls": len(callers)}), flush=True)
    await asyncio.sleep(options.seconds)
    sent = [
        [(caller.started or 0.0) + PACKET_S * int(onset / PACKET_S) for onset in onsets] for caller in callers
    ]
    print(json.dumps(sent), flush=True)
    await asyncio.gather(*(caller.close() for caller in callers))


if __name__ == "__main__":
    asyncio.run(main())
