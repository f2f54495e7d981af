"""Policies come into force whole or not at all, on the next check; whatever goes wrong in a check denies."""

import threading

import pytest

from app.authz import service as service_module
from app.authz.model import AuthzOptions, Change
from app.authz.rules.compile import compile_policy
from app.authz.service import PolicyService
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from app.documents.parser import parse_documents
from app.telemetry.metrics import Metrics
from tests.fakes.authz import policy, request
from tests.fakes.checks import policy_service
from tests.fakes.clock import ManualClock
from tests.fakes.policy_store import MemoryPolicies

DENY_ALL = "{action: DENY, rules: [{}]}"
ALLOW_ALL = "{rules: [{}]}"


def documents(*texts: str):
    return parse_documents("".join(texts).encode())


@pytest.fixture
def store():
    return MemoryPolicies()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def make(store, metrics):
    return lambda: PolicyService(store, ManualClock(), metrics, AuthzOptions())


@pytest.fixture
async def service(make):
    service = make()
    await service.load()
    return service


async def test_a_change_takes_effect_on_the_next_check(service):
    assert service.check(request()).allowed
    await service.apply(documents(policy(DENY_ALL)))
    assert not service.check(request()).allowed
    await service.delete("shop", "p")
    assert service.check(request()).allowed


async def test_applying_says_what_became_of_each_policy(service):
    first = await service.apply(documents(policy(ALLOW_ALL, "a"), policy(ALLOW_ALL, "b")))
    assert [each.change for each in first] == [Change.CREATED, Change.CREATED]
    second = await service.apply(documents(policy(ALLOW_ALL, "a"), policy(DENY_ALL, "b"), policy(DENY_ALL, "c")))
    assert [each.change for each in second] == [Change.UNCHANGED, Change.UPDATED, Change.CREATED]
    assert [each.policy.version for each in second] == [1, 2, 2]


async def test_one_bad_document_keeps_all_of_them_out(service, store, metrics):
    with pytest.raises(InvalidInputError):
        await service.apply(documents(policy(DENY_ALL, "a"), policy("{action: BLOCK}", "b")))
    assert not store.policies
    assert service.check(request()).allowed
    assert metrics.config_loads.value("policy", "error") == 1


async def test_a_database_that_is_away_changes_nothing_and_checks_go_on(service, store):
    await service.apply(documents(policy(DENY_ALL)))
    store.away = True
    with pytest.raises(UnavailableError):
        await service.delete("shop", "p")
    with pytest.raises(UnavailableError):
        await service.refresh()
    assert not service.check(request()).allowed


async def test_policies_survive_a_restart(service, make):
    await service.apply(documents(policy(DENY_ALL)))
    restarted = make()
    await restarted.load()
    assert not restarted.check(request()).allowed


async def test_a_refresh_takes_over_what_another_replica_changed(service, make):
    other = make()
    await other.load()
    await other.apply(documents(policy(DENY_ALL, "a")))
    assert service.check(request()).allowed
    assert await service.refresh()
    assert not service.check(request()).allowed
    assert not await service.refresh()


async def test_a_change_on_top_of_another_replicas_keeps_both(service, make):
    other = make()
    await other.load()
    await other.apply(documents(policy(DENY_ALL, "a")))
    await service.apply(documents(policy(ALLOW_ALL, "b")))
    assert not service.check(request()).allowed


async def test_a_change_reads_nothing_but_what_it_changes(service, store):
    before = store.reads
    await service.apply(documents(policy(DENY_ALL, "a")))
    await service.apply(documents(policy(DENY_ALL, "b")))
    await service.delete("shop", "a")
    assert store.reads == before
    assert not service.check(request()).allowed


async def test_a_stored_policy_that_is_not_valid_stops_the_start_and_leaves_the_rest_in_force(service, store, make):
    await service.apply(documents(policy(DENY_ALL)))
    broken = store.policies["shop", "p"]
    store.policies["shop", "q"] = service_module.StoredPolicy("shop", "q", {"kind": "x"}, 9, broken.updated_at)
    store.revision = 9
    with pytest.raises(InternalError, match="shop/q"):
        await make().load()
    with pytest.raises(InternalError, match="shop/q"):
        await service.refresh()
    assert service.check(request()).policy == "shop/p"


async def test_before_the_policies_are_loaded_every_check_is_denied(make):
    service = make()
    assert not service.loaded
    assert not service.check(request()).allowed


async def test_a_fault_inside_a_check_is_a_denial_that_is_counted(service, metrics, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(service_module, "evaluate", broken)
    decision = service.check(request())
    assert not decision.allowed
    assert "broken" not in decision.reason
    assert metrics.decisions.value("deny", "error") == 1


async def test_decisions_are_counted_by_outcome_and_cause(service, metrics):
    service.check(request())
    service.check(request(workload=None))
    await service.apply(documents(policy(ALLOW_ALL)))
    service.check(request())
    assert metrics.decisions.value("allow", "no_policy") == 1
    assert metrics.decisions.value("deny", "unknown_workload") == 1
    assert metrics.decisions.value("allow", "policy") == 1


async def test_replacing_asks_for_the_version_that_was_read(service):
    (document,) = documents(policy(DENY_ALL))
    created = await service.replace("shop", "p", document)
    (other,) = documents(policy(ALLOW_ALL))
    with pytest.raises(ConflictError):
        await service.replace("shop", "p", other, created.policy.version + 1)
    replaced = await service.replace("shop", "p", other, created.policy.version)
    assert replaced.change is Change.UPDATED
    assert service.check(request()).allowed


async def test_replacing_refuses_a_document_of_another_policy(service):
    (document,) = documents(policy(DENY_ALL))
    with pytest.raises(InvalidInputError, match="shop/p"):
        await service.replace("shop", "q", document)


async def test_deleting_asks_for_the_version_and_for_a_policy_that_exists(service):
    await service.apply(documents(policy(DENY_ALL)))
    with pytest.raises(ConflictError):
        await service.delete("shop", "p", 99)
    with pytest.raises(NotFoundError, match="shop/q"):
        await service.delete("shop", "q")
    assert not service.check(request()).allowed


async def test_number_and_size_of_policies_are_bounded(service, monkeypatch, store):
    monkeypatch.setattr(service_module, "MAX_POLICIES", 2)
    with pytest.raises(ResourceExhaustedError):
        await service.apply(documents(*(policy(ALLOW_ALL, name) for name in "abc")))
    assert not store.policies
    monkeypatch.setattr(service_module, "MAX_POLICY_BYTES", 100)
    with pytest.raises(InvalidInputError, match="longer than 100 bytes"):
        await service.apply(documents(policy(ALLOW_ALL)))


async def test_validating_changes_nothing(service, store):
    (found,) = await service.validate(documents(policy(DENY_ALL)))
    assert found.key == "shop/p"
    assert not store.policies


async def test_policies_are_compiled_where_they_keep_no_check_waiting(monkeypatch):
    service = await policy_service()
    threads = []

    def watched(found, options):
        threads.append(threading.get_ident())
        return compile_policy(found, options)

    monkeypatch.setattr(service_module, "compile_policy", watched)
    await service.apply(parse_documents(policy("{rules: [{}]}").encode()))
    assert threads
    assert threading.get_ident() not in threads
