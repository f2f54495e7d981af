"""What is decided beside the store: policies while it is away, leases, and windows that are known to be used up."""

from itertools import product

import pytest

from app.quota.backends.valkey.counters import ValkeyCounters
from app.quota.model import Away, CalendarWindow, Concurrency, FixedWindow, Hit, SlidingWindow, TokenBucket, Total, Unit
from app.quota.rules.joint import AllOrNone
from tests.fakes.counter_servers import FakeServers
from tests.fakes.quota import settled

LIMIT = 100
MINUTE = 60
SHARE = 10
WINDOW = FixedWindow(LIMIT, MINUTE)


@pytest.fixture
def servers(clock):
    return FakeServers(clock)


@pytest.fixture
def counters(servers, clock, metrics):
    return ValkeyCounters(servers, clock, metrics, lease_percent=SHARE)


def hit(hits=1, away=Away.DENY, algorithm=WINDOW, key="k"):
    return Hit("limit", (key,), algorithm, hits, away)


def lease(hits=1, **fields):
    return hit(hits, Away.LEASE, **fields)


async def ask(counters, *hits):
    return [outcome.allowed for outcome in await settled(counters.add(hits))]


async def together(counters, *hits, refusing=None):
    joint = AllOrNone(refusing or [True] * len(hits))
    return [outcome.allowed for outcome in await settled(counters.count(counters.prepare(hits), joint))]


async def granted(counters, *, at_most=LIMIT * 3, **fields):
    """How many single hits are allowed in a row."""
    number = 0
    while number < at_most and await ask(counters, lease(**fields)) == [True]:
        number += 1
    return number


class TestAway:
    @pytest.mark.parametrize("how", ["available", "late"])
    @pytest.mark.parametrize(("away", "allowed"), [(Away.DENY, False), (Away.ALLOW, True)])
    async def test_the_policy_of_each_limit_answers(self, how, away, allowed, counters, servers, metrics):
        setattr(servers, how, how == "late")
        assert await ask(counters, hit(away=away)) == [allowed]
        assert metrics.counters_bypassed.value(away.value, "allowed" if allowed else "denied") == 1

    @pytest.mark.parametrize("counts_jointly", [True, False])
    @pytest.mark.parametrize("how", ["available", "late"])
    async def test_the_policy_answers_for_hits_that_go_together(self, how, counts_jointly, counters, servers):
        servers.counts_jointly = counts_jointly
        setattr(servers, how, how == "late")
        assert await together(counters, hit(3, Away.ALLOW), hit(0, Away.ALLOW)) == [True, True]
        assert (await together(counters, hit(1, Away.ALLOW), hit(1, Away.DENY)))[1] is False
        assert await together(counters, hit(SHARE, Away.LEASE, key="l"), hit(1, Away.ALLOW)) == [True, True]
        assert (await together(counters, hit(1, Away.LEASE, key="l"), hit(1, Away.ALLOW)))[0] is False

    @pytest.mark.parametrize("counts_jointly", [True, False])
    @pytest.mark.parametrize("how", ["available", "late"])
    async def test_metrics_count_hits_that_go_together_once(self, how, counts_jointly, counters, servers, metrics):
        servers.counts_jointly = counts_jointly
        setattr(servers, how, how == "late")
        bypassed = metrics.counters_bypassed
        await together(counters, hit(away=Away.ALLOW), lease())
        assert (bypassed.value("allow", "allowed"), bypassed.value("lease", "allowed")) == (1, 1)
        await together(counters, hit(away=Away.ALLOW), hit(), lease())
        found = {place: bypassed.value(*place) for place in product(("allow", "deny", "lease"), ("allowed", "denied"))}
        assert found == {
            ("allow", "allowed"): 2,
            ("allow", "denied"): 0,
            ("deny", "allowed"): 0,
            ("deny", "denied"): 1,
            ("lease", "allowed"): 2,
            ("lease", "denied"): 0,
        }

    async def test_what_a_lease_grants_goes_together_with_others(self, counters, servers):
        limited, other = lease(algorithm=FixedWindow(SHARE, MINUTE * 60)), hit(key="other")
        joint = AllOrNone([True, True])
        assert (await ask(counters, limited)) == [True]
        while servers.counters.add([limited._replace(hits=1)])[0].allowed:
            pass
        prepared = counters.prepare([limited, other])
        assert [each.allowed for each in await settled(counters.count(prepared, joint))] == [True, True]
        assert [each.allowed for each in await settled(counters.count(prepared, joint))] == [False, True]
        assert servers.counters.add([other._replace(hits=0)])[0].remaining == LIMIT - 1

    async def test_nobody_waits_for_servers_that_are_away(self, counters, servers):
        servers.available = False
        (outcome,) = counters.add([hit()])
        assert (outcome.remaining, outcome.reset_seconds) == (0, 1)

    async def test_each_descriptor_is_answered_by_its_own_policy(self, counters, servers):
        servers.available = False
        assert await ask(counters, hit(away=Away.ALLOW), hit(), lease()) == [True, False, True]


class TestLeases:
    async def test_the_share_is_taken_from_the_limit_beforehand(self, counters, servers):
        assert await ask(counters, lease()) == [True]
        assert [each.hits for each in servers.batches[0]] == [1, SHARE]
        (outcome,) = servers.counters.add([hit(0)])
        assert outcome.remaining == LIMIT - 1 - SHARE
        await ask(counters, lease())
        assert [each.hits for each in servers.batches[1]] == [1]

    async def test_no_more_than_the_limit_is_granted_when_the_store_goes_away(self, counters, servers):
        before = sum([await ask(counters, lease()) == [True] for _ in range(30)])
        servers.available = False
        assert before + await granted(counters) == 30 + SHARE
        servers.available = True
        rest = await granted(counters)
        assert 30 + SHARE + rest == LIMIT

    async def test_what_is_leased_is_spent_once_the_limit_is_used_up(self, counters):
        assert await granted(counters) == LIMIT

    async def test_two_replicas_together_grant_no_more_than_the_limit(self, servers, clock, metrics):
        first, second = (ValkeyCounters(servers, clock, metrics, lease_percent=SHARE) for _ in range(2))
        total = await granted(first, at_most=20) + await granted(second, at_most=20)
        servers.available = False
        total += await granted(first) + await granted(second)
        servers.available = True
        total += await granted(first) + await granted(second)
        assert total == LIMIT

    async def test_a_counter_without_a_lease_grants_its_share_in_each_window(self, counters, servers, clock):
        servers.available = False
        assert await granted(counters) == SHARE
        clock.advance(MINUTE)
        assert await granted(counters) == SHARE

    async def test_a_new_window_is_leased_again(self, counters, servers, clock):
        await ask(counters, lease())
        clock.advance(MINUTE)
        await ask(counters, lease())
        assert [each.hits for each in servers.batches[1]] == [1, SHARE]

    async def test_a_lease_that_does_not_fit_takes_nothing_and_is_not_tried_again(self, counters, servers):
        await ask(counters, hit(LIMIT - 3))
        assert [await ask(counters, lease()) for _ in range(4)] == [[True]] * 3 + [[False]]
        assert [len(batch) for batch in servers.batches] == [1, 2, 1, 1, 1]

    async def test_a_limit_with_less_than_a_share_is_denied(self, counters, servers):
        small = FixedWindow(9, MINUTE)
        assert await ask(counters, lease(algorithm=small)) == [True]
        servers.available = False
        assert await ask(counters, lease(algorithm=small)) == [False]

    async def test_a_probe_leases_nothing(self, counters, servers):
        await ask(counters, lease(0))
        assert [len(batch) for batch in servers.batches] == [1]

    @pytest.mark.parametrize(
        "algorithm",
        [
            SlidingWindow(LIMIT, MINUTE),
            TokenBucket(LIMIT, 86_400, LIMIT),
            Total(LIMIT),
            CalendarWindow(LIMIT, Unit.DAY, "Europe/Zurich"),
        ],
    )
    async def test_every_algorithm_can_be_leased(self, algorithm, counters, servers):
        before = sum([await ask(counters, lease(algorithm=algorithm)) == [True] for _ in range(30)])
        servers.available = False
        assert before + await granted(counters, algorithm=algorithm) == 30 + SHARE

    async def test_leases_of_deleted_limits_are_dropped(self, counters, servers):
        await ask(counters, lease())
        await counters.retain({"other"})
        assert counters._away._leases == {}


class TestKnownOver:
    async def test_a_window_that_is_used_up_is_refused_without_the_store(self, counters, servers, clock, metrics):
        assert await ask(counters, hit(LIMIT), hit()) == [True, False]
        outcomes = counters.add([hit()])
        assert isinstance(outcomes, list)
        assert [(each.allowed, each.remaining) for each in outcomes] == [(False, 0)]
        assert 1 <= outcomes[0].reset_seconds <= MINUTE
        assert (len(servers.batches), metrics.counters_over.value()) == (1, 1)
        clock.advance(MINUTE)
        assert await ask(counters, hit()) == [True]

    @pytest.mark.parametrize("counts_jointly", [True, False])
    @pytest.mark.parametrize("refusing", [[True, True], [False, True]])
    async def test_metrics_count_a_refusal_of_hits_that_go_together_once(
        self, refusing, counts_jointly, counters, servers, metrics
    ):
        servers.counts_jointly = counts_jointly
        await ask(counters, hit(LIMIT + 1, key="over"))
        assert await together(counters, hit(key="over"), hit(), refusing=refusing) == [False, True]
        assert metrics.counters_over.value() == 1

    async def test_it_is_never_refused_once_the_window_has_ended(self, counters, clock):
        clock.advance(59.5)
        assert await ask(counters, hit(LIMIT + 1)) == [False]
        clock.advance(0.5)
        assert await ask(counters, hit()) == [True]

    async def test_the_other_descriptors_of_a_request_are_counted(self, counters, servers):
        await ask(counters, hit(LIMIT + 1, key="over"))
        assert await ask(counters, hit(key="a"), hit(key="over"), hit(key="b")) == [True, False, True]
        assert [each.key for each in servers.batches[1]] == [("a",), ("b",)]

    async def test_a_limit_that_was_raised_is_asked_for_again(self, counters):
        await ask(counters, hit(LIMIT + 1))
        assert await ask(counters, hit(algorithm=FixedWindow(LIMIT * 2, MINUTE))) == [True]

    async def test_a_limit_that_is_used_up_exactly_is_still_asked_for(self, counters, servers):
        await ask(counters, hit(LIMIT))
        assert await ask(counters, hit(0)) == [True]
        assert len(servers.batches) == 2

    @pytest.mark.parametrize("algorithm", [TokenBucket(1, MINUTE, 1), Concurrency(1, MINUTE), SlidingWindow(1, MINUTE)])
    async def test_what_may_be_allowed_again_soon_is_asked_for(self, algorithm, counters, servers):
        await ask(counters, hit(algorithm=algorithm))
        for _ in range(2):
            assert await ask(counters, hit(algorithm=algorithm)) == [False]
        assert len(servers.batches) == 3

    async def test_how_many_are_known_is_bounded(self, counters, monkeypatch):
        monkeypatch.setattr("app.quota.backends.valkey.counters.MAX_KNOWN_OVER", 500)
        for first in range(0, 1500, 100):
            await ask(counters, *(hit(LIMIT + 1, key=str(number)) for number in range(first, first + 100)))
        assert len(counters._over) == 500

    async def test_the_newest_are_known_when_there_are_too_many(self, counters, servers, monkeypatch):
        monkeypatch.setattr("app.quota.backends.valkey.counters.MAX_KNOWN_OVER", 2)
        for key in ("a", "b", "c"):
            await ask(counters, hit(LIMIT + 1, key=key))
        asked = len(servers.batches)
        assert await ask(counters, hit(key="c"), hit(key="b")) == [False, False]
        assert len(servers.batches) == asked
        assert await ask(counters, hit(key="a")) == [False]
        assert len(servers.batches) == asked + 1
