"""The query of a WebSocket's handshake, and what may be tried again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from rtcstt.errors import bad_request
from rtcstt.wire.settings import TURN_RANGES, TurnSettings

Endpoint = Literal["turns", "manual"]
PATHS: Mapping[Endpoint, str] = {"turns": "/stt/turns/websocket", "manual": "/stt/websocket"}
VERSION = "2026-03-01"  # of the API, for the Cartesia-Version header

MAX_KEYTERMS = 100
MAX_KEYTERM_CHARACTERS = 1200
UPDATE_MS = (100.0, 10_000.0)  # of speech between two updates, least and most
KEYTERM_STRENGTH = (0.0, 2.0)
SAMPLE_RATES = (8000, 48000)  # Hz, lowest and highest


# --- what may be tried again ----------------------------------------------------------------------

_RETRYABLE_CLOSES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1015})


ALL_ANSWERED = "all answered"
"The reason beside close code 1000 by which an STT says that what it was sent has all the text it gets: ours."


def retryable_close(code: int) -> bool:
    """Whether a client may connect again after its WebSocket was closed with ``code``."""
    return code in _RETRYABLE_CLOSES


def retryable_status(status: int) -> bool:
    """Whether the same request may succeed later: never after a 4xx, but for 408 and 429."""
    return status >= 500 or status in (408, 429)


def retryable(code: int) -> bool:
    """`retryable_close` or `retryable_status`: close codes begin at 1000, statuses end below."""
    return retryable_close(code) if code >= 1000 else retryable_status(code)


# --- handshake ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What a client declares when it opens a WebSocket."""

    endpoint: Endpoint
    model: str = "ink-2"
    encoding: str = "pcm_s16le"
    sample_rate: int = 16000
    keyterms: tuple[str, ...] = ()
    turn: TurnSettings = TurnSettings()
    language: str | None = None
    min_volume: float | None = None
    max_silence_duration_secs: float | None = None
    update_ms: float | None = None  # additions of our server's, on both endpoints
    keyterm_strength: float | None = None

    def query(self) -> list[tuple[str, str]]:
        """The query parameters, not yet percent-encoded (encode a space as ``%20``, not ``+``)."""
        pairs = [("model", self.model), ("encoding", self.encoding), ("sample_rate", str(self.sample_rate))]
        pairs += [("keyterm", term) for term in self.keyterms]
        if self.endpoint == "turns":
            pairs += [(f"turn_{name}", _plain_number(value)) for name, value in self.turn.as_dict().items()]
        optional = ("language", "min_volume", "max_silence_duration_secs")
        values = ((name, getattr(self, name)) for name in optional if self.endpoint == "manual")
        pairs += [(name, f"{value}") for name, value in values if value is not None]
        own = (("update_ms", self.update_ms), ("keyterm_strength", self.keyterm_strength))
        return pairs + [(name, _plain_number(value)) for name, value in own if value is not None]

    @classmethod
    def parse(cls, endpoint: Endpoint, query: Iterable[tuple[str, str]]) -> Handshake:
        """Raises `CallerError` 400 when something is missing or wrong; unknown names are ignored."""
        pairs = list(query)
        values = dict(pairs)
        model = values.get("model", "")
        if not model:
            raise bad_request("The query parameter model is missing.")
        older = endpoint == "manual" and model.startswith("ink-whisper")
        defaults = {"encoding": "pcm_s16le", "sample_rate": "16000"} if older else {}
        for name in ("encoding", "sample_rate"):
            if name not in values and name not in defaults:
                raise bad_request(f"The query parameter {name} is missing.")
        values = {**defaults, **values}
        manual = endpoint == "manual"
        return cls(
            endpoint=endpoint,
            model=model,
            encoding=_encoding(values["encoding"]),
            sample_rate=_sample_rate(values["sample_rate"]),
            keyterms=_keyterms(tuple(value for name, value in pairs if name == "keyterm")),
            turn=TurnSettings() if manual else _turn(values),
            language=values.get("language"),  # on the turns endpoint an addition of our server's
            min_volume=_number(values, "min_volume", 0.0, 1.0) if manual else None,
            max_silence_duration_secs=(
                _number(values, "max_silence_duration_secs", 0.0, 60.0) if manual else None
            ),
            update_ms=_number(values, "update_ms", *UPDATE_MS),
            keyterm_strength=_number(values, "keyterm_strength", *KEYTERM_STRENGTH),
        )


def check_language_code(code: object) -> str:
    """An ISO 639 code; `CallerError` 400 for anything else."""
    if not isinstance(code, str) or not re.fullmatch(r"[a-z]{2,3}", code):
        raise bad_request("language must be an ISO 639 code such as en.")
    return code


def check_keyterms(terms: tuple[str, ...]) -> tuple[str, ...]:
    """The terms; `CallerError` 400 when there are too many or they are too long."""
    return _keyterms(terms)


def _keyterms(terms: tuple[str, ...]) -> tuple[str, ...]:
    if len(terms) > MAX_KEYTERMS or sum(map(len, terms)) > MAX_KEYTERM_CHARACTERS:
        raise bad_request(
            f"At most {MAX_KEYTERMS} key terms of {MAX_KEYTERM_CHARACTERS} characters in all are taken."
        )
    return terms


def _encoding(name: str) -> str:
    if name not in ENCODINGS:
        raise bad_request(f"encoding must be one of {', '.join(ENCODINGS)}.")
    return name


def _sample_rate(text: str) -> int:
    low, high = SAMPLE_RATES
    if not text.isascii() or not text.isdecimal() or not low <= int(text[:9]) <= high:
        raise bad_request(f"sample_rate must be a whole number of Hz from {low} to {high}.")
    return int(text)


def _plain_number(value: float) -> str:
    """The shortest text that reads back the same; 900 rather than 900.0."""
    return repr(int(value) if value == int(value) else value)


def _turn(values: Mapping[str, str]) -> TurnSettings:
    found = {}
    for name, (low, high) in TURN_RANGES.items():
        number = _number(values, f"turn_{name}", low, high)
        if number is not None:
            found[name] = number
    return TurnSettings(**found).validated()


def _number(values: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    if name not in values:
        return None
    try:
        number = float(values[name])
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise bad_request(f"{name} must be a number from {low:g} to {high:g}.")
    return number


# --- audio ----------------------------------------------------------------------------------------


ENCODINGS: Mapping[str, int] = {  # name: bytes per sample
    "pcm_s16le": 2,
    "pcm_s32le": 4,
    "pcm_f16le": 2,
    "pcm_f32le": 4,
    "pcm_mulaw": 1,
    "pcm_alaw": 1,
}
