"""Speech from text, for clients that want something to listen to."""

from __future__ import annotations

import asyncio
import io
import shutil
import stat
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from aiohttp.test_utils import TestClient, TestServer

from rtcstt.embedded.audio import AudioDecoder
from rtcstt.embedded.http import speech
from rtcstt.embedded.http.routes import add_routes
from rtcstt.embedded.http.speech import MAX_TEXT, Speaker, Wanted
from rtcstt.embedded.recognizer import Recognizer
from rtcstt.embedded.service import Service
from rtcstt.errors import CallerError, EngineError
from rtcstt.http.access import Authenticator
from rtcstt.http.guard import Guard

pytestmark = pytest.mark.real

WORDS = "The quick brown fox jumps over the lazy dog."
FORM = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"transcript": "", "output_format": FORM},
        {"transcript": " ", "output_format": FORM},
        {"transcript": 7, "output_format": FORM},
        {"transcript": "a" * (MAX_TEXT + 1), "output_format": FORM},
        {"transcript": WORDS},
        {"transcript": WORDS, "output_format": "wav"},
        {"transcript": WORDS, "output_format": {**FORM, "container": "ogg"}},
        {"transcript": WORDS, "output_format": {**FORM, "encoding": "pcm_s24le"}},
        {"transcript": WORDS, "output_format": {**FORM, "encoding": ["pcm_s16le"]}},
        {"transcript": WORDS, "output_format": {**FORM, "encoding": "libmp3lame"}},
        {"transcript": WORDS, "output_format": {"container": "mp3", "sample_rate": 10000}},
        {"transcript": WORDS, "output_format": {**FORM, "container": ["raw"]}},
        {"transcript": WORDS, "output_format": {**FORM, "sample_rate": 7999}},
        {"transcript": WORDS, "output_format": {**FORM, "sample_rate": 1e9}},
        {"transcript": WORDS, "output_format": {**FORM, "sample_rate": True}},
    ],
)
def test_what_cannot_be_said_is_refused(body: object) -> None:
    with pytest.raises(CallerError) as refused:
        Wanted.parse(body)
    assert refused.value.status == 400


def test_the_form_of_the_vendors_examples_is_taken() -> None:
    voice = {"mode": "id", "id": "6ccbfb76"}
    body = {"model_id": "sonic-latest", "transcript": WORDS, "voice": voice, "output_format": FORM}
    assert Wanted.parse(body) == Wanted(WORDS, "raw", "pcm_s16le", 16000)


def test_without_flite_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match="apt-get install flite"):
        Speaker()


@flite
@pytest.mark.parametrize("encoding", speech.RAW)
@pytest.mark.parametrize("rate", [8000, 44100])
async def test_each_encoding_is_the_same_sound(encoding: str, rate: int) -> None:
    speaker = Speaker()
    data = await speaker.say(Wanted("Hello there.", "raw", encoding, rate))
    samples = AudioDecoder(encoding).decode(data)
    reference = AudioDecoder("pcm_s16le").decode(
        await speaker.say(Wanted("Hello there.", "raw", "pcm_s16le", rate))
    )
    assert 0.5 < len(samples) / rate < 2.0 and abs(len(samples) - len(reference)) <= rate * 0.02
    common = min(len(samples), len(reference))
    assert np.abs(samples[:common] - reference[:common]).max() < 0.05


@flite
@pytest.mark.parametrize("container", ["wav", "mp3"])
async def test_files_can_be_played(container: str) -> None:
    data = await Speaker().say(
        Wanted("Hello there.", container, "libmp3lame" if container == "mp3" else "pcm_s16le", 16000)
    )
    samples, rate = soundfile.read(io.BytesIO(data))
    assert rate == 16000 and 0.5 < len(samples) / rate < 2.0 and np.abs(samples).max() > 0.1


@flite
async def test_what_looks_like_an_option_or_a_file_is_text() -> None:
    for text in ("-o /tmp/x", "/etc/passwd", "$(echo no)", "--help", "\x00\ud800 é"):
        data = await Speaker().say(Wanted(text, "raw", "pcm_s16le", 16000))
        assert len(data) < 10 * 32000


@flite
async def test_text_that_takes_long_to_say_is_refused() -> None:
    speaker = Speaker(max_audio_s=1.0)
    await speaker.say(Wanted("Hello.", "raw", "pcm_s16le", 16000))
    with pytest.raises(CallerError) as refused:
        await speaker.say(Wanted("9" * 20, "raw", "pcm_s16le", 16000))
    assert refused.value.status == 400


def program(folder: Path, script: str) -> None:
    path = folder / "flite"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


async def test_a_synthesiser_that_fails_or_hangs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for script in ("exit 3", "true", "exec /bin/sleep 60"):
        program(tmp_path, script)
        with pytest.raises(CallerError) as failed:
            await Speaker(timeout_s=0.05).say(Wanted(WORDS, "raw", "pcm_s16le", 16000))
        assert failed.value.status == 500


async def test_only_so_many_are_served_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path, "exec /bin/sleep 60")
    speaker, wanted = Speaker(timeout_s=0.2), Wanted(WORDS, "raw", "pcm_s16le", 16000)
    results = await asyncio.gather(*(speaker.say(wanted) for _ in range(3)), return_exceptions=True)
    assert sorted(result.status for result in results if isinstance(result, CallerError)) == [429, 500, 500]


@pytest.mark.parametrize("with_tts", [False, pytest.param(True, marks=flite)])
async def test_speech_is_made_only_where_that_was_asked_for(with_tts: bool) -> None:
    async def services() -> Service:
        raise AssertionError("no recogniser is needed")

    guard = Guard(Authenticator(api_keys=("sesame",)))
    app = guard.application(client_max_size=1 << 20)
    add_routes(app, services, guard, Speaker() if with_tts else None)
    async with TestClient(TestServer(app)) as client:
        body = {"transcript": WORDS, "output_format": FORM}
        assert (await client.post("/tts/bytes", json=body)).status == 401
        answer = await client.post("/tts/bytes", json=body, headers={"X-API-Key": "sesame"})
        assert answer.status == (200 if with_tts else 404)
        if not with_tts:
            assert "--with-tts" in (await answer.json())["message"]
        broken = await client.post("/tts/bytes", data=b"{", headers={"X-API-Key": "sesame"})
        assert broken.status == (400 if with_tts else 404)


@flite
async def test_the_recogniser_understands_it() -> None:
    try:
        recognizer = Recognizer.load("tiny-en")
    except EngineError as error:
        pytest.skip(str(error))
    data = await Speaker().say(Wanted(WORDS, "raw", "pcm_s16le", 16000))
    batch = await recognizer.transcribe(AudioDecoder("pcm_s16le").decode(data))
    await recognizer.close()
    assert jiwer.wer(WORDS.lower().rstrip("."), batch.text.lower().rstrip(".")) <= 0.2
