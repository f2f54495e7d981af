"""Whoever can write to the database, and has nothing else, gets no identity, no signature and no other root."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from types import SimpleNamespace

import pytest
from cryptography import x509
from sqlalchemy import Delete, Update, delete, insert, select, update

from app.ca.backends.disk import BundleFile, DiskKeyStore
from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import EntrySpec, JoinToken, KeyAlgorithm, Origin, SigningRequest, Stage, Surface
from app.ca.rules.authority import authority_request, root_builder, root_of, signer_builder, signer_of
from app.ca.rules.profile import authority_id
from app.ca.service import CaService
from app.ca.service.signing_requests import new_serial
from app.core.errors import MeshwardError, PreconditionError, UnauthenticatedError
from app.db.base import Base
from app.db.rows import values_of
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.certificates import pem
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR
from tests.support.ca_store import ca_transactions

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
ADMIN = SpiffeId.parse("spiffe://example.org/ns/shop/sa/admin")
HOLDER = Principal(Credential.SVID, CART)
SECRET = "the attacker's own secret, of any length"
ROOTS, SIGNERS, CRLS, TOKENS, ENTRIES, BANS, BAN_REVISIONS, STAGES = (
    Base.metadata.tables[f"ca_{name}"]
    for name in ("roots", "signers", "crls", "join_tokens", "entries", "bans", "ban_revisions", "authority_stages")
)


@pytest.fixture
async def attacked(engine, config, clock, metrics, tmp_path):
    """A CA that runs on a real database, and `write`, which is all that the attacker has."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    def replica(directory="data"):
        place = tmp_path / directory
        place.mkdir(mode=0o700, exist_ok=True)
        return CaService(
            config,
            ca_transactions(engine, metrics=metrics),
            DiskKeyStore(place / "keys"),
            BundleFile(place / "bundle.pem"),
            clock,
            metrics,
        )

    async def write(statement):
        async with engine.begin() as connection:
            return await connection.execute(statement)

    async def rows(table):
        async with engine.begin() as connection:
            found = await connection.execute(select(table))
            return [{column.key: row[column] for column in table.c} for row in found.mappings()]

    ca = replica()
    await ca.start()
    return SimpleNamespace(
        engine=engine, ca=ca, replica=replica, write=write, rows=rows, bundle=ca.authorities.bundle(), metrics=metrics
    )


def refused(attacked, table):
    return attacked.metrics.refusals.value("database", table)


async def own_request(root_id, now):
    """A signing request for a key that the attacker has made."""
    key = await MemoryKeyStore().create(KeyAlgorithm.P256)
    return SigningRequest(authority_id(key.public_key), root_id, pem(await key.sign(authority_request())), now)


async def own_authorities(config, clock, public_key=None, request=None):
    """A root of the attacker's, and what it signs."""
    key = await MemoryKeyStore().create(KeyAlgorithm.P256)
    certificate = await key.sign(root_builder(config, key.public_key, new_serial(), clock.now()))
    root = root_of(certificate, config.trust_domain, 1, clock.now())
    if request is None:
        return root, None
    certificate = await key.sign(signer_builder(request, root, config, new_serial(), clock.now()))
    return root, signer_of(certificate, request, root)


async def own_token(clock, **fields):
    lasting = clock.now() + timedelta(hours=1)
    token = replace(JoinToken("a" * 32, ADMIN, clock.now(), lasting), **fields)
    return {**values_of(token), "secret_hash": sha256(SECRET.encode()).digest()}


def dns_names(issued):
    leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


async def assert_no_token_enrols(attacked, secret=SECRET):
    with pytest.raises(UnauthenticatedError):
        await attacked.ca.join_tokens.attest(Evidence(secret))
    for token in await attacked.rows(TOKENS):
        caller = Principal(Credential.JOIN_TOKEN, token["spiffe_id"], token["id"])
        with pytest.raises(UnauthenticatedError):
            await attacked.ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA)
    assert refused(attacked, "ca_join_tokens") > 0


# Signing requests and signers


async def test_an_inserted_signing_request_is_not_signed(attacked, clock):
    root = attacked.ca.authorities.status().root_id
    request = await own_request(root, clock.now())
    for mac in (None, bytes(32), (await attacked.rows(SIGNERS))[0]["mac"]):
        await attacked.write(insert(SIGNERS).values(**values_of(request), mac=mac))
        await attacked.ca.maintain()
        (row,) = [row for row in await attacked.rows(SIGNERS) if row["id"] == request.id]
        assert row["certificate"] is None
        await attacked.write(delete(SIGNERS).where(SIGNERS.c.id == request.id))
    assert refused(attacked, "ca_signers") == 3


async def test_a_replicas_signing_request_cannot_be_given_another_key(attacked, clock):
    root = attacked.ca.authorities.status().root_id
    await attacked.replica("other").start()
    request = await own_request(root, clock.now())
    waiting = update(SIGNERS).where(SIGNERS.c.certificate.is_(None))
    await attacked.write(waiting.values(id=request.id, request=request.request))
    await attacked.ca.maintain()
    assert request.id not in {signer.id for signer in attacked.ca.authorities.status().signers}


async def test_a_signing_request_that_is_put_back_gains_no_time(attacked, clock):
    before = attacked.ca.authorities.active().signer
    clock.advance(100 * 24 * 3600)
    await attacked.write(update(SIGNERS).values(certificate=None, not_before=None, not_after=None))
    again = attacked.replica()
    await again.start()
    assert again.authorities.active().signer.not_after <= before.not_after
    clock.advance(300 * 24 * 3600)
    await attacked.write(update(SIGNERS).values(certificate=None, not_before=None, not_after=None))
    await attacked.replica().start()
    assert all(row["not_after"] is None or row["not_after"] > clock.now() for row in await attacked.rows(SIGNERS))
    assert before.id not in {row["id"] for row in await attacked.rows(SIGNERS) if row["certificate"]}


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_signing_certificate_of_another_root_is_not_used(attacked, config, clock, restarted):
    signer = attacked.ca.authorities.active().signer
    (row,) = await attacked.rows(SIGNERS)
    request = SigningRequest(row["id"], row["root_id"], row["request"], row["created_at"])
    _, forged = await own_authorities(config, clock, request=request)
    await attacked.write(update(SIGNERS).values(certificate=forged.certificate))
    ca = attacked.replica() if restarted else attacked.ca
    await ca.maintain()
    assert ca.authorities.active().signer.certificate != forged.certificate
    assert ca.authorities.active().signer.id != signer.id
    assert ca.authorities.bundle() == attacked.bundle


async def test_a_signing_certificate_cannot_be_made_to_last_longer(attacked, clock):
    signer = attacked.ca.authorities.active().signer
    await attacked.write(update(SIGNERS).values(not_after=signer.not_after + timedelta(days=3000)))
    await attacked.ca.maintain()
    assert attacked.ca.authorities.active().signer.not_after <= clock.now() + timedelta(days=365)


# Roots


@pytest.mark.parametrize("mac", ["none", "zeros", "of the root"])
async def test_an_inserted_root_is_not_trusted(attacked, config, clock, mac):
    (genuine,) = await attacked.rows(ROOTS)
    root, _ = await own_authorities(config, clock)
    value = {"none": None, "zeros": bytes(32), "of the root": genuine["mac"]}[mac]
    await attacked.write(insert(ROOTS).values(**{**values_of(root), "generation": 2}, mac=value))
    await attacked.ca.maintain()
    again = attacked.replica()
    await again.start()
    for ca in (attacked.ca, again):
        assert ca.authorities.bundle() == attacked.bundle
        assert ca.authorities.waiting_for is None
    assert refused(attacked, "ca_roots") > 0


async def test_an_inserted_root_is_not_trusted_by_an_inserted_stage(attacked, config, clock):
    (genuine,) = await attacked.rows(STAGES)
    root, _ = await own_authorities(config, clock)
    await attacked.write(insert(ROOTS).values(**{**values_of(root), "generation": 2}, mac=None))
    await attacked.write(insert(STAGES).values(**{**genuine, "id": root.id, "stage": Stage.PREPARED}))
    again = attacked.replica()
    await again.start()
    assert again.authorities.bundle() == attacked.bundle


@pytest.mark.parametrize("stage", [Stage.PREPARED, Stage.OLD, Stage.TAINTED, Stage.ACTIVE])
async def test_a_revoked_root_is_not_brought_back_by_changing_its_stage(attacked, stage):
    first = attacked.ca.authorities.status().root_id
    second = await attacked.ca.authorities.roots.prepare(OPERATOR)
    await attacked.ca.authorities.roots.activate(OPERATOR, second.id, force=True)
    await attacked.ca.authorities.roots.taint(OPERATOR, first)
    await attacked.ca.log.maintain()
    await attacked.ca.authorities.roots.revoke(OPERATOR, first)
    await attacked.write(update(STAGES).where(STAGES.c.id == first).values(stage=stage))
    await attacked.ca.maintain()
    assert attacked.ca.authorities.bundle().roots == (second.certificate,)
    assert refused(attacked, "ca_authority_stages") > 0


async def test_a_prepared_root_is_not_activated_by_changing_its_stage(attacked):
    first = attacked.ca.authorities.status().root_id
    second = await attacked.ca.authorities.roots.prepare(OPERATOR)
    await attacked.write(update(STAGES).where(STAGES.c.id == second.id).values(stage=Stage.ACTIVE))
    await attacked.ca.maintain()
    assert attacked.ca.authorities.status().root_id == first
    assert attacked.ca.authorities.active().signer.root_id == first


async def test_a_root_of_our_own_is_not_made_one_from_outside(attacked):
    await attacked.write(update(ROOTS).values(origin=Origin.PLUG_IN))
    with pytest.raises(PreconditionError, match="not written with the secret"):
        await attacked.ca.maintain()
    assert refused(attacked, "ca_roots") == 2


@pytest.mark.parametrize("change", ["certificate", "generation", "mac", "id", "row"])
async def test_a_root_that_is_changed_or_deleted_is_replaced_by_none(attacked, config, clock, change):
    root, _ = await own_authorities(config, clock)
    statement: Update | Delete
    match change:
        case "certificate":
            statement = update(ROOTS).values(certificate=root.certificate)
        case "generation":
            statement = update(ROOTS).values(generation=2)
        case "mac":
            statement = update(ROOTS).values(mac=None)
        case _:
            await attacked.write(delete(CRLS))
            await attacked.write(delete(SIGNERS))
            statement = update(ROOTS).values(id=root.id) if change == "id" else delete(ROOTS)
    await attacked.write(statement)
    with pytest.raises(PreconditionError, match="the root of the CA"):
        await attacked.ca.maintain()
    assert attacked.ca.authorities.bundle() == attacked.bundle
    if change != "row":  # of an empty database, a new replica knows nothing
        with pytest.raises(PreconditionError, match="the root of the CA"):
            await attacked.replica().start()


# Join tokens


async def test_an_inserted_token_enrols_nobody(attacked, clock):
    genuine = await attacked.ca.join_tokens.create(OPERATOR, CART)
    (row,) = await attacked.rows(TOKENS)
    for mac in (None, bytes(32), row["mac"]):
        await attacked.write(insert(TOKENS).values(**await own_token(clock), mac=mac))
        with pytest.raises(UnauthenticatedError):
            await attacked.ca.join_tokens.attest(Evidence(SECRET))
        caller = Principal(Credential.JOIN_TOKEN, ADMIN, "a" * 32)
        with pytest.raises(UnauthenticatedError):
            await attacked.ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA)
        assert [token.id for token in await attacked.ca.join_tokens.page(None, 10)] == [genuine.token.id]
        await attacked.write(delete(TOKENS).where(TOKENS.c.id == "a" * 32))


@pytest.mark.parametrize("field", ["secret_hash", "spiffe_id", "id", "expires_at", "created_at"])
async def test_a_token_with_a_changed_field_enrols_nobody(attacked, clock, field):
    created = await attacked.ca.join_tokens.create(OPERATOR, CART)
    values = {
        "secret_hash": sha256(SECRET.encode()).digest(),
        "spiffe_id": ADMIN,
        "id": "b" * 32,
        "expires_at": clock.now() + timedelta(hours=20),
        "created_at": clock.now() - timedelta(hours=1),
    }
    await attacked.write(update(TOKENS).values({field: values[field]}))
    await assert_no_token_enrols(attacked, SECRET if field == "secret_hash" else created.secret)


async def test_tokens_whose_secrets_are_swapped_enrol_nobody(attacked):
    of_cart = await attacked.ca.join_tokens.create(OPERATOR, CART)
    await attacked.ca.join_tokens.create(OPERATOR, ADMIN)
    one, two = await attacked.rows(TOKENS)
    await attacked.write(delete(TOKENS))
    for row, other in ((one, two), (two, one)):
        await attacked.write(insert(TOKENS).values({**row, "secret_hash": other["secret_hash"]}))
    await assert_no_token_enrols(attacked, of_cart.secret)


async def test_a_used_token_cannot_be_marked_unused(attacked):
    created = await attacked.ca.join_tokens.create(OPERATOR, CART)
    caller = await attacked.ca.join_tokens.attest(Evidence(created.secret))
    await attacked.ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA)
    await attacked.write(update(TOKENS).values(redeemed_at=None))
    await assert_no_token_enrols(attacked, created.secret)


async def test_a_token_that_outlives_the_longest_is_refused_even_with_a_valid_mac(attacked, clock):
    long = JoinToken("a" * 32, ADMIN, clock.now(), clock.now() + timedelta(days=3650))
    dated = replace(long, id="b" * 32, created_at=clock.now() + timedelta(days=3649))
    secrets = ("one", "two")
    async with attacked.ca.join_tokens._transactions() as repository:  # as one who has the secret writes
        for token, secret in zip((long, dated), secrets, strict=True):
            await repository.add_token(token, sha256(secret.encode()).digest())
    for secret in secrets:
        with pytest.raises(UnauthenticatedError):
            await attacked.ca.join_tokens.attest(Evidence(secret))
    for token_id in (long.id, dated.id):
        caller = Principal(Credential.JOIN_TOKEN, ADMIN, token_id)
        with pytest.raises(UnauthenticatedError):
            await attacked.ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA)


# Entries


async def test_an_inserted_entry_grants_nothing(attacked, clock):
    genuine = await attacked.ca.entries.create(OPERATOR, EntrySpec(ADMIN, None, ("admin.shop.svc",)))
    (row,) = await attacked.rows(ENTRIES)
    now = clock.now()
    forged = {**row, "id": "a" * 32, "spiffe_id": CART, "x509_svid_ttl": timedelta(days=90), "updated_at": now}
    await attacked.write(insert(ENTRIES).values(forged))
    issued = await attacked.ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    assert dns_names(issued) == []
    assert issued.not_after <= now + timedelta(hours=24)
    assert await attacked.ca.entries.page(None, 10) == [genuine]
    assert refused(attacked, "ca_entries") > 0
    await attacked.ca.entries.delete(OPERATOR, "a" * 32, None)
    assert [entry["id"] for entry in await attacked.rows(ENTRIES)] == [genuine.id]


@pytest.mark.parametrize("field", ["spiffe_id", "dns_names", "x509_svid_ttl", "version", "hint", "created_at"])
async def test_an_entry_with_a_changed_field_grants_nothing(attacked, clock, field):
    created = await attacked.ca.entries.create(
        OPERATOR, EntrySpec(ADMIN if field == "spiffe_id" else CART, timedelta(hours=48), ("a.shop.svc", "b.shop.svc"))
    )
    values = {
        "spiffe_id": CART,
        "dns_names": ("a.shop.svcb.shop.svc",),
        "x509_svid_ttl": timedelta(days=90),
        "version": 2,
        "hint": "x",
        "created_at": clock.now() - timedelta(1),
    }
    await attacked.write(update(ENTRIES).values({field: values[field]}))
    issued = await attacked.ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    assert dns_names(issued) == []
    assert issued.not_after <= clock.now() + timedelta(hours=24)
    with suppress(MeshwardError):
        await attacked.ca.entries.replace(OPERATOR, created.id, EntrySpec(CART, None, ("c.shop.svc",)), None)
    assert dns_names(await attacked.ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)) == []


async def test_forged_rows_do_not_hide_genuine_ones_from_a_listing(attacked, clock):
    genuine = await attacked.ca.join_tokens.create(OPERATOR, CART)
    row = await own_token(clock)
    for number in range(7):
        forged = {**row, "id": f"{number:032x}", "secret_hash": sha256(bytes([number])).digest()}
        await attacked.write(insert(TOKENS).values(forged))
    assert [token.id for token in await attacked.ca.join_tokens.page(None, 2)] == [genuine.token.id]


async def test_a_value_that_cannot_be_read_is_an_error_of_ours(attacked):
    await attacked.ca.join_tokens.create(OPERATOR, CART)
    async with attacked.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE ca_join_tokens SET spiffe_id = 'nonsense'")
    with pytest.raises(MeshwardError, match="ca_join_tokens"):
        await attacked.ca.join_tokens.page(None, 10)


async def test_a_ban_that_others_wrote_or_changed_bans_nobody_and_is_counted(attacked, clock):
    ca, shop = attacked.ca, "spiffe://example.org/ns/shop/*"
    await ca.bans.ban(OPERATOR, shop, "stolen key", None)
    (row,) = await attacked.rows(BANS)
    await attacked.write(insert(BANS).values({**row, "id": "1" * 32, "subject": "spiffe://example.org/*"}))
    await attacked.write(update(BAN_REVISIONS).values(revision=100))
    await ca.bans.refresh()
    assert ca.bans.refusal("example.org/ns/web/sa/any", "") is None
    assert ca.bans.refusal(CART.principal, "")
    assert refused(attacked, "ca_bans") == 1
    # A ban that was changed, or deleted, is lost: the first is counted, the second cannot be seen.
    await attacked.write(update(BANS).where(BANS.c.subject == shop).values(expires_at=clock.now()))
    await attacked.write(update(BAN_REVISIONS).values(revision=101))
    await ca.bans.refresh()
    assert ca.bans.refusal(CART.principal, "") is None
    assert refused(attacked, "ca_bans") == 3
