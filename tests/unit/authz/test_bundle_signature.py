"""Signatures of bundles that OPA 1.22.4 has signed (`opa sign`), and what others might make of them."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import pytest

from app.authz.backends.bundle_archive import unpack
from app.authz.backends.bundle_signature import KeyFile, VerificationKey, verify_files
from app.core.errors import InvalidInputError, UnavailableError

BUNDLES = Path(__file__).parents[2] / "assets" / "opa_bundles"
ALGORITHMS = ["RS256", "ES256", "HS256"]
SCOPE = "meshward"


def files_of(algorithm):
    path = BUNDLES / f"{algorithm}.tar.gz"
    return unpack(path.read_bytes(), str(path))


def key_of(algorithm, **given):
    return KeyFile(
        **({"key_id": "k", "algorithm": algorithm, "path": BUNDLES / f"{algorithm}.pem", "scope": SCOPE} | given)
    )


def verify(files, *keys):
    verify_files(files, {key.key_id: key.read() if isinstance(key, KeyFile) else key for key in keys})


def signed_with(files, header=None, claims=None, signature=None):
    """The files, with a signature that is changed and not signed again."""
    parts = json.loads(files[".signatures.json"])["signatures"][0].split(".")
    for place, changes in enumerate((header, claims)):
        if changes is not None:
            content = json.loads(urlsafe_b64decode(parts[place] + "==")) | changes
            parts[place] = urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
    if signature is not None:
        parts[2] = signature
    return files | {".signatures.json": json.dumps({"signatures": [".".join(parts)]}).encode()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_opa_has_signed_is_verified(algorithm):
    verify(files_of(algorithm), key_of(algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"policy.rego": b"package envoy.authz\nallow := true\n"}, "policy.rego has another digest"),
        ({"policy.rego": None}, "policy.rego is in the bundle's signature, and not in the bundle"),
        ({"more.rego": b"package envoy.authz\nallow := true\n"}, "more.rego is not in the bundle's signature"),
        ({"readme.txt": b""}, "readme.txt is not in the bundle's signature"),
        ({"roles/data.json": b'{"paths": ["b"], "number": 1.50}'}, "roles/data.json has another digest"),
        ({"roles/data.json": b'{"number": 1.5, "paths": ["a", "\xc3\xa9\\u2028<&>"]}'}, "has another digest"),
        ({"extra/data.yaml": b"list: [1.5, 1000, other, null]\n"}, "extra/data.yaml has another digest"),
        ({".manifest": b'{"revision": "r2", "roots": ["envoy", "roles", "extra"]}'}, ".manifest has another digest"),
        ({".signatures.json": None}, "it is not signed"),
        ({".signatures.json": b"{"}, "is not JSON"),
        ({".signatures.json": b"[]"}, "is not a JSON object"),
        ({".signatures.json": b'{"signatures": []}'}, "must have one signature"),
        ({".signatures.json": b'{"signatures": ["a.b.c", "a.b.c"]}'}, "must have one signature"),
        ({".signatures.json": b'{"signatures": ["a"]}'}, "is no JWS"),
        ({".signatures.json": b'{"signatures": ["\xc3\xa9.e30.e30"]}'}, "is no JWS"),
        ({".signatures.json": b'{"signatures": ["e30.e30.e30"], "plugin": "other"}'}, "for another verifier"),
        ({".signatures.json": b'{"signatures": ["' + b"a" * (1 << 20) + b'"]}'}, "is longer than"),
        ({"roles/data.json": b"[" * 100_000}, "is not JSON"),
    ],
)
def test_a_bundle_that_is_not_what_was_signed_is_refused(algorithm, change, problem):
    files = {name: content for name, content in (files_of(algorithm) | change).items() if content is not None}
    with pytest.raises(InvalidInputError, match=problem):
        verify(files, key_of(algorithm))


def test_white_space_and_the_order_of_keys_in_data_are_not_signed():
    files = files_of("HS256") | {"roles/data.json": '{"number":1.50,\n "paths":["a","é\u2028<&>"]}'.encode()}
    verify(files, key_of("HS256"))


@pytest.mark.parametrize(
    ("header", "claims", "signature", "problem"),
    [
        ({"alg": "none"}, None, "", "is signed with 'none'"),
        ({"alg": "HS256"}, None, None, "is signed with 'HS256'; the key k is for RS256"),
        ({"alg": "RS512"}, None, None, "is signed with 'RS512'"),
        ({"crit": ["exp"]}, None, None, "is signed with 'RS256'"),
        ({"typ": "other"}, None, None, "is not by the key"),
        (None, {"scope": ""}, None, "is not by the key"),
        (None, {"files": []}, None, "is not by the key"),
        (None, None, "", "is not by the key"),
        (None, None, "AAAA", "is not by the key"),
    ],
)
def test_a_signature_that_was_changed_is_refused(header, claims, signature, problem):
    with pytest.raises(InvalidInputError, match=problem):
        verify(signed_with(files_of("RS256"), header, claims, signature), key_of("RS256"))


def test_a_public_key_is_no_secret():
    """A signature made with HMAC, by the public key as the secret."""
    key = VerificationKey("k", "HS256", (BUNDLES / "RS256.pem").read_bytes(), SCOPE)
    with pytest.raises(InvalidInputError, match="no key for HS256"):
        verify(signed_with(files_of("RS256"), {"alg": "HS256"}), key)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([key_of("RS256", path=BUNDLES / "ES256.pem")], "is no key for RS256"),
        ([key_of("RS256", path=BUNDLES / "HS256.pem")], "neither a public key nor a certificate"),
        ([key_of("RS256", scope="other")], "signed for the scope 'meshward', not 'other'"),
        ([key_of("RS256", scope="")], "signed for the scope 'meshward', not ''"),
        ([key_of("RS256", key_id="a"), key_of("RS256", key_id="b")], "with a key that is not known: None"),
    ],
)
def test_another_key_or_scope_does_not_verify(keys, problem):
    with pytest.raises(InvalidInputError, match=problem):
        verify(files_of("RS256"), *keys)


def test_of_several_keys_the_one_that_is_named_verifies():
    files = signed_with(files_of("RS256"), {"kid": "new"})
    with pytest.raises(InvalidInputError, match="is not by the key new"):
        verify(files, key_of("RS256", key_id="new"), key_of("ES256", key_id="old"))
    with pytest.raises(InvalidInputError, match="the key new is for ES256"):
        verify(files, key_of("RS256", key_id="old"), key_of("ES256", key_id="new"))


def test_a_key_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(UnavailableError, match="cannot read the key"):
        key_of("RS256", path=tmp_path / "none").read()
