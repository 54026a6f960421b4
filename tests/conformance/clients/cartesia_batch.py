"""PyPI cartesia, whole files and tokens: URL WAV; prints what it got as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from cartesia import AsyncCartesia, AuthenticationError, BadRequestError, Cartesia
from speech import read

url, path = sys.argv[1:]
client = Cartesia(api_key="sesame", base_url=url)
words = client.stt.transcribe(
    file=Path(path), model="ink-whisper", language="en", timestamp_granularities=["word"]
)
print(words.to_json(indent=None))

rate, pcm = read(path)
raw = client.stt.transcribe(
    file=("a.raw", pcm), model="ink-whisper-2025-06-04", encoding="pcm_s16le", sample_rate=rate
)
print(raw.to_json(indent=None))


async def later() -> None:
    answer = await AsyncCartesia(api_key="sesame", base_url=url).stt.transcribe(
        file=Path(path), model="ink-whisper"
    )
    print(answer.to_json(indent=None))


asyncio.run(later())

token = client.access_token.create(grants={"stt": True}, expires_in=60).token
refused = []
for wrong in (
    lambda: Cartesia(api_key="wrong", base_url=url).stt.transcribe(file=Path(path), model="ink-whisper"),
    lambda: client.stt.transcribe(file=Path(path), model="ink-9"),
    lambda: client.stt.transcribe(file=("a.wav", b"no audio"), model="ink-whisper"),
):
    try:
        wrong()
    except (AuthenticationError, BadRequestError) as error:
        refused.append([error.status_code, error.body["error_code"]])  # type: ignore[index]
print(json.dumps({"token": bool(token), "refused": refused}))
