"""Between the calls of this server and the state that servers share: what is kept of a call, and how a call
that another server had goes on here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rtcstt.call import Recorder
from rtcstt.fleet.journal import Journal
from rtcstt.fleet.shared import Shared
from rtcstt.media.pcm import Chunk
from rtcstt.server.calls import Calls, Entry


@dataclass(frozen=True, slots=True)
class _Tee:
    """What is recorded here also goes to the journal."""

    journal: Journal
    recorder: Recorder | None

    def write(self, track: str, chunk: Chunk, offset_s: float) -> None:
        self.journal.write(track, chunk)
        if self.recorder is not None:
            self.recorder.write(track, chunk, offset_s)


class Sharing:
    """Connects ``calls`` with ``shared``."""

    def __init__(self, calls: Calls, shared: Shared) -> None:
        self._calls = calls
        self._shared = shared
        calls.on_begun = self._begun
        calls.on_forgotten = shared.forget
        shared.lost = self._lost

    def _begun(self, entry: Entry) -> None:
        journal = self._shared.begin(entry.call, record_of(entry))
        entry.call.recorder = _Tee(journal, entry.call.recorder)

    def _lost(self, call: str) -> None:
        self._calls.abandon(call)


def record_of(entry: Entry) -> dict[str, Any]:
    """What another server must know of a call, and does not change. No secret is in it."""
    call, settings = entry.call, entry.call.settings
    return {
        "label": call.label,
        "metadata": call.metadata,
        "created": call.created,
        "first": call.snapshot(),
        "identity": entry.by.identity,
        "digests": sorted(entry.secret_digests),
        "gateway": entry.is_gateways,
        "mode": settings.mode,
        "turn": dataclasses.asdict(settings.turn),
        "keyterms": list(settings.keyterms),
        "language": settings.language,
    }
