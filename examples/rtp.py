"""Transcribe plain RTP from a gateway, in a program of your own.

python examples/rtp.py 4000
ffmpeg -re -i recording.wav -ar 8000 -ac 1 -c:a pcm_mulaw -f rtp rtp://127.0.0.1:4000

`rtcstt rtp` does the same from the command line, with more codecs and SDP files.
"""

import asyncio
import contextlib
import signal
import sys

import rtcstt
from rtcstt import Codec

CODECS = {0: Codec("PCMU", 8000), 8: Codec("PCMA", 8000)}  # what the payload types mean


class Rtp(asyncio.DatagramProtocol):
    def __init__(self, transcriber: rtcstt.Transcriber) -> None:
        self.transcriber = transcriber

    def datagram_received(self, data: bytes, addr: object) -> None:
        with contextlib.suppress(rtcstt.ProtocolError):  # no RTP: somebody else's datagram
            self.transcriber.push(data)


async def main(port: str) -> None:
    loop, hung_up = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, hung_up.set)
    async with rtcstt.Transcriber.from_rtp(CODECS, stt=rtcstt.Embedded()) as transcriber:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Rtp(transcriber), local_addr=("127.0.0.1", int(port))
        )
        ending = asyncio.create_task(end(transcriber, hung_up))
        async for event in transcriber:
            if event.type == "turn.end":
                print(event.transcript, flush=True)
        await ending
        transport.close()


async def end(transcriber: rtcstt.Transcriber, hung_up: asyncio.Event) -> None:
    await hung_up.wait()
    await transcriber.close()  # the words still due come before the iteration ends


asyncio.run(main(*sys.argv[1:]))
