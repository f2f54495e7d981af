"""The secrets of an SDS stream at the control plane: made once, renewed at half-life, woken by a new bundle."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.ca.model import EntrySpec
from app.ca.service import CaService
from app.ca.service.secrets import IssuedSecrets
from app.core.errors import PreconditionError, ResourceExhaustedError, UnauthenticatedError, UnavailableError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import ANONYMOUS, Credential, Principal
from tests.fakes.principals import OPERATOR
from tests.fakes.sleep import ManualSleep

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
HOUR = 3600
DAY = 24 * HOUR


@pytest.fixture
def sleep(clock):
    return ManualSleep(clock)


@pytest.fixture
def open_session(ca, clock, sleep):
    def make(caller=HOLDER, jitter=0.0):
        return IssuedSecrets(ca.issuance, ca.authorities, clock, sleep.wait, lambda: jitter).open(caller)

    return make


async def waiting(session):
    """A task that waits for a change, and has begun to."""
    task = asyncio.create_task(session.wait_for_change())
    await asyncio.sleep(0)
    return task


async def finished(task):
    async with asyncio.timeout(5):
        await task


async def test_nothing_is_issued_until_it_is_asked_for(ca, open_session):
    open_session()
    assert await ca.records.page(None, 10) == []


async def test_one_svid_serves_a_stream_until_it_is_due(ca, open_session, clock):
    session = open_session()
    first = await session.svid()
    clock.advance(12 * HOUR - 1)
    assert await session.svid() is first
    clock.advance(1)
    second = await session.svid()
    assert second.private_key != first.private_key
    assert second.spiffe_id == first.spiffe_id == CART
    assert len(await ca.records.page(None, 10)) == 2


@pytest.mark.parametrize(("jitter", "hours"), [(-1.0, 10.8), (0.0, 12.0), (1.0, 13.2)])
async def test_renewal_is_at_half_of_the_life_give_or_take_a_tenth_of_it(open_session, clock, jitter, hours):
    session = open_session(jitter=jitter)
    first = await session.svid()
    clock.advance(hours * HOUR - 1)
    assert await session.svid() is first
    clock.advance(2)
    assert await session.svid() is not first


async def test_a_stream_is_woken_when_its_svid_is_due(open_session, sleep):
    session = open_session()
    await session.svid()
    task = await waiting(session)
    for _ in range(12 * 60 - 1):
        await sleep.advance(60)
    await sleep.somebody_sleeps()
    assert not task.done()
    await sleep.advance(60)
    await finished(task)


async def test_that_an_svid_is_due_is_said_once(open_session, sleep, clock):
    session = open_session()
    await session.svid()
    clock.advance(DAY)
    await finished(await waiting(session))
    task = await waiting(session)
    await sleep.somebody_sleeps()
    assert not task.done()
    task.cancel()


async def test_an_svid_of_a_clock_that_was_ahead_is_due_once_the_clock_is_right(open_session, clock):
    clock.turn_forward(30 * DAY)
    session = open_session()
    ahead = await session.svid()
    clock.turn_back(30 * DAY)
    await finished(await waiting(session))
    assert (await session.svid()).not_before < clock.now() < ahead.not_before


async def test_a_stream_gets_another_svid_at_once_when_the_authority_of_its_own_is_tainted(ca, open_session, sleep):
    session = open_session()
    first = await session.svid()
    task = await waiting(session)
    await ca.authorities.roots.taint(OPERATOR, ca.authorities.active().signer.id)
    await finished(task)
    second = await session.svid()
    assert second.chain[1] == ca.authorities.active().signer.certificate != first.chain[1]
    assert await session.svid() is second


async def test_a_stream_that_asked_for_its_svid_alone_is_woken_once_by_a_change_of_the_bundle(ca, open_session, sleep):
    session = open_session()
    await session.svid()
    task = await waiting(session)
    await ca.authorities.roots.prepare(OPERATOR)
    await finished(task)
    await session.svid()
    task = await waiting(session)
    await sleep.somebody_sleeps()
    assert not task.done()
    task.cancel()


async def test_a_stream_is_woken_when_the_bundle_changes(ca, open_session, sleep):
    session = open_session()
    await session.bundle()
    task = await waiting(session)
    await sleep.somebody_sleeps()
    ca.authorities.changed.fire()
    await finished(task)
    await asyncio.sleep(0)
    assert sleep.sleeping == 0


async def test_a_change_between_the_answer_and_the_wait_is_not_missed(ca, open_session):
    session = open_session()
    await session.bundle()
    ca.authorities.changed.fire()
    await finished(await waiting(session))


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(open_session, sleep):
    session = open_session()
    task = await waiting(session)
    await sleep.somebody_sleeps()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert sleep.sleeping == 0


async def test_a_join_token_carries_the_stream_beyond_its_one_use(ca, open_session, clock):
    created = await ca.join_tokens.create(OPERATOR, CART)
    session = open_session(await ca.join_tokens.attest(Evidence(created.secret)))
    await session.svid()
    clock.advance(DAY // 2)
    assert (await session.svid()).spiffe_id == CART


async def test_two_streams_with_one_join_token_share_one_use(ca, open_session):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    await open_session(caller).svid()
    with pytest.raises(UnauthenticatedError):
        await open_session(caller).svid()


async def test_a_stranger_gets_no_svid(open_session):
    with pytest.raises(UnauthenticatedError):
        await open_session(ANONYMOUS).svid()


async def test_an_svid_is_kept_while_the_ca_is_away_until_it_expires(open_session, transactions, clock):
    session = open_session()
    first = await session.svid()
    transactions.away = True
    clock.advance(DAY - 1)
    assert await session.svid() is first
    clock.advance(5)
    with pytest.raises(UnavailableError):
        await session.svid()
    transactions.away = False
    assert await session.svid() is not first


async def test_a_renewal_that_failed_is_tried_again_a_little_later(open_session, transactions, clock, sleep):
    session = open_session()
    first = await session.svid()
    transactions.away = True
    clock.advance(DAY // 2)
    assert await session.svid() is first
    transactions.away = False
    task = await waiting(session)
    await sleep.advance(5)
    await finished(task)
    assert await session.svid() is not first


async def test_a_clock_that_went_back_does_not_take_a_good_svid_away(open_session, clock):
    session = open_session()
    first = await session.svid()
    clock.turn_back(HOUR)
    assert await session.svid() is first


async def test_without_an_svid_a_clock_that_is_wrong_is_told(open_session, clock):
    clock.turn_back(HOUR)
    with pytest.raises(PreconditionError, match="clock"):
        await open_session().svid()


async def test_a_short_life_from_an_entry_is_renewed_in_time(ca, open_session, clock):
    await ca.entries.create(OPERATOR, EntrySpec(CART, x509_svid_ttl=timedelta(seconds=10)))
    session = open_session()
    first = await session.svid()
    clock.advance(5)
    second = await session.svid()
    assert second is not first
    assert clock.now() < first.not_after


async def test_the_listeners_own_svid_is_renewed_as_any_other(ca, clock, sleep):
    source = IssuedSecrets(ca.issuance, ca.authorities, clock, sleep.wait, lambda: 0.0)
    session = source.serving()
    first = await session.svid()
    assert str(first.spiffe_id) == "spiffe://example.org/meshward/server"
    task = await waiting(session)
    await sleep.advance(12 * 3600)
    await finished(task)
    assert (await session.svid()).chain != first.chain


async def test_an_svid_is_kept_while_the_identity_has_no_budget_left(
    config, transactions, keys, publisher, clock, metrics, sleep
):
    ca = CaService(replace(config, svids_per_hour=1), transactions, keys, publisher, clock, metrics)
    await ca.start()
    await ca.entries.create(OPERATOR, EntrySpec(CART, x509_svid_ttl=timedelta(minutes=40)))
    session = IssuedSecrets(ca.issuance, ca.authorities, clock, sleep.wait, lambda: 0.0).open(HOLDER)
    first = await session.svid()
    clock.advance(20 * 60)
    assert await session.svid() is first
    with pytest.raises(ResourceExhaustedError):
        await IssuedSecrets(ca.issuance, ca.authorities, clock, sleep.wait, lambda: 0.0).open(HOLDER).svid()
