"""Streams that other projects' users reported, rebuilt with real speech: every packet's audio is received."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rtcstt.media.pcm import SAMPLE_RATE, Label, Samples
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.rtp import Codec, Packet, Rtcp
from rtcstt.media.signals import Ignored, Muted, SeveralSources, Signal, Unmuted

CASES = Path(__file__).parent / "fixtures" / "media"
OPUS, PCMU, G722 = Codec("opus", 48000, 2), Codec("PCMU", 8000), Codec("G722", 8000)
TICK_S = 0.01


def datagrams(name: str) -> Iterator[tuple[float, bytes]]:
    with gzip.open(CASES / f"{name}.rtp.jsonl.gz", "rt") as file:
        for line in file:
            at, text = json.loads(line)
            yield 10.0 + at, bytes.fromhex(text)


def play(
    arrivals: list[tuple[float, bytes]], codecs: dict[int, Codec]
) -> tuple[AudioReceiver, Samples, list[Signal]]:
    """Datagrams at their times, in virtual time; RTCP as an endpoint would take it."""
    receiver = AudioReceiver(codecs, chunk_ms=20)
    chunks, signals, now = [], list[Signal](), 0.0
    for at, data in arrivals:
        while now and now + TICK_S < at:
            now += TICK_S
            chunks += receiver.pull(now)
        now = at
        if 192 <= data[1] < 224:
            for ssrc in Rtcp.parse(data).byes:
                receiver.bye(ssrc, now)
        else:
            receiver.push(Packet.parse(data), now)
        chunks += receiver.pull(now)
        signals += receiver.signals()
    chunks += receiver.close(now + 0.02)
    signals += receiver.signals()
    assert not receiver.ledger.queued
    return receiver, np.concatenate([chunk.samples for chunk in chunks]), signals


def with_steps(arrivals: list[tuple[float, bytes]], step: int) -> list[tuple[float, bytes]]:
    """The same packets with the timestamps that they should have had."""
    return [
        (at, data[:4] + (step * i).to_bytes(4, "big") + data[8:]) for i, (at, data) in enumerate(arrivals)
    ]


def levels(samples: Samples) -> np.ndarray:
    """Of each 20 ms, in dB."""
    frames = samples[: len(samples) // 320 * 320].astype(float).reshape(-1, 320)
    decibels: np.ndarray = 20 * np.log10(np.sqrt((frames**2).mean(axis=1)) + 1)
    return decibels


def likeness(samples: Samples, other: Samples) -> float:
    """The highest correlation of two stretches of speech within 100 ms of each other."""
    a, b = samples.astype(float), other.astype(float)
    size = 1 << (len(a) + len(b)).bit_length()
    product = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    near = np.concatenate((product[:1600], product[-1600:]))
    return float(near.max() / (np.sqrt((a @ a) * (b @ b)) + 1))


@pytest.mark.parametrize(
    ("name", "codec", "step"),
    [("g722_ts_16000", G722, 160), ("opus_ts_1920", OPUS, 960), ("pcmu_ts_320_per_20ms", PCMU, 160)],
)
def test_timestamps_at_twice_the_rate_make_no_silence(name: str, codec: Codec, step: int) -> None:
    arrivals = list(datagrams(name))
    codecs = {arrivals[0][1][1] & 0x7F: codec}
    _, right, _ = play(with_steps(arrivals, step), codecs)
    receiver, sound, signals = play(arrivals, codecs)
    assert signals == []
    assert abs(len(sound) - len(right)) <= 0.06 * SAMPLE_RATE
    assert likeness(sound, right) > 0.95
    assert receiver.ledger.counts[Label.SILENCE] < 0.1 * SAMPLE_RATE
    assert receiver.stats()["jitter_ms"] < 60


def test_a_loss_counts_as_long_as_its_packets_once_the_factor_is_known() -> None:
    arrivals = [pair for i, pair in enumerate(datagrams("opus_ts_1920")) if i not in (80, 120, 121)]
    receiver, sound, _ = play(arrivals, {111: OPUS})
    assert receiver.stats()["lost"] == 3
    filled = receiver.ledger.counts[Label.CONCEALED] + receiver.ledger.counts[Label.RECOVERED]
    assert filled == 3 * 320
    assert len(sound) == pytest.approx(171 * 320, abs=0.06 * SAMPLE_RATE)


def test_bye_is_a_pause() -> None:
    arrivals = list(datagrams("bye_then_new_ssrc"))
    receiver, sound, signals = play(arrivals, {111: OPUS})
    assert signals == [Muted("bye"), Unmuted()]
    assert receiver.ledger.counts[Label.RECEIVED] == 171 * 320, "every packet, before and after"
    assert receiver.stats()["stray"] == 0
    assert len(sound) == pytest.approx(172 * 320, abs=0.1 * SAMPLE_RATE)


def test_the_same_source_may_come_back_after_bye() -> None:
    arrivals = [(at, data) for at, data in datagrams("opus_ts_1920") if True][:60]
    bye = bytes([0x81, 203, 0, 1]) + arrivals[0][1][8:12]
    later = [(at + 3.0, data) for at, data in list(datagrams("opus_ts_1920"))[60:]]
    receiver, _, signals = play([*arrivals, (11.25, bye), *later], {111: OPUS})
    assert signals == [Muted("bye"), Unmuted()], "and no stall"
    assert receiver.ledger.counts[Label.RECEIVED] == 171 * 320


def test_whoever_speaks_is_received_while_the_old_source_goes_on_in_silence() -> None:
    arrivals = list(datagrams("old_ssrc_goes_on_silent"))
    new = [(at, data) for at, data in arrivals if data[8:12] == b"\0\0\0\x02"]
    _, alone, _ = play(new, {0: PCMU})
    receiver, sound, signals = play(arrivals, {0: PCMU})
    assert signals == [SeveralSources(2)]
    assert receiver.stats()["stray"] == 0
    since = round(1.7 * SAMPLE_RATE)
    spoken, received = (np.sort(levels(part)[levels(part) > 45]) for part in (alone, sound[since:]))
    assert abs(len(spoken) - len(received)) <= 3, "no frame of speech is lost"
    assert abs(spoken.mean() - received.mean()) < 1
    word = alone[: round(0.14 * SAMPLE_RATE)]
    assert max(likeness(word, sound[at : at + len(word)]) for at in range(since, len(sound), 800)) > 0.9


@pytest.mark.parametrize("hiccup_s", [0.0, 0.06, 0.12])
def test_two_sources_that_speak_at_once_are_both_received(hiccup_s: float) -> None:
    """And at hiccups of one of them the other is not cut."""
    speech = [data for _, data in datagrams("pcmu_ts_320_per_20ms")][:150]
    one = [(10 + 0.02 * i, i, data) for i, data in enumerate(speech)]
    stalls = [10 + 0.02 * i for i in range(24, 150, 25)]
    one = [(max([at, *(s + hiccup_s for s in stalls if s <= at < s + hiccup_s)]), i, d) for at, i, d in one]
    packets = [(at, data[:4] + (160 * i).to_bytes(4, "big") + b"aaaa" + data[12:]) for at, i, data in one]
    second = [(10.007 + 0.02 * i, d[:4] + (160 * i).to_bytes(4, "big") + b"bbbb" + bytes(160)) for i, d in
              enumerate(speech)]  # fmt: skip
    loud = [(at, data[:12] + b"\x00\x80" * 80) for at, data in second]  # of full scale: never quiet
    receiver, _, signals = play(sorted(packets + loud, key=lambda pair: pair[0]), {0: PCMU})
    assert signals == [SeveralSources(2)]
    assert receiver.stats()["restarts"] == 0
    assert receiver.stats()["late"] == 0
    mixed = receiver.ledger.discarded.get("mixed", 0)
    assert mixed >= 120 * 320, "of the second one's 150 packets all that came after the moment of doubt"


def test_packets_of_another_type_than_agreed_are_told_once_and_counted() -> None:
    receiver = AudioReceiver({96: OPUS})
    for at, data in datagrams("payload_type_other_than_told"):
        receiver.push(Packet.parse(data), at)
    reason = "packets of payload type 111 arrive, 96 was agreed"
    assert receiver.signals() == [Ignored(reason, 111)]
    assert receiver.stats()["unknown_type"] == 50


@pytest.mark.parametrize(
    ("name", "codec"), [("pcmu_16000", Codec("PCMU", 16000)), ("pcmu_stereo", Codec("PCMU", 8000, 2))]
)
def test_clock_rates_and_channels_as_stated(name: str, codec: Codec) -> None:
    receiver, sound, signals = play(list(datagrams(name)), {98: codec})
    assert signals == []
    assert len(sound) == pytest.approx(3.44 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert receiver.stats()["bad_payloads"] == 0
    _, reference, _ = play(with_steps(list(datagrams("pcmu_ts_320_per_20ms")), 160), {0: PCMU})
    assert likeness(sound, reference) > 0.9, "the same sentence"


@pytest.mark.parametrize("back", [1, 5, 50, 99, 150, 2000])
def test_a_sender_that_steps_back_is_received_on(back: int) -> None:
    """RFC 3550 appendix A.1: two packets in sequence, wherever they are, are a new start."""
    arrivals = with_steps([(at, d) for at, d in datagrams("pcmu_ts_320_per_20ms")], 160)[:160]
    stepped = []
    for i, (at, data) in enumerate(arrivals):
        number = int.from_bytes(data[2:4], "big") - (back if i >= 100 else 0)
        stamp = 160 * i + (777_777 if i >= 100 else 0)
        stepped.append(
            (at, data[:2] + (number & 0xFFFF).to_bytes(2, "big") + stamp.to_bytes(4, "big") + data[8:])
        )
    receiver, _, _ = play(stepped, {0: PCMU})
    assert receiver.stats()["restarts"] == 1
    assert receiver.ledger.counts[Label.RECEIVED] == 160 * 320


def test_duplicates_are_no_step_back() -> None:
    arrivals = with_steps(list(datagrams("pcmu_ts_320_per_20ms")), 160)[:120]
    again = sorted([*arrivals, *((at + 0.3, data) for at, data in arrivals)], key=lambda pair: pair[0])
    receiver, _, _ = play(again, {0: PCMU})
    assert receiver.stats()["restarts"] == 0
    assert receiver.stats()["duplicate"] == 120
