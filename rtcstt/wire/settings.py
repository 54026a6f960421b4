"""Turn settings: what decides where turns begin and end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from rtcstt.errors import bad_request

# --- turn settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """What decides where turns begin and end; None leaves the server's default (`DEFAULT_TURN`).

    Thresholds are likelihoods, 0 to 1, that the user is in an active turn. `validated` is the only
    check: an instance by itself may hold anything.
    """

    start_threshold: float | None = None
    eager_end_threshold: float | None = None
    end_threshold: float | None = None
    end_timeout_ms: float | None = None

    def merged(self, change: TurnSettings) -> TurnSettings:
        """These settings with those of ``change`` that are not None."""
        return dataclasses.replace(self, **change.as_dict())

    def as_dict(self) -> dict[str, float]:
        """The settings that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def validated(self) -> TurnSettings:
        """These settings; `CallerError` 400 when one is out of range, or when, with the defaults
        filled in, start > eager_end > end does not hold."""
        for name, value in self.as_dict().items():
            low, high = TURN_RANGES[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise bad_request(f"{name} must be a number from {low:g} to {high:g}.")
        full = DEFAULT_TURN.merged(self).as_dict()
        if not full["start_threshold"] > full["eager_end_threshold"] > full["end_threshold"]:
            raise bad_request("The thresholds must keep the order start > eager_end > end.")
        return self


NO_SETTINGS = TurnSettings()

DEFAULT_TURN = TurnSettings(
    start_threshold=0.8, eager_end_threshold=0.4, end_threshold=0.2, end_timeout_ms=5600
)
TURN_RANGES: Mapping[str, tuple[float, float]] = {
    "start_threshold": (0.5, 0.9),
    "eager_end_threshold": (0.3, 0.8),
    "end_threshold": (0.05, 0.5),
    "end_timeout_ms": (640, 11200),
}


def turn_settings(values: object, now: TurnSettings = NO_SETTINGS) -> TurnSettings:
    """Settings from the JSON object of a `config` message, which change some of those that hold ``now``;
    `CallerError` 400 when they are wrong, by themselves or with the others."""
    if not isinstance(values, dict) or not values.keys() <= TURN_RANGES.keys():
        raise bad_request(f"turn must be an object with some of {', '.join(TURN_RANGES)}.")
    change = TurnSettings(**values)
    now.merged(change).validated()
    return change
