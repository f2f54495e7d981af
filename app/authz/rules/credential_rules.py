"""CredentialAuthentication documents (`meshward.io/v1`) become values; what is not understood is refused.

A document says which credentials beside JWTs the workloads take, and where in a request those are. The sources have the
names that Authorino's AuthConfig has for them, the places those of RequestAuthentication.
"""

from dataclasses import dataclass, replace
from functools import partial

from app.authz.model import Labels, Scope, Target, scopes_of
from app.authz.rules.kubernetes import (
    MAX_NAME_LENGTH,
    SECURITY_KINDS,
    is_object_key,
    object_key,
    read_head,
    read_selector,
)
from app.authz.rules.places import AUTHORIZATION, BEARER, read_headers, read_names
from app.authz.rules.targets import read_targets
from app.documents.kind import DocumentKind
from app.documents.reader import Problems, Reader

KIND = "CredentialAuthentication"
API_VERSIONS = ("meshward.io/v1",)
# Every credential of a request may be judged by each; a gateway with several kinds of clients has a handful.
MAX_RULES = 16
# A mesh of a thousand services, each with some.
MAX_DOCUMENTS = 10_000
MAX_BYTES = 64 * 1024
# The header that API keys are in where a rule names no place.
API_KEY_HEADER = "x-api-key"

# More of them would be better named by another issuer.
MAX_AUDIENCES = 16

_API_KEY, _INTROSPECTION, _TOKEN_REVIEW = "apiKey", "oauth2Introspection", "kubernetesTokenReview"
_SOURCES = (_API_KEY, _INTROSPECTION, _TOKEN_REVIEW)


@dataclass(frozen=True, slots=True)
class ApiKeySource:
    """The API keys that have all of `labels`."""

    labels: Labels = ()
    noun = "API key"


@dataclass(frozen=True, slots=True)
class IntrospectionSource:
    """Tokens that an authorization server is asked about (RFC 7662), by its name in the settings.

    A token has to be for one of `audiences`, if there are any.
    """

    server: str
    audiences: tuple[str, ...] = ()
    noun = "access token"


@dataclass(frozen=True, slots=True)
class TokenReviewSource:
    """Service accounts' tokens that a cluster's API server reviews, for one of `audiences`.

    `cluster` is the cluster's id, empty for the primary one.
    """

    audiences: tuple[str, ...]
    cluster: str = ""
    noun = "service account token"


CredentialSource = ApiKeySource | IntrospectionSource | TokenReviewSource


@dataclass(frozen=True, slots=True)
class CredentialRule:
    """One of `rules`: credentials of one source, in these places.

    `headers` are lower-case names with the prefix of the value. `forward`: the credential stays in the request.
    """

    source: CredentialSource
    headers: tuple[tuple[str, str], ...] = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    forward: bool = False


@dataclass(frozen=True, slots=True)
class CredentialAuthentication:
    """One document, parsed. It is for the workloads of one of its scopes."""

    namespace: str
    name: str
    rules: tuple[CredentialRule, ...] = ()
    selector: Labels = ()
    targets: tuple[Target, ...] = ()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The workloads of the document, each of which is in one of these."""
        return scopes_of(self.selector, self.targets)


def _read(document: Reader) -> CredentialAuthentication:
    namespace, name, _ = read_head(document, KIND, API_VERSIONS)
    spec = document.child("spec")
    rules: tuple[CredentialRule, ...] = ()
    selector: Labels = ()
    targets: tuple[Target, ...] = ()
    if spec is not None:
        selector, targets = read_selector(spec), read_targets(spec, namespace)
        found = [_read_rule(rule) for rule in spec.children("rules", MAX_RULES)]
        rules = tuple(rule for rule in found if rule is not None)
        if not found:
            spec.refuse("rules", "must have a rule: without one the document asks for nothing")
        spec.close()
    elif not document.has("spec"):
        document.refuse("spec", "is missing")
    document.close()
    return CredentialAuthentication(namespace, name, rules, selector, targets)


def _read_rule(rule: Reader) -> CredentialRule | None:
    given = [name for name in _SOURCES if rule.has(name)]
    for name in given[1:]:
        rule.refuse(name, f"cannot be set beside {given[0]}: write a rule for each")
    source = _read_source(rule, given[0]) if given else None
    if not given:
        rule.problems.add(rule.path, f"has no source of credentials: set one of {', '.join(_SOURCES)}")
    _refuse_empty(rule, "fromHeaders", "fromParams", "fromCookies")
    headers = tuple(dict.fromkeys(read_headers(rule)))
    params, cookies = (tuple(dict.fromkeys(read_names(rule, name))) for name in ("fromParams", "fromCookies"))
    forward = rule.flag("forwardOriginalCredential")
    rule.taken.update(_SOURCES)
    rule.close()
    if source is None:
        return None
    if not headers and not params and not cookies:
        headers = ((API_KEY_HEADER, ""),) if isinstance(source, ApiKeySource) else ((AUTHORIZATION, BEARER),)
    return CredentialRule(source, headers, params, cookies, forward)


def _read_source(rule: Reader, name: str) -> CredentialSource | None:
    source = rule.child(name)
    if source is None:
        return None
    read: CredentialSource
    match name:
        case "apiKey":
            read = ApiKeySource(read_selector(source))
        case "oauth2Introspection":
            server = source.required_text("authorizationServer", MAX_NAME_LENGTH)
            read = IntrospectionSource(server, _read_audiences(source))
        case _:
            read = TokenReviewSource(_read_audiences(source), source.text("cluster") or "")
            if not read.audiences:
                source.refuse("audiences", "must have an audience: a token for the API server opens that as well")
    source.close()
    return read


def _refuse_empty(place: Reader, *names: str) -> None:
    """Refuse lists without an item: only Istio's documents have a meaning for them."""
    for name in names:
        if place.value.get(name) == []:
            place.refuse(name, "must not be empty: leave it out, or list something")


def _read_audiences(source: Reader) -> tuple[str, ...]:
    _refuse_empty(source, "audiences")
    return tuple(dict.fromkeys(value for _, value in source.texts("audiences", MAX_AUDIENCES)))


@dataclass(frozen=True, slots=True)
class KnownSources:
    """What documents can name: authorization servers, and clusters by their ids; without one they mean `primary`."""

    servers: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    primary: str = ""

    def problem(self, source: CredentialSource) -> tuple[str, str]:
        """Return the field of a source that names what is not there, and why that is wrong; empty if none does."""
        match source:
            case IntrospectionSource(server) if server not in self.servers:
                return "authorizationServer", _unknown(server, self.servers, "authz.authorization_servers")
            case TokenReviewSource(cluster=cluster) if (cluster or self.primary) not in self.clusters:
                return "cluster", _unknown(cluster or self.primary, self.clusters, "kubernetes.api")
            case _:
                return "", ""


def credential_authentication_kind(known: KnownSources) -> DocumentKind[CredentialAuthentication]:
    """Return the kind that refuses a document which is given and names what the settings do not have.

    One that is stored stays valid when that is deleted from the settings, and accepts no such credential.
    """
    return replace(CREDENTIAL_AUTHENTICATION_KIND, admit=partial(_admit, known))


def _admit(known: KnownSources, document: CredentialAuthentication, place: str, problems: Problems) -> None:
    for number, rule in enumerate(document.rules):
        field, problem = known.problem(rule.source)
        if problem:
            name = _INTROSPECTION if isinstance(rule.source, IntrospectionSource) else _TOKEN_REVIEW
            problems.add(f"{place}.spec.rules[{number}].{name}.{field}".removeprefix("."), problem)


def _unknown(name: str, known: frozenset[str], setting: str) -> str:
    named = f"use one of {', '.join(sorted(known))}" if known else f"there is none: see {setting}"
    return f"{name!r} is not in the settings: {named}"


CREDENTIAL_AUTHENTICATION_KIND = DocumentKind(
    name="credential_authentication",
    noun="credential authentication",
    plural="credential authentications",
    key_field="metadata",
    read=_read,
    key_of=object_key,
    is_key=is_object_key,
    beside=SECURITY_KINDS - {KIND},
    max_documents=MAX_DOCUMENTS,
    max_bytes=MAX_BYTES,
)
