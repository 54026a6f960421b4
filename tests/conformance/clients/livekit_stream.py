"""livekit-plugins-cartesia: URL WAV ink-2|ink-whisper; prints each speech event as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import cartesia
from speech import CHUNK_S, chunks, read

url, path, model = sys.argv[1:]
rate, pcm = read(path)


async def main() -> None:
    async with aiohttp.ClientSession() as session:
        service = cartesia.STT(
            api_key="sesame", base_url=url, model=model, sample_rate=rate, http_session=session, language="en"
        )
        stream = service.stream()

        async def talk() -> None:
            for chunk in chunks(pcm, rate):
                stream.push_frame(rtc.AudioFrame(chunk, rate, 1, len(chunk) // 2))
                await asyncio.sleep(CHUNK_S)
            if model == "ink-whisper":
                stream.flush()
            stream.end_input()

        talking = asyncio.create_task(talk())
        async for event in stream:
            print(json.dumps(shown(event)), flush=True)
        await talking
        await stream.aclose()


def shown(event: stt.SpeechEvent) -> dict[str, object]:
    best = event.alternatives[0] if event.alternatives else None
    words = [[str(word), word.start_time, word.end_time] for word in best.words or []] if best else []
    return {"type": event.type.value, "text": best.text if best else None, "words": words}


asyncio.run(main())
