"""PyPI openai on the alias for whole files: URL WAV; prints what it got as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from openai import AuthenticationError, BadRequestError, OpenAI

url, path = sys.argv[1:]
client = OpenAI(api_key="sesame", base_url=url, max_retries=0)
create = client.audio.transcriptions.create
plain = create(file=Path(path), model="whisper-1")
verbose = create(
    file=Path(path),
    model="whisper-1",
    response_format="verbose_json",
    timestamp_granularities=["word", "segment"],
)
captions = create(file=Path(path), model="ink-whisper", response_format="vtt")
text = create(file=Path(path), model="gpt-4o-transcribe", response_format="text")
streamed = list(create(file=Path(path), model="gpt-4o-transcribe", stream=True))
at_v1 = OpenAI(api_key="sesame", base_url=f"{url}/v1", max_retries=0)
models = [model.id for model in at_v1.models.list()]
by_v1 = at_v1.audio.transcriptions.create(file=Path(path), model=models[0], prompt="Paris, Ms. Dawson " * 500)
try:
    create(file=Path(path), model="whisper-1", temperature=7)
    named = None
except BadRequestError as error:
    named = error.param
try:
    OpenAI(api_key="wrong", base_url=url).audio.transcriptions.create(file=Path(path), model="whisper-1")
    refused = False
except AuthenticationError:
    refused = True
print(
    json.dumps(
        {
            "json": plain.text,
            "text": text,
            "vtt": captions,
            "verbose": verbose.text,
            "duration": verbose.duration,
            "words": [word.model_dump() for word in verbose.words or []],
            "segments": [segment.text for segment in verbose.segments or []],
            "refused": refused,
            "deltas": "".join(event.delta for event in streamed if event.type == "transcript.text.delta"),
            "done": streamed[-1].text,
            "v1": by_v1.text,
            "named": named,
            "usage": verbose.usage.seconds if verbose.usage else None,
            "logprob": (verbose.segments or [])[0].avg_logprob,
        }
    )
)
