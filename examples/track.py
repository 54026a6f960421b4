"""Transcribe a bare aiortc track: here a file or a microphone, in real time.

python examples/track.py recording.wav
python examples/track.py default pulse
"""

import asyncio
import sys

from aiortc.contrib.media import MediaPlayer

import rtcstt


async def main(source: str, device: str | None = None) -> None:
    player = MediaPlayer(source, format=device)
    transcriber = rtcstt.Transcriber.from_track(player.audio, stt=rtcstt.Embedded())
    async for event in transcriber:  # ends after the track has
        if event.type == "turn.end":
            print(f"{event.start:6.2f}  {event.transcript}", flush=True)


asyncio.run(main(*sys.argv[1:]))
