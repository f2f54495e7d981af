"""CreateCertificate: the layout of the answer and the codes that Istio's agents act on."""

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from app.ca.rpc.istio import IstioCertificates
from app.core.errors import InvalidInputError, UnauthenticatedError
from app.proto.istio.ca_pb2 import IstioCertificateRequest
from app.spiffe.id import SpiffeId
from app.spiffe.principal import ANONYMOUS, Credential, Principal
from app.transport.grpc.status import Code, RpcError, code_of
from tests.assets.csrs import csr
from tests.fakes.context import call_context

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
        Principal(Credential.JOIN_TOKEN, CART, "no such token"),
        Principal(Credential.SVID, SpiffeId.parse("spiffe://o/a")),
    ],
)
async def test_who_is_not_let_in_is_not_told_why(rpc, caller):
    with capture_logs() as logs, pytest.raises(UnauthenticatedError) as refusal:
        await rpc(IstioCertificateRequest(csr=csr()), context(caller))
    assert refusal.value.message == "authentication failed"
    (entry,) = (entry for entry in logs if entry["event"] == "certificate_refused")
    assert len(entry["reason"]) > len(refusal.value.message)


@pytest.mark.parametrize("identity", ["spiffe://example.org/ns/shop/sa/other", str(CART), ""])
async def test_nobody_gets_a_certificate_in_the_name_of_another(rpc, ca, identity):
    request = IstioCertificateRequest(csr=csr())
    request.metadata["ImpersonatedIdentity"] = identity
    with pytest.raises(UnauthenticatedError):
        await rpc(request, context())
    assert await ca.records.page(None, 10) == []


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


async def test_what_keeps_the_ca_from_signing_is_internal(rpc, clock, transactions):
    clock.turn_back(3600)
    with pytest.raises(RpcError) as refusal:
        await rpc(IstioCertificateRequest(csr=csr()), context())
    assert code_of(refusal.value) is Code.INTERNAL
    clock.advance(3600)
    transactions.away = True
    with pytest.raises(RpcError) as refusal:
        await rpc(IstioCertificateRequest(csr=csr()), context())
    assert code_of(refusal.value) is Code.INTERNAL
