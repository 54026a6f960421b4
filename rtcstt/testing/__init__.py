"""Fakes for testing code that uses rtcstt, the ones its own tests use.

* `VirtualLoop`: an event loop whose clock jumps. Minutes of call pass in milliseconds, always the same way.
* `speech`, `silence`, `noise`: audio that *carries its own transcript*. Every word is written into the
  samples of a synthetic sound, so a test can say "no word lost, none twice" exactly.
* `Oracle`: the recogniser for such audio: legal turn events, with delays and cuts of your choice.
* `ScriptedUpstream`: an STT that behaves as badly as you say, connection by connection. In memory it is an
  `Stt` for virtual time (`ScriptedUpstream.connect`); with `listening()` it is a real WebSocket server on
  loopback.
* `Flaky`: a real STT whose connections die.
* `ScriptedCaller`: RTP packets with loss, jitter, mute, DTX and hang-up.

    upstream = ScriptedUpstream(ConnectionScript(drop_after_audio_s=1.5), ConnectionScript())
    async def main():
        async with upstream:
            stream = Stream(upstream, on_event=events.append)
            stream.start()
            await play(stream, speech("it was the best of times"))
            await stream.close()
    run_virtual(main())
    assert transcript(events) == "it was the best of times"
"""

from __future__ import annotations

from rtcstt.testing.caller import Network, ScriptedCaller
from rtcstt.testing.speech import Oracle, Received, chunks, noise, play, silence, speech, transcript
from rtcstt.testing.upstream import (
    ConnectionRecord,
    ConnectionScript,
    Flaky,
    MemoryConnection,
    ScriptedUpstream,
)
from rtcstt.testing.virtual_time import VirtualLoop, run_virtual

__all__ = [
    "Flaky",
    "Received",
    "MemoryConnection",
    "Network",
    "Oracle",
    "ScriptedCaller",
    "ScriptedUpstream",
    "VirtualLoop",
    "ConnectionScript",
    "ConnectionRecord",
    "chunks",
    "noise",
    "play",
    "run_virtual",
    "silence",
    "speech",
    "transcript",
]

# The names of 0.1.0's first days; programs that use them keep working.
Heard, Visit, Visited = Received, ConnectionScript, ConnectionRecord
