"""`rtcstt transcribe`: cutting, joining, files, and the batch endpoint."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest
import soundfile
import webvtt
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcstt.batch import audio, engines, run, transcripts
from rtcstt.batch.audio import Block, Cutter, Recording
from rtcstt.batch.engines import Recognised, Word
from rtcstt.batch.transcripts import Turn, turns_of
from rtcstt.commands import transcribe
from rtcstt.commands.demo import REFERENCE, bundled_recording, word_errors
from rtcstt.errors import ConfigError, UpstreamError
from rtcstt.media.pcm import SAMPLE_RATE

# --- cutting --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.integers(1, 45 * SAMPLE_RATE), max_size=8))
def test_blocks_are_the_whole_channel_in_order_and_none_is_long(sizes: list[int]) -> None:
    cutter = Cutter(0)
    whole = np.arange(sum(sizes), dtype=np.float32)
    blocks: list[Block] = []
    for part in np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []:
        blocks += cutter.push(part)
    blocks += cutter.flush()
    assert np.array_equal(np.concatenate([block.samples for block in blocks] or [whole]), whole)
    assert all(block.samples[0] == block.start for block in blocks)
    assert all(len(block.samples) <= audio.BLOCK for block in blocks)
    assert all(len(block.samples) >= audio.SHORTEST for block in blocks[:-1])


def test_a_cut_is_made_in_the_pause_and_not_in_a_word() -> None:
    noise = np.random.default_rng(1).standard_normal(70 * SAMPLE_RATE).astype(np.float32)
    noise[41 * SAMPLE_RATE : 42 * SAMPLE_RATE] = 0
    first, *_ = Cutter(0).push(noise)
    assert 41 < len(first.samples) / SAMPLE_RATE < 42


# --- reading --------------------------------------------------------------------------------------


def test_channels_are_mixed_or_kept_apart_at_16_khz(tmp_path: Path) -> None:
    both = np.zeros((48000, 2), np.float32)
    both[:, 0] = 0.5 * np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)
    soundfile.write(tmp_path / "two.wav", both, 48000)

    apart = list(Recording(tmp_path / "two.wav", split=True).blocks())
    assert [block.channel for block in apart] == [0, 1]
    assert [len(block.samples) for block in apart] == pytest.approx([16000, 16000], abs=1)
    assert np.abs(apart[0].samples).max() == pytest.approx(0.5, abs=0.02)
    assert np.abs(apart[1].samples).max() < 0.001

    (mixed,) = Recording(tmp_path / "two.wav", split=False).blocks()
    assert np.abs(mixed.samples).max() == pytest.approx(0.25, abs=0.02)


def test_a_hole_that_time_stamps_tell_of_is_silence_of_that_length(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "hole.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 16000 + 32000):  # a second, two seconds of nothing, a second
            frame = av.AudioFrame.from_ndarray(np.full((1, 16000), 5000, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
    (block,) = Recording(tmp_path / "hole.mka", split=False).blocks()
    loud = np.abs(block.samples) > 0.1
    assert len(loud) == pytest.approx(64000, abs=160)
    assert loud[:15900].all() and not loud[16100:47900].any() and loud[48100:63800].all()


def test_files_without_sound_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF" + os.urandom(400))
    with pytest.raises(ConfigError, match="cannot be read"):
        Recording(tmp_path / "broken.wav", split=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        Recording(tmp_path / "missing.wav", split=False)


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 16000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(16000 * 60, np.int16))
    total = largest = 0
    for block in Recording(tmp_path / "long.flac", split=False).blocks():
        total += len(block.samples)
        largest = max(
            largest, block.samples.nbytes, 0 if block.samples.base is None else block.samples.base.nbytes
        )
    assert total == 3600 * SAMPLE_RATE
    assert largest <= 4 * (audio.BLOCK + 60 * SAMPLE_RATE)


# --- text -----------------------------------------------------------------------------------------

words = st.lists(
    st.tuples(st.text("abcd,.'", min_size=1, max_size=6), st.floats(0.05, 2.5)), min_size=1, max_size=30
)


@given(words, st.integers(0, 10**7))
def test_turns_together_are_the_text_and_never_overlap(said: list[tuple[str, float]], start: int) -> None:
    at = 0.0
    heard = []
    for text, gap in said:
        heard.append(Word(text, at, at + 0.3))
        at += 0.3 + gap
    text = " " + "  ".join(word.word for word in heard) + " "
    turns = turns_of(Block(0, start, np.zeros(int(at * SAMPLE_RATE), np.float32)), Recognised(text, heard))
    assert "".join(turn.text for turn in turns) == text
    assert [word.word for turn in turns for word in turn.words] == [word.word for word in heard]
    assert all(turn.start < turn.end for turn in turns)
    assert all(
        b.start - a.end > transcripts.TURN_PAUSE_S - 0.01 for a, b in zip(turns, turns[1:], strict=False)
    )


def test_words_that_do_not_match_the_text_lose_no_text() -> None:
    block = Block(0, SAMPLE_RATE, np.ones(2 * SAMPLE_RATE, np.float32))
    (turn,) = turns_of(block, Recognised(" Five.", [Word("5", 0.1, 0.2)]))
    assert (turn.text, turn.start, turn.end) == (" Five.", 1.0, 3.0)


def test_blocks_join_with_one_space() -> None:
    turns = [Turn(0, "One.", 0, 1, [])]
    run.join(turns, [Turn(0, "Two.", 60, 61, [])])
    run.join(turns, [Turn(0, " Three.", 120, 121, [])])
    assert "".join(turn.text for turn in turns) == "One. Two. Three."


# --- files ----------------------------------------------------------------------------------------


class Echo:
    """An engine that hears the loudness of a block; keeps count."""

    def __init__(self) -> None:
        self.blocks = 0

    async def transcribe(self, samples: np.ndarray) -> Recognised:
        self.blocks += 1
        length = len(samples) / SAMPLE_RATE
        text = f"level {np.abs(samples).max():.1f}"
        return Recognised(text, [Word(word, length * 0.2, length * 0.8) for word in text.split()])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Echo:
    echo = Echo()

    class Opened:
        async def __aenter__(self) -> Echo:
            return echo

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(transcribe, "open_engine", lambda *_: Opened())
    return echo


def command(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    transcribe.add_arguments(parser)
    return transcribe.run(parser.parse_args([str(word) for word in words]))


def tone(path: Path, *levels: float, seconds: int = 3) -> Path:
    wave = np.sin(np.arange(seconds * 16000) * 2 * np.pi * 440 / 16000)[:, None] * np.array(levels)
    soundfile.write(path, wave, 16000)
    return path


def test_each_format_is_written_and_a_second_run_does_nothing(tmp_path: Path, engine: Echo) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    assert command(source, "--format", "txt,json,srt,vtt", "--output-dir", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.txt", "a.json", "a.srt", "a.vtt"}
    assert (tmp_path / "out" / "a.txt").read_text() == "level 0.5\n"
    turn = json.loads((tmp_path / "out" / "a.json").read_text())["turns"][0]
    assert turn["words"][1] == {"word": "0.5", "start": 0.6, "end": 2.4}

    again = (source, "--format", "txt,json,srt,vtt", "--output-dir", tmp_path / "out")
    assert command(*again) == 0 and engine.blocks == 1
    assert command(*again, "--force") == 0 and engine.blocks == 2
    (tmp_path / "out" / "a.srt").unlink()
    assert command(*again) == 0 and engine.blocks == 3


def test_a_broken_file_is_reported_and_the_rest_goes_on(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tone(tmp_path / f"{n}.wav", 0.5) for n in range(4)]
    files[1].write_bytes(b"no audio")
    assert command(*files) == 1
    assert [path.with_suffix(".txt").exists() for path in files] == [True, False, True, True]
    said = capsys.readouterr().err
    assert f"{files[1]}: cannot be read" in said and "3 transcribed, 0 already done, 1 failed" in said


def test_channels_are_speakers(tmp_path: Path, engine: Echo) -> None:
    source = tone(tmp_path / "call.wav", 0.5, 0.2)
    assert command(source, "--channels", "split", "--format", "txt,vtt,srt") == 0
    assert source.with_suffix(".txt").read_text() == "Speaker 1: level 0.5\nSpeaker 2: level 0.2\n"
    assert "<v Speaker 2>" in source.with_suffix(".vtt").read_text()
    cues = [cue.text for cue in webvtt.from_srt(str(source.with_suffix(".srt")))]
    assert cues == ["Speaker 1: level 0.5", "Speaker 2: level 0.2"]


def test_recordings_of_the_same_stem_do_not_overwrite_each_other(tmp_path: Path) -> None:
    works = run.plan([tmp_path / "a.wav", tmp_path / "a.mp3", tmp_path / "b.wav"], ["txt"], tmp_path / "out")
    assert [work.outputs["txt"].name for work in works] == ["a.wav.txt", "a.mp3.txt", "b.txt"]


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        command(tmp_path / "a.wav", "--format", "doc")


# --- the batch endpoint ---------------------------------------------------------------------------


class Server:
    """A batch endpoint that gives the statuses it was told to, then 200; remembers what it was asked."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.seen: list[tuple[str | None, str, float]] = []
        self.languages: list[str | None] = []

    async def stt(self, request: web.Request) -> web.Response:
        form = await request.post()
        upload = form["file"]
        assert isinstance(upload, web.FileField)
        loudest = float(np.abs(soundfile.read(upload.file)[0]).max())
        self.languages.append(form.get("language"))  # type: ignore[arg-type]
        self.seen.append((request.headers.get("Authorization"), str(form["model"]), round(loudest, 3)))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return web.json_response({"error_code": "no", "message": "not now"}, status=status)
        return web.json_response({"text": "Yes.", "words": [{"word": "Yes.", "start": 0.1, "end": 0.4}]})

    def started(self) -> TestServer:
        app = web.Application()
        app.router.add_post("/prefix/stt", self.stt)
        return TestServer(app)


HALF = np.full(SAMPLE_RATE, 0.5, np.float32)


@pytest.mark.real
async def test_the_batch_endpoint_gets_key_model_and_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTCSTT_STT_KEY", "k")
    stt = Server()
    async with stt.started() as server:
        base = str(server.make_url("/prefix")).replace("http", "ws")
        async with engines.open_engine(base, None, 1) as engine:
            assert await engine.transcribe(HALF) == Recognised("Yes.", [Word("Yes.", 0.1, 0.4)])
    assert stt.seen == [("Bearer k", "ink-whisper", 0.5)]


@pytest.mark.real
async def test_a_server_is_asked_again_when_it_is_busy_and_believed_when_it_refuses() -> None:
    stt = Server(503, 429, 200, 401)
    async with stt.started() as server, aiohttp.ClientSession() as http:
        engine = engines.BatchEndpoint(http, str(server.make_url("/prefix/stt")), "m", first_wait_s=0)
        assert (await engine.transcribe(HALF)).text == "Yes."
        assert len(stt.seen) == 3
        with pytest.raises(UpstreamError, match="401: not now"):
            await engine.transcribe(HALF)
        assert len(stt.seen) == 4


@pytest.mark.real
async def test_the_batch_endpoint_gets_the_language_where_one_is_given() -> None:
    stt = Server()
    async with stt.started() as server:
        for language in (None, "fr"):
            async with engines.open_engine(str(server.make_url("/prefix")), None, 1, language) as engine:
                await engine.transcribe(HALF)
    assert stt.languages == [None, "fr"]


async def test_what_is_no_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither embedded nor the URL"):
        async with engines.open_engine("ftp://somewhere", None, 1):
            pass


# --- the real recogniser --------------------------------------------------------------------------


def test_a_language_that_the_model_does_not_understand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"language cannot be 'fr'.*English.*--model whisper-base"):
        command(tone(tmp_path / "a.wav", 0.5), "--language", "fr")


@pytest.mark.real
def test_speech_becomes_its_words_with_their_times(tmp_path: Path) -> None:
    source = bundled_recording()
    assert command(source, "--format", "txt,json,vtt", "--output-dir", tmp_path) == 0
    assert word_errors(REFERENCE, (tmp_path / "two_cities.txt").read_text()).rate < 0.1
    turns = json.loads((tmp_path / "two_cities.json").read_text())["turns"]
    despair = next(word for turn in turns for word in turn["words"] if "despair" in word["word"].lower())
    assert 18.9 < despair["start"] < despair["end"] < 21.0
