"""CreateCertificate: the layout of the answer and the codes that Istio's agents act on."""

from dataclasses import replace

import pytest
from cryptography import x509
from google.protobuf.struct_pb2 import NULL_VALUE, Value

from app.ca.backends import local_key
from app.ca.model import KeyAlgorithm, Pod
from app.ca.rpc.istio import IstioCertificates
from app.ca.service.impersonation import Impersonation
from app.core.errors import (
    InvalidInputError,
    MeshwardError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import ANONYMOUS, Credential, Principal
from app.spiffe.service_account import BoundPod, ServiceAccount
from app.spiffe.x509_svid import parse_certificate, read_leaf
from app.transport.grpc.status import Code, code_of
from tests.assets.csrs import csr
from tests.fakes.context import call_context
from tests.fakes.pods import FakePods
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def context(caller=None, *, tls=True, peer="10.0.0.7:40000"):
    return call_context(METHOD, peer=peer, tls=tls, principal=caller or Principal(Credential.SVID, CART))


@pytest.fixture
def rpc(ca):
    return IstioCertificates(ca.issuance).create_certificate


async def test_the_chain_is_the_leaf_the_intermediate_and_then_all_roots_as_one(rpc, ca):
    answer = await rpc(IstioCertificateRequest(csr=csr(), validity_duration=3600), context())
    leaf, intermediate, roots = answer.cert_chain
    x509.load_pem_x509_certificate(leaf.encode()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(intermediate.encode())
    )
    assert roots == "".join(ca.authorities.bundle().roots)
    assert len(answer.cert_chain) > 1


@pytest.mark.parametrize(
    "request_",
    [
        IstioCertificateRequest(),
        IstioCertificateRequest(csr="x"),
        IstioCertificateRequest(csr=csr(), validity_duration=2**62),
    ],
    ids=["no CSR", "bad CSR", "too long"],
)
async def test_what_the_caller_can_mend_is_invalid_argument(rpc, request_):
    with pytest.raises(InvalidInputError):
        await rpc(request_, context())


@pytest.mark.parametrize(
    "caller",
    [
        ANONYMOUS,
        Principal(Credential.SVID, SpiffeId.parse("spiffe://o/a")),
    ],
)
async def test_who_is_not_let_in_is_not_told_why(rpc, caller):
    with pytest.raises(UnauthenticatedError) as refusal:
        await rpc(IstioCertificateRequest(csr=csr()), context(caller))
    assert refusal.value.message == "authentication failed"
    # What is logged: see tests/security/grpc/test_refusals.py.
    assert len(refusal.value.__cause__.message) > len(refusal.value.message)


async def test_a_token_that_is_used_up_meanwhile_is_refused_as_one_that_was_before(rpc, ca):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    await rpc(IstioCertificateRequest(csr=csr()), context(caller))
    with pytest.raises(UnauthenticatedError) as meanwhile:
        await rpc(IstioCertificateRequest(csr=csr()), context(caller))
    with pytest.raises(UnauthenticatedError) as before:
        await ca.join_tokens.attest(Evidence(created.secret))
    assert meanwhile.value.message == before.value.message


@pytest.mark.parametrize(
    "identity", ["spiffe://example.org/ns/shop/sa/other", str(CART), " ", 0, False, [], {}, ["spiffe://example.org/a"]]
)
async def test_nobody_gets_a_certificate_in_the_name_of_another(rpc, ca, identity):
    request = IstioCertificateRequest(csr=csr())
    request.metadata["ImpersonatedIdentity"] = identity
    with pytest.raises(UnauthenticatedError, match="authentication failed"):
        await rpc(request, context())
    assert await ca.records.page(None, 10) == []


ZTUNNEL = Principal(
    Credential.SERVICE_ACCOUNT,
    SpiffeId.parse("spiffe://example.org/ns/istio-system/sa/ztunnel"),
    service_account=ServiceAccount("main", "istio-system", "ztunnel", BoundPod("ztunnel-1", "uid-z", "node-1")),
)


@pytest.fixture
def pods():
    pods = FakePods()
    pods.placed = {
        ("istio-system", "ztunnel-1"): Pod("uid-z", "ztunnel", "node-1"),
        ("shop", "cart-1"): Pod("uid-1", "cart", "node-1"),
    }
    return pods


@pytest.fixture
def node_rpc(ca, pods):
    impersonation = Impersonation(TrustDomain("example.org"), frozenset({"istio-system/ztunnel"}), {"main": pods})
    return IstioCertificates(ca.issuance, impersonation).create_certificate


def requested_for(identity):
    request = IstioCertificateRequest(csr=csr())
    request.metadata["ImpersonatedIdentity"] = identity
    return request


async def test_a_nodes_proxy_gets_a_certificate_of_a_pod_of_its_node(node_rpc, ca):
    answer = await node_rpc(requested_for(str(CART)), context(ZTUNNEL))
    assert read_leaf(parse_certificate(answer.cert_chain[0])).spiffe_id == CART
    own = await node_rpc(IstioCertificateRequest(csr=csr()), context(ZTUNNEL))
    assert read_leaf(parse_certificate(own.cert_chain[0])).spiffe_id == ZTUNNEL.spiffe_id


@pytest.mark.parametrize("identity", ["spiffe://example.org/ns/shop/sa/other", " ", 0, False, [], {}, [str(CART)]])
async def test_and_of_nobody_else(node_rpc, ca, identity):
    with pytest.raises(UnauthenticatedError) as refusal:
        await node_rpc(requested_for(identity), context(ZTUNNEL))
    assert (refusal.value.message, refusal.value.reason) == ("authentication failed", "impersonation")
    assert await ca.records.page(None, 10) == []


async def test_one_that_is_banned_cannot_be_impersonated(node_rpc, ca):
    await ca.bans.ban(OPERATOR, str(CART), "stolen", None)
    with pytest.raises(PermissionDeniedError):
        await node_rpc(requested_for(str(CART)), context(ZTUNNEL))


async def test_a_cluster_that_is_away_is_unavailable_and_no_fault_of_ours(node_rpc, pods):
    pods.error = UnavailableError("away")
    with pytest.raises(MeshwardError) as refusal:
        await node_rpc(requested_for(str(CART)), context(ZTUNNEL))
    assert code_of(refusal.value) is Code.UNAVAILABLE


@pytest.mark.parametrize("nothing", [Value(), Value(null_value=NULL_VALUE), Value(string_value="")], ids=str)
async def test_an_empty_impersonation_is_a_request_for_the_callers_own(rpc, nothing):
    """As at istiod: agents that impersonate nobody may send the key all the same."""
    request = IstioCertificateRequest(csr=csr())
    request.metadata.fields["ImpersonatedIdentity"].CopyFrom(nothing)
    answer = await rpc(request, context())
    assert read_leaf(parse_certificate(answer.cert_chain[0])).spiffe_id == CART


async def test_metadata_without_impersonation_is_no_obstacle(rpc):
    request = IstioCertificateRequest(csr=csr())
    request.metadata["CertSigner"] = "any"
    assert (await rpc(request, context())).cert_chain


@pytest.mark.parametrize("peer", ["10.0.0.7:40000", "[2001:db8::1]:40000", "nonsense", ""])
async def test_plaintext_from_another_machine_is_refused(rpc, peer):
    with pytest.raises(UnauthenticatedError):
        await rpc(IstioCertificateRequest(csr=csr()), context(tls=False, peer=peer))


@pytest.mark.parametrize("peer", ["127.0.0.1:40000", "::1:40000", "[::1]:40000", "unix"])
async def test_plaintext_from_this_machine_is_served(rpc, peer):
    assert (await rpc(IstioCertificateRequest(csr=csr()), context(tls=False, peer=peer))).cert_chain


def at_an_expired_signer(ca, clock, transactions):
    signer = ca.authorities.active().signer
    clock.advance((signer.not_after - clock.now()).total_seconds() + 1)


def before_the_signer(ca, clock, transactions):
    clock.turn_back(3600)


def without_the_database(ca, clock, transactions):
    transactions.away = True


def with_a_key_that_cannot_sign(ca, clock, transactions):
    class BrokenKey:
        public_key = ca.authorities.active().key.public_key

        async def sign(self, builder):
            raise UnavailableError("the key store is away")

    ca.authorities._own = (replace(ca.authorities.active(), key=BrokenKey()),)


def with_the_key_of_another(ca, clock, transactions):
    key, _ = local_key.generate(KeyAlgorithm.P256)
    ca.authorities._own = (replace(ca.authorities.active(), key=key),)


def before_the_start(ca, clock, transactions):
    ca.authorities._known = None


BROKEN = [
    at_an_expired_signer,
    before_the_signer,
    without_the_database,
    with_a_key_that_cannot_sign,
    with_the_key_of_another,
    before_the_start,
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
async def test_what_keeps_the_ca_from_signing_is_internal(rpc, ca, clock, transactions, broken):
    broken(ca, clock, transactions)
    with pytest.raises(MeshwardError) as refusal:
        await rpc(IstioCertificateRequest(csr=csr()), context())
    assert code_of(refusal.value) is Code.INTERNAL
