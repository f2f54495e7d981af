"""envoyproxy/ratelimit's schema: what it means, and every way to get it wrong."""

import pytest

from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from app.documents.reader import MAX_VIOLATIONS
from app.quota.model import MAX_ENTRIES, ConfigDescriptor, QuotaConfig, RateLimit, Unit, Unlimited
from app.quota.rules.parse import (
    MAX_CONFIG_VALUE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_WILDCARDS,
    QUOTA_KIND,
)


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
        ("domain: 5", "domain", "must be a string"),
        ("domain: ' d'", "domain", "printable"),
        ('domain: "a\\nb"', "domain", "printable"),
        ("domain: d\nlimits: []", "limits", "is not a field here"),
        ("domain: d\nquota_mode: true", "quota_mode", "is not a field here"),
        ("domain: d\ndescriptors:", "descriptors", "must be a list"),
        ("domain: d\ndescriptors: {key: k}", "descriptors", "must be a list"),
        ("domain: d\ndescriptors: [k]", "descriptors[0]", "must be a mapping"),
        ("domain: d\ndescriptors: [{value: v}]", "descriptors[0].key", "is required"),
        ("domain: d\ndescriptors: [{key: ''}]", "descriptors[0].key", "must not be empty"),
        ("domain: d\ndescriptors: [{key: true}]", "descriptors[0].key", "must be a string"),
        ("domain: d\ndescriptors: [{key: 'a*'}]", "descriptors[0].key", "patterns belong in value"),
        ("domain: d\ndescriptors: [{key: k, value: true}]", "descriptors[0].value", "put it in quotes"),
        ("domain: d\ndescriptors: [{key: k, value: 1.5}]", "descriptors[0].value", "put it in quotes"),
        ("domain: d\ndescriptors: [{key: k, value: }]", "descriptors[0].value", "put it in quotes"),
        ("domain: d\ndescriptors: [{key: k, keys: v}]", "descriptors[0].keys", "is not a field here"),
        (
            "domain: d\ndescriptors: [{key: k, share_threshold: true}]",
            "descriptors[0].share_threshold",
            "not supported",
        ),
        ("domain: d\ndescriptors: [{key: k, quota_mode: true}]", "descriptors[0].quota_mode", "not supported"),
        (
            "domain: d\ndescriptors: [{key: k, value_to_metric: true}]",
            "descriptors[0].value_to_metric",
            "not supported",
        ),
        (
            "domain: d\ndescriptors: [{key: k, detailed_metric: true}]",
            "descriptors[0].detailed_metric",
            "not supported",
        ),
        ("domain: d\ndescriptors: [{key: k, metadata: {}}]", "descriptors[0].metadata", "not supported"),
        ("domain: d\ndescriptors: [{key: k, shadow_mode: 1}]", "descriptors[0].shadow_mode", "true or false"),
        ("domain: d\ndescriptors: [{key: k, shadow_mode: true}]", "descriptors[0].shadow_mode", "needs a rate_limit"),
        ("domain: d\ndescriptors: [{key: k, rate_limit: }]", "descriptors[0].rate_limit", "must be a mapping"),
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
        ("{unlimited: true, requests_per_unit: 3}", "requests_per_unit", "must not be set beside unlimited"),
        ("{unlimited: 'yes'}", "unlimited", "true or false"),
        ("{unit: day, requests_per_unit: 1, burst: 3}", "burst", "is not a field here"),
        ("{unit: day, requests_per_unit: 1, name: 3}", "name", "must be a string"),
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


def test_keys_and_values_that_only_look_alike_when_joined_are_not_duplicates():
    config = parse("domain: d\ndescriptors: [{key: a_b, value: c}, {key: a, value: b_c}, {key: a_b_c}]")
    assert len(config.descriptors) == 3


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
    with pytest.raises(InvalidInputError, match="deeper than 32"):
        QUOTA_KIND.parse([{"domain": "d", "descriptors": nested}])
