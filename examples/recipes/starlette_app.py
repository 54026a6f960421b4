"""Live captions in a Starlette application: PCM comes in over a WebSocket, events go back.

uvicorn starlette_app:app --port 8084        # then connect to ws://127.0.0.1:8084/listen

Binary messages are 16 kHz mono 16-bit PCM; any text says that this was all.
"""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import rtcstt

stt = rtcstt.Embedded()


async def listen(socket: WebSocket) -> None:
    await socket.accept()
    async with rtcstt.Transcriber.from_pcm(16000, stt=stt) as transcriber:
        receiving = asyncio.create_task(receive(socket, transcriber))
        with contextlib.suppress(WebSocketDisconnect):  # they have left
            async for event in transcriber:  # ends after the last words
                await socket.send_text(event.to_json())
            await socket.close()
        await receiving


async def receive(socket: WebSocket, transcriber: rtcstt.Transcriber) -> None:
    while pcm := (await socket.receive()).get("bytes"):  # none in a text, and none when they leave
        transcriber.push(pcm)
    await transcriber.close()


app = Starlette(routes=[WebSocketRoute("/listen", listen)])
