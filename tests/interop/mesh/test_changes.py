"""A document is sent, and the next call is decided by it: over gRPC and HTTP, on both mesh ports."""

import contextlib

import httpx
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from app.main.rpcs import AUTHORIZATION
from tests.fakes.checks import check_request
from tests.support.callers import (
    CALL_SECONDS,
    CART,
    check,
    client_tls,
    join,
    plaintext_channel,
    rate_limit,
    tls_channel,
    unary,
)

API = "spiffe://cluster.local/ns/shop/sa/cart"
OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


def deny(path, name="deny", namespace="shop"):
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  action: DENY
  rules: [{{to: [{{operation: {{paths: ["{path}"]}}}}]}}]
"""


def one_a_year(domain, key="key"):
    return f"{{domain: {domain}, descriptors: [{{key: {key}, rate_limit: {{unit: year, requests_per_unit: 1}}}}]}}"


@pytest.fixture
def server(shared_server):
    yield shared_server
    for policy in shared_server.items("/v1/policies"):
        path = f"/v1/policies/{policy['namespace']}/{policy['name']}"
        assert shared_server.ask("DELETE", path).status_code == 204


class Surfaces:
    """The four ways to ask whether a request for `path` may pass."""

    def __init__(self, server, stack, cart):
        headers = {"x-meshward-namespace": "shop"}
        self._channels = {"15010": plaintext_channel(server), "15012": tls_channel(server, cart)}
        self._clients = {
            f"http://127.0.0.1:{server.plaintext_port}": httpx.AsyncClient(headers=headers, timeout=CALL_SECONDS),
            f"https://localhost:{server.tls_port}": httpx.AsyncClient(
                verify=client_tls(server, cart), timeout=CALL_SECONDS
            ),
        }
        self._stack = stack

    async def open(self):
        for surface in (*self._channels.values(), *self._clients.values()):
            await self._stack.enter_async_context(surface)
        return self

    async def allowed(self, path):
        """Their common answer."""
        answers = [await check(channel, path, destination=API) for channel in self._channels.values()]
        for url, client in self._clients.items():
            answer = await client.get(f"{url}/ext_authz{path}")
            assert answer.status_code in {200, 403}
            answers.append(answer.status_code == 200)
        assert len(set(answers)) == 1, answers
        return answers[0]


@pytest.fixture
async def surfaces(server):
    async with contextlib.AsyncExitStack() as stack:
        yield await Surfaces(server, stack, await join(server, CART)).open()


async def test_a_policy_decides_the_very_next_call_on_every_surface(server, surfaces):
    for number in range(5):
        assert await surfaces.allowed("/news")
        assert server.ask("POST", "/v1/policies", content=deny("/news")).status_code == 201
        assert not await surfaces.allowed("/news"), number
        server.post_policies(deny("/olds"))
        assert await surfaces.allowed("/news")
        assert not await surfaces.allowed("/olds")
        assert server.ask("DELETE", "/v1/policies/shop/deny").status_code == 204


async def test_a_denial_tells_the_sidecar_the_policy_and_the_client_nothing_of_it(server, surfaces):
    server.post_policies(deny("/news", name="hidden-name"))
    async with plaintext_channel(server) as channel:
        request = check_request("/news", destination=API)
        answer = await unary(channel, AUTHORIZATION, "Check", type(request), CheckResponse)(request)
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{server.plaintext_port}/ext_authz/news"
            plain = await client.get(url, headers={"x-meshward-namespace": "shop"})
    assert answer.dynamic_metadata["meshward.policy"] == "shop/hidden-name"
    assert answer.denied_response.status.code == 403
    assert "hidden-name" not in str(answer.denied_response)
    assert plain.status_code == 403
    assert "hidden-name" not in plain.text + str(plain.headers)


INVALID = {
    "an unknown field": (deny("/x").replace("operation: {", "operation: {pathes: [a], "), "operation.pathes"),
    "a value of another type": (deny("/x").replace('["/x"]', "7"), "spec.rules[0].to[0].operation.paths"),
    "an action that there is not": (deny("/x").replace("DENY", "PERHAPS"), "spec.action"),
    "another kind of document": (deny("/x").replace("AuthorizationPolicy", "Gateway"), "kind"),
    "no name": (deny("/x").replace("name: deny, ", ""), "metadata.name"),
}


@pytest.mark.parametrize("what", INVALID)
async def test_an_invalid_policy_is_refused_with_its_path_and_the_old_ones_stay(server, surfaces, what):
    text, path = INVALID[what]
    server.post_policies(deny("/old"))
    before = server.get("/v1/policies")
    # Good ones before it and after it are not taken either: all or none.
    several = "\n---\n".join([deny("/new", name="first"), text, deny("/newer", name="last")])
    for body in (text, several):
        answer = server.ask("POST", "/v1/policies", content=body)
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        paths = [violation["path"] for violation in answer.json()["violations"]]
        assert any(found.endswith(path) for found in paths), paths
    assert server.get("/v1/policies") == before
    assert not await surfaces.allowed("/old")
    assert await surfaces.allowed("/new")
    assert await surfaces.allowed("/newer")


async def test_many_documents_are_put_in_force_together(server, surfaces):
    paths = [f"/closed/{number}" for number in range(50)]
    server.post_policies("\n---\n".join(deny(path, name=f"deny-{n}") for n, path in enumerate(paths)))
    for path in (paths[0], paths[-1]):
        assert not await surfaces.allowed(path)
    assert await surfaces.allowed("/open")


async def test_what_is_not_yaml_is_refused(server):
    for body in ("{", "a: [", "\x00", "--- !!python/object:os.system {}", b"\xff\xfe"):
        assert server.ask("POST", "/v1/policies", content=body).status_code == 400


async def test_a_limit_counts_the_very_next_call_and_an_invalid_one_changes_nothing(server):
    async with plaintext_channel(server) as plaintext, tls_channel(server, await join(server)) as tls:

        async def code(channel, value):
            return (await rate_limit(channel, "mesh", value=value)).overall_code

        server.put_quota("mesh", one_a_year("mesh", key="other"))
        assert [await code(plaintext, "a"), await code(tls, "a"), await code(tls, "a")] == [OK, OK, OK]
        server.put_quota("mesh", one_a_year("mesh"))
        assert [await code(plaintext, "a"), await code(tls, "a")] == [OK, OVER_LIMIT]
        refused = server.ask("PUT", "/v1/quota/configs/mesh", content=one_a_year("mesh").replace("year", "fortnight"))
        assert refused.status_code == 400
        paths = [violation["path"] for violation in refused.json()["violations"]]
        assert any(path.endswith("rate_limit.unit") for path in paths), paths
        assert [await code(plaintext, "b"), await code(tls, "b")] == [OK, OVER_LIMIT]
        assert server.ask("DELETE", "/v1/quota/configs/mesh").status_code == 204
        server.put_quota("another", one_a_year("another"))
        assert await code(tls, "b") == OK


async def test_a_quota_under_another_domain_than_the_documents_is_refused(server):
    answer = server.ask("PUT", "/v1/quota/configs/one", content=one_a_year("two"))
    assert answer.status_code == 400
    assert [violation["path"] for violation in answer.json()["violations"]] == ["domain"]
