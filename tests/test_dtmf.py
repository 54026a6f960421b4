"""Keys (RFC 4733) and redundancy (RFC 2198), packet by packet."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.media.dtmf import OVER_S, Digits
from rtcstt.media.pcm import Label
from rtcstt.media.receiver import AudioReceiver
from rtcstt.media.red import Redundancy
from rtcstt.media.rtp import Codec, Packet, Rtcp
from rtcstt.media.signals import Pressed, Suspect


def event(code: int, timestamp: int, duration: int, *, end: bool = False, ssrc: int = 1) -> Packet:
    payload = bytes([code, (0x80 if end else 0) | 10]) + duration.to_bytes(2, "big")
    return Packet(ssrc, 0, timestamp, 101, payload)


def press(code: int, timestamp: int, *, ms: int = 100) -> list[Packet]:
    """A key as telephones send it: an update every 20 ms, and its end three times."""
    updates = [event(code, timestamp, 160 * n) for n in range(1, ms // 20)]
    return [*updates, *[event(code, timestamp, 8 * ms, end=True)] * 3]


def keys(packets: list[Packet], rate: int = 8000) -> list[Pressed]:
    digits, now, told = Digits(), 10.0, list[Pressed]()
    for packet in packets:
        now += 0.02
        told += digits.push(packet, rate, now)
    return told + digits.poll(now + OVER_S)


def test_each_key_is_told_once_with_its_duration() -> None:
    packets = [packet for i, code in enumerate(range(16)) for packet in press(code, 5000 * i)]
    assert keys(packets) == [Pressed(digit, 100) for digit in "0123456789*#ABCD"]


def test_the_same_key_twice_is_two_keys() -> None:
    assert keys(press(5, 0) + press(5, 3000, ms=200)) == [Pressed("5", 100), Pressed("5", 200)]


@pytest.mark.parametrize("seed", range(20))
def test_lost_doubled_and_late_packets_make_no_other_keys(seed: int) -> None:
    chance = random.Random(seed)
    pressed = [press(code, 20_000 * i) for i, code in enumerate((1, 1, 2))]
    came = []
    for its in pressed:
        kept = [packet for packet in its if chance.random() > 0.5] or its[:1]
        its = kept + kept[:2]
        chance.shuffle(its)
        came += its
    assert [key.digit for key in keys(came)] == ["1", "1", "2"]


def test_an_end_that_is_lost_is_told_by_the_time() -> None:
    digits = Digits()
    assert digits.push(event(7, 0, 160), 8000, 10.0) == []
    assert digits.poll(10.0 + OVER_S - 0.01) == []
    assert digits.poll(10.0 + OVER_S) == [Pressed("7", 20)]
    assert digits.poll(99.0) == []
    assert digits.push(event(7, 0, 800, end=True), 8000, 11.0) == [], "told already"


def test_a_key_that_is_held_for_long_is_one() -> None:
    """Its duration has 16 bits; it goes on under another timestamp (RFC 4733 section 2.5.1.3)."""
    packets = [event(9, 0, 0xFFFF), event(9, 0xFFFF, 0x8000), event(9, 0xFFFF, 0x8000, end=True)]
    assert keys(packets, 48000) == [Pressed("9", round(1000 * (0xFFFF + 0x8000) / 48000))]


@given(st.lists(st.tuples(st.binary(max_size=6), st.integers(0, 3), st.floats(0, 1)), max_size=40))
def test_any_packets_are_survived(packets: list[tuple[bytes, int, float]]) -> None:
    digits, now, told = Digits(), 0.0, list[Pressed]()
    for payload, timestamp, passed in packets:
        now += passed
        told += digits.poll(now)
        told += digits.push(Packet(1, 0, timestamp, 101, payload), 8000, now)
    assert len(told) + digits.bad <= len(packets)


def test_keys_come_with_the_audio_and_cost_none() -> None:
    receiver = AudioReceiver({0: Codec("PCMU", 8000), 101: Codec("telephone-event", 8000)}, chunk_ms=20)
    signals = []
    for i in range(100):
        now = 10 + 0.02 * i
        if 40 <= i < 45:
            packet = event(3, 160 * 40, 160 * (i - 39), end=i >= 43)
            packet = Packet(1, i, packet.timestamp, 101, packet.payload)
        else:
            packet = Packet(1, i, 160 * i, 0, b"\xd5" * 160)
        receiver.push(packet, now)
        receiver.pull(now)
        signals += receiver.signals()
    receiver.close(12.0)
    assert signals == [Pressed("3", 80)]
    assert receiver.ledger.counts[Label.RECEIVED] == 95 * 320
    assert receiver.stats()["lost"] == 0


# -- redundancy ---------------------------------------------------------------------------------------


def red(number: int, *blocks: tuple[int, int, bytes], primary: bytes) -> Packet:
    heads = b"".join(
        bytes([0x80 | kind]) + (offset << 10 | len(data)).to_bytes(3, "big") for kind, offset, data in blocks
    )
    payload = heads + b"\0" + b"".join(data for _, _, data in blocks) + primary
    return Packet(1, number, 160 * number, 121, payload)


def payload_of(number: int) -> bytes:
    return bytes([number % 256]) * 160


def test_what_was_lost_comes_with_the_next_packet() -> None:
    codecs = {121: Codec("red", 8000), 0: Codec("PCMU", 8000)}
    receiver = AudioReceiver(codecs, chunk_ms=20)
    for i in range(100):
        if i % 3 == 1:
            continue  # lost
        packet = (
            red(i, (0, 160, payload_of(i - 1)), primary=payload_of(i)) if i else red(0, primary=payload_of(0))
        )
        receiver.push(packet, 10 + 0.02 * i)
        receiver.pull(10 + 0.02 * i)
    receiver.close(12.1)
    stats = receiver.stats()
    assert (stats["lost"], stats["duplicate"]) == (0, 0)
    assert receiver.ledger.counts[Label.RECEIVED] == 100 * 320


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\0\0", b"\x80\0\0\xff\0", b"\x80\0\0\0" * 20])
def test_broken_redundancy_is_counted(data: bytes) -> None:
    redundancy = Redundancy()
    assert redundancy.unpack(Packet(1, 1, 1, 121, data)) == []
    assert redundancy.bad == 1


@given(st.binary(max_size=60))
def test_any_redundancy_is_survived(data: bytes) -> None:
    for packet in Redundancy().unpack(Packet(1, 1, 1, 121, data)):
        assert packet.payload in data


@given(st.binary(max_size=60))
def test_any_rtcp_is_survived(data: bytes) -> None:
    assert len(Rtcp.parse(b"\x81\xcb" + data).byes) <= 31 * 16


def test_goodbyes_in_a_compound_packet() -> None:
    report = bytes([0x80, 201, 0, 1]) + bytes(4)
    assert Rtcp.parse(report + bytes([0x82, 203, 0, 2]) + b"\0\0\0\7" + b"\0\0\0\x09").byes == (7, 9)


def test_linear_samples_in_the_wrong_byte_order_are_suspect() -> None:
    speech = np.repeat(np.random.default_rng(2).normal(0, 3000, 16_000), 8)[:80_000]
    smooth = np.convolve(speech, np.ones(8) / 8, "same").astype("<i2")
    receiver = AudioReceiver({97: Codec("L16", 16000)}, chunk_ms=100)
    signals = []
    for i in range(200):
        payload = smooth[320 * i : 320 * (i + 1)].tobytes()  # network order is big-endian
        receiver.push(Packet(1, i, 320 * i, 97, payload), 10 + 0.02 * i)
        receiver.pull(10 + 0.02 * i)
        signals += receiver.signals()
    assert signals == [Suspect("pcm_s16le, not pcm_s16be")]
