"""CreateCertificate over real TLS: the listener's own certificate is the CA's, and grpcio is the caller."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.ca.rpc.istio import IstioCertificates
from app.ca.service.join_tokens import TOKEN_REFUSED
from app.core.clock import SystemClock
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from app.spiffe.id import SpiffeId, TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from app.transport.mesh import MeshApplication
from app.transport.serving import TlsMaterial
from tests.assets.csrs import csr, csr_for, tampered
from tests.fakes.principals import OPERATOR
from tests.support.listening import listening

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
SERVICE = "istio.v1.auth.IstioCertificateService"


@pytest.fixture
def database_url(tmp_path):
    """One database will do: the wire is what is tested."""
    return f"sqlite+aiosqlite:///{tmp_path / 'meshward.db'}"


@asynccontextmanager
async def served(ca):
    """The port of a TLS listener that serves CreateCertificate, with the CA's own certificate."""
    clock = SystemClock()
    rpc = Rpc(
        SERVICE,
        "CreateCertificate",
        Kind.UNARY,
        IstioCertificateRequest,
        IstioCertificateResponse,
        IstioCertificates(ca.issuance).create_certificate,
        Authentication.IDENTITY,
        UNLIMITED,
    )
    authenticator = Authenticator(trust_domain=TrustDomain("example.org"), clock=clock, attestors=[ca.join_tokens])
    grpc_application = GrpcApplication(
        [rpc], authenticator=authenticator, limiter=RateLimiter(clock.monotonic), metrics=Metrics()
    )
    session = ca.secrets.serving()
    svid, bundle = await session.svid(), await session.bundle()
    tls = TlsMaterial("".join(svid.chain), svid.private_key, "".join(bundle.roots))
    async with listening(MeshApplication(grpc_application, (), authenticator), tls) as port:
        yield port


async def ask(ca, port, request, *, token=None, chain=None, key=None):
    """The answer to `request` from a caller with a join token, or with an SVID and its key."""
    roots = "".join(ca.authorities.bundle().roots).encode()
    credentials = grpc.ssl_channel_credentials(roots, key, "".join(chain).encode() if chain else None)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/CreateCertificate",
            request_serializer=IstioCertificateRequest.SerializeToString,
            response_deserializer=IstioCertificateResponse.FromString,
        )
        return await call(request, timeout=20, metadata=metadata)


async def refusal_of(*args, **named):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await ask(*args, **named)
    return refusal.value


async def code_of_refusal(*args, **named):
    return (await refusal_of(*args, **named)).code()


def new_key():
    key = ec.generate_private_key(ec.SECP256R1())
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def identity_of(pem):
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


async def test_a_workload_joins_with_its_token_and_renews_with_its_svid(ca):
    token = (await ca.join_tokens.create(OPERATOR, CART)).secret
    key, key_pem = new_key()
    async with served(ca) as port:
        joined = await ask(ca, port, IstioCertificateRequest(csr=csr_for(key)), token=token)
        assert identity_of(joined.cert_chain[0]) == [str(CART)]
        renewed = await ask(
            ca,
            port,
            IstioCertificateRequest(csr=csr(), validity_duration=600),
            chain=joined.cert_chain[:2],
            key=key_pem,
        )
    assert identity_of(renewed.cert_chain[0]) == [str(CART)]
    assert renewed.cert_chain[0] != joined.cert_chain[0]
    assert joined.cert_chain[-1] == "".join(ca.authorities.bundle().roots)


async def test_a_token_is_taken_once_and_a_bad_csr_does_not_use_it_up(ca):
    token = (await ca.join_tokens.create(OPERATOR, CART)).secret
    good = IstioCertificateRequest(csr=csr())
    async with served(ca) as port:
        bad = IstioCertificateRequest(csr=tampered(csr()))
        assert await code_of_refusal(ca, port, bad, token=token) is grpc.StatusCode.INVALID_ARGUMENT
        assert (await ask(ca, port, good, token=token)).cert_chain
        assert await code_of_refusal(ca, port, good, token=token) is grpc.StatusCode.UNAUTHENTICATED


async def test_strangers_and_impersonators_are_unauthenticated(ca):
    key, key_pem = new_key()
    impersonation = IstioCertificateRequest(csr=csr())
    impersonation.metadata["ImpersonatedIdentity"] = str(CART)
    async with served(ca) as port:
        for token in (None, "guessed"):
            refused = await code_of_refusal(ca, port, IstioCertificateRequest(csr=csr()), token=token)
            assert refused is grpc.StatusCode.UNAUTHENTICATED
        token = (await ca.join_tokens.create(OPERATOR, CART)).secret
        joined = await ask(ca, port, IstioCertificateRequest(csr=csr_for(key)), token=token)
        refused = await code_of_refusal(ca, port, impersonation, chain=joined.cert_chain[:2], key=key_pem)
        assert refused is grpc.StatusCode.UNAUTHENTICATED


async def test_a_refusal_reveals_nothing_of_the_token(ca):
    """Istio's contract keeps failures of authentication opaque."""
    used, deleted, brief = [await ca.join_tokens.create(OPERATOR, CART) for _ in range(2)] + [
        await ca.join_tokens.create(OPERATOR, CART, timedelta(seconds=1))
    ]
    await ca.join_tokens.delete(OPERATOR, deleted.token.id)
    request = IstioCertificateRequest(csr=csr())
    async with served(ca) as port:
        await ask(ca, port, request, token=used.secret)
        await asyncio.sleep(max(0.0, (brief.token.expires_at - datetime.now(UTC)).total_seconds()))
        secrets = [used.secret, deleted.secret, brief.secret, "guessed", used.secret + "x", "x" * 1000]
        refusals = [await refusal_of(ca, port, request, token=secret) for secret in secrets]
    assert {refusal.code() for refusal in refusals} == {grpc.StatusCode.UNAUTHENTICATED}
    assert {refusal.details() for refusal in refusals} == {TOKEN_REFUSED}
