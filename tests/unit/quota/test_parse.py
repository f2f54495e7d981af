"""envoyproxy/ratelimit's schema: what it means, and every way to get it wrong."""

from dataclasses import replace

import pytest

from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from app.documents.reader import MAX_VIOLATIONS
from app.quota.model import MAX_ENTRIES, ConfigDescriptor, QuotaConfig, RateLimit, Unit, Unlimited
from app.quota.rules.fields import MAX_NAME_LENGTH
from app.quota.rules.parse import MAX_CONFIG_VALUE_LENGTH, MAX_WILDCARDS, QUOTA_KIND


def parse(text):
    (document,) = parse_documents(text.encode())
    return QUOTA_KIND.parse([document])[0]


def violations(text):
    with pytest.raises(InvalidInputError) as caught:
        parse(text)
    return {violation.path: violation.problem for violation in caught.value.violations}


def under_limit(fields):
    return violations(f"domain: d\ndescriptors:\n- key: k\n  rate_limit: {fields}\n")


def test_a_nested_document_becomes_the_tree_that_it_describes():
    assert parse("""
domain: edge
descriptors:
- key: path
  value: /login
  rate_limit: {unit: Minute, requests_per_unit: 5, name: login, replaces: [{name: everyone}]}
  shadow_mode: true
  descriptors:
  - key: user
    rate_limit: {unlimited: true}
- key: remote_address
""") == QuotaConfig(
        "edge",
        (
            ConfigDescriptor(
                "path",
                "/login",
                RateLimit(Unit.MINUTE, 5, "login", frozenset({"everyone"}), shadow_mode=True),
                (ConfigDescriptor("user", None, Unlimited()),),
            ),
            ConfigDescriptor("remote_address", None, None),
        ),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("second", 1),
        ("MINUTE", 60),
        ("Hour", 3600),
        ("day", 86_400),
        ("week", 604_800),
        ("month", 2_592_000),
        ("year", 31_536_000),
    ],
)
def test_units_are_read_in_any_case(text, seconds):
    config = parse(f"domain: d\ndescriptors: [{{key: k, rate_limit: {{unit: {text}, requests_per_unit: 1}}}}]")
    assert config.descriptors[0].limit.unit.value == seconds


def test_a_number_as_value_is_its_text():
    assert parse("domain: d\ndescriptors: [{key: status, value: 404}]").descriptors[0].value == "404"


def test_a_number_that_is_not_spelled_plainly_keeps_its_spelling():
    assert parse("domain: d\ndescriptors: [{key: code, value: 007}]").descriptors[0].value == "007"


def test_an_empty_value_means_any_value():
    assert parse('domain: d\ndescriptors: [{key: k, value: ""}]').descriptors[0].value is None


def test_a_domain_without_descriptors_is_valid():
    assert parse("domain: d") == QuotaConfig("d", ())


def test_zero_requests_is_a_limit():
    config = parse("domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 0}}]")
    assert config.descriptors[0].limit == RateLimit(Unit.DAY, 0)


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("descriptors: []", "domain", "is required"),
        ("domain: ''", "domain", "must not be empty"),
        ("domain: 5.0", "domain", "must be a string"),
        ("domain: ' d'", "domain", "printable"),
        ('domain: "a\\nb"', "domain", "printable"),
        ("domain: d\nlimits: []", "limits", "is not a field here"),
        ("domain: d\nquota_mode: true", "quota_mode", "is not a field here"),
        ("domain: d\ndescriptors: {key: k}", "descriptors", "must be a list"),
        ("domain: d\ndescriptors: [k]", "descriptors[0]", "must be a mapping"),
        ("domain: d\ndescriptors: [{value: v}]", "descriptors[0].key", "is required"),
        ("domain: d\ndescriptors: [{key: ''}]", "descriptors[0].key", "must not be empty"),
        ("domain: d\ndescriptors: [{key: [a]}]", "descriptors[0].key", "must be a string"),
        ("domain: d\ndescriptors: [{key: }]", "descriptors[0].key", "is required"),
        ("domain: d\ndescriptors: [{key: 'a*'}]", "descriptors[0].key", "patterns belong in value"),
        ("domain: d\ndescriptors: [{key: k, value: {}}]", "descriptors[0].value", "must be a string"),
        ("domain: d\ndescriptors: [{key: k, value: 1.5}]", "descriptors[0].value", "put it in quotes"),
        ("domain: d\ndescriptors: [{key: k, keys: }]", "descriptors[0].keys", "is not a field here"),
        ("domain: d\ndescriptors: [{key: k, keys: v}]", "descriptors[0].keys", "is not a field here"),
        (
            "domain: d\ndescriptors: [{key: k, share_threshold: true}]",
            "descriptors[0].share_threshold",
            "needs a value with a '*'",
        ),
        (
            "domain: d\ndescriptors: [{key: k, value: v, share_threshold: true}]",
            "descriptors[0].share_threshold",
            "needs a value with a '*'",
        ),
        ("domain: d\ndescriptors: [{key: k, metadata: {}}]", "descriptors[0].metadata", "not supported"),
        ("domain: d\ndescriptors: [{key: k, shadow_mode: 1}]", "descriptors[0].shadow_mode", "true or false"),
        ("domain: d\ndescriptors: [{key: k, rate_limit: []}]", "descriptors[0].rate_limit", "must be a mapping"),
        ("domain: d\ndescriptors: [{key: k, quota_mode: 1}]", "descriptors[0].quota_mode", "true or false"),
        ("domain: d\ndescriptors: [{key: k}, {key: k, value: v}, {key: k}]", "descriptors[2]", "as descriptors[0]"),
        (
            "domain: d\ndescriptors: [{key: a, descriptors: [{key: b}, {key: c, rate_limit: {unit: eon}}]}]",
            "descriptors[0].descriptors[1].rate_limit.unit",
            "is not a unit of time; use one of second, minute, hour, day, week, month, year",
        ),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(text, path, problem):
    assert problem in violations(text)[path]


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ("{requests_per_unit: 1}", "unit", "is required"),
        ("{unit: unknown, requests_per_unit: 1}", "unit", "is not a unit of time"),
        ("{unit: 5, requests_per_unit: 1}", "unit", "is not a unit of time"),
        ("{unit: day}", "requests_per_unit", "is required"),
        ("{unit: day, requests_per_unit: -1}", "requests_per_unit", "from 0 to 4294967295"),
        ("{unit: day, requests_per_unit: 4294967296}", "requests_per_unit", "from 0 to 4294967295"),
        ("{unit: day, requests_per_unit: 1.0}", "requests_per_unit", "must be an integer"),
        ("{unit: day, requests_per_unit: '1'}", "requests_per_unit", "must be an integer"),
        ("{unit: day, requests_per_unit: true}", "requests_per_unit", "must be an integer"),
        ("{unlimited: true, unit: day}", "unit", "must not be set beside unlimited"),
        ("{unlimited: true, requests_per_unit: -3}", "requests_per_unit", "from 0 to 4294967295"),
        ("{unlimited: 'maybe'}", "unlimited", "true or false"),
        ("{unit: , requests_per_unit: 1}", "unit", "is required"),
        ("{unit: day, requests_per_unit: }", "requests_per_unit", "is required"),
        ("{unit: day, requests_per_unit: 1, burts: 3}", "burts", "is not a field here"),
        ("{unit: day, requests_per_unit: 1, name: 3.5}", "name", "must be a string"),
        ('{unit: day, requests_per_unit: 1, name: "a\\r\\nset-cookie: x"}', "name", "printable ASCII"),
        ("{unit: day, requests_per_unit: 1, name: 'a\"b'}", "name", "printable ASCII"),
        ("{unit: day, requests_per_unit: 1, name: 'a\\b'}", "name", "printable ASCII"),
        ("{unit: day, requests_per_unit: 1, name: 'é'}", "name", "printable ASCII"),
        (f"{{unit: day, requests_per_unit: 1, name: {'n' * (MAX_NAME_LENGTH + 1)}}}", "name", "longer"),
        ("{unit: day, requests_per_unit: 1, replaces: x}", "replaces", "must be a list"),
        ("{unit: day, requests_per_unit: 1, replaces: [x]}", "replaces[0]", "must be a mapping"),
        ("{unit: day, requests_per_unit: 1, replaces: [{name: ''}]}", "replaces[0].name", "must not be empty"),
        ("{unit: day, requests_per_unit: 1, replaces: [{}]}", "replaces[0].name", "is required"),
        ("{unit: day, requests_per_unit: 1, replaces: [{name: a, x: 1}]}", "replaces[0].x", "is not a field here"),
        ("{unit: day, requests_per_unit: 1, name: a, replaces: [{name: a}]}", "replaces[0].name", "the limit itself"),
    ],
)
def test_a_wrong_limit_is_refused_with_its_path(fields, field, problem):
    assert problem in under_limit(fields)[f"descriptors[0].rate_limit.{field}"]


def test_everything_wrong_is_told_at_once():
    assert violations("""
domain: ''
extra: 1
descriptors:
- rate_limit: {unit: eon}
- key: k
  typo: 1
""").keys() == {
        "extra",
        "domain",
        "descriptors[0].key",
        "descriptors[0].rate_limit.unit",
        "descriptors[0].rate_limit.requests_per_unit",
        "descriptors[1].typo",
    }


@pytest.mark.parametrize("second", ["{key: a, value: b_c}", "{key: a_b_c}", "{key: a_b, value: c}"])
def test_siblings_whose_key_and_value_are_the_same_when_joined_are_refused(second):
    """As in envoyproxy/ratelimit, which counts and reports them as one."""
    found = violations(f"domain: d\ndescriptors: [{{key: a_b, value: c}}, {{key: x}}, {second}]")
    assert found == {"descriptors[2]": "has the same key and value, joined to 'a_b_c', as descriptors[0]"}


def test_the_same_key_and_value_may_be_under_different_parents():
    config = parse("domain: d\ndescriptors: [{key: a, descriptors: [{key: c}]}, {key: b, descriptors: [{key: c}]}]")
    assert [descriptor.descriptors[0].key for descriptor in config.descriptors] == ["c", "c"]


def test_null_is_an_absent_field():
    text = "domain: d\ndescriptors: [{key: k, value: , descriptors: ~, shadow_mode: null, metadata: , rate_limit: }]"
    assert parse(text).descriptors == (ConfigDescriptor("k", None, None),)
    limit = "{unit: day, requests_per_unit: 1, unlimited: , name: , replaces: }"
    assert parse(f"domain: d\ndescriptors: [{{key: k, rate_limit: {limit}}}]").descriptors[0].limit == RateLimit(
        Unit.DAY, 1
    )
    assert parse("domain: d\ndescriptors:") == QuotaConfig("d", ())


def test_numbers_and_booleans_are_read_as_their_text():
    limit = "{unit: day, requests_per_unit: 1, name: 3, replaces: [{name: true}]}"
    config = parse(f"domain: 5\ndescriptors: [{{key: true, value: False, rate_limit: {limit}}}, {{key: 0x1F}}]")
    assert config.domain == "5"
    assert [(descriptor.key, descriptor.value) for descriptor in config.descriptors] == [
        ("true", "False"),
        ("0x1F", None),
    ]
    assert config.descriptors[0].limit == RateLimit(Unit.DAY, 1, "3", frozenset({"true"}))


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("yes", True), ("on", True), ("false", False), ("NO", False)]
)
def test_flags_are_read_in_every_spelling_of_yaml(text, value):
    limit = f"{{key: k, shadow_mode: {text}, rate_limit: {{unit: day, requests_per_unit: 1}}}}"
    assert parse(f"domain: d\ndescriptors: [{limit}]").descriptors[0].limit == RateLimit(Unit.DAY, 1, shadow_mode=value)


@pytest.mark.parametrize("flag", ["share_threshold", "value_to_metric", "detailed_metric"])
@pytest.mark.parametrize("value", [True, False])
def test_flags_of_a_descriptor_are_read(flag, value):
    (descriptor,) = parse(f"domain: d\ndescriptors: [{{key: k, value: 'v*', {flag}: {value}}}]").descriptors
    assert descriptor == replace(ConfigDescriptor("k", "v*", None), **{flag: value})


def test_quota_mode_is_that_of_the_limit():
    limit = "rate_limit: {unit: day, requests_per_unit: 1}"
    (descriptor,) = parse(f"domain: d\ndescriptors: [{{key: k, quota_mode: true, {limit}}}]").descriptors
    assert descriptor.limit == RateLimit(Unit.DAY, 1, quota_mode=True)


def test_modes_without_a_limit_and_a_number_beside_unlimited_mean_nothing():
    """As in envoyproxy/ratelimit."""
    config = parse("""
domain: d
descriptors:
- {key: a, shadow_mode: true, quota_mode: true}
- {key: b, rate_limit: {unlimited: true, requests_per_unit: 3}}
""")
    assert config.descriptors == (ConfigDescriptor("a", None, None), ConfigDescriptor("b", None, Unlimited()))


def test_descriptors_that_share_fields_by_merge_keys_are_read():
    config = parse("""
domain: d
descriptors:
- &base {key: a, rate_limit: &limit {unit: day, requests_per_unit: 5}}
- {<<: *base, key: b}
- {<<: *base, key: c, rate_limit: {<<: *limit, unit: hour}}
""")
    assert [(each.key, each.limit) for each in config.descriptors] == [
        ("a", RateLimit(Unit.DAY, 5)),
        ("b", RateLimit(Unit.DAY, 5)),
        ("c", RateLimit(Unit.HOUR, 5)),
    ]


def test_tens_of_thousands_of_limits_in_one_domain_are_read():
    limits = "".join(
        f"- {{key: path, value: /{number}, rate_limit: {{unit: minute, requests_per_unit: {number}}}}}\n"
        for number in range(30_000)
    )
    config = parse(f"domain: d\ndescriptors:\n{limits}")
    assert config.descriptors[-1] == ConfigDescriptor("path", "/29999", RateLimit(Unit.MINUTE, 29_999))


def test_bounds_are_kept():
    assert "longer" in violations(f"domain: d\ndescriptors: [{{key: {'k' * 1025}}}]")["descriptors[0].key"]
    too_long = "v" * (MAX_CONFIG_VALUE_LENGTH + 1)
    assert "longer" in violations(f"domain: d\ndescriptors: [{{key: k, value: {too_long}}}]")["descriptors[0].value"]
    stars = "*a" * (MAX_WILDCARDS + 1)
    assert "wildcards" in violations(f"domain: d\ndescriptors: [{{key: k, value: '{stars}'}}]")["descriptors[0].value"]
    with pytest.raises(InvalidInputError) as caught:
        parse("domain: d\ndescriptors: [" + "{}, " * 500 + "]")
    assert len(caught.value.violations) == MAX_VIOLATIONS


def test_descriptors_deeper_than_a_request_can_be_are_refused():
    nested = []
    for _ in range(MAX_ENTRIES + 1):
        nested = [{"key": "k", "descriptors": nested}]
    with pytest.raises(InvalidInputError, match="deeper than 100"):
        QUOTA_KIND.parse([{"domain": "d", "descriptors": nested}])
