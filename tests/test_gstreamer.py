"""GStreamer's webrtcbin, as gateways and cameras use it, calls a real server.

It offers an RSA certificate, as aiortc alone does not accept, and sends what it has queued since before the
connection stood in one burst. Debian: gstreamer1.0-nice, gstreamer1.0-plugins-bad, -good and -base,
python3-gst-1.0, gir1.2-gst-plugins-bad-1.0.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from processes import check_events, running

from rtcstt.commands.demo import bundled_recording, word_errors

pytestmark = pytest.mark.real

CALLER = Path(__file__).parent / "interop" / "gstreamer_caller.py"
PYTHON = "/usr/bin/python3"  # Debian's own, the one that has gi
SPOKEN_S = 4.8  # of the recording, up to a pause
PLAYED_S = 5.5
WORDS = "It was the best of times, it was the worst of times,"
NEEDED = """
import gi
for name in ("Gst", "GstWebRTC", "GstSdp"):
    gi.require_version(name, "1.0")
from gi.repository import Gst, GstWebRTC, GstSdp
Gst.init(None)
for name in "webrtcbin nicesrc dtlssrtpenc srtpenc opusenc rtpopuspay wavparse audioresample".split():
    assert Gst.ElementFactory.find(name), f"there is no {name}"
"""


@pytest.fixture(scope="module")
def webrtcbin() -> None:
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no {PYTHON}, whose gi this needs")
    tried = subprocess.run([PYTHON, "-c", NEEDED], capture_output=True, text=True, timeout=200)
    if tried.returncode:
        pytest.skip(f"GStreamer's webrtcbin is not installed: {tried.stderr.strip().rsplit(chr(10), 1)[-1]}")


def test_webrtcbin_connects_and_its_words_arrive(webrtcbin: None, tmp_path: Path) -> None:
    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    silence = np.zeros(5 * rate, np.int16)  # however long connecting takes, nothing else is said
    soundfile.write(tmp_path / "voice.wav", np.concatenate([samples[: int(SPOKEN_S * rate)], silence]), rate)
    with running("serve", tmp_path) as server:
        caller = subprocess.run(
            [PYTHON, CALLER, tmp_path / "voice.wav", f"{server.url}/offer", str(PLAYED_S)],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert caller.returncode == 0, caller.stderr
        call = caller.stdout.strip()
        duration_s = server.hang_up(call)
        events = server.events(call)
        text = server.get(f"/calls/{call}/transcript.txt")
    check_events(events)
    (ledger,) = events[-1]["ledger"].values()
    assert ledger["sent"] == pytest.approx(1000 * duration_s, abs=300)
    assert ledger["recovered"] + ledger["concealed"] == 0
    # All that was said since the beginning is there, also what waited for the connection.
    assert 1000 * (PLAYED_S - 0.2) <= ledger["received"] <= 1000 * (PLAYED_S + 5.0)
    assert word_errors(WORDS, text).rate <= 0.1, text
