"""What a pass of the maintenance does: what it forgets, and what makes the CA ready."""

from dataclasses import replace

import pytest

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import KeyAlgorithm, Surface
from app.core.errors import InternalError, PreconditionError
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
DAY = 24 * 3600
OLDEST = "meshward_ca_oldest_svid_timestamp_seconds "


async def test_records_are_kept_a_month_after_their_end_and_then_forgotten(ca, clock):
    await ca.issuance.issue(Principal(Credential.SVID, CART), csr(), DAY, Surface.ISTIO_CA)
    clock.advance(30 * DAY)
    await ca.maintain()
    assert len(await ca.records.page(None, 10)) == 1
    clock.advance(2 * DAY)
    await ca.maintain()
    assert await ca.records.page(None, 10) == []


async def test_many_records_are_forgotten_a_part_in_each_pass(ca, clock, monkeypatch):
    monkeypatch.setattr("app.core.pruning.MAX_REMOVED_PER_PASS", 2)
    for _ in range(5):
        await ca.issuance.issue(Principal(Credential.SVID, CART), csr(), DAY, Surface.ISTIO_CA)
    clock.advance(32 * DAY)
    left = []
    for _ in range(3):
        await ca.maintain()
        left.append(len(await ca.records.page(None, 10)))
    assert left == [3, 1, 0]


async def test_tokens_are_kept_a_week_after_their_end_and_then_forgotten(ca, clock):
    await ca.join_tokens.create(OPERATOR, CART)
    clock.advance(7 * DAY)
    await ca.maintain()
    assert len(await ca.join_tokens.page(None, 10)) == 1
    clock.advance(DAY)
    await ca.maintain()
    assert await ca.join_tokens.page(None, 10) == []


async def test_a_ca_is_ready_as_long_as_it_can_sign(ca, clock):
    await ca.check_ready()
    assert await ca.records.page(None, 10) == []
    clock.advance(366 * DAY)
    with pytest.raises(PreconditionError, match="signing certificate expired"):
        await ca.check_ready()
    await ca.maintain()
    await ca.check_ready()


async def test_a_ca_whose_signature_is_no_longer_good_is_not_ready(ca):
    active = ca.authorities.active()
    ca.authorities._own = (replace(active, key=await MemoryKeyStore().create(KeyAlgorithm.P256)),)
    with pytest.raises(InternalError, match="held back"):
        await ca.check_ready()
    with pytest.raises(InternalError, match="held back"):
        await ca.issuance.issue(Principal(Credential.SVID, CART), csr(), DAY, Surface.ISTIO_CA)
    assert await ca.records.page(None, 10) == []


async def test_the_oldest_svid_that_has_not_ended_is_published(ca, clock, metrics):
    def published():
        (line,) = (text for text in metrics.render().decode().splitlines() if text.startswith(OLDEST))
        return float(line.split()[-1])

    await ca.records.maintain()
    assert published() == 0
    began = clock.now()
    await ca.issuance.issue(Principal(Credential.SVID, CART), csr(), 600, Surface.ISTIO_CA)
    await ca.records.maintain()
    assert published() == began.timestamp()
    clock.advance(300)
    await ca.issuance.issue(Principal(Credential.SVID, CART), csr(), 600, Surface.ISTIO_CA)
    clock.advance(300)
    await ca.records.maintain()
    assert published() == began.timestamp() + 300
