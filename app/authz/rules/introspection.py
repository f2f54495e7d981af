"""What an authorization server answers about a token (RFC 7662, section 2.2), and whether to believe it."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from app.authz.model import Claims
from app.authz.rules.credentials import CredentialProblem, Outcome, Proven, Rejected
from app.authz.rules.jwt_rules import SPACE_DELIMITED
from app.authz.rules.tokens import is_reserved, normalised
from app.core.errors import UnauthenticatedError
from app.spiffe.jwt import LEEWAY, read_object

_INACTIVE = Rejected(
    CredentialProblem.INVALID, "its authorization server does not know it, or says that it is not active"
)
_NO_ANSWER = Rejected(
    CredentialProblem.UNVERIFIED, "its authorization server answered something that is no introspection"
)
_LEEWAY = LEEWAY.total_seconds()


def read_answer(content: bytes, issuer: str, now: float) -> tuple[Outcome, float]:
    """Return whose token it is, or why it is refused, and until when the token lasts, in seconds since the epoch.

    1. The answer is a JSON object, in which `active` is true or false.
    2. The token is active, and by `exp` and `nbf` it is so now.
    3. It is bound to no key or certificate (`cnf`, RFC 8705 and RFC 9449): a bearer token proves none.
    4. Its `iss`, if it has one, is `issuer`, or any if that is empty; an answer without one is taken to be of `issuer`.
    """
    try:
        claims: Mapping[str, Any] = read_object(content)
    except UnauthenticatedError:
        return _NO_ANSWER, 0.0
    if not isinstance(claims.get("active"), bool):
        return _NO_ANSWER, 0.0
    if not claims["active"]:
        return _INACTIVE, math.inf
    ends, begins = _time(claims, "exp", math.inf), _time(claims, "nbf", 0.0)
    if ends is None or begins is None:
        return _invalid("its 'exp' or 'nbf' is not a number of seconds"), math.inf
    if ends <= now or begins > now + _LEEWAY:
        return _invalid("it has ended, or not begun, by its 'exp' and 'nbf'"), math.inf
    if "cnf" in claims:
        return _invalid("it is bound to a key or a certificate ('cnf'), which is not verified here"), ends
    return _with_issuer(claims, issuer), ends


def for_audiences(outcome: Outcome, audiences: Collection[str]) -> Outcome:
    """Return the outcome where a token has to be for one of `audiences`, if there are any."""
    if not audiences or not isinstance(outcome, Proven):
        return outcome
    given = outcome.claims.get("aud")
    named = given if isinstance(given, list) else [given]
    return outcome if any(each in audiences for each in named) else _invalid("it is for another audience")


def _with_issuer(claims: Claims, issuer: str) -> Outcome:
    given, subject = claims.get("iss"), claims.get("sub", "")
    if given is None:
        given = issuer or None
    if not isinstance(subject, str) or not isinstance(given, str | None):
        return _invalid("its 'iss' or 'sub' is no text")
    if given is not None and (is_reserved(given) or (issuer and given != issuer)):
        return _invalid("it is of another issuer")
    read = {name: value for name, value in claims.items() if name != "active"}
    return Proven(normalised(read if given is None else read | {"iss": given}, SPACE_DELIMITED))


def _time(claims: Claims, name: str, missing: float) -> float | None:
    value = claims.get(name, missing)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and not math.isnan(value) else None


def _invalid(reason: str) -> Rejected:
    return Rejected(CredentialProblem.INVALID, reason)
