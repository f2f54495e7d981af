"""The body and header for a client: what was denied, and by which rule only where that is exposed."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from app.core.decision import Decision, Watch

# What may stand in a query as it is (RFC 3986, section 3.4), but for what servers part it by: `&` and `;`, and in a
# name `=` and `+`. Envoy writes what it is sent into the path as it is.
_IN_A_NAME = "!$'()*,/:?@~%"
_IN_A_VALUE = f"{_IN_A_NAME}=+"
_NO_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")

DECISION_HEADER = "x-meshward-decision"
CONTENT_TYPE = "text/plain; charset=utf-8"
# Characters of method and path in a body: enough to recognise them.
MAX_SHOWN_REQUEST = 200


def denial_body(decision: Decision, method: str, path: str, *, expose: bool, metadata: bool = True) -> str:
    """Return the text for a denied client; with `expose` it has the reason, and so the policy and the rule.

    `metadata`: the response has the rule in its dynamic metadata, which a response over HTTP cannot.
    """
    request = f"{method} {path.partition('?')[0]}"[:MAX_SHOWN_REQUEST]
    if not method or not request.isascii() or not request.isprintable():
        request = "The request"
    if expose:
        return f"{request} was denied: {decision.reason}.\n"
    place = "The access log of the workload's proxy can name the rule: it is in the metadata of this check.\n"
    return f"{request} was denied by the mesh's authorization policy.\n{place if metadata else ''}"


def query_name(text: str) -> str:
    """Return the name of a query parameter as it stands in a path; what is escaped already stays so."""
    return quote(_NO_ESCAPE.sub("%25", text), safe=_IN_A_NAME)


def query_value(text: str) -> str:
    """Return the value of a query parameter as it stands in a path; what is escaped already stays so."""
    return quote(_NO_ESCAPE.sub("%25", text), safe=_IN_A_VALUE)


def observed_metadata(decision: Decision) -> Iterator[tuple[str, str]]:
    """Yield keys and values of dynamic metadata about policies that decide nothing.

    Dry runs have the keys and values that Istio's proxy writes under `envoy.filters.http.rbac`.
    """
    for each in decision.observed:
        if each.watch is Watch.AUDIT:
            yield "meshward.audit", f"{each.policy} {each.rule}"
            continue
        prefix = f"istio_{each.watch.value}_shadow"
        yield f"{prefix}_engine_result", each.result
        if each.policy:
            namespace, _, name = each.policy.partition("/")
            number = each.rule.removeprefix("rules")
            yield f"{prefix}_effective_policy_id", f"ns[{namespace}]-policy[{name}]-rule{number}"


def decision_header(decision: Decision) -> str:
    """Return the value of `x-meshward-decision`: `deny; policy=shop/no-admin; rule=rules[0]`."""
    outcome = decision.outcome.value
    return f"{outcome}; policy={decision.policy}; rule={decision.rule}" if decision.policy else outcome
