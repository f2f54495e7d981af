"""AUDIT policies and dry runs: what they find goes with the decision, and changes none."""

import pytest

from app.authz.model import Cause, Workload
from app.core.decision import Observation, Watch
from tests.fakes.authz import policy, request, verdict, workload

GET = "{rules: [{to: [{operation: {methods: [GET]}}]}]}"
DENY_GET = "{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}, {to: [{operation: {methods: [GET]}}]}]}"
AUDIT_GET = "{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}"


def dry(spec: str, name: str = "dry", namespace: str = "shop") -> str:
    metadata = f"{{name: {name}, namespace: {namespace}"
    return policy(spec, name, namespace).replace(metadata, f"{metadata}, annotations: {{istio.io/dry-run: 'true'}}")


def observed(text, **asked):
    return verdict(text, request(**asked)).decision.observed


def test_an_audit_policy_records_what_it_matches_and_decides_nothing():
    found = verdict(policy(AUDIT_GET, name="a"), request())
    assert (found.decision.allowed, found.cause) == (True, Cause.NO_POLICY)
    assert found.decision.observed == (Observation(Watch.AUDIT, "matched", "shop/a", "rules[0]"),)
    assert observed(policy(AUDIT_GET), method="PUT") == ()


def test_a_denied_request_is_audited_as_well():
    found = verdict(policy(AUDIT_GET, name="a") + policy("{action: DENY, rules: [{}]}", name="d"), request())
    assert (found.decision.allowed, found.decision.policy) == (False, "shop/d")
    assert found.decision.observed == (Observation(Watch.AUDIT, "matched", "shop/a", "rules[0]"),)


def test_the_dry_run_of_a_denial_records_it_and_lets_the_request_pass():
    found = verdict(dry(DENY_GET), request())
    assert (found.decision.allowed, found.cause) == (True, Cause.NO_POLICY)
    assert found.decision.observed == (Observation(Watch.DRY_RUN_DENY, "denied", "shop/dry", "rules[1]"),)
    assert observed(dry(DENY_GET), method="HEAD") == (Observation(Watch.DRY_RUN_DENY, "allowed"),)


def test_the_dry_run_of_an_allow_policy_denies_nothing_and_records_what_it_would():
    found = verdict(dry(GET), request(method="PUT"))
    assert (found.decision.allowed, found.cause) == (True, Cause.NO_POLICY)
    assert found.decision.observed == (Observation(Watch.DRY_RUN_ALLOW, "denied"),)
    assert observed(dry(GET)) == (Observation(Watch.DRY_RUN_ALLOW, "allowed", "shop/dry", "rules[0]"),)
    assert observed(dry("{}")) == (Observation(Watch.DRY_RUN_ALLOW, "denied"),)


def test_the_dry_run_of_an_allow_policy_grants_nothing():
    found = verdict(dry("{rules: [{}]}") + policy(GET), request(method="PUT"))
    assert (found.decision.allowed, found.cause) == (False, Cause.NO_MATCH)


def test_all_that_watches_is_recorded_in_one_order():
    found = observed(dry(GET, "a") + dry(DENY_GET, "b") + policy(AUDIT_GET, name="c"))
    assert [(each.watch, each.policy) for each in found] == [
        (Watch.AUDIT, "shop/c"),
        (Watch.DRY_RUN_DENY, "shop/b"),
        (Watch.DRY_RUN_ALLOW, "shop/a"),
    ]


@pytest.mark.parametrize("path", ["/a/..;/secret", "/secret"])
def test_every_reading_of_a_request_is_observed(path):
    rule = "rules: [{to: [{operation: {paths: ['/secret']}}]}]"
    assert observed(policy(f"{{action: AUDIT, {rule}}}"), path=path)
    assert observed(dry(f"{{action: DENY, {rule}}}"), path=path)[0].result == "denied"
    allow = "{rules: [{to: [{operation: {paths: ['/a*']}}]}]}"
    assert observed(dry(allow), path=path)[0].result == "denied"


def test_policies_that_decide_nothing_have_the_scope_of_others():
    text = dry(DENY_GET, namespace="other") + dry("{selector: {matchLabels: {app: x}}, action: DENY, rules: [{}]}")
    assert observed(text) == ()
    assert observed(text, workload=workload("shop", app="x"))
    assert observed(dry(DENY_GET, namespace="istio-system"))


def test_missing_labels_deny_nothing_where_only_policies_select_by_them_that_decide_nothing():
    selecting = "{selector: {matchLabels: {app: x}}, action: DENY, rules: [{}]}"
    assert verdict(dry(selecting), request(workload=Workload("shop", None))).decision.allowed
    both = dry(selecting) + policy(selecting)
    assert verdict(both, request(workload=Workload("shop", None))).cause is Cause.UNKNOWN_WORKLOAD
