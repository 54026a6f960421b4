"""Frames and gaps to labelled PCM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
import pytest
from encoders import G722, OPUS, PCMA, PCMU, VOIP, encode, likeness, rms, sample_rate, voice
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.media import opus
from rtcstt.media.codecs import CONCEALED_MS, Decoded, Decoder, FrameDecoder, decoder_for
from rtcstt.media.pcm import SAMPLE_RATE, Label, Samples
from rtcstt.media.playout import Cause, Frame, Gap
from rtcstt.media.rtp import Codec

STEREO = Codec("L16", 44100, 2)
WIDE = Codec("L16", 16000)
# Opus twice: by libopus, and by PyAV alone.
CODECS = {
    "opus": (OPUS, True),
    "opus by PyAV": (OPUS, False),
    "PCMU": (PCMU, True),
    "PCMA": (PCMA, True),
    "G722": (G722, True),
    "L16 stereo": (STEREO, True),
    "L16": (WIDE, True),
}
EVERY = pytest.mark.parametrize(("codec", "libopus"), CODECS.values(), ids=list(CODECS))
CONCEALED = SAMPLE_RATE * CONCEALED_MS // 1000

_needs_libopus = pytest.mark.skipif(opus.load() is None, reason="no libopus here: nothing is recovered")


def frames(codec: Codec, payloads: Iterable[bytes]) -> list[Frame]:
    return [Frame(payload, codec, 0) for payload in payloads]


def lost(codec: Codec, ms: float, after: bytes | None = None) -> Gap:
    return Gap(Cause.LOST, codec, 0, round(codec.clock_rate * ms / 1000), after)


def packets(codec: Codec, duration_s: float = 1.0, ms: int = 20) -> list[bytes]:
    return encode(codec, voice(duration_s, sample_rate(codec)), ms=ms, bit_rate=64000 * (codec is OPUS))


def decoded(decoder: Decoder, items: Iterable[Frame | Gap]) -> list[Decoded]:
    return [part for item in items for part in decoder.decode(item)] + decoder.flush()


def joined(parts: Iterable[Decoded]) -> Samples:
    return np.concatenate([np.zeros(0, np.int16), *(part.samples for part in parts)])


def by_label(parts: Iterable[Decoded]) -> Counter[Label]:
    counts: Counter[Label] = Counter()
    for part in parts:
        assert part.samples.dtype == np.int16
        counts[part.label] += len(part.samples)
    return counts


@EVERY
def test_what_was_said_is_received(codec: Codec, libopus: bool) -> None:
    parts = decoded(decoder_for(codec, libopus=libopus), frames(codec, packets(codec)))
    assert by_label(parts) == {Label.RECEIVED: SAMPLE_RATE}
    assert likeness(joined(parts), voice(1.0, SAMPLE_RATE)) > 0.98


@pytest.mark.parametrize("ms", [5, 10, 20, 40, 60, 80, 100, 120])
def test_opus_packets_of_every_length(ms: int) -> None:
    for libopus in (True, False):
        payloads = packets(OPUS, 1.2, ms)
        parts = decoded(decoder_for(OPUS, libopus=libopus), frames(OPUS, payloads))
        assert by_label(parts) == {Label.RECEIVED: round(1.2 * SAMPLE_RATE)}
        assert sum(OPUS.duration(payload) for payload in payloads) == 1.2 * 48000


def test_g711_is_the_table_of_the_standard() -> None:
    """All code words against FFmpeg's decoder, which is another reading of ITU-T G.711."""
    for codec, name in ((PCMU, "pcm_mulaw"), (PCMA, "pcm_alaw")):
        every = bytes(range(256))
        context: Any = av.CodecContext.create(name, "r")
        context.sample_rate, context.layout = 8000, "mono"
        (frame,) = context.decode(av.Packet(every))
        received = joined(decoded(decoder_for(codec), frames(codec, [every])))
        assert np.array_equal(received[::2], frame.to_ndarray()[0])  # every other sample is as it came


def test_stereo_becomes_the_average() -> None:
    left_and_right = np.array([[100, 300], [-32768, -32768], [32767, 32767]], ">i2")
    received = joined(
        decoded(decoder_for(Codec("L16", 16000, 2)), [Frame(left_and_right.tobytes(), STEREO, 0)])
    )
    assert received.tolist() == [200, -32768, 32767]


@pytest.mark.parametrize("libopus", [True, False])
def test_stereo_opus_becomes_the_average(libopus: bool) -> None:
    """Browsers asked for stereo send it, whoever speaks on one side only."""
    left = voice(1.0, 48000)
    payloads = encode(OPUS, np.stack([left, np.zeros_like(left)], axis=1), bit_rate=96000)
    assert payloads[20][0] & 0x04  # a stereo packet (RFC 6716 section 3.1)
    received = joined(decoded(decoder_for(OPUS, libopus=libopus), frames(OPUS, payloads)))
    assert likeness(received, voice(1.0, SAMPLE_RATE)) > 0.98
    assert rms(received) == pytest.approx(rms(voice(1.0, SAMPLE_RATE)) / 2, rel=0.05)


@EVERY
def test_a_hole_fades_into_silence_and_ends_clean(codec: Codec, libopus: bool) -> None:
    payloads = packets(codec, 2.0)
    items: list[Frame | Gap] = [*frames(codec, payloads[:40]), lost(codec, 300)]
    items += frames(codec, payloads[55:])
    parts = decoded(decoder_for(codec, libopus=libopus), items)
    counts = by_label(parts)
    assert counts[Label.CONCEALED] == CONCEALED
    assert counts[Label.SILENCE] == round(0.2 * SAMPLE_RATE)
    assert counts.total() == 2 * SAMPLE_RATE
    hole = joined(part for part in parts if part.label is Label.CONCEALED)
    assert rms(hole[:160]) > 10 * rms(hole[-160:])
    assert abs(int(hole[-1])) < 50
    after = joined(parts)[round(1.2 * SAMPLE_RATE) :]
    assert likeness(after, voice(2.0, SAMPLE_RATE)[round(1.2 * SAMPLE_RATE) :]) > 0.95


@EVERY
def test_a_short_hole_is_hardly_received(codec: Codec, libopus: bool) -> None:
    """Better than silence: what is made up goes on like the voice before it."""
    payloads = packets(codec, 1.0)
    whole = joined(decoded(decoder_for(codec, libopus=libopus), frames(codec, payloads)))
    items: list[Frame | Gap] = [*frames(codec, payloads)]
    items[10] = lost(codec, 20)
    parts = decoded(decoder_for(codec, libopus=libopus), items)
    concealed = slice(10 * 320, 11 * 320)
    assert by_label(parts)[Label.CONCEALED] == 320
    error = joined(parts)[concealed].astype(float) - whole[concealed]
    assert rms(error) < 0.7 * rms(whole[concealed])


@pytest.mark.parametrize("codec", [PCMU, PCMA, G722])
def test_no_step_where_concealment_begins_and_ends(codec: Codec) -> None:
    tone = 8000 * np.sin(2 * np.pi * 190 * np.arange(sample_rate(codec)) / sample_rate(codec))
    items: list[Frame | Gap] = [*frames(codec, encode(codec, tone.astype(np.int16)))]
    items[20:22] = [lost(codec, 40)]
    received = joined(decoded(decoder_for(codec), items)).astype(int)
    steepest = 8000 * 2 * np.pi * 190 / SAMPLE_RATE
    assert np.abs(np.diff(received[2000:])).max() < 2 * steepest


@_needs_libopus
def test_the_next_packet_restores_the_last_lost_one() -> None:
    source = voice(2.0, 48000)
    payloads = encode(OPUS, source, bit_rate=24000, **VOIP)
    truth = joined(decoded(decoder_for(OPUS), frames(OPUS, payloads)))
    errors: dict[Label, list[float]] = {Label.RECOVERED: [], Label.CONCEALED: []}
    for index in range(20, 90, 7):
        for after in (payloads[index + 1], None):
            decoder = decoder_for(OPUS)
            decoded(decoder, frames(OPUS, payloads[:index]))
            (part,) = decoder.decode(lost(OPUS, 20, after))
            hole = truth[index * 320 : (index + 1) * 320].astype(float)
            errors[part.label].append(rms(part.samples - hole) / rms(hole))
    assert len(errors[Label.RECOVERED]) >= 5
    assert np.median(errors[Label.RECOVERED]) < 0.5 * np.median(errors[Label.CONCEALED])


@_needs_libopus
def test_of_a_long_hole_only_the_last_frame_is_restored() -> None:
    payloads = encode(OPUS, voice(1.0, 48000), bit_rate=24000, **VOIP)
    decoder = decoder_for(OPUS)
    decoded(decoder, frames(OPUS, payloads[:30]))
    parts = decoder.decode(lost(OPUS, 60, payloads[33]))
    assert [(part.label, len(part.samples)) for part in parts] == [
        (Label.CONCEALED, 640),
        (Label.RECOVERED, 320),
    ]


def test_a_packet_without_fec_recovers_nothing() -> None:
    payloads = packets(OPUS)
    decoder = decoder_for(OPUS)
    decoded(decoder, frames(OPUS, payloads[:30]))
    assert set(by_label(decoder.decode(lost(OPUS, 20, payloads[31])))) == {Label.CONCEALED}


@EVERY
def test_a_pause_is_not_decoded(codec: Codec, libopus: bool) -> None:
    decoder = decoder_for(codec, libopus=libopus)
    payloads = packets(codec)
    before = joined(item for frame in frames(codec, payloads[:20]) for item in decoder.decode(frame))
    assert decoder.decode(Gap(Cause.PAUSE, codec, 0, codec.clock_rate)) == []
    after = joined(decoded(decoder, frames(codec, payloads[20:])))
    assert len(before) + len(after) == SAMPLE_RATE
    assert decoder.bad_payloads == 0


def test_discontinuous_opus_goes_on_after_one_byte_packets() -> None:
    """A sender that falls silent sends the table-of-contents byte alone (RFC 6716 section 3.2.1)."""
    payloads = packets(OPUS, 2.0)
    dtx = payloads[50][:1]
    for libopus in (True, False):
        decoder = decoder_for(OPUS, libopus=libopus)
        items: list[Frame | Gap] = [*frames(OPUS, payloads[:50]), *frames(OPUS, [dtx])]
        items += [Gap(Cause.PAUSE, OPUS, 0, 19200), *frames(OPUS, [dtx, *payloads[52:]])]
        parts = decoded(decoder, items)
        assert by_label(parts) == {Label.RECEIVED: 2 * SAMPLE_RATE}
        assert decoder.bad_payloads == 0


@EVERY
def test_a_bad_payload_leaves_the_rest_whole(codec: Codec, libopus: bool) -> None:
    bad = {"opus": b"\xff\xff\xff", "L16": b"\x01"}.get(codec.name, b"")
    payloads = packets(codec, 2.0)
    decoder = decoder_for(codec, libopus=libopus)
    parts = decoded(decoder, frames(codec, [*payloads[:50], bad, *payloads[50:]]))
    assert decoder.bad_payloads == 1
    assert by_label(parts)[Label.RECEIVED] == 2 * SAMPLE_RATE
    received = joined(part for part in parts if part.label is Label.RECEIVED)
    assert likeness(received, voice(2.0, SAMPLE_RATE)) > 0.98


@EVERY
def test_empty_payloads_do_not_end_the_track(codec: Codec, libopus: bool) -> None:
    """PyAV takes an empty packet for the end of the stream, and decodes nothing after it."""
    decoder = decoder_for(codec, libopus=libopus)
    parts = decoded(decoder, frames(codec, [b"", *packets(codec), b""]))
    assert decoder.bad_payloads == 2
    assert by_label(parts) == {Label.RECEIVED: SAMPLE_RATE}


_payloads = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=1500, max_size=1500),
    st.sampled_from(packets(OPUS)[10:20] + packets(PCMU)[10:12]),
)
_steps = st.one_of(_payloads, st.integers(1, 200), st.tuples(st.integers(1, 200), _payloads))


@given(which=st.sampled_from(list(CODECS.values())), steps=st.lists(_steps, max_size=12))
def test_whatever_comes_it_goes_on_and_keeps_the_time(
    which: tuple[Codec, bool], steps: list[bytes | int | tuple[int, bytes]]
) -> None:
    """Random bytes, holes of any length, any order: as long out as went in, and nothing is raised."""
    codec, libopus = which
    decoder = decoder_for(codec, libopus=libopus)
    parts, went_in = [], 0
    for step in steps:
        match step:
            case bytes():
                item: Frame | Gap = Frame(step, codec, 0)
                went_in += codec.duration(step)
            case int():
                item = lost(codec, 2.5 * step)
                went_in += item.duration
            case (size, after):
                item = lost(codec, 2.5 * size, after)
                went_in += item.duration
        parts += decoder.decode(item)
    parts += decoder.flush()
    assert abs(by_label(parts).total() - went_in * SAMPLE_RATE / codec.clock_rate) <= 0.5 * len(steps)


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=10), codec=st.sampled_from([PCMU, PCMA]))
def test_how_a_sender_cuts_their_packets_makes_no_difference(sizes: list[int], codec: Codec) -> None:
    stream = b"".join(packets(codec, 0.5))
    payloads, rest = [], stream
    for size in sizes:
        payloads.append(rest[:size])
        rest = rest[size:]
    longest = [stream[at : at + 1600] for at in range(0, len(stream), 1600)]  # 200 ms each
    rests = [rest[at : at + 1600] for at in range(0, len(rest), 1600)]
    cut = [payload for payload in [*payloads, *rests] if payload]
    assert np.array_equal(
        joined(decoded(decoder_for(codec), frames(codec, cut))),
        joined(decoded(decoder_for(codec), frames(codec, longest))),
    )


@given(
    kinds=st.lists(st.sampled_from(["frame", "loss"]), min_size=1, max_size=40),
    codec=st.sampled_from([PCMU, STEREO, WIDE, Codec("L16", 48000)]),
)
def test_labels_are_exact_though_the_resampler_holds_samples_back(kinds: list[str], codec: Codec) -> None:
    payload = packets(codec, 0.02)[0]
    items = [Frame(payload, codec, 0) if kind == "frame" else lost(codec, 20) for kind in kinds]
    counts = by_label(decoded(decoder_for(codec), items))
    assert counts[Label.RECEIVED] == 320 * kinds.count("frame")
    assert counts[Label.CONCEALED] + counts[Label.SILENCE] == 320 * kinds.count("loss")


def test_labels_stand_where_the_samples_do() -> None:
    payloads = packets(PCMU)
    items: list[Frame | Gap] = [*frames(PCMU, payloads[:5]), lost(PCMU, 20), *frames(PCMU, payloads[6:8])]
    labels = [part.label for part in decoded(decoder_for(PCMU), items) for _ in part.samples]
    assert labels == [Label.RECEIVED] * 1600 + [Label.CONCEALED] * 320 + [Label.RECEIVED] * 640


def test_nothing_but_speech_is_decoded() -> None:
    with pytest.raises(ValueError, match="telephone-event"):
        decoder_for(Codec("telephone-event", 8000))


def test_without_libopus_pyav_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "load", lambda: None)
    assert isinstance(decoder_for(OPUS), FrameDecoder)


@pytest.mark.parametrize("codec", [PCMU, PCMA, G722, Codec("L16", 16000), Codec("PCMU", 8000, 2)])
def test_a_payload_longer_than_a_packet_may_be_is_bad_and_bounded(codec: Codec) -> None:
    decoder = decoder_for(codec)
    payload = bytes(60_000)
    assert codec.duration(payload) == codec.clock_rate
    parts = decoder.decode(Frame(payload, codec, 0))
    assert decoder.bad_payloads == 1
    assert by_label([*parts, *decoder.flush()]).total() == pytest.approx(SAMPLE_RATE, abs=2)
