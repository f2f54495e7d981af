"""What the transparency log says and proves, and that it is not signed when its past has changed."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from app.ca.model import Surface
from app.ca.rules.log import (
    check_certificate,
    check_consistency,
    check_head,
    check_inclusion,
    check_tree,
    fields_of,
    head_bytes,
    serial_of,
)
from app.ca.rules.merkle import Frontier
from app.core.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import parse_certificate
from tests.assets.csrs import csr

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
CSR = csr()


async def issue(ca):
    issued = await ca.issuance.issue(HOLDER, CSR, 0, Surface.ISTIO_CA)
    return x509.load_pem_x509_certificate(issued.chain[0].encode())


def roots(ca):
    return [parse_certificate(root) for root in ca.authorities.bundle().roots]


async def test_the_log_begins_with_the_authorities_and_has_each_svid(ca):
    leaf = await issue(ca)
    entries = [fields_of(entry) for entry in await ca.log.page(0, 10)]
    assert [entry["kind"] for entry in entries] == ["root", "signer", "svid"]
    assert entries[0]["certificate"] == ca.authorities.status().roots[0].certificate
    assert entries[1]["certificate"] == ca.authorities.active().signer.certificate
    assert entries[2]["spiffe_id"] == str(CART)
    assert entries[2]["serial"] == serial_of(leaf)


async def test_a_certificate_is_proven_with_nothing_but_the_bundle(ca):
    certificates = [await issue(ca) for _ in range(5)]
    await ca.maintain()
    for certificate in certificates:
        inclusion = await ca.log.inclusion(serial_of(certificate))
        check_head(inclusion.head, roots(ca))
        check_inclusion(inclusion)
        check_certificate(inclusion.leaf, certificate)
    with pytest.raises(InvalidInputError, match="another certificate"):
        check_certificate(inclusion.leaf, certificates[0])


async def test_an_entry_that_was_changed_is_not_proven(ca):
    certificate = await issue(ca)
    await ca.maintain()
    inclusion = await ca.log.inclusion(serial_of(certificate))
    changed = replace(inclusion.leaf, text=inclusion.leaf.text.replace("cart", "evil"))
    with pytest.raises(InvalidInputError, match="changed"):
        check_inclusion(replace(inclusion, leaf=changed))
    with pytest.raises(InvalidInputError, match="not in the log"):
        check_inclusion(replace(inclusion, proof=()))
    with pytest.raises(InvalidInputError, match="not in the log"):
        check_inclusion(replace(inclusion, leaf=replace(inclusion.leaf, index=0)))


async def test_each_head_continues_the_one_before(ca):
    await ca.maintain()
    heads = [await ca.log.head()]
    for count in (1, 2, 5):
        for _ in range(count):
            await issue(ca)
        await ca.maintain()
        heads.append(await ca.log.head())
    assert [head.size for head in heads] == [2, 3, 5, 10]
    for old in heads:
        for new in heads[heads.index(old) :]:
            head, proof = await ca.log.consistency(old.size, new.size)
            assert head == new
            check_consistency(old, head, proof)
        check_tree(old, await ca.log.page(0, old.size))
    assert await ca.log.head(3) == heads[1]


async def test_an_unchanged_log_is_not_signed_again(ca, clock):
    await issue(ca)
    await ca.maintain()
    head = await ca.log.head()
    clock.advance(3600)
    await ca.maintain()
    assert await ca.log.head() == head


@pytest.mark.parametrize(
    "change",
    [
        {"size": 9},
        {"root_hash": b"\0" * 32},
        {"signature": b"\0" * 70},
        {"trust_domain": TrustDomain("other.org")},
        {"signed_at": timedelta(seconds=1)},
        {"signed_at": timedelta(days=4000)},
        {"certificate": "nonsense"},
    ],
    ids=str,
)
async def test_a_head_that_no_authority_of_the_bundle_signed_is_refused(ca, change):
    await ca.maintain()
    head = await ca.log.head()
    check_head(head, roots(ca))
    if "signed_at" in change:
        change = {"signed_at": head.signed_at + change["signed_at"]}
    with pytest.raises(InvalidInputError):
        check_head(replace(head, **change), roots(ca))


async def test_a_head_of_another_ca_is_refused(ca):
    await ca.maintain()
    head = await ca.log.head()
    (root,) = roots(ca)
    own = replace(head, certificate=ca.authorities.status().roots[0].certificate)
    with pytest.raises(InvalidInputError, match="signature"):
        check_head(own, [root])
    with pytest.raises(InvalidInputError, match="no root"):
        check_head(head, [])


async def test_what_is_signed_says_what_it_is(ca):
    await ca.maintain()
    lines = head_bytes(await ca.log.head()).decode().splitlines()
    assert lines[0] == "Meshward transparency log head v1"
    assert lines[1:3] == ["example.org", "2"]


async def test_an_unknown_subject_and_an_entry_without_a_head_are_told_apart(ca):
    with pytest.raises(NotFoundError):
        await ca.log.inclusion("0" * 32)
    await ca.maintain()
    certificate = await issue(ca)
    with pytest.raises(UnavailableError, match="retry"):
        await ca.log.inclusion(serial_of(certificate))


@pytest.mark.parametrize(("first", "second"), [(3, None), (1, 3), (1, 1)])
async def test_sizes_that_the_log_does_not_have_are_refused(ca, first, second):
    await ca.maintain()
    with pytest.raises((InvalidInputError, NotFoundError)):
        await ca.log.consistency(first, second)


async def test_no_head_is_signed_for_a_log_whose_past_has_changed(ca, transactions):
    await issue(ca)
    await ca.maintain()
    head = await ca.log.head()
    await issue(ca)
    store = transactions.state
    store.leaves[1] = replace(store.leaves[1], hash=b"\0" * 32)
    await ca.maintain()
    assert await ca.log.head() == head
    with pytest.raises(PreconditionError, match="transparency log was changed"):
        await ca.check_ready()


async def test_a_log_that_became_shorter_is_not_signed(ca, transactions, clock):
    state = transactions.state
    before = (state.frontier, dict(state.leaves))
    await issue(ca)
    await ca.maintain()
    state.frontier, state.leaves = before
    await ca.maintain()
    with pytest.raises(PreconditionError, match="transparency log was changed"):
        await ca.check_ready()
    assert (await ca.log.head()).size == 3


async def test_a_leaf_in_the_place_of_a_new_one_holds_the_svid_back(ca, transactions):
    state = transactions.state
    leaf = (await ca.log.page(0, 1))[0]
    state.leaves[2] = replace(leaf, index=2)
    with pytest.raises(Exception, match="held back"):
        await issue(ca)
    assert await ca.records.page(None, 10) == []


@pytest.mark.parametrize("drop", [0, 1, 2])
async def test_a_tree_with_a_missing_changed_or_added_entry_is_not_that_of_its_head(ca, drop):
    await issue(ca)
    await ca.maintain()
    head, leaves = await ca.log.head(), list(await ca.log.page(0, 10))
    with pytest.raises(InvalidInputError):
        check_tree(head, [*leaves[:drop], *leaves[drop + 1 :]])
    with pytest.raises(InvalidInputError):
        check_tree(head, [*leaves, replace(leaves[0], index=3)])
    leaves[drop] = replace(leaves[drop], text="{}")
    with pytest.raises(InvalidInputError, match="changed"):
        check_tree(head, leaves)


@pytest.mark.parametrize("forged", [True, False], ids=["a head that nobody signed", "no head any more"])
async def test_a_log_that_was_changed_with_its_heads_is_not_signed(ca, transactions, forged):
    await issue(ca)
    await ca.maintain()
    state, head = transactions.state, await ca.log.head()
    state.frontier, _ = Frontier().grown([b"\0" * 32] * head.size)
    state.heads = {head.size: replace(head, root_hash=state.frontier.root)} if forged else {}
    await ca.maintain()
    with pytest.raises(PreconditionError, match="transparency log was changed"):
        await ca.check_ready()
