"""Events of one track on their way out, with their times on the call's clock."""

from __future__ import annotations

from dataclasses import replace

from rtcstt import wire
from rtcstt.events import AnyEvent, TranscriptGap, from_message
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.floor import Turn


class Publisher:
    """``offset_s`` is the call's time at the track's sample 0; ``position`` the end of the audio taken in."""

    def __init__(self, track: str, offset_s: float) -> None:
        self.track = track
        self.position = 0
        self.request_id: str | None = None  # of the present connection
        self._offset_s = offset_s
        self._events: list[AnyEvent] = []

    def seconds(self, sample: int) -> float:
        return round(self._offset_s + sample / SAMPLE_RATE, 3)

    @property
    def time(self) -> float:
        return self.seconds(self.position)

    def message(self, message: wire.ServerMessage, turn: Turn | None = None, **changed: object) -> None:
        """A message of the STT, with some of its fields ``changed``."""
        fields = {**wire.as_fields(message), **changed}
        fields.pop(wire.AUDIO_POSITION, None)  # the event has times on the call's clock
        if fields.get("transcript") != getattr(message, "transcript", None):
            fields.pop("confidence", None)  # it is of other words
        self._publish(fields, turn, message.request_id)

    def own(self, type_: str, turn: Turn, **fields: object) -> None:
        """What the STT might have said of a ``turn``, and did not."""
        self._publish({"type": type_, **fields}, turn, self.request_id)

    def announce(self, event: AnyEvent) -> None:
        """An event of rtcstt's own gets its time."""
        self._events.append(replace(event, time=self.time))

    def gap(self, start: int, end: int, reason: str) -> None:
        """The audio between these samples will have no text."""
        start_s, end_s = self.seconds(start), self.seconds(end)
        self.announce(TranscriptGap(track=self.track, start=start_s, end=end_s, reason=reason))

    def events(self) -> list[AnyEvent]:
        """What is to be published, in order; each event is handed out once."""
        due, self._events = self._events, []
        return due

    def _publish(self, fields: dict[str, object], turn: Turn | None, request_id: str | None) -> None:
        if request_id is not None:
            fields["request_id"] = request_id
        place: dict[str, float] = {}
        if turn is not None:
            place |= {"turn": turn.index, "start": self.seconds(turn.start), "end": self.seconds(turn.end)}
        self._events.append(from_message(fields, time=self.time, track=self.track, **place))
