"""Transcribe a bare aiortc track: here a file or a microphone, in real time.

python examples/track.py recording.wav
python examples/track.py default pulse
"""

import asyncio
import sys

from aiortc.contrib.media import MediaPlayer

import rtcstt


async def main(source: str, device: str | None = None) -> None:
    track = MediaPlayer(source, format=device).audio
    assert track is not None, f"{source} has no audio"
    transcriber = rtcstt.Transcriber.from_track(track, stt=rtcstt.Embedded())
    async for event in transcriber:  # ends after the track has
        if event.type == "turn.end":
            print(f"{event.start:6.2f}  {event.transcript}", flush=True)


asyncio.run(main(*sys.argv[1:]))
