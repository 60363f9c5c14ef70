"""From counted numbers to the Prometheus text format, which prometheus-client writes.

Imported by the first scrape, not at start. May run in a thread beside the loop that counts: it copies each dictionary
and list in one step before it looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from llmux.telemetry.series import Counters, Gauges, Histogram, Histograms, Series

#: Memory, CPU time and descriptors of this process, by the names that all Prometheus clients give them. Linux only.
_PROCESS = ProcessCollector(registry=None)


class _Registry:
    """Everything of one application; what `generate_latest` asks for metrics."""

    def __init__(self, series: Iterable[Series]) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        for family in self._series:
            yield _metric(family)
        yield from _PROCESS.collect()


def exposition(series: Iterable[Series]) -> bytes:
    """The text format, version 0.0.4, of all of `series`."""
    return generate_latest(_Registry(series))


def _metric(family: Series) -> Metric:
    match family:
        case Counters():
            counter = CounterMetricFamily(family.name, family.help_text, labels=family.labels)
            for labels, count in family.values.copy().items():
                counter.add_metric(labels, count)
            return counter
        case Gauges():
            gauge = GaugeMetricFamily(family.name, family.help_text, labels=family.labels)
            for labels, value in family.values.copy().items():
                gauge.add_metric(labels, value)
            return gauge
        case Histograms():
            histogram = HistogramMetricFamily(family.name, family.help_text, labels=family.labels)
            names = [str(float(bound)) for bound in family.bounds] + ["+Inf"]
            for labels, child in family.children.copy().items():
                histogram.add_metric(labels, _buckets(names, child), child.total)
            return histogram


def _buckets(names: Sequence[str], child: Histogram) -> list[tuple[str, float]]:
    return list(zip(names, accumulate(tuple(child.counts)), strict=True))
