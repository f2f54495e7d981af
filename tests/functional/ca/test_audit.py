"""A change and its audit record are stored together, or neither is, on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from app.audit.ports import AuditFilter
from app.audit.repository import SqlAuditRepository
from app.ca.model import EntrySpec
from app.core.errors import MeshwardError
from app.db.transactions import Transactions
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")


async def records(engine):
    async with Transactions(engine, SqlAuditRepository)() as repository:
        return list(reversed(await repository.records(None, 100, AuditFilter())))


async def break_audit(engine):
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE audit_records"))


async def test_each_change_leaves_one_record(ca, engine):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(hours=1), ("cart.shop",)))
    await ca.entries.replace(OPERATOR, entry.id, EntrySpec(CART, hint="main"), 1)
    await ca.entries.delete(OPERATOR, entry.id, 2)
    token = (await ca.join_tokens.create(OPERATOR, CART)).token
    await ca.join_tokens.delete(OPERATOR, token.id)
    created, replaced, deleted, token_created, token_deleted = await records(engine)
    assert [(each.action, each.target) for each in (created, replaced, deleted)] == [
        ("entry.create", str(CART)),
        ("entry.replace", str(CART)),
        ("entry.delete", str(CART)),
    ]
    assert (created.before, created.after) == (None, replaced.before)
    assert (created.after["x509_svid_ttl_seconds"], created.after["dns_names"]) == (3600, ["cart.shop"])
    assert (replaced.after["hint"], replaced.after["version"]) == ("main", 2)
    assert (deleted.before, deleted.after) == (replaced.after, None)
    assert (token_created.action, token_created.target) == ("join_token.create", token.id)
    assert token_created.after["spiffe_id"] == str(CART)
    assert (token_deleted.action, token_deleted.before) == ("join_token.delete", token_created.after)
    assert {each.request_id for each in await records(engine)} == {OPERATOR.request_id}


async def test_an_entry_that_cannot_be_audited_is_not_created(ca, engine):
    await break_audit(engine)
    with pytest.raises(MeshwardError):
        await ca.entries.create(OPERATOR, EntrySpec(CART))
    assert await ca.entries.find(CART) is None


async def test_an_entry_whose_change_cannot_be_audited_is_unchanged(ca, engine):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    await break_audit(engine)
    with pytest.raises(MeshwardError):
        await ca.entries.replace(OPERATOR, entry.id, EntrySpec(CART, hint="new"), None)
    with pytest.raises(MeshwardError):
        await ca.entries.delete(OPERATOR, entry.id, None)
    assert await ca.entries.get(entry.id) == entry


async def test_a_join_token_that_cannot_be_audited_is_neither_created_nor_deleted(ca, engine):
    created = await ca.join_tokens.create(OPERATOR, CART)
    await break_audit(engine)
    with pytest.raises(MeshwardError):
        await ca.join_tokens.create(OPERATOR, CART)
    with pytest.raises(MeshwardError):
        await ca.join_tokens.delete(OPERATOR, created.token.id)
    assert await ca.join_tokens.page(None, 10) == [created.token]
    assert (await ca.join_tokens.attest(Evidence(created.secret))).spiffe_id == CART
