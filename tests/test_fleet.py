"""Where calls go, who has them, what workers share: cores, by table and in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rtcstt.embedded import processors
from rtcstt.errors import ConfigError
from rtcstt.fleet import ids, parent, shares
from rtcstt.fleet.board import STALE_S, Board
from rtcstt.fleet.metrics import summed
from rtcstt.fleet.placement import Load, ranked
from rtcstt.fleet.proxy import Proxy, Target, Unreachable
from rtcstt.fleet.restarts import Restarts
from rtcstt.fleet.tasks import cancelled, kept_going
from rtcstt.http.serving import stop_signals
from rtcstt.limits import Once
from rtcstt.server.settings import Settings
from rtcstt.testing import run_virtual


@pytest.mark.parametrize(
    "loads, expected",
    [
        ({"a": Load(1, 4), "b": Load(0, 4)}, ["b", "a"]),
        ({"a": Load(1, 4), "b": Load(1, 4)}, ["b", "a"]),  # of equals the one that asks
        ({"a": Load(3, 100), "b": Load(1, 4)}, ["a", "b"]),  # shares count, not calls
        ({"a": Load(4, 4), "b": Load(5, 4)}, []),
        ({"a": Load(0, 4, draining=True), "b": Load(3, 4)}, ["b"]),
        ({"a": Load(0, 4, ready=False), "b": Load(0, 0)}, []),
        ({}, []),
    ],
)
def test_a_new_call_goes_to_the_least_busy(loads: dict[str, Load], expected: list[str]) -> None:
    assert ranked(loads.items(), own="b") == expected


def test_streams_and_calls_are_counted_apart() -> None:
    loads = {"a": Load(0, 4, 4, 4), "b": Load(3, 4, 1, 4)}
    assert ranked(loads.items(), own="a", kind="stream") == ["b"]
    assert ranked(loads.items(), own="b", kind="call") == ["a", "b"]


def test_an_id_names_its_worker_to_those_who_know() -> None:
    assert ids.worker_of(ids.new()) is None
    for worker in range(ids.MAX_WORKERS):
        call = ids.new(worker)
        assert ids.worker_of(call) == worker
        assert re.fullmatch(r"[\w-]{17}", call)
    for strange in ("", "x", "x" * 17 + "0", "-" * 17):
        assert ids.worker_of(strange) is None
    assert len({ids.new(0) for _ in range(100)}) == 100


def test_a_worker_that_ends_early_is_started_later_and_later() -> None:
    restarts = Restarts()
    delays = []
    for now in range(12):
        restarts.started(now)
        delays.append(restarts.ended(now + 0.5))
    assert delays == sorted(delays) and delays[0] == 0.1 and delays[-1] == 10.0
    restarts.started(100)
    assert restarts.ended(200) == 0.1
    assert restarts.count == 13


@pytest.mark.parametrize("text", ["0", "-1", "63", "many", "1.5", "", "²"])
def test_workers_are_a_number_or_auto(text: str) -> None:
    shares.check_workers("auto")
    shares.check_workers("62")
    with pytest.raises(ConfigError, match="workers must be from 1 to 62, or auto"):
        shares.check_workers(text)


def test_auto_is_one_worker_for_each_processor() -> None:
    assert [shares.count_of("auto", processors) for processors in (1, 8, 1000)] == [1, 8, 62]
    assert shares.count_of("3", 8) == 3
    assert shares.access_secret("a") != shares.access_secret("b") and len(shares.access_secret("a")) == 32


def test_shares_of_a_server_add_up() -> None:
    whole = Settings(max_calls=7, max_streams=9, udp_ports="20000-20008")
    for count in (1, 2, 3, 7):
        parts = [whole.of_worker(index, count) for index in range(count)]
        assert sum(share.max_calls for share in parts) == 7
        assert sum(share.max_streams or 0 for share in parts) == 9
        ports = [port for share in parts for port in share.ports or ()]
        assert ports == list(range(20000, 20009))
    with pytest.raises(ConfigError, match="max_calls"):
        whole.of_worker(0, 8)


@pytest.mark.parametrize("workers", ["0", "63", "-1", "many", "1.5", ""])
def test_a_number_of_workers_that_cannot_be_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match="workers"):
        Settings(workers=workers)


def test_processors_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = processors.usable()
    monkeypatch.setattr(processors, "_sharing", 1)
    processors.share(2)
    assert processors.usable() == (whole + 1) // 2
    processors.share(10 * whole)
    assert processors.usable() == 1


def test_the_board_holds_what_each_worker_wrote() -> None:
    board = Board(2)
    assert [load.ready for load in board.all()] == [False, False]
    load = Load(3, 10, 2**40, 2**32 - 1, ready=True, draining=True)
    board.write(1, load)
    assert board.read(1) == Load(3, 10, 2**32 - 1, 2**32 - 1, ready=True, draining=True)
    assert not board.read(0).ready
    board.clear(1)
    assert board.read(1) == Load(ready=False)
    board.close()


def test_a_worker_that_writes_nothing_any_more_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rtcstt.fleet.board.time.monotonic", lambda: now)
    board = Board(2)
    board.write(0, Load(0, 10))
    now += STALE_S
    board.write(1, Load(5, 10))
    assert not board.hangs(0) and not board.hangs(1)
    now += 0.1
    assert board.hangs(0) and not board.hangs(1) and board.read(0).ready
    board.close()


# -- the parent --------------------------------------------------------------------------------------


def plan(settings: Callable[[int], str]) -> parent.Plan[str]:
    return parent.Plan(
        count=3,
        entry=lambda assignment, given: None,
        settings=settings,
        host="127.0.0.1",
        port=0,
        scheme="http",
        stop_s=1.0,
    )


def test_what_one_worker_cannot_be_given_is_told_before_any_is_started() -> None:
    def settings(index: int) -> str:
        return str(Settings(udp_port=65534).of_worker(index, 3))

    with pytest.raises(ConfigError, match="udp_port must be from 1 to 65535"):
        parent.run(plan(settings))


def test_a_worker_that_cannot_be_started_is_tried_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no memory, or no process, for it just now."""
    tried: list[float] = []

    def started(self: object, index: int) -> None:
        tried.append(asyncio.get_running_loop().time())
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async def main() -> None:
        one = parent._Parent(plan(str), tmp_path)
        keeping = asyncio.create_task(one._keep(0))
        await asyncio.sleep(60.0)
        one._stop.set()
        await keeping

    monkeypatch.setattr(parent._Parent, "_started", started)
    run_virtual(main())
    waits = [after - before for before, after in itertools.pairwise(tried)]
    assert 5 < len(tried) < 30 and max(waits) > 4
    assert all("cannot be started" in record.getMessage() for record in caplog.records)
    assert len(caplog.records) == len(tried)


def test_workers_meet_where_the_path_of_a_socket_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    for folder in (str(deep), str(tmp_path / "is not there")):
        monkeypatch.setattr("tempfile.tempdir", folder)
        with parent._private_folder() as private:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(private / "61"))
            assert private.stat().st_mode & 0o077 == 0
        assert not private.exists()


def test_a_closed_terminal_stops_a_server_that_is_not_to_outlive_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    assert signal.SIGHUP in stop_signals()
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)  # nohup
    assert stop_signals() == [signal.SIGTERM, signal.SIGINT]


def test_metrics_keep_their_kind_and_say_whose_they_are() -> None:
    page = '# HELP a_total A\n# TYPE a_total counter\na_total{kind="x"} 2.0\n# TYPE b gauge\nb 1.0\n'
    histogram = (
        '# TYPE h histogram\nh_bucket{le="1.0"} 1.0\nh_bucket{le="+Inf"} 2.0\nh_count 2.0\nh_sum 3.0\n'
    )
    text = summed({0: page, 1: page + histogram}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [sample.labels["worker"] for sample in families["a"].samples] == ["0", "1"]
    assert sum(sample.value for sample in families["a"].samples) == 4
    assert families["a"].type == "counter" and families["h"].type == "histogram"
    assert text.count("# TYPE") == 3


class _Process:
    """A worker that nobody started; ``stubborn``: SIGTERM does not end it."""

    def __init__(self, *, stubborn: bool) -> None:
        self._stubborn = stubborn
        self.exitcode: int | None = None
        self.sentinel, self._alive = os.pipe()
        self.is_joined = False

    def terminate(self) -> None:
        if not self._stubborn:
            self._end(-15)

    def kill(self) -> None:
        self._end(-9)

    def join(self) -> None:
        assert self.exitcode is not None, "it would block"
        self.is_joined = True

    def _end(self, code: int) -> None:
        self.exitcode = code
        os.close(self._alive)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_worker_that_nobody_watches_any_more_is_ended_and_joined(tmp_path: Path, stubborn: bool) -> None:
    process = _Process(stubborn=stubborn)

    async def main() -> None:
        one = parent._Parent(plan(str), tmp_path)
        watching = asyncio.create_task(one._watched(0, cast(Any, process)))
        await asyncio.sleep(1.0)
        watching.cancel()
        await asyncio.wait({watching})

    run_virtual(main())
    os.close(process.sentinel)
    assert process.is_joined and process.exitcode == (-9 if stubborn else -15)


def test_servers_that_come_and_go_leave_no_connections_behind() -> None:
    """Each has another name whenever it starts."""

    async def main() -> None:
        proxy = Proxy("secret")
        for number in range(100):
            with pytest.raises(Unreachable):
                await proxy.get(Target("http://127.0.0.1:1", node=f"m.0.{number}"), "/healthz")
        assert len(proxy._sessions) == 1
        await proxy.close()

    asyncio.run(main())


def test_what_was_said_is_remembered_within_bounds() -> None:
    once = Once(most=2)
    assert [once.new(text) for text in "aabcab"] == [True, False, True, True, True, True]


def test_a_fault_that_comes_again_and_again_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    faults = iter([KeyError("a")] * 5 + [KeyError("b")] * 5)

    async def work() -> None:
        if (fault := next(faults, None)) is not None:
            raise fault
        await asyncio.Event().wait()

    async def scenario() -> None:
        task = asyncio.create_task(kept_going("the work", work))
        await asyncio.sleep(60)
        await cancelled([task])

    run_virtual(scenario())
    assert [record.getMessage() for record in caplog.records] == ["the work failed, and begins again"] * 2
