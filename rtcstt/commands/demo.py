"""`rtcstt demo`: a server with the embedded recogniser, and a real WebRTC call to it, on this machine."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from rich.console import Console

from rtcstt.commands.models import OFFLINE, ensure
from rtcstt.embedded import AUTO, MODEL_NAMES
from rtcstt.embedded.engines import models
from rtcstt.events import from_dict
from rtcstt.media.files import read
from rtcstt.media.rtp import PACKET_S
from rtcstt.server.assembly import application
from rtcstt.server.options import option, share
from rtcstt.server.settings import Settings
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.impairment import Network
from rtcstt.webrtc.playback import opus_packets

REFERENCE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, "
    "it was the season of Darkness, it was the spring of hope, it was the winter of despair, we had "
    "everything before us, we had nothing before us, we were all going direct to Heaven, we were all going "
    "direct the other way. In short, the period was so far like the present period that some of its noisiest "
    "authorities insisted on its being received, for good or for evil, in the superlative degree of "
    "comparison only."
)
"""What is said in the default recording: Charles Dickens, A Tale of Two Cities, 1859."""

TAIL = 60  # characters of a growing text that are shown
AFTER_S = 2.0  # silence after the recording, so that its last turn ends by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    file: Path | None = option(
        None, "a recording (default: one of human speech)", positional="?", metavar="FILE"
    )
    loss: float = option(0.0, "lose packets: 5% or 0.05", read=share, metavar="SHARE")
    model: str = option(AUTO, MODEL_NAMES, metavar="NAME")
    offline: bool = option(False, OFFLINE)


def run(options: Options) -> int:
    ensure(options.model, offline=options.offline, others=() if options.file else [models.SPEECH])
    path = options.file or bundled_recording()
    reference = None if options.file else REFERENCE
    settings = Settings(port=0, max_calls=1, model=options.model)
    network = Network(loss=options.loss, burst=2 if options.loss else 1)
    return asyncio.run(_demo(path, reference, network, settings))


def bundled_recording() -> Path:
    """The human speech that is fetched with the recogniser; `EngineError` when it is missing."""
    return models.require(models.SPEECH) / "two_cities.wav"


@dataclass(frozen=True, slots=True)
class WordErrors:
    errors: int
    words: int

    @property
    def rate(self) -> float:
        return self.errors / max(self.words, 1)


def word_errors(reference: str, text: str) -> WordErrors:
    """Words to insert, delete or replace to make ``text`` into ``reference``; case and punctuation aside."""
    expected, got = _words(reference), _words(text)
    row = list(range(len(got) + 1))
    for index, word in enumerate(expected):
        previous, row = row, [index + 1]
        for column, other in enumerate(got):
            replaced = previous[column] + (word != other)
            row.append(min(replaced, previous[column + 1] + 1, row[column] + 1))
    return WordErrors(row[-1], len(expected))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def transcript(events: Sequence[dict[str, Any]]) -> str:
    """The full text: what the turns say, joined as it came."""
    return "".join(event["transcript"] for event in events if event["type"] == "turn.end")


def end_delays_s(events: Sequence[dict[str, Any]]) -> list[float]:
    """From the end of speech to `turn.end`, for each turn whose end of speech is known."""
    ends = [event for event in events if event["type"] == "turn.end" and event.get("end") is not None]
    return [event["time"] - event["end"] for event in ends]


async def _demo(path: Path, reference: str | None, network: Network, settings: Settings) -> int:
    show = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    packets = opus_packets(read(path))
    show.print(f"Recording: {path.name}, {len(packets) * PACKET_S:.1f} s; it plays in real time.")
    async with _server(show, settings) as url:
        caller = Caller(packets, network=network, loopback=True)
        printing = asyncio.create_task(_print_turns(caller, show))
        try:
            await caller.dial(url)
            await caller.played()
            await asyncio.sleep(AFTER_S)
            await caller.hang_up()
        finally:
            await caller.close()
            await printing
    events = [event for _, event in caller.received]
    _report(show, events, reference)
    ended = bool(events) and events[-1]["type"] == "session.end"
    return 0 if ended and transcript(events) else 1


@asynccontextmanager
async def _server(show: Console, settings: Settings) -> AsyncIterator[str]:
    """A server as `rtcstt serve` runs it, on a free port; yields the URL of its /offer."""
    async with application(settings, {}) as app:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            address = f"http://{settings.host}:{runner.addresses[0][1]}"
            show.print(f"Server: {address}, with the embedded recogniser. Times are seconds of audio.\n")
            yield f"{address}/offer"
        finally:
            await runner.cleanup()


async def _print_turns(caller: Caller, show: Console) -> None:
    async for values in caller.events():
        event = from_dict(values)
        if event.type.startswith(("turn.", "audio.", "stt.", "error", "session.")):
            text = str(event.fields.get("transcript") or event.fields.get("message") or "")
            if event.type != "turn.end" and len(text) > TAIL:
                text = "..." + text[-TAIL:]
            show.print(f"{event.time:7.2f}  {event.type:<15} {text}".rstrip())


def _report(show: Console, events: Sequence[dict[str, Any]], reference: str | None) -> None:
    text = transcript(events)
    show.print(f"\nTranscript: {text.strip()}")
    if reference is not None:
        wrong = word_errors(reference, text)
        show.print(f"Word error rate: {wrong.rate:.1%} ({wrong.errors} of {wrong.words} words)")
    if delays := end_delays_s(events):
        show.print(
            f"End of speech to turn.end: median {statistics.median(delays):.2f} s, "
            f"longest {max(delays):.2f} s, {len(delays)} turns"
        )
    for track in events[-1].get("tracks", []) if events else []:
        amounts = {name: ms for name, ms in track["ledger"].items() if isinstance(ms, float) and ms}
        show.print("Audio: " + ", ".join(f"{ms / 1000:.2f} s {name}" for name, ms in amounts.items()))
    show.print("\nTo speak yourself: rtcstt serve, then open http://127.0.0.1:8080 in a browser.")
