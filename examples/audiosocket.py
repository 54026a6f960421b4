"""Be Asterisk: send a recording to `rtcstt serve --audiosocket`, as the dialplan's AudioSocket() does.

rtcstt serve --audiosocket 127.0.0.1:9092
python examples/audiosocket.py recording.wav 127.0.0.1:9092
"""

import asyncio
import struct
import sys
import uuid

import soxr

from rtcstt.media.files import read

TERMINATE, UUID, AUDIO = 0x00, 0x01, 0x10
RATE, FRAME = 8000, 160  # 20 ms


def frame(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(data)) + data


async def main(path: str, address: str) -> None:
    samples = soxr.resample(read(path, 16000), 16000, RATE)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    label = uuid.uuid4()
    print(f"the call's label: {label}")
    writer.write(frame(UUID, label.bytes))
    for start in range(0, len(samples), FRAME):
        writer.write(frame(AUDIO, samples[start : start + FRAME].tobytes()))
        await writer.drain()
        await asyncio.sleep(FRAME / RATE)
    writer.write(frame(TERMINATE))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


asyncio.run(main(*sys.argv[1:]))
