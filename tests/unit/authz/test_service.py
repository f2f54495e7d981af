"""Decisions by the active policies: a change counts with the next check, and whatever goes wrong in a check denies."""

import asyncio
import threading

import pytest

from app.authz import service as service_module
from app.authz.model import Cause, Verdict
from app.authz.rules.compile import compile_policy
from app.authz.rules.evaluate import NativeEngine
from app.core.decision import Decision, Outcome
from app.core.errors import InvalidInputError, UnavailableError
from app.documents.parser import parse_documents
from tests.fakes.authz import policy, request
from tests.fakes.bans import ListedBans
from tests.fakes.checks import Policies, policy_service
from tests.fakes.documents import MemoryDocuments
from tests.fakes.engine import WaitingEngine

DENY_ALL = "{action: DENY, rules: [{}]}"
ALLOW_ALL = "{rules: [{}]}"


@pytest.fixture
def source():
    return MemoryDocuments()


@pytest.fixture
def make(source, metrics):
    return lambda: Policies(source, metrics=metrics)


@pytest.fixture
async def service(make):
    service = make()
    await service.refresh()
    return service


async def test_a_change_takes_effect_on_the_next_check(service):
    assert service.check(request()).allowed
    await service.apply(policy(DENY_ALL))
    assert not service.check(request()).allowed
    await service.delete("shop", "p")
    assert service.check(request()).allowed


async def test_one_bad_document_keeps_all_of_them_out(service, source, metrics):
    with pytest.raises(InvalidInputError):
        await service.apply(policy(DENY_ALL, "a") + policy("{action: BLOCK}", "b"))
    assert not source.documents
    assert service.check(request()).allowed
    assert metrics.config_loads.value("policy", "error") == 1


async def test_an_unreachable_database_changes_nothing_and_checks_go_on(service, source):
    await service.apply(policy(DENY_ALL))
    source.away = True
    with pytest.raises(UnavailableError):
        await service.delete("shop", "p")
    with pytest.raises(UnavailableError):
        await service.documents.refresh()
    assert not service.check(request()).allowed


async def test_policies_survive_a_restart(service, make):
    await service.apply(policy(DENY_ALL))
    restarted = make()
    await restarted.refresh()
    assert not restarted.check(request()).allowed


async def test_before_the_policies_are_loaded_every_check_is_denied(make):
    service = make()
    assert not service.documents.loaded
    assert not service.check(request()).allowed


async def test_an_exception_in_a_check_is_a_denial_that_is_counted(service, metrics, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(NativeEngine, "evaluate", broken)
    decision = service.check(request())
    assert not decision.allowed
    assert "broken" not in decision.reason
    assert metrics.decisions.value("deny", "error") == 1


DENIED = Verdict(Decision(Outcome.DENY, "denied by another engine"), Cause.POLICY)


async def test_an_engine_may_wait_and_its_verdict_is_recorded_when_it_is_there(metrics):
    engine = WaitingEngine()
    service = await policy_service(metrics=metrics, engine=engine)
    check = request()
    waiting = asyncio.ensure_future(service.check(check))
    await engine.asked.wait()
    assert engine.requests == [check]
    assert not waiting.done()
    assert metrics.decisions.value("deny", "policy") == 0
    engine.answer(DENIED)
    assert await waiting is DENIED.decision
    assert metrics.decisions.value("deny", "policy") == 1


async def test_an_engine_that_fails_while_it_waits_denies(metrics):
    engine = WaitingEngine()
    service = await policy_service(metrics=metrics, engine=engine)
    waiting = asyncio.ensure_future(service.check(request()))
    await engine.asked.wait()
    engine.fail(UnavailableError("the engine is away"))
    decision = await waiting
    assert not decision.allowed
    assert "away" not in decision.reason
    assert metrics.decisions.value("deny", "error") == 1


async def test_cancelling_a_check_that_waits_is_not_a_decision(metrics):
    engine = WaitingEngine()
    service = await policy_service(metrics=metrics, engine=engine)
    waiting = asyncio.ensure_future(service.check(request()))
    await engine.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert metrics.decisions.value("deny", "error") == 0


async def test_decisions_are_counted_by_outcome_and_cause(service, metrics):
    service.check(request())
    service.check(request(workload=None))
    await service.apply(policy(ALLOW_ALL))
    service.check(request())
    assert metrics.decisions.value("allow", "no_policy") == 1
    assert metrics.decisions.value("deny", "unknown_workload") == 1
    assert metrics.decisions.value("allow", "policy") == 1


async def test_what_policies_find_that_decide_nothing_is_counted(service, metrics):
    await service.apply(policy("{action: AUDIT, rules: [{to: [{operation: {paths: [/admin]}}]}]}"))
    service.check(request("/admin"))
    service.check(request("/"))
    assert metrics.observations.value("audit", "matched") == 1
    assert metrics.decisions.value("allow", "no_policy") == 2


async def test_policies_are_compiled_where_they_keep_no_check_waiting(monkeypatch, make):
    threads = []

    def watched(found, options):
        threads.append(threading.get_ident())
        return compile_policy(found, options)

    monkeypatch.setattr(service_module, "compile_policy", watched)
    service = make()
    await service.apply(policy("{rules: [{}]}"))
    assert threads
    assert threading.get_ident() not in threads


async def test_the_active_policy_is_kept_as_it_was_parsed(service):
    await service.apply(policy(DENY_ALL))
    (expected,) = await service.documents.validate(parse_documents(policy(DENY_ALL).encode()))
    assert service.documents.snapshot.documents["shop", "p"].parsed == expected


async def test_changes_are_recorded_by_the_name_of_the_policy(service, source):
    await service.apply(policy(DENY_ALL))
    await service.delete("shop", "p")
    written = [(record.action, record.target) for record in source.records]
    assert written == [("policy.apply", "shop/p"), ("policy.delete", "shop/p")]


async def test_a_banned_source_is_denied_with_the_reason_whatever_the_policies_say(source, metrics):
    bans = ListedBans()
    service = Policies(source, metrics=metrics, bans=bans)
    await service.refresh()
    await service.apply(policy(ALLOW_ALL))
    assert service.check(request()).allowed
    bans.ban("cluster.local/ns/web/sa/front")
    decision = service.check(request())
    assert (decision.outcome, decision.policy) == (Outcome.DENY, "")
    assert "cluster.local/ns/web/sa/front" in decision.reason
    assert service.check(request(source="spiffe://cluster.local/ns/web/sa/other")).allowed
    assert service.check(request(source="")).allowed
    assert metrics.decisions.value("deny", "banned") == 1
    bans.ban()
    assert service.check(request()).allowed


async def test_bans_that_cannot_be_asked_deny(source):
    class Broken(ListedBans):
        def refusal(self, identity, serial):
            raise ValueError("broken")

    service = Policies(source, bans=Broken())
    await service.refresh()
    assert not service.check(request()).allowed
