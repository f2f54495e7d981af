"""Configurations from a management server: accepted or refused whole, kept while it is away, over TLS."""

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from structlog.testing import capture_logs

from app.core.errors import PreconditionError, UnavailableError
from app.main.quota_configs import make_config_stream, make_quota_source
from app.quota.backends.xds import TYPE_URL
from app.quota.model import Code, Descriptor
from app.settings import load
from app.telemetry.metrics import Metrics
from tests.assets.certificates import MeshCa
from tests.fakes.clock import ManualClock
from tests.fakes.documents import MemoryDocuments
from tests.fakes.management_server import config, management_server
from tests.fakes.quota import Quota
from tests.support.serving import PATIENCE, eventually_async

from app.core.offload import in_thread  # isort: skip

ANN = Descriptor((("user", "ann"),))


def limit(requests=1, unit="DAY", **fields):
    return {"key": "user", "rate_limit": {"unit": unit, "requests_per_unit": requests}, **fields}


def prefixed(content):
    """Bytes after their length, as protobuf writes a field."""
    length, head = len(content), b""
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    return head + bytes([length]) + content


def nested(depth):
    """A configuration, as bytes, with descriptors inside each other: more than a reader of messages follows."""
    content = b""
    for _ in range(depth):
        inner = b"\x0a\x01k" + (b"\x22" + prefixed(content) if content else b"")
        content = inner
    return b"\x12\x04shop\x1a" + prefixed(content)


class Client:
    """The quota service with the stream that its configurations come from."""

    def __init__(self, port, kept, **settings):
        variables = {"xds_server": f"127.0.0.1:{port}", "xds_tls": "false", **settings}
        loaded = load({f"MESHWARD_QUOTA_{name.upper()}": str(value) for name, value in variables.items()})
        self.metrics, clock = Metrics(), ManualClock()
        source = make_quota_source(loaded.settings.quota, clock, in_thread, kept, MemoryDocuments)
        self.service = Quota(source, clock=clock, metrics=self.metrics)
        self.stream = make_config_stream(loaded.settings.quota, source, self.service.documents, self.metrics)

    def code(self, domain="shop"):
        return self.service.ask(domain, [ANN], 0).code

    def responses(self, result):
        return self.metrics.xds_responses.value("quota", result)


@asynccontextmanager
async def client_of(port, kept=None, **settings):

    async def soon(_seconds):
        await asyncio.sleep(0.02)

    with TemporaryDirectory() as directory:
        client = Client(port, kept or Path(directory), **settings)
        client.stream._sleep = soon
        task = asyncio.create_task(client.stream.run())
        try:
            async with asyncio.timeout(PATIENCE):
                yield client
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_configurations_are_accepted_and_counted_by_and_replaced():
    async with management_server() as server, client_of(server.port, xds_node_metadata="role=edge,zone=a") as client:
        server.set(config("shop", limit()), config("other", limit(0)))
        accepted = await server.answered(1)
        assert (accepted.version_info, accepted.HasField("error_detail")) == ("1", False)
        assert [client.code(), client.code(), client.code("other")] == [Code.OK, Code.OVER_LIMIT, Code.OVER_LIMIT]
        first = server.requests[0]
        assert (first.node.id, dict(first.node.metadata)) == ("default", {"role": "edge", "zone": "a"})
        assert (first.type_url, first.version_info, list(first.resource_names)) == (accepted.type_url, "", [])
        server.set(config("shop", limit(5)))
        await server.answered(2)
        assert [client.code(), client.code("other")] == [Code.OK, Code.OK]
        server.set()
        await server.answered(3)
        assert client.code() is Code.OK
        assert client.responses("accepted") == 3
        assert 'meshward_xds_connected{kind="quota"} 1.0' in client.metrics.render().decode()
        with pytest.raises(PreconditionError, match="change them there"):
            await client.service.put("shop", b"domain: shop")


@pytest.mark.parametrize(
    ("configs", "reason"),
    [
        ([config("shop", limit(9)), config("", limit())], "resources[1]: domain: must not be empty"),
        ([config("shop", limit(unit="UNKNOWN"))], "shop: descriptors[0].rate_limit.unit: is required"),
        ([config("shop", limit(unit=9))], "shop: descriptors[0].rate_limit.unit: is not a unit of time"),
        ([config("shop", limit(), limit())], "shop: descriptors[1]: has the same key and value"),
        ([config("shop", limit(), name="a"), config("shop", name="b")], "b: quota configuration 'shop' is in a, too"),
        ([Any(type_url="type.googleapis.com/x.Y", value=b"")], "resources[0]: is a 'type.googleapis.com/x.Y', not a"),
        ([Any(type_url=TYPE_URL, value=b"\xff")], "resources[0]: is not a RateLimitConfig"),
        ([Any(type_url=TYPE_URL, value=nested(200))], "resources[0]: is not a RateLimitConfig, or is nested too deep"),
        ([config("shop", {"key": "k" * 1025})], "shop: descriptors[0].key: is longer than 1024 characters"),
        ([config("shop", {"key": "k", "value": "*" * 9})], "shop: descriptors[0].value: has more than 8 wildcards"),
    ],
)
async def test_what_is_not_valid_is_refused_with_the_reason_and_nothing_of_it_is_used(configs, reason):
    async with management_server() as server, client_of(server.port) as client:
        server.set(config("shop", limit()))
        await server.answered(1)
        assert client.code() is Code.OK
        with capture_logs() as lines:
            server.set(*configs)
            refused = await server.answered(2)
        assert reason in refused.error_detail.message
        assert (refused.version_info, refused.error_detail.code) == ("1", grpc.StatusCode.INVALID_ARGUMENT.value[0])
        assert client.code() is Code.OVER_LIMIT
        assert (client.responses("refused"), client.metrics.config_loads.value("quota", "error")) == (1, 1)
        assert [line["version"] for line in lines if line["event"] == "xds_refused"] == ["2"]


async def test_what_was_accepted_is_kept_while_the_server_is_away_and_the_next_is_taken():
    with capture_logs() as lines:
        async with management_server() as server, client_of(server.port) as client:
            server.set(config("shop", limit()))
            await server.answered(1)
            server.end_streams()
            await eventually_async(lambda: streams(server, 2), "a second stream")
            assert [request.version_info for request in server.requests if request.node.id] == ["", "1"]
            port = server.port
            await eventually_async(lambda: answers(server, 2), "the same version to be accepted again")
            assert [client.code(), client.code()] == [Code.OK, Code.OVER_LIMIT]
        async with client_of(port) as lonely:
            await eventually_async(lambda: said(lines, "UNAVAILABLE"), "a reason")
            with pytest.raises(PreconditionError, match="no rate limit configuration loaded"):
                lonely.code()
            async with management_server(port) as server:
                server.set(config("shop", limit(0)))
                await server.answered(1)
                assert lonely.code() is Code.OVER_LIMIT


async def test_a_start_without_the_server_uses_what_was_kept_of_the_same_node_until_the_next_is_accepted(tmp_path):
    async with management_server() as server, client_of(server.port, tmp_path):
        server.set(config("shop", limit(0)), config("other", limit(0)))
        await server.answered(1)
        port = server.port
    with capture_logs() as lines:
        async with client_of(port, tmp_path, xds_node_id="another") as client:
            with pytest.raises(UnavailableError, match="has sent no valid"):
                await client.service.documents.refresh()
        async with client_of(port, tmp_path) as client:
            await client.service.documents.refresh()
            assert [client.code(), client.code("other")] == [Code.OVER_LIMIT] * 2
            async with management_server(port) as server:
                server.set(config("shop", limit(0)))
                await server.answered(1)
                assert [client.code(), client.code("other")] == [Code.OVER_LIMIT, Code.OK]
    events = [line["event"] for line in lines]
    assert (events.count("xds_kept_refused"), events.count("xds_kept_used")) == (1, 1)
    (tmp_path / "quota-xds").write_text("damaged")
    with pytest.raises(UnavailableError):
        await Client(port, tmp_path).service.documents.refresh()
    assert (tmp_path / "quota-xds").stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_kept_is_accepted_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    with capture_logs() as lines:
        async with management_server() as server, client_of(server.port, tmp_path / "file") as client:
            server.set(config("shop", limit(0)))
            assert not (await server.answered(1)).HasField("error_detail")
            assert client.code() is Code.OVER_LIMIT
    assert "xds_not_kept" in [line["event"] for line in lines]


async def streams(server, number):
    return sum(bool(request.node.id) for request in server.requests) >= number


async def answers(server, number):
    return sum(request.response_nonce == "nonce-1" for request in server.requests) >= number


async def said(lines, reason):
    return any(line["event"] == "xds_disconnected" and reason in line["reason"] for line in lines)


async def test_configurations_of_one_domain_are_merged_if_that_is_wanted():
    async with management_server() as server, client_of(server.port, merge_domains="true") as client:
        server.set(config("shop", limit(), name="a"), config("shop", {"key": "path"}, name="b"))
        await server.answered(1)
        assert [client.code(), client.code()] == [Code.OK, Code.OVER_LIMIT]
        server.set(config("shop", limit(), name="a"), config("shop", limit(), name="b"))
        refused = await server.answered(2)
        assert "a and b, merged: descriptors[1]: has the same key and value" in refused.error_detail.message


async def test_a_response_that_is_too_large_is_not_read():
    with capture_logs() as lines:
        async with management_server() as server, client_of(server.port, xds_max_message_bytes=65536):
            server.set(config("shop", {"key": "x" * 70_000}))
            await eventually_async(lambda: said(lines, "RESOURCE_EXHAUSTED"), "a refusal")


async def test_header_fields_are_sent_and_a_file_with_others_is_a_reason(tmp_path):
    file = tmp_path / "headers"
    file.write_text("authorization: Bearer s3cret\n\nx-tenant: a\n")
    async with management_server() as server:
        async with client_of(server.port, xds_headers_file=file):
            server.set(config("shop", limit()))
            await server.answered(1)
        assert (server.metadata[0]["authorization"], server.metadata[0]["x-tenant"]) == ("Bearer s3cret", "a")
        for content, reason in (("Authorization s3cret", "line 1 is no header field"), (None, "cannot read")):
            file.unlink() if content is None else file.write_text(content)
            with capture_logs() as lines:
                async with client_of(server.port, xds_headers_file=file):
                    await eventually_async(lambda lines=lines, reason=reason: said(lines, reason), "a reason")
            assert "s3cret" not in str(lines)


async def test_tls_with_a_client_certificate_and_only_with_the_right_names(tmp_path):
    authority = MeshCa()
    key, chain = authority.serving(dns=("xds.example.org",), ips=())
    for name, content in (("ca", authority.roots.encode()), ("key", key), ("cert", chain)):
        (tmp_path / name).write_bytes(content)
    credentials = grpc.ssl_server_credentials([(key, chain)], authority.roots.encode(), require_client_auth=True)
    files = {f"xds_{name}_file": tmp_path / name for name in ("ca", "key", "cert")}
    async with management_server(credentials=credentials) as server:
        server.set(config("shop", limit(0)))
        async with client_of(server.port, xds_tls="true", xds_server_name="xds.example.org", **files) as client:
            await server.answered(1)
            assert client.code() is Code.OVER_LIMIT
        unnamed = {"xds_tls": "true", **files}
        without = {"xds_tls": "true", "xds_server_name": "xds.example.org", "xds_ca_file": tmp_path / "ca"}
        for settings in (unnamed, without, {"xds_tls": "true"}, {}):
            with capture_logs() as lines:
                async with client_of(server.port, **settings) as client:
                    await eventually_async(lambda lines=lines: said(lines, ""), "a reason")
                    assert not client.service.documents.loaded
        assert len(server.metadata) == 1
