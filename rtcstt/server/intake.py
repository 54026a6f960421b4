"""One gateway's audio into a call, at the pace of real time.

What is ahead of it by more than `Timing.ahead_s` is left in the socket until its time has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rtcstt.call import Call
from rtcstt.events import AudioIgnored, AudioSuspect
from rtcstt.media.suspicion import READERS, Suspicion
from rtcstt.server.media_formats import ChunkOrder, Media
from rtcstt.server.stated_formats import Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one source, in seconds."""

    start_s: float = 10.0  # by then it has said what it is
    silent_s: float = 15.0  # a gateway of which no message came for so long is gone
    ahead_s: float = 5.0  # of audio that came before its time; more waits in the socket
    piece_s: float = 1.0  # of audio that a call is given at once
    wait_s: float = 0.1  # between two looks at whether there is room


TIMING = Timing()


class Intake:
    """One source's audio into a call: a track for each channel."""

    def __init__(self, call: Call, tracks: Sequence[str], form: Form, timing: Timing = TIMING) -> None:
        self.form = form
        self._timing = timing
        self._call = call
        self._tracks = [call.add_track(track) for track in tracks]
        self._read = READERS[form.encoding]
        self._rest = b""  # of a sample, or of a pair of them, that was cut by the end of a message
        self._usual_s = 0.0  # of a message
        self._order = ChunkOrder()
        self._suspicion = Suspicion(form.encoding, form.sample_rate, form.channels)

    async def push(self, data: bytes) -> None:
        """Give the call what came; waits while that is too far ahead of real time."""
        data = self._rest + data
        whole = len(data) - len(data) % self.form.frame_bytes
        self._rest, data = data[whole:], data[:whole]
        for guess in self._suspicion.push(data, asyncio.get_running_loop().time()):
            self._call.publish(AudioSuspect(track=self._tracks[0].track, guess=guess))
        frames, rate = self._read(data).reshape(-1, self.form.channels), self.form.sample_rate
        self._usual_s = len(frames) / rate
        step = round(self._timing.piece_s * rate)
        for start in range(0, len(frames), step):
            await self._wait((len(frames) - start) / rate)
            for index, track in enumerate(self._tracks):
                track.push_pcm(frames[start : start + step, index], rate)

    def drop(self, size: int = 0) -> None:
        """A message of about so many bytes of audio cannot be read; 0: as much as usual."""
        duration_s = self.form.duration_s(size) or self._usual_s
        for track in self._tracks:
            track.drop_pcm(duration_s)

    async def push_chunk(self, media: Media) -> None:
        """The same for a message that may have its number, and may have been overtaken."""
        repeated = self._order.repeated
        for data in self._order.push(media):
            await self.push(data)
        if repeated == 0 < self._order.repeated:
            reason = "media.chunk: messages come twice; each is taken once"
            self._call.publish(AudioIgnored(track=self._tracks[0].track, reason=reason))

    async def flush(self) -> None:
        """What waits for an earlier message: no more will come."""
        for data in self._order.flush():
            await self.push(data)

    async def _wait(self, duration_s: float) -> None:
        """Until there is room for audio that is so long."""
        for track in self._tracks:
            track.wait_outside(duration_s)
        while any(track.queued_s > self._timing.ahead_s and not track.ended for track in self._tracks):  # noqa: ASYNC110
            await asyncio.sleep(self._timing.wait_s)  # only time makes room
        for track in self._tracks:
            if not track.ended:
                track.wait_outside(0.0)
