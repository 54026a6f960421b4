"""`rtcstt stt` as its users start it, and a recording."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from rtcstt.commands.demo import bundled_recording
from rtcstt.embedded.engines import models
from rtcstt.errors import EngineError

CUT_S = 13.2  # a pause of the reader's, after the words that `outside.WORDS` has


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same sentence at several sample rates, with silence after it that ends its turn."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    samples = np.concatenate([samples[: int(CUT_S * rate)] * 3, np.zeros(int(1.5 * rate), np.float32)])
    files = {}
    for wanted in (16000, 48000):
        files[wanted] = tmp_path_factory.mktemp("speech") / f"{wanted}.wav"
        pcm = np.clip(soxr.resample(samples, rate, wanted) * 32767, -32768, 32767).astype("<i2")
        with wave.open(str(files[wanted]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(wanted)
            file.writeframes(pcm.tobytes())
    return files


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`rtcstt stt` with a key file; its URL."""
    try:
        models.recogniser_folder("tiny-en")
        models.require("silero-vad")
    except EngineError as error:
        pytest.skip(str(error))
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("sesame\n")
    command = [sys.executable, "-m", "rtcstt.cli", "stt", "--port", "0", "--key-file", str(keys)]
    command += ["--with-tts"] if shutil.which("flite") else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if found := re.search(r"listening on (http\S+)", line):
            break
    else:
        pytest.fail("the server did not start: " + "".join(seen))
    reading = threading.Thread(target=process.stderr.read)  # or it would block when the pipe is full
    reading.start()
    yield found[1]
    process.terminate()
    assert process.wait(90) == 0
    reading.join()
    process.stderr.close()
