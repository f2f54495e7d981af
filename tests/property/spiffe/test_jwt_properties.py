"""Laws: a token is believed if its issuer signed it, and any other text is refused for a reason."""

import json
from contextlib import suppress

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError, UnauthenticatedError
from app.spiffe.jwks import parse_key_set
from app.spiffe.jwt import parse, verify
from tests.assets.jwts import AUDIENCE, EC_KEY, RSA_KEY, claims, jwk, jwks, part, token
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
KEYS = parse_key_set(jwks())
GOOD = token(NOW)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["none", "HS256", "RS256", "PS512", "ES256", "EdDSA"]) | json_values,
        "kid": st.sampled_from(["rsa", "ec"]) | json_values,
        "typ": st.just("JWT") | json_values,
        "crit": json_values,
        "jwk": st.just(jwk(EC_KEY)),
        "jku": st.just("https://attacker.example"),
    },
)
payloads = st.fixed_dictionaries(
    {}, optional={name: st.just(value) | json_values for name, value in claims(NOW, nbf=0).items()}
)
texts = (
    st.text(max_size=200)
    | st.tuples(headers.map(part), payloads.map(part), st.binary(max_size=80).map(part)).map(".".join)
    | st.tuples(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80)).map(
        lambda parts: ".".join(map(part, parts))
    )
)


def verified(text):
    parsed = parse(text)
    # An issuer's tokens are verified by its own keys.
    keys = KEYS.named(parsed.key_id) if parsed.issuer == claims(NOW)["iss"] else ()
    return verify(parsed, keys, (AUDIENCE,), NOW)


@given(texts)
def test_what_nobody_signed_is_refused_for_a_reason(text):
    with pytest.raises(UnauthenticatedError) as refusal:
        verified(text)
    assert refusal.value.reason.startswith("jwt_")


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABab01-_.="))
def test_a_changed_token_is_refused_or_says_the_same(at, character):
    """The last character of a part has bits that stand for nothing."""
    with suppress(UnauthenticatedError):
        assert verified(GOOD[:at] + character + GOOD[at + 1 :]) == verified(GOOD)


@given(payloads)
def test_signed_claims_are_believed_only_with_issuer_audience_and_time(payload):
    text = jwt.PyJWS().encode(json.dumps(payload).encode(), RSA_KEY, algorithm="RS256", headers={"kid": "rsa"})
    try:
        found = verified(text)
    except UnauthenticatedError:
        return
    assert AUDIENCE in found["aud"]
    assert found["iss"] == claims(NOW)["iss"]
    assert found["exp"] > NOW.timestamp() - 61
    assert found.get("nbf", 0) < NOW.timestamp() + 61


@given(
    st.dictionaries(
        st.sampled_from(["keys", "x"]),
        st.lists(
            json_values
            | st.dictionaries(
                st.sampled_from(["kty", "n", "e", "x", "y", "crv", "alg", "use", "kid", "key_ops", "d"]),
                st.sampled_from(["RSA", "EC", "P-256", "AQAB", "sig", *jwk(RSA_KEY).values(), *jwk(EC_KEY).values()])
                | json_values,
            ),
            max_size=3,
        ),
    )
    | json_values
)
def test_a_key_set_is_read_or_refused(document):
    try:
        found = parse_key_set(json.dumps(document).encode())
    except InvalidInputError:
        return
    assert all(key.algorithms for key in found.keys)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_set_or_refused(content):
    with suppress(InvalidInputError):
        parse_key_set(content)
