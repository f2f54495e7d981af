"""The table of RPCs: every RPC that the mesh ports serve, who may call it, and how often."""

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from envoy.service.secret.v3 import sds_pb2

from app.authz.rpc.check import AuthorizationRpc
from app.authz.rpc.http import PREFIX, HttpAuthorization
from app.ca.rpc.downstream import DownstreamAuthorities
from app.ca.rpc.istio import IstioCertificates
from app.core.rates import RateLimit
from app.envoy.sds import SecretDiscovery
from app.main.authorization import gateways_of
from app.main.parts import Parts
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from app.proto.meshward.downstream_pb2 import SignAuthorityRequest, SignAuthorityResponse
from app.quota.rpc.headers import HeaderFamily, HeaderOptions
from app.quota.rpc.http import JSON_PATH, JsonRateLimit
from app.quota.rpc.limitador import LIMITADOR_PATHS, LimitadorHttp
from app.quota.rpc.ratelimit import RateLimitRpc
from app.transport.grpc.health import SERVICE as HEALTH
from app.transport.grpc.health import Health
from app.transport.grpc.reflection import Reflection
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from app.transport.mesh import Mount

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
RATE_LIMIT = "envoy.service.ratelimit.v3.RateLimitService"
# From its descriptor, which reflection answers with and nothing else loads: its messages are those of every discovery.
SECRETS: str = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"].full_name
ISTIO_CA = "istio.v1.auth.IstioCertificateService"
DOWNSTREAMS = "meshward.ca.v1.DownstreamAuthorities"
# The name that envoyproxy/ratelimit reports its health by.
RATELIMIT_HEALTH = "ratelimit"
SERVICES = frozenset({AUTHORIZATION, RATE_LIMIT, SECRETS, ISTIO_CA, DOWNSTREAMS, HEALTH})

# A caller asks for a certificate at half of its life; a node agent asks for a few hundred workloads at once.
SIGNING = RateLimit(per_second=100, burst=500)
# Each control plane beneath this one asks once in days, and after a failure every ten seconds.
CERTIFYING = RateLimit(per_second=1, burst=20)
# Streams are opened once for each Envoy and opened again when the server drains.
SUBSCRIBING = RateLimit(per_second=100, burst=500)
# Probes and people.
ASKING = RateLimit(per_second=50, burst=200)

PUBLIC, MESH, IDENTITY = Authentication.PUBLIC, Authentication.MESH, Authentication.IDENTITY
UNARY, BIDI = Kind.UNARY, Kind.BIDI_STREAM


def rpc_table(parts: Parts, health: Health) -> tuple[Rpc, ...]:
    """Return every row. What is not here is UNIMPLEMENTED."""
    authz = parts.settings.authz
    authorization = AuthorizationRpc(
        parts.policies,
        expose_decision=authz.expose_decision,
        trusted_hops=authz.trusted_hops,
        gateways=gateways_of(authz),
    )
    limits = rate_limits(parts)
    secrets = SecretDiscovery(parts.ca.secrets, parts.metrics, parts.ca.subscribers)
    certificates = IstioCertificates(parts.ca.issuance, parts.kubernetes.impersonation if parts.kubernetes else None)
    discovery = (discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse)
    delta = (discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse)
    check, limit = (CheckRequest, CheckResponse), (RateLimitRequest, RateLimitResponse)
    certificate = (IstioCertificateRequest, IstioCertificateResponse)
    return (
        Rpc(
            AUTHORIZATION,
            "Check",
            UNARY,
            *check,
            authorization.Check,
            MESH,
            UNLIMITED,
            authorization.deny,
            reads_bytes=True,
        ),
        Rpc(RATE_LIMIT, "ShouldRateLimit", UNARY, *limit, limits.ShouldRateLimit, MESH, UNLIMITED, reads_bytes=True),
        Rpc(SECRETS, "StreamSecrets", BIDI, *discovery, secrets.stream_secrets, IDENTITY, SUBSCRIBING),
        Rpc(SECRETS, "DeltaSecrets", BIDI, *delta, secrets.delta_secrets, IDENTITY, SUBSCRIBING),
        Rpc(SECRETS, "FetchSecrets", UNARY, *discovery, secrets.fetch_secrets, IDENTITY, SIGNING),
        Rpc(
            ISTIO_CA,
            "CreateCertificate",
            UNARY,
            *certificate,
            certificates.create_certificate,
            IDENTITY,
            SIGNING,
            audited=True,
        ),
        Rpc(
            DOWNSTREAMS,
            "SignAuthority",
            UNARY,
            SignAuthorityRequest,
            SignAuthorityResponse,
            DownstreamAuthorities(parts.ca.downstreams).sign_authority,
            IDENTITY,
            CERTIFYING,
            audited=True,
        ),
        *health.rpcs(PUBLIC, ASKING),
        *(Reflection(SERVICES).rpcs(PUBLIC, ASKING) if parts.settings.mesh.reflection else ()),
    )


def rate_limits(parts: Parts) -> RateLimitRpc:
    """Return the handlers of the rate limit service."""
    quota = parts.settings.quota
    families = tuple(HeaderFamily(family) for family in quota.headers)
    headers = HeaderOptions(families, quota.limit_header, quota.remaining_header, quota.reset_header)
    return RateLimitRpc(parts.quotas, parts.metrics, headers, dynamic_metadata=quota.dynamic_metadata)


def mount_table(parts: Parts) -> tuple[Mount, ...]:
    """Return every HTTP service on the mesh ports, and who may call it."""
    authz = parts.settings.authz
    check = HttpAuthorization(
        parts.policies,
        expose_decision=authz.expose_decision,
        trust_forwarded_client_cert=authz.trust_forwarded_client_cert,
        trusted_hops=authz.trusted_hops,
        gateways=gateways_of(authz),
    )
    limitador = LimitadorHttp(parts.quotas, parts.quota_counters)
    return (
        Mount(PREFIX, check, MESH),
        Mount(JSON_PATH, JsonRateLimit(rate_limits(parts)), MESH),
        *(Mount(path, limitador, MESH) for path in LIMITADOR_PATHS if parts.settings.quota.limits_dir),
    )
