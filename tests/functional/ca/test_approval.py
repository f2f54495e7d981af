"""A replica with a secret of its own: it trusts a root by its fingerprint, and an operator approves its request."""

import hashlib
import ssl

import pytest
from sqlalchemy import select, update

from app.audit.ports import AuditFilter
from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import KeyAlgorithm, Surface
from app.ca.rules.authority import authority_request
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from app.db.base import Base
from app.db.migrate import upgrade
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.certificates import pem, proven_id
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
ROOTS, SIGNERS = Base.metadata.tables["ca_roots"], Base.metadata.tables["ca_signers"]


@pytest.fixture
async def first(control_plane, engine):
    """The replica that has made the root."""
    await upgrade(engine)
    parts = control_plane("one")
    await parts.ca.start()
    return parts


@pytest.fixture
async def second(control_plane, first):
    """A replica with another secret, which trusts the root of the first."""
    parts = control_plane("two", ca_trusted_root=fingerprint(first))
    await parts.ca.start()
    return parts


def fingerprint(parts):
    (root,) = parts.ca.authorities.bundle().roots
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(root)).hexdigest()


def keys_of(tmp_path, name):
    return {path.name for path in (tmp_path / name / "keys").iterdir()}


async def test_a_replica_with_another_secret_is_signed_for_once_an_operator_has_approved_it(first, second, tmp_path):
    one, two = first.ca, second.ca
    assert two.authorities.bundle() == one.authorities.bundle()
    for _ in range(3):
        await one.maintain()
        await two.maintain()
    (request,) = one.authorities.status().unapproved
    assert request.id in two.authorities.waiting_for
    with pytest.raises(UnavailableError, match=request.id):
        await two.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)

    assert await one.authorities.requests.approve(OPERATOR, request.id) == request
    # The request has the MAC of the first one's secret now, and is still the second one's.
    await two.maintain()
    await one.maintain()
    await two.maintain()
    assert two.authorities.waiting_for is None
    assert two.authorities.active().signer.id == request.id
    assert one.authorities.status().unapproved == ()
    assert keys_of(tmp_path, "two") == {f"{request.id}.pem", "replica.secret"}
    issued = await two.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    assert proven_id(issued.chain, one.authorities.bundle(), second.clock.now()) == CART
    (record,) = await first.audit.page(None, 9, AuditFilter(action="signing_request.approve"))
    assert (record.target, record.principal) == (request.id, OPERATOR.name)


async def test_tokens_of_one_secret_enrol_nobody_at_a_replica_with_another(first, second):
    for maker, other in ((first, second), (second, first)):
        created = await maker.ca.join_tokens.create(OPERATOR, CART)
        assert (await maker.ca.join_tokens.attest(Evidence(created.secret))).spiffe_id == CART
        with pytest.raises(Exception, match="unknown, used up or expired"):
            await other.ca.join_tokens.attest(Evidence(created.secret))


async def test_only_a_request_that_waits_can_be_approved(first, second):
    await first.ca.maintain()
    with pytest.raises(NotFoundError):
        await first.ca.authorities.requests.approve(OPERATOR, "e" * 40)
    (request,) = first.ca.authorities.status().unapproved
    await first.ca.authorities.requests.approve(OPERATOR, request.id)
    with pytest.raises(NotFoundError):
        await first.ca.authorities.requests.approve(OPERATOR, request.id)
    assert len(await first.audit.page(None, 9, AuditFilter(action="signing_request.approve"))) == 1


async def test_an_approval_is_of_the_key_that_the_id_names(first, second, engine):
    await first.ca.maintain()
    (request,) = first.ca.authorities.status().unapproved
    key = await MemoryKeyStore().create(KeyAlgorithm.P256)
    own = pem(await key.sign(authority_request()))
    async with engine.begin() as connection:
        await connection.execute(update(SIGNERS).where(SIGNERS.c.id == request.id).values(request=own))
    with pytest.raises(InvalidInputError, match="not for the key"):
        await first.ca.authorities.requests.approve(OPERATOR, request.id)
    await first.ca.maintain()
    async with engine.connect() as connection:
        certificate = select(SIGNERS.c.certificate).where(SIGNERS.c.id == request.id)
        assert (await connection.execute(certificate)).scalar_one() is None


async def test_a_root_with_another_fingerprint_is_not_trusted(first, control_plane, engine):
    wrong = control_plane("three", ca_trusted_root="0" * 64)
    with pytest.raises(PreconditionError, match="root of the CA"):
        await wrong.ca.start()
    right = control_plane("four", ca_trusted_root=fingerprint(first))
    async with engine.begin() as connection:
        await connection.execute(update(ROOTS).values(not_after=first.clock.now()))
    with pytest.raises(PreconditionError, match="root of the CA"):
        await right.ca.start()
