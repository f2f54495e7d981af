"""A CA for agents: without a network, and as a gRPC server over TLS that speaks Istio's CreateCertificate."""

import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from app.agent.identity import JoinToken, Proof
from app.core.errors import MeshwardError, UnauthenticatedError
from app.proto.istio import ca_pb2
from tests.assets.certificates import MeshCa

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


class FakeAuthority:
    """A CertificateAuthority without a network: certifies what shows `token` once, or an identity that it made.

    `failure`, if set, is raised instead; `calls` are the proofs and requests that were shown.
    """

    def __init__(self, clock, token: str = "token-1", ttl: timedelta = timedelta(hours=1)) -> None:
        self.ca = MeshCa(clock.now())
        self.clock, self.ttl, self.token = clock, ttl, token
        self.failure: MeshwardError | None = None
        self.calls: list[tuple[Proof, str]] = []
        self.names: dict = {}

    async def certify(self, csr: str, proof: Proof) -> tuple[str, ...]:
        self.calls.append((proof, csr))
        if self.failure:
            raise self.failure
        if isinstance(proof, JoinToken):
            if proof.secret != self.token:
                raise UnauthenticatedError("the control plane answered UNAUTHENTICATED: token unknown, used or expired")
            self.token = ""
        return self.ca.answer(csr, self.clock.now(), self.ttl, **self.names)


class MeshServer:
    """A gRPC server over TLS on a free port of this machine.

    It takes each of `tokens` once, or a client certificate of its CA. `seen` are the proofs that were shown: the token,
    or the URI of the certificate; `refusal` is answered to everybody if it is set.
    """

    def __init__(self, ca: MeshCa, tokens=(), ttl: timedelta = timedelta(hours=1)) -> None:
        self.ca, self.tokens, self.ttl = ca, set(tokens), ttl
        self.seen: list[str] = []
        self.refusal: GRPCError | None = None
        self.names: dict = {}
        self.port = 0

    @asynccontextmanager
    async def running(self, port: int = 0, **serving) -> AsyncIterator["MeshServer"]:
        listener = socket.create_server(("127.0.0.1", port))
        self.port = listener.getsockname()[1]
        server = Server([self])
        await server.start(sock=listener, ssl=self._tls(serving))
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    def __mapping__(self):
        kinds = (Cardinality.UNARY_UNARY, ca_pb2.IstioCertificateRequest, ca_pb2.IstioCertificateResponse)
        return {METHOD: Handler(self._create, *kinds)}

    def _tls(self, serving) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.ca.roots)
        key, chain = self.ca.serving(**serving)
        with tempfile.NamedTemporaryFile() as file:
            file.write(key + chain)
            file.flush()
            context.load_cert_chain(file.name)
        return context

    async def _create(self, stream) -> None:
        request = await stream.recv_message()
        names = (stream.peer.cert() or {}).get("subjectAltName", ())
        uris = [value for kind, value in names if kind == "URI"]
        token = stream.metadata.get("authorization", "").removeprefix("Bearer ")
        self.seen.append(uris[0] if uris else token)
        if self.refusal:
            raise self.refusal
        if not uris:
            if token not in self.tokens:
                raise GRPCError(Status.UNAUTHENTICATED, "join token unknown, used or expired")
            self.tokens.remove(token)
        chain = self.ca.answer(request.csr, datetime.now(UTC), self.ttl, **self.names)
        await stream.send_message(ca_pb2.IstioCertificateResponse(cert_chain=chain))
