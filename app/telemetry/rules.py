"""What is counted of each rate limit, a rule, within a bound on rules."""

from collections.abc import Callable, Collection, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app.telemetry.families import OTHER

# Rules that are counted by themselves: those of the largest configurations.
MAX_RULES = 10_000
# Those whose names take values of requests, which clients can make up.
MAX_NAMED_BY_REQUESTS = 1_000
# Characters of a rule as a label.
MAX_RULE_LENGTH = 512

_LABELS = ("domain", "rule")


class RuleSeries:
    """The hits of one rule: within the limit, near to it among those, over it, over it in shadow mode among those.

    The hot path adds to them itself.
    """

    __slots__ = ("domain", "near", "over", "rule", "shadow", "within")

    def __init__(self, domain: str, rule: str) -> None:
        self.domain, self.rule = domain, rule
        self.within = self.near = self.over = self.shadow = 0


class RuleCounters(Collector):
    """The series of each rule by its name, which is its domain, a dot, and what follows.

    Rules that are too many, or whose names are too long, are counted as `other`.
    """

    def __init__(self) -> None:
        self.series: dict[str, RuleSeries] = {}
        self._configured: frozenset[str] = frozenset()
        self._named_by_requests = 0
        self._other = RuleSeries(OTHER, OTHER)

    def configure(self, rules: Collection[str]) -> None:
        """Set the rules of the configurations, and forget what was counted of every other one."""
        self._configured = frozenset(rules)
        self._named_by_requests = 0
        for rule in self.series.keys() - self._configured:
            del self.series[rule]

    def open(self, domain: str, rule: str) -> RuleSeries:
        """Return the series of a rule that is not in `series`, where it is from now on if there is room."""
        label = rule[len(domain) + 1 :]
        if len(label) > MAX_RULE_LENGTH or len(self.series) >= MAX_RULES:
            return self._other
        if rule not in self._configured:
            if self._named_by_requests >= MAX_NAMED_BY_REQUESTS:
                return self._other
            self._named_by_requests += 1
        series = self.series[rule] = RuleSeries(domain, label)
        return series

    def value(self, domain: str, rule: str) -> dict[str, int]:
        """Return what was counted of one rule, by what `collect` calls it."""
        series = self._other if domain == OTHER else self.series.get(f"{domain}.{rule}")
        return {name: read(series) for name, (_, read) in _FAMILIES.items()} if series else {}

    def collect(self) -> Iterator[Metric]:
        """Yield the families for a scrape; what is 0 is left out."""
        for name, (documentation, read) in _FAMILIES.items():
            family = CounterMetricFamily(f"meshward_quota_rule_{name}", documentation, labels=_LABELS)
            for series in (*self.series.values(), self._other):
                if count := read(series):
                    family.add_metric((series.domain, series.rule), count)
            yield family


_FAMILIES: dict[str, tuple[str, Callable[[RuleSeries], int]]] = {
    "hits": ("Hits that a rate limit was asked for", lambda series: series.within + series.over),
    "within_limit": ("Hits within a rate limit", lambda series: series.within),
    "near_limit": ("Hits near to a rate limit, among those within it", lambda series: series.near),
    "over_limit": ("Hits over a rate limit", lambda series: series.over),
    "shadow_mode": ("Hits over a rate limit in shadow mode, which pass", lambda series: series.shadow),
}
