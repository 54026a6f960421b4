"""Call a server and act on what it says, as a test or a bot would.

rtcstt serve
python examples/call.py recording.wav
"""

import asyncio
import sys

import rtcstt
from rtcstt.media.files import read
from rtcstt.webrtc.playback import opus_packets


async def main(path: str, url: str = "http://127.0.0.1:8080/offer") -> None:
    caller = rtcstt.Caller(opus_packets(read(path)), loopback=True)
    await caller.dial(url)
    hanging_up = asyncio.create_task(hang_up(caller))
    async for event in caller.events():
        if event["type"] == "turn.end":
            print(f"{event['start']:6.2f} - {event['end']:6.2f}  {event['transcript']}")
    await hanging_up


async def hang_up(caller: rtcstt.Caller) -> None:
    await caller.played()
    await asyncio.sleep(2)  # lets the last turn end by itself
    await caller.hang_up()


asyncio.run(main(*sys.argv[1:]))
