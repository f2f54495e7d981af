"""OPA's functions on JSON Web Tokens, for the engine that has none (OPA's documentation, "Tokens").

`io.jwt.decode`, `io.jwt.decode_verify` and `io.jwt.verify_…`. Where OPA's function has no value (a token that is none),
these raise, and the evaluation fails, which denies: the engine cannot say that an expression is undefined.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificates
from jwt import PyJWK, PyJWTError
from jwt.algorithms import Algorithm, OKPAlgorithm
from jwt.utils import base64url_decode

from app.authz.backends.bundle_signature import ALGORITHMS

MAX_TOKEN = 64 * 1024
MAX_KEYS = 64

_VERIFIED_BY: Mapping[str, Algorithm] = {**ALGORITHMS, "EdDSA": OKPAlgorithm()}
_CONSTRAINTS = frozenset({"cert", "secret", "alg", "iss", "aud", "time"})
_NANOSECONDS = 1_000_000_000
_PARTS = 3


class TokenError(Exception):
    """A token, a key or a constraint is none."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Key:
    content: Any
    key_id: str | None = None
    algorithm: str | None = None


def functions() -> Iterator[tuple[str, int, Callable[..., Any]]]:
    """Yield the name of each function, how many arguments it has, and what it does."""
    yield "io.jwt.decode", 1, _decode
    yield "io.jwt.decode_verify", 2, _decode_verify
    for name in _VERIFIED_BY:
        yield f"io.jwt.verify_{name.lower()}", 2, _verifier(name)


def _decode(text: object) -> list[Any]:
    token = _token(text)
    return [token.header, token.payload, token.signature.hex()]


def _verifier(algorithm: str) -> Callable[[object, object], bool]:
    def verify(text: object, key: object) -> bool:
        if not isinstance(key, str):
            raise TokenError("the key is not a string")
        token = _token(text)
        keys = [_Key(key.encode())] if algorithm.startswith("HS") else _keys(key)
        return _is_signed(token, algorithm, keys)

    return verify


def _decode_verify(text: object, constraints: object) -> list[Any]:
    if not isinstance(constraints, dict):
        raise TokenError("the constraints are not an object")
    keys = _trusted(constraints)
    token = _token(text)
    algorithm = token.header.get("alg")
    # RFC 7515, section 4.1.11: what is critical, and is not known, is not to be accepted.
    if not isinstance(algorithm, str) or "crit" in token.header:
        return [False, {}, {}]
    if constraints.get("alg", algorithm) != algorithm:
        return [False, {}, {}]
    if not _is_signed(token, algorithm, keys) or not _holds(token.payload, constraints):
        return [False, {}, {}]
    return [True, token.header, token.payload]


def _trusted(constraints: Mapping[str, Any]) -> list[_Key]:
    unknown = constraints.keys() - _CONSTRAINTS
    if unknown:
        raise TokenError(f"a constraint is not known: {min(unknown)}")
    for name in ("cert", "secret", "alg", "iss", "aud"):
        if not isinstance(constraints.get(name, ""), str):
            raise TokenError(f"the constraint {name} is not a string")
    cert, secret = constraints.get("cert"), constraints.get("secret")
    if (cert is None) is (secret is None):
        raise TokenError("the constraints need either cert or secret")
    return [_Key(str(secret).encode())] if cert is None else _keys(str(cert))


def _holds(payload: Mapping[str, Any], constraints: Mapping[str, Any]) -> bool:
    """Return whether the claims are as the constraints and the time ask (RFC 7519, section 4.1)."""
    if "iss" in constraints and payload.get("iss") != constraints["iss"]:
        return False
    audience, wanted = payload.get("aud"), constraints.get("aud")
    if audience is None:
        if wanted is not None:
            return False
    elif wanted is None or wanted not in (audience if isinstance(audience, list) else [audience]):
        return False
    now = _number(constraints.get("time", time.time() * _NANOSECONDS), "time") / _NANOSECONDS
    if "exp" in payload and now >= _number(payload["exp"], "exp"):
        return False
    return "nbf" not in payload or now >= _number(payload["nbf"], "nbf")


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"{name} is not a number")
    return value


def _is_signed(token: _Token, name: str, keys: list[_Key]) -> bool:
    algorithm = _VERIFIED_BY.get(name)
    if algorithm is None:
        raise TokenError(f"the algorithm is not known: {name[:20]!r}")
    named = [key for key in keys if key.key_id is not None and key.key_id == token.header.get("kid")]
    return any(_has_signed(token, algorithm, key) for key in named or keys if key.algorithm in {None, name})


def _has_signed(token: _Token, algorithm: Algorithm, key: _Key) -> bool:
    try:
        return bool(algorithm.verify(token.signed, algorithm.prepare_key(key.content), token.signature))
    except (PyJWTError, ValueError, TypeError, AttributeError):
        return False  # a key of another kind


def _keys(text: str) -> list[_Key]:
    """Return the keys in PEM, public keys or certificates, or in a JWK or a JWK Set."""
    try:
        if "-----BEGIN CERTIFICATE-----" in text:
            return [_Key(each.public_key()) for each in load_pem_x509_certificates(text.encode())[:MAX_KEYS]]
        if "-----BEGIN" in text:
            return [_Key(load_pem_public_key(text.encode()))]
        document = json.loads(text)
        found = document.get("keys", [document])
        return [_jwk(each) for each in found[:MAX_KEYS]]
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TokenError("the key is neither PEM nor a JWK Set") from error


def _jwk(jwk: Mapping[str, Any]) -> _Key:
    return _Key(PyJWK(dict(jwk), jwk.get("alg") or _default(jwk)).key, jwk.get("kid"), jwk.get("alg"))


def _default(jwk: Mapping[str, Any]) -> str | None:
    return {"RSA": "RS256", "oct": "HS256"}.get(str(jwk.get("kty")))


def _token(text: object) -> _Token:
    if not isinstance(text, str) or len(text) > MAX_TOKEN:
        raise TokenError(f"the token is not a string of at most {MAX_TOKEN} characters")
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise TokenError("the token has not three parts")
    try:
        header, payload, signature = (base64url_decode(part.encode("ascii")) for part in parts)
        token = _Token(_object(header), _object(payload), f"{parts[0]}.{parts[1]}".encode(), signature)
    except (ValueError, RecursionError) as error:
        raise TokenError("the token cannot be decoded") from error
    if str(token.header.get("cty", "")).upper() == "JWT":
        raise TokenError("the token has another one inside, which is not supported")
    return token


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise TokenError("a part of the token is not an object")
    # What is no Unicode ends the process when the engine takes it.
    json.dumps(found, ensure_ascii=False).encode()
    return found
