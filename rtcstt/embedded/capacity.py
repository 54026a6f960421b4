"""How many streams a machine holds, from what decoding a second of audio costs it; a core.

Measured is noise, which the encoder works on like on anything and the decoder has nothing to say about.
Speech that is listened to is decoded again every half second from its segment's beginning, and written down
as well: `LISTENING` times as much. Streams beyond what the processors can do are not lost at once, since
their updates get rarer first; hence `USABLE` may be most of the processors.
"""

from __future__ import annotations

LISTENING = 10.5  # measured: 0.115 CPU s per s of speech against 0.012 (tiny-en)
STREAMED = 2.0  # of engines that decode nothing twice: silence is put in at each pause
TALKING = 0.4  # of a stream's time: in a conversation people take turns
USABLE = 0.8  # of the processors; the rest is for sockets, WebRTC, and bad moments
FEWEST, MOST = 4, 64  # of a machine, and of each of its processors


def streams(processors: int, cost_s: float, *, listening: float = LISTENING, fewest: int = FEWEST) -> int:
    """How many conversations ``processors`` hold when a second of noise costs ``cost_s`` to decode, and one
    of speech ``listening`` times that."""
    most = MOST * processors
    if cost_s <= 0:
        return most
    held = USABLE * processors / (listening * cost_s * TALKING)
    return int(max(fewest, min(held, most)))
