"""Many callers at once, and a database that was changed underneath, for real."""

import asyncio

import pytest
from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy import delete

from app.ca.model import Surface
from app.ca.tables import CrlRow, SignerRow
from app.core.errors import InternalError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)


async def test_concurrent_issuances_are_all_recorded(ca):
    issued = await asyncio.gather(*(ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA) for _ in range(20)))
    records = await ca.records.page(None, 100)
    serials = {load_pem_x509_certificate(one.chain[0].encode()).serial_number for one in issued}
    assert {int(record.serial, 16) for record in records} == serials
    assert len(serials) == 20


async def test_two_redemptions_of_one_token_at_once_give_one_svid(ca):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    attempts = (ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA) for _ in range(8))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert len(await ca.records.page(None, 100)) == 1


async def test_under_a_restored_database_that_does_not_know_the_signer_nothing_leaves(ca, engine):
    async with engine.begin() as connection:
        await connection.execute(delete(CrlRow))
        await connection.execute(delete(SignerRow))
    with pytest.raises(InternalError, match="held back"):
        await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
    await ca.maintain()
    assert await ca.issuance.issue(HOLDER, csr(), 0, Surface.ISTIO_CA)
