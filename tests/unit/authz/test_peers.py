"""PeerAuthentication: what is read, which document decides, and which peers are refused."""

from dataclasses import replace

import pytest

from app.authz.model import Workload
from app.authz.rules.jwt_rules import REQUEST_AUTHENTICATION_KIND
from app.authz.rules.peers import PEER_AUTHENTICATION_KIND, PeerMode, modes_of
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.assets.request_authentications import peer_authentication
from tests.fakes.authz import SHOP, policy, request, with_connection
from tests.fakes.checks import policy_service

SHOP_ONLY = {"matchLabels": {"app": "shop"}}
OLD, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


def read(*texts):
    return PEER_AUTHENTICATION_KIND.parse(parse_documents("".join(texts).encode()))


def mode_of(*texts, port=8080):
    modes = modes_of(read(*texts), "istio-system")
    return modes.ports.get(port, (modes.mode, ""))[0]


def mesh(mode, **fields):
    return peer_authentication(mode, namespace="istio-system", **fields)


def test_without_a_document_peers_may_show_an_identity_or_not():
    assert modes_of((), "istio-system").mode is PeerMode.PERMISSIVE


def test_the_narrowest_scope_that_has_a_mode_decides():
    workload = peer_authentication("DISABLE", "w", selector=SHOP_ONLY)
    assert mode_of(mesh("STRICT")) is PeerMode.STRICT
    assert mode_of(mesh("STRICT"), peer_authentication("PERMISSIVE")) is PeerMode.PERMISSIVE
    assert mode_of(mesh("STRICT"), peer_authentication("PERMISSIVE"), workload) is PeerMode.DISABLE
    assert mode_of(mesh("STRICT"), peer_authentication("UNSET")) is PeerMode.STRICT
    assert mode_of(mesh("STRICT"), peer_authentication(None, selector=SHOP_ONLY)) is PeerMode.STRICT
    assert mode_of(mesh("STRICT", selector=SHOP_ONLY)) is PeerMode.PERMISSIVE


def test_a_port_has_its_own_mode_or_that_of_its_workload():
    ports = {"8080": {"mode": "DISABLE"}, "9090": {"mode": "UNSET"}}
    document = peer_authentication("STRICT", selector=SHOP_ONLY, portLevelMtls=ports)
    assert [mode_of(document, port=port) for port in (8080, 9090, 7070)] == [
        PeerMode.DISABLE,
        PeerMode.STRICT,
        PeerMode.STRICT,
    ]


def test_of_several_documents_of_one_scope_the_oldest_decides():
    newer = peer_authentication("STRICT", "a", created=NEW)
    assert mode_of(newer, peer_authentication("DISABLE", "b", created=OLD)) is PeerMode.DISABLE
    assert mode_of(newer, peer_authentication("DISABLE", "b")) is PeerMode.STRICT
    assert mode_of(peer_authentication("STRICT", "b"), peer_authentication("DISABLE", "a")) is PeerMode.DISABLE
    assert mode_of(newer, peer_authentication("DISABLE", "b", created="yesterday")) is PeerMode.STRICT


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"mode": "MUTUAL"}, "spec.mtls.mode"),
        ({"mtls": {"mode": 7}}, "spec.mtls.mode"),
        ({"portLevelMtls": {"80": {}}}, "spec.portLevelMtls"),
        ({"selector": SHOP_ONLY, "portLevelMtls": {}}, "spec.portLevelMtls"),
        ({"selector": SHOP_ONLY, "portLevelMtls": {"0": {}}}, "spec.portLevelMtls.0"),
        ({"selector": SHOP_ONLY, "portLevelMtls": {"65536": {}}}, "spec.portLevelMtls.65536"),
        ({"selector": SHOP_ONLY, "portLevelMtls": {"http": {}}}, "spec.portLevelMtls.http"),
        ({"selector": SHOP_ONLY, "portLevelMtls": {"080": {}}}, "spec.portLevelMtls.080"),
        ({"selector": SHOP_ONLY, "portLevelMtls": {"80": {"mode": "x"}}}, "spec.portLevelMtls.80.mode"),
        ({"selector": {"matchLabels": {"a*": "b"}}}, "spec.selector.matchLabels.a*"),
        ({"targetRefs": []}, "spec.targetRefs"),
    ],
)
def test_what_istio_refuses_is_refused_with_its_path(fields, path):
    with pytest.raises(InvalidInputError) as refusal:
        read(peer_authentication(**fields))
    assert path in [violation.path for violation in refusal.value.violations]


@pytest.mark.parametrize("kind", [PEER_AUTHENTICATION_KIND, REQUEST_AUTHENTICATION_KIND])
def test_a_dry_run_of_what_decides_anyway_is_refused(kind):
    head = f"apiVersion: security.istio.io/v1\nkind: {kind.noun.title().replace(' ', '')}"
    documents = parse_documents(f"{head}\nmetadata: {{name: a, annotations: {{istio.io/dry-run: 'true'}}}}".encode())
    with pytest.raises(InvalidInputError) as refusal:
        kind.parse(documents)
    assert [each.path for each in refusal.value.violations] == ["metadata.annotations.istio.io/dry-run"]


@pytest.mark.parametrize("selector", [{}, {"matchLabels": {}}])
def test_a_selector_without_labels_is_warned_of(selector):
    found, other = read(peer_authentication(selector=selector) + peer_authentication(name="other", selector=SHOP_ONLY))
    assert ([each.path for each in found.warnings], other.warnings) == (["spec.selector"], ())


def test_ports_may_be_written_as_numbers():
    yaml = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: shop}
spec:
  selector: {matchLabels: {app: shop}}
  portLevelMtls:
    8080: {mode: STRICT}
"""
    assert mode_of(yaml) is PeerMode.STRICT


@pytest.fixture
async def service():
    return await policy_service(policy("{rules: [{}]}") + peer_authentication("STRICT", "strict"))


async def test_a_peer_without_an_identity_is_refused_where_mutual_tls_is_demanded(service):
    assert service.check(request()).allowed
    plain = service.check(request(source=""))
    assert plain.reason == (
        "the peer proved no identity, as over plaintext, and PeerAuthentication shop/strict demands mutual TLS (STRICT)"
    )
    assert "is not known to have proved" in service.check(request(source=None)).reason
    assert service.check(request(source="", workload=Workload("other", ()))).allowed


async def test_a_permissive_document_and_its_deletion_let_it_in(service):
    await service.apply(peer_authentication("PERMISSIVE", "strict"))
    assert service.check(request(source="")).allowed


async def test_where_the_port_is_missing_it_is_the_one_that_demands_most():
    ports = {"9090": {"mode": "STRICT"}}
    service = await policy_service(peer_authentication("PERMISSIVE", selector=SHOP_ONLY, portLevelMtls=ports))
    assert service.check(request(source="")).allowed
    assert not service.check(request(source="", port=9090)).allowed
    assert not service.check(request(source="", port=None)).allowed


@pytest.mark.parametrize("label", [("gateway.networking.k8s.io/gateway-name", "g"), ("istio", "ingressgateway")])
async def test_a_gateway_has_peers_of_no_mesh(service, label):
    assert service.check(request(source="", workload=Workload("shop", (label,)))).allowed


async def test_missing_labels_are_denied_where_a_document_selects_by_them(service):
    await service.apply(peer_authentication("STRICT", "w", selector=SHOP_ONLY))
    assert "labels are missing" in service.check(request(workload=Workload("shop"))).reason


async def test_connections_are_refused_as_well(service):
    connection = with_connection(replace(request(source=""), is_tcp=True, claims=None), workload=SHOP)
    assert not service.check(connection).allowed
