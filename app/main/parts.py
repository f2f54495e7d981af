"""The parts of the control plane, constructed from settings and wired together; nothing is started here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.repository import SqlAuditRepository
from app.audit.service import AuditLog
from app.authz.backends.kept_api_keys import KeptApiKeys
from app.authz.ports import Provider
from app.authz.rules.evaluate import NativeEngine
from app.authz.rules.parse import POLICY_KIND
from app.authz.service import PolicyService
from app.authz.service.api_keys import ApiKeys
from app.ca.backends.disk import BundleFile
from app.ca.backends.kept import KeptAuthorities, KeptBans
from app.ca.backends.plug_in_files import PlugInDirectory
from app.ca.model import CaConfig, CrlOverSds, DownstreamPolicy, KeyAlgorithm, OnTimeout, RotationConfig
from app.ca.service import CaService
from app.ca.service.forwarded_certificates import ForwardedCertificates
from app.ca.service.jwt_bearer import JwtBearer
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.last_good import LastGoodFile
from app.core.offload import ChildProcess
from app.db.engine import create_engine, place_of
from app.db.macs import RowMacs
from app.db.transactions import Transactions
from app.documents.kept import KeptSource
from app.documents.kind import DocumentKind
from app.documents.ports import DocumentSource, DocumentTransactions
from app.documents.repository import SqlDocumentRepository
from app.documents.sources import DatabaseSource, DirectorySource
from app.documents.store import DocumentStore
from app.main.authorization import Authentication, authz_options, make_authentication
from app.main.counters import make_counters
from app.main.credentials import make_credential_sources
from app.main.jwt_issuers import make_jwt_bearer
from app.main.keys import make_key_store
from app.main.kubernetes import Kubernetes, make_kubernetes
from app.main.last_good import DIRECTORY, KeptDocuments, LastGood, is_stale
from app.main.providers import check_providers, make_providers
from app.main.quota_configs import make_config_stream, make_quota_source
from app.main.row_secret import adopt_rows, api_key_transactions, ca_transactions, replica_secret
from app.main.upstream import UpstreamMeshward, make_upstream
from app.main.write_probe import PROBE_KIND, WriteProbe
from app.quota.model import Modes
from app.quota.ports import CounterStore
from app.quota.rules.callers import CallerGrant
from app.quota.rules.limitador import LIMIT_KIND
from app.quota.rules.parse import QUOTA_KIND
from app.quota.service import QuotaService
from app.quota.service.counters import CounterService
from app.settings import Settings
from app.spiffe.attestation import Attestor
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator
from app.transport.rest.health import Check, Health

if TYPE_CHECKING:
    from app.transport.xds.client import DiscoveryClient


@dataclass(frozen=True, slots=True)
class Parts:
    """What the listeners serve and the background tasks maintain."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    engine: AsyncEngine
    ca: CaService
    policies: PolicyService
    authentication: Authentication
    api_keys: ApiKeys
    providers: Mapping[str, Provider]
    quotas: QuotaService
    counters: CounterStore
    quota_counters: CounterService
    config_stream: "DiscoveryClient | None"
    audit: AuditLog
    authenticator: Authenticator
    jwt_bearer: JwtBearer | None
    kubernetes: Kubernetes | None
    write_probe: WriteProbe
    last_good: LastGood
    upstream: UpstreamMeshward | None


def make_parts(settings: Settings, clock: Clock) -> Parts:
    """Return the parts. Raises InvalidInputError if a setting does not fit."""
    metrics = Metrics()
    engine = create_engine(settings.database_url)
    secret = replica_secret(settings)
    macs = RowMacs(secret.value)
    transactions = ca_transactions(engine, macs, settings.ca.trusted_root, metrics)
    dns_names, addresses = serving_names(settings.mesh.server_names, settings.mesh.tls_bind.host)
    ca = CaService(
        CaConfig(
            settings.trust_domain,
            server_dns_names=dns_names,
            server_addresses=addresses,
            key_algorithm=KeyAlgorithm(settings.ca.key_algorithm),
            root_ttl=settings.ca.root_ttl,
            signer_ttl=settings.ca.signer_ttl,
            default_ttl=settings.ca.svid_default_ttl,
            max_ttl=settings.ca.svid_max_ttl,
            svids_per_hour=settings.ca.svids_per_hour,
            crl_url=settings.ca.crl_url,
            crl_over_sds=CrlOverSds(settings.ca.crl_over_sds),
            rotation=RotationConfig(
                None if settings.ca.root_prepare_at == "off" else settings.ca.root_prepare_at,
                settings.ca.root_activate_at,
                settings.ca.activation_timeout,
                OnTimeout(settings.ca.activation_on_timeout),
            ),
            organization=settings.ca.organization,
            downstreams=tuple(
                DownstreamPolicy(each.spiffe_id, each.max_ttl, each.max_path_length) for each in settings.ca.downstreams
            ),
        ),
        transactions,
        make_key_store(settings),
        BundleFile(settings.data_dir / "bundle.pem"),
        clock,
        metrics,
        prepare=partial(adopt_rows, transactions, secret, is_ours=settings.ca.trusted_root is None),
    )
    if settings.ca.plugin_dir is not None:
        ca.authorities.use_plug_in(PlugInDirectory(settings.ca.plugin_dir))
    upstream = make_upstream(settings, ca, clock)
    if upstream is not None:
        ca.authorities.use_upstream(upstream)
    options = authz_options(settings)
    decisions = DecisionLog(settings.authz.decision_log, clock.monotonic)
    counters = make_counters(settings.counters, clock, metrics)
    offload = ChildProcess()

    def kept(name: str) -> LastGoodFile:
        return LastGoodFile(settings.data_dir / DIRECTORY / name, name, place_of(engine.url))

    def source_of(kind: DocumentKind[Any], directory: Path | None) -> DocumentSource:
        if directory is not None:
            return DirectorySource(kind, directory, clock, offload)
        return KeptSource(kind, DatabaseSource(_documents(engine, kind.name)), kept(kind.name))

    policy_source = source_of(POLICY_KIND, settings.authz.policies_dir)
    providers = make_providers(settings, clock, metrics)
    make_engine = partial(NativeEngine.of, providers=providers)
    kubernetes = make_kubernetes(settings, clock, metrics)
    api_keys = ApiKeys(api_key_transactions(engine, macs, metrics), clock, metrics)
    authentication = make_authentication(
        settings.authz,
        source_of,
        kept("jwks"),
        make_credential_sources(settings, api_keys, kubernetes, clock, metrics),
        clock,
        metrics,
        offload=offload,
    )
    policies = PolicyService(
        policy_source,
        clock,
        metrics,
        options,
        decisions,
        make_engine,
        offload=offload,
        bans=ca.bans,
        senders=authentication.credentials,
        peers=authentication.peers,
    )
    quota_source = make_quota_source(
        settings.quota, clock, offload, settings.data_dir / DIRECTORY, partial(source_of, QUOTA_KIND, None)
    )
    limits_dir = settings.quota.limits_dir
    quotas = QuotaService(
        quota_source,
        counters,
        clock,
        metrics,
        max_hits=settings.quota.max_hits,
        callers=[CallerGrant(each.domain, each.caller) for each in settings.quota.callers],
        limits=DirectorySource(LIMIT_KIND, limits_dir, clock, offload) if limits_dir else None,
        modes=Modes(
            settings.quota.shadow_mode,
            settings.quota.quota_mode,
            settings.quota.near_limit_ratio,
            settings.quota.count_refused,
        ),
        offload=offload,
    )
    jwt_bearer = make_jwt_bearer(settings, clock, metrics)
    authenticator = Authenticator(
        trust_domain=settings.trust_domain,
        clock=clock,
        attestors=_attestors(settings, jwt_bearer, kubernetes, ca),
        bans=ca.bans,
        trust_plaintext=settings.mesh.plaintext_public,
    )
    audit = AuditLog(Transactions(engine, SqlAuditRepository), clock, settings.admin.audit_retention)
    write_probe = WriteProbe(_documents(engine, PROBE_KIND), place_of(engine.url), clock)
    sources = (
        (policy_source, policies.documents),
        (authentication.request_source, authentication.requests.documents),
        (authentication.credential_source, authentication.credentials.documents),
        (authentication.peer_source, authentication.peers.documents),
        (quota_source, quotas.documents),
    )
    last_good = LastGood(
        (ca.authorities, KeptAuthorities(kept("ca"))),
        (ca.bans, KeptBans(kept("bans"))),
        (api_keys, KeptApiKeys(kept("api_keys"))),
        [KeptDocuments(source, store) for source, store in sources if isinstance(source, KeptSource)],
        authentication.key_sets,
        metrics,
    )
    return Parts(
        settings,
        clock,
        metrics,
        engine,
        ca,
        policies,
        authentication,
        api_keys,
        providers,
        quotas,
        counters,
        CounterService(quotas, counters, Transactions(engine, SqlAuditRepository), clock),
        make_config_stream(settings.quota, quota_source, quotas.documents, metrics),
        audit,
        authenticator,
        jwt_bearer,
        kubernetes,
        write_probe,
        last_good,
        upstream,
    )


def _attestors(
    settings: Settings, jwt_bearer: JwtBearer | None, kubernetes: Kubernetes | None, ca: CaService
) -> tuple[Attestor, ...]:
    """Return the attestors in istiod's order; join tokens, which istiod has not, stand between its tokens and XFCC."""
    networks = settings.ca.xfcc_networks
    forwarded = ForwardedCertificates(settings.trust_domain, networks) if networks else None
    reviewed = kubernetes.attestor if kubernetes is not None else None
    return tuple(each for each in (jwt_bearer, reviewed, ca.join_tokens, forwarded) if each is not None)


def serving_names(
    names: Sequence[str], bound_host: str
) -> tuple[tuple[str, ...], tuple[IPv4Address | IPv6Address, ...]]:
    """Return the DNS names and addresses of the serving certificate: the configured, the bound, and loopback."""
    dns_names: dict[str, None] = {}
    addresses: dict[IPv4Address | IPv6Address, None] = {IPv4Address("127.0.0.1"): None, IPv6Address("::1"): None}
    for name in (*names, bound_host):
        try:
            address = ip_address(name)
        except ValueError:
            dns_names[name] = None
        else:
            if not address.is_unspecified:
                addresses[address] = None
    return tuple(dns_names), tuple(addresses)


def _documents(engine: AsyncEngine, kind: str) -> DocumentTransactions:
    return Transactions(engine, partial(SqlDocumentRepository, kind=kind))


def make_health(parts: Parts, mesh_is_served: Check) -> Health:
    """Return the health checks of `/readyz`, each with its name."""

    async def loaded(documents: DocumentStore[Any, Any, Any], what: str) -> None:
        if not documents.loaded:
            raise UnavailableError(f"the {what} are not loaded yet")
        if is_stale(documents):
            raise UnavailableError(f"the {what} are the last good ones: the database was not read since the start")

    checks: dict[str, Check] = {
        "database": parts.write_probe.check,
        "ca": parts.ca.check_ready,
        "policies": partial(loaded, parts.policies.documents, "policies"),
        "request_authentications": partial(loaded, parts.authentication.requests.documents, "request authentications"),
        "credential_authentications": partial(
            loaded, parts.authentication.credentials.documents, "credential authentications"
        ),
        "peer_authentications": partial(loaded, parts.authentication.peers.documents, "peer authentications"),
        "quotas": partial(loaded, parts.quotas.documents, "quota configurations"),
        **({"limits": partial(loaded, parts.quotas.limits, "limits")} if parts.quotas.limits else {}),
        "mesh": mesh_is_served,
    }
    if parts.providers:
        checks["providers"] = partial(check_providers, parts.providers)
    return Health(checks, parts.clock)
