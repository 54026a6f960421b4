"""The fakes themselves: a fake that is wrong makes every test that uses it worthless."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt import wire
from rtcstt.errors import ConnectionLost, UpstreamError
from rtcstt.testing import (
    ConnectionScript,
    Network,
    Oracle,
    ScriptedCaller,
    ScriptedUpstream,
    VirtualLoop,
    chunks,
    noise,
    run_virtual,
    silence,
    speech,
)

TURNS = wire.Handshake(endpoint="turns")
MANUAL = wire.Handshake(endpoint="manual")


# -- virtual time ------------------------------------------------------------------------------------


def test_hours_pass_at_once() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        return loop.time()

    assert run_virtual(main()) == pytest.approx(7200)


def test_time_outs_happen_in_order() -> None:
    order = []

    async def after(delay: float) -> None:
        await asyncio.sleep(delay)
        order.append(delay)

    async def main() -> None:
        await asyncio.gather(*(after(delay) for delay in (3.0, 1.0, 2.0)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.Event().wait()

    run_virtual(main())
    assert order == [1.0, 2.0, 3.0]


def test_a_deadlock_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock"):
        run_virtual(main())


# -- audio with words --------------------------------------------------------------------------------


async def receive(
    samples: np.ndarray, cuts: list[int], oracle: Oracle, handshake: wire.Handshake
) -> list[dict]:
    upstream = ScriptedUpstream(ConnectionScript(oracle=oracle))
    said = []
    async with upstream:
        connection = await upstream.connect(handshake)
        for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True):
            await connection.send(samples[start:end].astype("<i2").tobytes())
        await connection.send("close")
        with pytest.raises(ConnectionLost) as caught:
            while True:
                said.append(json.loads(await connection.recv()))
        assert caught.value.close_code == 1000
    return said


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["a", "no", "don't", "\u00fcber", "\u4eca"]), min_size=1, max_size=8), st.data()
)
def test_the_oracle_receives_every_word_however_it_is_cut(spoken: list[str], data: st.DataObject) -> None:
    samples = np.concatenate([silence(0.3), speech(spoken), silence(0.2)])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(samples) - 1), max_size=10)))
    said = run_virtual(receive(samples, cuts, Oracle(), TURNS))
    assert "".join(m["transcript"] for m in said if m["type"] == "turn.end") == " ".join(spoken)
    client = wire.TurnsClient()
    for message in said:
        client.receive_text(json.dumps(message))


def test_the_oracle_on_the_manual_endpoint() -> None:
    said = run_virtual(receive(speech("one two"), [], Oracle(), MANUAL))
    assert [m["type"] for m in said] == ["transcript", "transcript", "transcript", "done"]
    assert said[-2]["text"] == "one two" and said[-2]["is_final"]


@pytest.mark.parametrize(("share", "text"), [(0.0, "b"), (0.4, "b"), (0.6, "a b"), (1.0, "a b")])
def test_half_a_word_is_received_or_not(share: float, text: str) -> None:
    samples = speech("a b")[round((1 - share) * 3200) :]
    said = run_virtual(receive(samples, [], Oracle(start_s=0.05), TURNS))
    assert said[-1]["transcript"] == text


def test_noise_and_silence_carry_nothing() -> None:
    samples = np.concatenate([noise(2.0), silence(1.0)])
    assert [m["type"] for m in run_virtual(receive(samples, [], Oracle(), TURNS))] == ["connected"]


def test_a_word_must_fit() -> None:
    with pytest.raises(ValueError, match="60 bytes"):
        speech(["x" * 61])
    assert len(speech("")) == 0


def test_chunks_follow_each_other() -> None:
    found = list(chunks(speech("a b c"), start=500))
    assert [c.start for c in found] == [500 + 1600 * i for i in range(len(found))]
    assert np.array_equal(np.concatenate([c.samples for c in found]), speech("a b c"))


# -- the upstream ------------------------------------------------------------------------------------


def test_scripts_are_played_in_order_and_the_last_again() -> None:
    async def main() -> list[str]:
        async with ScriptedUpstream(
            ConnectionScript(refuse=503),
            ConnectionScript(drop_after_s=1.0, drop_code=1012),
            ConnectionScript(),
        ) as upstream:
            with pytest.raises(UpstreamError) as refused:
                await upstream.connect(TURNS)
            assert refused.value.status == 503 and refused.value.retryable
            second = await upstream.connect(TURNS)
            await second.recv()
            with pytest.raises(ConnectionLost) as lost:
                await second.recv()
            assert lost.value.close_code == 1012
            with pytest.raises(ConnectionLost):
                await second.send(b"")
            for _ in range(2):
                third = await upstream.connect(TURNS)
                await third.recv()
                await third.close()
                await third.close()
                await asyncio.sleep(0)
            await asyncio.sleep(0.1)
            return [one.ended for one in upstream.connections]

    assert run_virtual(main()) == ["refused", "dropped", "left", "left"]


def test_a_drop_is_exact_to_the_sample() -> None:
    async def main() -> float:
        async with ScriptedUpstream(ConnectionScript(drop_after_audio_s=0.123)) as upstream:
            connection = await upstream.connect(TURNS)
            for chunk in chunks(silence(0.5)):
                await connection.send(chunk.pcm)
            await asyncio.sleep(0.1)
            return upstream.connections[0].audio_s

    assert run_virtual(main()) == pytest.approx(0.123)


async def test_over_a_socket_a_wrong_handshake_is_refused_in_json() -> None:
    import aiohttp

    async with ScriptedUpstream().listening() as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{url}/stt/turns/websocket?model=ink-2")
    assert refused.value.status == 400


# -- the caller --------------------------------------------------------------------------------------


def test_packets_of_a_call() -> None:
    caller = (
        ScriptedCaller().say(speech("a")).mute(0.1).pause(0.4).say(speech("b")).hold(1.0).say(speech("c"))
    )
    packets = caller.packets(Network(delay_s=0.0))
    sequences = [packet.sequence for _, packet in packets]
    assert [(b - a) % 2**16 for a, b in zip(sequences, sequences[1:], strict=False)] == [1] * (
        len(packets) - 1
    )
    steps = [
        (b.timestamp - a.timestamp) % 2**32 for (_, a), (_, b) in zip(packets, packets[1:], strict=False)
    ]
    assert sorted(set(steps)) == [320, 320 + 6400]  # the pause shows in the timestamps, the hold does not
    gaps = [b - a for (a, _), (b, _) in zip(packets, packets[1:], strict=False)]
    assert sorted({round(gap, 2) for gap in gaps}) == [0.02, 0.42, 1.02]
    assert [i for i, (_, packet) in enumerate(packets) if packet.marker] == [0, 18]
    audio = b"".join(packet.payload for _, packet in packets[:13])
    assert np.array_equal(np.frombuffer(audio, ">i2")[:3200], speech("a")[:3200])


def test_the_network_does_what_it_is_told() -> None:
    caller = ScriptedCaller().say(speech("a b c d e f"))
    whole = caller.packets()
    lossy = caller.packets(Network(lost=frozenset({1, 3}), jitter_s=0.05, duplicate=0.2, seed=1))
    kept = {packet.sequence for _, packet in lossy}
    assert {whole[1][1].sequence, whole[3][1].sequence}.isdisjoint(kept) and len(kept) == len(whole) - 2
    assert len(lossy) > len(kept)
    assert lossy == caller.packets(Network(lost=frozenset({1, 3}), jitter_s=0.05, duplicate=0.2, seed=1))
    assert [time for time, _ in lossy] == sorted(time for time, _ in lossy)
    assert len(caller.packets(Network(loss=0.5, seed=2))) < len(whole)


def test_a_new_stream() -> None:
    caller = ScriptedCaller().say(speech("a")).switch(7).say(speech("b"))
    assert {packet.ssrc for _, packet in caller.packets()} == {0x5EED, 7}
