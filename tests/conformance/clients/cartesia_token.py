"""PyPI cartesia with a short-lived token instead of a key: URL; prints the events of an empty session."""

from __future__ import annotations

import sys

from cartesia import Cartesia

url = sys.argv[1]
holder = Cartesia(api_key="sesame", base_url=url)
token = holder.access_token.create(grants={"stt": True}, expires_in=30).token
settings = {"model": "ink-2", "encoding": "pcm_f32le", "sample_rate": 48000}
with Cartesia(token=token, base_url=url).stt.auto_finalize.websocket(**settings) as connection:  # type: ignore[arg-type]
    connection.send({"type": "close"})
    for event in connection:
        print(event.to_json(indent=None))
