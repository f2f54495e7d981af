"""Fuzzes what reads the proofs of an identity: `python -m bench.fuzz_parsers [INPUTS [SEED]]`.

Certificate requests, SPIFFE IDs, JWK Sets, JWTs, tokens of requests, documents that name issuers,
`x-forwarded-client-cert` and TokenReviews: valid ones with bytes changed, and made-up ones. Prints how many were
accepted and refused, and fails if one raises anything but a refusal, or is accepted and breaks what holds for those
that are.
"""

import json
import re
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from textwrap import wrap
from urllib.parse import quote

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app.authz.model import NO_CLAIMS, CheckInput, Connection
from app.authz.rules.authentication import Accepted, TokenRules
from app.authz.rules.credential_rules import CREDENTIAL_AUTHENTICATION_KIND, TokenReviewSource
from app.authz.rules.credentials import Proven
from app.authz.rules.introspection import read_answer
from app.authz.rules.jwt_rules import ACCESS_TOKEN, REQUEST_AUTHENTICATION_KIND, JwtRule, KeysFrom
from app.ca.rules.csr import parse_csr
from app.core.errors import MeshwardError, UnauthenticatedError
from app.documents.parser import parse_documents
from app.kube.token_review import read_review
from app.spiffe.forwarded import peer_uri
from app.spiffe.id import MAX_ID_BYTES, SpiffeId
from app.spiffe.jwks import ALGORITHMS, MAX_KEYS, parse_key_set
from app.spiffe.jwt import parse
from app.spiffe.service_account import ServiceAccount
from bench.mutations import json_body, mutated

MAX_INPUTS = 10_000_000
DEFAULT_INPUTS = 200_000
MAX_SHOWN = 200
# A CSR is checked with its own key, which takes longer than all else; it gets fewer.
CSR_SHARE = 10

# As the standard has it (SPIFFE-ID, section 2), written apart from the parser.
ID = re.compile(rb"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|\Z))[a-zA-Z0-9._-]+)*")
_LABEL, _REQUEST = "CERTIFICATE REQUEST", x509.CertificateSigningRequestBuilder
_KEYS = (
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP521R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed: makes an input, and reads it; `read` returns whether it was accepted, and asserts what holds."""

    make: Callable[[Random], bytes]
    read: Callable[[bytes], bool]
    share: int = 1


def _requests() -> tuple[bytes, ...]:
    found = []
    for key in _KEYS:
        builder = _REQUEST().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")]))
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://other.org/admin")])
        hashed = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        signed = builder.add_extension(names, critical=False).sign(key, hashed)
        found.append(signed.public_bytes(Encoding.DER))
    return tuple(found)


_REQUESTS = _requests()
_JWKS = {
    "keys": [
        ECAlgorithm.to_jwk(_KEYS[0].public_key(), as_dict=True) | {"kid": "ec", "use": "sig"},
        RSAAlgorithm.to_jwk(_KEYS[2].public_key(), as_dict=True) | {"kid": "rsa", "alg": "RS256"},
    ]
}
_IDS = (b"spiffe://cluster.local/ns/shop/sa/cart", b"spiffe://a", b"spiffe://example.org/a/b/c.d_e-f")
_HEADER, _CLAIMS = {"alg": "RS256", "kid": "rsa", "typ": "JWT"}, {"iss": "https://a", "sub": "x", "aud": ["istio-ca"]}
_SIGNED = jwt.encode({"iss": "https://a", "sub": "x", "aud": ["a"]}, _KEYS[0], "ES256", {"kid": "ec"}).encode()
# What stands between the prefix and a token in a header is passed over, as by Envoy.
_NO_TOKEN = "".join(chr(code) for code in range(256) if not re.fullmatch(r"[A-Za-z0-9_.-]", chr(code)))
_RULES = TokenRules([JwtRule("https://a", KeysFrom(inline=json.dumps(_JWKS)), params=(ACCESS_TOKEN,))])
_DOCUMENT = {
    "apiVersion": "security.istio.io/v1",
    "kind": "RequestAuthentication",
    "metadata": {"name": "a", "namespace": "b"},
    "spec": {
        "jwtRules": [
            {
                "issuer": "https://a",
                "jwksUri": "https://a/keys",
                "audiences": ["a"],
                "fromHeaders": [{"name": "x", "prefix": "y "}],
                "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
                "timeout": "5s",
            }
        ]
    },
}
_CREDENTIALS = {
    "apiVersion": "meshward.io/v1",
    "kind": "CredentialAuthentication",
    "metadata": {"name": "a", "namespace": "b"},
    "spec": {
        "rules": [
            {
                "apiKey": {"selector": {"matchLabels": {"a": "b"}}},
                "fromParams": ["k"],
                "forwardOriginalCredential": True,
            },
            {"oauth2Introspection": {"authorizationServer": "a", "audiences": ["b"]}, "fromCookies": ["c"]},
            {
                "kubernetesTokenReview": {"audiences": ["b"], "cluster": "c"},
                "fromHeaders": [{"name": "x", "prefix": "y "}],
            },
        ]
    },
}
_INTROSPECTION = {"active": True, "iss": "https://a", "sub": "x", "aud": ["a"], "exp": 4e9, "scope": "a b"}
_XFCC = b'By=spiffe://a/b;Hash=0f;Subject="CN=x,O=\\"y\\";OU=z";URI=spiffe://cluster.local/ns/shop/sa/cart;DNS=a'
_REVIEW = {
    "status": {
        "authenticated": True,
        "audiences": ["istio-ca"],
        "user": {"username": "system:serviceaccount:shop:cart", "groups": ["system:serviceaccounts"], "extra": {}},
    }
}


def _pem(content: bytes) -> bytes:
    lines = wrap(b64encode(content).decode(), 64)
    return "\n".join([f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", ""]).encode()


def _make_csr(random: Random) -> bytes:
    valid = random.choice(_REQUESTS)
    return mutated(random, _pem(valid)) if random.random() < 0.3 else _pem(mutated(random, valid))


def _read_csr(content: bytes) -> bool:
    text = content.decode("utf-8", "surrogateescape")
    accepted = parse_csr(text)
    body = b64decode("".join(line for line in text.splitlines() if line and "-" not in line))
    again = x509.load_der_x509_csr(body)
    assert again.is_signature_valid, "the signature of an accepted request is not valid"
    assert again.public_key() == accepted.public_key, "the key is another one than the request's"
    return True


def _read_id(content: bytes) -> bool:
    text = content.decode("utf-8", "surrogateescape")
    well_formed = ID.fullmatch(content) is not None and len(content) <= MAX_ID_BYTES
    try:
        accepted = SpiffeId.parse(text)
    except MeshwardError:
        assert not well_formed, "an id that the standard allows is refused"
        raise
    assert well_formed, "an id that the standard does not allow is accepted"
    assert str(accepted) == text, "an accepted id is spelled differently"
    return True


def _read_jwks(content: bytes) -> bool:
    keys = parse_key_set(content).keys
    assert len(keys) <= MAX_KEYS
    assert all(key.algorithms and key.algorithms <= ALGORITHMS for key in keys), "a key is for another algorithm"
    return True


def _make_jwt(random: Random) -> bytes:
    parts = [json_body(random, part) if random.random() < 0.3 else _json(part) for part in (_HEADER, _CLAIMS)]
    encoded = [b64encode(part, b"-_").rstrip(b"=") for part in (*parts, b"signature")]
    return mutated(random, b".".join(encoded)) if random.random() < 0.3 else b".".join(encoded)


def _make_jwks(random: Random) -> bytes:
    return json_body(random, _JWKS) if random.random() < 0.7 else mutated(random, _json(_JWKS))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _read_jwt(content: bytes) -> bool:
    token = parse(content.decode("latin-1"))
    assert token.algorithm in ALGORITHMS
    assert token.issuer
    return True


def _make_token(random: Random) -> bytes:
    return (
        mutated(random, _SIGNED) if random.random() < 0.7 else _SIGNED if random.random() < 0.5 else _make_jwt(random)
    )


def _read_token(content: bytes) -> bool:
    text = content.decode("latin-1")
    target = f"/?access_token={quote(text)}" if len(text) % 2 else "/"
    headers = {"authorization": (f"Bearer {text}",), ":path": (target,)}
    sent = CheckInput(Connection(None, None), "GET", "/", None, headers, NO_CLAIMS, NO_CLAIMS)
    result = _RULES.judge(_RULES.tokens_of(sent), _RULES.inline.get, time.time())
    if not isinstance(result, Accepted):
        raise UnauthenticatedError(str(result))
    assert text.lstrip(_NO_TOKEN) == _SIGNED.decode(), "a token that was not signed so is accepted"
    return True


def _read_document(content: bytes) -> bool:
    (found,) = REQUEST_AUTHENTICATION_KIND.parse(parse_documents(content))
    assert all(rule.issuer or rule.keys.url for rule in found.rules), "nobody's tokens are accepted"
    assert TokenRules(found.rules).output_headers.isdisjoint({"host", ":path"})
    return True


def _read_credentials(content: bytes) -> bool:
    (found,) = CREDENTIAL_AUTHENTICATION_KIND.parse(parse_documents(content))
    assert found.rules, "a document asks for nothing"
    for rule in found.rules:
        assert rule.headers or rule.params or rule.cookies, "a rule looks nowhere"
        assert not isinstance(rule.source, TokenReviewSource) or rule.source.audiences, "any token is taken"
    return True


def _read_introspection(content: bytes) -> bool:
    outcome, _ = read_answer(content, "https://a", 1e9)
    if not isinstance(outcome, Proven):
        raise UnauthenticatedError(outcome.reason)
    assert outcome.claims["iss"] == "https://a", "a token of another issuer is accepted"
    return True


def _read_xfcc(content: bytes) -> bool:
    uri = peer_uri(content.decode("latin-1"), alone=True)
    assert uri.encode("latin-1") in content, "what is read is not in the header"
    return True


def _read_review(content: bytes) -> bool:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):  # never gets here: see app/kube/api.py
        return False
    outcome = read_review(answer, "main", ("istio-ca",))
    if not isinstance(outcome, ServiceAccount):
        raise outcome
    assert SpiffeId.parse(f"spiffe://cluster.local{outcome.path}")
    return True


TARGETS: Mapping[str, Target] = {
    "certificate request": Target(_make_csr, _read_csr, CSR_SHARE),
    "SPIFFE ID": Target(lambda random: mutated(random, random.choice(_IDS)), _read_id),
    "JWK Set": Target(_make_jwks, _read_jwks),
    "JWT": Target(_make_jwt, _read_jwt),
    "token of a request": Target(_make_token, _read_token),
    "RequestAuthentication": Target(lambda random: json_body(random, _DOCUMENT), _read_document),
    "CredentialAuthentication": Target(lambda random: json_body(random, _CREDENTIALS), _read_credentials),
    "introspection": Target(lambda random: json_body(random, _INTROSPECTION), _read_introspection),
    "x-forwarded-client-cert": Target(lambda random: mutated(random, _XFCC), _read_xfcc),
    "TokenReview": Target(lambda random: json_body(random, _REVIEW), _read_review),
}


def fuzz(inputs: int, seed: int = 1) -> tuple[dict[str, Counter[str]], list[str]]:
    """Have each target read `inputs`, fewer if its `share` says so. Returns the outcomes, and the faults."""
    random, outcomes, faults = Random(seed), dict[str, Counter[str]](), list[str]()
    for name, target in TARGETS.items():
        counted = outcomes[name] = Counter()
        for _ in range(inputs // target.share):
            content = target.make(random)
            try:
                counted["accepted" if target.read(content) else "left out"] += 1
            except MeshwardError:
                counted["refused"] += 1
            except Exception as error:  # noqa: BLE001 - which is what is looked for
                counted["fault"] += 1
                faults.append(f"{name}: {type(error).__name__} {error}: {content[:MAX_SHOWN]!r}")
    return outcomes, faults


def main(arguments: list[str]) -> int:
    """Print the outcomes and the faults; return 1 if there is one."""
    inputs, seed = int(arguments[0]) if arguments else DEFAULT_INPUTS, int(arguments[1]) if arguments[1:] else 1
    if not 0 < inputs <= MAX_INPUTS:
        raise SystemExit(f"the number of inputs must be from 1 to {MAX_INPUTS}")
    started = time.perf_counter()
    outcomes, faults = fuzz(inputs, seed)
    for name, counted in outcomes.items():
        print(f"{name:<26}", ", ".join(f"{outcome} {number:,}" for outcome, number in counted.most_common()))
    for fault in faults[:20]:
        print("FAULT", fault)
    print(f"seed {seed}: {len(faults)} faults, {time.perf_counter() - started:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
