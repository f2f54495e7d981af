"""Which limit applies: exact before pattern before bare key, no way back, equal depth only."""

import pytest

from app.documents.parser import parse_documents
from app.quota.model import Descriptor, FixedWindow, Modes, RateLimit, Unit, Unlimited
from app.quota.rules.match import limits_of, match_request
from app.quota.rules.parse import QUOTA_KIND
from app.quota.rules.tree import compile_config, compile_pattern, find_limit


def tree(text):
    (document,) = parse_documents(text.encode())
    return compile_config(QUOTA_KIND.parse([document])[0])


def limit_of(config, *entries):
    found = find_limit(config.root, tuple(entries))
    return found.limit.requests_per_unit if found else None


ORDER = tree("""
domain: d
descriptors:
- {key: k, rate_limit: {unit: day, requests_per_unit: 1}}
- {key: k, value: 'a*', rate_limit: {unit: day, requests_per_unit: 2}}
- {key: k, value: 'ab*', rate_limit: {unit: day, requests_per_unit: 3}}
- {key: k, value: abc, rate_limit: {unit: day, requests_per_unit: 4}}
- {key: other, value: 'x*', rate_limit: {unit: day, requests_per_unit: 5}}
""")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (("k", "abc"), 4),
        (("k", "abd"), 2),  # the first pattern in file order, not the narrowest
        (("k", "ab*"), 3),  # spelled exactly
        (("k", "zzz"), 1),
        (("k", ""), 1),
        (("other", "xy"), 5),
        (("other", "y"), None),
        (("k_a", "bc"), None),
        (("K", "abc"), None),
    ],
)
def test_exact_comes_before_pattern_before_bare_key(entry, expected):
    assert limit_of(ORDER, entry) == expected


DEPTH = tree("""
domain: d
descriptors:
- key: a
  value: x
  descriptors:
  - {key: b, value: y, rate_limit: {unit: day, requests_per_unit: 1}}
- key: a
  rate_limit: {unit: day, requests_per_unit: 2}
  descriptors:
  - {key: b, rate_limit: {unit: day, requests_per_unit: 3}}
""")


def test_a_limit_applies_at_equal_depth_only():
    assert limit_of(DEPTH, ("a", "q")) == 2
    assert limit_of(DEPTH, ("a", "q"), ("b", "y")) == 3
    assert limit_of(DEPTH, ("a", "q"), ("b", "y"), ("c", "z")) is None
    assert limit_of(DEPTH, ("a", "x")) is None


def test_a_choice_is_final():
    assert limit_of(DEPTH, ("a", "x"), ("b", "y")) == 1
    assert limit_of(DEPTH, ("a", "x"), ("b", "other")) is None  # the bare `a` would have led to a limit


def test_the_order_of_entries_matters():
    assert limit_of(DEPTH, ("b", "y"), ("a", "x")) is None


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ["", "x", "a/b"], []),
        ("a*", ["a", "ab"], ["", "ba"]),
        ("*a", ["a", "ba"], ["", "ab"]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
        ("/v*/users/*", ["/v1/users/", "/v/users/7", "/v1/x/users/7"], ["/v1/users", "/users/7"]),
        ("a**b", ["ab", "axb"], ["a", "b"]),
        ("*ab*ab*", ["abab", "xabyabz"], ["ab", "aba"]),
        ("x*ab*ab", ["xabab", "xab-ab"], ["xab", "xaab"]),
        ("*aa*aa*", ["aaaa", "aabaa"], ["aaa"]),
        ("[a-z]*", ["[a-z]!"], ["b"]),
    ],
)
def test_only_a_star_matches_any_text(pattern, matching, others):
    compiled = compile_pattern(pattern)
    assert [value for value in matching if not compiled.matches(value)] == []
    assert [value for value in others if compiled.matches(value)] == []


REPLACING = tree("""
domain: d
descriptors:
- {key: everyone, rate_limit: {unit: day, requests_per_unit: 1, name: everyone}}
- {key: member, rate_limit: {unit: day, requests_per_unit: 9, name: member, replaces: [{name: everyone}]}}
- {key: staff, rate_limit: {unlimited: true, name: staff, replaces: [{name: everyone}, {name: member}]}}
- {key: guest, rate_limit: {unit: day, requests_per_unit: 0, replaces: [{name: staff}]}}
""")


def test_a_replaced_limit_is_dropped_at_any_place_in_the_request():
    everyone, member, staff = (Descriptor(((key, "x"),)) for key in ("everyone", "member", "staff"))
    named = [applied.limit.name if applied else None for applied in limits_of(REPLACING, [everyone, member])]
    assert named == [None, "member"]
    assert limits_of(REPLACING, [everyone])[0].limit.name == "everyone"
    first, second, third = limits_of(REPLACING, [everyone, member, staff])
    assert (first, second, type(third.limit)) == (None, None, Unlimited)


def test_unlimited_stays_so_where_it_is_replaced():
    staff, guest = limits_of(REPLACING, [Descriptor((("staff", "x"),)), Descriptor((("guest", "x"),))])
    assert (type(staff.limit), guest.limit.requests_per_unit) == (Unlimited, 0)


SHARED = tree("""
domain: d
descriptors:
- key: file
  value: 'a*'
  share_threshold: true
  rate_limit: {unit: day, requests_per_unit: 1}
  descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 2}}
- {key: file, value: 'b*', rate_limit: {unit: day, requests_per_unit: 3}}
""")


def keys(*descriptors):
    return [hit.key for hit in match_request("d", SHARED, descriptors, 1, 1).hits]


def test_values_of_a_pattern_that_shares_its_threshold_count_together():
    files = [Descriptor((("file", value),)) for value in ("a1", "a2", "a*", "b1", "b2")]
    assert keys(*files) == [("a*",), ("a*",), ("a*",), ("b1",), ("b2",)]
    below = [Descriptor((("file", file), ("user", user))) for file, user in (("a1", "x"), ("a2", "x"), ("a2", "y"))]
    assert keys(*below) == [("a*", "x"), ("a*", "x"), ("a*", "y")]


def test_an_override_of_a_shared_limit_counts_each_value_by_itself():
    override = RateLimit(Unit.DAY, 9)
    one, two, spelled = (Descriptor((("file", value),), override=override) for value in ("a1", "a2", "a*"))
    assert keys(one, two, spelled) == [("file", "a1"), ("file", "a2"), ("a*",)]


NAMED = tree("""
domain: shop
descriptors:
- key: path
  value: '/api/*'
  value_to_metric: true
  rate_limit: {unit: day, requests_per_unit: 1}
  descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 1}}
- key: tenant
  descriptors:
  - {key: user, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: user, value: x, rate_limit: {unit: day, requests_per_unit: 1}}
- {key: file, value: '*', share_threshold: true, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}
""")


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ([("path", "/api/7")], "shop.path_/api/7"),
        ([("path", "/api/7"), ("user", "ann")], "shop.path_/api/7.user"),
        ([("tenant", "t"), ("user", "ann")], "shop.tenant_t.user_ann"),
        ([("tenant", "t"), ("user", "")], "shop.tenant_t.user_"),
        ([("tenant", ""), ("user", "x")], "shop.tenant.user_x"),
        ([("tenant", "t"), ("user", "x")], "shop.tenant.user_x"),
        ([("file", "a")], "shop.file_*"),
    ],
)
def test_a_limit_has_the_name_in_metrics_that_envoyproxy_ratelimit_gives_it(entries, rule):
    matched = match_request("shop", NAMED, [Descriptor(tuple(entries))], 1, 1)
    assert [each.counts[1].rule for each in matched.descriptors if each.counts] == [rule]


MIXED = tree("""
domain: d
descriptors:
- {key: a, rate_limit: {unit: day, requests_per_unit: 1}}
- {key: b, rate_limit: {unit: day, requests_per_unit: 1}, shadow_mode: true}
- {key: c, rate_limit: {unit: day, requests_per_unit: 1}, quota_mode: true}
- {key: free, rate_limit: {unlimited: true}}
""")


@pytest.mark.parametrize(
    ("modes", "refusing"),
    [
        (Modes(), None),
        (Modes(count_refused=False), [True, False, False]),
        (Modes(quota=True, count_refused=False), [False, False, False]),
    ],
)
def test_hits_go_together_unless_refused_ones_are_counted(modes, refusing):
    descriptors = [Descriptor(((key, ""),)) for key in ("free", "a", "none", "b", "c")]
    joint = match_request("d", MIXED, descriptors, 1, 9, modes).joint
    assert (joint and joint.refusing) == refusing


def test_the_names_of_a_configuration_are_those_that_take_no_values_of_requests():
    assert NAMED.rules == {"shop.tenant.user_x", "shop.file_*"}


def test_an_override_applies_in_place_of_the_configuration():
    override = RateLimit(Unit.HOUR, 7)
    for entries in ((("k", "abc"),), (("no", "such"),)):
        (applied,) = limits_of(ORDER, [Descriptor(entries, override=override)])
        assert (applied.limit, applied.algorithm) == (override, FixedWindow(7, 3600))


def test_an_override_shares_the_counter_of_the_limit_with_its_unit():
    configured, same_unit, other_unit, unconfigured = limits_of(
        ORDER,
        [
            Descriptor((("k", "abc"),)),
            Descriptor((("k", "abc"),), override=RateLimit(Unit.DAY, 7)),
            Descriptor((("k", "abc"),), override=RateLimit(Unit.HOUR, 7)),
            Descriptor((("no", "such"),), override=RateLimit(Unit.HOUR, 7)),
        ],
    )
    assert same_unit.limit_id == configured.limit_id
    assert other_unit.limit_id not in {configured.limit_id, None}
    assert unconfigured.limit_id == other_unit.limit_id
    assert {configured.limit_id, other_unit.limit_id} <= ORDER.limits


def test_no_two_limits_have_one_identity():
    limits = [
        "- {key: a, value: b, rate_limit: {unit: day, requests_per_unit: 1}}",
        "- {key: a, value: c, rate_limit: {unit: day, requests_per_unit: 1}}",
        "- {key: a, rate_limit: {unit: day, requests_per_unit: 1}}",
        "- {key: a, rate_limit: {unit: hour, requests_per_unit: 1}}",
        "- {key: a, rate_limit: {unlimited: true}}",
        "- {key: a, descriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 1}}]}",
        "- {key: a_b, rate_limit: {unit: day, requests_per_unit: 1}}",
    ]
    configs = [tree(f"domain: {domain}\ndescriptors:\n{limit}") for domain in ("d", "e") for limit in limits]
    own = [config.limits - set(config.overrides.values()) for config in configs]
    assert [len(limit_ids) for limit_ids in own] == [1] * len(configs)
    assert len(set().union(*own)) == len(configs)
    assert configs[0].limits == tree(f"domain: d\ndescriptors:\n{limits[0]}").limits
