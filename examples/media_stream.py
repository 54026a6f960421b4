"""Be a telephony cloud: send a recording to rtcstt as a media stream, JSON with base64 mu-law.

rtcstt serve
python examples/media_stream.py recording.wav ws://127.0.0.1:8080/media-stream
"""

import asyncio
import base64
import io
import json
import sys
import uuid

import av
from aiohttp import ClientSession

FRAME_S, RATE = 0.02, 8000


def mulaw(path: str) -> bytes:
    out = io.BytesIO()
    with av.open(path) as source, av.open(out, "w", format="mulaw") as target:
        stream = target.add_stream("pcm_mulaw", rate=RATE, layout="mono")
        for decoded in source.decode(audio=0):
            target.mux(stream.encode(decoded))
        target.mux(stream.encode(None))
    return out.getvalue()


async def main(path: str, url: str) -> None:
    audio, size, sid = mulaw(path), int(FRAME_S * RATE), uuid.uuid4().hex
    print(f"the call's label: {sid}")
    form = {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1}
    start = {"streamSid": sid, "callSid": sid, "tracks": ["inbound"], "mediaFormat": form}
    async with ClientSession() as http, http.ws_connect(url) as socket:
        await socket.send_json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        await socket.send_json({"event": "start", "streamSid": sid, "start": start})
        for begin in range(0, len(audio), size):
            payload = base64.b64encode(audio[begin : begin + size]).decode()
            media = {"track": "inbound", "payload": payload}
            await socket.send_str(json.dumps({"event": "media", "streamSid": sid, "media": media}))
            await asyncio.sleep(FRAME_S)
        await socket.send_json({"event": "stop", "streamSid": sid})


asyncio.run(main(*sys.argv[1:]))
