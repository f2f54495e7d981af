"""Who sends a request, by its tokens: where they are, whether they are accepted, and what of them goes on.

Envoy's jwt_authn as istiod configures it (`pilot/pkg/security/authn`): with one rule, every token in its places has to
be accepted, or there is none. With several, a request passes if the tokens of one rule are accepted, or if each rule
accepts its tokens or has none.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.authz.model import NO_CLAIMS, CheckInput, Claims
from app.authz.providers import NO_CHANGES, Changes
from app.authz.rules.jwt_rules import JwtRule, KeysFrom
from app.authz.rules.nodes import AUTHORITY, TARGET
from app.authz.rules.places import Cookies, Located, Params, cookies_of, is_withheld, params_of
from app.authz.rules.tokens import (
    FOREVER,
    Token,
    TokenProblem,
    normalised,
    problem_before_keys,
    problem_of_signature,
    read_token,
    until,
)
from app.core.errors import InvalidInputError
from app.spiffe.jwks import KeySet, parse_key_set

# How much of a request's path and query an answer repeats, as in Envoy.
MAX_REALM_PATH = 256
# What can be in a token: after the prefix, Envoy begins with the first of these.
_TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_MAX_WHOLE = float(2**64)

Places = tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]
"""Where a rule looks, in Envoy's order: headers with their prefixes, parameters, cookies."""
Keys = Callable[[KeysFrom], KeySet | None]
"""Returns the keys that are known; None if there are none yet, or they could not be had."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is not authenticated. `rule` is the number of the rule that says so."""

    problem: TokenProblem
    rule: int


@dataclass(frozen=True, slots=True)
class NeedsKeys:
    """It cannot be told before these keys were fetched."""

    keys: KeysFrom


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is authenticated, or has no token, if there are no claims.

    `until` is when the tokens end, in seconds since the epoch; `keys` are those that verified them, if they were
    fetched.
    """

    claims: Claims = field(default_factory=lambda: NO_CLAIMS)
    changes: Changes = NO_CHANGES
    until: float = FOREVER
    keys: tuple[tuple[KeysFrom, KeySet], ...] = ()


Result = Accepted | Refused | NeedsKeys
_Verdict = TokenProblem | NeedsKeys | Accepted


class TokenRules:
    """The rules of one workload, in the order of their issuers, as in Istio."""

    def __init__(self, rules: Iterable[JwtRule]) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.issuer))
        self.output_headers = frozenset[str]().union(*(rule.output_headers for rule in self.rules))
        self._places = tuple(map(_places_of, self.rules))
        self._params = tuple({name for rule in self.rules for name in rule.params})
        self._has_cookies = any(rule.cookies for rule in self.rules)
        self.inline = {rule.keys: _inline_keys(rule.keys) for rule in self.rules if rule.keys.inline}
        self.nothing_found = f"the request has no token in {self._spelled_places()}"

    def _spelled_places(self) -> str:
        headers = (f"header {name}" for rule in self.rules for name, _ in rule.headers)
        params = (f"parameter {name}" for rule in self.rules for name in rule.params)
        cookies = (f"cookie {name}" for rule in self.rules for name in rule.cookies)
        return ", ".join(dict.fromkeys((*headers, *params, *cookies)))

    def unseen(self, request: CheckInput) -> bool:
        """Whether it is not known if the request has a token: the proxy would not have forwarded it."""
        names = [name for rule in self.rules for name, _ in rule.headers]
        return is_withheld(request, names, cookies=self._has_cookies)

    def tokens_of(self, request: CheckInput) -> tuple[tuple[Located, ...], ...]:
        """Return the tokens of each rule, in the order in which Envoy finds them."""
        params = params_of(request, self._params) if self._params else {}
        cookies = cookies_of(request) if self._has_cookies else {}
        return tuple([_tokens_at(places, request, params, cookies) for places in self._places])

    def judge(
        self, found: tuple[tuple[Located, ...], ...], keys: Keys, now: float, away: Container[KeysFrom] = ()
    ) -> Result:
        """Return whether a request with these tokens is authenticated; `now` is in seconds since the epoch.

        `away` are the keys that could not be had.
        """
        read: dict[str, Token | TokenProblem] = {}
        verdicts: list[TokenProblem] = []
        for rule, tokens in zip(self.rules, found, strict=True):
            verdict = self._judge_rule(rule, tokens, keys, now, read)
            if isinstance(verdict, NeedsKeys) and verdict.keys in away:
                verdict = TokenProblem.NO_KEYS
            if not isinstance(verdict, TokenProblem):
                return verdict
            verdicts.append(verdict)
        problem, number = _together(verdicts)
        return self.anonymous() if problem is TokenProblem.MISSING else Refused(problem, number)

    def anonymous(self) -> Accepted:
        """Return what becomes of a request without a token: no header passes that only a token may set."""
        return Accepted(changes=Changes(headers_to_remove=tuple(sorted(self.output_headers))))

    def _judge_rule(
        self,
        rule: JwtRule,
        tokens: tuple[Located, ...],
        keys: Keys,
        now: float,
        read: dict[str, Token | TokenProblem],
    ) -> _Verdict:
        if not tokens:
            return TokenProblem.MISSING
        good: list[tuple[Located, Token]] = []
        key_set: KeySet | None = None
        # The last one first, as Envoy does: each has to be accepted, or a server might take the other.
        for located in reversed(tokens):
            text = located[2]
            token = read[text] if text in read else read.setdefault(text, read_token(text))
            if isinstance(token, TokenProblem):
                return token
            if problem := problem_before_keys(token, rule, now):
                return problem
            key_set = keys(rule.keys)
            if key_set is None:
                return NeedsKeys(rule.keys)
            if problem := problem_of_signature(token, key_set):
                return problem
            good.append((located, token))
        claims = normalised(good[-1][1].claims, rule.space_delimited)
        ends = min(until(token) for _, token in good)
        assert key_set is not None  # noqa: S101 - there was a token
        fetched = () if rule.keys.inline else ((rule.keys, key_set),)
        return Accepted(claims, self._changes(rule, good), ends, fetched)

    def _changes(self, rule: JwtRule, good: list[tuple[Located, Token]]) -> Changes:
        """Return what is changed in a request whose tokens `good` were accepted by the rule."""
        outputs: dict[str, list[str]] = {}
        for _, token in good:
            if rule.payload_header:
                outputs.setdefault(rule.payload_header, []).append(token.payload)
            for header, claim in rule.claim_headers:
                if value := header_value(token.claims, claim):
                    outputs.setdefault(header, []).append(value)
        removed = set(self.output_headers) - outputs.keys()
        params = set[str]()
        if not rule.forward:
            removed |= {name for (kind, name, *_), _ in good if kind == "header"} - outputs.keys()
            params = {spelling for (*_, spellings), _ in good for spelling in spellings}
        return Changes(
            headers=tuple((name, ",".join(values)) for name, values in outputs.items()),
            headers_to_remove=tuple(sorted(removed)),
            query_to_remove=tuple(sorted(params)),
        )


def _places_of(rule: JwtRule) -> Places:
    headers = tuple(sorted(dict.fromkeys(rule.headers), key="".join))
    return headers, tuple(sorted(set(rule.params))), tuple(sorted(set(rule.cookies)))


def _tokens_at(places: Places, request: CheckInput, params: Params, cookies: Cookies) -> tuple[Located, ...]:
    headers, param_names, cookie_names = places
    found: list[Located] = []
    for name, prefix in headers:
        values = request.headers.get(name) or ()
        found += [("header", name, _after(prefix, value), ()) for value in values if prefix in value]
    for name in param_names:
        if name in params:
            texts, spellings = params[name]
            found += [("param", name, text, spellings) for text in _each_of(texts)]
    for name in cookie_names:
        if name in cookies:
            found += [("cookie", name, text, ()) for text in _each_of(cookies[name])]
    return tuple(found)


def _each_of(values: Sequence[str]) -> Iterable[str]:
    """Return the first value, which is Envoy's, and those after it, which a server might take."""
    return dict.fromkeys((values[0], *filter(None, values[1:])))


def _inline_keys(given: KeysFrom) -> KeySet:
    try:
        return parse_key_set(given.inline.encode())
    except InvalidInputError:  # none of them can be used, of which the document's author was warned
        return KeySet(())


def is_preflight(request: CheckInput) -> bool:
    """Whether it is a CORS preflight, which browsers send without credentials."""
    return (
        request.method == "OPTIONS"
        and bool((request.headers.get("origin") or ("",))[0])
        and bool((request.headers.get("access-control-request-method") or ("",))[0])
    )


def challenge(request: CheckInput) -> str:
    """Return the value of `WWW-Authenticate` for a request whose token is not accepted (RFC 6750, section 3)."""
    return f'Bearer realm="{realm_of(request)}", error="invalid_token"'


def realm_of(request: CheckInput) -> str:
    """Return the realm of a challenge: the request's URI, as Envoy names it."""
    forwarded, scheme, host, target = (
        (request.headers.get(name) or ("",))[0] for name in ("x-forwarded-proto", ":scheme", AUTHORITY, TARGET)
    )
    realm = f"{forwarded or scheme or 'http'}://{host}{target[:MAX_REALM_PATH]}"
    return "".join(each for each in realm if each.isascii() and each.isprintable() and each not in '"\\')


def principal_of(claims: Claims) -> str:
    """Return who the claims say it is, `issuer/subject`; empty if they do not say both."""
    issuer, subject = claims.get("iss"), claims.get("sub")
    return f"{issuer}/{subject}" if isinstance(issuer, str) and isinstance(subject, str) else ""


def header_value(claims: Claims, name: str) -> str:
    """Return the claim as a header has it; empty for one that is absent, or would be no header's value.

    Names inside of a claim follow it after dots. Lists and objects are JSON in base64, as in Envoy.
    """
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return ""
        found = found[part]
    match found:
        case bool():
            return "true" if found else "false"
        case int() | float():
            return _number(float(found))
        case str():
            # A line end would begin another header at a server behind.
            return "" if any(each < " " or each == "\x7f" for each in found) else found
        case list() | dict():
            return b64encode(json.dumps(found, separators=(",", ":")).encode()).decode()
        case _:
            return ""


def _number(value: float) -> str:
    return str(int(value)) if 0 <= value < _MAX_WHOLE and value.is_integer() else f"{value:.6f}"


def _together(verdicts: list[TokenProblem]) -> tuple[TokenProblem, int]:
    """Return the answer to a request that no rule accepts, and the number of the rule that gives it.

    Envoy's order: problems of a token before "unknown issuer", and that before "missing". With several rules, the last
    problem counts, and "unknown issuer" is one of all together if one rule alone says so.
    """
    if len(verdicts) == 1:
        return verdicts[0], 0
    together = next(((each, at) for at, each in enumerate(verdicts) if each is not TokenProblem.MISSING), None)
    if together is None:
        return TokenProblem.MISSING, 0
    final, number = TokenProblem.MISSING, 0
    for each, at in (*((each, at) for at, each in enumerate(verdicts)), together):
        if each not in {TokenProblem.MISSING, TokenProblem.ISSUER} or final is TokenProblem.MISSING:
            final, number = each, at
    return final, number


def _after(prefix: str, value: str) -> str:
    if not prefix:
        return value
    start = value.index(prefix) + len(prefix)
    for position in range(start, len(value)):
        if value[position] in _TOKEN_CHARACTERS:
            return value[position:]
    return value
