"""Entries: what may be said of an identity, and that nobody overwrites what they did not see."""

from datetime import timedelta

import pytest

from app.ca.model import EntrySpec
from app.ca.rules.names import dns_name_problem
from app.core.errors import ConflictError, InvalidInputError, NotFoundError
from app.spiffe.id import SpiffeId
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")


async def test_an_identity_has_one_entry(ca):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    assert await ca.entries.find(CART) == entry
    with pytest.raises(ConflictError, match=entry.id):
        await ca.entries.create(OPERATOR, EntrySpec(CART))


async def test_a_change_needs_the_version_that_was_read(ca, clock):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    clock.advance(5)
    changed = await ca.entries.replace(OPERATOR, entry.id, EntrySpec(CART, hint="a"), 1)
    assert changed == await ca.entries.get(entry.id)
    assert (changed.version, changed.created_at, changed.updated_at) == (2, entry.created_at, clock.now())
    with pytest.raises(ConflictError, match="changed since"):
        await ca.entries.replace(OPERATOR, entry.id, EntrySpec(CART, hint="b"), 1)
    assert (await ca.entries.replace(OPERATOR, entry.id, EntrySpec(CART, hint="c"), None)).version == 3


async def test_an_entry_keeps_its_identity(ca):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    with pytest.raises(InvalidInputError, match="another identity"):
        await ca.entries.replace(OPERATOR, entry.id, EntrySpec(SpiffeId.parse("spiffe://example.org/other")), 1)


async def test_what_is_not_there_cannot_be_read_changed_or_removed(ca):
    with pytest.raises(NotFoundError):
        await ca.entries.get("0" * 32)
    with pytest.raises(NotFoundError):
        await ca.entries.replace(OPERATOR, "0" * 32, EntrySpec(CART), 1)
    with pytest.raises(NotFoundError):
        await ca.entries.delete(OPERATOR, "0" * 32, None)


async def test_a_removal_may_name_the_version_that_was_read(ca):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    with pytest.raises(ConflictError):
        await ca.entries.delete(OPERATOR, entry.id, 2)
    await ca.entries.delete(OPERATOR, entry.id, 1)
    assert await ca.entries.find(CART) is None


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (EntrySpec(CART, timedelta(0)), "x509_svid_ttl_seconds"),
        (EntrySpec(CART, timedelta(days=91)), "x509_svid_ttl_seconds"),
        (EntrySpec(CART, None, ("a", "a")), "dns_names"),
        (EntrySpec(CART, None, tuple(f"a{n}" for n in range(65))), "dns_names"),
        (EntrySpec(CART, None, ("ok.shop", "Bad.shop")), "dns_names[1]"),
        (EntrySpec(CART, None, ("localhost",)), "dns_names[0]"),
        (EntrySpec(CART, None, ("ok.shop", "mesh.example.org")), "dns_names[1]"),
        (EntrySpec(CART, None, ("*.example.org",)), "dns_names[0]"),
        (EntrySpec(CART, hint="é" * 513), "hint"),
        (EntrySpec(CART, hint="a\x00b"), "hint"),
        (EntrySpec(SpiffeId.parse("spiffe://other.org/a")), "spiffe_id"),
    ],
)
async def test_what_may_not_be_said_is_refused_with_the_field(ca, spec, path):
    with pytest.raises(InvalidInputError) as refusal:
        await ca.entries.create(OPERATOR, spec)
    assert [violation.path for violation in refusal.value.violations] == [path]
    assert await ca.entries.page(None, 10) == []


@pytest.mark.parametrize("name", ["example.org", "a.mesh.example.org", "*.mesh.example.org", "mesh.example.com"])
async def test_a_name_beside_those_of_the_control_plane_is_accepted(ca, name):
    assert (await ca.entries.create(OPERATOR, EntrySpec(CART, None, (name,)))).dns_names == (name,)


@pytest.mark.parametrize(
    "name", ["cart", "cart.shop.svc.cluster.local", "*.shop.svc", "xn--bcher-kva.example", "a-b.c1", "1.example"]
)
def test_a_dns_name_that_a_certificate_may_carry(name):
    assert dns_name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a.",
        "-a.b",
        "a-.b",
        "A.b",
        "a_b.c",
        "a b",
        "a\n",
        "é.b",
        "*",
        "*.com",
        "a.*.b",
        "a*.b.c",
        "10.0.0.1",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "a\x00.b",
    ],
)
def test_a_dns_name_that_no_certificate_may_carry(name):
    assert dns_name_problem(name)


async def test_a_change_that_is_refused_leaves_no_audit_record(ca, transactions):
    entry = await ca.entries.create(OPERATOR, EntrySpec(CART))
    for change in (
        ca.entries.create(OPERATOR, EntrySpec(CART)),
        ca.entries.replace(OPERATOR, entry.id, EntrySpec(CART), 7),
        ca.entries.delete(OPERATOR, entry.id, 7),
    ):
        with pytest.raises(ConflictError):
            await change
    assert [record.action for record in transactions.state.audited] == ["entry.create"]
