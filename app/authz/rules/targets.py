"""`targetRefs`: the gateways and services that a policy is attached to, instead of a selector."""

from app.authz.model import Target, TargetKind
from app.authz.rules.kubernetes import is_name
from app.documents.reader import Reader

# Istio's bound.
MAX_TARGETS = 16
# `core` is how Istio's messages call the group of Kubernetes' own kinds, which has no name.
_KINDS = {
    ("gateway.networking.k8s.io", "Gateway"): TargetKind.GATEWAY,
    ("gateway.networking.k8s.io", "GatewayClass"): TargetKind.GATEWAY_CLASS,
    ("", "Service"): TargetKind.SERVICE,
    ("core", "Service"): TargetKind.SERVICE,
    ("networking.istio.io", "ServiceEntry"): TargetKind.SERVICE_ENTRY,
}
_FORMS = ("selector", "targetRef", "targetRefs")


def read_targets(spec: Reader, namespace: str) -> tuple[Target, ...]:
    """Return the targets of a policy in `namespace`, none if it has a selector or is for every workload."""
    used = [name for name in _FORMS if spec.has(name) and spec.value[name] != []]
    if len(used) > 1:
        spec.refuse(used[1], f"cannot be set beside {used[0]}: a policy has one way to say what it is for")
    references = [*spec.children("targetRefs", MAX_TARGETS)]
    if (single := spec.child("targetRef")) is not None:
        references.append(single)
    targets = [_read_target(reference, namespace) for reference in references]
    return tuple(target for target in targets if target is not None)


def _read_target(reference: Reader, namespace: str) -> Target | None:
    group, kind, name = (reference.text(field) or "" for field in ("group", "kind", "name"))
    found = _KINDS.get((group, kind))
    if found is None:
        names = ", ".join(dict.fromkeys(f"{group}/{kind}".lstrip("/") for group, kind in _KINDS if group != "core"))
        reference.refuse("kind", f"{f'{group}/{kind}'.lstrip('/')!r} cannot be a target: use one of {names}")
    if not is_name(name):
        reference.refuse("name", f"{name!r} is not the name of an object")
    given = reference.text("namespace")
    if given and (given != namespace or found is TargetKind.GATEWAY_CLASS):
        reference.refuse("namespace", "must be left out: a target is in the namespace of its policy")
    reference.close()
    return Target(found, name) if found is not None else None
