"""JSON Web Tokens (RFC 7519) that prove an identity: signed by an issuer, for an audience, for a time.

`parse` reads a token without believing it, to find its issuer and its key; `verify` returns the claims to believe.
"""

import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from jwt import PyJWS, PyJWTError

from app.core.errors import UnauthenticatedError
from app.spiffe.jwks import ALGORITHMS, MAX_KEY_ID_LENGTH, VerificationKey

# A service account's token has 1 to 2 KB, a user's with many groups 8. Bounds what is parsed for a stranger.
MAX_TOKEN_BYTES = 16 << 10
MAX_AUDIENCES = 64
# How far the clock of an issuer may differ from ours.
LEEWAY = timedelta(seconds=60)
# What `typ` may say (RFC 7515, section 4.1.9), in lower case. Tokens of other kinds are no proof of identity.
TYPES = frozenset({"jwt", "jose"})

_PART = r"[A-Za-z0-9_-]+"
_COMPACT = re.compile(rf"({_PART})\.({_PART})\.({_PART})")
# In base64url, which every JWT begins with: `{"`.
_START = "eyJ"
_DOTS = 2

Claims = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A well-formed token of which nothing is proven yet.

    `issuer` is whom it claims to be from; `has_audience` is whether it claims to be for anybody in particular; `ends`
    is when it says that it ends, in seconds since the epoch, infinity if it does not say so.
    """

    text: str = field(repr=False)
    algorithm: str
    key_id: str | None
    issuer: str
    has_audience: bool = True
    ends: float = math.inf


def refused(reason: str, message: str) -> UnauthenticatedError:
    """Return the refusal of a token: `reason` is counted, and `message` says what is wrong with it."""
    return UnauthenticatedError(f"the JWT {message}", reason=f"jwt_{reason}")


def is_jwt(text: str) -> bool:
    """Whether a bearer token has the form of a JWT in its compact serialization."""
    return text.startswith(_START) and text.count(".") == _DOTS


def parse(text: str) -> UnverifiedToken:
    """Return what a token says about who signed it, and how. Raises UnauthenticatedError with its reason."""
    if len(text) > MAX_TOKEN_BYTES:
        raise refused("too_large", f"is longer than {MAX_TOKEN_BYTES} bytes")
    parts = _COMPACT.fullmatch(text)
    if parts is None:
        raise refused("malformed", "is not three parts of base64url")
    header, claims = read_object(decoded(parts[1])), read_object(decoded(parts[2]))
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise refused("algorithm", f"has to be signed with one of {', '.join(sorted(ALGORITHMS))}")
    if "crit" in header or "b64" in header:
        raise refused("malformed", "has a header that is not supported: crit or b64")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise refused("malformed", "has a 'typ' other than JWT")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID_LENGTH):
        raise refused("malformed", f"has a 'kid' that is not text of at most {MAX_KEY_ID_LENGTH} characters")
    ends = _time(claims, "exp")
    return UnverifiedToken(
        text,
        algorithm,
        key_id,
        _text(claims, "iss"),
        has_audience=bool(claims.get("aud")),
        ends=math.inf if ends is None else ends,
    )


def verify(
    token: UnverifiedToken, keys: Sequence[VerificationKey], audiences: Collection[str], now: datetime
) -> Claims:
    """Return the claims of a token of `token.issuer`, whose keys with the token's `kid` are `keys`.

    1. A key is there, and is for the token's algorithm: so a key of one kind never verifies a signature of another.
    2. The signature is by one of these keys (RFC 7515, section 5.2).
    3. `iss` is the issuer, and `aud` has one of our audiences (RFC 7519, sections 4.1.1 and 4.1.3).
    4. `exp` is there and ahead; `nbf` and `iat`, where they are, are past; each within LEEWAY (4.1.4 to 4.1.6).

    Raises UnauthenticatedError with the reason.
    """
    if not keys:
        raise refused("unknown_key", "is signed with a key that its issuer does not publish")
    candidates = [key for key in keys if token.algorithm in key.algorithms]
    if not candidates:
        raise refused("key_mismatch", f"is signed with {token.algorithm}, which its key is not for")
    payload = signed_payload(token.text, token.algorithm, candidates)
    if payload is None:
        raise refused("signature", "has a signature that its issuer's key does not verify")
    claims = read_object(payload)
    if _text(claims, "iss") != token.issuer:
        raise refused("issuer", "is of another issuer")
    if not _audiences(claims) & set(audiences):
        raise refused("audience", f"has none of the audiences {', '.join(audiences)} in 'aud'")
    _check_times(claims, now.timestamp(), LEEWAY.total_seconds())
    return claims


def signed_payload(text: str, algorithm: str, keys: Iterable[VerificationKey]) -> bytes | None:
    """Return the payload of a token that one of the keys, each for the algorithm, verifies; None if none does."""
    for key in keys:
        try:
            verified = PyJWS().decode_complete(text, key.public_key, algorithms=[algorithm])
        except (PyJWTError, ValueError, TypeError, RecursionError):
            continue
        return bytes(verified["payload"])
    return None


def _check_times(claims: Claims, now: float, leeway: float) -> None:
    # The leeway goes to `now`: a number from a token may be too large to be added to.
    expires = _time(claims, "exp")
    if expires is None:
        raise refused("claims", "has no 'exp'")
    if expires <= now - leeway:
        raise refused("expired", "has expired")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins > now + leeway:
            raise refused("not_yet", f"is not valid yet, by its '{name}'")


def _time(claims: Claims, name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value in {math.inf, -math.inf}:
        raise refused("claims", f"has '{name}' that is not a number of seconds")
    return value


def _audiences(claims: Claims) -> set[str]:
    value = claims.get("aud")
    if isinstance(value, str):
        return {value}
    if not isinstance(value, list) or len(value) > MAX_AUDIENCES or not all(isinstance(each, str) for each in value):
        raise refused("audience", f"needs 'aud': text, or a list of at most {MAX_AUDIENCES} texts")
    return set(value)


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise refused("claims", f"has no text '{name}'")
    return value


def decoded(part: str) -> bytes:
    """Return what a part of a token encodes. Raises UnauthenticatedError if it is not base64url."""
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError as error:
        raise refused("malformed", "is not three parts of base64url") from error


def read_object(content: bytes) -> Claims:
    """Return a JSON object whose names are unique at each level. Raises UnauthenticatedError if it is none."""
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refused("malformed", "has a part that is not a JSON object with unique names") from error
    if not isinstance(value, dict):
        raise refused("malformed", "has a part that is not a JSON object with unique names")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
