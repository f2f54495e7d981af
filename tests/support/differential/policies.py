"""Policies at random, over every field, match type and sign, whose values requests often meet."""

import json
import random
from typing import Any

TRUST_DOMAINS = ("cluster.local", "old.example.org")
NAMESPACE = "shop"
# Ports of the listeners in policies; the ports that they got take their place in filters.
MTLS, PLAIN, AS_SENT, TCP = 20001, 20002, 20003, 20004

Document = dict[str, Any]

PRINCIPALS = (
    *("cluster.local/ns/web/sa/front", "old.example.org/ns/web/sa/front", "other.example.org/ns/shop/sa/cart"),
    *("cluster.local/ns/web/*", "*/sa/front", "*", "*front", "*t", "cluster.local/*", "*.local/ns/web/sa/front"),
    *(
        "front.web.svc",
        "*web",
        "*/ns/web/sa/front",
        "cluster.local",
        "*org/ns/web/sa/front",
        "*a*",
        "example.org/x/y/z/q",
    ),
    *("*spiffe://cluster.local/ns/web/sa/front", "web/ns/shop", "c*", "*CN=front", "*2", "*/"),
    *("old*/ns/web/sa/front", "c*/ns/web/sa/front"),
)
NAMESPACES = ("web", "shop", "*", "w*", "*eb", "w*b", "Web", "n", "sa", "a.b", "*n/sa*", "we", "b")
ACCOUNTS = ("web/front", "cart", "shop/cart", "web/cart", "web/x", "other/front", "front")
DOMAINS = ("cluster.local", "old.example.org", "other.example.org", "*", "*.org", "cluster*", "old*", "*l", "web")
BLOCKS = (
    *("127.0.0.1", "127.0.0.0/8", "127.0.0.2/31", "127.0.0.9", "10.0.0.0/8", "0.0.0.0/0", "::1", "::/0"),
    *("::ffff:127.0.0.1", "::ffff:127.0.0.0/104", "203.0.113.7", "203.0.113.0/24", "2001:db8::/32"),
)
HOSTS = (
    *("shop.example.org", "SHOP.example.org", "shop.example.org:8080", "shop.example.org:*", "*.example.org", "*"),
    *(
        "shop.*",
        "shop.example.org.",
        "*.example.org:8080",
        "*:8080",
        "x",
        "[::1]",
        "[::1]:*",
        "127.0.0.1",
        "*org",
        "*.",
    ),
)
METHODS = ("GET", "POST", "get", "G*", "*T", "*", "DELETE", "PUT", "OPTIONS", "p*", "PATCH", "M-SEARCH")
PATHS = (
    *("/admin", "/admin/", "/admin*", "/admin/*", "*admin", "*", "/", "/*", "*/", "/%61dmin", "/admin%2fx", "//admin"),
    *("/a/b", "/a/{*}", "/a/{**}", "/{*}/b", "/{**}/b", "/{*}", "/{**}", "/a/{*}/c/{**}", "/a/{**}/c", "/admin;x=y"),
    *("/admin?x=y", "*.js", "/a*b", "/caf%c3%a9", "/admin#x", "/a.b", "/a/{*}/", "/A", "admin", "/a/../admin", "*=y"),
)
PORTS = tuple(map(str, (MTLS, PLAIN, AS_SENT, TCP, 443)))
HEADERS = {
    "x-role": (
        "admin",
        "admin*",
        "*admin",
        "*",
        "admin,user",
        "user",
        "a*",
        "*r",
        "admin, user",
        "Admin",
        "\u00e9",
        "*,user",
    ),
    "X-Role": ("admin", "user", "*"),
    "x-other": ("1", "*", "1*", "*1"),
    "cookie": ("a=1", "*a=1*", "a=1; b=2", "*"),
    "x-forwarded-for": ("203.0.113.7", "*", "203*", "*.1"),
    ":authority": ("shop.example.org", "SHOP.example.org", "*", "shop*", "*.org", "shop.example.org:8080"),
    ":path": ("/admin", "/admin?x=y", "/admin*", "*x=y", "*", "/", "/admin#x"),
    ":method": ("GET", "get", "*", "G*", "POST", "*T"),
    ":scheme": ("http", "https", "*", "h*"),
    "content-type": ("application/grpc", "application/*", "*"),
    "x-http-method-override": ("DELETE", "*"),
}
SERVER_NAMES = ("shop.example.org", "SHOP.example.org", "*.example.org", "shop.*", "*", "x.example.org", "*.", "*org")

REQUEST_PRINCIPALS = (
    *("https://issuer.example.org/alice", "https://issuer.example.org/*", "https://issuer.example.org/al*", "*"),
    *("*/alice", "*.example.org/alice", "*ice", "https*", "alice", "https://issuer.example.org", "*/", "/alice", "/"),
    *("https://issuer.example.org/", "*a*", "other/bob", "other/team/bob", "*/team/bob", "oth*", "*b"),
)
CLAIMS = ("shop", "api", "sh*", "*op", "*", "other", "shop api", "shop,api", "*a*", "Shop", "[shop]", "true", "3")
FOUND = ("shop", "[shop]", "sh*", "[sh*]", "*", "[*]", "*op", "[*op]", "[]", "[shop", "shop]", "[[shop]]", "3")
CLAIM_KEYS = (
    "[sub]",
    "[scope]",
    "[realm][roles]",
    "[realm][name]",
    "[realm]",
    "[level]",
    "[a.b]",
    "[missing]",
    "[aud]",
)
# What the proxy is configured to let a check have of other filters.
TOKENS_FILTER, FOUND_FILTER = "envoy.filters.http.jwt_authn", "envoy.filters.http.found"

_SOURCE = {
    "principals": PRINCIPALS,
    "namespaces": NAMESPACES,
    "serviceAccounts": ACCOUNTS,
    "trustDomains": DOMAINS,
    "ipBlocks": BLOCKS,
    "remoteIpBlocks": BLOCKS,
    "requestPrincipals": REQUEST_PRINCIPALS,
}
_OPERATION = {"hosts": HOSTS, "methods": METHODS, "paths": PATHS, "ports": PORTS}
_CONDITIONS = {
    "source.principal": PRINCIPALS,
    "source.namespace": NAMESPACES,
    "source.serviceAccount": ACCOUNTS,
    "source.trustDomain": DOMAINS,
    "source.ip": BLOCKS,
    "remote.ip": BLOCKS,
    "destination.ip": BLOCKS,
    "destination.port": PORTS,
    "connection.sni": SERVER_NAMES,
    **{f"request.headers[{name}]": values for name, values in HEADERS.items()},
    "request.auth.principal": REQUEST_PRINCIPALS,
    "request.auth.audiences": CLAIMS,
    "request.auth.presenter": CLAIMS,
    **{f"request.auth.claims{key}": CLAIMS for key in CLAIM_KEYS},
    **{f"experimental.{FOUND_FILTER}[{key}]": FOUND for key in ("k", "missing")},
}
# Istio refuses these beside service accounts.
_BESIDE_NO_ACCOUNT = {"principals", "namespaces"}


def random_sets(number: int, seed: int) -> list[list[Document]]:
    """Return the policies of so many workloads."""
    rng = random.Random(seed)
    return [_policies(rng) for _ in range(number)]


def documents(policies: list[Document]) -> str:
    """Return the policies as one text of YAML, of which JSON is a part."""
    return "\n---\n".join(json.dumps(policy) for policy in policies)


def _policies(rng: random.Random) -> list[Document]:
    if rng.random() < 0.5:
        return [_policy("p0", rng.choice(["ALLOW", "DENY"]), [_plain_rule(rng)])]
    return [_random_policy(rng, f"p{number}") for number in range(rng.randint(1, 4))]


def _random_policy(rng: random.Random, name: str) -> Document:
    action = rng.choices(["ALLOW", "DENY", "AUDIT"], [5, 4, 1])[0]
    rules = [_rule(rng) for _ in range(rng.randint(0 if action == "ALLOW" else 1, 3))]
    policy = _policy(name, action, rules)
    if rng.random() < 0.05 and action != "AUDIT":
        policy["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    return policy


def _policy(name: str, action: str, rules: list[Document]) -> Document:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"action": action, **({"rules": rules} if rules else {})},
    }


def _plain_rule(rng: random.Random) -> Document:
    """A rule about one thing, which requests meet far more often than one about several."""
    part = rng.choice(["from", "to", "when"])
    if part == "when":
        return {"when": [_condition(rng)]}
    fields, inner = (_SOURCE, "source") if part == "from" else (_OPERATION, "operation")
    return {part: [{inner: _some(rng, *rng.choice(list(fields.items())))}]}


def _rule(rng: random.Random) -> Document:
    rule: Document = {}
    if rng.random() < 0.5:
        rule["from"] = [{"source": _fields(rng, _SOURCE)} for _ in range(rng.choice([1, 1, 2]))]
    if rng.random() < 0.5:
        rule["to"] = [{"operation": _fields(rng, _OPERATION)} for _ in range(rng.choice([1, 1, 2]))]
    if rng.random() < 0.5:
        rule["when"] = [_condition(rng) for _ in range(rng.choice([1, 1, 2]))]
    # An empty list is as none.
    for name in ("from", "to", "when"):
        if name not in rule and rng.random() < 0.05:
            rule[name] = []
    return rule


def is_about_metadata(policies: list[Document]) -> bool:
    """Whether they have conditions on what a filter found, which a check of a connection does not have."""
    return f"experimental.{FOUND_FILTER}" in documents(policies)


def _fields(rng: random.Random, known: dict[str, tuple[str, ...]]) -> Document:
    names = rng.sample(list(known), rng.choice([1, 1, 2]))
    if "serviceAccounts" in names and not _BESIDE_NO_ACCOUNT.isdisjoint(names):
        names.remove("serviceAccounts")
    found: Document = {}
    for name in names:
        found |= _some(rng, name, known[name])
    return found


def _condition(rng: random.Random) -> Document:
    key, values = rng.choice(list(_CONDITIONS.items()))
    return {"key": key, **_some(rng, "values", values)}


def _some(rng: random.Random, name: str, values: tuple[str, ...]) -> Document:
    """A field with values, its negation, or both."""
    negated = f"not{name[0].upper()}{name[1:]}"
    kind = rng.random()
    found = {}
    if kind < 0.6:
        found[name] = rng.sample(values, min(len(values), rng.choice([1, 1, 2, 3])))
    if kind > 0.5:
        found[negated] = rng.sample(values, min(len(values), rng.choice([1, 1, 2])))
    return found
