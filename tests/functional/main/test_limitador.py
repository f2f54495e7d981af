"""limitador's limits from a directory, at a running control plane: over HTTP and the rate limit service."""

import httpx
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from tests.support.callers import plaintext_channel, rate_limit
from tests.support.serving import eventually

LIMIT = """
- namespace: shop
  max_value: {0}
  seconds: 31536000
  conditions: ["descriptors[0].key == 'value'"]
"""
REQUEST = {"namespace": "shop", "values": {"key": "value"}}


async def test_a_directory_of_limits_answers_and_is_read_again(serving, tmp_path):
    limits = tmp_path / "limits"
    limits.mkdir()
    (limits / "limits.yaml").write_text(LIMIT.format(1))
    server = serving.start(quota_limits_dir=limits)
    async with plaintext_channel(server) as channel:
        codes = [(await rate_limit(channel, "shop")).overall_code for _ in range(2)]
    assert codes == [RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT]

    url = f"http://127.0.0.1:{server.plaintext_port}"

    def ask(path):
        return httpx.post(f"{url}{path}", json=REQUEST).status_code

    assert ask("/check_and_report") == 429
    (limits / "limits.yaml").write_text("- {namespace: shop}")
    eventually(lambda: server.events("refresh_failed"), "the file to be refused")
    assert ask("/check_and_report") == 429
    (limits / "limits.yaml").write_text(LIMIT.format(2))
    eventually(lambda: ask("/check") == 200, "the new limit")
    assert [ask("/check_and_report") for _ in range(2)] == [200, 429]
