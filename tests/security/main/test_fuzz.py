"""Every RPC and HTTP route, over real services and an empty database, for messages that no client of theirs sends.

`python -m bench.fuzz` sends more of them, with other seeds.
"""

import pytest
from google.protobuf.message import DecodeError

from app.core.clock import SystemClock
from app.main.parts import make_parts
from app.main.routes import route_table
from app.main.rpcs import SERVICES, rpc_table
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.settings import Settings
from app.transport.grpc.health import Health
from app.transport.grpc.routes import Kind
from bench import fuzz_parsers
from bench.fuzz import CHECK_HTTP, fuzz
from bench.mutations import in_each_other

MESSAGES = 11_000
ADMIN_REQUESTS = 1_150
PROOFS = 5_000
# metadata of an IstioCertificateRequest, then fields, value and struct_value, again and again: a Struct in a Struct.
METADATA, FIELDS, VALUE, STRUCT = 4, 1, 2, 5


async def test_no_message_is_a_fault_of_ours():
    parts = make_parts(Settings(), SystemClock())
    report = await fuzz(MESSAGES, seed=20, admin_requests=ADMIN_REQUESTS)
    assert report.faults == []
    assert report.messages == MESSAGES + ADMIN_REQUESTS
    rpcs = {rpc.path: rpc.kind for rpc in rpc_table(parts, Health(SERVICES))}
    routes = {f"{route.method} {route.path}" for route in route_table(parts)}
    assert set(report.codes) == {*rpcs, *routes, CHECK_HTTP}
    # What is fuzzed is not only refused, as it would be by a caller without an identity.
    assert all(report.codes[path]["OK"] for path, kind in rpcs.items() if kind is Kind.UNARY)


def test_no_proof_of_an_identity_is_a_fault_of_ours():
    """`python -m bench.fuzz_parsers` reads more of them."""
    outcomes, faults = fuzz_parsers.fuzz(PROOFS, seed=20)
    assert faults == []
    assert set(outcomes) == set(fuzz_parsers.TARGETS)
    # What is fuzzed gets beyond the first check.
    assert all(counted["accepted"] and counted["refused"] for counted in outcomes.values())


def test_metadata_nested_as_deeply_as_was_seen_cannot_be_parsed():
    """It is refused as malformed: it must not reach a handler that would fail on it."""
    with pytest.raises(DecodeError):
        IstioCertificateRequest.FromString(in_each_other((METADATA, *(FIELDS, VALUE, STRUCT) * 90)))
