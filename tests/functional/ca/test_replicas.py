"""Replicas on one database: one root, a signing key for each data directory, no private key in the database."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import text

from app.ca.backends.disk import BundleFile, DiskKeyStore
from app.ca.model import CaConfig, Surface
from app.ca.service import CaService
from app.core.errors import MeshwardError, UnauthenticatedError, UnavailableError
from app.db.base import Base
from app.db.engine import create_engine
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.certificates import proven_id
from tests.assets.csrs import csr
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR
from tests.support.ca_store import ca_transactions

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)


@pytest.fixture
async def replica(postgres_url, tmp_path):
    """Makes a replica with a data directory of the given name, on one PostgreSQL database."""
    engines = []
    clock = ManualClock()
    setup = create_engine(postgres_url)
    async with setup.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await setup.dispose()

    def make(name):
        engine = create_engine(postgres_url)
        engines.append(engine)
        directory = tmp_path / name
        directory.mkdir(mode=0o700, exist_ok=True)
        return CaService(
            CaConfig(TrustDomain("example.org")),
            ca_transactions(engine),
            DiskKeyStore(directory / "keys"),
            BundleFile(directory / "bundle.pem"),
            clock,
            Metrics(),
        )

    make.engines = engines  # type: ignore[attr-defined]  # what a test reads back
    yield make
    for engine in engines:
        await engine.dispose()


@asynccontextmanager
async def maintained(*services):
    """Keeps the services' passes going, with no time between them."""

    async def maintain(service):
        while True:
            with suppress(MeshwardError):
                await service.maintain()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(maintain(service)) for service in services]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_ready(*services):
    async with asyncio.timeout(20):
        await asyncio.gather(*(service.authorities.ready.wait() for service in services))
    assert not any(service.authorities.waiting_for for service in services)


async def test_two_replicas_that_start_at_once_make_one_root_and_both_issue(replica, tmp_path):
    one, two = replica("one"), replica("two")
    await asyncio.gather(one.start(), two.start())
    async with maintained(one, two):
        await until_ready(one, two)
    assert one.authorities.bundle() == two.authorities.bundle()
    assert len(one.authorities.bundle().roots) == 1
    assert one.authorities.active().signer.id != two.authorities.active().signer.id
    for service, other in ((one, two), (two, one)):
        issued = await service.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
        assert proven_id(issued.chain, other.authorities.bundle(), ManualClock().now()) == CART
    assert (tmp_path / "one/bundle.pem").read_text() == (tmp_path / "two/bundle.pem").read_text()


async def test_the_loser_of_the_race_keeps_no_root_key(replica, tmp_path):
    services = [replica(name) for name in ("one", "two", "three")]
    await asyncio.gather(*(service.start() for service in services))
    async with maintained(*services):
        await until_ready(*services)
    root = services[0].authorities.status().roots[0].id
    keys = {path.stem for path in tmp_path.glob("*/keys/*.pem")}
    signers = {service.authorities.active().signer.id for service in services}
    assert keys == {root} | signers
    assert sum(service.authorities.status().root_key_held for service in services) == 1


async def test_a_replica_without_the_roots_key_waits_for_the_one_that_has_it(replica):
    one = replica("one")
    await one.start()
    two = replica("two")
    await two.start()
    root = one.authorities.status().roots[0].id
    assert root in two.authorities.waiting_for
    with pytest.raises(UnavailableError, match=root):
        await two.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    assert two.authorities.bundle() == one.authorities.bundle()
    await one.maintain()
    await two.maintain()
    assert two.authorities.waiting_for is None
    assert (await two.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)).spiffe_id == CART


async def test_replicas_of_one_data_directory_share_the_keys(replica):
    one = replica("shared")
    await one.start()
    two = replica("shared")
    await two.start()
    assert two.authorities.active().signer == one.authorities.active().signer


async def test_a_restart_goes_on_with_the_same_authorities(replica):
    before = replica("one")
    await before.start()
    after = replica("one")
    await after.start()
    assert after.authorities.bundle() == before.authorities.bundle()
    assert after.authorities.active().signer == before.authorities.active().signer


async def test_no_private_key_is_in_the_database(replica):
    one, two = replica("one"), replica("two")
    await asyncio.gather(one.start(), two.start())
    async with maintained(one, two):
        await until_ready(one, two)
    async with replica.engines[0].connect() as connection:
        for table in Base.metadata.sorted_tables:
            if table.name.startswith("ca_"):
                rows = await connection.execute(text(f"SELECT * FROM {table.name}"))
                assert "PRIVATE KEY" not in repr(rows.all())


async def test_one_token_redeemed_at_two_replicas_at_once_yields_one_svid(replica):
    one, two = replica("one"), replica("two")
    await asyncio.gather(one.start(), two.start())
    async with maintained(one, two):
        await until_ready(one, two)
    created = await one.join_tokens.create(OPERATOR, CART)
    caller = await two.join_tokens.attest(Evidence(created.secret))
    attempts = [service.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA) for service in (one, two) * 4]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [result for result in results if isinstance(result, UnauthenticatedError)]
    assert len(refused) == len(results) - 1
    assert len(await one.records.page(None, 10)) == 1
