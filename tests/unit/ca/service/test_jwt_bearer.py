"""Service accounts' JWTs as proof of an identity, and the keys that they are verified with."""

import asyncio

import pytest

from app.ca.model import Surface
from app.ca.service.jwt_bearer import PACE, JwtBearer, JwtIssuer
from app.core.errors import UnauthenticatedError, UnavailableError
from app.issuers.keys import IssuerKeys
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr
from tests.assets.jwts import AUDIENCE, EC_KEY, ISSUER, RSA_KEY, SUBJECT, hostile, jwks, token
from tests.fakes.clock import ManualClock
from tests.fakes.key_set_source import FakeKeySetSource

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
BY_JWT = Principal(Credential.JWT, CART)
HOSTILE = hostile(ManualClock().now())
AWAY = UnavailableError("the server is away")


@pytest.fixture
def source():
    return FakeKeySetSource()


@pytest.fixture
def bearer(source, clock, metrics):
    keys = IssuerKeys(ISSUER, source, clock, metrics, PACE)
    return JwtBearer(TrustDomain("example.org"), [JwtIssuer(ISSUER, (AUDIENCE,), keys)], clock)


@pytest.fixture
def good(clock):
    """A new token of each call."""
    return lambda **changed: Evidence(token(clock.now(), **changed))


async def reason_of(call):
    with pytest.raises(UnauthenticatedError) as refusal:
        await call
    return refusal.value.reason


async def test_a_service_account_is_its_spiffe_id(bearer, good):
    assert await bearer.attest(good()) == BY_JWT
    dotted = await bearer.attest(good(sub="system:serviceaccount:shop:cart.v1-2"))
    assert str(dotted.spiffe_id) == "spiffe://example.org/ns/shop/sa/cart.v1-2"


async def test_it_is_issued_certificates_again_and_again(ca, bearer, good):
    evidence = good()
    for _ in range(2):
        caller = await bearer.attest(evidence)
        issued = await ca.issuance.issue(caller, csr(), 600, Surface.ISTIO_CA)
        assert issued.spiffe_id == CART
    (second, first) = await ca.records.page(None, 10)
    assert (first.surface, first.token_id, second.token_id) == (Surface.ISTIO_CA, None, None)


@pytest.mark.parametrize("bearer_token", [None, "", "join-token", "eyJ"])
async def test_what_is_no_jwt_is_left_to_others(bearer, source, bearer_token):
    assert await bearer.attest(Evidence(bearer_token)) is None
    assert source.fetched == 0


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE)
async def test_a_token_that_proves_nothing_is_refused_for_its_reason(bearer, case):
    text, reason = case
    assert await reason_of(bearer.attest(Evidence(text))) == f"jwt_{reason}"


async def test_keys_are_fetched_once_for_all_who_come_at_once(bearer, source, good):
    source.let_go.clear()
    calls = [asyncio.create_task(bearer.attest(good())) for _ in range(50)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.sleep(0)
    source.let_go.set()
    assert await asyncio.gather(*calls[1:]) == [BY_JWT] * 49
    assert source.fetched == 1


async def test_a_new_key_is_found_at_its_first_token(bearer, source, good, clock):
    await bearer.attest(good())
    source.content = jwks({"new": RSA_KEY})
    clock.advance(PACE.retry)
    assert await bearer.attest(good(kid="new")) == BY_JWT
    assert await reason_of(bearer.attest(good())) == "jwt_unknown_key"


async def test_unknown_keys_cause_no_more_than_one_attempt_in_ten_seconds(bearer, source, good, clock):
    for number in range(100):
        assert await reason_of(bearer.attest(good(kid=f"guess-{number}"))) == "jwt_unknown_key"
    assert source.fetched == 1
    clock.advance(PACE.retry)
    for number in range(100):
        assert await reason_of(bearer.attest(good(kid=f"guess-{number}"))) == "jwt_unknown_key"
    assert source.fetched == 2


@pytest.mark.parametrize("content", [b"<html>", b"[" * 100_000, b'{"keys": [{"kty": "oct"}]}', None])
async def test_the_last_good_keys_are_kept_for_a_day(bearer, source, good, clock, content):
    await bearer.attest(good())
    source.content, source.failure = content or b"", None if content else AWAY
    clock.advance(PACE.refresh)
    with pytest.raises(UnavailableError, match=ISSUER):
        await bearer.maintain()
    assert await bearer.attest(good()) == BY_JWT
    clock.advance(PACE.max_stale - PACE.refresh - 1)
    assert await bearer.attest(good()) == BY_JWT
    clock.advance(1)
    assert await reason_of(bearer.attest(good())) == "jwt_keys_unavailable"
    source.content, source.failure = jwks(), None
    clock.advance(PACE.retry)
    assert await bearer.attest(good()) == BY_JWT


async def test_keys_that_were_never_fetched_refuse_every_token(bearer, source, good, clock):
    source.failure = AWAY
    for _ in range(3):
        assert await reason_of(bearer.attest(good())) == "jwt_keys_unavailable"
    assert source.fetched == 1
    source.failure = None
    clock.advance(PACE.retry)
    await bearer.maintain()
    assert await bearer.attest(good()) == BY_JWT


async def test_keys_are_refreshed_every_five_minutes_and_sooner_after_a_failure(bearer, source, clock):
    await bearer.maintain()
    clock.advance(PACE.refresh - 1)
    await bearer.maintain()
    assert source.fetched == 1
    source.failure = AWAY
    clock.advance(1)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="the server is away"):
            await bearer.maintain()
    assert source.fetched == 2
    source.failure = None
    clock.advance(PACE.retry)
    await bearer.maintain()
    assert source.fetched == 3


async def test_a_revoked_key_is_refused_after_the_next_refresh(bearer, source, good, clock):
    evidence = good(kid="ec", key=EC_KEY, algorithm="ES256")
    assert await bearer.attest(evidence) == BY_JWT
    source.content = jwks({"rsa": RSA_KEY})
    clock.advance(PACE.refresh)
    await bearer.maintain()
    assert await reason_of(bearer.attest(evidence)) == "jwt_unknown_key"


async def test_the_time_of_the_last_fetch_is_published(bearer, metrics, clock):
    await bearer.maintain()
    published = metrics.render().decode().partition(f'jwks_fetched_timestamp_seconds{{issuer="{ISSUER}"}} ')[2]
    assert float(published.split("\n")[0]) == clock.now().timestamp()


async def test_a_token_of_one_issuer_is_not_verified_with_the_keys_of_another(source, clock, metrics):
    mine, other = FakeKeySetSource(jwks({"rsa": EC_KEY})), source
    issuers = [
        JwtIssuer(name, audiences, IssuerKeys(name, keys, clock, metrics, PACE))
        for name, audiences, keys in ((ISSUER, (AUDIENCE,), mine), ("other", ("vault",), other))
    ]
    both = JwtBearer(TrustDomain("example.org"), issuers, clock)
    assert await reason_of(both.attest(Evidence(token(clock.now())))) == "jwt_key_mismatch"
    assert await reason_of(both.attest(Evidence(token(clock.now(), iss="other")))) == "jwt_audience"
    assert (await both.attest(Evidence(token(clock.now(), iss="other", aud="vault", sub=SUBJECT)))) == BY_JWT
