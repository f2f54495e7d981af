"""AuthorizationPolicy documents (`security.istio.io/v1`) become values; what is not understood is refused.

Istio's AuthorizationPolicy reference and its validation, `reference/config/security/authorization-policy` and
`normalization`.
"""

from collections.abc import Sequence

from app.authz.model import Action, AuthorizationPolicy, Labels, Rule, Target
from app.authz.rules.kubernetes import is_name, is_namespace, read_labels, read_metadata
from app.authz.rules.parse_rule import read_rule
from app.authz.rules.targets import read_targets
from app.authz.rules.warnings import warnings_of
from app.core.errors import Violation
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey
from app.documents.reader import Reader

API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
KIND = "AuthorizationPolicy"
DRY_RUN = "istio.io/dry-run"
# A mesh of a thousand services with ten policies each; compiled they take some tens of megabytes.
MAX_POLICIES = 10_000
# One policy as JSON; what etcd would store of one is not much more.
MAX_POLICY_BYTES = 256 * 1024

# How Istio, which is written in Go, reads a boolean in an annotation.
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_NOT_YET = ("provider",)


def _read_policy(document: Reader) -> AuthorizationPolicy:
    problems = document.problems
    api_version, kind = document.text("apiVersion"), document.text("kind")
    if api_version not in API_VERSIONS:
        document.refuse("apiVersion", f"must be {API_VERSIONS[0]}")
    if kind != KIND:
        document.refuse("kind", f"must be {KIND}")
    namespace, name, annotations = read_metadata(document, problems)
    dry_run = annotations.get(DRY_RUN, "false")
    if dry_run not in _TRUE | _FALSE:
        problems.add(document.at(f"metadata.annotations.{DRY_RUN}"), "must be 'true' or 'false'")
    document.take("status")
    spec = document.child("spec")
    action, selector, targets, rules = _read_spec(spec, namespace) if spec else (Action.ALLOW, (), (), ())
    if not document.has("spec"):
        problems.add(document.at("spec"), "is missing: write 'spec: {}' for a policy that allows nothing")
    document.close()
    # Where something is wrong, the places of values are not their places in the document.
    warnings = (
        () if problems.found else warnings_of(action, rules, targets, single=spec is not None and spec.has("targetRef"))
    )
    return AuthorizationPolicy(namespace, name, action, selector, rules, warnings, dry_run in _TRUE, targets)


def _read_spec(spec: Reader, namespace: str) -> tuple[Action, Labels, tuple[Target, ...], tuple[Rule, ...]]:
    action = _read_action(spec)
    selector = _read_selector(spec)
    targets = read_targets(spec, namespace)
    for name in _NOT_YET:
        if spec.has(name):
            spec.refuse(name, "is not supported yet")
    rules = tuple(read_rule(rule, namespace) for rule in spec.children("rules"))
    if action is Action.DENY and not spec.value.get("rules"):
        spec.refuse("rules", "must not be empty: a DENY policy without rules denies nothing")
    spec.close()
    return action, selector, targets, rules


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
            spec.refuse("action", "CUSTOM is not supported yet: use ALLOW, DENY or AUDIT")
        case other:
            spec.refuse("action", f"{other!r} is not an action: use ALLOW, DENY or AUDIT")
    return Action.ALLOW


def _read_selector(spec: Reader) -> Labels:
    selector = spec.child("selector")
    if selector is None:
        return ()
    labels = read_labels(selector, "matchLabels")
    selector.close()
    return labels


def _key_of(policy: AuthorizationPolicy) -> DocumentKey:
    return DocumentKey(policy.namespace, policy.name)


def _warnings_of(policy: AuthorizationPolicy) -> Sequence[Violation]:
    return policy.warnings


def _is_key(key: DocumentKey) -> bool:
    return is_namespace(key.namespace) and is_name(key.name)


POLICY_KIND = DocumentKind(
    name="policy",
    noun="policy",
    plural="policies",
    key_field="metadata",
    read=_read_policy,
    key_of=_key_of,
    is_key=_is_key,
    max_documents=MAX_POLICIES,
    max_bytes=MAX_POLICY_BYTES,
    warnings_of=_warnings_of,
)
