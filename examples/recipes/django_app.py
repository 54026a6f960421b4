"""Live captions in a Django application: Channels takes PCM over a WebSocket, events go back.

uvicorn django_app:app --port 8085        # then connect to ws://127.0.0.1:8085/listen

Binary messages are 16 kHz mono 16-bit PCM; any text says that this was all. In a project of your own the
settings are there already, and the route goes into its `asgi.py`.
"""

import asyncio

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

import rtcstt

settings.configure(ALLOWED_HOSTS=["127.0.0.1", "localhost"], ROOT_URLCONF=(), SECRET_KEY="of the example")
django.setup()

stt = rtcstt.Embedded()


class Listen(AsyncWebsocketConsumer):  # type: ignore[misc]  # it has no types
    """One caller: Django makes one for each connection."""

    async def connect(self) -> None:
        self.transcriber = rtcstt.Transcriber.from_pcm(16000, stt=stt)
        await self.accept()
        self.answering = asyncio.create_task(self.answer())

    async def answer(self) -> None:
        async for event in self.transcriber:  # ends after the last words
            await self.send(event.to_json())
        await self.close()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if bytes_data is not None:
            self.transcriber.push(bytes_data)
        else:
            await self.transcriber.close()

    async def disconnect(self, code: int) -> None:  # they may leave without a word
        await self.transcriber.close()
        await self.answering


routes = URLRouter([path("listen", Listen.as_asgi())])  # pyright: ignore[reportArgumentType]  (Channels' stubs)
listen = AllowedHostsOriginValidator(routes)
app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": listen})
