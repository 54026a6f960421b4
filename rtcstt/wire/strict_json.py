"""JSON as RFC 8259 has it, from outside; a core.

Python's own reader takes NaN and Infinity, makes an infinity of 1e999, and a string that no socket or file
takes of half a surrogate pair. All of that is refused here.
"""

from __future__ import annotations

import json
import math
from typing import Any, Never


def loads(text: str | bytes) -> Any:
    """Any JSON value; `ValueError` for what is none (also where it is nested too deeply, or no UTF-8)."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in text:  # the only way in for half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def load_object(text: str | bytes) -> dict[str, object]:
    """A JSON object; `ValueError` for anything else."""
    value = loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number that not all readers of JSON take")
    return number


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
