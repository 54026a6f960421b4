"""A real Chromium falls silent in all the ways it can, and the STT receives a second for every second.

The STT is `rtcstt stt` behind a proxy that writes down what it is sent. In each call the recording goes on
while the caller is muted: what is said then must not be received, and the words before and after be whole.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.async_api import Browser, async_playwright
from processes import check_events, running
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from rtcstt.commands.demo import bundled_recording, transcript, word_errors
from rtcstt.media.pcm import SAMPLE_RATE

pytestmark = pytest.mark.real

CHUNK_S = 0.1
WORDS = (
    "It was the best of times, it was the worst of times, "
    "it was the age of wisdom, it was the age of foolishness,"
)
BEFORE, HIDDEN, AFTER = (0.9, 4.8), (8.8, 12.8), (4.95, 8.7)  # seconds of two_cities.wav, each a phrase
LEAD_S, GAP_S, TAIL_S = 0.5, 0.8, 1.5
MUTE_S = LEAD_S + BEFORE[1] - BEFORE[0] + GAP_S / 2
UNMUTE_S = MUTE_S + HIDDEN[1] - HIDDEN[0] + GAP_S

CALL = """async ({ wav, how, mute, unmute }) => {
  const context = new AudioContext({ sampleRate: 48000 });
  await context.resume();
  const bytes = Uint8Array.from(atob(wav), (letter) => letter.charCodeAt(0));
  const source = context.createBufferSource();
  source.buffer = await context.decodeAudioData(bytes.buffer);
  const microphone = context.createMediaStreamDestination();
  microphone.channelCount = 1;
  source.connect(microphone);
  const track = microphone.stream.getAudioTracks()[0];

  const pc = new RTCPeerConnection();
  const sender = pc.addTrack(track, microphone.stream);
  const events = [];
  const channel = pc.createDataChannel("events");
  const over = new Promise((done) => channel.addEventListener("close", done));
  channel.onmessage = (message) => events.push(JSON.parse(message.data));
  const opened = new Promise((done) => channel.addEventListener("open", done));
  await pc.setLocalDescription();
  const body = JSON.stringify({ type: "offer", sdp: pc.localDescription.sdp });
  const answer = await (await fetch("/offer", { method: "POST", body })).json();
  await pc.setRemoteDescription(answer);
  await opened;

  const silence = {
    enabled: [() => { track.enabled = false; }, () => { track.enabled = true; }],
    replaceTrack: [() => sender.replaceTrack(null), () => sender.replaceTrack(track)],
  }[how];
  const begun = context.currentTime;
  source.start();
  const until = async (second) => {
    await new Promise((done) => setTimeout(done, 1000 * (begun + second - context.currentTime)));
  };
  await until(mute);
  await silence[0]();
  await until(unmute);
  await silence[1]();
  await until(source.buffer.duration);
  channel.send(JSON.stringify({ type: "close" }));
  await over;
  pc.close();
  return events;
}"""


@pytest.fixture(scope="module")
def voice() -> bytes:
    """What is said in each call, as a WAV file."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")

    def gap(seconds: float) -> Any:
        return np.zeros(int(seconds * rate), np.float32)

    before, hidden, after = (samples[int(a * rate) : int(b * rate)] for a, b in (BEFORE, HIDDEN, AFTER))
    parts = [gap(LEAD_S), before, gap(GAP_S), hidden, gap(GAP_S), after, gap(TAIL_S)]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(parts), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


@dataclass
class Received:
    """What the STT was sent: (when, samples)."""

    audio: list[tuple[float, np.ndarray]] = field(default_factory=list)

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate([samples for _, samples in self.audio])

    def deviations_s(self) -> np.ndarray:
        """At each chunk: audio received until then, less the time that has passed."""
        times = np.array([when for when, _ in self.audio])
        lengths = np.cumsum([len(samples) for _, samples in self.audio]) / SAMPLE_RATE
        ahead = lengths - (times - times[0])
        return ahead - np.median(ahead)


Call = tuple[list[dict[str, Any]], Received]  # its events, and what its STT was sent


@contextlib.asynccontextmanager
async def proxy(stt: str) -> AsyncIterator[tuple[str, Received]]:
    """A base URL that leads to ``stt``, and what is sent there."""
    received = Received()

    async def relay(listener: ServerConnection) -> None:
        assert listener.request is not None
        async with connect(stt.replace("http", "ws", 1) + listener.request.path) as behind:

            async def forth() -> None:
                async for message in listener:
                    if isinstance(message, bytes):
                        received.audio.append((time.monotonic(), np.frombuffer(message, "<i2")))
                    await behind.send(message)

            going = asyncio.create_task(forth())
            async for message in behind:
                await listener.send(message)
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)

    async with serve(relay, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", received


async def called(browser: Browser, url: str, voice: bytes, how: str) -> list[dict[str, Any]]:
    """The events of one call."""
    page = await (await browser.new_context(bypass_csp=True)).new_page()
    await page.goto(f"{url}/healthz")
    about = {"wav": base64.b64encode(voice).decode(), "how": how, "mute": MUTE_S, "unmute": UNMUTE_S}
    events: list[dict[str, Any]] = await page.evaluate(CALL, about)
    return events


async def three_calls(chromium: str, voice: bytes, folder: Path) -> dict[str, Call]:
    flags = "--no-sandbox --disable-gpu --allow-loopback-in-peer-connection --disable-background-networking"
    flags += " --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
    async with contextlib.AsyncExitStack() as stack:
        stt = stack.enter_context(running("stt", folder))
        urls, all_received = [], []
        for options in ([], [], ["--dtx"]):
            url, received = await stack.enter_async_context(proxy(stt.url))
            urls.append(stack.enter_context(running("serve", folder, "--stt", url, *options)).url)
            all_received.append(received)
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags.split())
        stack.push_async_callback(browser.close)
        ways = ("enabled", "replaceTrack", "enabled")
        events = await asyncio.gather(
            *(called(browser, url, voice, how) for url, how in zip(urls, ways, strict=True))
        )
    return dict(zip(("enabled", "replaceTrack", "dtx"), zip(events, all_received, strict=True), strict=True))


@pytest.fixture(scope="module")
def calls(chromium: str, voice: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    """All three at once, by name."""
    return asyncio.run(three_calls(chromium, voice, tmp_path_factory.mktemp("calls")))


@pytest.mark.parametrize(
    ("way", "stalls", "noise"),
    [
        pytest.param("enabled", 0, 3, id="packets of silence"),
        pytest.param("replaceTrack", 1, 0, id="no packets, and the timestamps do not tell"),
        pytest.param("dtx", 0, 3, id="DTX"),
    ],
)
def test_the_words_around_a_mute_are_whole_and_time_goes_on(
    calls: dict[str, Call], voice: bytes, way: str, stalls: int, noise: int
) -> None:
    """``noise``: the most that silence sounds like, as the codec makes it."""
    events, received = calls[way]
    check_events(events)
    types = [event["type"] for event in events]
    assert (types.count("audio.stalled"), types.count("audio.resumed")) == (stalls, stalls)
    text = transcript(events)
    assert word_errors(WORDS, text).errors == 0, text

    (ledger,) = events[-1]["ledger"].values()
    assert len(received.samples) == ledger["sent"] * SAMPLE_RATE / 1000
    assert len(received.samples) / SAMPLE_RATE == pytest.approx(events[-1]["time"], abs=CHUNK_S)
    assert {len(samples) for _, samples in received.audio[:-1]} == {CHUNK_S * SAMPLE_RATE}
    # A busy machine may be late for a while. Had the mute stopped the clock, one half of the chunks would be
    # late by the whole mute, measured from the other half.
    late = np.abs(received.deviations_s())
    assert np.quantile(late, 0.75) < (UNMUTE_S - MUTE_S) / 2, np.sort(late)[-30:]

    said, rate = soundfile.read(io.BytesIO(voice), dtype="int16")
    said[int(MUTE_S * rate) : int(UNMUTE_S * rate)] = 0
    muted_s = longest_quiet_s(said, rate, 20)
    assert longest_quiet_s(received.samples, SAMPLE_RATE, 20) == pytest.approx(muted_s, abs=CHUNK_S)
    assert longest_quiet_s(received.samples, SAMPLE_RATE, noise) >= UNMUTE_S - MUTE_S - CHUNK_S


def longest_quiet_s(samples: np.ndarray, rate: int, level: int) -> float:
    """The longest stretch in which no sample is louder."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > level)
    return float(np.diff(loud).max()) / rate
