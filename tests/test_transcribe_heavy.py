"""`rtcstt transcribe` with what takes minutes or large packages."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from processes import RTCSTT
from test_whisper import DATA, the

from rtcstt.commands.demo import bundled_recording
from rtcstt.media.files import OPUS_RATE, read
from rtcstt.webrtc.playback import PACKET_SAMPLES, TIME_BASE, opus_packets

pytestmark = [pytest.mark.real, pytest.mark.heavy]

MINUTE = 60 * OPUS_RATE


def recorded(path: Path, minutes: int) -> Path:
    """Speech and then silence, each minute the same: Opus at 16 kbit/s."""
    speech = read(bundled_recording())
    packets = opus_packets(np.pad(speech, (0, MINUTE - len(speech))), bit_rate=16000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE, layout="mono")
        stream.codec_context.open()  # its header is written before the first packet
        for number, data in enumerate(packets[: MINUTE // PACKET_SAMPLES] * minutes):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, TIME_BASE
            packet.pts = packet.dts = number * PACKET_SAMPLES
            packet.duration = PACKET_SAMPLES
            container.mux(packet)
    return path


def peak_mb(*arguments: str | Path) -> float:
    """The most memory that `rtcstt transcribe` had."""
    process = subprocess.Popen(["nice", "-n", "5", RTCSTT, "transcribe", "--jobs", "2", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


def test_an_hour_needs_no_more_memory_than_five_minutes(tmp_path: Path) -> None:
    short = peak_mb(recorded(tmp_path / "short.ogg", 5), "--format", "json")
    long = peak_mb(recorded(tmp_path / "long.ogg", 60), "--format", "json")
    found = json.loads((tmp_path / "long.json").read_text())
    assert found["duration"] == pytest.approx(3600, abs=1)
    text = " ".join(turn["transcript"] for turn in found["turns"]).lower()
    assert 57 <= text.count("winter of despair") <= 60
    assert long - short < 60


def test_whisper_takes_the_language_that_it_is_told(tmp_path: Path) -> None:
    """French, taken for Spanish, gives what no other language does: so the option has reached the model."""
    model, source = the("whisper-base"), DATA / "fleurs_fr_000378.wav"
    if not source.exists():
        pytest.skip("the reference recordings are not beside this checkout")
    texts = []
    for language in ("fr", "es"):
        out = tmp_path / language
        peak_mb(source, "--model", model, "--language", language, "--output-dir", out)
        texts.append((out / source.with_suffix(".txt").name).read_text().lower())
    assert "soleil" in texts[0] and "soleil" not in texts[1]
