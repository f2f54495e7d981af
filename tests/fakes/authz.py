"""Requests and policies as tests write them."""

from dataclasses import replace
from typing import Any

from app.authz.model import NO_CLAIMS, AuthzOptions, CheckInput, Connection, Labels, Matching, Verdict, Workload
from app.authz.rpc.attributes import read_authority, read_method
from app.authz.rpc.peers import read_identity
from app.authz.rules.addresses import read_address
from app.authz.rules.compile import CompiledPolicy, compile_policy
from app.authz.rules.evaluate import NativeEngine
from app.authz.rules.parse import POLICY_KIND
from app.authz.rules.paths import read_path
from app.documents.parser import parse_documents

SHOP = Workload("shop", (("app", "shop"),))
DEFAULTS = AuthzOptions(matching=Matching.STRICT)


def engine_of(text: str, options: AuthzOptions = DEFAULTS) -> NativeEngine:
    """The engine for the policies in YAML."""
    return NativeEngine.of(compiled_of(text, options) if text.strip() else (), options)


def compiled_of(text: str, options: AuthzOptions = DEFAULTS) -> list[CompiledPolicy]:
    """The policies in YAML, compiled."""
    return [compile_policy(policy, options) for policy in POLICY_KIND.parse(parse_documents(text.encode()))]


def policy(spec: str, name: str = "p", namespace: str = "shop") -> str:
    """A policy document around a spec in YAML's flow form."""
    return f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def request(  # a request as a person thinks of it
    path: str = "/",
    *,
    method: str = "GET",
    host: str = "shop.example.org",
    source: str | None = "spiffe://cluster.local/ns/web/sa/front",
    headers: dict[str, tuple[str, ...]] | None = None,
    workload: Workload | None = SHOP,
    source_ip: str | None = "10.1.2.3",
    remote_ip: str | None = None,
    destination_ip: str | None = "10.9.9.9",
    port: int | None = 8080,
    sni: str | None = None,
) -> CheckInput:
    """The input of a check; `source` "" is a peer without identity, None a missing attribute."""
    reading = read_path(path)
    assert not reading.problem, reading.problem
    return CheckInput(
        Connection(
            workload=workload,
            source=None if source is None else read_identity(source),
            source_ip=read_address(source_ip) if source_ip else None,
            destination_ip=read_address(destination_ip) if destination_ip else None,
            destination_port=port,
            sni=sni,
        ),
        method=read_method(method),
        path=reading.path,
        other_paths=reading.others,
        host=read_authority(host),
        headers={**sent_as(path, method, host), **(headers or {})},
        claims=NO_CLAIMS,
        metadata=NO_CLAIMS,
        remote_ip=read_address(remote_ip or source_ip or ""),
    )


def with_connection(check: CheckInput, **changes: Any) -> CheckInput:
    """The check with other values of its connection."""
    return replace(check, connection=replace(check.connection, **changes))


def connection(  # as `request`, for what has no HTTP
    *, source: str | None = "spiffe://cluster.local/ns/web/sa/front", port: int | None = 8080, sni: str | None = None
) -> CheckInput:
    """The input of a check of a TCP connection."""
    asked = request(source=source, port=port, sni=sni)
    return replace(asked, is_tcp=True, method=None, path=None, host=None, headers={})


def sent_as(path: str, method: str, host: str) -> dict[str, tuple[str, ...]]:
    """The pseudo-headers of a request."""
    return {":path": (path,), ":method": (method,), ":authority": (host,), ":scheme": ("https",)}


def verdict(text: str, check: CheckInput, options: AuthzOptions = DEFAULTS) -> Verdict:
    found = engine_of(text, options).evaluate(check)
    assert isinstance(found, Verdict), "a provider has to be asked"
    return found


def allowed(text: str, check: CheckInput, options: AuthzOptions = DEFAULTS) -> bool:
    return verdict(text, check, options).decision.allowed


def matches(rule: str, check: CheckInput) -> bool:
    """Whether one rule grants a request, its policy being the only one."""
    return allowed(policy(f"{{rules: [{rule}]}}"), check)


def refuses(rule: str, check: CheckInput) -> bool:
    """Whether one rule of a DENY policy denies a request."""
    return not allowed(policy(f"{{action: DENY, rules: [{rule}]}}"), check)


def workload(namespace: str, **labels: str) -> Workload:
    pairs: Labels = tuple(sorted(labels.items()))
    return Workload(namespace, pairs)
