"""The index after a change: it decides as one made anew, and shares what the change did not touch."""

import pytest

from app.authz.model import AuthzOptions, Workload
from app.authz.rules import index as index_module
from app.authz.rules.candidates import ALLOW
from app.authz.rules.compile import compile_policy
from app.authz.rules.index import PolicyIndex
from app.authz.rules.parse import POLICY_KIND
from app.documents.parser import parse_documents
from tests.fakes.authz import policy, request

CART = Workload("shop", (("app", "cart"),))
WEB = Workload("web", (("app", "web"),))


def compiled(spec, name="p", namespace="shop"):
    (found,) = POLICY_KIND.parse(parse_documents(policy(spec, name, namespace).encode()))
    return compile_policy(found, AuthzOptions())


def allow(path, selector=""):
    chosen = f"selector: {{matchLabels: {{app: {selector}}}}}, " if selector else ""
    return f"{{{chosen}rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}"


def allowed_by(index, path, workload=CART):
    asked = request(path)
    shortlist = index.shortlist(workload, asked)
    rule = shortlist.rules.candidates.first_matches(asked, shortlist.found)[ALLOW]
    return rule and rule.verdict.decision.policy


@pytest.fixture
def policies():
    return {
        "a": compiled(allow("/a"), "a"),
        "cart": compiled(allow("/cart", "cart"), "cart"),
        "web": compiled(allow("/web"), "web", "web"),
        "all": compiled(allow("/all"), "all", "istio-system"),
    }


@pytest.fixture
def index(policies):
    return PolicyIndex(policies.values(), "istio-system")


def test_a_change_is_in_the_new_index_and_not_in_the_old_one(index, policies):
    changed = index.changed([policies["a"]], [compiled(allow("/b"), "a"), compiled(allow("/c"), "c")])
    assert [allowed_by(index, path) for path in ("/a", "/b", "/c")] == ["shop/a", None, None]
    assert [allowed_by(changed, path) for path in ("/a", "/b", "/c")] == [None, "shop/a", "shop/c"]
    assert allowed_by(changed, "/cart") == "shop/cart"
    assert allowed_by(changed, "/all") == "istio-system/all"


def test_what_a_change_does_not_touch_is_shared(index, policies):
    web, cart = index.rules_for(WEB), index.rules_for(CART)
    changed = index.changed([policies["a"]], [compiled(allow("/b"), "a")])
    assert changed.rules_for(WEB) is web
    assert changed.rules_for(CART) is not cart
    # The tables of another selector in the same namespace are those of before.
    tables = {id(table) for table in cart.candidates.tables}
    assert len(tables & {id(table) for table in changed.rules_for(CART).candidates.tables}) == 2


def test_rules_under_the_other_keys_of_a_table_are_shared():
    first, second = compiled(allow("/a"), "a"), compiled(allow("/b"), "b")
    before = PolicyIndex([first, second], "root")
    after = before.changed([first], [compiled(allow("/c"), "a")])
    (old,), (new,) = before.rules_for(CART).candidates.tables, after.rules_for(CART).candidates.tables
    assert new.lookups[0].exact["/b"] is old.lookups[0].exact["/b"]
    assert set(new.lookups[0].exact) == {"/b", "/c"}


def test_the_policies_of_the_root_namespace_are_for_all_after_a_change(index, policies):
    index.rules_for(WEB)
    changed = index.changed([policies["all"]], [compiled(allow("/new"), "new", "istio-system")])
    assert [allowed_by(changed, path, WEB) for path in ("/all", "/new", "/web")] == [
        None,
        "istio-system/new",
        "web/web",
    ]
    assert allowed_by(changed, "/new", Workload("unknown")) == "istio-system/new"


def test_the_last_policy_of_a_namespace_and_of_a_selector_leaves_nothing(index, policies):
    changed = index.changed([policies["cart"], policies["a"], policies["web"]], [])
    assert not changed.selects_by_labels("shop")
    assert allowed_by(changed, "/a") is None
    assert changed.rules_for(WEB).has_allow_policy  # the root namespace's
    emptied = changed.changed([policies["all"]], [])
    assert not emptied.rules_for(CART).has_allow_policy


def test_the_first_rule_by_name_and_number_is_reported_whatever_the_order_of_changes():
    rest = "{rules: [{to: [{operation: {methods: [GET]}}]}]}"
    index = PolicyIndex([compiled(rest, "m")], "root")
    index = index.changed([], [compiled(allow("/"), "z"), compiled(allow("/"), "b")])
    assert allowed_by(index, "/") == "shop/b"
    index = index.changed([], [compiled(rest, "a")])
    assert allowed_by(index, "/") == "shop/a"


def test_the_workloads_that_are_remembered_are_bounded_over_changes(index, policies, monkeypatch):
    monkeypatch.setattr(index_module, "MAX_WORKLOADS", 5)
    for number in range(20):
        index = index.changed([], [compiled(allow(f"/{number}"), f"n{number}", "web")])
        index.rules_for(Workload("shop", (("app", str(number)),)))
    assert sum(len(scope.made) for scope in index._scopes.values()) <= 6
