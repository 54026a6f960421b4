"""What several packages use: strict JSON, hosts, files written whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt import whole_files
from rtcstt.wire import strict_json
from rtcstt.wire.hosts import is_address, is_loopback

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON, st.booleans())
def test_whatever_is_json_is_read_as_python_reads_it(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert strict_json.loads(text) == json.loads(text)
    assert strict_json.loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[-Infinity]",
        '{"a": 1e999}',
        '["\\ud800"]',
        "",
        "{",
        "[" * 100_000,
        b"\xff",
        '{"\\udfff": 1}',
        "1" * 5000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        strict_json.loads(text)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"{}"', b"[{}]"])
def test_an_object_is_an_object(text: str | bytes) -> None:
    assert strict_json.load_object('{"a": [1.5]}') == {"a": [1.5]}
    with pytest.raises(ValueError, match="object"):
        strict_json.load_object(text)


@pytest.mark.parametrize(
    ("host", "address", "loopback"),
    [
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("::1", True, True),
        ("[::1]", False, False),
        ("10.0.0.1", True, False),
        ("localhost", False, True),
        ("a.localhost", False, True),
        ("notlocalhost", False, False),
        ("localhost.example", False, False),
        ("", False, False),
    ],
)
def test_hosts(host: str, address: bool, loopback: bool) -> None:
    assert (is_address(host), is_loopback(host)) == (address, loopback)


def test_a_file_is_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    whole_files.write(path, "one\n")
    whole_files.write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    whole_files.write(path, "half of a pair: \ud800\r\n")
    assert path.read_bytes() == b"half of a pair: ?\r\n"
    assert [one.name for one in path.parent.iterdir()] == ["b.txt"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OSError):
        whole_files.write(tmp_path / "folder", "text")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
