"""What an STT's refusal becomes, where a key comes from, and what HTTP refusals say."""

from __future__ import annotations

import json

import pytest

from rtcstt.errors import CallerError, ConnectionLost, FileError, bad_request
from rtcstt.stt.key import key_in
from rtcstt.stt.refusals import LONGEST_WAIT_S, WAIT_UNTIL_S, refusal

TITLED = json.dumps({"title": "Too many", "error_code": "concurrency_limited"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "message", "code", "retryable"),
    [
        (429, TITLED, "HTTP 429: Too many", "concurrency_limited", True),
        (401, b'{"message": "wrong key", "title": "No"}', "HTTP 401: wrong key", None, False),
        (503, b"<html>", "HTTP 503: the STT refused the request", None, True),
        (400, b"[1]", "HTTP 400: the STT refused the request", None, False),
        (500, b"\xff\xfe", "HTTP 500: the STT refused the request", None, True),
    ],
)
def test_refusals(status: int, body: bytes, message: str, code: str | None, retryable: bool) -> None:
    error = refusal(status, body)
    assert (str(error), error.status, error.code) == (message, status, code)
    assert (error.retryable, error.retry_after_s) == (retryable, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("9" * 400, LONGEST_WAIT_S),
        ("Fri, 31 Dec 1999 23:59:59 GMT", WAIT_UNTIL_S),
        ("-1", WAIT_UNTIL_S),
        ("\u0663", WAIT_UNTIL_S),
    ],
)
def test_how_long_a_server_asks_to_wait(header: str, seconds: float) -> None:
    assert refusal(503, b"", header).retry_after_s == seconds


def test_where_the_key_is() -> None:
    assert key_in({}) is None and key_in({"RTCSTT_STT_KEY": ""}) is None
    assert key_in({"CARTESIA_API_KEY": "b"}) == "b"
    assert key_in({"CARTESIA_API_KEY": "b", "RTCSTT_STT_KEY": "a"}) == "a"


def test_what_errors_say() -> None:
    refused = CallerError(503, "full", "The server is full", "Later.", retry_after_s=10)
    told = refused.as_dict()
    assert (told["error_code"], told["title"], told["message"]) == ("full", "The server is full", "Later.")
    assert told["request_id"] == refused.request_id and str(refused) == "Later."
    assert (bad_request("no").status, bad_request("no").code) == (400, "invalid_request")
    assert FileError("long", "too_long").code == "too_long" and FileError("x").code == "unreadable"
    assert str(ConnectionLost(1006)) == "connection lost (1006)"
    assert str(ConnectionLost(1001, "server stops")) == "connection lost (1001): server stops"
