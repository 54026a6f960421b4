"""An STT that transcribes nothing, and times what it gets.

    python -m benchmarks.null_stt --port 9100

Speaks just enough of /stt/turns/websocket for a client to stream pcm_s16le at 16 kHz, and ends a turn
of one word every 5 s, for clients may keep the audio of a turn until it ends. When it is
terminated it prints one JSON object per connection: how much audio came, in s, and between which
times; and when tones began, on the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from dataclasses import asdict, dataclass, field

import numpy as np
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.tones import OnsetDetector
from rtcstt.media.pcm import SAMPLE_RATE

TURN_S = 5.0
BEGINNING_S = 2.0  # not counted: what waited for the connection comes at once


@dataclass(slots=True)
class Stream:
    audio_s: float = 0.0  # after `first`
    first: float | None = None
    last: float | None = None
    onsets: list[float] = field(default_factory=list)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    streams: list[Stream] = []

    async def listen(websocket: ServerConnection) -> None:
        stream, detector, begun, turn_began = Stream(), OnsetDetector(), 0.0, 0.0
        streams.append(stream)
        await websocket.send(json.dumps({"type": "connected", "request_id": "null"}))
        async for message in websocket:
            if isinstance(message, str):
                if "close" in message:
                    return
                continue
            now = time.monotonic()
            begun, turn_began = begun or now, turn_began or now
            if now - turn_began >= TURN_S:
                turn_began = now
                for fields in ({"type": "turn.start"}, {"type": "turn.end", "transcript": "Tone. "}):
                    await websocket.send(json.dumps({**fields, "request_id": "null"}))
            if stream.first is not None:
                stream.audio_s += len(message) / 2 / SAMPLE_RATE
                stream.last = now
            elif now >= begun + BEGINNING_S:
                stream.first = now
            if detector.detects_onset(np.frombuffer(message, np.int16)):
                stream.onsets.append(now)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(listen, "127.0.0.1", port, compression=None, max_size=None):
        await stop.wait()
        for stream in streams:
            print(json.dumps(asdict(stream)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
