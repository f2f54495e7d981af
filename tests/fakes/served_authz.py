"""The authorization service on a real port, gRPC and HTTP, over policies in memory."""

from contextlib import asynccontextmanager

from envoy.service.auth.v3 import external_auth_pb2

from app.authz.rpc.check import AuthorizationRpc
from app.authz.rpc.destination import NO_GATEWAYS
from app.authz.rpc.http import PREFIX, HttpAuthorization
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from app.transport.mesh import MeshApplication, Mount
from tests.fakes.checks import Policies
from tests.fakes.clock import ManualClock
from tests.support.listening import listening


class ServedAuthz:
    """What a test needs to know of the served service."""

    def __init__(  # as many as `Policies` takes, and the gateways
        self, engine=None, options=None, providers=None, key_sets=None, clock=None, servers=None, gateways=NO_GATEWAYS
    ):
        self.gateways = gateways
        self.clock = clock or ManualClock()
        self.metrics = Metrics()
        self.service = Policies(
            metrics=self.metrics,
            clock=self.clock,
            engine=engine,
            options=options,
            providers=providers,
            key_sets=key_sets,
            servers=servers,
        )
        self.port = 0

    async def apply(self, text: str):
        await self.service.apply(text)

    def application(self):
        authorization = AuthorizationRpc(self.service, expose_decision=True, gateways=self.gateways)
        rpc = Rpc(
            "envoy.service.auth.v3.Authorization",
            "Check",
            Kind.UNARY,
            external_auth_pb2.CheckRequest,
            external_auth_pb2.CheckResponse,
            authorization.Check,
            Authentication.MESH,
            UNLIMITED,
            authorization.deny,
            reads_bytes=True,
        )
        authenticator = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=self.clock, attestors=())
        limiter = RateLimiter(self.clock.monotonic)
        grpc = GrpcApplication([rpc], authenticator=authenticator, limiter=limiter, metrics=self.metrics)
        http = HttpAuthorization(
            self.service, expose_decision=True, trust_forwarded_client_cert=True, gateways=self.gateways
        )
        return MeshApplication(grpc, [Mount(PREFIX, http, Authentication.MESH)], authenticator)


@asynccontextmanager
async def served_authz(text: str = "", **given):
    """`given` is what `ServedAuthz` is made of."""
    served = ServedAuthz(**given)
    await served.service.refresh()
    if text:
        await served.apply(text)
    async with listening(served.application()) as served.port:
        yield served
