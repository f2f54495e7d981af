"""What hostile input can make a check cost: steps and memory are bounded. Counts, not clocks."""

import pytest

from app.authz.rules import paths
from app.authz.rules.paths import read_path
from app.authz.rules.request import read_authority
from app.authz.rules.strings import glob_test
from app.authz.rules.template import template_test
from app.core.errors import InvalidInputError
from tests.fakes.authz import matches, policy, request, verdict

LONG = 60_000


def test_long_paths_are_read_and_not_kept():
    before = paths._cached.cache_info().currsize
    for path in ("/" + "a/../" * (LONG // 5), "/" + "%25" * (LONG // 3), "//" * (LONG // 2), "/;" * (LONG // 2)):
        read_path(path)
    assert paths._cached.cache_info().currsize == before


def test_the_readings_of_a_path_are_few():
    assert len(read_path("//a%2f..%5c;x/%252e%25252e/..;/\\b").others) <= 3 + paths.MAX_DECODINGS


def test_stars_do_not_multiply():
    test = glob_test(["*".join("a" * 30)], "/ns/", "/")
    assert not test("/ns/" + "a" * LONG)


def test_operators_do_not_multiply():
    test = template_test("/{*}/{*}/{*}/{*}/{**}/b", or_slash=True)
    assert not test("/" + "a/" * (LONG // 2))


def test_a_long_authority_is_refused_before_it_is_read():
    with pytest.raises(InvalidInputError, match="longer"):
        read_authority("a" * LONG)


def test_a_header_with_many_values_and_many_methods_is_judged():
    many = {"x-role": ("user",) * 10_000, "x-http-method-override": (",".join(f"M{n}" for n in range(10_000)),)}
    rule = "{to: [{operation: {methods: [GET]}}], when: [{key: 'request.headers[x-role]', values: [user]}]}"
    assert not matches(rule, request(headers=many))
    found = verdict(policy("{action: DENY, rules: [{to: [{operation: {methods: [M1]}}]}]}"), request(headers=many))
    assert not found.decision.allowed
