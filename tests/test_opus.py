"""libopus by way of ctypes."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
from encoders import OPUS, VOIP, encode, likeness, rms, voice
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.media import opus


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = opus.load()
    if found is None:
        pytest.skip("no libopus beside PyAV nor on this system")
    return found


def spoken(ms: int = 20, **options: str) -> list[bytes]:
    return encode(OPUS, voice(2.0, 48000), ms=ms, bit_rate=24000, **(VOIP | options))


def test_it_decodes_to_16_khz_mono(library: ctypes.CDLL) -> None:
    decoder = opus.OpusDecoder(library)
    packets = encode(OPUS, voice(2.0, 48000), bit_rate=64000)
    received = np.concatenate([decoder.decode(packet) for packet in packets])
    assert likeness(received, voice(2.0, 16000)) > 0.95


@pytest.mark.parametrize("ms", [10, 20, 40, 60])
def test_fec_is_nearer_than_concealment(library: ctypes.CDLL, ms: int) -> None:
    packets = spoken(ms)
    size = ms * 16
    whole, recovering, concealing = (opus.OpusDecoder(library) for _ in range(3))
    recovered, concealed = [], []
    pairs = [(i, i + 1) for i in range(300 // ms, len(packets) - 1, 3)]
    for index, packet in enumerate(packets[:-1]):
        truth = whole.decode(packet).astype(float)
        is_lost = any(index == lost for lost, _ in pairs)
        if is_lost and recovering.recoverable(packets[index + 1]):
            assert recovering.recoverable(packets[index + 1]) == size
            recovered.append(rms(recovering.recover(packets[index + 1]) - truth))
            concealed.append(rms(concealing.conceal(size) - truth))
        else:
            recovering.decode(packet)
            concealing.decode(packet)
    assert len(recovered) > 5
    assert np.median(recovered) < 0.6 * np.median(concealed)


def test_without_fec_nothing_is_recoverable(library: ctypes.CDLL) -> None:
    decoder = opus.OpusDecoder(library)
    for packet in spoken(fec="0"):
        assert decoder.recoverable(packet) == 0
        decoder.decode(packet)


def test_after_music_nothing_is_recoverable(library: ctypes.CDLL) -> None:
    """libopus conceals there, whatever the next packet carries: it must not be called recovered."""
    music = encode(OPUS, voice(0.5, 48000), bit_rate=96000, application="audio")
    speech = next(packet for packet in spoken()[10:] if opus.has_fec(library, packet))
    assert music[-1][0] >= 0x80
    decoder = opus.OpusDecoder(library)
    decoder.decode(music[-1])
    assert decoder.recoverable(speech) == 0
    decoder.decode(speech)
    assert decoder.recoverable(speech) == 320


def test_of_several_frames_in_a_packet_one_is_recoverable(library: ctypes.CDLL) -> None:
    packets = spoken(120)
    decoder = opus.OpusDecoder(library)
    lengths = set()
    for packet in packets:
        lengths.add(decoder.recoverable(packet))
        assert len(decoder.decode(packet)) == 120 * 16
    assert lengths <= {0, 320, 640, 960}
    assert len(lengths) > 1


@given(st.binary(min_size=0, max_size=60))
def test_the_fec_flag_is_read_as_libopus_reads_it(library: ctypes.CDLL, payload: bytes) -> None:
    if not hasattr(library, "opus_packet_has_lbrr"):
        pytest.skip("this libopus does not say")
    answer = library.opus_packet_has_lbrr(payload, len(payload)) if payload else 0
    assert opus.has_fec(library, payload) == (answer == 1)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=1500)), max_size=8))
def test_garbage_raises_only_its_own_error(library: ctypes.CDLL, payloads: list[bytes | None]) -> None:
    decoder = opus.OpusDecoder(library)
    for payload in payloads:
        try:
            samples = decoder.decode(payload) if payload is not None else decoder.conceal(320)
            assert 0 < len(samples) <= opus.MAX_SAMPLES
            assert payload is None or len(samples) * 3 == OPUS.duration(payload)
        except opus.OpusError:
            assert payload is not None
        if payload and decoder.recoverable(payload):
            assert len(decoder.recover(payload)) == decoder.recoverable(payload)


def test_an_empty_packet_is_refused_not_concealed(library: ctypes.CDLL) -> None:
    with pytest.raises(opus.OpusError):
        opus.OpusDecoder(library).decode(b"")


def test_what_was_decoded_is_not_overwritten(library: ctypes.CDLL) -> None:
    decoder = opus.OpusDecoder(library)
    packets = spoken()
    first = decoder.decode(packets[30])
    kept = first.copy()
    decoder.decode(packets[40])
    assert np.array_equal(first, kept)


def test_decoders_are_given_back(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[object] = []
    monkeypatch.setattr(library, "opus_decoder_destroy", destroyed.append)
    state = opus.OpusDecoder(library)._state
    gc.collect()
    assert destroyed == [state]


def test_a_machine_without_libopus_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "_candidates", lambda: ["/nowhere/libopus.so.0"])
    opus.load.cache_clear()
    try:
        assert opus.load() is None
    finally:
        opus.load.cache_clear()
