"""RequestAuthentication documents (`security.istio.io/v1`) become values; what is not understood is refused.

Istio's RequestAuthentication reference and its validation, `reference/config/security/request_authentication`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import urlsplit

from app.authz.model import Labels, Scope, Target, scopes_of
from app.authz.rules.kubernetes import (
    SECURITY_KINDS,
    empty_lists,
    is_object_key,
    object_key,
    read_head,
    read_selector,
    selector_warnings,
)
from app.authz.rules.places import AUTHORIZATION, BEARER, HEADER, read_headers, read_names
from app.authz.rules.targets import read_targets
from app.core.errors import InvalidInputError, Violation
from app.documents.kind import DocumentKind
from app.documents.reader import Reader
from app.spiffe.jwks import parse_key_set, secret_keys

KIND = "RequestAuthentication"
# Istio's bound is 4096 rules for one workload; a document of MAX_BYTES has no room for more than this.
MAX_RULES = 4096
# A mesh of a thousand services, each with one.
MAX_DOCUMENTS = 10_000
# With its keys inline; what etcd would store of one is not much more.
MAX_BYTES = 256 * 1024
# Istio's bound on `jwksUri`.
MAX_URL_LENGTH = 2048
# Istio's default, and what is waited at most, whatever a document says: a check that waits holds memory.
DEFAULT_TIMEOUT, MAX_TIMEOUT = 5.0, 60.0
# Claims whose value is a list with spaces between its items, whatever a document says.
SPACE_DELIMITED = frozenset({"scope", "permission"})
# The parameter in which a token is where a rule names no place.
ACCESS_TOKEN = "access_token"  # noqa: S105 - a name

# As Istio, which is written in Go, reads a duration: 5s, 500ms, 1m30s, 1.5h.
_DURATION_PART = re.compile(r"([0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9})(h|ms|m|s)")
_DURATION = re.compile(rf"\+?(?:{_DURATION_PART.pattern}){{1,8}}")
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
# Istio's, of a header that a claim goes to.
_STRICT_HEADER = re.compile(r"[-_a-z0-9]+")
_NOT_PUBLIC = (
    "keys[{}] is a private key or a shared secret: it verifies no token, and should be nowhere but with the issuer"
)
# Those of which an empty one is refused, as by Istio.
_NOT_EMPTY = "jwksUri", "jwks_uri", "timeout"


@dataclass(frozen=True, slots=True)
class KeysFrom:
    """Where the keys of a rule are from: `inline` is a JWK Set, `url` where one is, or else the issuer describes it.

    `timeout` is how long the answer may take, in seconds.
    """

    inline: str = ""
    url: str = ""
    issuer: str = ""
    timeout: float = DEFAULT_TIMEOUT

    @property
    def name(self) -> str:
        """What is fetched: a set by its URL, or the one that an issuer describes."""
        return self.url or f"issuer {self.issuer}"

    def __str__(self) -> str:
        return self.url or self.issuer


@dataclass(frozen=True, slots=True)
class JwtRule:
    """One of `jwtRules`. `headers` are lower-case names with the prefix of the value, `claim_headers` with the claim.

    An empty `issuer` stands for any issuer. `forward`: the token stays in the request. `payload_header`, a lower-case
    name, is empty if the payload goes nowhere.
    """

    issuer: str
    keys: KeysFrom
    audiences: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ((AUTHORIZATION, BEARER),)
    params: tuple[str, ...] = (ACCESS_TOKEN,)
    cookies: tuple[str, ...] = ()
    forward: bool = False
    payload_header: str = ""
    claim_headers: tuple[tuple[str, str], ...] = ()
    space_delimited: frozenset[str] = SPACE_DELIMITED

    @property
    def output_headers(self) -> frozenset[str]:
        """The headers that have nothing but what a verified token says."""
        names = (name for name, _ in self.claim_headers)
        return frozenset((*names, self.payload_header)) - {""}


@dataclass(frozen=True, slots=True)
class RequestAuthentication:
    """One document, parsed. It is for the workloads of one of its scopes."""

    namespace: str
    name: str
    rules: tuple[JwtRule, ...] = ()
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    warnings: tuple[Violation, ...] = ()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The workloads of the document, each of which is in one of these."""
        return scopes_of(self.selector, self.targets)


def _read(document: Reader) -> RequestAuthentication:
    namespace, name, _ = read_head(document, KIND)
    spec = document.child("spec")
    warnings: list[Violation] = []
    rules: tuple[JwtRule, ...] = ()
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    if spec is not None:
        selector, targets = read_selector(spec), read_targets(spec, namespace)
        rules = tuple(_read_rule(rule, warnings) for rule in spec.children("jwtRules", MAX_RULES))
        spec.close()
        warnings += [*selector_warnings(spec.value), *empty_lists(spec.value, "spec", but="jwtRules")]
    document.close()
    return RequestAuthentication(namespace, name, rules, selector, targets, tuple(warnings))


def _read_rule(rule: Reader, warnings: list[Violation]) -> JwtRule:
    for name in _NOT_EMPTY:
        if rule.text(name) == "":
            rule.refuse(name, "must not be empty: leave it out")
    issuer = rule.text("issuer") or ""
    keys = _read_keys(rule, issuer, warnings)
    headers = tuple(read_headers(rule))
    params, cookies = (tuple(read_names(rule, name)) for name in ("fromParams", "fromCookies"))
    if not headers and not params and not cookies:
        headers, params = ((AUTHORIZATION, BEARER),), (ACCESS_TOKEN,)
    read = JwtRule(
        issuer,
        keys,
        tuple(dict.fromkeys(value for _, value in rule.texts("audiences"))),
        headers,
        params,
        cookies,
        rule.flag("forwardOriginalToken"),
        _read_output(rule, "outputPayloadToHeader"),
        tuple(_read_claim_headers(rule)),
        SPACE_DELIMITED | {value for _, value in rule.texts("spaceDelimitedClaims")},
    )
    rule.close()
    return read


def _read_keys(rule: Reader, issuer: str, warnings: list[Violation]) -> KeysFrom:
    # Istio reads the second spelling as well.
    given = [name for name in ("jwks", "jwksUri", "jwks_uri") if rule.text(name)]
    if len(given) > 1:
        rule.refuse(given[1], f"cannot be set beside {given[0]}: the keys are in one place")
    inline, url = rule.text("jwks") or "", rule.text("jwksUri") or rule.text("jwks_uri") or ""
    if not issuer and not url:
        rule.refuse("issuer", "must not be empty unless there is a jwksUri: one of them says whose tokens are meant")
    if url and (problem := _url_problem(url)):
        rule.refuse(given[-1], problem)
    if inline:
        _check_inline(rule, inline, warnings)
    elif not url and issuer and _url_problem(issuer):
        problem = (
            "no keys can be found: the issuer is no URL that describes itself, and there is no jwksUri and no jwks"
        )
        warnings.append(Violation(rule.at("issuer"), problem))
    return KeysFrom(inline, url, "" if inline or url else issuer, _read_timeout(rule))


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"{url!r} is not a URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return f"{url!r} is not the URL of a server: write https://HOST/PATH"
    if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url or "@" in parts.netloc:
        return f"must be a URL of up to {MAX_URL_LENGTH} characters, without spaces and without a password"
    return ""


def _check_inline(rule: Reader, inline: str, warnings: list[Violation]) -> None:
    try:
        parse_key_set(inline.encode())
        warnings += [Violation(rule.at("jwks"), _NOT_PUBLIC.format(number)) for number in secret_keys(inline.encode())]
    except InvalidInputError as error:
        if "no RSA" in error.message:  # valid, and verifies nothing
            warnings.append(Violation(rule.at("jwks"), f"{error.message}: every token is refused"))
        else:
            rule.refuse("jwks", error.message)


def _read_timeout(rule: Reader) -> float:
    text = rule.text("timeout")
    if not text:
        return DEFAULT_TIMEOUT
    parts = _DURATION_PART.findall(text) if _DURATION.fullmatch(text) else []
    milliseconds = sum((Fraction(number) * _MILLISECONDS[unit] for number, unit in parts), Fraction(0))
    if milliseconds < 1 or milliseconds.denominator != 1:
        rule.refuse("timeout", f"{text!r} is not a duration of whole milliseconds: write 5s or 500ms")
    return min(float(milliseconds / 1000), MAX_TIMEOUT)


def _read_output(reader: Reader, field: str) -> str:
    name = reader.text(field) or ""
    if name and not HEADER.fullmatch(name):
        reader.refuse(field, f"{name!r} is not the name of a header")
    elif name.lower() == "host":
        reader.refuse(field, "must not be Host: it says where the request goes")
    return name.lower()


def _read_claim_headers(rule: Reader) -> Iterator[tuple[str, str]]:
    for output in rule.children("outputClaimToHeaders"):
        header, claim = _read_output(output, "header"), output.text("claim") or ""
        if header and not _STRICT_HEADER.fullmatch(header):
            output.refuse("header", f"{header!r} must have letters, digits, '-' and '_' alone")
        for name, value in (("header", header), ("claim", claim)):
            if not value:
                output.refuse(name, "must not be empty")
        output.close()
        yield header, claim


def _warnings_of(document: RequestAuthentication) -> Sequence[Violation]:
    return document.warnings


REQUEST_AUTHENTICATION_KIND = DocumentKind(
    name="request_authentication",
    noun="request authentication",
    plural="request authentications",
    key_field="metadata",
    read=_read,
    key_of=object_key,
    is_key=is_object_key,
    beside=SECURITY_KINDS - {KIND},
    max_documents=MAX_DOCUMENTS,
    max_bytes=MAX_BYTES,
    warnings_of=_warnings_of,
)
