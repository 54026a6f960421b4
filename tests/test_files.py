"""Recordings of every kind: what is read of them, when it sounds, and what is said of what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import itertools
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.batch.sources import ENDINGS
from rtcstt.errors import FileError
from rtcstt.file_worker import decode, encode, parse_request, request
from rtcstt.media import joined, kinds, layouts, raw, truncation
from rtcstt.media.files import AudioFile, read
from rtcstt.media.mixing import Mixer, downmix
from rtcstt.media.skipped import Skipped
from rtcstt.media.timeline import Timeline
from rtcstt.media.tracks import FileInfo, Gap, RawAudio, ReadSettings, Sound
from rtcstt.media.window import Window, mapped
from rtcstt.reading import Readers

FILES = Path(__file__).parent / "fixtures" / "files"
RATE = 16000


def whole(path: Path, settings: ReadSettings | None = None) -> tuple[np.ndarray, list[Gap]]:
    """All of a recording, (channels, samples), and its gaps; its parts follow each other without a hole."""
    parts = list(AudioFile(path, settings))
    sounds = [part for part in parts if isinstance(part, Sound)]
    for before, after in zip(sounds, sounds[1:], strict=False):
        if before.channel == after.channel:
            assert after.start == before.start + before.samples.shape[1]
    channels = sorted({sound.channel for sound in sounds})
    joined = [np.concatenate([s.samples for s in sounds if s.channel == channel], 1) for channel in channels]
    longest = max(samples.shape[1] for samples in joined)
    padded = [np.pad(samples, ((0, 0), (0, longest - samples.shape[1]))) for samples in joined]
    return np.concatenate(padded), [part for part in parts if isinstance(part, Gap)]


def onset(samples: np.ndarray) -> float:
    """When it gets loud, in s."""
    return float(np.argmax(np.abs(samples[0]) > 0.02)) / RATE


def chunk(name: bytes, size: int, order: str = "<I") -> bytes:
    return name + struct.pack(order, size)


def box(name: bytes, body: bytes, *, wide: bool = False) -> bytes:
    if wide:
        return (1).to_bytes(4, "big") + name + (16 + len(body)).to_bytes(8, "big") + body
    return (8 + len(body)).to_bytes(4, "big") + name + body


# Name, seconds, and when the speech begins on the container's clock.
CASES = [
    ("F03_latin1_comment.opus", 11.0, 0.106),  # a comment that is not UTF-8
    ("F04_mono_then_stereo.mp3", 12.879, 0.106),
    ("F04_rate_changes.mp3", 12.893, 0.106),
    ("F05_chained_rates.ogg", 12.811, 0.106),  # FFmpeg stops at the second of the files it is joined of
    ("F06_editlist_2s.m4a", 13.0, 2.106),
    ("F14_female_scrub.spx", 15.46, 0.005),
    ("c21_two_tracks_1st_silent.mkv", 11.072, 0.170),
    ("c24.au", 11.0, 0.106),
    ("c33.wma", 11.0, 0.138),
    ("c43.ts", 11.072, 0.170),
    ("j05_ts_discontinuity_back.ts", 7.872, 0.174),
    ("j06_ts_discontinuity_fwd.ts", 7.872, 0.625),
]


@pytest.mark.parametrize(("name", "length", "begins"), CASES, ids=[case[0] for case in CASES])
def test_each_kind_is_read_whole_at_the_times_of_its_container(
    name: str, length: float, begins: float
) -> None:
    samples, gaps = whole(FILES / name)
    assert samples.shape[1] / RATE == pytest.approx(length, abs=0.05)
    assert onset(samples) == pytest.approx(begins, abs=0.04)
    assert not gaps


def speech() -> np.ndarray:
    return read(FILES / "F03_latin1_comment.opus", RATE) / np.float32(32768)


def test_the_default_stream_is_read_if_it_has_sound_and_others_are_mentioned(tmp_path: Path) -> None:
    path = FILES / "c21_two_tracks_1st_silent.mkv"
    info = AudioFile(path).info
    assert "left out: 0" in info.notes[0]
    silent, _ = whole(path, ReadSettings(stream=0))
    assert not silent.any()
    both, _ = whole(path, ReadSettings(stream="all"))
    assert len(both) == 2 and not both[0].any() and both[1].any()
    with pytest.raises(FileError, match="no audio stream 2; it has 2"):
        AudioFile(path, ReadSettings(stream=2))


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 9, 16, 32])
def test_any_number_of_channels_is_mixed_and_kept_apart(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "many.wav"
    sound = speech()
    soundfile.write(path, np.tile(sound[:, None], (1, channels)), RATE)
    mixed, _ = whole(path)
    assert np.allclose(mixed[0], sound, atol=2e-3)
    apart, _ = whole(path, ReadSettings(split=True))
    assert apart.shape == (channels, len(sound))


@pytest.mark.parametrize(("codec", "layout"), [("aac", "7.1"), ("aac", "hexadecagonal"), ("flac", "7.1")])
def test_planar_sound_of_eight_channels_and_more_is_read(tmp_path: Path, codec: str, layout: str) -> None:
    path = tmp_path / "film.mkv"
    channels = av.AudioLayout(layout).nb_channels
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=48000, layout=layout)
        for start in range(0, 48000, 1024):
            wave = np.sin(np.arange(start, start + 1024) * 2 * np.pi * 440 / 48000).astype(np.float32) / 4
            frame = av.AudioFrame.from_ndarray(np.repeat(wave, channels)[None, :], "flt", layout)
            frame.sample_rate, frame.pts = 48000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples, _ = whole(path, ReadSettings(split=True))
    assert len(samples) == channels
    mixed, _ = whole(path)
    assert np.abs(mixed[0, 4000:12000]).max() == pytest.approx(0.25, abs=0.05)


def aiff(tag: int, channels: int) -> bytes:
    """A second of the speech in each channel, in an order of Core Audio's."""
    common = b"COMM" + struct.pack(">IhIh", 18, channels, RATE, 16) + bytes.fromhex("400cfa00000000000000")
    layout = b"CHAN" + struct.pack(">IIII", 12, tag, 0, 0)
    sound = np.repeat((speech()[:RATE] * 32767).astype(">i2"), channels).tobytes()
    body = b"AIFF" + layout + common + chunk(b"SSND", 8 + len(sound), ">I") + bytes(8) + sound
    return chunk(b"FORM", len(body), ">I") + body


def test_orders_of_channels_at_which_ffmpeg_crashes_are_hidden_from_it(tmp_path: Path) -> None:
    """It writes beyond its memory; here in another process."""
    tags = (0x790006, 0x7A0006, 0x7C0006, 0x7F0008, 0x800008, 0x8A0005, 0x900008, 0x920015)
    names = [tmp_path / f"{tag:x}.aiff" for tag in tags]
    for name, tag in zip(names, tags, strict=True):
        name.write_bytes(aiff(tag, tag & 0xFF))
    program = (
        "import sys; from rtcstt.media.files import AudioFile\n"
        "for name in 3 * sys.argv[1:]: parts = list(AudioFile(name))\n"
        "for name in sys.argv[1:]: print(max(float(abs(part.samples).max()) for part in AudioFile(name)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, check=True, timeout=600
    )
    loudest = [float(line) for line in done.stdout.split()]
    assert len(loudest) == len(tags) and min(loudest) > 0.2


@pytest.mark.parametrize(
    ("data", "places"),
    [
        (aiff(0x800008, 1)[:99], [20]),
        (aiff(0x790006, 1)[:99], []),
        (aiff(0x800008, 1)[:22], []),
        (
            b"caff\0\1\0\0"
            + chunk(b"chan", 12, ">q")
            + b"\0\x80\0\x08"
            + bytes(8)
            + chunk(b"data", -1, ">q"),
            [20],
        ),
        (box(b"ftyp", bytes(8)) + box(b"moov", bytes(8) + box(b"chan", bytes(4) + b"\0\x7c\0\6")), [44]),
        (box(b"ftyp", bytes(8)) + box(b"moov", bytes(8) + b"a channel of text and more of it"), []),
        (box(b"wide", b"") + box(b"mdat", bytes(9), wide=True) + bytes(16), []),
        (b"RIFF", []),
    ],
)
def test_where_orders_of_channels_are(data: bytes, places: list[int]) -> None:
    assert sorted(layouts.hidden(b"xx" + data, 2, 2 + len(data))) == places


def test_a_part_of_a_file_as_it_is_read(tmp_path: Path) -> None:
    """However little at a time; what is hidden is hidden, and seeking is that of files."""
    data = aiff(0x800008, 1)[:99]
    (tmp_path / "a.bin").write_bytes(b"before" + data + b"after")
    part = Window(tmp_path / "a.bin", 6, 6 + len(data), ".AI ff")
    hidden = data[:20] + layouts.UNKNOWN + data[24:]
    for size in (1, 3, 7, 99):
        assert part.seek(0) == 0
        assert b"".join(part.read(size) for _ in range(100)) == hidden
    assert part.seek(-5, 2) == part.tell() == 94 and part.read(99) == hidden[-5:]
    assert part.seek(-1) < 0 and part.seek(1 << 60) < 0 and part.tell() == 99
    assert part.name == "recording.AIff" and part.seekable()
    part.close()
    with mapped(Path(os.devnull)) as nothing:
        assert nothing == b""


def test_what_is_no_number_is_silence_and_only_that(tmp_path: Path) -> None:
    sound = speech()
    bad = sound.copy()
    bad[50000], bad[60000:60010], bad[70000] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "nan.wav", bad, RATE, subtype="FLOAT")
    samples, _ = whole(tmp_path / "nan.wav")
    good = np.isfinite(bad)
    assert np.allclose(samples[0][good], sound[good], atol=1e-3) and not samples[0][~good].any()


def test_channels_of_opposite_phase_do_not_cancel_out(tmp_path: Path) -> None:
    sound = speech()
    soundfile.write(tmp_path / "opposite.wav", np.stack([sound, -sound], 1), RATE)
    samples, _ = whole(tmp_path / "opposite.wav")
    assert np.allclose(np.abs(samples[0]), np.abs(sound), atol=1e-3)


def test_one_channel_is_kept_while_they_cancel_out() -> None:
    """As loud as each other but for their noise: taking the louder of each second would turn the phase."""
    rng = np.random.default_rng(1)
    sound, *noises = rng.normal(0, [[0.1], [0.003], [0.003]], (3, 20 * RATE)).astype(np.float32)
    mixer = Mixer()
    windows = np.stack([sound + noises[0], noises[1] - sound]).reshape(2, 20, RATE)
    mixed = np.concatenate([mixer.mix(windows[:, n], "stereo")[0] for n in range(20)])
    assert abs(np.corrcoef(mixed, sound)[0, 1]) > 0.99
    other = 1 if np.corrcoef(mixed, sound)[0, 1] > 0 else 0
    window = np.stack([sound[:RATE], -sound[:RATE]])
    window[1 - other] *= 0.65
    assert np.array_equal(mixer.mix(window, "stereo")[0], window[other]), "clearly louder"


def test_mixing_follows_the_phase_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 0.1, (2, RATE)).astype(np.float32)
    mixer = Mixer()
    assert np.allclose(mixer.mix(np.stack([one, other]), "stereo")[0], (one + other) / 2, atol=1e-5)
    assert np.allclose(mixer.mix(np.stack([one, -2 * one]), "stereo")[0], -one / 2, atol=1e-5)
    assert np.allclose(mixer.mix(np.stack([one, -one]), "stereo")[0], one)
    assert np.allclose(mixer.mix(np.stack([one, 0 * one]), "stereo")[0], one / 2, atol=1e-5)
    assert downmix("5.1", 6)[2] > downmix("5.1", 6)[0] > downmix("5.1", 6)[3]  # centre, left, low frequencies
    assert np.allclose(downmix("12 channels", 12), 1 / 12)


@pytest.mark.parametrize("late", [0, 3])
def test_late_audio_and_a_hole_are_silence_of_their_length(tmp_path: Path, late: int) -> None:
    with av.open(str(tmp_path / "hole.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (late, late + 3):  # a second, two seconds of nothing, a second
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), 5000, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, start * RATE
            container.mux(stream.encode(frame))
    samples, gaps = whole(tmp_path / "hole.mka")
    loud = np.abs(samples[0, late * RATE :]) > 0.1
    assert not samples[0, : late * RATE].any() and not gaps
    assert len(loud) == pytest.approx(64000, abs=160)
    assert loud[:15900].all() and not loud[16100:47900].any() and loud[48100:63800].all()


def test_an_id3_tag_before_a_wave_file_and_waves_put_one_behind_the_other(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    one = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "tag.wav").write_bytes(b"ID3\x04\0\0\0\0\0\x0a" + b"\0" * 10 + one)
    (tmp_path / "two.wav").write_bytes(one + one)
    assert whole(tmp_path / "tag.wav")[0].shape[1] == len(speech())
    assert whole(tmp_path / "two.wav")[0].shape[1] == 2 * len(speech())


def encoded(path: Path, codec: str, rate: int, **options: str) -> bytes:
    """The speech as FFmpeg writes it."""
    data = _encoded(path.suffix, codec, rate, tuple(options.items()))
    path.write_bytes(data)
    return data


@functools.cache
def _encoded(ending: str, codec: str, rate: int, options: tuple[tuple[str, str], ...]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{ending}")
        _encode(path, codec, rate, dict(options))
        return path.read_bytes()


def _encode(path: Path, codec: str, rate: int, options: dict[str, str]) -> None:
    kind = {".sf": "ircam", ".ismv": "ismv", ".latm": "latm", ".spdif": "spdif"}.get(path.suffix)
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(speech()[None, :], "flt", "mono")
        frame.sample_rate = RATE
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 4096
        resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.aiff", "pcm_s16be"),
        ("a.au", "pcm_s16be"),
        ("a.caf", "pcm_s16be"),
        ("a.flac", "flac"),
        ("a.flv", "aac"),
        ("a.m4a", "aac"),
        ("a.mkv", "aac"),
        ("a.mp3", "mp3"),
        ("a.opus", "libopus"),
        ("a.tta", "tta"),
        ("a.w64", "pcm_s16le"),
        ("a.wav", "pcm_s16le"),
        ("a.wv", "wavpack"),
    ],
)
def test_files_put_one_behind_the_other_are_read_to_the_end(tmp_path: Path, name: str, codec: str) -> None:
    one = encoded(tmp_path / name, codec, 48000 if codec == "libopus" else 44100)
    (tmp_path / f"two-{name}").write_bytes(one * 2)
    samples, gaps = whole(tmp_path / f"two-{name}")
    assert samples.shape[1] / RATE == pytest.approx(22.0, abs=0.2) and not gaps
    assert onset(samples[:, 11 * RATE + 3200 :]) < 1.0


def test_a_wavpack_block_without_samples_begins_no_other_file(tmp_path: Path) -> None:
    """Checksums come in such ones; in files by WavPack itself, which FFmpeg does not write."""
    one = encoded(tmp_path / "a.wv", "wavpack", RATE)
    tail = bytearray(one[:32])
    tail[4:8], tail[16:24] = (24).to_bytes(4, "little"), bytes(8)
    assert joined.parts(one + tail) == [(0, len(one) + 32)]


def test_flac_of_another_rate_behind_flac(tmp_path: Path) -> None:
    first, second = (encoded(tmp_path / f"{rate}.flac", "flac", rate) for rate in (16000, 44100))
    (tmp_path / "two.flac").write_bytes(first + second)
    samples, _ = whole(tmp_path / "two.flac")
    assert samples.shape[1] / RATE == pytest.approx(22.0, abs=0.05)
    assert np.allclose(samples[0, RATE : 10 * RATE], speech()[RATE : 10 * RATE], atol=1e-3)
    assert np.corrcoef(samples[0, 12 * RATE : 21 * RATE], speech()[RATE : 10 * RATE])[0, 1] > 0.99


# Each container that PyAV writes, cut at half of its bytes: what is missing is told, here to its end
TOLD = [
    ("a.wav", "pcm_s16le"),
    ("a.wav", "pcm_alaw"),  # FFmpeg tells the length of what is there of some, as it is stated of others
    ("a.wav", "adpcm_ms"),
    ("a.wav", "mp3"),
    ("a.w64", "pcm_s16le"),
    ("a.w64", "pcm_f32le"),
    ("a.aiff", "pcm_s16be"),
    ("a.au", "pcm_s16be"),
    ("a.caf", "pcm_s16be"),
    ("a.caf", "adpcm_ima_qt"),
    ("a.flac", "flac"),
    ("a.tta", "tta"),
    ("a.wv", "wavpack"),
    ("a.sox", "pcm_s32le"),
    ("a.mp3", "mp3"),
    ("a.mkv", "aac"),
    ("a.webm", "libopus"),
    ("a.flv", "aac"),
    ("a.avi", "pcm_s16le"),
    ("a.avi", "ac3"),
    ("a.avi", "eac3"),
    ("a.wma", "wmav2"),
    ("a.asf", "pcm_s16le"),
    ("a.ismv", "aac"),
    ("a.rm", "ac3"),
]
# or that there was more, where nothing says how much,
CUT = [
    ("a.ogg", "libopus", {}),
    ("a.voc", "pcm_s16le", {}),
    ("a.mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}),
    ("a.mp4", "aac", {"movflags": "dash+delay_moov", "frag_duration": "500000"}),
    ("a.mp4", "alac", {"movflags": "frag_every_frame+empty_moov"}),
    ("a.mkv", "aac", {"live": "1"}),
]
# or it cannot be read without its end,
REFUSED_IF_CUT = [
    ("a.mp4", "aac", "MP4 without its index"),
    ("a.mov", "pcm_s16le", "MP4 without its index"),
    ("a.3gp", "aac", "MP4 without its index"),
    ("a.m4a", "alac", "MP4 without its index"),
    ("a.caf", "alac", "a CAF file that is damaged or was not written to its end"),
    ("a.wtv", "mp2", "a WTV file that is damaged or was not written to its end"),
]
# or else it is a row of frames or packets, and nothing in it says how many there are.
NOTHING_STATED = [
    ("a.aac", "aac"),
    ("a.ac3", "ac3"),
    ("a.eac3", "eac3"),
    ("a.mp2", "mp2"),
    ("a.latm", "aac"),
    ("a.g722", "g722"),
    ("a.sf", "pcm_s16le"),  # IRCAM
    ("a.ts", "aac"),
    ("a.mpg", "mp2"),
    ("a.spdif", "ac3"),
    ("a.nut", "aac"),
]
RATES_OF = {"libopus": 48000, "g722": 16000}


def cut_in_two(path: Path, codec: str, options: dict[str, str] | None = None, tenths: int = 5) -> Path:
    data = encoded(path, codec, RATES_OF.get(codec, 44100), **(options or {}))
    assert not whole(path)[1], "nothing of the whole is missing"
    part = path.with_name(f"part-{path.name}")
    part.write_bytes(data[: len(data) * tenths // 10])
    return part


@pytest.mark.parametrize(("name", "codec"), TOLD, ids=[f"{name}-{codec}" for name, codec in TOLD])
def test_what_a_truncated_file_says_it_has_is_missing(tmp_path: Path, name: str, codec: str) -> None:
    samples, (gap, *others) = whole(cut_in_two(tmp_path / name, codec))
    assert 3.5 < samples.shape[1] / RATE < 6.5
    assert gap.reason == "truncated" and gap.end == pytest.approx(11.0, abs=1.5)
    assert gap.start == pytest.approx(samples.shape[1] / RATE, abs=0.1)
    assert all(other.start == other.end for other in others)


@pytest.mark.parametrize("tenths", [3, 8])
@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flv", "aac"), ("a.w64", "pcm_u8")])
def test_wherever_it_is_cut(tmp_path: Path, name: str, codec: str, tenths: int) -> None:
    samples, (gap,) = whole(cut_in_two(tmp_path / name, codec, tenths=tenths))
    assert samples.shape[1] / RATE == pytest.approx(1.1 * tenths, abs=0.8)
    assert gap.end == pytest.approx(11.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "codec", "options"), CUT, ids=[f"{row[0]}-{n}" for n, row in enumerate(CUT)]
)
def test_that_it_was_cut_is_told_where_nothing_says_how_much_is_missing(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    samples, (gap,) = whole(cut_in_two(tmp_path / name, codec, options))
    assert 4 < samples.shape[1] / RATE < 7
    assert gap.reason == "truncated" and gap.start == gap.end
    assert gap.start == pytest.approx(samples.shape[1] / RATE, abs=0.1)


@pytest.mark.parametrize(
    ("name", "codec", "why"), REFUSED_IF_CUT, ids=[f"{row[0]}-{row[1]}" for row in REFUSED_IF_CUT]
)
def test_what_cannot_be_read_without_its_end_is_refused_by_its_kind(
    tmp_path: Path, name: str, codec: str, why: str
) -> None:
    with pytest.raises(FileError, match=why):
        whole(cut_in_two(tmp_path / name, codec))


@pytest.mark.parametrize(("name", "codec"), NOTHING_STATED, ids=[row[0] for row in NOTHING_STATED])
def test_kinds_that_state_no_length_are_read_to_where_they_end(tmp_path: Path, name: str, codec: str) -> None:
    samples, gaps = whole(cut_in_two(tmp_path / name, codec))
    assert 4 < samples.shape[1] / RATE < 7 and not gaps


def test_an_index_that_is_cut_is_no_lost_audio(tmp_path: Path) -> None:
    for name, codec, options in [
        ("a.mkv", "aac", {}),
        ("a.avi", "pcm_s16le", {}),
        ("a.mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}),
        ("a.wma", "wmav2", {}),
    ]:
        data = encoded(tmp_path / name, codec, 44100, **options)
        (tmp_path / name).write_bytes(data[:-9])
        samples, gaps = whole(tmp_path / name)
        assert samples.shape[1] / RATE == pytest.approx(11.0, abs=0.2) and not gaps, name


def test_the_last_of_joined_files_may_be_truncated(tmp_path: Path) -> None:
    one = encoded(tmp_path / "a.wav", "pcm_s16le", RATE)
    (tmp_path / "two.wav").write_bytes(one + one[: len(one) // 2])
    samples, (gap,) = whole(tmp_path / "two.wav")
    assert samples.shape[1] / RATE == pytest.approx(16.5, abs=0.1)
    assert gap == Gap(gap.start, gap.end, "truncated") and gap.end == pytest.approx(22.0, abs=0.1)


def stated(data: bytes, kind: str) -> truncation.Stated:
    return truncation.stated(io.BytesIO(b"before" + data + b"after"), 6, 6 + len(data), kind)


WHOLE, CUT_OFF = truncation.Stated(), truncation.Stated(float("inf"))
STATED = [
    ("wav", chunk(b"RIFF", 99) + b"WAVE" + chunk(b"data", 20) + bytes(10), truncation.Stated(2.0)),
    ("wav", chunk(b"RIFF", 99) + b"WAVE" + chunk(b"LIST", 3) + bytes(4) + chunk(b"data", 8), CUT_OFF),
    ("wav", chunk(b"RIFF", 0) + b"WAVE" + chunk(b"data", 0xFFFFFFDB) + bytes(10), WHOLE),  # written to a pipe
    ("wav", chunk(b"RIFF", 99) + b"WAVE" + chunk(b"fmt ", 16) + bytes(9), WHOLE),
    ("wav", chunk(b"RF64", 99) + b"WAVE" + chunk(b"data", 20) + bytes(10), WHOLE),
    (
        "aiff",
        chunk(b"FORM", 99, ">I") + b"AIFF" + chunk(b"SSND", 40, ">I") + bytes(10),
        truncation.Stated(4.0),
    ),
    ("caf", b"caff\0\1\0\0" + chunk(b"desc", 2, ">q") + b"xx" + chunk(b"data", -1, ">q") + bytes(9), WHOLE),
    ("avi", chunk(b"RIFF", 99) + b"AVI " + chunk(b"LIST", 12) + b"movi" + bytes(8), WHOLE),
    (
        "avi",
        chunk(b"RIFF", 52) + b"AVI " + chunk(b"LIST", 44) + b"movi" + bytes(6),
        truncation.Stated(64 / 30),
    ),
    ("avi", chunk(b"RIFF", 0) + b"AVI " + chunk(b"LIST", 0x7FFFFFFF) + b"movi" + bytes(8), WHOLE),
    (
        "avi",
        chunk(b"RIFF", 24) + b"AVI " + chunk(b"LIST", 12) + b"movi" + bytes(8) + chunk(b"idx1", 9),
        WHOLE,
    ),
    ("voc", b"Creative Voice File\x1a" + b"\x16\0" + b"\1\x08\0\0" + bytes(8) + b"\0", WHOLE),
    ("voc", b"Creative Voice File\x1a" + b"\x16\0" + b"\1\x09\0\0" + bytes(8), CUT_OFF),
    ("rm", chunk(b".RMF", 8, ">I") + chunk(b"DATA", 20, ">I") + bytes(2), truncation.Stated(2.0)),
    ("rm", chunk(b".RMF", 8, ">I"), WHOLE),
    ("ogg", bytes(70), WHOLE),
    ("ogg", b"OggS\0" + bytes(20), CUT_OFF),
    ("ogg", b"OggS\0" + bytes(21) + b"\2\1\2" + bytes(3), WHOLE),
    ("ogg", b"OggS\0" + bytes(21) + b"\2\1\2" + bytes(2), CUT_OFF),
    ("mp3", bytes(200), WHOLE),
    ("mp3", bytes(36) + b"Xing" + b"\0\0\0\1" + bytes(99), WHOLE),  # in no frame
    ("mp3", b"\xff\xfb\x90\0" + bytes(32) + b"Xing\0\0\0\2" + bytes(99), WHOLE),  # tells no frames
    (
        "mp3",
        b"ID3\4\0\0\0\0\0\1x\xff\xfb\x90\0" + bytes(32) + b"Info\0\0\0\1" + struct.pack(">I", 441),
        truncation.Stated(seconds=11.52),
    ),
    ("matroska,webm", b"\x1aE\xdf\xa3\x81x\x18\x53\x80\x67\x8a" + bytes(5), truncation.Stated(21 / 16)),
    ("matroska,webm", b"\x1aE\xdf\xa3\x81x\x18\x53\x80\x67\xff\xec\x85" + bytes(4), CUT_OFF),
    ("matroska,webm", b"\x1aE\xdf\xa3\x81x\x18\x53\x80\x67\xff\xec\x84" + bytes(4), WHOLE),
    ("matroska,webm", b"\x1aE\xdf\xa3\x81x\xec\xff" + bytes(4), WHOLE),
    ("adx", bytes(8) + struct.pack(">II", 8000, 4000), truncation.Stated(seconds=0.5)),
    ("adx", bytes(16), truncation.Stated(seconds=None)),
    ("sox", b"XoS." + struct.pack(">IQ", 20, 4) + bytes(12), truncation.Stated(2.0)),
    ("mov,mp4,m4a,3gp,3g2,mj2", struct.pack(">I4sQ", 1, b"moof", 17), CUT_OFF),
    ("mov,mp4,m4a,3gp,3g2,mj2", struct.pack(">I4sI4s", 8, b"moof", 9, b"mfra"), WHOLE),
    ("mov,mp4,m4a,3gp,3g2,mj2", struct.pack(">I4sI4s", 8, b"moof", 0, b"mdat"), WHOLE),
    ("mov,mp4,m4a,3gp,3g2,mj2", struct.pack(">I4s", 8, b"moof") + b"xx", CUT_OFF),
    ("mov,mp4,m4a,3gp,3g2,mj2", struct.pack(">I4s", 9, b"mdat"), WHOLE),
    ("flac", bytes(9), WHOLE),
]


@pytest.mark.parametrize(
    ("kind", "data", "found"), STATED, ids=[f"{row[0]}-{n}" for n, row in enumerate(STATED)]
)
def test_what_is_stated_of_the_end(kind: str, data: bytes, found: truncation.Stated) -> None:
    assert stated(data, kind) == found


def test_the_lengths_of_a_broadcast_mean_nothing() -> None:
    other = bytes(16) + struct.pack("<Q", 26) + b"xx"
    about = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + struct.pack("<Q16xQ", 104, 640)
    times = struct.pack("<16xQ8xQ", 70_000_000, 3000)
    for flags, found in [(2, truncation.Stated(640 / 162, 4.0)), (1, WHOLE)]:
        header = bytes(24) + struct.pack("<IH", 2, 0) + other + about + times + struct.pack("<I12x", flags)
        assert stated(header + bytes(162 - len(header)), "asf") == found


@settings(deadline=None)
@given(st.sampled_from(sorted({row[0] for row in STATED} | {"asf", "w64"})), st.data())
def test_nothing_that_a_file_states_is_an_error(kind: str, data: st.DataObject) -> None:
    beginnings = [row[1] for row in STATED if row[0] == kind] or [bytes(24) + b"\2\0\0\0" + bytes(60)]
    beginning = data.draw(st.sampled_from(beginnings))
    rest = beginning[: data.draw(st.integers(0, len(beginning)))] + data.draw(st.binary(max_size=60))
    assert stated(rest, kind).share >= 1.0


@pytest.mark.parametrize("codec", ["eac3", "g722", "dfpwm", "adpcm_g726"])
def test_a_clock_that_is_counted_at_a_wrong_rate_is_not_believed(tmp_path: Path, codec: str) -> None:
    """FFmpeg writes these into AVI as if each frame were minutes long."""
    encoded(tmp_path / "a.avi", codec, 8000 if codec == "adpcm_g726" else RATE if codec == "g722" else 44100)
    samples, gaps = whole(tmp_path / "a.avi")
    assert samples.shape[1] / RATE == pytest.approx(11.0, abs=0.3) and not gaps


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wave_file_of_unknown_length_is_not_truncated(tmp_path: Path, length: int) -> None:
    """As they are written to a pipe."""
    data = bytearray(encoded(tmp_path / "a.wav", "pcm_s16le", RATE))
    at = data.index(b"data") + 4
    data[at : at + 4] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    assert not whole(tmp_path / "a.wav")[1]


def test_a_film_whose_sound_ends_before_its_picture_is_not_truncated(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.full((1, 2 * RATE), 5000, np.int16), "s16", "mono")
        tone.sample_rate, tone.pts = RATE, 0
        container.mux(sound.encode(tone))
        for number in range(50):
            image = av.VideoFrame(64, 64, "yuv420p")
            image.pts = number
            container.mux(picture.encode(image))
        container.mux(picture.encode(None))
    samples, gaps = whole(tmp_path / "film.mkv")
    assert samples.shape[1] == pytest.approx(2 * RATE, abs=10) and not gaps


def test_only_the_part_that_is_wanted_keeps_its_times() -> None:
    path = FILES / "c24.au"
    everything, _ = whole(path)
    sounds = list(AudioFile(path, ReadSettings(start=2.5, duration=3.0)))
    assert isinstance(sounds[0], Sound) and sounds[0].start == 2.5 * RATE
    part = np.concatenate([sound.samples for sound in sounds if isinstance(sound, Sound)], 1)
    assert np.array_equal(part, everything[:, 2 * RATE + 8000 : 5 * RATE + 8000])


def test_a_truncated_recording_keeps_what_is_there_and_says_what_is_missing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.flac", speech(), RATE)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(data[: len(data) // 2])
    samples, (gap,) = whole(tmp_path / "half.flac")
    assert 3 * RATE < samples.shape[1] < 8 * RATE
    assert gap.reason == "truncated" and gap.end == pytest.approx(11.0, abs=0.01)
    assert gap.start == pytest.approx(samples.shape[1] / RATE, abs=0.05)


def test_damage_in_the_middle_is_silence_of_its_length_and_is_said(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        sound = (speech() * 32767).astype(np.int16)
        for start in range(0, len(sound) - 4096, 4096):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 4096], "s16", "mono")
            frame.sample_rate, frame.pts = RATE, start
            for packet in stream.encode(frame):
                if 4 * RATE < (packet.pts or 0) < 6 * RATE:
                    broken = av.Packet(os.urandom(packet.size))
                    broken.stream, broken.time_base = stream, packet.time_base
                    broken.pts, broken.dts, broken.duration = packet.pts, packet.dts, packet.duration
                    packet = broken
                container.mux(packet)
        container.mux(stream.encode(None))
    samples, (gap,) = whole(path)
    assert samples.shape[1] / RATE == pytest.approx(10.75, abs=0.4)
    assert gap.reason == "damaged" and 3.7 < gap.start < 4.4 and 5.6 < gap.end < 6.3
    later = slice(round(6.5 * RATE), 10 * RATE)
    assert np.allclose(samples[0, later], sound[later] / 32768, atol=1e-3)


DAMAGED = [
    ("a.mp3", "mp3"),
    ("a.mp2", "mp2"),
    ("a.ac3", "ac3"),
    ("a.eac3", "eac3"),
    ("a.aac", "aac"),
    ("a.latm", "aac"),
    ("a.spdif", "ac3"),
    ("a.wav", "mp3"),
    ("a.avi", "mp3"),
    ("a.avi", "ac3"),
    ("a.flac", "flac"),
    ("a.wv", "wavpack"),
    ("a.m4a", "aac"),
    ("a.caf", "alac"),
    ("a.flv", "aac"),
    ("a.ts", "aac"),
    ("a.mpg", "mp2"),
    ("a.rm", "ac3"),
    ("a.wma", "wmav2"),
    ("a.opus", "libopus"),
]


@pytest.mark.parametrize(("name", "codec"), DAMAGED, ids=[f"{name}-{codec}" for name, codec in DAMAGED])
def test_damage_is_silence_of_its_length_and_is_said(tmp_path: Path, name: str, codec: str) -> None:
    """Demuxers and decoders go on at what they know, most without a word."""
    data = bytearray(encoded(tmp_path / name, codec, RATES_OF.get(codec, 44100)))
    middle, size = len(data) // 2, len(data) // 11
    data[middle : middle + size] = bytes(size)
    (tmp_path / name).write_bytes(data)
    samples, (gap,) = whole(tmp_path / name)
    assert gap.reason == "damaged" and 4.9 < gap.start < 6.1
    page_s = 1.0 if codec == "libopus" else 0.0
    assert gap.end - gap.start == pytest.approx(1.0 + page_s, abs=0.2)
    assert samples.shape[1] / RATE == pytest.approx(11.0, abs=0.2)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.flac", "flac"), ("a.flv", "aac"), ("a.ts", "aac"), ("a.opus", "libopus")]
)
def test_what_was_taken_out_is_known_by_the_clock(tmp_path: Path, name: str, codec: str) -> None:
    data = encoded(tmp_path / name, codec, RATES_OF.get(codec, 44100))
    middle, size = len(data) // 2, len(data) // 11
    (tmp_path / name).write_bytes(data[:middle] + data[middle + size :])
    samples, (gap,) = whole(tmp_path / name)
    assert gap.reason == "damaged" and samples.shape[1] / RATE == pytest.approx(11.0, abs=0.2)


def test_a_pause_that_a_recorder_left_out_is_no_damage(tmp_path: Path) -> None:
    """Opus that is sent only while somebody speaks: the clock goes on, and nothing is between the pages."""
    with av.open(str(tmp_path / "a.opus"), "w") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for start in range(0, 4 * 48000, 960):
            at = start if start < 2 * 48000 else start + 3 * 48000
            frame = av.AudioFrame.from_ndarray(np.full((1, 960), 0.25, np.float32), "flt", "mono")
            frame.sample_rate, frame.pts = 48000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples, gaps = whole(tmp_path / "a.opus")
    assert samples.shape[1] / RATE == pytest.approx(7.0, abs=0.1) and not gaps


def test_the_first_pages_of_ogg_that_are_damaged_are_missed(tmp_path: Path) -> None:
    data = bytearray(encoded(tmp_path / "a.opus", "libopus", 48000))
    first = joined.first_page(bytes(data), 0, data.rindex(b"OggS"))
    data[first + 100 : first + 200] = bytes(100)  # its checksum is wrong now
    (tmp_path / "a.opus").write_bytes(data)
    samples, (gap,) = whole(tmp_path / "a.opus")
    assert gap == Gap(0.0, 0.0, "damaged") and samples.shape[1] > 9 * RATE


@pytest.mark.parametrize(("name", "codec"), [("a.voc", "pcm_u8"), ("a.sbc", "sbc")])
def test_what_is_behind_the_end_is_told(tmp_path: Path, name: str, codec: str) -> None:
    """Zero bytes end a VOC file, and FFmpeg takes all that follows for one frame of SBC."""
    data = bytearray(encoded(tmp_path / name, codec, 44100))
    middle = len(data) // 2
    data[middle : middle + 9000] = bytes(9000)
    (tmp_path / name).write_bytes(data)
    samples, (gap,) = whole(tmp_path / name)
    assert gap.reason == "damaged" and gap.start == pytest.approx(samples.shape[1] / RATE, abs=0.1)


ROWS = [("a.mp3", "mp3"), ("a.aac", "aac"), ("a.ac3", "ac3"), ("a.ts", "aac")]
OTHERS = [
    *ROWS[:3],
    ("a.wav", "pcm_s16le"),
    ("a.aiff", "pcm_s16be"),
    ("a.au", "pcm_s16be"),
    ("a.caf", "pcm_s16be"),
    ("a.flac", "flac"),
    ("a.opus", "libopus"),
    ("a.m4a", "aac"),
    ("a.mkv", "aac"),
    ("a.flv", "aac"),
    ("a.wma", "wmav2"),
    ("a.voc", "pcm_u8"),
    ("a.avi", "mp3"),
    ("a.wv", "wavpack"),
]


@pytest.mark.parametrize(("name", "codec"), OTHERS, ids=[row[0] for row in OTHERS])
def test_files_of_different_kinds_put_one_behind_the_other(tmp_path: Path, name: str, codec: str) -> None:
    """Each between a WAVE and an MP4 file."""
    wave = encoded(tmp_path / "first.wav", "pcm_s16le", RATE)
    movie = encoded(tmp_path / "last.m4a", "aac", 44100)
    middle = encoded(tmp_path / name, codec, RATES_OF.get(codec, 44100))
    (tmp_path / "three.wav").write_bytes(wave + middle + movie)
    samples, gaps = whole(tmp_path / "three.wav")
    assert samples.shape[1] / RATE == pytest.approx(33.0, abs=0.3) and not gaps
    for second in (0, 11, 22):
        assert onset(samples[:, second * RATE :]) < 1.0


def test_what_no_recording_is_behind_a_row_of_packets_is_told(tmp_path: Path) -> None:
    films = encoded(tmp_path / "a.ts", "aac", 44100)
    other = encoded(tmp_path / "a.flac", "flac", 44100)
    (tmp_path / "a.ts").write_bytes(films + other)
    samples, (gap,) = whole(tmp_path / "a.ts")
    assert samples.shape[1] / RATE == pytest.approx(11.0, abs=0.1) and gap.reason == "damaged"


def test_a_tag_with_a_picture_behind_mp3_is_no_damage(tmp_path: Path) -> None:
    one = encoded(tmp_path / "a.mp3", "mp3", 44100)
    ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 50_032, 1, 0x80000000)
    lyrics = b"LYRICSBEGIN" + bytes(39)
    tags = ape + os.urandom(50_000) + ape + lyrics + b"000050LYRICS200" + b"TAG" + bytes(125)
    (tmp_path / "a.mp3").write_bytes(one + tags)
    assert joined.parts(one + tags) == [(0, len(one))]
    samples, gaps = whole(tmp_path / "a.mp3")
    assert samples.shape[1] / RATE == pytest.approx(11.0, abs=0.1) and not gaps


def test_films_in_ogg_may_begin_with_pictures(tmp_path: Path) -> None:
    """Pages of theirs come before those of the sound, and end before its packets."""
    one = encoded(tmp_path / "a.opus", "libopus", 48000)
    at = joined.first_page(one, 0, one.rindex(b"OggS"))
    picture = bytearray(one[:at])
    picture[14:18] = b"pict"  # another serial number; nothing that is known
    page = b"OggS\0\0" + struct.pack("<q", 99) + b"pict" + bytes(8) + b"\1\1x"
    heads = [bytes(picture[:47]), bytes(one[:at]), page]
    (tmp_path / "a.ogv").write_bytes(b"".join(heads) + one[at:])
    assert not whole(tmp_path / "a.ogv")[1]


def test_a_recording_of_a_few_samples_is_one(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(9, 0.5), 44100)
    samples, gaps = whole(tmp_path / "a.wav")
    assert samples.shape == (1, 3) and not gaps


def test_tags_among_frames_of_adts_are_no_damage(tmp_path: Path) -> None:
    """As in the segments of a stream, each of which begins with one."""
    one = encoded(tmp_path / "a.aac", "aac", 44100)
    tag = b"ID3\4\0\0\0\0\x20\0" + bytes(4096)
    (tmp_path / "a.aac").write_bytes((tag + one) * 2 + b"TAG" + bytes(125))
    assert joined.parts((tag + one) * 2) == [(0, 2 * len(tag + one))]
    samples, gaps = whole(tmp_path / "a.aac")
    assert samples.shape[1] / RATE == pytest.approx(22.0, abs=0.2) and not gaps


@settings(deadline=None)
@given(st.data())
def test_whatever_a_file_holds_it_has_parts(data: st.DataObject) -> None:
    """Beginnings of every kind, cut anywhere and put among others."""
    heads = [
        BOX,
        WAVE,
        WAVPACK,
        *(row[1] for row in STATED),
        b"ID3\4\0\0\0\0\0\1x",
        b"\xff\xf1\x50\x80\1\x20",
        b"G",
    ]
    piece = st.one_of(st.sampled_from(heads), st.binary(max_size=30))
    mixed = b"".join(data.draw(st.lists(piece, max_size=8)))
    found = joined.parts(mixed[: data.draw(st.integers(0, len(mixed)))])
    assert all(begin <= end for begin, end in found)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))


def test_bytes_left_out_are_known_by_the_places_of_packets() -> None:
    skipped = Skipped()
    for number in range(100):
        assert skipped.take(1000 + 110 * number, 100, number / 10) == 0.0  # ten bytes between them
    assert skipped.take(1000 + 110 * 100 + 1100, 100, 10.0) == pytest.approx(1.0, abs=0.02)
    assert skipped.take(1000 + 110 * 101 + 1100, 100, 10.1) == 0.0
    assert skipped.take(None, 100, 10.2) == skipped.take(-1, 100, 10.2) == skipped.take(99, 0, 10.2) == 0.0
    assert skipped.rest(1000 + 110 * 101 + 1100 + 100, 10.2) == 0.0
    assert skipped.rest(1000 + 110 * 101 + 1100 + 100 + 1100, 10.2) == pytest.approx(1.0, abs=0.02)
    assert Skipped().rest(99, 1.0) == 0.0


def test_late_audio_of_kinds_whose_clock_begins_at_zero(tmp_path: Path) -> None:
    """FLV has a time in each tag; AVI has one for each stream, in units of its own."""
    with av.open(str(tmp_path / "a.flv"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for start in range(0, 44032, 1024):
            frame = av.AudioFrame.from_ndarray(np.full((1, 1024), 0.25, np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, 2 * 44100 + start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples, gaps = whole(tmp_path / "a.flv")
    assert onset(samples) == pytest.approx(2.0, abs=0.03) and not gaps
    data = bytearray(encoded(tmp_path / "a.avi", "pcm_s16le", RATE))
    header = data.index(b"auds")
    scale, rate = struct.unpack_from("<II", data, header + 20)
    struct.pack_into("<I", data, header + 28, 2 * rate // scale)
    (tmp_path / "a.avi").write_bytes(data)
    samples, gaps = whole(tmp_path / "a.avi")
    assert onset(samples) == pytest.approx(2.106, abs=0.03) and not gaps


def test_a_stream_that_only_begins_within_the_file_is_left_out(tmp_path: Path) -> None:
    data = encoded(tmp_path / "a.flv", "aac", 44100)
    at = data.index(b"\x08", len(data) // 2)
    while data[at + 8 : at + 13] != b"\0\0\0\xaf\1":
        at = data.index(b"\x08", at + 1)
    picture = (
        b"\x09"
        + (5).to_bytes(3, "big")
        + data[at + 4 : at + 8]
        + b"\0\0\0"
        + b"\x12\0\0\x84\0"
        + bytes([0, 0, 0, 16])
    )
    (tmp_path / "a.flv").write_bytes(data[:at] + 3 * picture + data[at:])
    samples, gaps = whole(tmp_path / "a.flv")
    assert samples.shape[1] / RATE == pytest.approx(11.0, abs=0.1) and not gaps


def wave_header(rate: int, channels: int) -> bytes:
    about = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0" + about + b"data\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("rate", "channels", "why"),
    [(1, 1, "rate is 1 Hz"), (768000, 2, "rate is 768000 Hz"), (16000, 64, "64 channels; at most 32")],
)
def test_rates_and_channels_beyond_reason_are_refused(
    tmp_path: Path, rate: int, channels: int, why: str
) -> None:
    path = tmp_path / "odd.wav"
    path.write_bytes(wave_header(rate, channels) + bytes(86400 * 2))
    with pytest.raises(FileError, match=why):
        whole(path)


def test_a_recording_longer_than_allowed_is_refused() -> None:
    with pytest.raises(FileError, match=r"longer than 0.001 hours"):
        whole(FILES / "c24.au", ReadSettings(max_s=3.6))


REFUSED = [
    (b"", "an empty file"),
    (b"\0" * 5000, "nothing but zero bytes"),
    (b"Dear all,\nplease find enclosed\n" * 50, "it is text"),
    (b"\x89PNG\r\n\x1a\n" + bytes(400), "a PNG image"),
    (b"ffconcat version 1.0\nfile /etc/passwd\n", "a list of files"),
    (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.wav\n", "a playlist"),
    (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 4000 RTP/AVP 0\n", "a session description"),
    (b"RIFF" + os.urandom(400), "no audio or video of a kind that is known"),
]


@pytest.mark.parametrize(("data", "why"), REFUSED, ids=[case[1] for case in REFUSED])
def test_what_is_no_recording_is_refused_by_its_kind(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "some.wav"
    path.write_bytes(data)
    with pytest.raises(FileError, match=why):
        AudioFile(path)


def test_paths_that_cannot_be_read_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")  # to open it would wait for a writer
    for path, why in [
        (tmp_path, "a folder without recordings"),
        (tmp_path / "link.wav", "No such file"),
        (tmp_path / "loop.wav", "[Ss]ymbolic link"),
        (tmp_path / "pipe.wav", "no file but a pipe"),
        (tmp_path / ("x" * 300), "name too long"),
    ]:
        with pytest.raises(FileError, match=why):
            AudioFile(path)


@pytest.mark.parametrize("name", ["http:a.au", "concat:a|b.au", "file:x.au", "-.au", b"\xff\xfe.au"])
def test_names_are_names(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes((FILES / "c24.au").read_bytes())
    assert whole(path)[0].shape[1] == pytest.approx(11 * RATE, abs=10)


@pytest.mark.parametrize("encoding", sorted(raw.ENCODINGS))
def test_raw_audio_is_read_as_it_is_declared(tmp_path: Path, encoding: str) -> None:
    data = bytes(range(256)) * 2 * raw.width(encoding)
    if "_f" in encoding:
        data = np.linspace(-1, 1, 512).astype(raw.ENCODINGS[encoding]).tobytes()
    (tmp_path / "a.raw").write_bytes(data + b"\x01" * (raw.width(encoding) - 1))
    samples, _ = whole(tmp_path / "a.raw", ReadSettings(raw=RawAudio(encoding, RATE)))
    assert samples.shape == (1, 512) and np.abs(samples).max() <= 1
    both, _ = whole(tmp_path / "a.raw", ReadSettings(raw=RawAudio(encoding, RATE, 2), split=True))
    assert np.array_equal(both[1], samples[0, 1::2])


def test_raw_audio_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"abcd")
    for declared, why in [
        (RawAudio("pcm_s24le", 8000), "none of"),
        (RawAudio("pcm_s16le", 1), "rate is 1 Hz"),
        (RawAudio("pcm_s16le", 8000, 40), "40 channels"),
    ]:
        with pytest.raises(FileError, match=why):
            AudioFile(tmp_path / "a.raw", ReadSettings(raw=declared))


# --- time -----------------------------------------------------------------------------------------


def test_holes_are_filled_leaps_are_not_and_rounding_is_neither() -> None:
    line = Timeline()
    line.start(0.0, may_jump=False)
    assert line.place(2.0, 1.0) == 2.0  # the beginning is exact
    assert line.place(3.03, 1.0) == 0.0
    assert line.place(4.5, 1.0) == pytest.approx(0.5)
    assert line.place(None, 1.0) == 0.0
    assert line.place(6.0, 1.0) == 0.0  # half a second early: kept
    assert line.place(7.6, 1.0) == pytest.approx(0.1)  # and held against the next hole
    assert line.place(90000.0, 1.0) == 0.0
    assert line.place(90002.0, 1.0) == pytest.approx(1.0)
    assert line.place(3.0, 1.0) == 0.0


def test_where_the_clock_may_jump_ten_seconds_are_a_leap() -> None:
    line = Timeline()
    line.start(80001.0, may_jump=True)
    assert line.place(80001.5, 1.0) == pytest.approx(0.5)
    assert line.place(80014.0, 1.0) == 0.0
    line.start(5.0, may_jump=True)  # the next of joined files
    assert line.place(5.0, 1.0) == 0.0 and line.position == pytest.approx(3.5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 2)), max_size=30))
def test_times_that_rise_are_kept_within_a_rounding(frames: list[tuple[float, float]]) -> None:
    line, clock = Timeline(), 0.0
    line.start(0.0, may_jump=False)
    for pause, duration in frames:
        clock += pause
        line.place(clock, duration)
        assert line.position - duration == pytest.approx(clock, abs=0.05)
        clock += duration


# --- processes ------------------------------------------------------------------------------------


def test_messages_survive_the_way_between_processes() -> None:
    sound = Sound(1, 1 << 40, np.arange(6, dtype=np.float32).reshape(2, 3))
    copy = decode(*encode(sound))
    assert isinstance(copy, Sound) and np.array_equal(copy.samples, sound.samples)
    assert (copy.channel, copy.start) == (1, 1 << 40)
    for part in (Gap(1.0, 2.5, "damaged"), FileInfo("wav", None, 2, ("a", "b"))):
        assert decode(*encode(part)) == part
    wanted = ReadSettings(split=True, stream="all", raw=RawAudio("pcm_s16le", 8000, 2), duration=1.0)
    name = os.fsdecode(b'\xff\n".wav')
    assert parse_request(request(name, wanted)) == (name, wanted)


# A worker that dies of one name and stands still on another.
FAULTY = """
import os, sys, time
from rtcstt import file_worker
serve = file_worker.Worker.serve
def faulty(self, line):
    if b"/crash." in line: os.kill(os.getpid(), 11)
    if b"/hang." in line: time.sleep(1000)
    serve(self, line)
file_worker.Worker.serve = faulty
file_worker.main()
"""


@pytest.mark.real
async def test_a_decoder_that_crashes_or_hangs_ends_its_file_alone(tmp_path: Path) -> None:
    names = ["a.au", "crash.au", "b.au", "hang.au", "c.au"]
    for name in names:
        (tmp_path / name).write_bytes((FILES / "c24.au").read_bytes())
    readers = Readers(2, stall_s=10, command=(sys.executable, "-c", FAULTY))

    async def outcome(name: str) -> str:
        try:
            async with readers.open(tmp_path / name) as reading:
                count = sum(
                    [part.samples.shape[1] async for part in reading.parts() if isinstance(part, Sound)]
                )
                return str(round(count / RATE))
        except FileError as error:
            return str(error)

    found = dict(zip(names, await asyncio.gather(*map(outcome, names)), strict=True))
    await readers.close()
    await readers.close()
    assert found["a.au"] == found["b.au"] == found["c.au"] == "11"
    assert "crashed on it (SIGSEGV)" in found["crash.au"] and "stood still on it for 10 s" in found["hang.au"]


# Says that a file begins, then more than anybody reads; the marker is there when pipe and buffers are full.
TALKATIVE = """
import os, pathlib, sys
from rtcstt import file_worker
from rtcstt.media.tracks import FileInfo
path, _ = file_worker.parse_request(sys.stdin.buffer.readline())
kind, body = file_worker.encode(FileInfo("wav", 600.0, 1))
os.write(1, file_worker.HEADER.pack(kind, len(body)) + body)
written = 0
while True:
    written += os.write(1, bytes(4096))
    if written == (2 << 20) + (1 << 16):
        pathlib.Path(path).touch()
"""


@pytest.mark.real
async def test_a_reading_that_is_left_with_much_unread_frees_its_place(tmp_path: Path) -> None:
    readers = Readers(1, command=(sys.executable, "-c", TALKATIVE))
    async with asyncio.timeout(300):
        for name in ("one", "two"):
            async with readers.open(tmp_path / name):
                while not (tmp_path / name).exists():  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(0.02)
        await readers.close()


@pytest.mark.real
async def test_processes_wait_a_while_for_more_recordings_at_once(tmp_path: Path) -> None:
    """Four at once again and again start no more than four; in the end one is left."""
    started = tmp_path / "started"
    program = f"import os; open({str(started)!r}, 'a').write(f'{{os.getpid()}}\\n')"
    command = (sys.executable, "-c", f"{program}; from rtcstt import file_worker; file_worker.main()")

    async def read(readers: Readers) -> None:
        async with readers.open(FILES / "c24.au") as reading:
            async for _ in reading.parts():
                pass

    async def read_twelve(linger_s: float) -> Readers:
        readers = Readers(4, keep=1, linger_s=linger_s, command=command)
        for _ in range(3):
            await asyncio.gather(*(read(readers) for _ in range(4)))
        return readers

    readers = await read_twelve(3600.0)
    assert len(started.read_text().split()) <= 4
    await readers.close()
    started.unlink()
    readers = await read_twelve(0.0)
    async with asyncio.timeout(300):
        while len(alive(started)) > 1:  # noqa: ASYNC110 - processes that end
            await asyncio.sleep(0.02)
    await read(readers)
    await readers.close()
    assert alive(started) == []


def alive(started: Path) -> list[str]:
    """Those of the processes that have not ended."""
    return [one for one in started.read_text().split() if Path(f"/proc/{one}").exists()]


@pytest.mark.real
async def test_a_reading_that_is_left_frees_its_place() -> None:
    readers = Readers(1)
    for _ in range(2):
        async with readers.open(FILES / "c24.au") as reading:
            await anext(reading.parts())
    with pytest.raises(FileError, match="No such file"):
        async with readers.open(FILES / "missing"):
            pass
    async with readers.open(FILES / "c24.au") as reading:
        assert reading.info.duration == 11.0
    await readers.close()


def test_every_kind_that_is_named_is_one_of_ffmpegs() -> None:
    known = {name for names in av.formats_available for name in names.split(",")}
    assert set(kinds.DEMUXERS.split(",")) - known <= {"asf_o", "ivr", "kux"}


def test_a_film_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(FileError, match="no audio in it"):
        AudioFile(tmp_path / "a.mp4")


def test_of_silent_streams_alone_the_first_is_read(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for stream, seconds in zip(streams, (1, 2), strict=True):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, seconds * RATE), np.int16), "s16", "mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
    samples, gaps = whole(tmp_path / "a.mka")
    assert samples.shape == (1, RATE) and not samples.any() and not gaps


def test_raw_audio_of_no_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"\1")
    declared = ReadSettings(raw=RawAudio("pcm_s16le", RATE))
    with pytest.raises(FileError, match="no audio in it"):
        list(AudioFile(tmp_path / "a.raw", declared))


def test_a_joined_file_that_cannot_be_read_is_a_gap_behind_the_others(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    one = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(one + b"RIFF\4\0\0\0WAVE")
    samples, gaps = whole(tmp_path / "b.wav")
    assert samples.shape[1] == len(speech())
    assert [(gap.reason, gap.start) for gap in gaps] == [("damaged", pytest.approx(11.0))]


BOX = box(b"ftyp", b"isom" * 4)
WAVE = b"RIFF\4\0\0\0WAVE"
WAVPACK = b"wvpk" + (24).to_bytes(4, "little") + bytes(12) + (1).to_bytes(4, "little") + bytes(8)


@pytest.mark.parametrize(
    ("data", "bounds"),
    [
        ((box(b"ftyp", b"isom" * 4) + box(b"mdat", bytes(40), wide=True)) * 2, [0, 80, 160]),
        (box(b"ftyp", b"isom" * 4) + bytes(40) + box(b"ftyp", b"isom" * 4), [0, 88]),
        (WAVPACK + b"something else of more than thirty-two bytes", [0, 76]),
        (WAVE * 3, [0, 12, 24, 36]),
        (WAVE * (joined.MOST + 9), [*range(0, 12 * joined.MOST, 12), 12 * (joined.MOST + 9)]),
    ],
    ids=["64-bit lengths", "no length", "no block", "joined", "more than are looked for"],
)
def test_where_joined_files_begin(data: bytes, bounds: list[int]) -> None:
    assert joined.parts(data) == list(itertools.pairwise(bounds))


CAF = b"caff\0\1\0\0" + chunk(b"desc", 4, ">q") + b"xxxx"
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + struct.pack("<Q", 24)
MKV = b"\x1aE\xdf\xa3\x8b\x42\x82\x88matroska\x18\x53\x80\x67"
AC3 = b"\x0b\x77\0\0\x40\x40" + bytes(132)  # 32 kbit/s at 44.1 kHz: 138 bytes
EAC3 = b"\x0b\x77\0\7\x30\x80" + bytes(10)
SUN = b".snd" + struct.pack(">IIIII", 24, 8, 3, 8000, 1)


@pytest.mark.parametrize(
    ("first", "joined_at_its_end"),
    [
        (chunk(b"RIFF", 8) + b"AVI LIST" + chunk(b"RIFF", 8) + b"AVIXLIST", True),
        (CAF + chunk(b"data", 6, ">q") + bytes(6), True),
        (CAF + chunk(b"data", -1, ">q") + bytes(6), True),
        (MKV + b"\x84" + bytes(4), True),
        (MKV + b"\xff" + bytes(4), False),  # live: nobody knows where it ends
        (MKV[:16] + b"\xec\x84" + bytes(4), False),
        (ASF + bytes(16) + struct.pack("<Q", 30) + bytes(6) + bytes(16) + struct.pack("<Q", 24), True),
        (ASF + bytes(16) + struct.pack("<Q", 0), False),
        (SUN + bytes(8), True),
        (SUN[:8] + b"\xff\xff\xff\xff" + SUN[12:] + bytes(8), True),
        (AC3 + AC3, True),
        (EAC3 + EAC3, True),
        (b"riff" + bytes(12) + struct.pack("<Q", 50) + bytes(26), True),
        (chunk(b"RIFF", 99) + b"WAVE", False),  # cut before its end
        (b"\x47" + bytes(187) + b"\x47" + bytes(187) + b"\x47" + bytes(187), False),
        (b"something else", False),
        (b"ID3", False),
    ],
)
def test_where_a_recording_ends_by_its_structure(first: bytes, joined_at_its_end: bool) -> None:
    whole = len(first) + len(WAVE)
    bounds = [0, len(first), whole] if joined_at_its_end else [0, whole]
    assert joined.parts(first + WAVE) == list(itertools.pairwise(bounds))


@pytest.mark.parametrize(
    "head",
    [b"\xff\xfb\x90", b"\xff\xeb\x90\0", b"\xff\xfb\0\0", b"\x0b\x77\0\0\xc0\x40", b"\xff\xf1\x7c\0\0\0\0"],
)
def test_what_only_looks_like_a_frame(head: bytes) -> None:
    assert joined.parts(head + bytes(300) + WAVE) == [(0, len(head) + 300 + len(WAVE))]


def test_folders_give_the_files_of_every_kind_that_is_read() -> None:
    """By the endings that FFmpeg has for it; left out are those of images and subtitles."""
    others = {"apl", "avif", "heic", "heif", "ism", "mks", "mjpg", "son", "vb", "ty+"}
    for name in kinds.DEMUXERS.split(","):
        with contextlib.suppress(ValueError):  # FFmpeg has it to write with, or not at all
            assert av.ContainerFormat(name, "r").extensions - {""} <= ENDINGS | others, name
