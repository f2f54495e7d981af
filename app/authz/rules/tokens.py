"""One token of a request, judged as Envoy's jwt_authn judges it: with the same answer in the same order.

RFC 7519, and Envoy's `jwt_verify_lib`, of which the texts are. Where this is stricter, it denies: names that are there
twice, critical headers, symmetric keys, reserved issuers, and tokens longer than MAX_TOKEN_BYTES.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from app.authz.model import Claims
from app.authz.rules.jwt_rules import JwtRule
from app.core.errors import UnauthenticatedError
from app.spiffe.jwks import ALGORITHMS, MAX_KEY_ID_LENGTH, KeySet
from app.spiffe.jwt import LEEWAY, MAX_TOKEN_BYTES, decoded, read_object, signed_payload

# Of principals that are no tokens', such as those of API keys: no token may pass for one.
RESERVED_ISSUER = "meshward.io/"
# Envoy reads times as unsigned numbers of 64 bits.
_MAX_TIME = 2**64
_LEEWAY = LEEWAY.total_seconds()
_PART = re.compile(r"[A-Za-z0-9_-]+")
_PARTS = 3
# Envoy knows these; here no key verifies them: a secret that is shared proves nothing of who signed.
_SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
_SCHEME = re.compile(r"https?://")
FOREVER = float("inf")


class TokenProblem(Enum):
    """Why a token, or a request that has none, is not accepted; the value is what the client is answered."""

    MISSING = "Jwt is missing"
    TOO_LONG = "Jwt is too long"
    FORMAT = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
    HEADER_BASE64 = "Jwt header is an invalid Base64url encoded"
    HEADER_JSON = "Jwt header is an invalid JSON"
    NO_ALGORITHM = "Jwt header [alg] field is required and must be a string"
    ALGORITHM = "Jwt header [alg] is not supported"
    KEY_ID = "Jwt header [kid] field is not a string"
    CRITICAL = "Jwt header [crit] is not supported"
    PAYLOAD_BASE64 = "Jwt payload is an invalid Base64url encoded"
    PAYLOAD_JSON = "Jwt payload is an invalid JSON"
    ISSUER_TYPE = "Jwt payload [iss] field is not a string"
    SUBJECT_TYPE = "Jwt payload [sub] field is not a string"
    ISSUED_TYPE = "Jwt payload [iat] field is not an integer"
    ISSUED_RANGE = "Jwt payload [iat] field is not a positive 64 bit integer"
    BEGIN_TYPE = "Jwt payload [nbf] field is not an integer"
    BEGIN_RANGE = "Jwt payload [nbf] field is not a positive 64 bit integer"
    END_TYPE = "Jwt payload [exp] field is not an integer"
    END_RANGE = "Jwt payload [exp] field is not a positive 64 bit integer"
    ID_TYPE = "Jwt payload [jti] field is not a string"
    AUDIENCE_TYPE = "Jwt payload [aud] field is not a string or string list"
    SIGNATURE_BASE64 = "Jwt signature is an invalid Base64url encoded"
    ISSUER = "Jwt issuer is not configured"
    NOT_YET = "Jwt not yet valid"
    EXPIRED = "Jwt is expired"
    AUDIENCE = "Audiences in Jwt are not allowed"
    NO_KEYS = "Jwks remote fetch is failed"
    UNKNOWN_KEY = "Jwks doesn't have key to match kid or alg from Jwt"
    SIGNATURE = "Jwt verification fails"


@dataclass(frozen=True, slots=True)
class Token:
    """A well-formed token of which nothing is proven yet. `payload` is its second part, as it is encoded."""

    text: str = field(repr=False)
    algorithm: str
    key_id: str
    issuer: str
    claims: Claims = field(repr=False)
    payload: str = field(repr=False)
    begins: float
    ends: float
    audiences: tuple[str, ...]


def is_reserved(issuer: object) -> bool:
    """Whether an issuer is one of principals that are no tokens'."""
    return isinstance(issuer, str) and issuer.startswith(RESERVED_ISSUER)


def read_token(text: str) -> Token | TokenProblem:
    """Return the token that the text is, or what is wrong with it."""
    if len(text) > MAX_TOKEN_BYTES:
        return TokenProblem.TOO_LONG
    parts = text.split(".")
    if len(parts) != _PARTS or not all(parts):
        return TokenProblem.FORMAT
    header = _object(parts[0], TokenProblem.HEADER_BASE64, TokenProblem.HEADER_JSON)
    if isinstance(header, TokenProblem):
        return header
    if problem := _header_problem(header):
        return problem
    claims = _object(parts[1], TokenProblem.PAYLOAD_BASE64, TokenProblem.PAYLOAD_JSON)
    if isinstance(claims, TokenProblem):
        return claims
    if problem := _claims_problem(claims):
        return problem
    if _bytes(parts[2]) is None:
        return TokenProblem.SIGNATURE_BASE64
    return Token(
        text,
        header["alg"],
        header.get("kid", ""),
        claims.get("iss", ""),
        claims,
        parts[1],
        claims.get("nbf", 0),
        claims.get("exp") or FOREVER,
        _texts(claims.get("aud", [])),
    )


def problem_before_keys(token: Token, rule: JwtRule, now: float) -> TokenProblem | None:
    """Return why the token is not accepted whatever keys there are; `now` is in seconds since the epoch."""
    if rule.issuer not in {"", token.issuer} or is_reserved(token.issuer):
        return TokenProblem.ISSUER
    if token.begins > now + _LEEWAY:
        return TokenProblem.NOT_YET
    if token.ends < now - _LEEWAY:
        return TokenProblem.EXPIRED
    if rule.audiences and _plain(rule.audiences).isdisjoint(_plain(token.audiences)):
        return TokenProblem.AUDIENCE
    return None


def problem_of_signature(token: Token, keys: KeySet) -> TokenProblem | None:
    """Return why none of the keys verifies the token, None if one does.

    A key without a `kid` may be the token's, as for Envoy; each verifies only the algorithms that it is for.
    """
    named = [key for key in keys.keys if not token.key_id or not key.key_id or key.key_id == token.key_id]
    candidates = [key for key in named if token.algorithm in key.algorithms]
    if signed_payload(token.text, token.algorithm, candidates) is not None:
        return None
    # A key that does not say what it is for is one that does not verify the token, of whatever kind it is.
    undeclared = any(not key.declared for key in named)
    return TokenProblem.SIGNATURE if candidates or undeclared else TokenProblem.UNKNOWN_KEY


def normalised(claims: Claims, space_delimited: Iterable[str]) -> Claims:
    """Return the claims with those that are lists in one text as lists."""
    lists = {name: value.split() for name in space_delimited if isinstance(value := claims.get(name), str)}
    return {**claims, **lists} if lists else claims


def until(token: Token) -> float:
    """Return until when the token is accepted, in seconds since the epoch."""
    return token.ends + _LEEWAY


def _header_problem(header: Claims) -> TokenProblem | None:
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str):
        return TokenProblem.NO_ALGORITHM
    if algorithm not in ALGORITHMS | _SYMMETRIC:
        return TokenProblem.ALGORITHM
    if not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_LENGTH:
        return TokenProblem.KEY_ID
    # RFC 7515, section 4.1.11: what has to be understood, and is not, makes the token invalid.
    return TokenProblem.CRITICAL if "crit" in header or "b64" in header else None


_TEXTS = (("iss", TokenProblem.ISSUER_TYPE), ("sub", TokenProblem.SUBJECT_TYPE))
_TIMES = (
    ("iat", TokenProblem.ISSUED_TYPE, TokenProblem.ISSUED_RANGE),
    ("nbf", TokenProblem.BEGIN_TYPE, TokenProblem.BEGIN_RANGE),
    ("exp", TokenProblem.END_TYPE, TokenProblem.END_RANGE),
)


def _claims_problem(claims: Claims) -> TokenProblem | None:
    for name, problem in _TEXTS:
        if not isinstance(claims.get(name, ""), str):
            return problem
    for name, not_a_number, out_of_range in _TIMES:
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return not_a_number
        if not 0 <= value < _MAX_TIME:
            return out_of_range
    if not isinstance(claims.get("jti", ""), str):
        return TokenProblem.ID_TYPE
    audience = claims.get("aud", "")
    if isinstance(audience, str) or (isinstance(audience, list) and all(isinstance(each, str) for each in audience)):
        return None
    return TokenProblem.AUDIENCE_TYPE


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _plain(audiences: Iterable[str]) -> set[str]:
    """Return audiences as Envoy compares them: without scheme, and without a slash at the end."""
    return {each[found.end() :] if (found := _SCHEME.match(each)) else each for each in map(_without_slash, audiences)}


def _without_slash(audience: str) -> str:
    return audience.removesuffix("/")


def _object(part: str, no_base64: TokenProblem, no_json: TokenProblem) -> Any:
    content = _bytes(part)
    if content is None:
        return no_base64
    try:
        return read_object(content)
    except UnauthenticatedError:
        return no_json


def _bytes(part: str) -> bytes | None:
    if not _PART.fullmatch(part):
        return None
    try:
        return decoded(part)
    except UnauthenticatedError:
        return None
