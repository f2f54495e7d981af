"""Issuances at once share a transaction, and what fails for one of them fails for no other."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.ca.model import EntrySpec, Surface
from app.ca.rules.leaf import UnsignedLeaf
from app.ca.service.recording import MAX_BATCH
from app.ca.service.signing import LEAVES_PER_TURN
from app.core.errors import ConflictError, InternalError, UnauthenticatedError, UnavailableError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
CSR = csr()


async def issue(ca, caller=HOLDER, ttl_seconds=0):
    return await ca.issuance.issue(caller, CSR, ttl_seconds, Surface.ISTIO_CA)


async def at_once(*calls):
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.fixture
def commits(transactions, monkeypatch):
    """The number of SVIDs that each transaction recorded."""
    sizes = []
    store = transactions.state.add_svids

    async def counted(svids):
        await store(svids)
        sizes.append(len(svids))

    monkeypatch.setattr(transactions.state, "add_svids", counted)
    return sizes


async def test_those_that_come_while_one_is_written_share_the_next_transaction(ca, commits):
    await at_once(*(issue(ca) for _ in range(20)))
    assert sum(commits) == 20
    assert len(commits) <= 2
    assert len(await ca.records.page(None, 100)) == 20


async def test_those_that_come_turn_by_turn_join_the_transaction_that_begins(ca, commits):
    async def caller(turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        await issue(ca)

    await at_once(*(caller(turns) for turns in range(8)))
    assert commits == [8]


async def test_a_lone_issuance_waits_for_nobody(ca, commits):
    await issue(ca)
    await issue(ca)
    assert commits == [1, 1]


async def test_no_transaction_records_more_than_the_bound(ca, commits, config):
    callers = [Principal(Credential.SVID, SpiffeId.parse(f"{CART}{number}")) for number in range(MAX_BATCH + 10)]
    await at_once(*(issue(ca, caller) for caller in callers))
    assert sum(commits) == MAX_BATCH + 10
    assert max(commits) <= MAX_BATCH


async def test_a_used_token_among_others_is_refused_alone(ca):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    results = await at_once(issue(ca), issue(ca, caller), issue(ca, caller), issue(ca))
    refused = [result for result in results if isinstance(result, Exception)]
    assert [type(error) for error in refused] == [UnauthenticatedError]
    assert len(await ca.records.page(None, 10)) == 3


async def test_a_record_that_the_database_refuses_fails_alone(ca, transactions, monkeypatch):
    store = transactions.state.add_svids
    victim = SpiffeId.parse("spiffe://example.org/ns/shop/sa/victim")

    async def refuse_one(svids):
        if any(svid.spiffe_id == victim for svid in svids):
            raise ConflictError("the serial number is taken")
        await store(svids)

    monkeypatch.setattr(transactions.state, "add_svids", refuse_one)
    results = await at_once(issue(ca), issue(ca), issue(ca, Principal(Credential.SVID, victim)), issue(ca))
    assert [isinstance(result, InternalError) for result in results] == [False, False, True, False]
    assert len(await ca.records.page(None, 10)) == 3


async def test_an_svid_that_cannot_be_signed_fails_alone(ca, monkeypatch):
    victim = SpiffeId.parse("spiffe://example.org/ns/shop/sa/victim")

    def faulty(profile, issuer):
        return UnsignedLeaf(replace(profile, serial=0) if profile.spiffe_id == victim else profile, issuer)

    monkeypatch.setattr("app.ca.service.signing.UnsignedLeaf", faulty)
    calls = [issue(ca, Principal(Credential.SVID, victim)), *(issue(ca) for _ in range(2 * LEAVES_PER_TURN))]
    results = await at_once(*calls)
    assert [isinstance(result, InternalError) for result in results] == [True] + [False] * 2 * LEAVES_PER_TURN
    assert len(await ca.records.page(None, 100)) == 2 * LEAVES_PER_TURN
    assert len({result.chain[0] for result in results[1:]}) == 2 * LEAVES_PER_TURN


async def test_a_database_that_is_away_fails_all_that_wait(ca, transactions):
    transactions.away = True
    results = await at_once(*(issue(ca) for _ in range(5)))
    assert [type(result) for result in results] == [UnavailableError] * 5
    transactions.away = False
    assert await issue(ca)


async def test_a_fault_of_the_store_reaches_every_caller(ca, transactions, monkeypatch):
    async def broken(_svids):
        raise ZeroDivisionError

    monkeypatch.setattr(transactions.state, "add_svids", broken)
    results = await at_once(issue(ca), issue(ca))
    assert [type(result) for result in results] == [ZeroDivisionError] * 2


async def test_a_caller_that_leaves_takes_nobody_along(ca, transactions):
    async with transactions():  # holds the store, so that all of them wait
        calls = [asyncio.create_task(issue(ca)) for _ in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
    results = await at_once(*calls)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False]


@pytest.mark.parametrize("ttl_seconds", [0, 30])
async def test_an_entry_that_changes_is_in_the_next_svid(ca, clock, ttl_seconds):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(seconds=60)))
    limit = ttl_seconds or 60
    assert (await issue(ca, ttl_seconds=ttl_seconds)).not_after == clock.now() + timedelta(seconds=limit)
    spec = EntrySpec(CART, timedelta(seconds=20), ("cart.shop",))
    await ca.entries.replace(OPERATOR, entry.id, spec, entry.version)
    assert (await issue(ca, ttl_seconds=ttl_seconds)).not_after == clock.now() + timedelta(seconds=20)
    await ca.entries.delete(OPERATOR, entry.id, None)
    granted = timedelta(seconds=ttl_seconds) if ttl_seconds else timedelta(hours=24)
    assert (await issue(ca, ttl_seconds=ttl_seconds)).not_after == clock.now() + granted
    assert len(await ca.records.page(None, 10)) == 3


async def test_an_entry_that_became_invalid_and_was_mended_does_not_refuse_any_longer(ca, transactions):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    await issue(ca)
    stored = transactions.state._entries
    stored[entry.id] = replace(entry, dns_names=("localhost",))
    with pytest.raises(Exception, match="has to be changed"):
        await issue(ca)
    stored[entry.id] = entry
    assert await issue(ca)


async def test_an_entry_that_changes_all_the_time_is_unavailable_and_uses_no_token(ca, transactions, monkeypatch):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    versions = iter(range(100))

    async def restless(_ids):
        return 0, [replace(entry, version=next(versions))], transactions.state.frontier

    with monkeypatch.context() as patch:
        patch.setattr(transactions.state, "hold_for_issuance", restless)
        with pytest.raises(UnavailableError, match="retry"):
            await issue(ca, caller)
    assert await issue(ca, caller)
