"""AuthorizationPolicy documents (`security.istio.io/v1`) become values; what is not understood is refused.

Istio's AuthorizationPolicy reference and its validation, `reference/config/security/authorization-policy` and
`normalization`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from app.authz.model import Action, Attribute, AuthorizationPolicy, Patterns, Rule
from app.authz.rules.claims import OF_TOKENS
from app.authz.rules.kubernetes import (
    DRY_RUN,
    SECURITY_KINDS,
    empty_lists,
    is_object_key,
    object_key,
    read_head,
    read_selector,
    selector_warnings,
)
from app.authz.rules.parse_rule import read_rule
from app.authz.rules.targets import read_targets
from app.authz.rules.warnings import warnings_of
from app.core.errors import Violation
from app.documents.kind import DocumentKind
from app.documents.reader import Problems, Reader

KIND = "AuthorizationPolicy"
# A mesh of a thousand services with ten policies each; compiled they take some tens of megabytes.
MAX_POLICIES = 10_000
# One policy as JSON; what etcd would store of one is not much more.
MAX_POLICY_BYTES = 256 * 1024

# How Istio, which is written in Go, reads a boolean in an annotation.
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_OF_IDENTITY = frozenset(
    {
        Attribute.SOURCE_PRINCIPAL,
        Attribute.SOURCE_NAMESPACE,
        Attribute.SOURCE_SERVICE_ACCOUNT,
        Attribute.SOURCE_TRUST_DOMAIN,
        *OF_TOKENS,
    }
)


def _read_policy(document: Reader) -> AuthorizationPolicy:
    namespace, name, annotations = read_head(document, KIND)
    spec = document.child("spec")
    policy = AuthorizationPolicy(namespace, name, Action.ALLOW)
    if spec:
        policy = _read_spec(spec, policy)
    dry_run = _read_dry_run(document, annotations, policy.action)
    document.close()
    # Where something is wrong, the places of values are not their places in the document.
    if document.problems.found:
        return policy
    single = spec is not None and spec.has("targetRef")
    noted = _noted({} if spec is None else spec.value, is_missing=spec is None)
    warnings = warnings_of(policy.action, policy.rules, policy.targets, single=single, noted=noted)
    return replace(policy, warnings=warnings, dry_run=dry_run)


def _read_dry_run(document: Reader, annotations: Mapping[str, str], action: Action) -> bool:
    text = annotations.get(DRY_RUN)
    if text is None:
        return False
    if action not in {Action.ALLOW, Action.DENY}:
        problem = f"is for ALLOW and DENY policies, and this one is {action.value}: leave it out"
        document.problems.add(document.at(f"metadata.annotations.{DRY_RUN}"), problem)
    elif text not in _TRUE | _FALSE:
        document.problems.add(document.at(f"metadata.annotations.{DRY_RUN}"), "must be 'true' or 'false'")
    return text in _TRUE


def _noted(spec: Mapping[str, object], *, is_missing: bool) -> Iterator[Violation]:
    """Yield warnings about the spec as it is written, before its values."""
    if is_missing:
        yield Violation("spec", "is missing: the policy allows nothing, as one with 'spec: {}'")
    yield from selector_warnings(spec)
    yield from empty_lists(spec, "spec", but="rules")


def _read_spec(spec: Reader, policy: AuthorizationPolicy) -> AuthorizationPolicy:
    action = _read_action(spec)
    selector = read_selector(spec)
    targets = read_targets(spec, policy.namespace)
    rules = tuple(read_rule(rule, policy.namespace) for rule in spec.children("rules"))
    if action in {Action.DENY, Action.CUSTOM} and not spec.value.get("rules"):
        what = "denies nothing" if action is Action.DENY else "asks its provider about no request"
        spec.refuse("rules", f"must not be empty: a {action.value} policy without rules {what}")
    provider = _read_provider(spec, action)
    if action is Action.CUSTOM:
        _refuse_identity(spec, rules)
    spec.close()
    return replace(policy, action=action, selector=selector, rules=rules, provider=provider, targets=targets)


def _read_provider(spec: Reader, action: Action) -> str:
    if action is not Action.CUSTOM:
        if spec.has("provider"):
            spec.refuse("provider", f"cannot be set with action {action.value}: only CUSTOM has one")
        return ""
    provider = spec.child("provider")
    name = provider.text("name") if provider else None
    if not name:
        spec.refuse("provider.name", "must not be empty: a CUSTOM policy names the provider that decides")
    if provider:
        provider.close()
    return name or ""


def _refuse_identity(spec: Reader, rules: tuple[Rule, ...]) -> None:
    """Refuse rules about identities, which Istio does not take with CUSTOM: the provider gets the caller's identity."""
    problem = "is not supported with CUSTOM: the provider is sent the identity, and can decide by it"
    for number, rule in enumerate(rules):
        for index, source in enumerate(rule.sources):
            fields = (
                *(source.principals, source.namespaces, source.service_accounts, source.trust_domains),
                source.request_principals,
            )
            if any(field != Patterns() for field in fields):
                spec.refuse(f"rules[{number}].from[{index}].source", f"a rule about identities {problem}")
        for index, condition in enumerate(rule.conditions):
            if condition.attribute in _OF_IDENTITY:
                spec.refuse(f"rules[{number}].when[{index}].key", f"{condition.attribute.value} {problem}")


def _read_action(spec: Reader) -> Action:
    match spec.text("action") if spec.has("action") else Action.ALLOW.value:
        case None:
            pass
        case "ALLOW":
            return Action.ALLOW
        case "DENY":
            return Action.DENY
        case "AUDIT":
            return Action.AUDIT
        case "CUSTOM":
            return Action.CUSTOM
        case other:
            spec.refuse("action", f"{other!r} is not an action: use ALLOW, DENY, AUDIT or CUSTOM")
    return Action.ALLOW


def _warnings_of(policy: AuthorizationPolicy) -> Sequence[Violation]:
    return policy.warnings


POLICY_KIND = DocumentKind(
    name="policy",
    noun="policy",
    plural="policies",
    key_field="metadata",
    read=_read_policy,
    key_of=object_key,
    is_key=is_object_key,
    beside=SECURITY_KINDS - {KIND},
    max_documents=MAX_POLICIES,
    max_bytes=MAX_POLICY_BYTES,
    warnings_of=_warnings_of,
)


def policy_kind(providers: frozenset[str]) -> DocumentKind[AuthorizationPolicy]:
    """Return the kind that refuses a policy which is given and names none of `providers`.

    One that is stored stays valid when its provider is deleted from the settings, and denies what its rules match.
    """
    return replace(POLICY_KIND, admit=partial(_admit, providers))


def _admit(providers: frozenset[str], policy: AuthorizationPolicy, place: str, problems: Problems) -> None:
    if policy.action is Action.CUSTOM and policy.provider not in providers:
        known = f"use one of {', '.join(sorted(providers))}" if providers else "there is none in authz.providers"
        problem = f"{policy.provider!r} is not a provider in the settings: {known}"
        problems.add(f"{place}.spec.provider.name".removeprefix("."), problem)
