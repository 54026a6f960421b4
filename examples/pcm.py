"""Transcribe PCM from anywhere: a sound card, a file, a telephony gateway.

ffmpeg -re -i recording.wav -f s16le -ac 1 -ar 16000 - | python examples/pcm.py
"""

import asyncio
import sys

import rtcstt

CHUNK = 3200  # bytes: 100 ms


async def feed(transcriber: rtcstt.Transcriber) -> None:
    while pcm := await asyncio.to_thread(sys.stdin.buffer.read, CHUNK):
        transcriber.push(pcm)
    await transcriber.close()  # drains: the words still due come before the iteration ends


async def main() -> None:
    async with rtcstt.Transcriber.from_pcm(16000, stt=rtcstt.Embedded()) as transcriber:
        feeding = asyncio.create_task(feed(transcriber))
        async for event in transcriber:
            if event.type == "turn.end":
                print(event.transcript, flush=True)
        await feeding


asyncio.run(main())
