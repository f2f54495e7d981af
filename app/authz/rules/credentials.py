"""The credentials of a request beside the JWTs of RequestAuthentication: where they are, and which are accepted.

Every credential in the places of the rules has to be accepted, each by one of the rules whose place it is in. The first
one says who sends the request.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from app.authz.model import CheckInput, Claims
from app.authz.providers import Changes
from app.authz.rules.credential_rules import CredentialRule
from app.authz.rules.places import COOKIE, Located, cookie_pairs, cookies_of, is_withheld, params_of
from app.spiffe.jwt import MAX_TOKEN_BYTES

# A client has one. With more, one request would have many servers asked.
MAX_CREDENTIALS = 4


class CredentialProblem(Enum):
    """Why a credential is not accepted; the value is what the client is answered."""

    INVALID = "The credential is not valid"
    TOO_LONG = "The credential is too long"
    TOO_MANY = "The request has too many credentials"
    UNVERIFIED = "The credential cannot be verified now"
    LIMITED = "Too many credentials were not accepted; try again later"


@dataclass(frozen=True, slots=True)
class Proven:
    """Whose credential it is: `claims` are what to believe, with `iss` and `sub`."""

    claims: Claims = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """The credential is not accepted; `reason` says why, for operators.

    `final`: it is none of another kind of source either, and is shown to none.
    """

    problem: CredentialProblem
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The request has a credential that is not accepted. `rule` is that which says so."""

    rejected: Rejected
    rule: CredentialRule
    place: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """Every credential is accepted; `proven` is the first one's."""

    proven: Proven
    forward: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class ToAsk:
    """It is not known before the rule's source was asked about this credential."""

    rule: CredentialRule
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    """A credential of a request, and the rules that are for its place."""

    located: Located = field(repr=False)
    rules: tuple[CredentialRule, ...]

    @property
    def place(self) -> str:
        """Where it is, for messages: `header x-api-key`."""
        return f"{_NOUNS[self.located[0]]} {self.located[1]}"


Outcome = Proven | Rejected
OutcomeOf = Callable[[CredentialRule, str], Outcome | None]
"""Returns what is known of a credential, None if the rule's source has to be asked."""
_NOUNS = {"header": "header", "param": "parameter", "cookie": "cookie"}


class CredentialRules:
    """The rules of one workload."""

    def __init__(self, rules: Iterable[CredentialRule]) -> None:
        self.rules = tuple(dict.fromkeys(rules))
        self._headers = tuple(dict.fromkeys(header for rule in self.rules for header in rule.headers))
        self._params = tuple(dict.fromkeys(name for rule in self.rules for name in rule.params))
        self._cookies = tuple(dict.fromkeys(name for rule in self.rules for name in rule.cookies))
        self._at: dict[tuple[str, object], tuple[CredentialRule, ...]] = {
            **{("header", each): tuple(rule for rule in self.rules if each in rule.headers) for each in self._headers},
            **{("param", each): tuple(rule for rule in self.rules if each in rule.params) for each in self._params},
            **{("cookie", each): tuple(rule for rule in self.rules if each in rule.cookies) for each in self._cookies},
        }
        places = [*(f"header {name}" for name, _ in self._headers), *(f"parameter {name}" for name in self._params)]
        places += [f"cookie {name}" for name in self._cookies]
        self.nothing_found = f"the request has no credential in {', '.join(places)}"

    def unseen(self, request: CheckInput) -> bool:
        """Whether it is not known if the request has a credential: the proxy would not have forwarded it."""
        return is_withheld(request, [name for name, _ in self._headers], cookies=bool(self._cookies))

    def found_in(self, request: CheckInput) -> tuple[Found, ...]:
        """Return the credentials of a request: those in headers first, then in the query, then in cookies.

        Of a parameter or cookie that comes twice each value is one, as servers differ in which they take.
        """
        found = [
            Found(("header", header[0], text, ()), self._at["header", header])
            for header in self._headers
            for value in request.headers.get(header[0]) or ()
            if (text := _after(header[1], value))
        ]
        if self._params and (params := params_of(request, self._params)):
            found += [
                Found(("param", name, value, params[name][1]), self._at["param", name])
                for name in self._params
                if name in params
                for value in filter(None, dict.fromkeys(params[name][0]))
            ]
        if self._cookies and (cookies := cookies_of(request)):
            found += [
                Found(("cookie", name, value, ()), self._at["cookie", name])
                for name in self._cookies
                for value in filter(None, dict.fromkeys(cookies.get(name, ())))
            ]
        return tuple(found)


def judge(found: tuple[Found, ...], outcome_of: OutcomeOf) -> Accepted | Refused | ToAsk:
    """Return whether a request with these credentials, at least one, is authenticated."""
    if len(found) > MAX_CREDENTIALS:
        return _refused(found[0], CredentialProblem.TOO_MANY, f"the request has more than {MAX_CREDENTIALS}")
    first: Proven | None = None
    forward: list[bool] = []
    for each in found:
        if len(each.located[2]) > MAX_TOKEN_BYTES:
            return _refused(each, CredentialProblem.TOO_LONG, f"it is longer than {MAX_TOKEN_BYTES} characters")
        by = _judge_one(each, outcome_of)
        if isinstance(by, Refused | ToAsk):
            return by
        rule, proven = by
        first = first or proven
        forward.append(rule.forward)
    assert first is not None  # noqa: S101 - there was a credential
    return Accepted(first, tuple(forward))


def changes_of(request: CheckInput, found: tuple[Found, ...], forward: tuple[bool, ...]) -> Changes:
    """Return what takes the credentials out of a request, all but those that are forwarded."""
    hidden = [each.located for each, stays in zip(found, forward, strict=True) if not stays]
    headers = {name for kind, name, *_ in hidden if kind == "header"}
    cookies = {name for kind, name, *_ in hidden if kind == "cookie"}
    set_to: tuple[tuple[str, str], ...] = ()
    if cookies:
        rest = _without(cookie_pairs(request), cookies)
        if rest:
            set_to = ((COOKIE, rest),)
        else:
            headers.add(COOKIE)
    return Changes(
        headers=set_to,
        headers_to_remove=tuple(sorted(headers)),
        query_to_remove=tuple(sorted({spelling for *_, spellings in hidden for spelling in spellings})),
    )


def _judge_one(each: Found, outcome_of: OutcomeOf) -> tuple[CredentialRule, Proven] | Refused | ToAsk:
    refused: Refused | None = None
    for rule in each.rules:
        if refused is not None and refused.rejected.final and type(rule.source) is not type(refused.rule.source):
            continue  # such as a revoked API key, which is not sent to a server
        outcome = outcome_of(rule, each.located[2])
        if outcome is None:
            return ToAsk(rule, each.located[2])
        if isinstance(outcome, Proven):
            return rule, outcome
        # That it could not be verified comes before that another source does not know it.
        if refused is None or outcome.final or outcome.problem is not CredentialProblem.INVALID:
            refused = Refused(outcome, rule, each.place)
    assert refused is not None  # noqa: S101 - a place is that of some rule
    return refused


def _refused(each: Found, problem: CredentialProblem, reason: str) -> Refused:
    return Refused(Rejected(problem, reason), each.rules[0], each.place)


def _after(prefix: str, value: str) -> str:
    """Return the credential in a header's value, empty if it has none; case does not count in the prefix (RFC 9110)."""
    if not prefix:
        return value.strip()
    if value[: len(prefix)].lower() != prefix.lower():
        return ""
    return value[len(prefix) :].strip()


def _without(pairs: Iterable[str], names: set[str]) -> str:
    """Return the cookies but those with these names, as one header."""
    return "; ".join(pair for pair in pairs if pair and pair.partition("=")[0].strip() not in names)
