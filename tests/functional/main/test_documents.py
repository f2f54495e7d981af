"""Documents of a running control plane: changes are audited, and a directory can be where they come from."""

import os

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from tests.assets.documents import DENY_NEWS, ONE_A_DAY
from tests.support.callers import check, plaintext_channel, rate_limit
from tests.support.serving import eventually, eventually_async

POLICY = "/v1/policies/shop/no-news"
TIMELY = 10


def test_changes_are_in_the_audit_log_with_who_made_them(serving):
    server = serving.start()
    server.post_policies(DENY_NEWS)
    server.put_quota("shop", ONE_A_DAY)
    server.ask("DELETE", POLICY, headers={"x-request-id": "mine"})
    records = server.items("/v1/audit")
    assert [(record["action"], record["target"]) for record in records] == [
        ("policy.delete", "shop/no-news"),
        ("quota.apply", "shop"),
        ("policy.apply", "shop/no-news"),
    ]
    last = records[0]
    assert (last["principal"], last["credential"], last["request_id"]) == ("admin_token", "admin_token", "mine")
    assert last["address"].startswith("127.0.0.1")
    assert (last["before"]["metadata"]["name"], last["after"]) == ("no-news", None)


async def test_documents_come_from_directories(serving, tmp_path):
    policies, configs = tmp_path / "policies", tmp_path / "configs"
    for directory, text in ((policies, DENY_NEWS), (configs, ONE_A_DAY)):
        directory.mkdir()
        (directory / "documents.yaml").write_text(text)
    server = serving.start(authz_policies_dir=policies, quota_configs_dir=configs)
    async with plaintext_channel(server) as channel:
        assert not await check(channel, "/news")
        assert await check(channel, "/")
        codes = [(await rate_limit(channel, "shop")).overall_code for _ in range(2)]
        assert codes == [RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT]

        assert server.get(POLICY)["document"]["spec"]["action"] == "DENY"
        assert [item["domain"] for item in server.items("/v1/quota/configs")] == ["shop"]
        for method, path, content in (
            ("POST", "/v1/policies", DENY_NEWS),
            ("PUT", POLICY, DENY_NEWS),
            ("DELETE", POLICY, None),
            ("PUT", "/v1/quota/configs/shop", ONE_A_DAY),
            ("DELETE", "/v1/quota/configs/shop", None),
        ):
            answer = server.ask(method, path, content=content)
            assert answer.status_code == 409, (method, path)
            assert "change them there" in answer.json()["detail"]
        assert server.ask("POST", "/v1/policies/validate", content=DENY_NEWS).status_code == 200
        assert server.items("/v1/audit") == []

        (policies / "broken.yaml").write_text(DENY_NEWS.replace("paths", "pahts"))
        failed = eventually(lambda: server.events("refresh_failed"), "the bad file to be reported", TIMELY)[0]
        assert "broken.yaml: line 7: spec.rules[0].to[0].operation.pahts: is not a field here" in failed["reason"]
        assert not await check(channel, "/news")

        (policies / "new").write_text(DENY_NEWS.replace("/news", "/"))
        os.replace(policies / "new", policies / "documents.yaml")  # noqa: PTH105 - one step, as tools do it
        (policies / "broken.yaml").unlink()

        async def only_root_is_denied():
            return await check(channel, "/news") and not await check(channel, "/")

        await eventually_async(only_root_is_denied, "the new policy to be active", TIMELY)


async def test_without_its_directory_nothing_is_allowed_and_it_is_not_ready(serving, tmp_path):
    policies = tmp_path / "policies"
    server = serving.launch(authz_policies_dir=policies).wait_until_listening()
    ready = server.ask("GET", "/readyz")
    assert ready.status_code == 503
    assert not ready.json()["checks"]["policies"]["ready"]
    async with plaintext_channel(server) as channel:
        assert not await check(channel, "/")
        policies.mkdir()
        (policies / "none.yaml").touch()
        await eventually_async(lambda: check(channel, "/"), "the directory to be read", TIMELY)
    server.wait_until_ready()
