"""What hits mean for the metrics of a limit, and which rules have series of their own."""

import pytest

from app.quota.model import Descriptor, Modes
from app.telemetry import rules as module
from app.telemetry.metrics import Metrics
from app.telemetry.rules import MAX_RULE_LENGTH, RuleCounters
from tests.fakes.quota import Quota

TEN = {"unit": "day", "requests_per_unit": 10}


def counts(metrics, domain, rule):
    return tuple(metrics.rules.value(domain, rule).values())


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        # All, within, near, over, in shadow mode: of a limit of 10, whose last 2 are near to it.
        ([1], (1, 1, 0, 0, 0)),
        ([8], (8, 8, 0, 0, 0)),
        ([8, 1], (9, 9, 1, 0, 0)),
        ([5, 4], (9, 9, 1, 0, 0)),
        ([10], (10, 10, 2, 0, 0)),
        ([9, 1, 1], (11, 10, 2, 1, 0)),
        ([9, 3], (12, 9, 1, 3, 0)),
        ([0], (0, 0, 0, 0, 0)),
        ([10, 0], (10, 10, 2, 0, 0)),
    ],
)
@pytest.mark.parametrize("shadow", [True, False])
async def test_hits_are_within_near_or_over_a_limit(hits, expected, shadow):
    metrics = Metrics()
    service = Quota(metrics=metrics)
    limit = {"key": "k", "rate_limit": {"unit": "day", "requests_per_unit": 10}, "shadow_mode": shadow}
    await service.put("d", {"domain": "d", "descriptors": [limit]})
    for number in hits:
        service.ask("d", [Descriptor((("k", "v"),), hits=number)], 1)
    found = counts(metrics, "d", "k") or (0,) * 5
    assert found == (*expected[:4], expected[3] if shadow else 0)


async def test_what_is_near_is_set():
    metrics = Metrics()
    service = Quota(metrics=metrics, modes=Modes(near_ratio=0.25))
    await service.put("d", {"domain": "d", "descriptors": [{"key": "k", "rate_limit": TEN}]})
    service.ask("d", [Descriptor((("k", "v"),))], 5)
    assert counts(metrics, "d", "k") == (5, 5, 3, 0, 0)


async def test_each_limit_of_a_request_is_counted_by_its_place_in_the_configuration():
    metrics = Metrics()
    service = Quota(metrics=metrics, modes=Modes(quota=True))
    limit = {"unit": "day", "requests_per_unit": 2}
    below = [{"key": "b", "rate_limit": limit, "shadow_mode": True}]
    top = {"key": "a", "rate_limit": limit, "descriptors": below}
    await service.put("d.e", {"domain": "d.e", "descriptors": [top]})
    for _ in range(3):
        service.ask("d.e", [Descriptor((("a", "x"),)), Descriptor((("a", "x"), ("b", "y")))], 1)
    assert counts(metrics, "d.e", "a") == (3, 2, 1, 1, 0)
    assert counts(metrics, "d.e", "a.b") == (3, 2, 1, 1, 1)


def count(rules, rule):
    (rules.series.get(rule) or rules.open("d", rule)).within += 1


def hits(rules, domain, rule):
    return rules.value(domain, rule).get("hits", 0)


def test_names_that_clients_make_up_have_a_bound_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "MAX_NAMED_BY_REQUESTS", 2)
    rules = RuleCounters()
    rules.configure({"d.configured"})
    for rule in ("d.x", "d.y", "d.z", "d.x", "d." + "r" * (MAX_RULE_LENGTH + 1), "d.configured"):
        count(rules, rule)
    assert [hits(rules, "d", rule) for rule in ("x", "y", "z", "configured")] == [2, 1, 0, 1]
    assert hits(rules, "other", "other") == 2


def test_rules_beyond_the_bound_are_counted_together(monkeypatch):
    monkeypatch.setattr(module, "MAX_RULES", 1)
    rules = RuleCounters()
    rules.configure({"d.a", "d.b"})
    for rule in ("d.a", "d.b", "d.a"):
        count(rules, rule)
    assert (hits(rules, "d", "a"), hits(rules, "other", "other")) == (2, 1)


def test_rules_that_are_gone_leave_the_metrics_and_make_room(monkeypatch):
    monkeypatch.setattr(module, "MAX_NAMED_BY_REQUESTS", 1)
    rules = RuleCounters()
    rules.configure({"d.a", "d.b"})
    for rule in ("d.a", "d.b", "d.made-up"):
        count(rules, rule)
    rules.configure({"d.a"})
    count(rules, "d.another")
    found = [hits(rules, "d", rule) for rule in ("a", "b", "made-up", "another")]
    assert found == [1, 0, 0, 1]
