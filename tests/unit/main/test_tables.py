"""The tables that join the parts: nothing stands twice, nothing is left open by mistake."""

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from app.core.clock import SystemClock
from app.main.parts import make_parts
from app.main.routes import route_table
from app.main.rpcs import SERVICES, mount_table, rpc_table
from app.settings import MeshSettings, Settings
from app.transport.grpc.health import Health
from app.transport.grpc.routes import UNLIMITED, Authentication
from app.transport.grpc.routes import route_table as by_path


@pytest.fixture(scope="module")
def parts():
    return make_parts(Settings(mesh=MeshSettings(reflection=True)), SystemClock())


@pytest.fixture(scope="module")
def rows(parts):
    return by_path(rpc_table(parts, Health(SERVICES)))


def test_whatever_hands_out_or_signs_an_identity_asks_for_one(rows):
    for path, row in rows.items():
        signs = any(each in path.lower() for each in ("secret", "certificate", "signauthority"))
        assert (row.authentication is Authentication.IDENTITY) == signs, path


def test_only_checks_are_without_a_rate_limit(rows):
    unlimited = {path.rpartition("/")[2] for path, row in rows.items() if row.rate_limit is UNLIMITED}
    assert unlimited == {"Check", "ShouldRateLimit"}
    for path, row in rows.items():
        if row.rate_limit is UNLIMITED:
            assert row.authentication is not Authentication.PUBLIC, path


def test_the_messages_are_those_of_the_services_own_descriptors(rows):
    pool = CheckRequest.DESCRIPTOR.file.pool
    for row in rows.values():
        method = pool.FindServiceByName(row.service).methods_by_name[row.method]
        assert row.request.DESCRIPTOR.full_name == method.input_type.full_name
        assert row.response.DESCRIPTOR.full_name == method.output_type.full_name
        streams = (method.client_streaming, method.server_streaming)
        assert (
            row.kind.value
            == {
                (False, False): "unary",
                (False, True): "server_stream",
                (True, False): "client_stream",
                (True, True): "bidi_stream",
            }[streams]
        )


def test_health_and_reflection_tell_of_every_service_of_ours(rows):
    told = {row.service for row in rows.values() if not row.service.startswith("grpc.reflection.")}
    assert told == SERVICES


def test_reflection_is_off_unless_it_is_set():
    rows = rpc_table(make_parts(Settings(), SystemClock()), Health(SERVICES))
    assert not any(row.service.startswith("grpc.reflection.") for row in rows)


def test_public_rows_take_short_requests_alone(rows):
    for row in rows.values():
        assert (row.max_request_bytes <= 4096) == (row.authentication is Authentication.PUBLIC)


def test_no_rpc_lies_under_a_mount(parts, rows):
    for mount in mount_table(parts):
        assert mount.authentication is Authentication.MESH
        assert not any(mount.matches(path) for path in rows)


def test_every_route_is_there_once_and_below_v1(parts):
    rows = [(row.method, row.path) for row in route_table(parts)]
    assert len(set(rows)) == len(rows)
    # The one of envoyproxy/ratelimit has its own path, and certificates name the one of revocation lists.
    assert {path for _, path in rows if not path.startswith("/v1/")} == {"/rlconfig", "/crl/{authority_id}"}
