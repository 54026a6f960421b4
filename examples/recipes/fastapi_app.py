"""A FastAPI application that transcribes its callers.

    uvicorn fastapi_app:app --port 8083
    rtcstt call recording.wav --to http://127.0.0.1:8083/offer

prints what was said, turn by turn.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from fastapi import FastAPI

import rtcstt

stt = rtcstt.Embedded()
calls: dict[asyncio.Task[None], rtcstt.Transcriber] = {}


async def transcribe(pc: RTCPeerConnection, transcriber: rtcstt.Transcriber) -> None:
    async for event in transcriber:  # ends when the connection has closed and the last words have come
        if event.type == "turn.end":
            print(event.transcript, flush=True)
    await pc.close()


async def offer(body: dict[str, str]) -> dict[str, str]:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transcriber = rtcstt.Transcriber(pc, stt=stt, channels=True)  # events go back on a data channel
    await pc.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
    await pc.setLocalDescription(await pc.createAnswer())
    task = asyncio.create_task(transcribe(pc, transcriber))
    calls[task] = transcriber
    task.add_done_callback(lambda done: calls.pop(done))
    return {"sdp": pc.localDescription.sdp, "type": "answer", "call": transcriber.call.id}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    yield
    await asyncio.gather(*(transcriber.close() for transcriber in calls.values()))  # their last words
    await asyncio.gather(*calls)


app = FastAPI(lifespan=lifespan)
app.add_api_route("/offer", offer, methods=["POST"])
