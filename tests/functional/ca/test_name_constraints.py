"""Why signing certificates have no name constraints: the TLS of the mesh port refuses every chain under one on URIs.

When this test fails, h2corn's TLS has learnt them: then give them to the signing certificates (ADR 22).
"""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from app.core.clock import SystemClock
from app.core.net import Address
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.mesh import MeshApplication
from app.transport.serving import MeshListener, TlsMaterial
from app.transport.sockets import listen
from tests.assets.certificates import MeshCa, key_pem, new_key, pem

HOUR = timedelta(hours=1)


@pytest.fixture
async def mesh(tmp_path):
    """A CA, and a mesh port that takes certificates under it; `accepts` says whether the port takes one."""
    ca = MeshCa()
    key, chain = ca.serving()
    authenticator = Authenticator(trust_domain=TrustDomain(ca.domain), clock=SystemClock(), attestors=())
    grpc = GrpcApplication(
        (), authenticator=authenticator, limiter=RateLimiter(SystemClock().monotonic), metrics=Metrics()
    )
    listener = MeshListener(listen(Address("127.0.0.1", 0)), MeshApplication(grpc, (), authenticator))
    await listener.start(TlsMaterial(chain.decode(), key, ca.roots))

    async def accepts(signer):
        """Whether the port takes a leaf under this signing certificate: after the handshake it sends its settings."""
        now, own = datetime.now(UTC), new_key()
        leaf = signer.leaf(own.public_key(), now - HOUR, now + HOUR)
        file = tmp_path / "client.pem"
        file.write_bytes(key_pem(own) + (pem(leaf) + signer.pem).encode())
        context = ssl.create_default_context(cadata=ca.roots)
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(file)
        reader, writer = await asyncio.open_connection("localhost", listener.port, ssl=context)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        try:
            return len(await reader.read(9)) > 0
        except (ssl.SSLError, ConnectionError):
            return False
        finally:
            writer.transport.abort()

    yield ca, accepts
    await listener.stop()


@pytest.mark.parametrize(
    ("constraints", "accepted"),
    [
        (None, True),
        (x509.NameConstraints([x509.DNSName("example.org")], None), True),
        (x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None), False),
        (x509.NameConstraints(None, [x509.UniformResourceIdentifier("other.org")]), False),
    ],
    ids=["none", "DNS", "URI permitted", "URI excluded"],
)
async def test_a_chain_under_a_constraint_on_uris_is_refused_even_if_it_meets_it(mesh, constraints, accepted):
    ca, accepts = mesh
    life = datetime.now(UTC) - HOUR, datetime.now(UTC) + timedelta(days=1)
    changed = {} if constraints is None else {"name_constraints": (constraints, True)}
    signer = ca.root.authority("constrained signer", *life, uris=(f"spiffe://{ca.domain}",), **changed)
    assert await accepts(signer) is accepted
