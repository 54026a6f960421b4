"""`rtcstt transcribe --engine ray`: as many tasks as asked for, and the same texts as without Ray."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from processes import RTCSTT
from rich.progress import Progress
from test_transcribe import command, tone

from rtcstt.batch import ray as cluster
from rtcstt.batch.engines import EngineSettings
from rtcstt.batch.run import Result, RunSettings, RunState
from rtcstt.batch.sources import plan
from rtcstt.batch.transcripts import Transcription, Turn
from rtcstt.commands.demo import bundled_recording
from rtcstt.errors import ConfigError, EngineError

pytestmark = pytest.mark.real

HOW = RunSettings()


class RayError(Exception):
    pass


class FakeRay:
    """Runs a task when its result is waited for, the newest first; one whose file is named ``lost`` loses
    its process. Keeps the most that were asked for at a time."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.most = 0
        self.is_up = False
        self.address: str | None = None

    def init(self, *, address: str, **_: Any) -> None:
        if address == "auto":
            raise ConnectionError("no cluster")
        self.is_up, self.address = True, address

    def shutdown(self) -> None:
        self.is_up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        return lambda function: SimpleNamespace(remote=lambda *given: (function, given))

    def wait(self, tasks: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(tasks))
        return tasks[-num_returns:], tasks[:-num_returns]

    def get(self, task: Any) -> Any:
        function, given = task
        if function is cluster._problem:
            return self.problem
        _, source, name = given
        if source.stem == "lost":
            raise RayError("the worker died\nand its stack")
        if source.stem == "broken":
            return "cannot be read"
        turn = Turn(0, source.name, 0.0, 1.0, [])
        return Transcription(name, "en", "tiny-en", "1", 1.0, 1, [turn])


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(cluster, "_import", lambda: fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return fake


def run(folder: Path, names: list[str], jobs: int | None) -> list[Result]:
    for name in names:
        (folder / name).touch()
    works = plan([(folder / name, folder) for name in names], ["txt"], None)
    state = RunState(HOW, [work.source for work in works])
    return cluster.transcribe(works, HOW, state, jobs=jobs, progress=Progress(disable=True))


@pytest.mark.parametrize(("jobs", "most"), [(None, 3), (2, 2), (50, 20)])
def test_no_more_tasks_than_jobs_or_processors_wait_at_a_time(
    tmp_path: Path, ray: FakeRay, jobs: int | None, most: int
) -> None:
    results = run(tmp_path, [f"{n}.wav" for n in range(20)], jobs)
    assert {result.status for result in results} == {"transcribed"}
    assert ray.most == most
    assert not ray.is_up and ray.address == "local"
    assert [(tmp_path / f"{n}.txt").read_text() for n in range(20)] == [f"{n}.wav\n" for n in range(20)]
    again = run(tmp_path, ["3.wav"], jobs)
    assert again[0].status == "transcribed"  # its time has changed
    ray.most = 0
    state = RunState(HOW, [])
    works = plan([(tmp_path / f"{n}.wav", tmp_path) for n in (4, 5)], ["txt"], None)
    done = cluster.transcribe(works, HOW, state, jobs=jobs, progress=Progress(disable=True))
    assert [result.status for result in done] == ["done already"] * 2 and ray.most == 0


def test_a_broken_file_and_a_lost_process_are_reported_and_the_rest_goes_on(
    tmp_path: Path, ray: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{name}.wav" for name in ("a", "broken", "lost", "b")]
    for file in files:
        file.touch()
    assert command(*files, "--engine", "ray") == 1
    assert [file.with_suffix(".txt").exists() for file in files] == [True, False, False, True]
    said = capsys.readouterr().err
    assert f"{files[1]}: cannot be read\n" in said
    assert f"{files[2]}: RayError: the worker died\n" in said
    assert "2 transcribed, 0 already done, 2 failed" in said


def test_what_ails_every_recording_is_said_once(tmp_path: Path, ray: FakeRay) -> None:
    ray.problem = "the model is missing"
    with pytest.raises(EngineError, match="the model is missing"):
        run(tmp_path, ["a.wav"], None)
    assert not ray.is_up


def test_a_cluster_that_cannot_be_reached_is_named(
    tmp_path: Path, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"cluster {address} cannot be reached: ConnectionRefused"):
            run(tmp_path, ["a.wav"], None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match="cluster auto cannot be reached: ConnectionError: no cluster"):
        run(tmp_path, ["a.wav"], None)


def test_without_the_extra_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'rtcstt\[ray\]'"):
        command(tone(tmp_path / "a.wav", 0.5), "--engine", "ray")


def test_a_server_is_not_asked_by_way_of_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with --stt URL the server does the work"):
        command(tmp_path / "a.wav", "--engine", "ray", "--stt", "http://127.0.0.1:1")


def test_a_task_tells_why_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    assert "cannot be read" in str(cluster._task(HOW, tmp_path / "a.wav", "a.wav"))
    assert "English" in str(cluster._problem(EngineSettings(language="fr")))
    assert cluster._problem(HOW.engine) is None


# With Ray itself


@pytest.fixture
def recordings(tmp_path: Path) -> Iterator[list[Path]]:
    """Of other lengths each, one of them of two speakers, and a broken one."""
    speech, rate = soundfile.read(bundled_recording(), dtype="float32")
    turned = np.roll(speech, len(speech) // 2)
    soundfile.write(tmp_path / "a.wav", np.concatenate([speech, turned]), rate)  # two blocks
    soundfile.write(tmp_path / "b.wav", speech[: 10 * rate], rate)
    soundfile.write(tmp_path / "c.wav", np.stack([speech, turned], axis=1), rate)
    (tmp_path / "d.wav").write_bytes(b"no audio")
    yield sorted(tmp_path.glob("*.wav"))


def transcripts(recordings: list[Path], folder: Path, *options: str) -> dict[str, str]:
    words = ("--channels", "split", "--format", "txt,json,srt,vtt", "--output-dir", str(folder), *options)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [RTCSTT, "transcribe", *map(str, recordings), *words],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1, done.stderr
    assert "d.wav: cannot be read" in done.stderr and "3 transcribed, 0 already done, 1 failed" in done.stderr
    return {path.name: path.read_text() for path in folder.glob("[!.]*")}


@pytest.mark.heavy
def test_a_cluster_gives_what_one_machine_gives(recordings: list[Path], tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (the extra ray)")
    here = transcripts(recordings, tmp_path / "here")
    there = transcripts(recordings, tmp_path / "there", "--engine", "ray")
    assert len(here) == 12 and "Speaker 2" in here["c.txt"] and "winter of despair" in here["a.txt"]
    assert there == here
