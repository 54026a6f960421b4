"""The log: each line about a call names it, as text and as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import logging

from rtcstt import logs


def logger(log_format: str = "text", worker: int | None = None) -> tuple[logging.Logger, io.StringIO]:
    """A logger, and what it writes."""
    made, handler, written = logging.Logger("test"), logs.handler(log_format, worker), io.StringIO()
    handler.setStream(written)
    made.addHandler(handler)
    return made, written


async def test_lines_of_a_call_and_of_the_tasks_made_for_it_name_it() -> None:
    log, written = logger()

    async def later() -> None:
        log.info("from a task")

    with logs.about_call("one"):
        task = asyncio.create_task(later())
        asyncio.get_running_loop().call_soon(log.info, "from a callback")
        log.info("call %s: names itself", "one")
    log.info("of none")
    await task
    await asyncio.sleep(0)
    said = [line.partition("INFO test: ")[2] for line in written.getvalue().splitlines()]
    assert said == ["call one: names itself", "of none", "call one: from a task", "call one: from a callback"]


def test_json_lines_are_objects_with_the_call_the_worker_and_the_exception() -> None:
    log, written = logger("json", worker=2)
    with logs.about_call("one"):
        log.info("two\nlines, %s", 'quoted "so"')
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, written.getvalue().splitlines())
    assert first["message"] == 'two\nlines, quoted "so"' and first["time"].count(":") == 2
    assert (first["call"], first["worker"], first["level"], first["logger"]) == (
        "one",
        2,
        "INFO",
        "test",
    )
    assert "call" not in second and "ValueError: why" in second["exception"]


def test_no_message_passes_for_another_record() -> None:
    log, written = logger()
    with logs.about_call("one"):
        log.info("of\n2026-01-01 00:00:00,000 INFO test: a stranger\r\nand more\n")
    first, *others = written.getvalue().splitlines()
    assert first.endswith("INFO test: call one: of")
    assert [line[:5] for line in others] == ["    2", "    a"]
