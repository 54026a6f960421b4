"""PyPI cartesia on a WebSocket endpoint: URL WAV auto|manual sync|async; prints each event as JSON."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from cartesia import AsyncCartesia, Cartesia, __version__
from speech import CHUNK_S, chunks, read

url, path, mode, colour = sys.argv[1:]
rate, pcm = read(path)
settings: dict[str, Any] = {"model": "ink-2", "encoding": "pcm_s16le", "sample_rate": rate}
if mode == "auto" and not __version__.startswith("3."):
    settings |= {"turn_end_timeout_ms": 5000, "keyterm": ["best of times", "epoch"]}


def show(event: Any) -> None:
    print(event.to_json(indent=None), flush=True)


def commands() -> Iterator[Any]:
    """What is to be sent at the end of the audio."""
    if mode == "auto":
        yield {"type": "close"}
    else:
        yield from ("finalize", "close")


def endpoint(client: Any) -> Any:
    return (client.stt.auto_finalize if mode == "auto" else client.stt.manual_finalize).websocket(**settings)


def with_threads() -> None:
    with endpoint(Cartesia(api_key="sesame", base_url=url)) as connection:

        def talk() -> None:
            for chunk in chunks(pcm, rate):
                connection.send_raw(chunk)
                time.sleep(CHUNK_S)
            for command in commands():
                connection.send(command)

        talking = threading.Thread(target=talk)
        talking.start()
        for event in connection:
            show(event)
        talking.join()


async def with_tasks() -> None:
    async with endpoint(AsyncCartesia(api_key="sesame", base_url=url)) as connection:

        async def talk() -> None:
            if mode == "auto":
                await connection.send({"type": "config", "turn": {"end_timeout_ms": 4000}})
            for chunk in chunks(pcm, rate):
                await connection.send_raw(chunk)
                await asyncio.sleep(CHUNK_S)
            for command in commands():
                await connection.send(command)

        talking = asyncio.create_task(talk())
        async for event in connection:
            show(event)
        await talking


if colour == "sync":
    with_threads()
else:
    asyncio.run(with_tasks())
