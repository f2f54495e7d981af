"""Metric families for hot paths: a dictionary update per event, turned into Prometheus samples when scraped.

They are written from the event loop's thread alone and hold a bounded number of series: whatever comes after the
bound is counted under `other`, so that hostile input cannot claim memory.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# Series that one family may hold; a mesh has a few dozen RPCs, codes and domains.
MAX_SERIES = 512
OTHER = "other"
Series = TypeVar("Series")
# Upper bounds in seconds: from a decision in memory (0.1 ms) to a call that waits for a database.
LATENCY_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class CounterSeries:
    """One series of a counter; the hot path adds to `count` itself."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0.0


class _Family(Collector, Generic[Series]):
    """The series of a metric by their label values, each made by `new_series`. `name` goes without a `_total`."""

    new_series: Callable[[], Series]

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._other = (OTHER,) * len(labels)
        self._series: dict[tuple[str, ...], Series] = {}

    def series(self, values: tuple[str, ...]) -> Series:
        """Return the series with these label values, in the order of the labels, for a caller that uses it often."""
        known = self._series.get(values)
        if known is None:
            if len(self._series) >= MAX_SERIES:
                values = self._other
            known = self._series.setdefault(values, self.new_series())
        return known


class Counter(_Family[CounterSeries]):
    """Counts events by label values."""

    new_series = CounterSeries

    def add(self, values: tuple[str, ...], amount: float = 1) -> None:
        """Add `amount` to the series with these label values."""
        self.series(values).count += amount

    def value(self, *values: str) -> float:
        """Return the count of one series, 0 if it has none."""
        known = self._series.get(values)
        return known.count if known else 0

    def collect(self) -> Iterator[Metric]:
        """Yield the family for a scrape; a series that nothing was added to is left out."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in self._series.items():
            if series.count:
                family.add_metric(values, series.count)
        yield family


class Gauge(Collector):
    """The last value set by label values."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._values: dict[tuple[str, ...], float] = {}

    def set(self, values: tuple[str, ...], value: float) -> None:
        """Set the series with these label values; a new series beyond the bound is dropped."""
        if values in self._values or len(self._values) < MAX_SERIES:
            self._values[values] = value

    def remove(self, values: tuple[str, ...]) -> None:
        """Drop the series with these label values."""
        self._values.pop(values, None)

    def add(self, values: tuple[str, ...], amount: float) -> None:
        """Change the series with these label values by `amount`, from 0 if it has not been set."""
        self.set(values, self._values.get(values, 0) + amount)

    def collect(self) -> Iterator[Metric]:
        """Yield the family for a scrape."""
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, value in self._values.items():
            family.add_metric(values, value)
        yield family


class HistogramSeries:
    """One series of a histogram; the hot path adds to the bucket of `LATENCY_BUCKETS` and to `sum` itself."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one event that took `seconds`."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.sum += seconds


class Histogram(_Family[HistogramSeries]):
    """Counts durations in buckets by label values."""

    new_series = HistogramSeries

    def observe(self, values: tuple[str, ...], seconds: float) -> None:
        """Count one event that took `seconds`."""
        self.series(values).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the family for a scrape; a series that nothing was counted in is left out."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [str(bound) for bound in LATENCY_BUCKETS] + ["+Inf"]
        for values, series in self._series.items():
            total, buckets = 0, []
            for bound, count in zip(bounds, series.counts, strict=True):
                total += count
                buckets.append((bound, total))
            if total:
                family.add_metric(values, buckets, series.sum)
        yield family
