"""The event classes: one definition for Python and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rtcstt import events, wire
from rtcstt.events import EVENTS, ErrorEvent, SessionEnd, TurnEnd, Unknown, from_dict, from_message

SAMPLES = {"str": "x", "int": 1, "float": 1.5, "bool": True, "list": [], "dict": {}, "AudioLedger": {}}


def sample(kind: type[events.Event]) -> dict[str, object]:
    """A JSON object of an event, with every field that must be there."""
    hints = events._HINTS[kind]
    needed = {name: hints[name] for name in events._REQUIRED[kind]}
    plain = {name: getattr(hint, "__origin__", hint).__name__ for name, hint in needed.items()}
    return {"type": kind.type, "call": "c", "seq": 3, "time": 1.0} | {
        name: SAMPLES[hint] for name, hint in plain.items()
    }


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_goes_through_json_and_back(name: str) -> None:
    values = sample(EVENTS[name])
    event = from_dict(values)
    assert type(event) is EVENTS[name] and event.type == name
    assert json.loads(event.to_json()) == values
    assert from_dict(event.as_dict()) == event


@pytest.mark.parametrize("name", [name for name in EVENTS if events._REQUIRED[EVENTS[name]]])
def test_a_field_that_lacks_or_is_of_the_wrong_type_is_named(name: str) -> None:
    for missing in events._REQUIRED[EVENTS[name]]:
        values = sample(EVENTS[name])
        with pytest.raises(ValueError, match=missing):
            from_dict(values | {missing: object()})
        del values[missing]
        with pytest.raises(ValueError, match=missing):
            from_dict(values)


def test_every_message_of_the_service_has_its_event() -> None:
    for message in (
        wire.Connected(request_id="r"),
        wire.TurnStart(request_id="r"),
        wire.TurnUpdate("a", request_id="r"),
        wire.TurnEagerEnd("a"),
        wire.TurnResume(),
        wire.TurnEnd("a", extra={"mood": 1}),
        wire.Transcript("a", is_final=True, duration=1, words=[]),
        wire.FlushDone(),
        wire.Error(title="t", message="m", status_code=500),
    ):
        fields = wire.as_fields(message)
        event = from_message(fields, track="0", turn=0, start=0.0, end=1.0)
        assert type(event) is EVENTS[message.type]
        assert fields.items() <= event.as_dict().items()


def test_what_is_not_known_passes_through() -> None:
    event = from_message({"type": "turn.mood", "mood": "fair", "seq": 9}, track="0", turn=2)
    assert isinstance(event, Unknown) and (event.type, event.name, event.turn) == ("unknown", "turn.mood", 2)
    whole = event.as_dict()
    assert whole == {
        "type": "turn.mood",
        "seq": -1,
        "time": 0,
        "track": "0",
        "turn": 2,
        "mood": "fair",
    }
    assert from_dict(whole) == event


def test_empty_fields_are_left_out_and_match_works() -> None:
    error = ErrorEvent(title="t", message="", status_code=400)
    assert error.as_dict().keys() == {"type", "seq", "time", "title", "message", "status_code"}
    match from_dict(sample(SessionEnd)):
        case SessionEnd(complete=complete, missing=missing):
            assert (complete, missing) == (True, [])
        case _:
            pytest.fail("it is one")
    assert TurnEnd(track="0", turn=0, start=0, end=1, transcript="").ends_turn


def test_a_type_is_asked_for() -> None:
    with pytest.raises(ValueError, match="type"):
        from_dict({"call": "c"})


def test_the_text_and_the_end_of_a_turn_are_found_in_either_mode() -> None:
    final = from_dict({**sample(events.Transcript), "text": "a"})
    early = from_dict({**sample(events.Transcript), "is_final": False})
    assert isinstance(final, events.Transcript) and final.transcript == "a"
    assert [one.ends_turn for one in (final, early, from_dict(sample(SessionEnd)))] == [True, False, False]


def test_the_fields_are_what_no_place_is() -> None:
    event = from_dict({**sample(TurnEnd), "track": "0", "start": 1.0, "end": 2.0, "transcript": "a"})
    assert event.fields == {"transcript": "a"}


def test_half_a_surrogate_pair_is_escaped() -> None:
    event = from_dict({**sample(TurnEnd), "transcript": "a\ud800"})
    assert event.to_json().encode() and json.loads(event.to_json())["transcript"] == "a\ud800"


def test_gaps_that_touch_are_one() -> None:
    def gap(start: float, end: float, track: str = "0", reason: str = "stt") -> Any:
        return {"track": track, "start": start, "end": end, "reason": reason}

    several = [gap(2, 3), gap(0, 1), gap(1, 1.5), gap(1.2, 1.4), gap(0, 5, "1"), gap(3, 4, reason="backlog")]
    expected = [gap(0, 1.5), gap(0, 5, "1"), gap(2, 3), gap(3, 4, reason="backlog")]
    assert events.merged(several) == expected
