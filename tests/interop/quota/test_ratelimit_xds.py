"""envoyproxy/ratelimit and Meshward, fed by one management server or by files that are merged, answer the same."""

import asyncio
from contextlib import ExitStack

import pytest
from envoy.service.ratelimit.v3 import rls_pb2

from tests.fakes.management_server import config, management_server
from tests.support.callers import plaintext_channel
from tests.support.fixtures.control_plane import serving
from tests.support.ratelimit_process import ratelimit_process
from tests.support.serving import PATIENCE, eventually

pytestmark = pytest.mark.peer
__all__ = ["serving"]

NODE = "ratelimit-of-the-test"


def limit(requests=1, unit="DAY", **fields):
    return {"unit": unit, "requests_per_unit": requests, **fields}


GOOD = (
    config(
        "shop",
        {"key": "user", "rate_limit": limit(2)},
        {"key": "user", "value": "vip", "rate_limit": {"unlimited": True}},
        {"key": "user", "value": "bot*", "rate_limit": limit(0, name="bots", replaces=[{"name": "all"}])},
        {"key": "all", "rate_limit": limit(1, name="all")},
        {"key": "quiet", "rate_limit": limit(1, "YEAR"), "shadow_mode": True},
        {"key": "path", "descriptors": [{"key": "verb", "value": "GET", "rate_limit": limit(3, "MONTH")}]},
    ),
    config("other", {"key": "user", "rate_limit": limit(5, "WEEK")}),
)
BAD = (
    (config("shop", {"key": "user", "rate_limit": limit(9, "UNKNOWN")}),),
    (config("shop", {"key": "user"}, {"key": "user"}),),
    (config("shop", {"key": "user", "rate_limit": limit(9)}, name="a"), config("shop", name="b")),
    (config("", {"key": "user", "rate_limit": limit(9)}),),
    (config("shop", {"key": "", "rate_limit": limit(9)}),),
)
# Counts of another place in the tree start again here, and go on there: the values are those of the same limits.
NEXT = (
    config(
        "shop",
        {"key": "user", "rate_limit": limit(9)},
        {"key": "user", "value": "bot*", "rate_limit": limit(7)},
        {"key": "quiet", "rate_limit": limit(1, "YEAR")},
    ),
)
REQUESTS = [
    ("shop", [[("user", "ann")]]),
    ("shop", [[("user", "ann")]]),
    ("shop", [[("user", "ann")]]),
    ("shop", [[("user", "vip")]]),
    ("shop", [[("user", "bot1")], [("all", "x")]]),
    ("shop", [[("all", "x")]]),
    ("shop", [[("all", "x")]]),
    ("shop", [[("quiet", "x")]]),
    ("shop", [[("quiet", "x")]]),
    ("shop", [[("path", "/"), ("verb", "GET")]]),
    ("shop", [[("path", "/"), ("verb", "PUT")]]),
    ("other", [[("user", "ann")]]),
    ("unknown", [[("user", "ann")]]),
]


def requests():
    for domain, descriptors in REQUESTS:
        entries = [{"entries": [{"key": key, "value": value} for key, value in each]} for each in descriptors]
        yield rls_pb2.RateLimitRequest(domain=domain, descriptors=entries)


def told(response):
    """What an answer says, but for the seconds to the reset, which pass between two calls."""
    statuses = [
        (status.code, status.current_limit.requests_per_unit, status.current_limit.unit, status.limit_remaining)
        for status in response.statuses
    ]
    return response.overall_code, statuses


async def answers(ratelimit, ours):
    theirs, mine = [], []
    for request in requests():
        theirs.append(told(await asyncio.to_thread(ratelimit.ask, request)))
        mine.append(told(await ours(request, timeout=PATIENCE)))
    return theirs, mine


async def both(server, version):
    """What the two clients replied to a version."""
    async with asyncio.timeout(PATIENCE):
        while True:
            replies = [each for each in server.requests if each.response_nonce == f"nonce-{version}"]
            if len(replies) >= 2:
                return {each.HasField("error_detail") for each in replies}
            await asyncio.sleep(0.02)


MERGED = {
    "a": "domain: shop\ndescriptors:\n- {key: user, rate_limit: {unit: day, requests_per_unit: 2}}\n",
    "b": "domain: shop\ndescriptors:\n- {key: all, rate_limit: {unit: day, requests_per_unit: 1}}\n",
    "c": "domain: other\ndescriptors:\n- {key: user, rate_limit: {unit: day, requests_per_unit: 1}}\n",
}


async def test_both_merge_the_files_of_a_domain(tmp_path, serving):
    directory = tmp_path / "ours"
    directory.mkdir()
    for name, text in MERGED.items():
        (directory / f"{name}.yaml").write_text(text)
    with ratelimit_process(tmp_path / "theirs", MERGED, MERGE_DOMAIN_CONFIG="true") as ratelimit:
        ours = serving.start(quota_configs_dir=directory, quota_merge_domains="true")
        async with plaintext_channel(ours) as channel:
            theirs, mine = await answers(ratelimit, ask_over(channel))
        assert mine == theirs
        assert {code for code, _ in mine} == {1, 2}


def ask_over(channel):
    return channel.unary_unary(
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        request_serializer=rls_pb2.RateLimitRequest.SerializeToString,
        response_deserializer=rls_pb2.RateLimitResponse.FromString,
    )


async def test_both_take_and_refuse_the_same_and_answer_the_same(tmp_path, serving):
    async with management_server() as server:
        server.set(*GOOD)
        with ExitStack() as processes:
            ratelimit = await asyncio.to_thread(
                processes.enter_context,
                ratelimit_process(
                    tmp_path / "theirs",
                    {},
                    CONFIG_TYPE="GRPC_XDS_SOTW",
                    CONFIG_GRPC_XDS_NODE_ID=NODE,
                    CONFIG_GRPC_XDS_SERVER_URL=f"127.0.0.1:{server.port}",
                ),
            )
            ours = await asyncio.to_thread(
                serving.start,
                quota_xds_server=f"127.0.0.1:{server.port}",
                quota_xds_tls="false",
                quota_xds_node_id=NODE,
            )
            assert await both(server, 1) == {False}
            assert {request.node.id for request in server.requests if request.node.id} == {NODE}
            async with plaintext_channel(ours) as channel:
                ask = ask_over(channel)
                theirs, mine = await answers(ratelimit, ask)
                assert mine == theirs
                for place, configs in enumerate(BAD):
                    server.set(*configs)
                    assert await both(server, 2 + place) == {True}, place
                theirs, mine = await answers(ratelimit, ask)
                assert mine == theirs
                server.set(*NEXT)
                assert await both(server, 2 + len(BAD)) == {False}
                theirs, mine = await answers(ratelimit, ask)
                assert mine == theirs
            assert ours.metrics()['meshward_xds_responses_total{kind="quota",result="refused"}'] == len(BAD)
            eventually(lambda: ours.events("xds_refused"), "the refusals in the log")
