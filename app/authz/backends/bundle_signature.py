"""Signatures of OPA's bundles (OPA's documentation, "Bundles": signing, and `.signatures.json`).

A bundle is signed as a whole: one JWS has the digest of each file, and every file must be there, unchanged, and no
other. Structured files (`data.json`, `data.yaml`, `.manifest`) are hashed as JSON with its keys sorted.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt import PyJWTError
from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, RSAAlgorithm, RSAPSSAlgorithm
from jwt.utils import base64url_decode

from app.core.bounded_files import read_regular
from app.core.errors import InvalidInputError, UnavailableError
from app.core.json_text import parse_object
from app.documents.parser import parse_documents

SIGNATURES = ".signatures.json"
# A signature has some hundred bytes for each file.
MAX_SIGNATURES_BYTES = 1 << 20
MAX_KEY_BYTES = 64 * 1024
# HMAC by a secret, RSA and ECDSA by a public key: what `opa sign` signs with.
ALGORITHMS: Mapping[str, Algorithm] = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
    "ES384": ECAlgorithm(ECAlgorithm.SHA384),
    "ES512": ECAlgorithm(ECAlgorithm.SHA512),
}

_DIGESTS = {"SHA-256": hashlib.sha256, "SHA-384": hashlib.sha384, "SHA-512": hashlib.sha512}
_STRUCTURED = frozenset({"data.json", "data.yaml", ".manifest"})
_PLUGINS = frozenset({None, "", "_default"})
_SEPARATORS = {"\u2028": "\\u2028", "\u2029": "\\u2029"}
_MAX_DEPTH = 64
_PARTS = 3
# From here on Go writes a number with an exponent.
_GO_EXPONENT = 1e21


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key that bundles are signed with: its id, the only algorithm that it verifies, and the scope that it is for.

    `content` is the PEM of a public key or a certificate, or the secret of an HMAC.
    """

    key_id: str
    algorithm: str
    content: bytes
    scope: str = ""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Where the content of a key is: the PEM of a public key or a certificate, or the secret of an HMAC."""

    key_id: str
    algorithm: str
    path: Path
    scope: str = ""

    def read(self) -> VerificationKey:
        """Return the key. Raises UnavailableError if its file cannot be read."""
        try:
            content = read_regular(self.path, MAX_KEY_BYTES)
        except OSError as error:
            raise UnavailableError(f"cannot read the key {self.path}: {error.strerror or error}") from error
        # A secret is a line, as an editor ends it.
        return VerificationKey(self.key_id, self.algorithm, content.rstrip(b"\r\n"), self.scope)


class _Update(Protocol):
    def __call__(self, data: bytes, /) -> object: ...


class _Number(str):
    """A number as it is written, which is how it is hashed."""

    __slots__ = ()


def verify_files(files: Mapping[str, bytes], keys: Mapping[str, VerificationKey]) -> None:
    """Check the signature of a bundle's files, which are those in it by their names, all of them.

    1. There is one signature.
    2. Its key, by the `kid`, is one of `keys`, is for its algorithm, and has made it.
    3. The scope is the key's.
    4. Every file of the bundle is named in it, has the digest that it says, and none that it names is missing.

    Raises InvalidInputError that says what is wrong.
    """
    claims = _verified(_token(files), keys)
    named = _named(claims)
    for name, content in files.items():
        if name == SIGNATURES:
            continue
        if name not in named:
            raise InvalidInputError(f"{name} is not in the bundle's signature")
        algorithm, expected = named.pop(name)
        if _digest(name, content, algorithm) != expected:
            raise InvalidInputError(f"{name} has another digest than the bundle's signature says")
    if named:
        raise InvalidInputError(f"{min(named)} is in the bundle's signature, and not in the bundle")


def _token(files: Mapping[str, bytes]) -> str:
    content = files.get(SIGNATURES)
    if content is None:
        raise InvalidInputError(f"it is not signed: it has no {SIGNATURES}")
    if len(content) > MAX_SIGNATURES_BYTES:
        raise InvalidInputError(f"{SIGNATURES} is longer than {MAX_SIGNATURES_BYTES} bytes")
    document = parse_object(content, SIGNATURES)
    if document.get("plugin") not in _PLUGINS:
        raise InvalidInputError(f"{SIGNATURES} is for another verifier: {document['plugin']!r:.80}")
    found = document.get("signatures")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise InvalidInputError(f"{SIGNATURES} must have one signature")
    return str(found[0])


def _verified(token: str, keys: Mapping[str, VerificationKey]) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != _PARTS:
        raise InvalidInputError("the bundle's signature is no JWS")
    header, unverified = (parse_object(_decoded(part), "the bundle's signature") for part in parts[:2])
    # A single key needs no name. `keyid` in the claims is the older place of the id.
    key_id = next(iter(keys)) if len(keys) == 1 else header.get("kid") or unverified.get("keyid")
    key = keys.get(key_id) if isinstance(key_id, str) else None
    if key is None:
        raise InvalidInputError(f"the bundle is signed with a key that is not known: {key_id!r:.80}")
    if header.get("alg") != key.algorithm or "crit" in header:
        raise InvalidInputError(
            f"the bundle is signed with {header.get('alg')!r:.20}; the key {key_id} is for {key.algorithm}"
        )
    algorithm = ALGORITHMS[key.algorithm]
    signed = f"{parts[0]}.{parts[1]}".encode()
    try:
        valid = algorithm.verify(signed, algorithm.prepare_key(_public_key(key)), _decoded(parts[2]))
    except (PyJWTError, ValueError, TypeError) as error:
        raise InvalidInputError(f"the key {key_id} is no key for {key.algorithm}") from error
    if not valid:
        raise InvalidInputError(f"the bundle's signature is not by the key {key_id}")
    if unverified.get("scope", "") != key.scope:
        raise InvalidInputError(
            f"the bundle is signed for the scope {unverified.get('scope', '')!r:.80}, not {key.scope!r}"
        )
    return unverified


def _decoded(part: str) -> bytes:
    try:
        return base64url_decode(part.encode("ascii"))
    except ValueError as error:
        raise InvalidInputError("the bundle's signature is no JWS") from error


def _public_key(key: VerificationKey) -> Any:
    """Return the key as the library has it. Raises InvalidInputError if it is no key for its algorithm."""
    if key.algorithm.startswith("HS"):
        return key.content
    try:
        if b"-----BEGIN CERTIFICATE-----" in key.content:
            return load_pem_x509_certificate(key.content).public_key()
        return load_pem_public_key(key.content)
    except ValueError as error:
        raise InvalidInputError(f"the key {key.key_id} is neither a public key nor a certificate in PEM") from error


def _named(claims: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the algorithm and the digest of each file."""
    found: dict[str, tuple[str, str]] = {}
    files = claims.get("files")
    for each in files if isinstance(files, list) else [None]:
        match each:
            case {"name": str(name), "hash": str(digest), "algorithm": str(algorithm)} if name not in found:
                found[name] = algorithm, digest.lower()
            case _:
                raise InvalidInputError(
                    "the bundle's signature has no list of files with name, hash and algorithm, each once"
                )
    return found


def _digest(name: str, content: bytes, algorithm: str) -> str:
    make = _DIGESTS.get(algorithm)
    if make is None:
        raise InvalidInputError(f"{name} is hashed with {algorithm!r:.20}; what is taken is {', '.join(_DIGESTS)}")
    digest = make()
    if PurePosixPath(name).name in _STRUCTURED:
        _hash(_structured(name, content), digest.update, 0)
    else:
        digest.update(content)
    return digest.hexdigest()


def _structured(name: str, content: bytes) -> Any:
    if name.endswith(".yaml"):
        (found,) = parse_documents(content)
        return found
    try:
        return json.loads(content, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} is not JSON") from error


def _hash(value: Any, update: _Update, depth: int) -> None:
    """Hash a value as OPA does: objects with their keys in order, numbers as they are written."""
    if depth > _MAX_DEPTH:
        raise InvalidInputError(f"a file of the bundle is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, Mapping):
        for place, key in enumerate(sorted(value)):
            update(b"," if place else b"{")
            update(_primitive(key) + b":")
            _hash(value[key], update, depth + 1)
        update(b"}" if value else b"{}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            update(b"," if place else b"[")
            _hash(each, update, depth + 1)
        update(b"]" if value else b"[]")
    else:
        update(_primitive(value))


def _primitive(value: Any) -> bytes:
    if isinstance(value, _Number):
        return value.encode()
    if isinstance(value, float):
        return _go_float(value).encode()
    text = json.dumps(value, ensure_ascii=False)
    for character, escape in _SEPARATORS.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", "replace")


def _go_float(number: float) -> str:
    """Return a number of YAML as Go writes it in JSON, which is what OPA makes of YAML."""
    if number.is_integer() and abs(number) < _GO_EXPONENT:
        return str(int(number))
    return re.sub(r"e-0(\d)$", r"e-\1", repr(number))
