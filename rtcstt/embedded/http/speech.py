"""Speech from text without a network, by flite: what examples of the cloud's clients ask of `/tts/bytes`.

It is there so that these run unchanged and there is something to listen to; it is not meant for people. There
is one voice, whichever is asked for, and no streaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from rtcstt.errors import CallerError, EngineError
from rtcstt.wire import bad_request

VOICE = "rms"  # of flite's voices the one that recognisers understand best
MAX_TEXT = 2000  # characters; some two minutes
MAX_AUDIO_S = 300.0  # the same characters as numbers or one endless word make a quarter of an hour
MAX_AT_ONCE = 2
TIMEOUT_S = 10.0  # text that long takes two seconds
RATES = (8000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
RAW = {"pcm_s16le": "s16le", "pcm_f32le": "f32le", "pcm_mulaw": "mulaw", "pcm_alaw": "alaw"}  # FFmpeg's names
TYPES = {"wav": "audio/wav", "raw": "application/octet-stream", "mp3": "audio/mpeg"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks to be said, and in which form."""

    text: str
    container: str
    encoding: str
    sample_rate: int

    @classmethod
    def parse(cls, body: object) -> Wanted:
        """From the JSON of a request; `CallerError` 400."""
        if not isinstance(body, dict):
            raise bad_request("The body must be a JSON object.")
        text, form = body.get("transcript"), body.get("output_format")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise bad_request(f"transcript must be text of 1 to {MAX_TEXT} characters.")
        if not isinstance(form, dict) or form.get("container") not in list(TYPES):
            raise bad_request(f"output_format.container must be one of {', '.join(TYPES)}.")
        rate = _rate(form.get("sample_rate", 16000))
        if form["container"] == "mp3":
            if rate not in MP3_RATES:
                raise bad_request(f"output_format.sample_rate of mp3 must be one of {MP3_RATES}.")
            return cls(text, "mp3", "libmp3lame", rate)
        encoding = form.get("encoding", "pcm_s16le")
        if encoding not in list(RAW):
            raise bad_request(f"output_format.encoding must be one of {', '.join(RAW)}.")
        return cls(text, form["container"], encoding, rate)


class Speaker:
    """Says what is `Wanted`; `EngineError` at once when flite is not installed."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, max_audio_s: float = MAX_AUDIO_S) -> None:
        program = shutil.which("flite")
        if program is None:
            raise EngineError("--with-tts needs flite: apt-get install flite")
        self._program = program
        self._timeout_s, self._max_audio_s = timeout_s, max_audio_s
        self._busy = 0

    async def say(self, wanted: Wanted) -> bytes:
        """The whole audio. `CallerError` 429 when others are being served, 500 when flite fails."""
        if self._busy >= MAX_AT_ONCE:
            message = f"{MAX_AT_ONCE} texts are being spoken already."
            raise CallerError(429, "concurrency_limited", "Busy", message, retry_after_s=1)
        self._busy += 1
        try:
            with tempfile.TemporaryDirectory() as folder:
                spoken = await self._spoken(wanted.text, Path(folder))
                return await asyncio.to_thread(_convert, spoken, wanted, self._max_audio_s)
        finally:
            self._busy -= 1

    async def _spoken(self, text: str, folder: Path) -> bytes:
        script, audio = folder / "text", folder / "audio.wav"
        script.write_text(text, encoding="utf-8", errors="replace")
        process = await asyncio.create_subprocess_exec(
            *(self._program, "-voice", VOICE, "-f", script, "-o", audio),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await process.wait()
        except TimeoutError:
            status = -1
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if status != 0 or not audio.exists():
            raise CallerError(
                500, "synthesis_failed", "Not spoken", "The synthesiser could not say this text."
            )
        return audio.read_bytes()


def _convert(spoken: bytes, wanted: Wanted, max_s: float) -> bytes:
    out = io.BytesIO()
    container = RAW[wanted.encoding] if wanted.container == "raw" else wanted.container
    with av.open(io.BytesIO(spoken), "r") as source, av.open(out, "w", format=container) as target:
        if (source.duration or 0) / av.time_base > max_s:
            raise bad_request(f"This text takes more than {max_s:.0f} s to say.")
        stream: Any = target.add_stream(wanted.encoding, rate=wanted.sample_rate, layout="mono")
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return out.getvalue()


def _rate(value: object) -> int:
    low, high = RATES
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad_request(f"output_format.sample_rate must be a whole number of Hz from {low} to {high}.")
    return value
