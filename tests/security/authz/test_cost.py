"""What hostile input can make a check cost: steps and memory are bounded. Tested by counts, not by time."""

import pytest

from app.authz.identity import Identity
from app.authz.model import AuthzOptions, Workload
from app.authz.rpc.attributes import read_authority
from app.authz.rpc.check import AuthorizationRpc
from app.authz.rules import paths
from app.authz.rules.compile import compile_policy
from app.authz.rules.index import PolicyIndex
from app.authz.rules.names import NamespacePatterns
from app.authz.rules.parse import POLICY_KIND
from app.authz.rules.paths import read_path
from app.authz.rules.patterns import PathTemplate
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.fakes.authz import matches, policy, request, verdict
from tests.fakes.checks import check_answer, check_request, policy_service

LONG = 60_000
# Each takes another way through the steps.
HOSTILE = (
    "a/../",
    "%25",
    "/",
    ";/",
    "%2f",
    "%2541",
    "%252541",
    "%252e%252f",
    "%2e%2e%2f",
    "..%5c",
    "%25c3%25a9",
    '"%41',
)


@pytest.fixture
def characters(monkeypatch):
    """How many characters each step was given."""
    given = []

    def counted(step):
        def counting(path):
            given.append(len(path))
            return step(path)

        return counting

    monkeypatch.setattr(paths, "_STEPS", tuple(map(counted, paths._STEPS)))
    return given


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("length", [paths.MAX_PATH_LENGTH, paths.MAX_PATH_LENGTH // 2, 256, 100])
def test_reading_a_path_takes_bounded_work(characters, unit, length):
    paths._read("/" + (unit * length)[: length - 1].rstrip("%0123456789abcdef"))
    assert len(characters) <= paths.MAX_READINGS * len(paths._STEPS)
    assert sum(characters) <= paths.MAX_READ_CHARACTERS * len(paths._STEPS)


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_path_that_is_too_long_is_refused_before_it_is_read(characters, unit):
    before = paths._cached.cache_info().currsize
    found = read_path("/" + unit * (LONG // len(unit)))
    assert found.problem == "the path is longer than 8192 characters"
    assert paths._cached.cache_info().currsize == before
    assert characters == []


def test_a_query_does_not_count_as_path():
    assert read_path("/a?" + "x" * LONG).problem == ""


def test_a_path_with_too_many_readings_is_refused():
    assert read_path("//a%2f..%5c;x/%252e%25252e/..;/\\b").problem == "the path can be read in too many ways"
    # Each reading is there in lower case as well.
    assert len(read_path("/map;x=1/a%2Fb//c/../d").others) <= 2 * paths.MAX_READINGS


def test_stars_do_not_multiply():
    assert Identity.of(["spiffe://td/ns/" + "a" * LONG]) not in NamespacePatterns.of(["*".join("a" * 30)])


def test_operators_do_not_multiply():
    assert not PathTemplate("/{*}/{*}/{*}/{*}/{**}/b", wide=True).matches("/" + "a/" * (LONG // 2))


def test_a_long_authority_is_refused_before_it_is_read():
    with pytest.raises(InvalidInputError, match="longer"):
        read_authority("a" * LONG)


def test_a_header_with_many_values_and_many_methods_is_matched():
    many = {"x-role": ("user",) * 10_000, "x-http-method-override": (",".join(f"M{n}" for n in range(10_000)),)}
    rule = "{to: [{operation: {methods: [GET]}}], when: [{key: 'request.headers[x-role]', values: [user]}]}"
    assert not matches(rule, request(headers=many))
    found = verdict(policy("{action: DENY, rules: [{to: [{operation: {methods: [M1]}}]}]}"), request(headers=many))
    assert not found.decision.allowed


@pytest.mark.parametrize("labels", [{"app": "x" * LONG}, {f"k{n}": "x" * 60 for n in range(200)}])
async def test_labels_that_no_workload_has_are_refused_and_not_kept(labels):
    rpc = AuthorizationRpc(await policy_service(policy("{selector: {matchLabels: {app: shop}}, rules: [{}]}")))
    response = check_answer(rpc, check_request(labels=labels))
    assert response.status.code == 7
    assert "labels are longer" in response.dynamic_metadata["meshward.reason"]


def test_labels_that_no_policy_asks_for_make_no_new_tables():
    found = POLICY_KIND.parse(parse_documents(policy("{selector: {matchLabels: {app: shop}}, rules: [{}]}").encode()))
    index = PolicyIndex((compile_policy(p, AuthzOptions()) for p in found), "istio-system")
    tables = {id(index.rules_for(Workload("shop", (("app", "shop"), ("pod", str(n)))))) for n in range(100)}
    assert len(tables) == 1
    assert id(index.rules_for(Workload("shop", (("app", "web"), ("pod", "1"))))) not in tables
