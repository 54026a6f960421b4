"""Calls in virtual time: tracks, commands, ends, the ledger, and a call that outlives its connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rtcstt import captions, wire
from rtcstt.call import MAX_TRACKS, Call, CallSettings, Track
from rtcstt.errors import CallerError
from rtcstt.events import AnyEvent, AudioLedger, SessionEnd, TrackNamed, Transcript, TurnEnd
from rtcstt.media.pcm import Chunk, Samples
from rtcstt.media.rtp import Codec
from rtcstt.testing import (
    ConnectionScript,
    Network,
    ScriptedCaller,
    ScriptedUpstream,
    run_virtual,
    silence,
    speech,
    transcript,
)
from rtcstt.testing.virtual_time import VirtualLoop

CODECS: Mapping[int, Codec] = {96: Codec("L16", 16000), 101: Codec("telephone-event", 16000)}
WORDS = "it was the best of times"
AUDIO = np.concatenate([silence(0.3), speech(WORDS), silence(1.0)])


async def play(track: Track, caller: ScriptedCaller, network: Network | None = None) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for arrival, packet in caller.packets(network):
        await asyncio.sleep(begin + arrival - loop.time())
        track.push(packet)


def check_ledger(ledger: AudioLedger) -> None:
    made = ledger["received"] + ledger["recovered"] + ledger["concealed"] + ledger["silence"]
    assert ledger["sent"] == made - ledger["discarded"]
    assert ledger["discarded"] == sum(ledger["discarded_by_reason"].values())


def end_of(events: Sequence[AnyEvent]) -> SessionEnd:
    end = events[-1]
    assert isinstance(end, SessionEnd)
    return end


def ledger_of(events: Sequence[AnyEvent]) -> AudioLedger:
    return end_of(events).ledger["0"]


def check(call: Call) -> list[AnyEvent]:
    """What holds at the end of every call; its events."""
    events = list(call.feed.history)
    assert [event.seq for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type, call.state) == ("session.start", "session.end", "closed")
    for ledger in end_of(events).ledger.values():
        check_ledger(ledger)
    return events


def of(events: list[AnyEvent], track: str) -> list[AnyEvent]:
    return [event for event in events if event.as_dict().get("track") == track]


def test_a_call_becomes_its_words_with_their_times() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, label="desk", metadata={"ticket": 7})
            assert call.state == "open" and call.time == 0
            await play(call.add_track("0", CODECS), ScriptedCaller().say(AUDIO))
            snapshot = call.snapshot()
            await call.close("hung up")
            events = check(call)
        assert transcript(events) == WORDS
        turn = next(event for event in events if event.type == "turn.end")
        assert turn.turn == 0 and turn.track == "0"
        assert turn.start == pytest.approx(0.3, abs=0.1)
        assert turn.end == pytest.approx(len(AUDIO) / 16000 - 1.0, abs=0.15)
        assert events[-1].fields["reason"] == "hung up"
        assert ledger_of(events)["received"] == pytest.approx(len(AUDIO) / 16, abs=20)
        assert (snapshot["label"], snapshot["metadata"], snapshot["state"]) == ("desk", {"ticket": 7}, "open")
        json.dumps(snapshot)

    run_virtual(main())


def test_the_stt_receives_a_second_for_every_second_through_mute_hold_and_loss() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            caller = ScriptedCaller().say(AUDIO).mute(2).hold(3).say(AUDIO).pause(2).say(AUDIO)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await play(call.add_track("0", CODECS), caller, Network(loss=0.05, jitter_s=0.04, seed=3))
            lasted = loop.time() - begin
            await call.close()
            events = check(call)
        sent = ledger_of(events)["sent"] / 1000
        assert sent == pytest.approx(lasted, abs=0.25)
        assert stt.connections[0].audio_s == pytest.approx(sent, abs=0.001)
        types = [event.type for event in events]
        assert types.count("audio.stalled") == types.count("audio.resumed") >= 1

    run_virtual(main())


def test_the_end_of_a_turn_says_how_much_of_its_audio_was_made_up() -> None:
    """Short losses are concealed: who reads the turn is to know, now or later."""

    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            caller = ScriptedCaller().say(AUDIO).pause(1).say(AUDIO).pause(1)
            await play(call.add_track("0", CODECS), caller, Network(lost=frozenset({25, 26, 27})))
            await call.close()
            events = check(call)
        ends = [event for event in events if isinstance(event, TurnEnd)]
        assert [end.concealed for end in ends] == [60.0, None]
        assert ledger_of(events)["concealed"] == 60.0

    run_virtual(main())


def test_two_tracks_are_two_lines_and_one_may_end_alone() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            first, second = call.add_track("0", CODECS), call.add_track("1", CODECS)

            async def leave() -> None:
                await play(first, ScriptedCaller().say(speech("one two")))
                first.end("bye")

            await asyncio.gather(leave(), play(second, ScriptedCaller(ssrc=2).say(AUDIO)))
            await call.close()
            events = check(call)
        assert transcript(of(events, "0")) == "one two"
        assert transcript(of(events, "1")) == WORDS
        ends = [event for event in events if event.type == "track.end"]
        assert [(event.track, event.fields["reason"]) for event in ends] == [("0", "bye"), ("1", "closed")]
        assert ends[0].time < events[-1].time - 0.5

    run_virtual(main())


def test_closing_is_idempotent_and_waits_for_the_drain() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            await play(call.add_track("0", CODECS), ScriptedCaller().say(speech(WORDS)))
            await asyncio.gather(call.close("first"), call.close("second"))
            await call.close("third")
            events = check(call)
        assert transcript(events) == WORDS  # although it was cut off in the last word
        assert events[-1].fields["reason"] == "first"
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_a_call_without_audio_ends_as_well() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            call.add_track("0", CODECS)
            await call.close()
            assert ledger_of(check(call))["sent"] == 0

    run_virtual(main())


def test_manual_mode_finalizes_what_was_said_so_far() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, settings=CallSettings(mode="manual"))
            track = call.add_track("0", CODECS)
            await play(track, ScriptedCaller().say(speech("one two")))
            call.command('{"type": "finalize"}')
            await play(
                track, ScriptedCaller(sequence=100).say(np.concatenate([silence(0.5), speech("three")]))
            )
            call.command('{"type": "finalize"}')
            await call.close()
            events = check(call)
        finals = [e for e in events if e.type == "transcript" and e.fields["is_final"] and e.transcript]
        assert "".join(str(event.transcript) for event in finals) == "one two three"
        assert [event.type for event in events].count("flush_done") == 2
        assert all(event.turn is not None and event.start is not None for event in finals)
        assert call.snapshot()["turn_count"] == len(finals) == 2

    run_virtual(main())


def test_a_press_ends_with_its_last_word_however_late_it_came() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, settings=CallSettings(mode="manual"))
            track = call.add_track("0", CODECS)
            for ssrc, word in enumerate(("one", "two", "three", "four", "five")):
                press = ScriptedCaller(ssrc=ssrc).say(speech([word], word_s=0.31, gap_s=0))
                await play(track, press, Network(delay_s=0))
                call.command('{"type": "finalize"}')  # with the last packet of the word
            await asyncio.sleep(0.5)
            flushed = list(call.feed.history)
            await call.close()
            check(call)
        finals = [e for e in flushed if e.type == "flush_done" or e.fields.get("is_final")]
        assert [e.transcript.strip() if isinstance(e, Transcript) else "." for e in finals] == (
            "one . two . three . four . five .".split()
        )

    run_virtual(main())


def test_a_finalize_before_any_audio_is_answered_and_leaves_the_times_right() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, settings=CallSettings(mode="manual"))
            track = call.add_track("0", CODECS)
            await asyncio.sleep(2)
            call.command('{"type": "finalize"}')
            assert call.feed.history[-1].type == "flush_done"
            await asyncio.sleep(3)
            await play(track, ScriptedCaller().say(AUDIO))
            call.command('{"type": "finalize"}')
            await call.close()
            final = next(event for event in check(call) if event.type == "transcript")
        assert final.start == pytest.approx(0.3, abs=0.1)

    run_virtual(main())


def test_turn_settings_that_come_before_the_audio_are_in_the_handshake() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track = call.add_track("0", CODECS)
            call.command('{"type": "config", "turn": {"end_timeout_ms": 900}}')
            await asyncio.sleep(2)
            await play(track, ScriptedCaller().say(AUDIO))
            await call.close()
            turn = next(event for event in check(call) if event.type == "turn.end")
        assert turn.start == pytest.approx(0.3, abs=0.1)
        assert stt.connections[0].handshake.turn.end_timeout_ms == 900

    run_virtual(main())


def test_who_asks_too_much_is_no_longer_answered_but_may_close() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            for _ in range(10_000):
                call.command("hello")
            assert len(call.feed.history) < 100
            assert call.snapshot()["ignored_commands"] > 9000
            await asyncio.sleep(10)
            call.command("hello")
            assert call.feed.history[-1].type == "error"
            for _ in range(100):
                call.command("hello")
            call.command('{"type": "close"}')
            await call.wait_closed()
            check(call)

    run_virtual(main())


def test_time_never_goes_back() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            first, second = call.add_track("0", CODECS), call.add_track("1", CODECS)
            caller = ScriptedCaller().say(AUDIO).hold(1).say(AUDIO)
            other = ScriptedCaller(ssrc=2).say(silence(0.7)).hold(1).say(AUDIO).say(AUDIO)
            await asyncio.gather(play(first, caller), play(second, other, Network(jitter_s=0.05)))
            await call.close()
            times = [event.time for event in check(call)]
        assert times == sorted(times) and times[-1] > 4

    run_virtual(main())


def test_a_track_that_came_back_after_its_end_is_carried_on_by_another_connection() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, settings=CallSettings(outlives_peers=True))
            call.add_track("a.b", CODECS).finish("section removed")
            again = call.add_track("a.b", CODECS)
            assert again.track == "a.b.1"
            assert call.add_track("a.b", CODECS) is again
            for number in range(100):
                call.add_track(f"more {number}", CODECS)
            assert len(call.tracks) == MAX_TRACKS
            await call.close()
            check(call)

    run_virtual(main())


def test_a_recorder_that_fails_costs_no_word() -> None:
    class Full:
        def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
            raise OSError("no space left")

    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, recorder=Full())
            track = call.add_track("0", CODECS)
            await play(track, ScriptedCaller().say(AUDIO))
            await call.close()
            assert transcript(check(call)) == WORDS
            assert track.failures > 10

    run_virtual(main())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_message"),
        ("hello", "bad_message"),
        ("[1]", "unknown_message"),
        ('{"type": "dance"}', "unknown_message"),
        ('{"type": "finalize"}', "not_manual"),
        ('{"type": "config", "turn": {"start_threshold": 2}}', "invalid_request"),
        ('{"type": "config"}', "invalid_request"),
        ("[" * 16_000, "bad_message"),
        ('{"type": "close", "pad": "%s"}' % ("x" * 20_000), "bad_message"),
    ],
)
def test_a_command_that_cannot_be_done_is_an_error_event(text: str, code: str) -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            call.command(text)
            error = call.feed.history[-1]
            assert (error.type, error.fields["error_code"], error.fields["status_code"]) == (
                "error",
                code,
                400,
            )
            assert call.state == "open"
            await call.close()
            call.command(text)  # after the end it disturbs nobody
            check(call)

    run_virtual(main())


def test_close_may_be_asked_for() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            await play(call.add_track("0", CODECS), ScriptedCaller().say(speech(WORDS)))
            call.command('{"type": "close"}')
            await call.wait_closed()
            assert transcript(check(call)) == WORDS

    run_virtual(main())


def test_turn_settings_change_in_mid_call() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track = call.add_track("0", CODECS)
            await play(track, ScriptedCaller().say(speech("one")))
            call.command('{"type": "config", "turn": {"end_timeout_ms": 900}}')
            await play(track, ScriptedCaller(sequence=50).say(speech("two")))
            await call.close()
            check(call)
        sent = [json.loads(text) for text in stt.connections[0].commands]
        assert {"type": "config", "turn": {"end_timeout_ms": 900}} in sent

    run_virtual(main())


def test_turn_settings_that_change_are_judged_with_those_of_the_call() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, settings=CallSettings(turn=wire.TurnSettings(eager_end_threshold=0.7)))
            call.command('{"type": "config", "turn": {"end_threshold": 0.5}}')
            assert call.turn == wire.TurnSettings(eager_end_threshold=0.7, end_threshold=0.5)
            await call.close()

    run_virtual(main())


@pytest.mark.parametrize("options", [{"mode": "sometimes"}, {"chunk_ms": 10}, {"chunk_ms": 500}])
def test_settings_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CallerError) as refusal:
        CallSettings(**options)
    assert refusal.value.status == 400


def test_a_call_outlives_its_connection() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, settings=CallSettings(outlives_peers=True))
            track = call.add_track("0", CODECS)
            await play(track, ScriptedCaller().say(AUDIO))
            track.end("disconnected")  # the network went
            await asyncio.sleep(3)
            again = call.add_track("0", CODECS)
            assert again is track
            await play(again, ScriptedCaller(ssrc=99).say(AUDIO))
            await call.close()
            events = check(call)
        assert transcript(events) == f"{WORDS} {WORDS}"
        assert [event.type for event in events].count("track.end") == 1
        ledger = ledger_of(events)
        assert ledger["silence"] == pytest.approx(3000, abs=250)

    run_virtual(main())


def test_a_track_that_comes_back_after_goodbye_is_a_new_line() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track = call.add_track("0", CODECS)
            await play(track, ScriptedCaller().say(AUDIO))
            track.end("bye")
            again = call.add_track("0", CODECS)
            assert again is not track
            await play(again, ScriptedCaller().say(AUDIO))
            await call.close()
            events = check(call)
        assert {event.track for event in events if event.type == "turn.end"} == {"0", "0.1"}

    run_virtual(main())


def test_pcm_of_any_rate_is_a_track_too() -> None:
    async def main() -> None:
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track = call.add_track("0")
            tone = (np.sin(np.arange(48000) / 20) * 8000).astype(np.int16)
            for start in range(0, len(tone), 960):
                track.push_pcm(tone[start : start + 960], 48000)
                await asyncio.sleep(0.02)
            await call.close()
            ledger = ledger_of(check(call))
        assert ledger["received"] == pytest.approx(1000, abs=5)

    run_virtual(main())


def test_a_refusal_by_the_stt_is_told_once_and_the_ledger_goes_on() -> None:
    async def main() -> None:
        async with ScriptedUpstream(ConnectionScript(refuse=401)) as stt:
            call = Call("c", stt=stt)
            await play(call.add_track("0", CODECS), ScriptedCaller().say(AUDIO))
            await call.close()
            events = check(call)
        errors = [event for event in events if event.type == "error"]
        assert [event.fields["status_code"] for event in errors] == [401]
        assert ledger_of(events)["received"] == pytest.approx(len(AUDIO) / 16, abs=20)

    run_virtual(main())


def test_the_recorder_gets_just_what_the_stt_got() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.parts: list[Samples] = []

        def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
            assert (track, offset_s) == ("0", 0.0)
            assert chunk.start == sum(map(len, self.parts))
            self.parts.append(chunk.samples)

    async def main() -> None:
        recorder = Recorder()
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt, recorder=recorder)
            await play(call.add_track("0", CODECS), ScriptedCaller().say(AUDIO))
            await call.close()
            ledger = ledger_of(check(call))
        assert sum(map(len, recorder.parts)) / 16 == ledger["sent"]

    run_virtual(main())


def test_who_speaks_is_said_to_everybody_and_stands_in_the_captions() -> None:
    async def main() -> list[AnyEvent]:
        async with ScriptedUpstream() as stt:
            call = Call("C", stt=stt, metadata={"speakers": {"0": " Ada  L. ", "7": "nobody", "1": 5}})
            track = call.add_track("0", CODECS)
            call.add_track("1", CODECS)
            await play(track, ScriptedCaller().say(AUDIO))
            call.command('{"type": "name", "track": "1", "speaker": "Charles"}')
            call.command('{"type": "name", "track": "0", "speaker": ""}')
            call.command('{"type": "name", "track": "0", "speaker": "Augusta"}')
            for wrong in ('"track": "2", "speaker": "X"', '"track": "0", "speaker": 5', '"track": []'):
                call.command(f'{{"type": "name", {wrong}}}')
            call.command(json.dumps({"type": "name", "track": "0", "speaker": "long" * 26}))
            await call.close()
            return check(call)

    events = run_virtual(main())
    named = [(event.track, event.speaker) for event in events if isinstance(event, TrackNamed)]
    assert named == [("0", "Ada L."), ("1", "Charles"), ("0", ""), ("0", "Augusta")]
    assert len([event for event in events if event.type == "error"]) == 4
    (turn,) = captions.turns(events)
    assert (turn.speaker, turn.text) == ("Augusta", WORDS)
    before = [event for event in events if not isinstance(event, TrackNamed) or event.speaker == "Ada L."]
    assert [turn.speaker for turn in captions.turns(before)] == ["Ada L."]


def test_a_turn_ends_on_a_server_that_stands_still_again_and_again() -> None:
    async def main() -> list[AnyEvent]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track, begin = call.add_track("0", CODECS), loop.time()
            for arrival, packet in ScriptedCaller().say(speech(WORDS)).packets():
                await asyncio.sleep(begin + arrival - loop.time())
                track.push(packet)
            track.mute("hold")
            for _ in range(20):
                await asyncio.sleep(0.01)
                loop.pass_over(0.15)
            events = list(call.feed.history)
            await call.close()
        return events

    assert transcript(run_virtual(main())).split() == WORDS.split()


@pytest.mark.parametrize("stall_s", [0.3, 0.9])
def test_a_server_that_stands_still_in_a_word_tears_none(stall_s: float) -> None:
    """What came meanwhile waits in the socket, and one packet is read at a time; timers that are due come
    between."""

    async def main() -> list[AnyEvent]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with ScriptedUpstream() as stt:
            call = Call("c", stt=stt)
            track, begin, stalled = call.add_track("0", CODECS), loop.time(), False
            for arrival, packet in ScriptedCaller().say(AUDIO).packets():
                await asyncio.sleep(begin + arrival - loop.time())
                if arrival > 0.75 and not stalled:
                    stalled = True
                    loop.pass_over(stall_s)
                track.push(packet)
            await call.close()
        return check(call)

    events = run_virtual(main())
    assert transcript(events).split() == WORDS.split()
    assert ledger_of(events)["silence"] <= 120 and end_of(events).complete
