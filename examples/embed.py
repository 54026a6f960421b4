"""Transcribe the callers of your own aiortc server.

    python examples/embed.py
    rtcstt call recording.wav --to http://127.0.0.1:8081/offer

prints what was said, turn by turn.
"""

import asyncio
import os

from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

import rtcstt

tasks: set[asyncio.Task[None]] = set()


async def transcribe(pc: RTCPeerConnection, transcriber: rtcstt.Transcriber) -> None:
    async for event in transcriber:  # ends when the connection has closed and the last words have come
        if event.type == "turn.end":
            print(event.transcript, flush=True)
    await pc.close()


async def offer(request: web.Request) -> web.Response:
    body = await request.json()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transcriber = rtcstt.Transcriber(pc, stt=rtcstt.Embedded(), channels=True)
    await pc.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
    await pc.setLocalDescription(await pc.createAnswer())
    task = asyncio.create_task(transcribe(pc, transcriber))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return web.json_response({"sdp": pc.localDescription.sdp, "type": "answer", "call": transcriber.call.id})


app = web.Application()
app.router.add_post("/offer", offer)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8081")))
