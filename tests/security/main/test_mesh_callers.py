"""Who may call what on the mesh ports: every row of the tables, for every kind of caller, over the wire."""

import ssl
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha import reflection_pb2 as reflection_v1alpha

from app.core.clock import SystemClock
from app.main.parts import make_parts
from app.main.rpcs import AUTHORIZATION, DOWNSTREAMS, ISTIO_CA, RATE_LIMIT, SECRETS, SERVICES, mount_table, rpc_table
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.proto.meshward.downstream_pb2 import SignAuthorityRequest
from app.proto.reflection import reflection_pb2 as reflection_v1
from app.settings import MeshSettings, Settings
from app.transport.grpc.health import SERVICE as HEALTH
from app.transport.grpc.health import Health
from app.transport.grpc.reflection import SERVICE_V1, SERVICE_V1ALPHA
from app.transport.grpc.routes import Authentication, Kind
from tests.assets.certificates import CA_TRUE, CLIENT_AUTH, SERVER_AUTH, MeshCa, purposes, usage
from tests.assets.csrs import csr
from tests.assets.discovery import delta, request
from tests.fakes.checks import check_request
from tests.support.callers import (
    CALL_SECONDS,
    CART,
    Identity,
    Signer,
    client_tls,
    code_of,
    join,
    plaintext_channel,
    tls_channel,
)
from tests.support.serving import eventually

PUBLIC, MESH, IDENTITY = Authentication
ENDED_HANDSHAKE = (httpx.TransportError, ssl.SSLError)
OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
PARTS = make_parts(Settings(mesh=MeshSettings(reflection=True)), SystemClock())
ROWS = {rpc.path: rpc for rpc in rpc_table(PARTS, Health(SERVICES))}
MOUNTS = {mount.prefix: mount for mount in mount_table(PARTS)}

# Whom each row must admit, and a request that it answers well: a row that is new has to be written here as well.
EXPECTED = {
    f"/{AUTHORIZATION}/Check": (MESH, check_request),
    f"/{RATE_LIMIT}/ShouldRateLimit": (MESH, lambda: RateLimitRequest(domain="known", descriptors=[{}])),
    f"/{SECRETS}/StreamSecrets": (IDENTITY, lambda: request("default", "ROOTCA")),
    f"/{SECRETS}/DeltaSecrets": (IDENTITY, lambda: delta("default", "ROOTCA")),
    f"/{SECRETS}/FetchSecrets": (IDENTITY, lambda: request("default", "ROOTCA")),
    f"/{ISTIO_CA}/CreateCertificate": (IDENTITY, lambda: IstioCertificateRequest(csr=csr())),
    f"/{DOWNSTREAMS}/SignAuthority": (IDENTITY, lambda: SignAuthorityRequest(csr=csr())),
    f"/{HEALTH}/Check": (PUBLIC, HealthCheckRequest),
    f"/{HEALTH}/Watch": (PUBLIC, HealthCheckRequest),
    f"/{SERVICE_V1}/ServerReflectionInfo": (
        PUBLIC,
        lambda: reflection_v1.ServerReflectionRequest(list_services="*"),
    ),
    f"/{SERVICE_V1ALPHA}/ServerReflectionInfo": (
        PUBLIC,
        lambda: reflection_v1alpha.ServerReflectionRequest(list_services="*"),
    ),
}
# What a caller that is admitted gets where that is not OK: the settings name nobody who may have an authority.
ANSWERED = {f"/{DOWNSTREAMS}/SignAuthority": grpc.StatusCode.PERMISSION_DENIED}
EXPECTED_MOUNTS = {"/ext_authz": MESH, "/json": MESH}
# What a caller that is admitted gets: /json takes POST alone.
ADMITTED = {"/ext_authz": 200, "/json": 405}
REFUSED = dict.fromkeys(EXPECTED_MOUNTS, 401)


def test_every_row_and_mount_is_tested_here():
    assert {path: rpc.authentication for path, rpc in ROWS.items()} == {
        path: authentication for path, (authentication, _) in EXPECTED.items()
    }
    assert {prefix: mount.authentication for prefix, mount in MOUNTS.items()} == EXPECTED_MOUNTS


@pytest.fixture(scope="module")
def server(shared_server):
    shared_server.put_quota("known", "{domain: known, descriptors: [{key: never}]}")
    return shared_server


def first_answer(channel, path, metadata=()):
    """The status of a call up to its first answer."""
    rpc = ROWS[path]
    kinds = {Kind.UNARY: "unary_unary", Kind.SERVER_STREAM: "unary_stream", Kind.BIDI_STREAM: "stream_stream"}
    method = getattr(channel, kinds[rpc.kind])(
        path, request_serializer=rpc.request.SerializeToString, response_deserializer=rpc.response.FromString
    )
    message = EXPECTED[path][1]()
    try:
        if rpc.kind is Kind.UNARY:
            method(message, timeout=CALL_SECONDS, metadata=metadata)
        else:
            messages = iter([message]) if rpc.kind is Kind.BIDI_STREAM else message
            call = method(messages, timeout=CALL_SECONDS, metadata=metadata)
            next(call)
            call.cancel()
    except grpc.RpcError as error:
        return error.code()
    return OK


def answers(channel, metadata=()):
    """The status of every row for a caller."""
    return {path: first_answer(channel, path, metadata) for path in ROWS}


def admitted(*admitting, otherwise=UNAUTHENTICATED):
    """The status of every row if those with these demands admit the caller."""
    return {
        path: ANSWERED.get(path, OK) if demand in admitting else otherwise for path, (demand, _) in EXPECTED.items()
    }


def mounted(url, verify=True):
    """The status of every mount for a caller."""
    with httpx.Client(verify=verify, timeout=CALL_SECONDS) as client:
        headers = {"x-meshward-namespace": "shop"}
        return {prefix: client.get(f"{url}{prefix}/cart", headers=headers).status_code for prefix in MOUNTS}


def tls_url(server):
    return f"https://localhost:{server.tls_port}"


def test_this_machine_over_plaintext_is_of_the_mesh_and_has_no_identity(server):
    with plaintext_channel(server, grpc) as channel:
        assert answers(channel) == admitted(PUBLIC, MESH)
    assert mounted(f"http://127.0.0.1:{server.plaintext_port}") == ADMITTED


def test_tls_without_a_certificate_is_nobody(server):
    with tls_channel(server, api=grpc) as channel:
        assert answers(channel) == admitted(PUBLIC)
    assert mounted(tls_url(server), client_tls(server)) == REFUSED


async def test_an_svid_of_this_trust_domain_is_admitted_everywhere(server):
    cart = await join(server)
    with tls_channel(server, cart, api=grpc) as channel:
        assert answers(channel) == admitted(PUBLIC, MESH, IDENTITY)
    assert mounted(tls_url(server), client_tls(server, cart)) == ADMITTED


def test_an_svid_without_extended_key_usage_is_admitted(server):
    """Optional in an X509-SVID (section 4.4), and so it is to the TLS server."""
    with tls_channel(server, Signer(server).leaf(CART, purposes=None), api=grpc) as channel:
        assert answers(channel) == admitted(PUBLIC, MESH, IDENTITY)


def test_a_certificate_of_another_ca_ends_the_handshake(server):
    stranger = Identity(*MeshCa(domain="cluster.local").serving())
    with tls_channel(server, stranger, api=grpc) as channel:
        assert answers(channel) == admitted(otherwise=grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(ENDED_HANDSHAKE):
        mounted(tls_url(server), client_tls(server, stranger))


REFUSED_LEAVES = {
    "of another trust domain": lambda signer: signer.leaf("spiffe://other.example/ns/shop/sa/cart"),
    "of a trust domain that begins like this one": lambda signer: signer.leaf("spiffe://cluster.local.evil/ns/a/sa/b"),
    "with two ids": lambda signer: signer.leaf(CART, "spiffe://cluster.local/ns/shop/sa/admin"),
    "with one id twice": lambda signer: signer.leaf(CART, CART),
    "with an id that is none": lambda signer: signer.leaf("https://cluster.local/ns/shop/sa/cart"),
    "with the trust domain's own id": lambda signer: signer.leaf("spiffe://cluster.local"),
    "with a path that climbs": lambda signer: signer.leaf("spiffe://cluster.local/ns/../sa/cart"),
    "for clients alone": lambda signer: signer.leaf(CART, purposes=(purposes(CLIENT_AUTH), False)),
    "with a key usage that is not critical": lambda signer: signer.leaf(
        CART, usage=(usage("digital_signature"), False)
    ),
}


@pytest.mark.parametrize("kind", REFUSED_LEAVES)
def test_a_certificate_of_ours_that_is_no_svid_of_ours_is_nobody(server, kind):
    stranger = REFUSED_LEAVES[kind](Signer(server))
    with tls_channel(server, stranger, api=grpc) as channel:
        assert answers(channel) == admitted(PUBLIC)
    assert mounted(tls_url(server), client_tls(server, stranger)) == REFUSED


UNFIT_LEAVES = {
    "the signing certificate": lambda signer: signer.itself(),
    "a leaf that says that it is a CA": lambda signer: signer.leaf(CART, constraints=CA_TRUE),
    "a leaf for servers alone": lambda signer: signer.leaf(CART, purposes=(purposes(SERVER_AUTH), False)),
    "a leaf that has ended": lambda signer: signer.leaf(CART, not_after=datetime.now(UTC) - timedelta(seconds=1)),
}


@pytest.mark.parametrize("kind", UNFIT_LEAVES)
def test_a_certificate_that_is_not_for_clients_ends_the_handshake(server, kind):
    """Asked by Python's TLS: grpcio's own refuses to show some of them."""
    with pytest.raises(ENDED_HANDSHAKE):
        mounted(tls_url(server), client_tls(server, UNFIT_LEAVES[kind](Signer(server))))


def test_an_svid_that_expires_while_its_connection_lives_is_nobody_from_then_on(server):
    brief = Signer(server).leaf(CART, not_after=datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3))
    with tls_channel(server, brief, api=grpc) as channel:
        check = f"/{AUTHORIZATION}/Check"
        assert first_answer(channel, check) is OK

        eventually(lambda: first_answer(channel, check) is UNAUTHENTICATED, "the SVID to expire", 10)
        assert answers(channel) == admitted(PUBLIC)


@pytest.mark.parametrize(
    "credential",
    ["Bearer guessed", "Bearer", "Basic Z3Vlc3NlZA==", "guessed", "Bearer " + "x" * 4000, "Bearer a b"],
    ids=["unknown", "bare", "basic", "schemeless", "long", "two words"],
)
def test_no_made_up_credential_is_an_identity(server, credential):
    metadata = [("authorization", credential)]
    with tls_channel(server, api=grpc) as channel:
        assert answers(channel, metadata) == admitted(PUBLIC)
    with plaintext_channel(server, grpc) as channel:
        assert answers(channel, metadata) == admitted(PUBLIC, MESH)


def test_the_admin_token_is_no_join_token_and_a_join_token_is_no_admin_token(server):
    with tls_channel(server, api=grpc) as channel:
        assert answers(channel, [("authorization", f"Bearer {server.token}")]) == admitted(PUBLIC)
    join_token = server.join_token(CART)
    assert server.ask("GET", "/v1/ca", token=join_token).status_code == 401


def test_a_join_token_admits_to_rows_of_identity_alone(server):
    metadata = [("authorization", f"Bearer {server.join_token(CART)}")]
    with tls_channel(server, api=grpc) as channel:
        assert first_answer(channel, f"/{AUTHORIZATION}/Check", metadata) is UNAUTHENTICATED
        assert first_answer(channel, f"/{ISTIO_CA}/CreateCertificate", metadata) is OK
        assert first_answer(channel, f"/{ISTIO_CA}/CreateCertificate", metadata) is UNAUTHENTICATED


async def test_nobody_is_let_in_by_headers_that_proxies_write(server):
    cart = await join(server)
    claims = [
        ("x-forwarded-client-cert", f"URI={CART}"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-ssl-cert", cart.chain.decode().replace("\n", "")),
        ("meshward.principal", CART),
    ]
    with tls_channel(server, api=grpc) as channel:
        assert answers(channel, claims) == admitted(PUBLIC)


@pytest.mark.parametrize("path", ["", "/", "/nope.Service/Method", f"/{AUTHORIZATION}/check", f"/{AUTHORIZATION}/"])
async def test_what_is_not_in_the_table_is_unimplemented_for_everybody(server, path):
    cart = await join(server)
    for channel in (plaintext_channel(server), tls_channel(server), tls_channel(server, cart)):
        async with channel:
            assert await code_of(channel.unary_unary(path or "/x")(b"", timeout=20)) is grpc.StatusCode.UNIMPLEMENTED


def test_the_client_trusts_nothing_but_the_bundle(server):
    """The other way round: the server proves by its certificate that it is of this CA."""
    with tls_channel(server, roots=MeshCa().roots.encode(), api=grpc) as channel:
        assert first_answer(channel, f"/{HEALTH}/Check") is grpc.StatusCode.UNAVAILABLE
