"""Calls that another server had, or still has, and that go on here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rtcstt.call import Call, CallOptions, CallSettings, PreparedCall, Restored
from rtcstt.server.admission import Requester
from rtcstt.server.calls import Calls
from rtcstt.server.entries import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What does not change of a call that another server had."""

    by: Requester
    label: str | None
    metadata: Mapping[str, object] | None
    options: CallOptions
    digests: tuple[str, ...]
    is_gateways: bool
    gateway_key: str | None = None


def adopt(calls: Calls, id: str, restored: Restored, kept: Kept, begun: Callable[[Entry], None]) -> Entry:
    """A call of a server that is gone, from what is kept of it; its caller may resume it. ``begun`` is told
    instead of `Calls.on_begun`."""
    call = Call(
        id,
        stt=calls.stt,
        label=kept.label,
        metadata=kept.metadata,
        settings=_settings(calls, kept),
        restored=restored,
    )
    open_tracks = sum(not track.ended for track in call.tracks.values())
    entry = _entered(calls, call, kept, open_tracks)
    calls.start(entry, begun)
    entry.wait_for_caller(calls.limits.resume_grace_s, "server lost")
    return entry


def prepare(calls: Calls, id: str, kept: Kept) -> PreparedCall:
    """A call that another server still has, for its caller to resume here; `commit` it then."""
    known = calls.prepared(id)
    if known is not None:
        return known
    settings = _settings(calls, kept)
    call = PreparedCall(id, stt=calls.stt, label=kept.label, metadata=kept.metadata, settings=settings)
    _entered(calls, call, kept, 0)
    return call


def _settings(calls: Calls, kept: Kept) -> CallSettings:
    return replace(calls.settings, **kept.options)


def _entered(calls: Calls, call: Call, kept: Kept, tracks: int) -> Entry:
    entry = Entry(
        call,
        asyncio.get_running_loop().time(),
        kept.by,
        secret_digests=set(kept.digests),
        streams=calls.streams.reserve(tracks),
        is_gateways=kept.is_gateways,
        gateway_key=kept.gateway_key,
    )
    calls.add(entry)
    return entry
