"""JWTs: what is read of one, and what has to hold before its claims are believed."""

import json
from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from app.core.errors import InvalidInputError, UnauthenticatedError
from app.spiffe.jwks import MAX_JWKS_BYTES, MAX_KEYS, parse_key_set
from app.spiffe.jwt import LEEWAY, is_jwt, parse, verify
from tests.assets.jwts import AUDIENCE, EC_KEY, RSA_KEY, SUBJECT, hostile, jwk, jwks, spelled, token
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
P384, P521 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
# Of these the subject and the issuer are for the caller of `verify` to judge.
HOSTILE = {name: case for name, case in hostile(NOW).items() if case[1] != "subject" and "not trusted" not in name}


def verified(text, keys=None, audiences=(AUDIENCE,), now=NOW):
    parsed = parse(text)
    return verify(parsed, parse_key_set(keys or jwks()).named(parsed.key_id), audiences, now)


def test_a_good_token_has_its_claims():
    assert verified(token(NOW))["sub"] == SUBJECT


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_an_rsa_key_verifies_each_of_its_algorithms(algorithm):
    assert verified(token(NOW, algorithm=algorithm))


@pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (P384, "ES384"), (P521, "ES512")])
def test_an_ec_key_verifies_the_algorithm_of_its_curve_and_no_other(key, algorithm):
    (published,) = parse_key_set(jwks({"k": key})).keys
    assert published.algorithms == {algorithm}
    assert verified(token(NOW, key=key, kid="k", algorithm=algorithm), jwks({"k": key}))


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE)
def test_a_token_that_proves_nothing_is_refused_for_its_reason(case):
    text, reason = case
    with pytest.raises(UnauthenticatedError) as refusal:
        verified(text)
    assert refusal.value.reason == f"jwt_{reason}"


def test_a_header_that_is_no_object_is_refused():
    with pytest.raises(UnauthenticatedError, match="not a JSON object"):
        parse(spelled(["RS256"], {}))


def test_a_token_without_kid_may_be_of_any_key_for_its_algorithm():
    keys = jwks({"a": rsa.generate_private_key(65537, 2048), "b": EC_KEY, "c": RSA_KEY})
    assert verified(token(NOW, kid=None), keys)


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["vault", AUDIENCE]])
def test_one_of_our_audiences_is_enough(audience):
    assert verified(token(NOW, aud=audience), audiences=("other", AUDIENCE))


@pytest.mark.parametrize(
    ("claim", "good", "bad", "reason"),
    [
        ("exp", -LEEWAY + timedelta(seconds=1), -LEEWAY, "jwt_expired"),
        ("nbf", LEEWAY, LEEWAY + timedelta(seconds=1), "jwt_not_yet"),
        ("iat", LEEWAY, LEEWAY + timedelta(seconds=1), "jwt_not_yet"),
    ],
)
def test_the_leeway_is_a_minute(claim, good, bad, reason):
    assert verified(token(NOW, **{claim: (NOW + good).timestamp()}))
    with pytest.raises(UnauthenticatedError) as refusal:
        verified(token(NOW, **{claim: (NOW + bad).timestamp()}))
    assert refusal.value.reason == reason


def test_a_time_beyond_any_float_is_compared():
    assert verified(token(NOW, exp=10**400))
    with pytest.raises(UnauthenticatedError, match="expired"):
        verified(token(NOW, exp=-(10**400)))


def test_a_refusal_does_not_repeat_the_token():
    text = token(NOW, key=P384, kid="rsa", algorithm="ES384")
    with pytest.raises(UnauthenticatedError) as refusal:
        verified(text)
    assert text.split(".")[2] not in refusal.value.message
    assert text not in repr(parse(text))


def test_a_key_that_is_for_one_algorithm_verifies_no_other():
    keys = json.dumps({"keys": [jwk(RSA_KEY, kid="rsa", alg="RS512")]}).encode()
    assert verified(token(NOW, algorithm="RS512"), keys)
    with pytest.raises(UnauthenticatedError, match="not for"):
        verified(token(NOW), keys)


def test_an_ed25519_key_verifies_eddsa_and_nothing_else():
    key = ed25519.Ed25519PrivateKey.generate()
    keys = json.dumps(
        {"keys": [json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())) | {"kid": "ed"}]}
    ).encode()
    assert verified(token(NOW, key=key, kid="ed", algorithm="EdDSA"), keys)
    with pytest.raises(UnauthenticatedError, match="not for"):
        verified(token(NOW, kid="ed"), keys)


SMALL = rsa.generate_private_key(65537, 1024)
ED448 = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key()))
PRIVATE_ED25519 = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate()))
IGNORED = {
    "for encryption": jwk(RSA_KEY, use="enc"),
    "a use that is no text": jwk(RSA_KEY, use=["sig"]),
    "for signing": jwk(RSA_KEY, key_ops=["sign"]),
    "operations that are no list": jwk(RSA_KEY, key_ops="verify"),
    "a private RSA key": jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"key_ops": ["verify"]},
    "a private EC key": jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY, as_dict=True),
    "symmetric": {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
    "Ed448": ED448,
    "a private Ed25519 key": PRIVATE_ED25519,
    "small": jwk(SMALL),
    "for HMAC": jwk(RSA_KEY, alg="HS256"),
    "for another curve": jwk(EC_KEY, alg="ES384"),
    "an algorithm that is a list": jwk(RSA_KEY, alg=["RS256"]),
    "secp256k1": jwk(ec.generate_private_key(ec.SECP256K1())),
    "a point that is not on the curve": jwk(EC_KEY) | {"y": jwk(EC_KEY)["x"]},
    "no modulus": {"kty": "RSA", "e": "AQAB"},
    "a modulus that is a number": {"kty": "RSA", "e": "AQAB", "n": 7},
    "an exponent of one": jwk(RSA_KEY) | {"e": "AQ"},
    "no base64": jwk(RSA_KEY) | {"n": "\u00fc"},
    "a name that is a number": jwk(RSA_KEY, kid=7),
    "no object": "key",
    "nothing": {},
}


@pytest.mark.parametrize("ignored", IGNORED.values(), ids=IGNORED)
def test_a_key_that_is_not_for_signatures_is_ignored_beside_one_that_is(ignored):
    found = parse_key_set(json.dumps({"keys": [ignored, jwk(RSA_KEY, kid="rsa")]}).encode())
    assert [key.key_id for key in found.keys] == ["rsa"]
    with pytest.raises(InvalidInputError, match="no RSA, EC or Ed25519 key"):
        parse_key_set(json.dumps({"keys": [ignored]}).encode())


def test_an_issuer_can_revoke_every_key():
    assert parse_key_set(b'{"keys": []}').keys == ()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[]", b"{}", b'{"keys": {}}', b"<html>", b"\xff", b"[" * 100_000),
        jwks({str(number): EC_KEY for number in range(MAX_KEYS + 1)}),
        jwks() + b" " * MAX_JWKS_BYTES,
    ],
    ids=range(10),
)
def test_what_is_no_key_set_is_refused(content):
    with pytest.raises(InvalidInputError):
        parse_key_set(content)


@pytest.mark.parametrize(("text", "whether"), [("eyJ.x.y", True), ("eyJ.x", False), ("abc.x.y", False), ("", False)])
def test_a_jwt_is_told_from_other_tokens(text, whether):
    assert is_jwt(text) is whether
