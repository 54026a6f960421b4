"""What a JSON value is, beside what a type says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from rtcstt.events.fitting import fault


class Inner(TypedDict, total=False):
    ms: float


class Outer(TypedDict):
    name: str
    count: int
    inner: NotRequired[Inner]
    pairs: list[tuple[int, int]]


WHOLE = {"name": "x", "count": 1, "inner": {"ms": 1}, "pairs": [[1, 2]]}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (1, float),
        (1.5, float),
        (None, None),
        (None, int | None),
        ("b", Literal["a", "b"]),
        ({"a": [1]}, dict[str, list[int]]),
        ({"a": 1}, Mapping[str, object]),
        ([1, "x"], tuple[int, str]),
        ([], list[str]),
        (object(), Any),
        (WHOLE, Outer),
        ({"name": "x", "count": 1, "pairs": [], "of a later version": 1}, Outer),
        ({}, Inner),
    ],
)
def test_what_fits(value: object, hint: object) -> None:
    assert fault(value, hint, "it") is None


@pytest.mark.parametrize(
    ("value", "hint", "where"),
    [
        (True, int, "it"),
        (1.5, int, "it"),
        ("1", float, "it"),
        ("c", Literal["a", "b"], "it"),
        ([1], Literal["a", "b"], "it"),
        ({"a": [1, "x"]}, dict[str, list[int]], "it.a[1]"),
        ([1], tuple[int, str], "it"),
        ([1, 2], tuple[int, str], "it[1]"),
        (1, list[int], "it"),
        (1, dict[str, int], "it"),
        (None, Outer, "it"),
        ({}, Outer, "it.name"),
        (WHOLE | {"inner": {"ms": None}}, Outer, "it.inner.ms"),
        (WHOLE | {"inner": None}, Outer, "it.inner"),
        (WHOLE | {"pairs": [[1, 2], [1]]}, Outer, "it.pairs[1]"),
        ({"turn": {"x": "y"}}, dict[str, dict[str, int] | None], "it.turn.x"),
    ],
)
def test_the_field_that_does_not_fit_is_named(value: object, hint: object, where: str) -> None:
    assert fault(value, hint, "it") == where
