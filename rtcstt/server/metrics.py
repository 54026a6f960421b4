"""Counters of the calls, as Prometheus wants them. They live as plain numbers in the objects that count."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rtcstt.call import Call
from rtcstt.http.guard import Guard
from rtcstt.http.loop_monitor import BUCKETS, STALL_S, Histogram, Stalls
from rtcstt.server.calls import Calls

_DELAY_BUCKETS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 6.0)
_LABELLED = {
    "rtcstt_audio_ms": (
        "Audio by what became of it, in ms",
        ("received", "recovered", "concealed", "silence", "sent", "discarded", "unanswered"),
    ),
    "rtcstt_missing_ms": (
        "Audio that may have held speech and has no text, by the reason, in ms",
        ("network", "stt", "overflow", "drain_timeout", "server"),
    ),
    "rtcstt_packets": ("RTP packets", ("received", "lost", "late", "duplicate")),
}
_PLAIN = {
    "rtcstt_turns": "Turns",
    "rtcstt_events": "Events published",
    "rtcstt_errors": "Error events sent",
    "rtcstt_reconnects": "STT connections lost",
    "rtcstt_failovers": "Changes to the fallback STT",
    "rtcstt_updates_coalesced": "turn.update events coalesced for slow listeners",
    "rtcstt_commands_ignored": "Commands ignored because a caller sent too many",
    "rtcstt_track_failures": "Audio that could not be dealt with",
}


class Metrics(Collector):
    """What `GET /metrics` shows. Totals never fall: what a forgotten call counted is kept."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self, calls: Calls, stalls: Stalls, guard: Guard) -> None:
        self._calls = calls
        self._stalls = stalls
        self._guard = guard
        self._past = _Totals()
        self._counted: WeakSet[Call] = WeakSet()  # of those that are still remembered
        self._registry = CollectorRegistry()
        self._registry.register(self)
        calls.on_ended = self._settle

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        calls = self._calls.all()
        totals = _Totals()
        totals.add(self._past)
        for call in calls:
            if call not in self._counted:
                totals.count(call)
        yield CounterMetricFamily("rtcstt_calls", "Calls placed", value=self._calls.placed)
        yield CounterMetricFamily("rtcstt_calls_refused", "Calls refused", value=self._calls.refused)
        yield CounterMetricFamily(
            "rtcstt_calls_taken_over", "Calls that another server had before", value=self._calls.taken_over
        )
        yield from self._recorded()
        yield from self._shared()
        yield from self._stalled()
        failed = self._guard.failed_logins
        yield CounterMetricFamily("rtcstt_failed_logins", "Requests with a wrong token", value=failed)
        yield from totals.metrics()
        yield from self._now([call for call in calls if call.state == "open"])

    def _recorded(self) -> Iterator[Metric]:
        kept = self._calls.recordings
        if kept is not None:
            text = "Writes of recordings that failed"
            yield CounterMetricFamily("rtcstt_recording_failures", text, value=kept.failures)
            text = "Audio that is missing in recordings, in ms"
            yield CounterMetricFamily("rtcstt_not_recorded_ms", text, value=kept.dropped / 16)

    def _stalled(self) -> Iterator[Metric]:
        text = f"Times of {STALL_S * 1000:.0f} ms and more for which the event loop was held"
        yield _histogram("rtcstt_loop_stall_seconds", text, self._stalls.held)
        text += ", less those without a processor"
        yield _histogram("rtcstt_loop_work_stall_seconds", text, self._stalls.worked)

    def _shared(self) -> Iterator[Metric]:
        """Of the state that servers share, where they do."""
        counts = self._calls.sharing()
        if counts is not None:
            yield _gauge("rtcstt_redis_away", "Whether Redis does not answer", [float(counts.is_away)])
            text = "Writes and heartbeats that Redis did not take; they are tried again"
            yield CounterMetricFamily("rtcstt_redis_failures", text, value=counts.failures)
            text = "Audio that Redis never got, because it was away for too long, in ms"
            yield CounterMetricFamily("rtcstt_redis_audio_lost_ms", text, value=counts.audio_lost / 16)
            text = "Calls that another server has now"
            yield CounterMetricFamily("rtcstt_calls_moved", text, value=counts.moved_away)

    def _settle(self, call: Call) -> None:
        """Count an ended call once and for all: it may be forgotten before anybody looks."""
        self._counted.add(call)
        self._past.count(call)

    def _now(self, calls: list[Call]) -> Iterator[Metric]:
        stats = [track.stats() for call in calls for track in call.tracks.values() if not track.ended]
        listeners = sum(call.feed.listeners for call in self._calls.all())
        yield _gauge("rtcstt_calls_open", "Calls that have not ended", [self._calls.open])
        load = self._calls.open / self._calls.capacity
        yield _gauge("rtcstt_load", "Share of the calls that it takes which are open", [load])
        yield _gauge("rtcstt_tracks_open", "Tracks that have not ended", [len(stats)])
        yield _gauge("rtcstt_listeners", "Data channels and event streams", [listeners])
        reserved = "Speech-to-text streams reserved for calls and clients"
        yield _gauge("rtcstt_streams_reserved", reserved, [self._calls.streams.used])
        lags = (float(one["stt"].get("lag_s", 0.0)) for one in stats)
        yield _gauge("rtcstt_stt_lag_seconds", "Audio that waits for the STT, of the worst track", lags)
        jitter = (one["audio"]["jitter_ms"] / 1000 for one in stats)
        yield _gauge("rtcstt_jitter_seconds", "Jitter of the packets, of the worst track", jitter)


class _Totals:
    """Sums over calls."""

    def __init__(self) -> None:
        self._sums: Counter[tuple[str, str]] = Counter()
        self._delays = [0] * (len(_DELAY_BUCKETS) + 1)
        self._delay_s = 0.0

    def add(self, other: _Totals) -> None:
        self._sums.update(other._sums)
        self._delays = [a + b for a, b in zip(self._delays, other._delays, strict=True)]
        self._delay_s += other._delay_s

    def count(self, call: Call) -> None:
        for delay in call.counts.end_delays_s:
            self._delays[bisect_left(_DELAY_BUCKETS, delay)] += 1
            self._delay_s += delay
        counts = call.counts
        self._sums["rtcstt_turns", ""] += counts.turns
        self._sums["rtcstt_errors", ""] += counts.errors
        self._sums["rtcstt_reconnects", ""] += counts.reconnects
        self._sums["rtcstt_commands_ignored", ""] += counts.ignored_commands
        self._sums["rtcstt_events", ""] += call.feed.published
        self._sums["rtcstt_updates_coalesced", ""] += call.feed.coalesced
        for reason, missing in counts.missing_ms.items():
            self._sums["rtcstt_missing_ms", reason] += round(missing)
        for track in call.tracks.values():
            self._count_track(track.ledger(), track.stats())

    def _count_track(self, ledger: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
        for kind in _LABELLED["rtcstt_audio_ms"][1]:
            self._sums["rtcstt_audio_ms", kind] += ledger[kind]
        for kind in _LABELLED["rtcstt_packets"][1]:
            self._sums["rtcstt_packets", kind] += stats["audio"][kind]
        self._sums["rtcstt_failovers", ""] += int(stats["stt"].get("failovers", 0))
        self._sums["rtcstt_track_failures", ""] += stats["failures"]

    def metrics(self) -> Iterator[Metric]:
        for name, (text, kinds) in _LABELLED.items():
            family = CounterMetricFamily(name, text, labels=["kind"])
            for kind in kinds:
                family.add_metric([kind], self._sums[name, kind])
            yield family
        for name, text in _PLAIN.items():
            yield CounterMetricFamily(name, text, value=self._sums[name, ""])
        yield self._histogram()

    def _histogram(self) -> Metric:
        family = HistogramMetricFamily("rtcstt_turn_end_delay_seconds", "From the end of speech to turn.end")
        bounds = [*map(str, _DELAY_BUCKETS), "+Inf"]
        counts = itertools.accumulate(self._delays)
        family.add_metric([], list(zip(bounds, counts, strict=True)), sum_value=self._delay_s)
        return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    bounds = [*map(str, BUCKETS), "+Inf"]
    counts = itertools.accumulate(histogram.counts)
    family.add_metric([], list(zip(bounds, counts, strict=True)), sum_value=histogram.total_s)
    return family


def _gauge(name: str, text: str, values: Iterable[float]) -> Metric:
    return GaugeMetricFamily(name, text, value=max(values, default=0.0))
