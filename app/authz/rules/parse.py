"""AuthorizationPolicy documents (`security.istio.io/v1`) become values; what is not understood is refused.

Istio's AuthorizationPolicy reference and its validation, `reference/config/security/authorization-policy` and
`normalization`.
"""

from collections.abc import Sequence

from app.authz.model import Action, AuthorizationPolicy, Labels, Rule
from app.authz.rules.kubernetes import read_labels, read_metadata
from app.authz.rules.parse_rule import read_rule
from app.core.errors import InvalidInputError
from app.documents.reader import Problems, Reader

API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
KIND = "AuthorizationPolicy"
DRY_RUN = "istio.io/dry-run"

_NOT_YET = ("targetRef", "targetRefs", "provider")


def parse_policies(documents: Sequence[dict[str, object]]) -> tuple[AuthorizationPolicy, ...]:
    """Return the policies that `documents` spell, in their order.

    Raises InvalidInputError with every violation in all of the documents. Paths start at the document, `spec.rules[0]`,
    and with `documents[N].` before that if there are several. Two documents for one policy are a violation.
    """
    problems = Problems()
    policies: dict[str, AuthorizationPolicy] = {}
    for index, document in enumerate(documents):
        place = f"documents[{index}]" if len(documents) > 1 else ""
        policy = _read_policy(Reader(document, place, problems))
        if policy is not None and policies.setdefault(policy.key, policy) is not policy:
            problems.add(place, f"policy {policy.key} stands in an earlier document, too")
    if not documents:
        problems.add("", f"there is no document: send at least one of kind {KIND}")
    if problems.found:
        raise InvalidInputError(_summary(problems), *problems.found)
    return tuple(policies.values())


def parse_policy(document: dict[str, object]) -> AuthorizationPolicy:
    """Return the policy that one document spells. Raises InvalidInputError as `parse_policies` does."""
    return parse_policies([document])[0]


def _summary(problems: Problems) -> str:
    first = problems.found[0]
    others = f" (and {len(problems.found) - 1} more)" if len(problems.found) > 1 else ""
    return f"policy is not valid: {first}{others}"


def _read_policy(document: Reader) -> AuthorizationPolicy | None:
    problems = document.problems
    before = len(problems.found)
    api_version, kind = document.text("apiVersion"), document.text("kind")
    if api_version not in API_VERSIONS:
        document.refuse("apiVersion", f"must be {API_VERSIONS[0]}")
    if kind != KIND:
        document.refuse("kind", f"must be {KIND}")
    namespace, name, annotations = read_metadata(document, problems)
    if annotations.get(DRY_RUN, "false").lower() != "false":
        problems.add(document.at(f"metadata.annotations.{DRY_RUN}"), "dry run is not supported yet")
    document.take("status")
    spec = document.child("spec")
    action, selector, rules = _read_spec(spec, namespace) if spec else (Action.ALLOW, (), ())
    if not document.has("spec"):
        problems.add(document.at("spec"), "is missing: write 'spec: {}' for a policy that allows nothing")
    document.close()
    if len(problems.found) > before:
        return None
    return AuthorizationPolicy(namespace, name, action, selector, rules)


def _read_spec(spec: Reader, namespace: str) -> tuple[Action, Labels, tuple[Rule, ...]]:
    action = _read_action(spec)
    selector = _read_selector(spec)
    for name in _NOT_YET:
        if spec.has(name):
            spec.refuse(name, "is not supported yet")
    rules = tuple(
        read_rule(reader, namespace)
        for path, item in spec.items("rules")
        if (reader := Reader.open(item, path, spec.problems)) is not None
    )
    if action is Action.DENY and not spec.value.get("rules"):
        spec.refuse("rules", "must not be empty: a DENY policy without rules denies nothing")
    spec.close()
    return action, selector, rules


def _read_action(spec: Reader) -> Action:
    match spec.text("action") if spec.has("action") else Action.ALLOW.value:
        case None:
            pass
        case "ALLOW":
            return Action.ALLOW
        case "DENY":
            return Action.DENY
        case "AUDIT" | "CUSTOM" as action:
            spec.refuse("action", f"{action} is not supported yet: use ALLOW or DENY")
        case other:
            spec.refuse("action", f"{other!r} is not an action: use ALLOW or DENY")
    return Action.ALLOW


def _read_selector(spec: Reader) -> Labels:
    selector = spec.child("selector")
    if selector is None:
        return ()
    labels = read_labels(selector, "matchLabels")
    selector.close()
    return labels
