"""What servers on plain aiortc do: receive frames, resample them, forward them to a WebSocket.

python -m benchmarks.plain_peer --port 8080 --stt ws://127.0.0.1:9100 --chunk-ms 100
"""

from __future__ import annotations

import argparse
import asyncio

from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler
from websockets.asyncio.client import connect

from rtcstt.media.pcm import SAMPLE_RATE


async def forward(track: MediaStreamTrack, url: str, chunk_ms: int) -> None:
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    chunk = chunk_ms * SAMPLE_RATE // 1000 * 2
    waiting = bytearray()
    async with connect(url, compression=None) as websocket:
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, AudioFrame)
                for resampled in resampler.resample(frame):
                    waiting += bytes(resampled.planes[0])[: resampled.samples * 2]
                if len(waiting) >= chunk:
                    await websocket.send(bytes(waiting))
                    waiting.clear()
        except MediaStreamError:
            pass


def application(stt: str, chunk_ms: int) -> web.Application:
    url = f"{stt}/stt/turns/websocket?model=ink-2&encoding=pcm_s16le&sample_rate={SAMPLE_RATE}"
    tasks: set[asyncio.Task[None]] = set()
    peers: list[RTCPeerConnection] = []

    async def offer(request: web.Request) -> web.Response:
        body = await request.json()
        # Without this aiortc asks a STUN server on the internet for its address.
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peers.append(peer)

        @peer.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            tasks.add(asyncio.ensure_future(forward(track, url, chunk_ms)))

        await peer.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
        await peer.setLocalDescription(await peer.createAnswer())
        answer = peer.localDescription
        return web.json_response({"sdp": answer.sdp, "type": answer.type, "call": str(len(peers))})

    app = web.Application()
    app.router.add_post("/offer", offer)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--stt", required=True)
    parser.add_argument("--chunk-ms", type=int, default=100)
    options = parser.parse_args()
    web.run_app(application(options.stt, options.chunk_ms), host="127.0.0.1", port=options.port, print=None)
