"""Counters of the calls, as Prometheus wants them. They live as plain numbers in the objects that count."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rtcstt.call import Call
from rtcstt.server.calls import Calls

_DELAY_BUCKETS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 6.0)
_LEDGER = ("received", "recovered", "concealed", "silence", "sent", "discarded")
_PACKETS = ("received", "lost", "late", "duplicate")


class Metrics(Collector):
    """What `GET /metrics` shows. Totals never fall: what a forgotten call counted is kept."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._past: dict[tuple[str, str], float] = {}
        self._delays: list[float] = []
        self._counted: set[str] = set()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        calls = self._calls.all()
        self._settle(calls)
        totals = dict(self._past)
        delays = list(self._delays)
        for call in calls:
            if call.id not in self._counted:
                _add(totals, call)
                delays += call.counts.end_delays_s
        yield GaugeMetricFamily("rtcstt_calls_open", "Calls that have not ended", value=self._calls.open)
        yield CounterMetricFamily("rtcstt_calls", "Calls placed", value=self._calls.placed)
        yield CounterMetricFamily("rtcstt_calls_refused", "Calls refused", value=self._calls.refused)
        yield _labelled("rtcstt_audio_ms", "Audio by what became of it, in ms", "kind", _LEDGER, totals)
        yield _labelled("rtcstt_packets", "RTP packets", "kind", _PACKETS, totals)
        for name, text in (
            ("turns", "Turns"),
            ("errors", "Errors told"),
            ("reconnects", "STT connections lost"),
        ):
            yield CounterMetricFamily(f"rtcstt_{name}", text, value=totals.get((f"rtcstt_{name}", ""), 0))
        yield self._stt_lag(calls)
        yield _histogram(delays)

    def _settle(self, calls: list[Call]) -> None:
        """Count ended calls once and for all: they may be forgotten before the next look."""
        for call in calls:
            if call.state == "closed" and call.id not in self._counted:
                self._counted.add(call.id)
                _add(self._past, call)
                self._delays = (self._delays + call.counts.end_delays_s)[-100_000:]
        self._counted &= {call.id for call in calls}

    def _stt_lag(self, calls: list[Call]) -> Metric:
        lags = [
            float(line.stats()["stt"].get("lag_s", 0.0))
            for call in calls
            if call.state == "open"
            for line in call.lines.values()
        ]
        return GaugeMetricFamily(
            "rtcstt_stt_lag_seconds",
            "Audio that waits for the STT, longest of all calls",
            value=max(lags, default=0.0),
        )


def _add(totals: dict[tuple[str, str], float], call: Call) -> None:
    def add(name: str, kind: str, value: float) -> None:
        totals[name, kind] = totals.get((name, kind), 0) + value

    for line in call.lines.values():
        ledger, packets = line.ledger(), line.stats()["audio"]
        for kind in _LEDGER:
            add("rtcstt_audio_ms", kind, float(ledger[kind]))
        for kind in _PACKETS:
            add("rtcstt_packets", kind, float(packets[kind]))
    add("rtcstt_turns", "", call.counts.turns)
    add("rtcstt_errors", "", call.counts.errors)
    add("rtcstt_reconnects", "", call.counts.reconnects)


def _labelled(
    name: str, text: str, label: str, kinds: tuple[str, ...], totals: dict[tuple[str, str], float]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for kind in kinds:
        family.add_metric([kind], totals.get((name, kind), 0))
    return family


def _histogram(delays: list[float]) -> Metric:
    family = HistogramMetricFamily("rtcstt_turn_end_delay_seconds", "From the end of speech to turn.end")
    buckets = [(str(bound), float(sum(delay <= bound for delay in delays))) for bound in _DELAY_BUCKETS]
    family.add_metric([], [*buckets, ("+Inf", float(len(delays)))], sum_value=sum(delays))
    return family
