"""CredentialAuthentication documents (`meshward.io/v1`) become values; what is not understood is refused.

A document says which credentials beside JWTs the workloads take, and where in a request those are. The sources have the
names that Authorino's AuthConfig has for them, the places those of RequestAuthentication.
"""

from dataclasses import dataclass

from app.authz.model import Labels, Scope, Target, scopes_of
from app.authz.rules.kubernetes import SECURITY_KINDS, is_object_key, object_key, read_head, read_selector
from app.authz.rules.places import read_headers, read_names
from app.authz.rules.targets import read_targets
from app.documents.kind import DocumentKind
from app.documents.reader import Reader

KIND = "CredentialAuthentication"
API_VERSIONS = ("meshward.io/v1",)
# Every credential of a request may be judged by each; a gateway with several kinds of clients has a handful.
MAX_RULES = 16
# A mesh of a thousand services, each with some.
MAX_DOCUMENTS = 10_000
MAX_BYTES = 64 * 1024
# The header that API keys are in where a rule names no place.
API_KEY_HEADER = "x-api-key"

_API_KEY = "apiKey"
_SOURCES = (_API_KEY,)


@dataclass(frozen=True, slots=True)
class ApiKeySource:
    """The API keys that have all of `labels`."""

    labels: Labels = ()

    @property
    def name(self) -> str:
        """What metrics call it."""
        return "api_key"

    @property
    def noun(self) -> str:
        """What messages call its credentials."""
        return "API key"


CredentialSource = ApiKeySource


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
    headers = tuple(dict.fromkeys(read_headers(rule)))
    params, cookies = (tuple(dict.fromkeys(read_names(rule, name))) for name in ("fromParams", "fromCookies"))
    forward = rule.flag("forwardOriginalCredential")
    rule.taken.update(_SOURCES)
    rule.close()
    if source is None:
        return None
    if not headers and not params and not cookies:
        headers = ((API_KEY_HEADER, ""),)
    return CredentialRule(source, headers, params, cookies, forward)


def _read_source(rule: Reader, name: str) -> CredentialSource | None:
    source = rule.child(name)
    if source is None:
        return None
    read = ApiKeySource(read_selector(source))
    source.close()
    return read


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
