"""Join tokens: what they prove, for how long, and what is kept of them."""

from base64 import urlsafe_b64encode
from datetime import timedelta

import pytest

from app.ca.model import Surface
from app.ca.service.join_tokens import TOKENS_PER_QUERY
from app.core.errors import InvalidInputError, NotFoundError, UnauthenticatedError, UnavailableError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")


async def test_a_token_proves_its_identity_any_number_of_times_until_it_is_used(ca):
    created = await ca.join_tokens.create(OPERATOR, CART)
    for _ in range(3):
        caller = await ca.join_tokens.attest(Evidence(created.secret))
        assert caller == Principal(Credential.JOIN_TOKEN, CART, created.token.id)


async def test_the_secret_has_256_bits_and_is_neither_kept_nor_shown(ca, transactions):
    created = await ca.join_tokens.create(OPERATOR, CART)
    assert len(created.secret) >= 43
    assert created.secret not in repr(transactions.state.__dict__)
    assert created.secret not in repr(created)
    (record,) = transactions.state.audited
    assert created.secret not in str(record.after)


async def test_a_token_lasts_ten_minutes_by_default(ca, clock):
    created = await ca.join_tokens.create(OPERATOR, CART)
    clock.advance(599)
    assert (await ca.join_tokens.attest(Evidence(created.secret))).spiffe_id == CART
    clock.advance(1)
    with pytest.raises(UnauthenticatedError):
        await ca.join_tokens.attest(Evidence(created.secret))


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(days=1, seconds=1), timedelta.max])
async def test_a_lifetime_out_of_bounds_is_refused(ca, ttl):
    with pytest.raises(InvalidInputError):
        await ca.join_tokens.create(OPERATOR, CART, ttl)


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "spiffe://other.org/ns/shop/sa/cart",
        "spiffe://example.org",
        "spiffe://example.org/meshward",
        "spiffe://example.org/meshward/server",
    ],
)
async def test_a_token_is_made_for_workloads_of_this_trust_domain_alone(ca, spiffe_id):
    with pytest.raises(InvalidInputError) as refusal:
        await ca.join_tokens.create(OPERATOR, SpiffeId.parse(spiffe_id))
    assert refusal.value.violations[0].path == "spiffe_id"


@pytest.mark.parametrize("secret", ["", "x", "é", "\ud800", "\x00", "a" * 257, "a" * 100_000])
async def test_a_secret_that_is_none_of_ours_proves_nothing(ca, secret):
    await ca.join_tokens.create(OPERATOR, CART)
    with pytest.raises(UnauthenticatedError):
        await ca.join_tokens.attest(Evidence(secret))


async def test_a_call_without_a_bearer_token_proves_nothing(ca):
    with pytest.raises(UnauthenticatedError, match="authorization: Bearer"):
        await ca.join_tokens.attest(Evidence(None))


JWT = ".".join(
    urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"RS256"}', b'{"sub":"system:serviceaccount:shop:cart"}', b"signature" * 30)
)


@pytest.mark.parametrize("secret", [JWT, JWT[:200], "eyJ.."])
async def test_a_jwt_is_refused_as_what_it_is_and_not_looked_up(ca, transactions, secret):
    transactions.away = True
    with pytest.raises(UnauthenticatedError, match="is a JWT, such as a service account's"):
        await ca.join_tokens.attest(Evidence(secret))


async def test_what_is_too_long_for_a_secret_is_not_even_looked_up(ca, transactions):
    transactions.away = True
    with pytest.raises(UnauthenticatedError):
        await ca.join_tokens.attest(Evidence("a" * 257))
    with pytest.raises(UnavailableError):
        await ca.join_tokens.attest(Evidence("a" * 256))


async def test_one_message_for_every_reason(ca, clock):
    used, expired = (
        await ca.join_tokens.create(OPERATOR, CART),
        await ca.join_tokens.create(OPERATOR, CART, timedelta(seconds=1)),
    )
    clock.advance(1)
    messages = set()
    for secret in ("unknown", expired.secret):
        with pytest.raises(UnauthenticatedError) as refusal:
            await ca.join_tokens.attest(Evidence(secret))
        messages.add(refusal.value.message)
    assert len(messages) == 1
    assert used.secret not in messages


async def test_a_deleted_token_proves_nothing(ca):
    created = await ca.join_tokens.create(OPERATOR, CART)
    await ca.join_tokens.delete(OPERATOR, created.token.id)
    with pytest.raises(UnauthenticatedError):
        await ca.join_tokens.attest(Evidence(created.secret))
    with pytest.raises(NotFoundError):
        await ca.join_tokens.delete(OPERATOR, created.token.id)


async def test_a_token_is_settled_once_it_is_used_deleted_or_expired(ca, clock):
    fresh, used, deleted = [await ca.join_tokens.create(OPERATOR, CART) for _ in range(3)]
    brief = await ca.join_tokens.create(OPERATOR, CART, timedelta(seconds=1))
    ids = [created.token.id for created in (fresh, used, deleted, brief)]
    assert await ca.join_tokens.settled(ids) == {}
    await ca.issuance.issue(await ca.join_tokens.attest(Evidence(used.secret)), csr(), 0, Surface.SDS)
    await ca.join_tokens.delete(OPERATOR, deleted.token.id)
    clock.advance(1)
    assert await ca.join_tokens.settled(ids) == {used.token.id: True, deleted.token.id: False, brief.token.id: False}
    unknown = [f"{number:032x}" for number in range(TOKENS_PER_QUERY)]
    assert len(await ca.join_tokens.settled([*unknown, *ids])) == TOKENS_PER_QUERY + 3
    clock.advance(600)
    assert (await ca.join_tokens.settled(ids))[used.token.id]
