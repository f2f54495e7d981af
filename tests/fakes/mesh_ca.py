"""A small CA with real certificates, and a real gRPC server over TLS that speaks Istio's CreateCertificate with it."""

import ipaddress
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from app.agent.model import JoinToken
from app.agent.ports import Proof
from app.core.errors import MeshwardError, UnauthenticatedError
from app.proto.istio import ca_pb2

DOMAIN = "example.org"
CART = f"spiffe://{DOMAIN}/ns/shop/sa/cart"
BACKDATE = timedelta(minutes=2)
METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def pem(certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def key_pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class MeshCa:
    """A root and a signing certificate under it, valid from a day before `now` for ten years."""

    def __init__(self, now: datetime | None = None, domain: str = DOMAIN) -> None:
        now = now or datetime.now(UTC)
        self._from, self._until = now - timedelta(days=1), now + timedelta(days=3650)
        self._domain = domain
        self._root_key, self._signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root = self._authority("root", self._root_key, None, 1)
        self.signer = self._authority("signer", self._signer_key, self.root, 0)

    @property
    def roots(self) -> str:
        return pem(self.root)

    def leaf(self, public_key, now, ttl, *, uris=(CART,), dns=(), ips=()):
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ips]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.signer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + ttl)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._signer_key, hashes.SHA256())
        )

    def answer(self, csr: str, now: datetime, ttl: timedelta = timedelta(hours=1), **names) -> tuple[str, ...]:
        """The cert_chain for a request: leaf, signer, roots."""
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        return (pem(self.leaf(request.public_key(), now, ttl, **names)), pem(self.signer), self.roots)

    def serving(self, now: datetime | None = None, **names) -> tuple[bytes, bytes]:
        """Key and chain, PEM, of a server on this machine."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = now or datetime.now(UTC)
        names = {"uris": (f"spiffe://{self._domain}/meshward",), "dns": ("localhost",), "ips": ("127.0.0.1",)} | names
        leaf = self.leaf(key.public_key(), now, timedelta(days=1), **names)
        return key_pem(key), (pem(leaf) + pem(self.signer)).encode()

    def _authority(self, name, key, issuer, path_length):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self._domain} {name}")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._from)
            .not_valid_after(self._until)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{self._domain}")]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(usage(ca=True), critical=True)
            .sign(self._root_key, hashes.SHA256())
        )


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
