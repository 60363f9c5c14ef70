"""Numbers that are counted while serving and read when scraped: counters, gauges and histograms.

Plain integers and floats in dictionaries, keyed by label values. prometheus-client's own metrics are not used for
counting: a histogram of theirs takes a lock for every bucket and 1.7 µs for an observation where this takes 0.25 µs,
and whether they write ``_created`` series is a setting of the whole process. `llmux.telemetry.exposition` hands what is
here to prometheus-client, which writes it out.

Whoever makes a series must take its label values from a closed set; nothing here can check that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeVar

Labels = tuple[str, ...]
_Value = TypeVar("_Value")

_MODEL_LABELS = frozenset({"model", "from", "to"})


def _places(labels: Sequence[str]) -> list[int]:
    """Which of `labels` have models as their values."""
    return [place for place, label in enumerate(labels) if label in _MODEL_LABELS]


def _without(values: dict[Labels, _Value], labels: Sequence[str], model: str) -> dict[Labels, _Value]:
    """A new dictionary, as a scrape may be reading the old one in its thread."""
    places = _places(labels)
    return {key: value for key, value in values.items() if all(key[place] != model for place in places)}


class Counters:
    """A counter for each combination of label values, made when it is first increased or touched.

    `name` has no ``_total``; the exposition adds it.
    """

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self.values: dict[Labels, int] = {}

    def forget(self, model: str) -> None:
        """Drop every series of that model."""
        self.values = _without(self.values, self.labels, model)

    def increase(self, *labels: str, by: int = 1) -> None:
        """Add `by`, which may be 0: that only makes the series, so that a first increase shows in a rate."""
        self.values[labels] = self.values.get(labels, 0) + by


class Gauges:
    """A value for each combination of label values."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self.values: dict[Labels, float] = {}

    def put(self, value: float, *labels: str) -> None:
        self.values[labels] = value

    def forget(self, model: str) -> None:
        """Drop every series of that model."""
        self.values = _without(self.values, self.labels, model)


class Histogram:
    """Observations sorted into buckets. `counts[i]` are those up to `bounds[i]` and above the bound before it; the
    last one of `counts` has those above every bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histograms:
    """A histogram for each combination of label values, made when it is first asked for. `bounds` are ascending."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self.children: dict[Labels, Histogram] = {}

    def forget(self, model: str) -> None:
        """Drop every series of that model."""
        self.children = _without(self.children, self.labels, model)

    def of(self, *labels: str) -> Histogram:
        """The histogram of these label values. Keep it where speed matters."""
        child = self.children.get(labels)
        if child is None:
            child = self.children[labels] = Histogram(self.bounds)
        return child


Series = Counters | Gauges | Histograms
