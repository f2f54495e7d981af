"""Bans on real databases: two replicas, and what a transaction that issues finds of a ban that is being made."""

import asyncio
import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.ca.backends.disk import BundleFile, DiskKeyStore
from app.ca.model import CaConfig, Surface
from app.ca.service import CaService
from app.core.clock import SystemClock
from app.core.errors import MeshwardError, PermissionDeniedError
from app.db.engine import create_engine, dispose
from app.db.migrate import upgrade
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR
from tests.support.ca_store import ca_transactions

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
SHOP = "spiffe://example.org/ns/shop/*"
CSR = csr()


@pytest.fixture
async def replicas(database_url, tmp_path):
    """Two started replicas on one database, each with connections of its own."""
    engines = [create_engine(database_url) for _ in range(2)]
    await upgrade(engines[0])
    services = []
    for number, engine in enumerate(engines):
        directory = tmp_path / str(number)
        directory.mkdir(mode=0o700)
        services.append(
            CaService(
                CaConfig(TrustDomain("example.org")),
                ca_transactions(engine),
                DiskKeyStore(directory / "keys"),
                BundleFile(directory / "bundle.pem"),
                SystemClock(),
                Metrics(),
            )
        )
    one, two = services
    await one.start()
    await two.start()
    await one.maintain()
    await two.maintain()
    yield one, two
    for engine in engines:
        await dispose(engine)


async def issue(ca):
    return await ca.issuance.issue(HOLDER, CSR, 0, Surface.ISTIO_CA)


async def test_a_ban_counts_at_the_other_replica_at_its_next_issuance_and_in_all_else_after_its_next_pass(replicas):
    one, two = replicas
    await issue(two)
    await one.bans.ban(OPERATOR, SHOP, "stolen key", None)
    assert two.bans.refusal(CART.principal, "") is None
    with pytest.raises(PermissionDeniedError, match="stolen key"):
        await issue(two)
    await two.bans.refresh()
    assert isinstance(two.bans.refusal(CART.principal, ""), PermissionDeniedError)
    await two.bans.unban(OPERATOR, SHOP)
    await one.bans.refresh()
    assert one.bans.refusal(CART.principal, "") is None
    assert await issue(one)


async def test_a_ban_that_cannot_be_audited_is_not_made(replicas, engine):
    one, two = replicas
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE audit_records"))
    with pytest.raises(MeshwardError):
        await one.bans.ban(OPERATOR, SHOP, "why", None)
    for ca in (one, two):
        await ca.bans.refresh()
        assert ca.bans.refusal(CART.principal, "") is None
    assert await one.bans.page(None, 10) == []


async def test_a_revocation_counts_at_the_other_replica(replicas):
    one, two = replicas
    await issue(one)
    svid = next(each for each in await two.records.page(None, 10) if each.spiffe_id == CART)
    ban = await two.bans.revoke(OPERATOR, svid.serial, "laptop lost")
    await one.bans.refresh()
    assert one.bans.refusal(CART.principal, svid.serial)
    assert one.bans.refusal(CART.principal, "0" * 32) is None
    assert await one.bans.page(None, 10) == [ban]
    await one.bans.unrevoke(OPERATOR, svid.serial)
    assert await two.bans.page(None, 10) == []


async def test_once_a_ban_was_made_nothing_that_was_under_way_is_recorded(replicas):
    one, two = replicas
    under_way = [asyncio.ensure_future(issue(each)) for each in (one, two) * 20]
    await asyncio.sleep(0)
    await one.bans.ban(OPERATOR, str(CART), "why", None)
    recorded = len(await one.records.page(None, 100, CART))
    results = await asyncio.gather(*under_way, return_exceptions=True)
    assert len(await one.records.page(None, 100, CART)) == recorded
    assert sum(not isinstance(result, Exception) for result in results) == recorded
    assert {type(result) for result in results if isinstance(result, Exception)} <= {PermissionDeniedError}


async def test_bans_made_at_once_at_both_are_all_kept(replicas):
    one, two = replicas
    subjects = [f"spiffe://example.org/ns/shop/sa/w{number}" for number in range(8)]
    bans = [ca.bans.ban(OPERATOR, subject, "why", None) for subject in subjects for ca in (one, two)]
    results = await asyncio.gather(*bans, return_exceptions=True)
    assert [result for result in results if isinstance(result, MeshwardError)] == []
    for ca in (one, two):
        await ca.bans.refresh()
        assert [ban.subject for ban in await ca.bans.page(None, 100)] == subjects
        assert all(ca.bans.refusal(subject.removeprefix("spiffe://"), "") for subject in subjects)


async def test_a_transaction_that_issues_keeps_bans_from_being_made_until_it_ends(postgres_url):
    engine = create_engine(postgres_url)
    await upgrade(engine)
    take = text("SELECT revision FROM ca_ban_revisions FOR UPDATE NOWAIT")
    async with ca_transactions(engine)() as repository:
        assert await repository.hold_bans() == 0
        with pytest.raises(DBAPIError, match="could not obtain lock"):
            async with engine.begin() as other:
                await other.execute(take)
    async with engine.begin() as other:
        await other.execute(take)
    await dispose(engine)


async def test_openssl_refuses_what_is_on_the_list_of_its_authority_and_takes_the_rest(replicas, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    one, two = replicas
    chains = {}
    for spiffe_id in (CART, SpiffeId.parse("spiffe://example.org/ns/shop_test/sa/cart")):
        issued = await one.issuance.issue(Principal(Credential.SVID, spiffe_id), CSR, 0, Surface.ISTIO_CA)
        chains[spiffe_id] = issued.chain
    signer = one.authorities.active().signer.id
    await two.bans.ban(OPERATOR, SHOP, "why", None)
    await one.bans.refresh()
    await one.crls.maintain()
    await two.crls.maintain()
    assert two.crls.get(signer) == one.crls.get(signer)
    crl = x509.load_der_x509_crl(two.crls.get(signer).der)
    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    (tmp_path / "root.pem").write_text("".join(one.authorities.bundle().roots))
    results = []
    for leaf, intermediate in chains.values():
        (tmp_path / "leaf.pem").write_text(leaf)
        (tmp_path / "signer.pem").write_text(intermediate)
        process = await asyncio.create_subprocess_exec(
            *(openssl, "verify", "-crl_check", "-CRLfile", "crl.pem", "-CAfile", "root.pem"),
            *("-untrusted", "signer.pem", "leaf.pem"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        results.append((process.returncode == 0, b"certificate revoked" in output))
    assert results == [(False, True), (True, False)]
