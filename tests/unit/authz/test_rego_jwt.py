"""OPA's functions on JSON Web Tokens in embedded Rego, and functions that are not there."""

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.authz.backends.rego_engine import Loaded, rewritten
from app.authz.backends.rego_jwt import MAX_TOKEN
from app.authz.backends.rego_wire import DECISION
from app.core.errors import InvalidInputError

SECRET = "a secret that is long enough for every algorithm, which takes sixty-four bytes"
RSA, EC, ED = (
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
)
NOW = 1_700_000_000


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwks(*named):
    keys = [
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "alg": alg}
        for kid, alg, key in named
    ]
    return json.dumps({"keys": keys})


def token(key=SECRET, algorithm="HS256", headers=None, **claims):
    return jwt.encode({"iss": "i", "sub": "ann"} | claims, key, algorithm, headers)


def evaluated(expression, **given):
    """The value of an expression, or the error of its evaluation."""
    text = f'package a\nx := {{"value": {expression}}}\n'
    loaded = Loaded(rewritten([("a.rego", text)], v0=False), "{}", "data.a.x", v0=False)
    reply = loaded.reply(json.dumps(given).encode())
    loaded.close()
    return json.loads(reply[1:])["value"] if reply.startswith(DECISION) else reply[1:].decode()


def verified(text, **constraints):
    return evaluated("io.jwt.decode_verify(input.t, input.c)", t=text, c={"secret": SECRET} | constraints)


@pytest.mark.parametrize(
    ("algorithm", "key", "public"),
    [
        *((f"{family}{bits}", RSA, pem(RSA)) for family in ("RS", "PS") for bits in (256, 384, 512)),
        *((f"HS{bits}", SECRET, SECRET) for bits in (256, 384, 512)),
        ("ES256", EC, pem(EC)),
        ("EdDSA", ED, pem(ED)),
    ],
)
def test_each_algorithm_verifies_its_own_signatures_alone(algorithm, key, public):
    signed = token(key, algorithm)
    call = f"io.jwt.verify_{algorithm.lower()}(input.t, input.k)"
    assert evaluated(call, t=signed, k=public) is True
    head, payload, signature = signed.split(".")
    other = token(key, algorithm, sub="eve").split(".")[1]
    assert evaluated(call, t=f"{head}.{other}.{signature}", k=public) is False
    assert evaluated(call, t=f"{head}.{payload}.", k=public) is False
    wrong = SECRET + "x" if algorithm.startswith("HS") else pem(rsa.generate_private_key(65537, 2048))
    assert evaluated(call, t=signed, k=wrong) is False


def test_a_token_is_decoded_without_being_believed():
    header, payload, signature = evaluated("io.jwt.decode(input.t)", t=token(n=[1, 2.5, None, {"é": True}]))
    assert header["alg"] == "HS256"
    assert payload == {"iss": "i", "sub": "ann", "n": [1, 2.5, None, {"é": True}]}
    assert len(signature) == 64


@pytest.mark.parametrize(
    ("claims", "constraints", "valid"),
    [
        ({}, {}, True),
        ({}, {"iss": "i"}, True),
        ({}, {"iss": "j"}, False),
        ({"aud": "a"}, {"aud": "a"}, True),
        ({"aud": ["b", "a"]}, {"aud": "a"}, True),
        ({"aud": ["b"]}, {"aud": "a"}, False),
        ({"aud": "a"}, {}, False),
        ({}, {"aud": "a"}, False),
        ({"exp": NOW}, {"time": (NOW - 1) * 10**9}, True),
        ({"exp": NOW}, {"time": NOW * 10**9}, False),
        ({"nbf": NOW}, {"time": NOW * 10**9}, True),
        ({"nbf": NOW}, {"time": (NOW - 1) * 10**9}, False),
        ({"exp": NOW}, {}, False),
        ({"exp": NOW + 10**10}, {}, True),
        ({}, {"alg": "HS256"}, True),
        ({}, {"alg": "RS256"}, False),
        ({}, {"secret": "x" * 64}, False),
    ],
)
def test_constraints_and_times_are_checked(claims, constraints, valid):
    found = verified(token(**claims), **constraints)
    assert found[0] is valid
    assert found[1:] == ([{"alg": "HS256", "typ": "JWT"}, {"iss": "i", "sub": "ann"} | claims] if valid else [{}, {}])


def test_of_a_key_set_the_named_key_verifies_by_its_own_algorithm():
    other = rsa.generate_private_key(65537, 2048)
    keys = jwks(("a", "RS256", RSA), ("b", "RS256", other), ("c", "RS512", RSA))
    call = 'io.jwt.decode_verify(input.t, {"cert": input.k})[0]'
    for kid, key, algorithm, valid in (
        ("a", RSA, "RS256", True),
        ("b", RSA, "RS256", False),
        ("b", other, "RS256", True),
        ("c", RSA, "RS256", False),
        ("none", other, "RS256", True),
    ):
        assert evaluated(call, t=token(key, algorithm, {"kid": kid}), k=keys) is valid, kid


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"alg": "none"}])
def test_a_token_that_must_not_be_accepted_is_not(header):
    import base64

    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256"} | header).encode()).rstrip(b"=").decode()
    found = verified(f"{head}.{token().split('.')[1]}.")
    assert found[0] is False or "the algorithm is not known" in found


def test_a_public_key_is_no_secret():
    forged = jwt.api_jws.PyJWS().encode(b'{"iss": "i"}', "x" * 64, "HS256")
    assert evaluated('io.jwt.decode_verify(input.t, {"cert": input.k})[0]', t=forged, k=pem(RSA)) is False


@pytest.mark.parametrize(
    ("text", "constraints", "problem"),
    [
        ("a.b", {}, "has not three parts"),
        ("a.b.c", {}, "cannot be decoded"),
        (7, {}, "is not a string"),
        ("e30.W10.", {}, "is not an object"),
        ("e30.eyJhIjoiXHVkODAwIn0.", {}, "cannot be decoded"),
        ("x" * (MAX_TOKEN + 1), {}, "at most"),
        (token(headers={"cty": "JWT"}), {}, "has another one inside"),
        (token(), {"other": 1}, "a constraint is not known: other"),
        (token(), {"cert": pem(RSA)}, "either cert or secret"),
        (token(), {"secret": 1}, "secret is not a string"),
        (token(exp="tomorrow"), {}, "exp is not a number"),
    ],
)
def test_what_is_no_token_or_constraint_fails_the_evaluation(text, constraints, problem):
    assert problem in verified(text, **constraints)


@pytest.mark.parametrize(
    "key", ["", "{}", "[]", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----", '{"keys": [{"kty": "RSA"}]}']
)
def test_what_is_no_key_fails_the_evaluation(key):
    assert "neither PEM nor a JWK Set" in evaluated(
        "io.jwt.verify_rs256(input.t, input.k)", t=token(RSA, "RS256"), k=key
    )


@pytest.mark.parametrize(
    "body",
    [
        "x if { input.never; io.jwt.encode_sign({}, {}, {}) }",
        "x if { input.never; y := [1 | no.such.function(1)]; y }",
        "x if {\n input.never\n not crypto.sha256(input.a)\n}",
        "f(a) if io.jwt.encode_sign(a, {}, {})\nx if { input.never; f(1) }",
        "x if { input.never; nothing(1) }",
        "x if lib.sum(1)\nsum(a) := a",
        "x if lib.f(1)\nf(a) := a",
    ],
)
def test_a_function_that_is_not_there_is_refused_though_no_request_reaches_it(body):
    with pytest.raises(InvalidInputError, match=r"a\.rego: line [0-9]: the function .* is not available"):
        rewritten([("a.rego", f"package a\n{body}\n")], v0=False)


def test_functions_of_the_policies_are_there():
    modules = [
        (
            "a.rego",
            "package a\nimport data.lib\nx if { f(1); lib.g(1); data.lib.g(2); h(1) }\nf(a) if a\ndefault h(_) := 1\n",
        ),
        ("b.rego", "package lib\ng(x) := lower(x)\n"),
    ]
    assert rewritten(modules, v0=False) == modules
