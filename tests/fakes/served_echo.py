"""The echo service with health and reflection as the mesh ports serve them, on h2corn and on hypercorn."""

import asyncio
import contextlib

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig

from app.core.net import Address
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.health import SERVICE as HEALTH
from app.transport.grpc.health import Health
from app.transport.grpc.reflection import Reflection
from app.transport.grpc.routes import UNLIMITED, Authentication
from app.transport.mesh import MeshApplication
from app.transport.sockets import listen
from tests.fakes.attestor import SecretAttestor
from tests.fakes.clock import ManualClock
from tests.fakes.echo import ECHO, EchoService, echo_rpcs
from tests.fakes.plain_asgi import like_h2corn
from tests.support.listening import listening

GOOD_TOKEN = "good-token"
TOKEN_CALLER = Principal(Credential.JOIN_TOKEN, SpiffeId.parse("spiffe://cluster.local/ns/a/sa/b"), "token-1")


class Mesh:
    """The application, and what a test reads of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.echo = EchoService()
        services = frozenset({ECHO, HEALTH})
        self.health = Health(services)
        self.health.set_serving(serving=True)
        authenticator = Authenticator(
            trust_domain=TrustDomain("cluster.local"),
            clock=self.clock,
            attestors=[SecretAttestor(GOOD_TOKEN, TOKEN_CALLER)],
        )
        rpcs = [
            *echo_rpcs(self.echo),
            *self.health.rpcs(Authentication.PUBLIC, UNLIMITED),
            *Reflection(services).rpcs(Authentication.PUBLIC, UNLIMITED),
        ]
        self.grpc = GrpcApplication(
            rpcs,
            authenticator=authenticator,
            limiter=RateLimiter(self.clock.monotonic),
            metrics=self.metrics,
            max_message_bytes=64 * 1024,
        )
        self.application = MeshApplication(self.grpc, self.echo.mounts(), authenticator)
        self.port = 0


@contextlib.asynccontextmanager
async def on_h2corn(mesh: Mesh):
    async with listening(mesh.application, grace_seconds=3) as mesh.port:
        yield mesh


@contextlib.asynccontextmanager
async def on_hypercorn(mesh: Mesh):
    listener = listen(Address("127.0.0.1", 0))
    mesh.port = listener.getsockname()[1]
    config = HypercornConfig()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "CRITICAL"
    application, _ = mesh.application.for_server()
    stop = asyncio.Event()
    task = asyncio.create_task(hypercorn_serve(like_h2corn(application), config, shutdown_trigger=stop.wait))
    try:
        yield mesh
    finally:
        stop.set()
        await task
