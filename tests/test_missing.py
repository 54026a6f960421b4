"""What a transcript says about itself: every word that was said has its text, or lies in a gap that was said.

In virtual time, with faults of the source, the STT, its load and the hang-up drawn from a seed; the audio
carries its words, so what is neither transcribed nor missing can be counted in milliseconds.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.events import AnyEvent, TranscriptGap
from rtcstt.stt.stream import Limits, Stream
from rtcstt.testing import (
    ConnectionScript,
    Oracle,
    ScriptedUpstream,
    play,
    run_virtual,
    silence,
    speech,
    transcript,
)

WORD_S, GAP_S = 0.2, 0.06


def word_of(number: int) -> str:
    """Words of which none is like another one."""
    return "".join(random.Random(number).choices(string.ascii_lowercase, k=7))


@dataclass
class Said:
    """Words and where they are on the track, in seconds."""

    words: list[str] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)

    def phrase(self, count: int, at_s: float) -> list[str]:
        phrase = [word_of(len(self.words) + i) for i in range(count)]
        self.words += phrase
        self.places += [
            (at_s + i * (WORD_S + GAP_S), at_s + i * (WORD_S + GAP_S) + WORD_S) for i in range(count)
        ]
        return phrase

    def unaccounted_ms(self, events: list[AnyEvent], *, offset_s: float = 0.0) -> float:
        """Speech that is neither in the transcript nor in a gap."""
        told = set(transcript(events).split())
        gaps = [(e.start - offset_s, e.end - offset_s) for e in events if isinstance(e, TranscriptGap)]
        total = 0.0
        for word, (start, end) in zip(self.words, self.places, strict=True):
            if word not in told and not any(a < end and start < b for a, b in gaps):
                total += end - start
        return round(1000 * total)


def check_identity(stream: Stream) -> None:
    account = stream.account()
    received = round(stream.stats()["received_s"] * 16000)
    assert account.taken + sum(account.discarded.values()) == received


@dataclass
class Scene:
    """A track whose STT is away, refuses, dies, stalls, is slow, or never closes."""

    seed: int
    mode: str

    def visit(self, dice: random.Random) -> ConnectionScript:
        kind = dice.random()
        oracle = Oracle(
            latency_s=dice.choice([0.0, 0.1, 0.3, 0.8]),
            hold_words=dice.choice([0, 1, 2]),
            eager_end_s=dice.choice([None, 0.35]),
            durations=dice.random() < 0.5,
        )
        if kind < 0.2:
            return ConnectionScript(refuse=dice.choice([429, 503]))
        if kind < 0.27:
            return ConnectionScript(refuse=dice.choice([400, 401]))
        if kind < 0.4:
            return ConnectionScript(delay_s=dice.uniform(0, 30), oracle=oracle)
        if kind < 0.5:
            return ConnectionScript(silent_after_audio_s=dice.uniform(0, 5), oracle=oracle)
        if kind < 0.6:
            return ConnectionScript(deaf_after_audio_s=dice.uniform(0, 5), oracle=oracle)
        if kind < 0.7:
            return ConnectionScript(ignore_close=True, oracle=oracle)
        if kind < 0.75:
            return ConnectionScript(drop_on_close=True, oracle=oracle)
        return ConnectionScript(drop_after_audio_s=dice.uniform(0, 12), oracle=oracle)

    async def talk(self) -> float:
        dice = random.Random(self.seed)
        said, events = Said(), list[AnyEvent]()
        limits = Limits(
            ring_s=dice.choice([5.0, 10.0, 30.0]),
            connect_timeout_s=dice.choice([3.0, 40.0]),
            send_timeout_s=3.0,
            stall_timeout_s=5.0,
        )
        visits = [self.visit(dice) for _ in range(dice.randint(1, 6))]
        if dice.random() < 0.7:
            visits.append(ConnectionScript())
        async with ScriptedUpstream(*visits) as upstream:
            stream = Stream(
                upstream,
                on_event=events.append,
                mode=self.mode,
                seed=self.seed,
                limits=limits,
                drain_timeout_s=dice.choice([0.1, 1.0, 5.0]),
            )
            stream.start()
            at = await play(stream, silence(dice.uniform(0.2, 1.5)))
            for _ in range(dice.randint(1, 6)):
                phrase = said.phrase(dice.choice([3, 5, 8, 40]), at / 16000)
                at = await play(stream, speech(phrase, word_s=WORD_S, gap_s=GAP_S), start=at)
                if self.mode == "manual" and dice.random() < 0.7:
                    stream.finalize()
                at = await play(stream, silence(dice.choice([0.0, 0.3, 0.8, 2.5, 15.0])), start=at)
            await stream.close()
        check_identity(stream)
        if not any(isinstance(event, TranscriptGap) for event in events):
            assert transcript(events).split() == said.words
        return said.unaccounted_ms(events)


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_what_is_not_transcribed_is_missing(seed: int) -> None:
    assert run_virtual(Scene(seed, "auto").talk()) == 0


@settings(max_examples=80)
@given(st.integers(0, 2**32))
def test_what_is_not_transcribed_is_missing_in_manual_mode(seed: int) -> None:
    assert run_virtual(Scene(seed, "manual").talk()) == 0
