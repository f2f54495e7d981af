"""A real Envoy with the filters that Istio's own builder makes of policies, beside our engine on the same requests.

`python -m tests.support.differential` judges 10,000 pairs that are new each time.
"""

import pytest

from tests.support.differential.builder import recorded, translate
from tests.support.differential.policies import documents, random_sets
from tests.support.differential.run import Pair, judge, random_pairs
from tests.support.differential.shrink import shrunk
from tests.support.differential.traffic import CERTIFICATES, Peer, Request
from tests.support.peers import ISTIO_BUILDER

REQUESTS, CONNECTIONS = 2400, 200


async def check_no_difference(pairs, sets, filters, directory):
    judged = await judge(pairs, dict(enumerate(sets)), dict(enumerate(filters)), directory)
    found = [(pair, each) for pair, each in zip(pairs, judged, strict=True) if each is not None]
    assert len(found) > 0.7 * len(pairs)
    wrong = [(documents(sets[pair.number]), pair.request, each) for pair, each in found if not each.is_right]
    assert wrong == []
    # Otherwise the requests do not meet the policies.
    assert 0.2 < sum(each.envoy for _, each in found) / len(found) < 0.8
    assert any(each.envoy and not each.strict for _, each in found)


@pytest.mark.timeout(300)
async def test_recorded_filters_decide_as_our_engine_does(tmp_path):
    sets, filters = recorded()
    assert len(sets) >= 300
    pairs = random_pairs(sets, REQUESTS, CONNECTIONS, seed=1)
    await check_no_difference(pairs, sets, filters, tmp_path)


@pytest.mark.peer
def test_what_is_recorded_is_what_the_builder_makes():
    sets, filters = recorded()
    assert translate(ISTIO_BUILDER.required(), sets) == filters


@pytest.mark.peer
@pytest.mark.timeout(300)
async def test_a_difference_is_found_and_made_small(tmp_path, monkeypatch):
    """With one thing broken in our engine, the pair that shows it is a policy of one value and a plain request."""
    builder = ISTIO_BUILDER.required()
    monkeypatch.setattr("app.authz.rules.patterns.StringPatterns.__contains__", lambda self, text: text in self.exact)
    sets = random_sets(60, seed=5)
    pairs = random_pairs(sets, 300, 0, seed=5)
    judged = await judge(pairs, dict(enumerate(sets)), dict(enumerate(translate(builder, sets))), tmp_path)
    pair = next(pair for pair, each in zip(pairs, judged, strict=True) if each is not None and not each.is_right)
    policies, request, last = await shrunk(sets[pair.number], pair.request, builder, tmp_path / "shrunk")
    assert not last.is_right
    assert len(documents(policies)) < 400
    assert len(request.headers) <= 1


HEADERS = (
    ((b"admin",), True),
    ((b"admin", b"user"), True),
    ((b"user", b"admin"), True),
    ((b"admin,user",), False),
    ((b"Admin",), False),
    ((b"",), False),
    ((), False),
)


@pytest.mark.peer
@pytest.mark.timeout(300)
async def test_what_envoy_compares_is_known(tmp_path):
    """What each kind of matching takes for an oddly spelled request, as a reader of the guide would ask."""
    builder = ISTIO_BUILDER.required()
    plain, mtls = Peer("plain"), [Peer("mtls", name, "shop.example.org") for name in CERTIFICATES]
    asked = [
        *((when("request.headers[x-role]", "admin"), headers(plain, *found), allowed) for found, allowed in HEADERS),
        *((rule("principals", "*"), Request(peer, "GET", "/", "x"), True) for peer in mtls),
        (rule("principals", "*"), Request(Peer("mtls"), "GET", "/", "x"), False),
        (rule("notPrincipals", "cluster.local/ns/a/sa/b"), Request(plain, "GET", "/", "x"), True),
        (rule("principals", "cluster.local/ns/shop/sa/cart"), Request(Peer("mtls", "two"), "GET", "/", "x"), True),
        (to("hosts", "shop.example.org"), Request(plain, "GET", "/", "SHOP.example.org"), True),
        (to("hosts", "shop.example.org"), Request(plain, "GET", "/", "shop.example.org:80"), False),
        (to("paths", "/{*}"), Request(plain, "GET", "/a*b", "x"), True),
        (to("paths", "/admin"), Request(plain, "GET", "/admin/", "x"), False),
        (to("paths", "/admin"), Request(plain, "GET", "/%61dmin?x", "x"), True),
        (to("methods", "POST"), headers(plain, b"POST", name="x-http-method-override"), False),
    ]
    sets = [spec for spec, _, _ in asked]
    pairs = [Pair(number, request) for number, (_, request, _) in enumerate(asked)]
    judged = await judge(pairs, dict(enumerate(sets)), dict(enumerate(translate(builder, sets))), tmp_path)
    for (spec, request, allowed), each in zip(asked, judged, strict=True):
        assert each.is_right, (spec, request)
        assert each.envoy is allowed, (spec, request)


def headers(peer, *values, name="x-role"):
    return Request(peer, "GET", "/", "x", tuple((name, value) for value in values))


def allowing(rule_):
    metadata = {"name": "p", "namespace": "shop"}
    spec = {"action": "ALLOW", "rules": [rule_]}
    return [{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}]


def when(key, value):
    return allowing({"when": [{"key": key, "values": [value]}]})


def rule(field, value):
    return allowing({"from": [{"source": {field: [value]}}]})


def to(field, value):
    return allowing({"to": [{"operation": {field: [value]}}]})
