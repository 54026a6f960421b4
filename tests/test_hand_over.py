"""A call on its way from a server that drains to another one, while either dies, hangs up or loses Redis:
whole servers in virtual time, and a caller who speaks on two connections."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from test_sharing import Server, claimed, fleet, history

from rtcstt.call import Call
from rtcstt.call.settings import Mode
from rtcstt.events import AnyEvent, SessionEnd
from rtcstt.fleet.ownership import Act
from rtcstt.media.rtp import Codec, Packet
from rtcstt.testing import ConnectionScript, ScriptedUpstream, run_virtual, silence, speech, transcript
from rtcstt.wire import TurnSettings

L16 = Codec("L16", 16000)
PACKET = 320  # samples, 20 ms
WORDS = [f"word{number:02}x" for number in range(24)]
AUDIO = np.concatenate([speech(WORDS), silence(2.0)])
MOVES_S = 2.0  # of speech, before the second connection
WRITTEN_S = 0.34  # in which what a server receives is in the store: a chunk, and what it waits


@dataclass
class Speaker:
    """The same audio at the same moments over every connection."""

    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def connect(self, call: Call) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(self._send(call, len(self.tasks) + 1)))
        return self.tasks[-1]

    async def _send(self, call: Call, ssrc: int) -> None:
        track, loop = call.add_track("0", {96: L16}), asyncio.get_running_loop()
        first = round((loop.time() - self.began) * 16000) // PACKET
        for number in range(first, len(AUDIO) // PACKET):
            await asyncio.sleep(max(0.0, self.began + (number + 1) * PACKET / 16000 - loop.time()))
            payload = AUDIO[number * PACKET : (number + 1) * PACKET].astype(">i2").tobytes()
            track.push(Packet(ssrc, number, number * PACKET, 96, payload))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def moving(one: Server, other: Server, speaker: Speaker, *, mode: Mode = "auto") -> str:
    """A call at one server, whose caller has just been received by the other one as well."""
    call = one.calls.begin(options={"mode": mode})
    speaker.connect(call)
    await asyncio.sleep(MOVES_S)
    for track in call.tracks.values():
        track.leave()
    _, entry = await other.shared.locate(call.id)
    assert entry is not None and other.shared.prepare is not None
    await other.shared.prepare(call.id, entry)
    prepared = other.calls.prepared(call.id)
    assert prepared is not None
    speaker.connect(prepared)
    return call.id


def die(server: Server) -> None:
    server.die()
    for task in (*server.shared._moving, *server.shared._taking.values()):
        task.cancel()


def check_whole(events: list[AnyEvent]) -> None:
    last = events[-1]
    assert isinstance(last, SessionEnd) and last.complete, last
    assert transcript(events).split() == WORDS


def check_but_for_a_gap(events: list[AnyEvent]) -> None:
    """Every word outside of what is said to be missing is there, once."""
    last, said = events[-1], transcript(events).split()
    assert isinstance(last, SessionEnd)
    (gap,) = last.missing
    assert gap["reason"] == "server" and said == sorted(set(said)) and set(said) <= set(WORDS)
    length = len(speech(WORDS)) / 16000 / len(WORDS)
    for number, word in enumerate(WORDS):
        if (number + 1.2) * length < gap["start"] or (number - 0.2) * length > gap["end"]:
            assert word in said, (word, gap, said)


@pytest.mark.parametrize("dies_s", [0.02, 0.06, 0.1, 0.4, 0.45, 0.53, 0.55, 0.7])
def test_the_server_that_drains_dies_while_its_call_moves(dies_s: float) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            await asyncio.sleep(dies_s)
            die(one)
            speaker.tasks[0].cancel()
            await speaker.tasks[1]
            moved = other.calls.find(call)
            await moved.close()
            if dies_s < WRITTEN_S:  # what it had received last is nowhere
                check_but_for_a_gap(history(moved))
            else:
                check_whole(history(moved))

    run_virtual(main())


@pytest.mark.parametrize("asked_s", [0.02, 0.3, 0.49])
def test_turn_settings_that_change_while_a_call_moves_hold_where_it_goes_on(asked_s: float) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            await asyncio.sleep(asked_s)
            one.calls.find(call).configure(TurnSettings(end_timeout_ms=3000))
            await asyncio.sleep(1.0)
            moved = other.calls.find(call)
            assert moved.turn.end_timeout_ms == 3000
            await speaker.tasks[1]
            check_whole(await ended(moved))

    run_virtual(main())


@pytest.mark.parametrize(
    ("asked_s", "new"),
    [
        (0.02, False),
        (0.3, False),
        (0.02, True),
        (0.3, True),
        (0.49, True),
        (0.502, True),
        (0.7, True),
    ],
)
def test_what_is_finalized_while_a_call_moves_is_transcribed(asked_s: float, new: bool) -> None:
    """Asked over either connection; the new server does not have the call before 0.5 s."""

    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker, mode="manual")
            await asyncio.sleep(asked_s)
            (other if new else one).calls.entries[call].call.command('{"type": "finalize"}')
            await speaker.tasks[1]
            moved = other.calls.find(call)
            assert [event.type for event in history(moved)].count("flush_done") == 1
            check_whole(await ended(moved))

    run_virtual(main())


def test_who_closes_while_a_call_moves_is_received_however_much_they_asked_before() -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            prepared = other.calls.entries[call].call
            for _ in range(200):
                prepared.command('{"type": "name", "track": "0", "speaker": "Ada"}')
            prepared.command('{"type": "close"}')
            await asyncio.sleep(5.0)
            assert other.calls.find(call).state == "closed"
            await speaker.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    "before",
    [[ConnectionScript(refuse=503)] * 6, [ConnectionScript(drop_after_audio_s=at) for at in (0.2, 0.2, 2.5)]],
)
def test_an_stt_that_is_away_where_a_call_goes_on_loses_no_word(before: list[ConnectionScript]) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            async with ScriptedUpstream(*before, ConnectionScript()) as stt:
                other.calls.stt = stt
                speaker = Speaker()
                call = await moving(one, other, speaker)
                await speaker.tasks[1]
                check_whole(await ended(other.calls.find(call)))

    run_virtual(main())


def test_a_track_whose_beginning_was_not_written_yet_harms_no_call() -> None:
    """Many events waited for Redis, and of them it has the first 200."""

    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            store.calls[call].tracks["9"] = '{"mid": "9"}'
            await speaker.tasks[1]
            check_whole(await ended(other.calls.find(call)))

    run_virtual(main())


def test_a_call_that_cannot_be_taken_for_a_fault_of_ours_is_not_kept_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)

            def fails(*_: object) -> None:
                raise KeyError("taking")

            monkeypatch.setattr(other.calls, "commit", fails)
            await asyncio.sleep(1.0)
            assert not other.calls.has(call) and other.calls.prepared(call) is None
            await speaker.stop()

    run_virtual(main())
    assert any("cannot be taken over" in told.message and told.exc_info for told in caplog.records)


@pytest.mark.parametrize("dies_s", [0.02, 0.2, 0.4])
def test_the_server_that_is_to_take_a_call_dies(dies_s: float) -> None:
    """The old one has never let go of it."""

    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = one.calls.find(await moving(one, other, speaker))
            await asyncio.sleep(dies_s)
            die(other)
            speaker.tasks[1].cancel()
            await speaker.tasks[0]
            await call.close()
            check_whole(history(call))

    run_virtual(main())


@pytest.mark.parametrize("dies_s", [0.5, 0.503, 0.507, 0.51, 0.52, 0.6, 1.5])
def test_the_server_that_has_just_taken_a_call_dies(dies_s: float) -> None:
    """A third one goes on; what nobody received is said, and no word is doubled or lost besides."""

    async def main() -> None:
        async with fleet("a", "b", "c") as (_, (one, other, third)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            await asyncio.sleep(dies_s)
            die(other)
            await asyncio.sleep(0.3)
            at_first = speaker.tasks[0] if one.calls.has(call) else None
            speaker.tasks[1].cancel()
            if at_first is not None:  # it had not been claimed yet: the call goes on where it was
                await at_first
                check_whole(await ended(one.calls.find(call)))
                return
            speaker.tasks[0].cancel()
            await asyncio.sleep(6.0)
            moved = await claimed(third, call)
            await speaker.connect(moved)
            events = await ended(moved)
            check_but_for_a_gap(events)

    run_virtual(main())


async def ended(call: Call) -> list[AnyEvent]:
    await call.close()
    return history(call)


@pytest.mark.parametrize("asked_s", [0.02, 0.3, 0.49])
def test_a_call_that_is_hung_up_while_it_moves_has_ended_everywhere(asked_s: float) -> None:
    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            await asyncio.sleep(asked_s)
            old = one.calls.find(call)
            await one.calls.hang_up(call)
            await asyncio.sleep(3.0)
            await speaker.stop()
            assert history(old)[-1].type == "session.end"
            assert not other.calls.has(call) and other.calls.prepared(call) is None
            assert await other.shared.locate(call) == (Act.ENDED, await store.find(call))

    run_virtual(main())


@pytest.mark.parametrize("away_s", [0.1, 0.45, 0.502, 0.506, 0.51, 0.53])
def test_redis_goes_away_while_a_call_moves(away_s: float) -> None:
    """It goes on at one of the two, whoever has it when Redis is back, and the caller finds it there."""

    async def main() -> None:
        async with fleet("a", "b") as (store, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            await asyncio.sleep(away_s)
            store.away |= {"find", "claim", "events", "tracks", "audio", "write", "beat", "owned"}
            await asyncio.sleep(2.0)
            store.away.clear()
            await asyncio.sleep(5.0)
            having = [server for server in (one, other) if server.calls.has(call)]
            assert len(having) == 1, "somebody has it, and nobody else"
            moved = having[0].calls.find(call)
            if not any(task.done() for task in speaker.tasks):
                await asyncio.gather(*speaker.tasks)
            events = await ended(moved)
            said = transcript(events).split()
            assert said == sorted(set(said)), "none twice"
            kept = await store.find(call)
            assert kept is not None and kept.owner == having[0].shared.node.name

    run_virtual(main())


def test_a_call_goes_there_and_back_again() -> None:
    async def main() -> None:
        async with fleet("a", "b") as (_, (one, other)):
            speaker = Speaker()
            call = await moving(one, other, speaker)
            await asyncio.sleep(1.0)
            there = other.calls.find(call)
            there.configure(TurnSettings(end_timeout_ms=3000))
            assert not one.calls.has(call)
            await asyncio.sleep(1.0)
            for track in there.tracks.values():
                track.leave()
            _, entry = await one.shared.locate(call)
            assert entry is not None and one.shared.prepare is not None
            await one.shared.prepare(call, entry)
            prepared = one.calls.prepared(call)
            assert prepared is not None
            last = speaker.connect(prepared)
            await last
            back = one.calls.find(call)
            assert back is prepared and back.turn.end_timeout_ms == 3000 and not other.calls.has(call)
            check_whole(await ended(back))

    run_virtual(main())
