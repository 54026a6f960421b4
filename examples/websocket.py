"""Live captions in an aiohttp application: PCM comes in over a WebSocket, events go back.

python examples/websocket.py        # then connect to ws://127.0.0.1:8082/listen

Binary messages are 16 kHz mono 16-bit PCM, as an AudioWorklet of a page sends it.
"""

import asyncio
import os

from aiohttp import WSMsgType, web

import rtcstt


async def listen(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async with rtcstt.Transcriber.from_pcm(16000, stt=rtcstt.Embedded()) as transcriber:
        receiving = asyncio.create_task(receive(socket, transcriber))
        async for event in transcriber:  # ends after the last words
            await socket.send_str(event.to_json())
        await receiving
    return socket


async def receive(socket: web.WebSocketResponse, transcriber: rtcstt.Transcriber) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT:  # whatever it says: that was all
            break
        transcriber.push(message.data)
    await transcriber.close()


app = web.Application()
app.router.add_get("/listen", listen)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8082")))
