"""The served page in Debian's Firefox: a voice becomes captions. In a network of its own with a way out,
without which Firefox offers no candidates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import netns
import npm
import numpy as np
import pytest
import soundfile
from processes import RTCSTT, running
from test_page import PICTURES

from rtcstt.commands.demo import bundled_recording, word_errors

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).parent / "interop" / "firefox.cjs"
WORDS = "It was the best of times, it was the worst of times,"
FROM_S, UNTIL_S = 0.8, 4.9  # of the recording
LEAD_S, TAIL_S = 3.0, 3.0


@pytest.mark.heavy
def test_a_voice_becomes_captions_in_firefox(tmp_path: Path) -> None:
    firefox = shutil.which("firefox-esr") or pytest.skip(
        "no Firefox here (Debian: apt-get install firefox-esr)"
    )
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    parts = [np.zeros(int(LEAD_S * rate)), 3 * samples[int(FROM_S * rate) : int(UNTIL_S * rate)]]
    soundfile.write(tmp_path / "voice.wav", np.concatenate([*parts, np.zeros(int(TAIL_S * rate))]), rate)
    PICTURES.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HOME": str(tmp_path), "NODE_PATH": str(npm.modules("firefox"))}
    with netns.namespaces("firefox", "else") as (here, there):
        netns.join(here, "10.99.0.1/24", there, "10.99.0.2/24", name="ff")
        netns.do("ip", "-n", here, "route", "add", "default", "via", "10.99.0.2")
        with running("serve", tmp_path, program=[*netns.enter(here), RTCSTT]) as server:
            page = [server.url, str(tmp_path / "voice.wav"), str(PICTURES / "firefox.png"), "worst of times"]
            command = [*netns.enter(here), "node", str(SCRIPT), firefox, *page]
            done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["live"] and not told["errors"], told
    assert word_errors(WORDS, told["captions"]).errors == 0, told
