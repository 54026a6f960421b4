"""The protocol's four guarantees with the real recogniser, whatever is said, set and cut:
turns follow the grammar, each opens with a start, text only grows, and the ends joined are the transcript."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.recognizer import Recognizer
from rtcstt.embedded.service import Service
from rtcstt.errors import ConnectionLost, EngineError

pytestmark = [pytest.mark.real, pytest.mark.conformance]

RATE = 16000


@pytest.fixture(scope="module")
def recognizer() -> Iterator[Recognizer]:
    try:
        loaded = Recognizer.load()
    except EngineError as error:
        pytest.skip(str(error))
    yield loaded
    asyncio.run(loaded.close())


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    return soxr.resample(samples * 3, rate, RATE)


PARTS = st.tuples(
    st.sampled_from(["voice", "voice", "silence", "noise", "tone"]),
    st.floats(0.4, 5.0),  # seconds
    st.floats(0.0, 38.0),  # where in the recording
)
SIZES = st.lists(st.integers(100, 9000), min_size=1, max_size=5)  # bytes of messages
FEW = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TURN = st.builds(
    wire.TurnSettings,
    start_threshold=st.floats(0.81, 0.9),
    eager_end_threshold=st.floats(0.51, 0.8),
    end_threshold=st.floats(0.05, 0.5),
    end_timeout_ms=st.integers(640, 3000),
)


def audio(parts: list[tuple[str, float, float]], voice: np.ndarray) -> bytes:
    rng = np.random.default_rng(3)
    pieces = []
    for kind, duration_s, at_s in parts:
        count = int(duration_s * RATE)
        begin = int(at_s * RATE)
        pieces.append(
            {
                "voice": voice[begin : begin + count],
                "silence": np.zeros(count),
                "noise": rng.normal(0, 0.05, count),
                "tone": 0.2 * np.sin(np.arange(count) * 2 * np.pi * 697 / RATE),
            }[kind]
        )
    return (np.clip(np.concatenate(pieces), -1, 1) * 32767).astype("<i2").tobytes()


async def receive(
    recognizer: Recognizer, handshake: wire.Handshake, data: bytes, sizes: list[int], commands: list[str]
) -> list[str]:
    """All that the server says to audio in messages of these sizes, with commands after every tenth."""
    session = await Service(recognizer).open(handshake)
    said: list[str] = []

    async def read() -> None:
        try:
            while True:
                said.append(await session.recv())
        except ConnectionLost as lost:
            assert lost.close_code == 1000

    reading = asyncio.create_task(read())
    position = number = 0
    while position < len(data):
        size = sizes[number % len(sizes)]
        await session.send(data[position : position + size])
        position += size
        number += 1
        if number % 10 == 0 and commands:
            await session.send(commands[number // 10 % len(commands)])
    await session.send("close")
    await reading
    return said


@given(
    st.lists(PARTS, min_size=2, max_size=6), TURN, st.lists(st.integers(100, 9000), min_size=1, max_size=5)
)
@FEW
def test_turns(
    recognizer: Recognizer,
    voice: np.ndarray,
    parts: list[tuple[str, float, float]],
    turn: wire.TurnSettings,
    sizes: list[int],
) -> None:
    handshake = wire.Handshake(endpoint="turns", turn=turn)
    config = json.dumps({"type": "config", "turn": {"end_timeout_ms": 700}})
    said = asyncio.run(receive(recognizer, handshake, audio(parts, voice), sizes, [config]))
    client = wire.TurnsClient()
    messages = [client.receive_text(text) for text in said]
    assert client.order.state is wire.TurnState.IDLE
    ends = [m.transcript for m in messages if isinstance(m, wire.TurnEnd)]
    joined = "".join(ends)
    assert joined == joined.strip() and "  " not in joined
    assert all(text.startswith(" ") for text in [end for end in ends if end][1:]), "spaces are in the text"


@given(st.lists(PARTS, min_size=2, max_size=5), SIZES)
@FEW
def test_transcripts(
    recognizer: Recognizer, voice: np.ndarray, parts: list[tuple[str, float, float]], sizes: list[int]
) -> None:
    handshake = wire.Handshake(endpoint="manual", max_silence_duration_secs=1.0)
    data = audio(parts, voice)
    said = asyncio.run(receive(recognizer, handshake, data, sizes, ["finalize"]))
    client = wire.ManualClient()
    asked = sum(json.loads(text)["type"] == "flush_done" for text in said)
    for _ in range(asked):
        client.send(wire.Finalize())
    finals = [m for m in map(client.receive_text, said) if isinstance(m, wire.Transcript) and m.is_final]
    assert client.done
    padded = 0.032 * (asked + 1)  # each answer completes its last frame with silence
    assert sum(m.duration or 0.0 for m in finals) <= len(data) / 2 / RATE + padded
    joined = "".join(m.text for m in finals)
    assert joined == joined.strip() and "  " not in joined
