"""Refused calls and requests of the mesh ports are counted by reason; a flood of them is not a flood of lines."""

from datetime import timedelta

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from structlog.testing import capture_logs

from app.core.errors import UnauthenticatedError
from app.core.rates import RateLimit
from app.telemetry.refusals import MAX_LINES
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from tests.assets.certificates import MeshCa, new_key, pem
from tests.fakes.clock import ManualClock
from tests.fakes.memory_server import EMPTY_MESSAGE, MemoryServer

CLOCK = ManualClock()
FLOOD = 1000
KEY = new_key()


def leaf(uri, trust_domain="cluster.local"):
    start, end = CLOCK.now() - timedelta(hours=1), CLOCK.now() + timedelta(hours=1)
    return pem(MeshCa(CLOCK.now(), trust_domain).signer.leaf(KEY.public_key(), start, end, (uri,)))


def rows():
    async def answer(request, _context):
        return request

    async def refuse(_request, _context):
        reason = UnauthenticatedError("requested for another workload", reason="impersonation")
        raise UnauthenticatedError("authentication failed", reason=reason.reason) from reason

    def row(method, authentication, limit, handler=answer):
        return Rpc("a.Service", method, Kind.UNARY, StringValue, StringValue, handler, authentication, limit)

    return [
        row("Mesh", Authentication.MESH, UNLIMITED),
        row("Identity", Authentication.IDENTITY, UNLIMITED),
        row("Limited", Authentication.PUBLIC, RateLimit(per_second=1, burst=1)),
        row("Public", Authentication.PUBLIC, UNLIMITED),
        row("Opaque", Authentication.PUBLIC, UNLIMITED, refuse),
    ]


@pytest.fixture
async def server():
    made = MemoryServer(rows(), CLOCK)
    yield made
    await made.stop()


def body(data):
    return ({"type": "http.request", "body": data, "more_body": True}, {"type": "http.request"})


@pytest.mark.parametrize(
    ("method", "chain", "events", "reason", "code"),
    [
        ("Mesh", (), EMPTY_MESSAGE, "no_certificate", "16"),
        ("Mesh", (leaf("https://not-a-spiffe-id"),), EMPTY_MESSAGE, "invalid_svid", "16"),
        ("Mesh", (leaf("spiffe://other.org/a", "other.org"),), EMPTY_MESSAGE, "foreign_svid", "16"),
        ("Identity", (), EMPTY_MESSAGE, "no_credential", "16"),
        ("Nothing", (), EMPTY_MESSAGE, "unimplemented", "12"),
        ("Public", (), body(b"\0\0\0\0\1\xff"), "invalid_argument", "3"),
        ("Public", (), body(b"\2\0\0\0\0"), "invalid_argument", "3"),
    ],
)
async def test_every_refusal_is_counted_by_its_reason_and_logged_with_its_peer(
    server, method, chain, events, reason, code
):
    with capture_logs() as logs:
        exchange = server.request(f"/a.Service/{method}", ("203.0.113.7", 5), chain, events=events)
        assert await exchange.status() == code
    assert server.metrics.refusals.value("grpc", reason) == 1
    (line,) = (entry for entry in logs if entry["event"] == "request_refused")
    assert (line["refusal"], line["peer"], line["method"]) == (reason, "203.0.113.7:5", f"/a.Service/{method}")
    assert line["log_level"] == "warning"
    assert line["reason"]


@pytest.mark.parametrize(
    ("method", "reasons", "headers"),
    [
        ("Mesh", ["no_certificate"], ()),
        ("Identity", ["token_refused", "failed_attempts"], ((b"authorization", b"Bearer guessed"),)),
        ("Limited", ["rate_limit"], ()),
    ],
)
async def test_a_flood_of_refused_calls_is_counted_and_not_logged_call_by_call(server, method, reasons, headers):
    client = ("203.0.113.7", 5)
    with capture_logs() as logs:
        for _ in range(FLOOD):
            await server.request(f"/a.Service/{method}", client, (), headers=headers).status()
        server.metrics.refusals.report()
    refused = [server.metrics.refusals.value("grpc", reason) for reason in reasons]
    assert sum(refused) >= FLOOD - 1  # the first of those that are limited was not
    assert len(logs) == len(reasons) * (MAX_LINES + 1)
    assert [line["left_out"] for line in logs[-len(reasons) :]] == [each - MAX_LINES for each in refused]
    assert "guessed" not in str(logs)


async def test_a_request_for_nothing_is_counted(server):
    with capture_logs() as logs:
        exchange = server.request("/nothing", ("203.0.113.7", 5), headers=())
        await exchange.status()
    assert server.metrics.refusals.value("grpc", "unimplemented") == 1
    assert logs[0]["method"] == "/nothing"


async def test_a_caller_that_is_not_told_the_reason_is_logged_with_it(server):
    with capture_logs() as logs:
        assert await server.request("/a.Service/Opaque", ("203.0.113.7", 5), ()).status() == "16"
    assert server.metrics.refusals.value("grpc", "impersonation") == 1
    assert logs[0]["reason"] == "requested for another workload"
