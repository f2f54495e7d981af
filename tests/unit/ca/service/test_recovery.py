"""Whichever data directory is lost, the CA goes on: any replica makes the next root."""

import pytest

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import Stage, Surface
from app.ca.service import CaService
from app.core.errors import UnavailableError
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import proven_id
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
DAY = 24 * 3600


@pytest.fixture
def replica(config, transactions, clock):
    """Makes a replica with an empty data directory, on one database."""

    async def make():
        service = CaService(config, transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics())
        await service.start()
        return service

    return make


async def passes(clock, *services, count=3):
    for _ in range(count):
        clock.advance(1)
        for service in services:
            await service.maintain()


async def issue(ca):
    return await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_after_the_loss_of_any_data_directory_the_others_and_an_empty_one_issue(replica, clock, lost):
    services = [await replica() for _ in range(3)]
    await passes(clock, *services)
    before = await issue(services[lost])
    del services[lost]
    services.append(await replica())
    await passes(clock, *services)
    if lost == 0:  # which had the root's key
        with pytest.raises(UnavailableError, match="prepare and activate another root"):
            await issue(services[-1])
        root = await services[0].authorities.roots.prepare(OPERATOR)
        clock.advance(DAY)  # until those who hold no stream have renewed
        await services[0].authorities.roots.activate(OPERATOR, root.id)
        await passes(clock, *services, count=50)
        assert services[0].authorities.trust().stage(root.id) is Stage.ACTIVE
    for service in services:
        issued = await issue(service)
        for other in services:
            assert proven_id(issued.chain, other.authorities.bundle(), clock.now()) == CART
    old = services[0].authorities.bundle()
    clock.turn_back(DAY if lost == 0 else 0)
    assert proven_id(before.chain, old, clock.now()) == CART


async def test_after_the_loss_of_every_data_directory_an_empty_one_makes_a_root_that_is_activated_by_force(
    replica, clock
):
    await passes(clock, await replica())
    new = await replica()
    await passes(clock, new)
    assert "prepare and activate another root" in str(new.authorities.waiting_for)
    root = await new.authorities.roots.prepare(OPERATOR)
    await new.authorities.roots.activate(OPERATOR, root.id, force=True)
    await passes(clock, new)
    assert new.authorities.waiting_for is None
    assert (await issue(new)).bundle.roots[-1] == root.certificate


async def test_without_the_roots_key_the_others_issue_until_their_signing_certificates_end(replica, clock):
    first, second = await replica(), await replica()
    await passes(clock, first, second)
    del first
    clock.advance(364 * DAY)
    await passes(clock, second)
    assert second.authorities.waiting_for is None
    clock.advance(2 * DAY)
    await passes(clock, second)
    assert "prepare and activate another root" in str(second.authorities.waiting_for)
    root = await second.authorities.roots.prepare(OPERATOR)
    await second.authorities.roots.activate(OPERATOR, root.id)
    await passes(clock, second, count=40)
    assert (await issue(second)).spiffe_id == CART
