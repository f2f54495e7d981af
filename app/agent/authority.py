"""Calls to the control plane over TLS: CreateCertificate by a join token or the held SVID, SDS by the SVID."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from cryptography import x509
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import H2Protocol

from app.agent.identity import Identity, JoinToken, Proof
from app.core.errors import (
    InvalidInputError,
    MeshwardError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from app.core.net import Address
from app.proto.istio import ca_pb2
from app.proto.meshward import downstream_pb2
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.x509_svid import MALFORMED, read_leaf

SECRETS_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
SIGN_METHOD = "/meshward.ca.v1.DownstreamAuthorities/SignAuthority"
METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
# Connecting, both handshakes and the answer together; a control plane that needs longer counts as unreachable.
CALL_TIMEOUT_SECONDS = 10.0
# How much of the server's own text goes into a message.
MAX_REASON = 300

_KINDS: dict[Status, type[MeshwardError]] = {
    Status.UNAUTHENTICATED: UnauthenticatedError,
    Status.PERMISSION_DENIED: PermissionDeniedError,
    Status.INVALID_ARGUMENT: InvalidInputError,
    # The server at the address is not a control plane.
    Status.UNIMPLEMENTED: PreconditionError,
}


class MeshAuthority:
    """The control plane's certificate service. An implementation of `app.agent.keeper.CertificateAuthority`.

    The server's certificate must have the DNS name or address `server_name` and the SPIFFE ID of the control plane.
    It is verified with `bootstrap` at the first enrolment, afterwards with the bundle that came with the identity.
    """

    def __init__(
        self, server: Address, server_name: str, bootstrap: TrustBundle, timeout: float = CALL_TIMEOUT_SECONDS
    ) -> None:
        self._server = server
        self._server_name = server_name
        self._bootstrap = bootstrap
        self._timeout = timeout

    async def certify(self, csr: str, proof: Proof) -> tuple[str, ...]:
        """Return the `cert_chain` for a PEM request; see the Protocol for what it raises."""
        metadata = {"authorization": f"Bearer {proof.secret}"} if isinstance(proof, JoinToken) else {}
        bundle = self._bootstrap if isinstance(proof, JoinToken) else proof.bundle
        with self._errors():
            async with self._calling(bundle, proof) as channel:
                create = UnaryUnaryMethod(
                    channel, METHOD, ca_pb2.IstioCertificateRequest, ca_pb2.IstioCertificateResponse
                )
                answer = await create(ca_pb2.IstioCertificateRequest(csr=csr), metadata=metadata)
        return tuple(answer.cert_chain)

    async def sign_authority(self, csr: str, seconds: int, identity: Identity) -> tuple[Sequence[str], Sequence[str]]:
        """Return the chain of a signing authority, for a PEM request, and the roots. Raises as `certify` does."""
        request = downstream_pb2.SignAuthorityRequest(csr=csr, validity_seconds=seconds)
        with self._errors():
            async with self._calling(identity.bundle, identity) as channel:
                sign = UnaryUnaryMethod(
                    channel,
                    SIGN_METHOD,
                    downstream_pb2.SignAuthorityRequest,
                    downstream_pb2.SignAuthorityResponse,
                )
                answer = await sign(request)
        return tuple(answer.cert_chain), tuple(answer.roots)

    @asynccontextmanager
    async def _calling(self, bundle: TrustBundle, proof: Proof) -> AsyncIterator[Channel]:
        """Open a channel for the call in the block, which has the time limit."""
        context, expected = _tls(bundle, proof), bundle.trust_domain.server_id
        async with (
            _ServerChannel(self._server, self._server_name, expected, context) as channel,
            asyncio.timeout(self._timeout),
        ):
            yield channel

    @asynccontextmanager
    async def secrets(self, identity: Identity) -> AsyncIterator[Stream[Any, Any]]:
        """Open an SDS stream, authenticated by an identity, for the length of the block.

        Raises as `certify` does, in the block too.
        """
        with self._errors():
            context, expected = _tls(identity.bundle, identity), identity.bundle.trust_domain.server_id
            async with _ServerChannel(self._server, self._server_name, expected, context) as channel:
                requests, responses = discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse
                async with StreamStreamMethod(channel, SECRETS_METHOD, requests, responses).open() as stream:
                    yield stream

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what grpclib, TLS and the network raise into this project's errors."""
        try:
            yield
        except GRPCError as error:
            kind = _KINDS.get(error.status, UnavailableError)
            reason = (error.message or "no reason given")[:MAX_REASON]
            raise kind(f"the control plane at {self._server} answered {error.status.name}: {reason}") from error
        except ssl.SSLCertVerificationError as error:
            raise PreconditionError(
                f"the server at {self._server} is not trusted ({error.verify_message}): check the trust bundle, and "
                f"that its certificate is for {self._server_name} (--server-name)"
            ) from error
        except TimeoutError as error:
            raise UnavailableError(
                f"the control plane at {self._server} did not answer in {self._timeout} s"
            ) from error
        except DecodeError as error:
            raise UnavailableError(f"the control plane at {self._server} sent a malformed certificate chain") from error
        except (OSError, StreamTerminatedError, asyncio.IncompleteReadError) as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:MAX_REASON]
            raise UnavailableError(f"the control plane at {self._server} cannot be reached: {reason}") from error


class _ServerChannel(Channel):
    """grpclib's channel, which calls nothing on a server before it has proved to be `expected`."""

    def __init__(self, server: Address, server_name: str, expected: SpiffeId, context: ssl.SSLContext) -> None:
        super().__init__(server.host, server.port, ssl=context)
        self._server, self._server_name, self._expected, self._context = server, server_name, expected, context

    async def _create_connection(self) -> H2Protocol:
        transport, protocol = await asyncio.get_running_loop().create_connection(
            self._protocol_factory,
            self._server.host,
            self._server.port,
            ssl=self._context,
            server_hostname=self._server_name,
        )
        try:
            self._check_server(transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
        except BaseException:
            transport.abort()
            raise
        return protocol

    def _check_server(self, certificate: bytes) -> None:
        """Check the server's certificate, whose chain and name TLS has verified, for its SPIFFE ID."""
        try:
            found = read_leaf(x509.load_der_x509_certificate(certificate)).spiffe_id
        except (InvalidInputError, *MALFORMED) as error:
            raise PreconditionError(f"the server at {self._server} is not trusted: it has no X509-SVID") from error
        if found != self._expected:
            raise PreconditionError(
                f"the server at {self._server} is not trusted: it is {found}, and the control plane is {self._expected}"
            )


def _tls(bundle: TrustBundle, proof: Proof) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata="".join(bundle.roots))
    if isinstance(proof, JoinToken):
        return context
    # OpenSSL reads a key and chain only from a file: this one is in memory, never on a disk.
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(proof.svid.private_key + "".join(proof.svid.chain).encode("ascii"))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
