"""A bot that answers what is said, and begins to think before the speaker has quite ended.

ffmpeg -re -i recording.wav -f s16le -ac 1 -ar 16000 - | python examples/bot.py
"""

import asyncio
import sys

import rtcstt
from rtcstt.events import AnyEvent, TurnEagerEnd, TurnEnd, TurnResume, TurnStart

CHUNK = 3200  # bytes: 100 ms


async def think(text: str) -> str:
    """Put your language model here."""
    await asyncio.sleep(0.5)
    return f"You said {len(text.split())} words: {text.strip()}"


class Bot:
    """Thinks at `turn.eager_end`, thinks again if the speaker goes on, and speaks at `turn.end`."""

    def __init__(self) -> None:
        self.thinking: asyncio.Task[str] | None = None
        self.about = ""

    async def on(self, event: AnyEvent) -> None:
        match event:
            case TurnStart():
                pass  # here a bot that is speaking falls silent: it is being interrupted
            case TurnEagerEnd(transcript=text):
                self.begin(text)
            case TurnResume():
                self.stop()
            case TurnEnd(transcript=text) if text.strip():
                if self.thinking is None or self.about != text:
                    self.begin(text)
                assert self.thinking is not None
                print(await self.thinking, flush=True)
                self.thinking = None
            case _:
                pass

    def begin(self, text: str) -> None:
        self.stop()
        self.about, self.thinking = text, asyncio.create_task(think(text))

    def stop(self) -> None:
        if self.thinking is not None:
            self.thinking.cancel()
            self.thinking = None


async def feed(transcriber: rtcstt.Transcriber) -> None:
    while pcm := await asyncio.to_thread(sys.stdin.buffer.read, CHUNK):
        transcriber.push(pcm)
    await transcriber.close()


async def main() -> None:
    bot = Bot()
    async with rtcstt.Transcriber.from_pcm(16000, stt=rtcstt.Embedded()) as transcriber:
        feeding = asyncio.create_task(feed(transcriber))
        async for event in transcriber:
            await bot.on(event)
        await feeding


asyncio.run(main())
