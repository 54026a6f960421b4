"""Recordings: the samples that the STT got, on the call's clock, readable at any moment."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webvtt
from processes import started, until

from rtcstt import recordings as module
from rtcstt.call import Call
from rtcstt.commands.demo import bundled_recording
from rtcstt.errors import ConfigError
from rtcstt.events import AnyEvent, AudioStalled
from rtcstt.media.files import read
from rtcstt.media.pcm import Chunk, Samples
from rtcstt.recordings import MAX_WAITING, Recording, Recordings
from rtcstt.testing import ScriptedUpstream, silence, speech
from rtcstt.webrtc.caller import Caller
from rtcstt.webrtc.playback import opus_packets

WORDS = "it was the best of times"
AUDIO = np.concatenate([silence(0.3), speech(WORDS), silence(0.8)])


class Both:
    """A recorder that also keeps what it is given."""

    def __init__(self, recording: Recording, samples: list[Samples]) -> None:
        self._recording, self._samples = recording, samples

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        self._samples.append(chunk.samples)
        self._recording.write(track, chunk, offset_s)


@asynccontextmanager
async def recorded(
    folder: Path, *, max_waiting: int = MAX_WAITING
) -> AsyncIterator[tuple[Call, Recording, Recordings]]:
    """A call with its recording, both run to their end."""
    async with ScriptedUpstream() as stt:
        call = Call("-/../c", stt=stt, label="desk")
        recordings = Recordings(folder, write_every_s=0.05, max_waiting=max_waiting)
        recording = recordings.begin(call)
        running = asyncio.create_task(recording.run())
        yield call, recording, recordings
        await call.close()
        await running
        recordings.close()


def samples_of(path: Path) -> Samples:
    """Read by a library that is not ours."""
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000 and samples.ndim == 1
    return np.asarray(samples)


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def folder_in(path: Path) -> Path:
    (folder,) = path.iterdir()
    return folder


def wav_in(path: Path) -> Path:
    (file,) = path.rglob("*.wav")
    return file


def recorded_samples(path: Path) -> int:
    """As the headers have it, which come after the audio."""
    headers = [file.read_bytes()[40:44] for file in path.rglob("*.wav")]
    return sum(int.from_bytes(header, "little") // 2 for header in headers)


def cut(samples: Samples, start: int = 0, size: int = 1600) -> list[Chunk]:
    return [Chunk(samples[at : at + size], start + at) for at in range(0, len(samples), size)]


async def test_a_call_is_kept_with_its_words_times_and_ledger(tmp_path: Path) -> None:
    sent: list[Samples] = []
    async with recorded(tmp_path) as (call, recording, _):
        call.recorder = Both(recording, sent)
        call.add_track("../0").push_pcm(AUDIO, 16000)  # at once: no word depends on how busy the machine is

    folder = folder_in(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    about = json.loads((folder / "ledger.json").read_text())
    received = samples_of(folder / about["files"]["../0"])
    assert np.array_equal(received, np.concatenate(sent))
    ledger = about["ledger"]["../0"]
    passed_over = ledger["discarded_by_reason"].get("silence", 0)  # to win back time
    assert len(received) / 16 == ledger["sent"] + passed_over and about["not_recorded_ms"] == {}
    assert about["label"] == "desk" and about["call"] == call.id
    assert lines_of(folder / "events.jsonl") == [event.as_dict() for event in call.feed.history]
    transcript = json.loads((folder / "transcript.json").read_text())
    assert (transcript["text"], transcript["complete"]) == (WORDS, True)
    (cue,) = webvtt.read(folder / "captions.vtt")
    cue_s = float(cue.start.rpartition(":")[2])
    assert abs(np.flatnonzero(received)[0] / 16000 - cue_s) < 0.3, "a cue's time plays its words"
    assert {path.name for path in folder.iterdir()} == {
        *("track-___0.wav", "events.jsonl", "transcript.json", "captions.vtt", "ledger.json")
    }
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}, "also where the folder's mode is lost, as in a copy"


async def test_tracks_of_one_call_share_its_clock(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (_, recording, _):
        for chunk in cut(AUDIO):
            recording.write("a", chunk, 0.0)
            recording.write("a/", chunk, 2.0)
    folder = folder_in(tmp_path)
    names = json.loads((folder / "ledger.json").read_text())["files"]
    assert np.array_equal(samples_of(folder / names["a"]), AUDIO)
    later = samples_of(folder / names["a/"])
    assert not later[:32000].any() and np.array_equal(later[32000:], AUDIO)


async def test_names_that_become_the_same_stay_apart(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (_, recording, _):
        for number, track in enumerate(("a/", "a_", "a:", "x" * 500)):
            recording.write(track, Chunk(np.full(10, number, np.int16), 0), 0.0)
    folder = folder_in(tmp_path)
    names = json.loads((folder / "ledger.json").read_text())["files"]
    assert len(set(names.values())) == 4
    assert [int(samples_of(folder / name)[0]) for name in names.values()] == [0, 1, 2, 3]


async def test_a_file_can_be_read_while_it_grows(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (call, recording, _):
        call.add_track("0")
        written = 0
        for chunk in cut(AUDIO):
            recording.write("0", chunk, 0.0)
            written += len(chunk.samples)
            await until(lambda: recorded_samples(tmp_path) == written)  # noqa: B023
            path = wav_in(tmp_path)
            assert np.array_equal(samples_of(path), AUDIO[:written])
            with wave.open(str(path)) as file:
                assert file.getnframes() == written
        events = lines_of(path.with_name("events.jsonl"))
        assert [event["type"] for event in events] == ["session.start", "track.start"]


async def test_a_full_disk_leaves_silence_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.ERROR, "rtcstt.recordings"):
        async with recorded(tmp_path) as (call, recording, recordings):
            chunks = cut(AUDIO)
            recording.write("0", chunks[0], 0.0)
            await until(lambda: recorded_samples(tmp_path) == 1600)
            with monkeypatch.context() as patch:
                patch.setattr(module._Wav, "_put", full)
                patch.setattr(module.whole_files, "open_private", full)
                recording.write("0", chunks[1], 0.0)
                call.publish(AudioStalled(track="0"))
                await until(lambda: recordings.failures >= 2)
            recording.write("0", chunks[2], 0.0)
            assert call.state == "open"
    folder = folder_in(tmp_path)
    received = samples_of(folder / "track-0.wav")
    assert np.array_equal(received[:1600], chunks[0].samples) and not received[1600:3200].any()
    assert np.array_equal(received[3200:], chunks[2].samples)
    assert json.loads((folder / "ledger.json").read_text())["not_recorded_ms"] == {"0": 100.0}
    assert recordings.dropped == 1600
    types = [event["type"] for event in lines_of(folder / "events.jsonl")]
    assert types == ["session.start", "audio.stalled", "session.end"], "events wait for the disk"
    assert len(caplog.records) == 1 and "No space left" in caplog.text


async def test_what_comes_while_a_call_ends_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, go_on = threading.Event(), threading.Event()
    add_events = module._Files.add_events

    def slow(files: module._Files, events: Sequence[AnyEvent]) -> None:
        busy.set()
        go_on.wait(60)
        add_events(files, events)

    monkeypatch.setattr(module._Files, "add_events", slow)
    async with recorded(tmp_path) as (call, recording, _):
        chunks = cut(AUDIO)
        recording.write("0", chunks[0], 0.0)
        await until(busy.is_set)
        recording.write("0", chunks[1], 0.0)
        await call.close()
        go_on.set()
    assert np.array_equal(samples_of(wav_in(tmp_path)), AUDIO[:3200])


async def test_a_slow_disk_is_not_waited_for(tmp_path: Path) -> None:
    async with recorded(tmp_path, max_waiting=3200) as (_, recording, recordings):
        for chunk in cut(AUDIO[:6400]):  # at once: nothing can have been written between
            recording.write("0", chunk, 0.0)
    path = wav_in(tmp_path)
    assert np.array_equal(samples_of(path), AUDIO[:3200]) and recordings.dropped == 3200


def test_a_folder_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--record"):
        Recordings(tmp_path / "file" / "calls")
    Recordings(tmp_path / "new" / "calls").close()
    assert (tmp_path / "new" / "calls").is_dir()


@pytest.mark.real
async def test_what_a_killed_server_had_written_can_be_played(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    caller = Caller(opus_packets(read(bundled_recording())), loopback=True)
    async with ScriptedUpstream() as upstream, upstream.listening() as url:
        options = ("--stt", url, "--record", str(folder))
        async with started("serve", tmp_path, *options) as server:
            try:
                await caller.dial(f"{server.url}/offer")
                await until(lambda: recorded_samples(folder) > 2 * 16000)
                server.process.kill()
                await asyncio.to_thread(server.process.wait)
            finally:
                await caller.close()
        sent_s = upstream.connections[0].audio_s
    path = wav_in(folder)
    with wave.open(str(path)) as file:
        kept_s = file.getnframes() / file.getframerate()
    received = read(path, 16000)  # PyAV, as any player
    assert len(received) / 16000 == kept_s
    assert 2 < kept_s < sent_s + 1 and np.abs(received).max() > 3000
    events = lines_of(path.with_name("events.jsonl"))
    assert [event["type"] for event in events[:2]] == ["session.start", "track.start"]
    assert not (path.with_name("ledger.json")).exists()


@pytest.mark.real
async def test_a_server_keeps_its_calls_to_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    caller = Caller(opus_packets(read(bundled_recording())[: 2 * 48000]), loopback=True)
    async with ScriptedUpstream() as upstream, upstream.listening() as url:
        async with started("serve", tmp_path, "--stt", url, "--record", str(folder)) as server:
            try:
                await caller.dial(f"{server.url}/offer")
                await caller.played()
                server.process.terminate()  # in mid-call
                await asyncio.to_thread(server.process.wait, 150)
            finally:
                await caller.close()
        sent = round(upstream.connections[0].audio_s * 16000)
    kept = folder_in(folder)
    assert len(samples_of(kept / "track-0.wav")) == sent
    assert json.loads((kept / "ledger.json").read_text())["ledger"]["0"]["sent"] == sent / 16
    transcript = json.loads((kept / "transcript.json").read_text())
    assert {gap["reason"] for gap in transcript["missing"]} <= {"stt"}  # which has no answer to this voice
