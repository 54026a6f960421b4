"""pipecat's Cartesia services in a pipeline: URL WAV turns|manual; prints each frame of text as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.cartesia.stt import CartesiaSTTService
from pipecat.services.cartesia.turns.stt import CartesiaTurnsSTTService
from pipecat.workers.runner import WorkerRunner
from speech import CHUNK_S, chunks, read

url, path, mode = sys.argv[1:]
rate, pcm = read(path)
socket_url = url.replace("http", "ws", 1)
SHOWN = (
    TranscriptionFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    ErrorFrame,
)


class Printer(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, SHOWN):
            text = getattr(frame, "text", None) or getattr(frame, "error", None)
            print(json.dumps({"type": type(frame).__name__, "text": text}), flush=True)
        await self.push_frame(frame, direction)


async def main() -> None:
    if mode == "turns":
        service = CartesiaTurnsSTTService(api_key="sesame", url=socket_url + "/stt/turns/websocket")
    else:
        service = CartesiaSTTService(api_key="sesame", base_url=socket_url)
    worker = PipelineWorker(
        Pipeline([service, Printer()]),
        params=PipelineParams(audio_in_sample_rate=rate),
        cancel_on_idle_timeout=False,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_started(worker: PipelineWorker, frame: Frame) -> None:
        started.set()

    async def talk() -> None:
        await asyncio.wait_for(started.wait(), 20)
        for chunk in chunks(pcm, rate):
            await worker.queue_frame(InputAudioRawFrame(chunk, rate, 1))
            await asyncio.sleep(CHUNK_S)
        if mode == "manual":
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
            await asyncio.sleep(2.0)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), talk())


asyncio.run(main())
