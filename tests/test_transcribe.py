"""`rtcstt transcribe`: cutting, joining, files, and the batch endpoint."""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import aiohttp
import jsonschema
import numpy as np
import pytest
import soundfile
import webvtt
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright

import rtcstt
from rtcstt import cli
from rtcstt.batch import audio, engines, sources, state, transcripts, watch
from rtcstt.batch.audio import Block, Cutter
from rtcstt.batch.engines import BatchEndpoint, EngineSettings, Patience
from rtcstt.batch.formats import FormatSettings, render
from rtcstt.batch.state import State
from rtcstt.batch.transcripts import Transcription, Turn, join, turns_of
from rtcstt.batch.words import Recognised, Word, parse, valid
from rtcstt.commands import transcribe
from rtcstt.commands.demo import REFERENCE, bundled_recording, word_errors
from rtcstt.errors import ConfigError, UpstreamError
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.media.tracks import Gap
from rtcstt.server.options import add_arguments, load
from rtcstt.stt.refusals import refusal

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


# --- text -----------------------------------------------------------------------------------------

words = st.lists(
    st.tuples(st.text("abcd,.'", min_size=1, max_size=6), st.floats(0.05, 2.5)), min_size=1, max_size=30
)


@given(words, st.integers(0, 10**7))
def test_turns_together_are_the_text_and_never_overlap(said: list[tuple[str, float]], start: int) -> None:
    at = 0.0
    received = []
    for text, gap in said:
        received.append(Word(text, at, at + 0.3))
        at += 0.3 + gap
    text = " " + "  ".join(word.word for word in received) + " "
    turns = turns_of(Block(0, start, np.zeros(int(at * SAMPLE_RATE), np.float32)), Recognised(text, received))
    assert "".join(turn.text for turn in turns) == text
    assert [word.word for turn in turns for word in turn.words] == [word.word for word in received]
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
    join(turns, [Turn(0, "Two.", 60, 61, [])])
    join(turns, [Turn(0, " Three.", 120, 121, [])])
    assert "".join(turn.text for turn in turns) == "One. Two. Three."


# --- formats --------------------------------------------------------------------------------------


def two_said() -> Transcription:
    turns = [
        Turn(0, "One & two.", 1.0, 2.0, [Word("One", 1.0, 1.2), Word("&", 1.2, 1.5), Word("two.", 1.5, 2.0)]),
        Turn(0, " Three --> {four}.", 9.0, 10.0, [Word("Three", 9.0, 9.3)]),
    ]
    return Transcription("a.wav", "en", "tiny-en", "1", 12.0, 1, turns, [Gap(4.0, 5.5, "damaged")])


def test_text_has_paragraphs_and_tells_what_is_missing() -> None:
    whole = two_said()
    assert render(whole, "txt") == "One & two.\n\n[1.5 s not heard]\n\nThree --> {four}.\n"
    timed = render(whole, "txt", FormatSettings(text_times=True))
    assert timed.startswith("[00:00:01] One & two.\n\n[1.5 s not heard]\n\n[00:00:09] Three")
    long = [Turn(0, "Word. " * 60, n, n + 1, []) for n in range(6)]
    text = render(Transcription("a", None, "m", "1", 9.0, 1, long), "txt")
    assert [len(part) > 300 for part in text.split("\n\n")] == [True, True, True]


def test_every_format_is_read_back_by_its_rules() -> None:
    whole = two_said()
    assert Transcription.from_dict(json.loads(render(whole, "json"))) == whole
    assert render(whole, "tsv").splitlines() == [
        "start\tend\ttext",
        "1000\t2000\tOne & two.",
        "9000\t10000\tThree --> {four}.",
    ]
    assert "00:00:04.000 --> 00:00:05.500\n<c.gap>[1.5 s not heard]</c>" in render(whole, "vtt")
    assert "Three --&gt; {four}." in render(whole, "vtt") and "&amp;" in render(whole, "vtt")
    timed = render(whole, "vtt", FormatSettings(word_times=True))
    assert "One <00:00:01.200>&amp; <00:00:01.500>two." in timed
    dialogue = [line for line in render(whole, "ass").splitlines() if line.startswith("Dialogue")]
    assert dialogue[0].endswith(r"{\k20}One {\k30}& {\k50}two.")
    assert dialogue[0].startswith("Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,")
    assert dialogue[1].count("not") == 1 and "{four}" not in dialogue[2]


def test_times_are_shifted_together() -> None:
    later = two_said().shifted(100.0)
    assert (later.turns[0].start, later.turns[0].words[0].start, later.gaps[0].end) == (101.0, 101.0, 105.5)
    assert later.text == two_said().text


def test_json_is_as_its_schema_says() -> None:
    schema = json.loads((Path(__file__).parents[1] / "docs" / "transcript.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(two_said().as_dict())
    broken = two_said().as_dict() | {"turns": [{"start": "soon"}]}
    assert not validator.is_valid(broken)


# --- files ----------------------------------------------------------------------------------------


class Echo:
    """An engine that recognises the loudness of a block; keeps count, and fails at a block if told."""

    def __init__(self) -> None:
        self.blocks = 0
        self.fails_at: int | None = None
        self.meanwhile: Callable[[], object] | None = None
        self.settings = EngineSettings()

    async def transcribe(self, samples: np.ndarray) -> Recognised:
        self.blocks += 1
        if self.meanwhile is not None:
            self.meanwhile()
        if self.blocks == self.fails_at:
            raise UpstreamError("gone", retryable=False)
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

    def opened(settings: EngineSettings, jobs: int) -> Opened:
        echo.settings = settings
        return Opened()

    monkeypatch.setattr(transcribe, "open_engine", opened)
    return echo


def command(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser, transcribe.Options)
    args = parser.parse_args([str(word) for word in words])
    return transcribe.run(load(transcribe.Options, args, {})[0])


def tone(path: Path, *levels: float, seconds: int = 3) -> Path:
    wave = np.sin(np.arange(seconds * 16000) * 2 * np.pi * 440 / 16000)[:, None] * np.array(levels)
    soundfile.write(path, wave, 16000)
    return path


@pytest.mark.real
def test_each_format_is_written_and_a_second_run_does_nothing(tmp_path: Path, engine: Echo) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    assert command(source, "--format", "txt,json,srt,vtt", "--output-dir", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("a*")} == {"a.txt", "a.json", "a.srt", "a.vtt"}
    assert (tmp_path / "out" / "a.txt").read_text() == "level 0.5\n"
    turn = json.loads((tmp_path / "out" / "a.json").read_text())["turns"][0]
    assert turn["words"][1] == {"word": "0.5", "start": 0.6, "end": 2.4, "confidence": None}

    again = (source, "--format", "txt,json,srt,vtt", "--output-dir", tmp_path / "out")
    assert command(*again) == 0 and engine.blocks == 1
    assert command(*again, "--force") == 0 and engine.blocks == 2
    (tmp_path / "out" / "a.srt").unlink()
    assert command(*again) == 0 and engine.blocks == 2  # what was recognised is kept
    assert (tmp_path / "out" / "a.srt").exists()


def test_what_is_done_is_known_by_the_recording_and_by_what_it_was_made_with(
    tmp_path: Path, engine: Echo
) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    blocks = 0
    for options in [(), ("--model", "base-en"), ("--language", "en"), ("--start", "1"), ("--offset", "5")]:
        assert command(source, *options) == 0
        assert engine.blocks == (blocks := blocks + 1), options
        assert command(source, *options) == 0 and engine.blocks == blocks
    os.utime(source, (1e9, 1e9))
    assert command(source, "--offset", "5") == 0 and engine.blocks == blocks + 1
    assert command(source, "--offset", "5", "--format", "txt,srt") == 0 and engine.blocks == blocks + 2
    assert "00:00:05,6" in source.with_suffix(".srt").read_text()
    assert command(source, "--offset", "5", "--format", "json") == 0 and engine.blocks == blocks + 2
    assert command(source, "--offset", "5") == 0 and engine.blocks == blocks + 2


def test_the_recogniser_is_asked_for_the_times_of_words_where_they_are_written(
    tmp_path: Path, engine: Echo
) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    for formats, timed in [("txt", False), ("txt,srt", True), ("json", True), ("vtt", True)]:
        assert command(source, "--format", formats, "--force") == 0
        assert engine.settings.word_times is timed, formats


def test_what_is_not_ours_is_not_replaced_but_by_force_and_no_recording_ever_is(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    notes = tmp_path / "a.txt"
    notes.write_text("my notes")
    assert command(source) == 1 and notes.read_text() == "my notes" and engine.blocks == 0
    assert "a.txt is there already and is not ours (--force replaces it)" in capsys.readouterr().err
    assert command(source, "--force") == 0 and notes.read_text() == "level 0.5\n"
    notes.write_text("corrected by hand")
    assert command(source) == 0 and notes.read_text() == "corrected by hand"  # done, so left alone
    assert command(source, "--model", "base-en") == 1 and notes.read_text() == "corrected by hand"
    recording = tone(tmp_path / "b.wav", 0.25).rename(tmp_path / "a.json")
    before = recording.read_bytes()
    assert command(source, recording, "--format", "json", "--force", "--output-dir", tmp_path) == 0
    assert recording.read_bytes() == before and (tmp_path / "a.wav.json").exists()


@pytest.mark.real
def test_the_finished_pieces_of_a_recording_that_failed_are_kept(tmp_path: Path, engine: Echo) -> None:
    source = tone(tmp_path / "a.wav", 0.5, seconds=200)
    engine.fails_at = 3
    wanted = ("--jobs", "1", "--format", "json")
    assert command(source, *wanted) == 1 and not source.with_suffix(".json").exists()
    assert engine.blocks == 3
    engine.fails_at = None
    assert command(source, *wanted) == 0
    whole = json.loads(render_of(source))
    assert engine.blocks == 3 + len(whole["turns"]) - 2 and len(whole["turns"]) >= 4


def render_of(source: Path) -> str:
    assert command(source, "--format", "json") == 0
    return source.with_suffix(".json").read_text()


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    (tmp_path / "out" / "a.txt").mkdir(parents=True)  # a folder where the file should be
    assert command(source, "--output-dir", tmp_path / "out", "--force") == 1
    assert f"{source}: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir() if "part" in path.name] == []


@pytest.mark.real
def test_names_that_are_no_unicode_and_empty_folders_are_one_line_each(
    tmp_path: Path, engine: Echo, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tone(tmp_path / "a.wav", 0.5).rename(tmp_path / os.fsdecode(b"caf\xe9 [b].wav"))
    (tmp_path / "empty").mkdir()
    more = ("--format", "json,vtt", "--report", tmp_path / "r.csv", "--html", tmp_path / "i.html")
    colons = tone(tmp_path / "a:b:c.wav", 0.5)
    assert command(source, colons, tmp_path / "empty", *more) == 1
    said = capfd.readouterr().err
    assert f"{tmp_path}/empty: cannot be read: it is a folder without recordings" in said
    assert f"{tmp_path}/caf\\xe9 [b].wav: 3.0 s" in said and f"{colons}: 3.0 s" in said
    assert json.loads(source.with_suffix(".json").read_text())["file"] == "caf\\xe9 [b].wav"
    assert 'data-src="caf%E9%20%5Bb%5D.wav"' in (tmp_path / "i.html").read_text()
    assert command(source, *more) == 0 and engine.blocks == 2


@pytest.mark.real
def test_the_page_of_transcripts_is_searched_and_plays(tmp_path: Path, engine: Echo, chromium: str) -> None:
    sources_ = [tone(tmp_path / f"{name}.wav", level) for name, level in (("loud", 0.5), ("quiet", 0.2))]
    assert command(*sources_, "--html", tmp_path / "index.html") == 0
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((tmp_path / "index.html").as_uri())
        page.fill("input", "level 0.2")
        page.wait_for_function("document.querySelector('output').textContent === '1 line'")
        assert page.locator("h2:visible").all_inner_texts() == ["quiet.wav"]
        assert page.locator("mark:visible").all_inner_texts() == ["level", "0.2"]
        page.click("li button:visible")
        page.wait_for_function("document.querySelector('audio')?.currentTime >= 0.6")  # of its first word
        below = "document.querySelector('audio').getBoundingClientRect().top >= header.offsetHeight"
        page.evaluate("document.body.style.paddingBottom = '200vh'; scrollTo(0, 60)")
        page.wait_for_function(below)  # it stays in view, below the search
        browser.close()
    assert problems == []


@pytest.mark.real
def test_report_and_page_tell_of_each_recording(tmp_path: Path, engine: Echo) -> None:
    good, bad = tone(tmp_path / "a & b.wav", 0.5), tmp_path / "c.wav"
    bad.write_bytes(b"no audio")
    options = ("--report", tmp_path / "r.csv", "--html", tmp_path / "index.html")
    assert command(good, bad, *options) == 1
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["status"], row["words"]) for row in rows] == [
        (str(good), "transcribed", "2"),
        (str(bad), "failed", ""),
    ]
    assert rows[0]["duration"] == "3.0" and "text" in rows[1]["error"]
    page = (tmp_path / "index.html").read_text()
    assert 'data-src="a%20%26%20b.wav"' in page and "<h2>a &amp; b.wav</h2>" in page
    assert "<span>level 0.5</span>" in page and "c.wav" in page
    assert command(good, "--report", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())[0]["status"] == "done already"


def test_standard_input_goes_to_standard_output(
    tmp_path: Path, engine: Echo, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = (np.full((16000, 2), [8192, 16384])).astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    options = (
        "--input-format",
        "pcm_s16le",
        "--rate",
        "8000",
        "--channels",
        "2",
        "--speakers",
        "agent,customer",
    )
    assert command("-", *options) == 0
    assert capfdbinary.readouterr().out == b"agent: level 0.2\n\ncustomer: level 0.5\n"


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for options, why in [
        ((), "no FILE"),
        (("a.wav", "--rate", "8000"), "need --input-format"),
        (("-", "--format", "txt,srt"), "takes one --format"),
        (("a.wav", "--engine", "ray", "--watch", str(tmp_path)), "neither - nor --watch"),
        (("--watch", str(tmp_path / "no")), "is no folder"),
        (("a.wav", "--keyterm", "x" * 20000), "key terms"),
        (("a.wav", "--duration", "0"), "duration cannot be"),
    ]:
        with pytest.raises(ConfigError, match=why):
            command(*options)
    for options in [("--start", "1:2:3:4"), ("--channels", "0"), ("--jobs", "x"), ("--audio-stream", "-1")]:
        with pytest.raises(SystemExit):
            command(tmp_path / "a.wav", *options)


def test_a_watched_folder_may_be_empty(tmp_path: Path) -> None:
    watched = transcribe.Options(files=(), watch=tmp_path)
    assert transcribe._plan(watched, None) == []
    (tmp_path / "a.wav").touch()
    assert names(transcribe._plan(watched, None)) == [f"{tmp_path}/a.txt"]


@pytest.mark.real
async def test_what_appears_in_a_watched_folder_is_transcribed(tmp_path: Path, engine: Echo) -> None:
    stop = asyncio.Event()
    done: list[str] = []

    class Runs:
        async def all(self, works: list[sources.Work]) -> list[str]:
            done.extend(work.title for work in works)
            stop.set()
            return done

    task = asyncio.create_task(
        watch.transcribe(
            tmp_path,
            Runs(),  # type: ignore[arg-type]
            lambda found: sources.plan(found, ["txt"], None),
            settled_s=0.2,
            stop=stop,
        )
    )
    while not task.done():  # until it watches, nothing is seen
        tone(tmp_path / "new.wav", 0.5)
        (tmp_path / "new.txt").write_text("no recording")
        await asyncio.wait([task], timeout=1)
    assert task.result() == ["new.wav"]


def test_a_broken_file_is_reported_and_the_rest_goes_on(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tone(tmp_path / f"{n}.wav", 0.5) for n in range(4)]
    files[1].write_bytes(b"no audio")
    files.append(tmp_path / "missing.wav")
    assert command(*files) == 1
    assert [path.with_suffix(".txt").exists() for path in files] == [True, False, True, True, False]
    said = capsys.readouterr().err
    assert f"{files[1]}: cannot be read" in said and "3 transcribed, 0 already done, 2 failed" in said
    assert f"{files[4]}: cannot be read: No such file or directory" in said.partition("failed:")[2]


BAD: dict[str, str] = {
    "empty.wav": "it is an empty file",
    "zeros.wav": "it is nothing but zero bytes",
    "text.wav": "it is text",
    "image.wav": "it is a PNG image",
    "random.mp3": "",  # whatever FFmpeg takes it for
    "folder.wav": "it is a folder without recordings",
    "link.wav": "No such file or directory",
    "loop.wav": "Too many levels of symbolic links",
    "pipe.wav": "it is no file but a pipe or a device",
}


@pytest.mark.real
def test_what_cannot_be_read_is_a_line_each_and_the_rest_is_done(
    tmp_path: Path, engine: Echo, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names may have 255 bytes, colons, line feeds, control characters, bytes that are no UTF-8."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "folder.wav").mkdir(parents=True)
    names: list[str | bytes] = [
        "a.wav",
        "a:b.wav",
        "http:x.wav",
        "n" * 251 + ".wav",
        b"caf\xe9.wav",
        "new\nline.wav",
        "\x1b[31m.wav",
    ]
    for name in names:
        tone(tmp_path / "tone.wav", 0.5).rename(folder / os.fsdecode(name))
    (folder / "empty.wav").write_bytes(b"")
    (folder / "zeros.wav").write_bytes(bytes(5000))
    (folder / "text.wav").write_text("words " * 100)
    (folder / "image.wav").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (folder / "random.mp3").write_bytes(np.random.default_rng(1).bytes(2000))
    (folder / "link.wav").symlink_to("nowhere.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(folder / "pipe.wav")
    given = [folder, folder / "folder.wav"]
    assert command(*given, "--output-dir", out, "--report", tmp_path / "report.csv") == 1
    said = capfd.readouterr().err
    _, _, repeated = said.partition("failed:\n")
    for name, why in BAD.items():
        (line,) = [line for line in repeated.splitlines() if f"{name}: " in line]
        assert line.startswith(f"  {folder}/") and why in line
    assert f"{len(names)} transcribed, 0 already done, {len(BAD)} failed" in said
    assert len(repeated.splitlines()) == len(BAD) + 1, "a line each"
    assert "\x1b[31m" not in said
    wanted = {os.fsdecode(name).removesuffix(".wav") + ".txt" for name in names}
    assert {path.name for path in out.iterdir()} == wanted | {".rtcstt-state.sqlite"}


def test_an_output_whose_name_would_be_too_long_is_said(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = (tone(tmp_path / f"{stem}.wav", 0.5) for stem in ("n" * 251, "short"))
    assert command(long, short, "--format", "json") == 1
    said = capsys.readouterr().err
    assert f"{long}: {long.with_suffix('.json')}: File name too long" in said
    assert short.with_suffix(".json").exists() and not list(tmp_path.glob(".rtcstt-*.part"))


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tone(tmp_path / "a.wav", 0.5), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may grow
    try:
        assert command(source, "--output-dir", out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith(f"{source}: ")]
    assert str(out) in line and "0 transcribed, 0 already done, 1 failed" in said
    assert not list(out.iterdir())
    assert command(source, "--output-dir", out) == 0


@pytest.mark.real
def test_an_output_of_which_no_note_can_be_kept_is_not_left(
    tmp_path: Path, engine: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk got full behind it: left there, it would be no output of ours for the next run."""
    source, out = tone(tmp_path / "a.wav", 0.5), tmp_path / "out"

    def full(*args: object) -> None:
        raise ConfigError("the state file cannot be used: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(State, "done", full)
        assert command(source, "--output-dir", out, "--format", "txt,json") == 1
    assert [path.name for path in out.iterdir()] == [state.NAME]
    assert command(source, "--output-dir", out) == 0


@pytest.mark.real
def test_channels_are_speakers(tmp_path: Path, engine: Echo) -> None:
    source = tone(tmp_path / "call.wav", 0.5, 0.2)
    assert command(source, "--channels", "split", "--format", "txt,vtt,srt") == 0
    assert source.with_suffix(".txt").read_text() == "Speaker 1: level 0.5\n\nSpeaker 2: level 0.2\n"
    assert "<v Speaker 2>" in source.with_suffix(".vtt").read_text()
    cues = [cue.text for cue in webvtt.from_srt(str(source.with_suffix(".srt")))]
    assert cues == ["Speaker 1: level 0.5", "Speaker 2: level 0.2"]


def names(works: list[sources.Work]) -> list[str]:
    return [str(work.outputs["txt"]) for work in works]


def test_recordings_of_the_same_stem_do_not_overwrite_each_other(tmp_path: Path) -> None:
    found = [(tmp_path / name, tmp_path) for name in ("a.wav", "a.mp3", "b.wav", "c.txt")]
    works = sources.plan(found, ["txt"], tmp_path / "out")
    out = f"{tmp_path}/out"
    assert names(works) == [f"{out}/a.wav.txt", f"{out}/a.mp3.txt", f"{out}/b.txt", f"{out}/c.txt"]
    beside = sources.plan(found, ["txt"], None)
    assert names(beside)[3] == f"{tmp_path}/c.txt.txt"  # a recording of that name is there


def test_folders_and_patterns_give_their_recordings_and_keep_their_folders(tmp_path: Path) -> None:
    for name in (
        "in/a.wav",
        "in/sub/b.MP3",
        "in/sub/notes.txt",
        "in/.hidden.wav",
        "in/.git/c.wav",
        "d[1].wav",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = sources.find(
        [f"{tmp_path}/in", f"{tmp_path}/d[1].wav", f"{tmp_path}/in/*.wav", f"{tmp_path}/no*"]
    )
    assert [str(path.relative_to(tmp_path)) for path, _ in found] == [
        *("in/a.wav", "in/sub/b.MP3", "d[1].wav", "no*")
    ]
    works = sources.plan(found, ["txt"], tmp_path / "out")
    assert names(works)[:2] == [f"{tmp_path}/out/a.txt", f"{tmp_path}/out/sub/b.txt"]


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
        async with engines.open_engine(EngineSettings(base), 1) as engine:
            assert await engine.transcribe(HALF) == Recognised("Yes.", [Word("Yes.", 0.1, 0.4)])
    assert stt.seen == [("Bearer k", "ink-whisper", 0.5)]


@pytest.mark.real
async def test_a_server_is_asked_again_when_it_fails_and_believed_when_it_refuses() -> None:
    stt = Server(503, 502, 200, 401)
    async with stt.started() as server, aiohttp.ClientSession() as http:
        patience = Patience(first_s=0)
        engine = BatchEndpoint(http, str(server.make_url("/prefix/stt")), EngineSettings(), patience)
        assert (await engine.transcribe(HALF)).text == "Yes."
        assert len(stt.seen) == 3
        with pytest.raises(UpstreamError, match="HTTP 401: not now"):
            await engine.transcribe(HALF)
        assert len(stt.seen) == 4


async def test_a_busy_server_is_no_failure() -> None:
    stt = Server(*[429] * 30)
    async with stt.started() as server, aiohttp.ClientSession() as http:
        engine = BatchEndpoint(
            http, str(server.make_url("/prefix/stt")), EngineSettings(), Patience(first_s=0)
        )
        assert (await engine.transcribe(HALF)).text == "Yes."
    assert len(stt.seen) == 31


def test_a_refusal_is_understood_whatever_its_body() -> None:
    body = b'{"error_code": "full", "message": "no room"}'
    error = refusal(429, body, "7")
    assert (str(error), error.code, error.retry_after_s) == ("HTTP 429: no room", "full", 7.0)
    assert refusal(503, body, "99999999").retry_after_s == 600.0
    assert refusal(503, body, "Wed, 21 Oct 2026 07:28:00 GMT").retry_after_s == 60.0
    for strange in (b"", b"<html>", b"[1]", b"[" * 100_000, b'{"message": null}'):
        error = refusal(400, strange)
        assert str(error) == "HTTP 400: the STT refused the request"
        assert not error.retryable and error.code is None and error.retry_after_s is None


def test_how_long_a_server_is_asked_again() -> None:
    patience = Patience(tries=3, first_s=1.0, longest_s=8.0, busy_s=100.0)
    busy = UpstreamError("", status=429, retry_after_s=20.0)
    full = UpstreamError("", status=503, retry_after_s=1.0)
    broken = UpstreamError("", status=500)
    assert patience.pause(busy, 0, 0.0) == 20.0 and patience.pause(full, 0, 99.0) == 1.0
    assert patience.pause(busy, 0, 100.0) is None
    assert [patience.pause(broken, tries, 0.0) for tries in (1, 2, 3)] == [1.0, 2.0, None]
    assert patience.pause(UpstreamError("", retryable=False), 0, 0.0) is None


@pytest.mark.parametrize(
    "words",
    [
        None,
        [],
        "yes",
        [{"word": "One"}, {"word": "two."}],
        [{"word": "One", "start": None, "end": None}, {"word": "two.", "start": 1.0, "end": 1.5}],
        [{"word": "One", "start": "NaN", "end": 1}, {"word": "two.", "start": -3, "end": -2}],
        [{"word": "One", "start": 1e300, "end": 1e301}, {"word": "two.", "start": 0.5, "end": 0.1}],
        [{"text": "One", "start": 0.2, "end": 0.4}, 7, {"word": ""}, {"word": "two.", "start": True}],
    ],
)
def test_words_with_impossible_times_keep_their_text(words: object) -> None:
    found = parse({"text": "One two.", "words": words, "language": 5}, 2.0)
    assert found.text == "One two." and found.language is None
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times) and all(0 <= time <= 2.0 for time in times)
    block = Block(0, 0, np.ones(2 * SAMPLE_RATE, np.float32))
    assert "".join(turn.text for turn in turns_of(block, found)) == "One two."


def test_text_of_other_servers_is_made_unicode() -> None:
    assert valid("\ud83d\ude00 \ud83d!") == "\U0001f600 \ufffd!"
    found = parse(json.loads('{"text": "a\\ud800b", "words": [{"word": "a\\udc00"}]}'), 1.0)
    assert (found.text, found.words[0].word) == ("a\ufffdb", "a\ufffd")
    answers: list[object] = [None, [], {"text": None}, {"words": []}]
    for answer in answers:
        with pytest.raises(ValueError, match="no text"):
            parse(answer, 1.0)


async def test_the_batch_endpoint_gets_the_language_where_one_is_given() -> None:
    stt = Server()
    async with stt.started() as server:
        for language in (None, "fr"):
            wanted = EngineSettings(str(server.make_url("/prefix")), language=language)
            async with engines.open_engine(wanted, 1) as engine:
                await engine.transcribe(HALF)
    assert stt.languages == [None, "fr"]


async def test_what_is_no_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither embedded nor the URL"):
        async with engines.open_engine(EngineSettings("ftp://somewhere"), 1):
            pass


# --- the real recogniser --------------------------------------------------------------------------


@pytest.mark.real
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


@pytest.mark.real
async def test_a_program_gets_a_typed_transcript() -> None:
    whole = await rtcstt.transcribe(bundled_recording(), start=15.0, duration=7.0, jobs=1)
    assert "despair" in whole.text.lower() and whole.language == "en" and whole.complete
    despair = next(word for word in whole.words if "despair" in word.word.lower())
    assert 18.9 < despair.start < despair.end < 21.0
    with pytest.raises(rtcstt.FileError, match="No such file"):
        await rtcstt.transcribe("missing.wav")
    with pytest.raises(ConfigError, match="lists of texts"):
        await rtcstt.transcribe("missing.wav", keyterms="hello world")


@pytest.mark.real
def test_a_program_without_a_loop_gets_it_too() -> None:
    whole = rtcstt.transcribe_sync(bundled_recording(), duration=4.0)
    assert isinstance(whole, rtcstt.Transcription) and "best of times" in whole.text


@pytest.mark.real
def test_the_command_line_takes_one_key_term_at_a_time_and_then_files(
    tmp_path: Path, engine: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    assert cli.main(["transcribe", "--keyterm", "one", "--keyterm", "two words", str(source)]) == 0
    assert source.with_suffix(".txt").exists()
    assert cli.main(["transcribe"]) == 2 and "no FILE is named" in capsys.readouterr().err


@pytest.mark.real
def test_a_recording_that_grows_meanwhile_is_not_done(tmp_path: Path, engine: Echo) -> None:
    source = tone(tmp_path / "a.wav", 0.5)
    engine.meanwhile = lambda: tone(source, 0.25, seconds=4)
    assert command(source) == 0 and source.with_suffix(".txt").read_text() == "level 0.5\n"
    engine.meanwhile = None
    assert command(source) == 0 and source.with_suffix(".txt").read_text() == "level 0.2\n"


@pytest.mark.real
async def test_a_recording_in_a_cell_of_a_notebook() -> None:
    """There an event loop runs already."""
    assert "best of times" in rtcstt.transcribe_sync(bundled_recording(), duration=4.0).text.lower()
    with pytest.raises(rtcstt.FileError):
        rtcstt.transcribe_sync("/nonexistent.wav")
