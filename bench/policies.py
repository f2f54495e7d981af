"""Policies of a mesh, as many as wanted, of every action and most kinds of match.

One in ten is of the namespace that is asked about, `shop`. Each kind is there once in ten of those, so that no kind
decides what a table shows. Four policies of the root namespace are for every workload and cannot be found by an index:
they are evaluated with each check.
"""

from collections.abc import Callable
from typing import Any

Spec = dict[str, Any]
ROOT = "istio-system"
NAMESPACE = "shop"
# How many of the policies one is of NAMESPACE.
SHARE = 10
NAMESPACES = 50


def _spec(action: str, rule: Spec, **more: Any) -> Spec:
    return {"action": action, "rules": [rule], **more}


def _rule(source: Spec | None = None, operation: Spec | None = None, *conditions: Spec) -> Spec:
    rule: Spec = {}
    if source is not None:
        rule["from"] = [{"source": source}]
    if operation is not None:
        rule["to"] = [{"operation": operation}]
    if conditions:
        rule["when"] = list(conditions)
    return rule


def _when(key: str, *values: str) -> Spec:
    return {"key": key, "values": list(values)}


def _caller(number: int) -> str:
    return f"cluster.local/ns/shop/sa/{number or 'web'}"


_KINDS: tuple[Callable[[int], Spec], ...] = (
    # The first of these allows the check that the benchmarks make.
    lambda n: _spec("ALLOW", _rule({"principals": [_caller(n)]}, {"methods": ["GET"], "paths": [f"/api/v{n + 1}/*"]})),
    lambda n: _spec("DENY", _rule({"notPrincipals": ["cluster.local/ns/ops/sa/*"]}, {"paths": [f"/admin/{n}"]})),
    lambda n: _spec(
        "ALLOW",
        _rule(
            {"namespaces": ["shop", f"shop-{n}"]},
            {"hosts": [f"s{n}.example.org", f"s{n}.example.org:*"], "ports": ["8080"]},
        ),
    ),
    lambda n: _spec(
        "ALLOW", _rule(None, {"paths": [f"/tenants/{n}/{{*}}/items"]}, _when("request.headers[x-tenant]", f"t{n}"))
    ),
    lambda n: _spec("AUDIT", _rule(None, {"paths": [f"/reports/{n}/*"], "notMethods": ["GET"]})),
    lambda n: _spec("DENY", _rule(None, {"hosts": [f"old{n}.example.org"], "methods": ["DELETE", "PUT"]})),
    lambda n: _spec(
        "ALLOW", _rule({"serviceAccounts": [f"shop/a{n}"]}, {"paths": [f"/jobs/{n}"]}), selector=_labels("jobs")
    ),
    lambda n: _spec("DENY", _rule({"notIpBlocks": ["10.0.0.0/8"]}, {"paths": [f"/internal/{n}/*"]})),
    lambda n: _spec(
        "ALLOW",
        _rule(
            {"principals": [f"cluster.local/ns/batch/sa/{n}"]},
            {"notPaths": ["/admin/*"]},
            _when("connection.sni", "*.example.org"),
        ),
    ),
    lambda n: _spec("DENY", _rule(None, {"paths": [f"/v{n}/export"]}, _when("destination.port", "8080"))),
)

_OF_EVERY_WORKLOAD: tuple[Spec, ...] = (
    _spec("DENY", _rule(None, None, _when("request.headers[x-blocked]", "*"))),
    _spec("DENY", _rule({"ipBlocks": ["192.0.2.0/24", "198.51.100.0/24"]})),
    _spec("DENY", _rule(None, {"paths": ["*.php", "*.bak"]})),
    _spec("AUDIT", _rule(None, {"methods": ["DELETE"]}, _when("request.headers[user-agent]", "bot*"))),
)


def _labels(app: str) -> Spec:
    return {"matchLabels": {"app": app}}


def policy(index: int) -> dict[str, object]:
    """Return one of the policies.

    The one with the index 0 allows the check that the benchmarks make. Its name is the last in the order in which the
    policies of a workload are looked at.
    """
    if 0 < index <= len(_OF_EVERY_WORKLOAD):
        namespace, spec = ROOT, _OF_EVERY_WORKLOAD[index - 1]
    else:
        namespace = NAMESPACE if index % SHARE == 0 else f"ns{index % NAMESPACES}"
        spec = _KINDS[index // SHARE % len(_KINDS)](index)
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"p{index}" if index else "web", "namespace": namespace},
        "spec": spec,
    }
