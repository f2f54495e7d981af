"""Counting by the active configurations, and what a change of these does to it."""

from dataclasses import replace

import pytest

from app.core.errors import (
    InternalError,
    InvalidInputError,
    PreconditionError,
    UnavailableError,
)
from app.quota.backends.memory import MemoryCounters
from app.quota.model import Code, Descriptor, Modes, RateLimit, Unit
from tests.fakes.quota import AwayCounters, FetchedCounters, Quota, settled


def document(number, domain="edge", unit="minute", **fields):
    limit = {"unit": unit, "requests_per_unit": number}
    return {"domain": domain, "descriptors": [{"key": "k", "rate_limit": limit, **fields}]}


def ask(value="v", **fields):
    return Descriptor((("k", value),), **fields)


async def codes(service, times, *descriptors, hits=0, domain="edge"):
    answers = [await settled(service.ask(domain, descriptors or (ask(),), hits)) for _ in range(times)]
    return [answer.code for answer in answers]


OK, OVER = Code.OK, Code.OVER_LIMIT


class TestCounting:
    async def test_what_exceeds_the_limit_is_over_until_the_window_ends(self, service, clock):
        await service.documents.refresh()
        await service.put("edge", document(2))
        assert await codes(service, 3) == [OK, OK, OVER]
        clock.advance(59)
        assert await codes(service, 1) == [OVER]
        clock.advance(1)
        assert await codes(service, 3) == [OK, OK, OVER]

    async def test_a_status_has_what_remains_and_the_reset(self, service, clock):
        await service.put("edge", document(2))
        clock.advance(45)
        answer = await settled(service.ask("edge", [ask()], 0))
        (status,) = answer.statuses
        assert (status.limit, status.remaining, status.reset_seconds) == (RateLimit(Unit.MINUTE, 2), 1, 15)

    async def test_values_under_a_bare_key_are_counted_apart(self, service):
        await service.put("edge", document(1))
        assert await codes(service, 1, ask("a")) == [OK]
        assert await codes(service, 1, ask("b")) == [OK]
        assert await codes(service, 1, ask("a")) == [OVER]

    async def test_domains_are_counted_apart(self, service):
        await service.put("edge", document(1))
        await service.put("other", document(1, "other"))
        assert await codes(service, 2) == [OK, OVER]
        assert await codes(service, 2, domain="other") == [OK, OVER]

    async def test_every_descriptor_is_counted_even_if_another_is_over(self, service):
        await service.put("edge", document(1))
        assert await codes(service, 2, ask("a"), ask("b")) == [OK, OVER]
        assert await codes(service, 1, ask("b")) == [OVER]

    async def test_a_probe_counts_nothing(self, service):
        await service.put("edge", document(1))
        assert await codes(service, 3, ask(hits=0)) == [OK, OK, OK]
        assert await codes(service, 1) == [OK]
        assert await codes(service, 1, ask(hits=0)) == [OK]  # exactly the limit is used, not more
        assert await codes(service, 1) == [OVER]
        assert await codes(service, 1, ask(hits=0)) == [OVER]

    async def test_hits_of_the_request_apply_where_the_descriptor_has_none(self, service):
        await service.put("edge", document(5))
        answer = await settled(service.ask("edge", [ask("a"), ask("b", hits=2)], 4))
        assert [status.remaining for status in answer.statuses] == [1, 3]

    async def test_an_unlimited_descriptor_and_an_unknown_one_pass(self, service):
        await service.put("edge", {"domain": "edge", "descriptors": [{"key": "k", "rate_limit": {"unlimited": True}}]})
        answer = await settled(service.ask("edge", [ask(), Descriptor((("x", "y"),))], 0))
        assert [(status.code, status.limit, status.remaining) for status in answer.statuses] == [
            (OK, None, 2**32 - 1),
            (OK, None, 0),
        ]

    async def test_a_shadow_limit_never_denies(self, service):
        await service.put("edge", document(1, shadow_mode=True))
        assert await codes(service, 3) == [OK, OK, OK]

    async def test_an_unknown_domain_passes_and_is_reported_as_unknown(self, service):
        await service.documents.refresh()
        answer = await settled(service.ask("nowhere", [ask(), ask()], 0))
        assert (answer.code, len(answer.statuses), answer.domain_known) == (OK, 2, False)

    async def test_an_override_is_counted_in_place_of_the_configuration_where_the_domain_is_known(self, service):
        await service.put("edge", document(9))
        override = ask(override=RateLimit(Unit.HOUR, 1))
        assert await codes(service, 2, override) == [OK, OVER]
        assert await codes(service, 2, override, domain="nowhere") == [OK, OK]

    async def test_overrides_are_counted_by_keys_and_values_where_no_limit_is_configured(self, service):
        await service.put("edge", document(9))
        first, second = (Descriptor(((key, "v"),), override=RateLimit(Unit.HOUR, 1)) for key in ("a", "b"))
        assert await codes(service, 1, first) == [OK]
        assert await codes(service, 1, second) == [OK]
        assert await codes(service, 1, first) == [OVER]

    async def test_an_override_with_the_unit_of_the_configured_limit_shares_its_counter(self, service):
        await service.put("edge", document(9))
        assert await codes(service, 1) == [OK]
        assert await codes(service, 1, ask(override=RateLimit(Unit.MINUTE, 1))) == [OVER]
        assert await codes(service, 1, ask(override=RateLimit(Unit.HOUR, 1))) == [OK]

    async def test_a_replaced_limit_is_not_counted(self, service):
        limit = {"unit": "minute", "requests_per_unit": 1}
        await service.put(
            "edge",
            {
                "domain": "edge",
                "descriptors": [
                    {"key": "all", "rate_limit": {**limit, "name": "all"}},
                    {"key": "vip", "rate_limit": {"unlimited": True, "replaces": [{"name": "all"}]}},
                ],
            },
        )
        everyone, vip = Descriptor((("all", ""),)), Descriptor((("vip", "x"),))
        assert await codes(service, 3, everyone, vip) == [OK, OK, OK]
        assert await codes(service, 2, everyone) == [OK, OVER]

    async def test_a_clock_that_goes_back_grants_no_limit_twice(self, service, clock):
        await service.put("edge", document(2))
        clock.advance(30)
        assert await codes(service, 3) == [OK, OK, OVER]
        clock.turn_back(3600)
        assert await codes(service, 1) == [OVER]
        clock.advance(29)
        assert await codes(service, 1) == [OVER]

    async def test_after_a_clock_went_back_windows_continue_at_their_pace(self, service, clock):
        await service.put("edge", document(2))
        assert await codes(service, 3) == [OK, OK, OVER]
        clock.turn_back(365 * 86_400)
        clock.advance(60)
        assert await codes(service, 3) == [OK, OK, OVER]

    async def test_a_request_before_the_load_is_refused(self, service):
        with pytest.raises(PreconditionError, match="no rate limit configuration loaded"):
            await settled(service.ask("edge", [ask()], 0))

    async def test_a_value_without_room_for_a_counter_is_limited_as_any_other(self, configs, clock, metrics):
        service = Quota(configs, MemoryCounters(clock, max_per_limit=1), clock, metrics)
        await service.put("edge", document(2))
        assert await codes(service, 1, ask("a")) == [OK]
        assert await codes(service, 3, ask("b")) == [OK, OK, OVER]
        assert await codes(service, 2, ask("a")) == [OK, OVER]

    async def test_a_flood_of_values_leaves_other_domains_and_limits_their_room(self, configs, clock, metrics):
        service = Quota(configs, MemoryCounters(clock, max_per_limit=2), clock, metrics)
        both = document(5)
        both["descriptors"] += document(5)["descriptors"]
        both["descriptors"][1]["key"] = "other"
        await service.put("edge", both)
        await service.put("inner", document(5, "inner"))
        flood = [ask(str(number), hits=6) for number in range(3)]
        assert await codes(service, 1, *flood) == [OVER]
        assert await codes(service, 1, Descriptor((("other", "v"),))) == [OK]
        assert await codes(service, 1, domain="inner") == [OK]

    async def test_a_deleted_configuration_frees_its_counters(self, configs, clock, metrics):
        counters = MemoryCounters(clock)
        service = Quota(configs, counters, clock, metrics)
        await service.put("edge", document(1, unit="year"))
        await service.put("inner", document(1, "inner"))
        assert await codes(service, 1, ask("a"), ask("b"), ask("c", override=RateLimit(Unit.HOUR, 1))) == [OK]
        assert await codes(service, 1, domain="inner") == [OK]
        await service.delete("edge")
        assert counters.held == 1
        assert await codes(service, 1, domain="inner") == [OVER]

    async def test_unreachable_counters_are_an_error(self, configs, clock, metrics):
        service = Quota(configs, AwayCounters(), clock, metrics)
        await service.put("edge", document(5))
        with pytest.raises(UnavailableError):
            await settled(service.ask("edge", [ask()], 0))


class TestConfigurations:
    async def test_a_change_takes_effect_on_the_next_call_and_keeps_the_count(self, service):
        await service.put("edge", document(1))
        assert await codes(service, 2) == [OK, OVER]
        await service.put("edge", document(4))
        assert await codes(service, 3) == [OK, OK, OVER]

    async def test_an_invalid_document_changes_nothing_and_is_counted(self, service, metrics, configs):
        await service.put("edge", document(1))
        with pytest.raises(InvalidInputError):
            await service.put("edge", document(-1))
        assert await codes(service, 2) == [OK, OVER]
        assert configs.revision == 1
        assert metrics.config_loads.value("quota", "error") == 1
        assert metrics.config_loads.value("quota", "success") == 1

    async def test_a_document_for_another_domain_is_refused(self, service, configs):
        with pytest.raises(InvalidInputError) as caught:
            await service.put("edge", document(1, domain="other"))
        assert [violation.path for violation in caught.value.violations] == ["domain"]
        assert configs.documents == {}

    async def test_a_deleted_configuration_limits_nothing(self, service):
        await service.put("edge", document(0))
        assert await codes(service, 1) == [OVER]
        await service.delete("edge")
        assert await codes(service, 1) == [OK]

    async def test_a_change_by_another_replica_is_active_after_a_refresh(self, service, configs):
        other = Quota(configs)
        await service.put("edge", document(1))
        await other.documents.refresh()
        assert not await other.documents.refresh()
        await service.put("edge", document(0))
        assert await codes(other, 1) == [OK]
        assert await other.documents.refresh()
        assert await codes(other, 1) == [OVER]
        await service.delete("edge")
        assert await other.documents.refresh()
        assert await codes(other, 1) == [OK]

    async def test_a_stored_configuration_that_is_not_valid_leaves_the_active_one(self, service, configs):
        applied = await service.put("edge", document(1))
        other = Quota(configs)
        await other.documents.refresh()
        key = applied.stored.key
        configs.documents[key] = replace(applied.stored, document={"domain": "edge", "new": 1}, version=2)
        configs.revision = 2
        with pytest.raises(InternalError, match="'edge' is not valid"):
            await other.documents.refresh()
        assert await codes(other, 2) == [OK, OVER]
        await other.put("edge", document(3))  # applying it again repairs it
        assert await codes(other, 2) == [OK, OVER]

    async def test_an_unreachable_database_changes_nothing(self, service, configs):
        await service.put("edge", document(1))
        configs.away = True
        with pytest.raises(UnavailableError):
            await service.put("edge", document(5))
        with pytest.raises(UnavailableError):
            await service.documents.refresh()
        assert await codes(service, 2) == [OK, OVER]

    async def test_changes_are_recorded_by_domain(self, service, configs):
        await service.put("shop/eg/http", document(1, "shop/eg/http"))
        await service.delete("shop/eg/http")
        written = [(record.action, record.target) for record in configs.records]
        assert written == [("quota.apply", "shop/eg/http"), ("quota.delete", "shop/eg/http")]


def two_limits(**flags):
    wide = {"key": "wide", "rate_limit": {"unit": "day", "requests_per_unit": 9}}
    narrow = {"key": "narrow", "rate_limit": {"unit": "day", "requests_per_unit": 1}, **flags}
    return {"domain": "d", "descriptors": [wide, narrow]}


BOTH = [Descriptor((("wide", ""),)), Descriptor((("narrow", ""),))]


@pytest.mark.parametrize("fetched", [False, True])
@pytest.mark.parametrize(("count_refused", "remaining"), [(True, 6), (False, 8)])
async def test_a_refused_request_counts_unless_it_is_set_not_to(clock, fetched, count_refused, remaining):
    counters = MemoryCounters(clock)
    modes = Modes(count_refused=count_refused)
    service = Quota(counters=FetchedCounters(counters) if fetched else counters, clock=clock, modes=modes)
    await service.put("d", two_limits())
    codes = [(await settled(service.ask("d", BOTH, 1))).code for _ in range(3)]
    assert codes == [Code.OK, Code.OVER_LIMIT, Code.OVER_LIMIT]
    (wide,) = (await settled(service.ask("d", [BOTH[0]._replace(hits=0)], 1))).statuses
    assert wide.remaining == remaining


@pytest.mark.parametrize("flag", ["shadow_mode", "quota_mode"])
async def test_a_limit_that_refuses_nothing_keeps_no_other_from_counting(clock, flag):
    service = Quota(clock=clock, modes=Modes(count_refused=False))
    await service.put("d", two_limits(**{flag: True}))
    answers = [service.ask("d", BOTH, 1) for _ in range(3)]
    assert [answer.code for answer in answers] == [Code.OK] * 3
    assert answers[2].statuses[0].remaining == 6
