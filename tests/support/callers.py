"""Callers of the mesh ports: identities with their keys, and grpcio channels for them."""

import socket
import ssl
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from app.main.rpcs import AUTHORIZATION, ISTIO_CA, RATE_LIMIT, SECRETS
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.assets.certificates import Authority, key_pem, new_key, pem
from tests.assets.csrs import csr_for
from tests.assets.discovery import request
from tests.fakes.checks import check_request

CART = "spiffe://cluster.local/ns/shop/sa/cart"
CALL_SECONDS = 20


@dataclass(frozen=True)
class Identity:
    """A private key and the chain for it, PEM, leaf first."""

    key: bytes
    chain: bytes

    @property
    def leaf(self):
        return x509.load_pem_x509_certificate(self.chain)

    @property
    def spiffe_id(self):
        names = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


# grpcio's channels of one address and one configuration share a connection unless told not to.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def tls_channel(server, identity=None, roots=None, api=grpc.aio):
    """A channel to the TLS port, with a client certificate or without; it blocks if `api` is grpc."""
    key, chain = (identity.key, identity.chain) if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(roots or server.roots, key, chain)
    return api.secure_channel(f"localhost:{server.tls_port}", credentials, options=OWN_CONNECTION)


def plaintext_channel(server, api=grpc.aio):
    return api.insecure_channel(f"127.0.0.1:{server.plaintext_port}", options=OWN_CONNECTION)


def unary(channel, service, method, request_type, response_type):
    return channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )


async def check(channel, path="/", **attributes):
    """Whether a check is allowed."""
    request = check_request(path, **attributes)
    call = unary(channel, AUTHORIZATION, "Check", type(request), CheckResponse)
    return (await call(request, timeout=CALL_SECONDS)).status.code == 0


async def rate_limit(channel, domain, key="key", value="value", hits=0):
    """The answer for one descriptor of one entry."""
    request = RateLimitRequest(domain=domain, hits_addend=hits)
    request.descriptors.add().entries.add(key=key, value=value)
    call = unary(channel, RATE_LIMIT, "ShouldRateLimit", RateLimitRequest, RateLimitResponse)
    return await call(request, timeout=CALL_SECONDS)


async def certify(channel, key=None, token=None, ttl_seconds=0, impersonate=None, **metadata):
    """The identity that CreateCertificate gives for a token, or for the channel's own certificate."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    call = unary(channel, ISTIO_CA, "CreateCertificate", IstioCertificateRequest, IstioCertificateResponse)
    request = IstioCertificateRequest(csr=csr_for(key), validity_duration=ttl_seconds)
    if impersonate is not None:
        request.metadata["ImpersonatedIdentity"] = impersonate
    presented = [("authorization", f"Bearer {token}")] if token else []
    answer = await call(request, timeout=CALL_SECONDS, metadata=[*presented, *metadata.items()])
    return Identity(key_pem(key), "".join(answer.cert_chain[:-1]).encode())


async def join(server, spiffe_id=CART, ttl_seconds=0):
    """An identity of this server's CA, had with a join token over TLS."""
    async with tls_channel(server) as channel:
        return await certify(channel, token=server.join_token(spiffe_id), ttl_seconds=ttl_seconds)


@asynccontextmanager
async def member(server, spiffe_id=CART):
    """A channel to the TLS port of a caller with an SVID."""
    async with tls_channel(server, await join(server, spiffe_id)) as channel:
        yield channel


async def code_of(call):
    """The status with which a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class Signer:
    """The signing authority of a running control plane, its key taken from the data directory."""

    def __init__(self, server) -> None:
        authorities = server.get("/v1/ca/authorities")
        signer = authorities["signers"][0]
        key_file = server.directory / "keys" / f"{signer['id']}.pem"
        key = load_pem_private_key(key_file.read_bytes(), password=None)
        self._authority = Authority(x509.load_pem_x509_certificate(signer["certificate"].encode()), key)

    def itself(self):
        """The signing certificate, shown as if it were a client's."""
        return Identity(key_pem(self._authority.key), self._authority.pem.encode())

    def leaf(self, *uris, not_after=None, **changed):
        """A certificate that this CA would never sign."""
        key, now = new_key(), datetime.now(UTC)
        not_after = not_after or now + timedelta(hours=1)
        leaf = self._authority.leaf(key.public_key(), now - timedelta(minutes=1), not_after, uris, **changed)
        return Identity(key_pem(key), (pem(leaf) + self._authority.pem).encode())


def presented_certificate(server):
    """The leaf that the TLS port shows to a connection made now, verified against the bundle."""
    context = ssl.create_default_context(cadata=server.roots.decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", server.tls_port), timeout=CALL_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")


def client_tls(server, identity=None):
    """A TLS context for HTTP clients."""
    context = ssl.create_default_context(cadata=server.roots.decode())
    if identity is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(identity.key + identity.chain)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def stream_secrets(channel, token=None):
    return channel.stream_stream(
        f"/{SECRETS}/StreamSecrets",
        request_serializer=DiscoveryRequest.SerializeToString,
        response_deserializer=DiscoveryResponse.FromString,
    )(metadata=[("authorization", f"Bearer {token}")] if token else [])


async def opened_stream(channel):
    call = stream_secrets(channel)
    await call.write(request("default", "ROOTCA"))
    assert (await call.read()).resources
    return call
