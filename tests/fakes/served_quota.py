"""The rate limit service on a real port, over counters and configurations in memory and a clock that tests move."""

from contextlib import asynccontextmanager

from envoy.service.ratelimit.v3 import rls_pb2

from app.quota.rpc.headers import HeaderFamily, HeaderOptions
from app.quota.rpc.ratelimit import RateLimitRpc
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from app.transport.mesh import MeshApplication
from tests.fakes.clock import ManualClock
from tests.fakes.quota import Quota
from tests.support.listening import listening


class ServedQuota:
    """What a test needs to know of the served service."""

    def __init__(self, counters=None):
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.service = Quota(counters=counters, clock=self.clock, metrics=self.metrics)
        self.port = 0

    def application(self):
        rpc = Rpc(
            "envoy.service.ratelimit.v3.RateLimitService",
            "ShouldRateLimit",
            Kind.UNARY,
            rls_pb2.RateLimitRequest,
            rls_pb2.RateLimitResponse,
            RateLimitRpc(
                self.service, self.metrics, HeaderOptions((HeaderFamily.DRAFT03, HeaderFamily.IETF))
            ).ShouldRateLimit,
            Authentication.MESH,
            UNLIMITED,
            reads_bytes=True,
        )
        authenticator = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=self.clock, attestors=())
        limiter = RateLimiter(self.clock.monotonic)
        grpc = GrpcApplication([rpc], authenticator=authenticator, limiter=limiter, metrics=self.metrics)
        return MeshApplication(grpc, {}, authenticator)


@asynccontextmanager
async def served_quota(counters=None):
    served = ServedQuota(counters)
    async with listening(served.application()) as served.port:
        yield served
