"""One contract for every store of the CA: both databases, and the fake that unit tests stand on."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.ca.model import Entry, EntrySpec, IssuedSvid, JoinToken, Origin, Root, Signer, SigningRequest, Surface
from app.core.errors import ConflictError
from app.db.base import Base
from app.db.engine import create_engine
from app.spiffe.id import SpiffeId, TrustDomain
from tests.fakes.ca_store import MemoryTransactions
from tests.support.ca_store import ca_transactions

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
ROOT = Root("a" * 40, 1, TrustDomain("example.org"), "PEM of the root", NOW, NOW + 10 * HOUR, NOW)
REQUEST = SigningRequest("b" * 40, ROOT.id, "PEM of the request", NOW)
SIGNER = Signer(REQUEST.id, ROOT.id, "PEM of the signer", NOW, NOW + 5 * HOUR)
TOKEN = JoinToken("1" * 32, CART, NOW, NOW + HOUR)
ENTRY = Entry(
    CART, timedelta(seconds=90), ("cart.shop",), "main", id="2" * 32, version=1, created_at=NOW, updated_at=NOW
)


def svid(number, spiffe_id=CART, not_after=NOW + HOUR):
    return IssuedSvid(
        serial=f"{number:032x}",
        spiffe_id=spiffe_id,
        signer_id=SIGNER.id,
        fingerprint="f" * 64,
        not_before=NOW,
        not_after=not_after,
        issued_at=NOW,
        surface=Surface.SDS,
        token_id=TOKEN.id,
    )


def bare_entry(entry_id, spiffe_id):
    return Entry(spiffe_id, id=entry_id, version=1, created_at=NOW, updated_at=NOW)


def spiffe_id(name):
    return SpiffeId.parse(f"spiffe://example.org/{name}")


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
def store_url(request, tmp_path):
    match request.param:
        case "fake":
            return None
        case "sqlite":
            return f"sqlite+aiosqlite:///{tmp_path / 'meshward.db'}"
        case _:
            return request.getfixturevalue("postgres_url")


@pytest.fixture
async def store(store_url):
    """The transactions of an empty store, once of each kind."""
    if store_url is None:
        yield MemoryTransactions()
        return
    engine = create_engine(store_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield ca_transactions(engine)
    await engine.dispose()


@pytest.fixture
async def signing_store(store):
    """A store with a root and a signing authority, which records of SVIDs refer to."""
    async with store() as repository:
        await repository.add_root(ROOT)
        await repository.add_signing_request(REQUEST)
        await repository.answer_signing_request(SIGNER)
    return store


async def test_a_root_is_read_back_as_it_was_stored(store):
    async with store() as repository:
        await repository.add_root(ROOT)
    async with store() as repository:
        assert list(await repository.roots()) == [ROOT]


async def test_a_generation_of_roots_is_taken_once(store):
    async with store() as repository:
        await repository.add_root(ROOT)
    with pytest.raises(ConflictError):
        async with store() as repository:
            await repository.add_root(Root("c" * 40, 1, TrustDomain("example.org"), "other", NOW, NOW, NOW))
    async with store() as repository:
        assert list(await repository.roots()) == [ROOT]


async def test_a_signing_request_waits_until_it_is_answered_once(store):
    async with store() as repository:
        await repository.add_root(ROOT)
        await repository.add_signing_request(REQUEST)
    async with store() as repository:
        assert list(await repository.signing_requests(ROOT.id, 10)) == [REQUEST]
        assert list(await repository.signers(ROOT.id, NOW)) == []
        assert await repository.answer_signing_request(SIGNER)
    async with store() as repository:
        assert not await repository.answer_signing_request(SIGNER)
        assert list(await repository.signing_requests(ROOT.id, 10)) == []
        assert list(await repository.signers(ROOT.id, NOW)) == [SIGNER]
        assert list(await repository.signers(ROOT.id, SIGNER.not_after)) == []


async def test_the_signer_that_lasts_longest_comes_first(signing_store):
    async with signing_store() as repository:
        await repository.add_signing_request(SigningRequest("d" * 40, ROOT.id, "PEM", NOW))
        later = Signer("d" * 40, ROOT.id, "PEM", NOW, NOW + 6 * HOUR)
        await repository.answer_signing_request(later)
        assert list(await repository.signers(ROOT.id, NOW)) == [later, SIGNER]


async def test_a_request_that_cannot_be_answered_is_removed_but_never_a_signer(signing_store):
    async with signing_store() as repository:
        await repository.add_signing_request(SigningRequest("d" * 40, ROOT.id, "PEM", NOW))
        await repository.remove_signing_request("d" * 40)
        await repository.remove_signing_request(SIGNER.id)
        assert list(await repository.signing_requests(ROOT.id, 10)) == []
        assert list(await repository.signers(ROOT.id, NOW)) == [SIGNER]


async def test_an_authority_from_outside_takes_the_place_of_the_one_with_its_key(store):
    root = replace(ROOT, origin=Origin.PLUG_IN)
    first = Signer("d" * 40, ROOT.id, "PEM", NOW, NOW + 5 * HOUR, ("between", "above"))
    async with store() as repository:
        await repository.add_root(root)
        assert await repository.signer(first.id) is None
        await repository.put_signer(first, NOW)
        assert list(await repository.signing_requests(ROOT.id, 10)) == []
        assert list(await repository.unapproved_requests(ROOT.id, 10)) == []
        assert set(await repository.roots_above_others(NOW)) == {ROOT.id}
        assert not await repository.roots_above_others(first.not_after)
    again, renewed = replace(first, certificate="again", intermediates=()), replace(root, certificate="renewed")
    async with store() as repository:
        assert await repository.signer(first.id) == first
        await repository.put_signer(again, NOW)
        await repository.replace_root(renewed)
    async with store() as repository:
        assert list(await repository.signers(ROOT.id, NOW)) == [again]
        assert list(await repository.roots()) == [renewed]


async def test_svids_come_newest_first_in_pages_and_by_identity(signing_store):
    async with signing_store() as repository:
        for number in range(1, 6):
            await repository.add_svids([svid(number, spiffe_id(f"w{number % 2}"))])
    async with signing_store() as repository:
        first = await repository.svids(None, 2, None)
        rest = await repository.svids(first[-1].number, 10, None)
        assert [int(item.serial, 16) for item in (*first, *rest)] == [5, 4, 3, 2, 1]
        assert [int(item.serial, 16) for item in await repository.svids(None, 10, spiffe_id("w0"))] == [4, 2]
        assert first[0].token_id == TOKEN.id
        assert first[0].surface is Surface.SDS


@pytest.mark.parametrize("surface", list(Surface))
async def test_identities_that_came_without_a_stream_are_unrenewed_until_a_later_certificate(signing_store, surface):
    async with signing_store() as repository:
        old, ended = svid(1), svid(2, spiffe_id("gone"), not_after=NOW)
        await repository.add_svids([replace(each, surface=surface) for each in (old, ended)])
        expected = [CART] if surface in {Surface.ISTIO_CA, Surface.SDS_FETCH} else []
        later = NOW + timedelta(minutes=1)
        assert list(await repository.unrenewed(later, NOW, 10)) == expected
        assert list(await repository.unrenewed(NOW, NOW, 10)) == []
        await repository.add_svids([replace(svid(3), surface=surface, issued_at=later)])
        assert list(await repository.unrenewed(later, NOW, 10)) == []


async def test_a_serial_number_is_recorded_once(signing_store):
    async with signing_store() as repository:
        await repository.add_svids([svid(7)])
    with pytest.raises(ConflictError):
        async with signing_store() as repository:
            await repository.add_svids([svid(7)])


async def test_records_past_their_retention_are_forgotten(signing_store):
    async with signing_store() as repository:
        await repository.add_svids([svid(1, not_after=NOW - HOUR)])
        await repository.add_svids([svid(2, not_after=NOW + HOUR)])
        await repository.add_token(TOKEN, b"1" * 32)
        assert await repository.remove_svids(NOW, 10) == 1
        assert await repository.remove_tokens(NOW, 10) == 0
        assert await repository.remove_tokens(NOW + 2 * HOUR, 10) == 1
        assert [int(item.serial, 16) for item in await repository.svids(None, 10, None)] == [2]


async def test_no_more_is_forgotten_at_once_than_asked_for(signing_store):
    async with signing_store() as repository:
        for number in range(1, 6):
            await repository.add_svids([svid(number, not_after=NOW - HOUR)])
        assert [await repository.remove_svids(NOW, 2) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_token_is_found_by_the_hash_of_its_secret_alone(store):
    async with store() as repository:
        await repository.add_token(TOKEN, b"1" * 32)
    async with store() as repository:
        assert await repository.token_by_hash(b"1" * 32) == TOKEN
        assert await repository.token_by_hash(b"2" * 32) is None


async def test_a_token_is_redeemed_once_and_not_after_its_end(store):
    async with store() as repository:
        await repository.add_token(TOKEN, b"1" * 32)
        assert not await repository.redeem_tokens([TOKEN.id], TOKEN.expires_at)
        assert not await repository.redeem_tokens(["9" * 32], NOW)
        assert await repository.redeem_tokens([TOKEN.id], NOW)
        assert not await repository.redeem_tokens([TOKEN.id], NOW)
    async with store() as repository:
        assert (await repository.token_by_hash(b"1" * 32)).redeemed_at == NOW


async def test_a_redemption_that_rolls_back_leaves_the_token_unused(store):
    async with store() as repository:
        await repository.add_token(TOKEN, b"1" * 32)

    async def redeem_and_fail():
        async with store() as repository:
            assert await repository.redeem_tokens([TOKEN.id], NOW)
            raise ConflictError("something else went wrong")

    with pytest.raises(ConflictError):
        await redeem_and_fail()
    async with store() as repository:
        assert await repository.redeem_tokens([TOKEN.id], NOW)


async def test_of_many_redemptions_at_once_one_succeeds(store):
    async with store() as repository:
        await repository.add_token(TOKEN, b"1" * 32)

    async def redeem():
        async with store() as repository:
            return list(await repository.redeem_tokens([TOKEN.id], NOW))

    assert sorted(await asyncio.gather(*(redeem() for _ in range(8)))) == [[]] * 7 + [[TOKEN.id]]


async def test_tokens_are_listed_in_pages_and_removed_once(store):
    async with store() as repository:
        for number in range(5):
            await repository.add_token(JoinToken(f"{number:032x}", CART, NOW, NOW + HOUR), bytes([number]) * 32)
    async with store() as repository:
        first = await repository.tokens(None, 2)
        rest = await repository.tokens(first[-1].id, 10)
        assert [int(token.id, 16) for token in (*first, *rest)] == [0, 1, 2, 3, 4]
        assert await repository.remove_token(first[0].id) == first[0]
        assert not await repository.remove_token(first[0].id)


async def test_tokens_are_found_by_their_ids(store):
    tokens = [JoinToken(f"{number:032x}", CART, NOW, NOW + HOUR) for number in range(3)]
    async with store() as repository:
        for number, token in enumerate(tokens):
            await repository.add_token(token, bytes([number]) * 32)
    async with store() as repository:
        found = await repository.tokens_by_id([tokens[0].id, "f" * 32, tokens[2].id])
        assert sorted(found, key=lambda token: token.id) == [tokens[0], tokens[2]]
        assert list(await repository.tokens_by_id([])) == []


async def test_an_entry_is_read_back_as_it_was_stored(store):
    bare = bare_entry("3" * 32, spiffe_id("bare"))
    async with store() as repository:
        await repository.add_entry(ENTRY)
        await repository.add_entry(bare)
    async with store() as repository:
        assert await repository.entry(ENTRY.id) == ENTRY
        assert await repository.entry_of(CART) == ENTRY
        assert await repository.entry(bare.id) == bare
        assert await repository.entry_of(spiffe_id("none")) is None


async def test_an_identity_has_one_entry(store):
    async with store() as repository:
        await repository.add_entry(ENTRY)
    with pytest.raises(ConflictError):
        async with store() as repository:
            await repository.add_entry(bare_entry("4" * 32, CART))


async def test_entries_are_listed_by_identity_in_pages(store):
    async with store() as repository:
        for number, name in enumerate(["c", "a", "b"]):
            await repository.add_entry(bare_entry(f"{number:032x}", spiffe_id(name)))
    async with store() as repository:
        first = await repository.entries(None, 2)
        rest = await repository.entries(str(first[-1].spiffe_id), 2)
        assert [entry.spiffe_id.path for entry in (*first, *rest)] == ["/a", "/b", "/c"]


async def test_an_entry_is_replaced_only_at_the_version_that_was_read(store):
    async with store() as repository:
        await repository.add_entry(ENTRY)
        assert not await repository.replace_entry(ENTRY.id, EntrySpec(CART), 2, NOW)
        assert await repository.replace_entry(ENTRY.id, EntrySpec(CART, hint="new"), 1, NOW + HOUR)
        assert not await repository.replace_entry(ENTRY.id, EntrySpec(CART), 1, NOW)
    async with store() as repository:
        changed = Entry(CART, hint="new", id=ENTRY.id, version=2, created_at=NOW, updated_at=NOW + HOUR)
        assert await repository.entry(ENTRY.id) == changed


async def test_an_entry_is_removed_only_at_the_version_asked_for(store):
    async with store() as repository:
        await repository.add_entry(ENTRY)
        assert not await repository.remove_entry(ENTRY.id, 2)
        assert await repository.remove_entry(ENTRY.id, 1) == ENTRY
        assert not await repository.remove_entry(ENTRY.id, None)
