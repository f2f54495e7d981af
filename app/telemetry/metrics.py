"""Every metric that Meshward publishes, in one place."""

from prometheus_client import CollectorRegistry, generate_latest

from app.telemetry.families import Counter, Gauge, Histogram
from app.telemetry.refusals import Refusals
from app.telemetry.rules import RuleCounters


class Metrics:
    """The process's metrics. One instance is made by the composition root and passed to the parts."""

    def __init__(self) -> None:
        self.rpcs = Counter("meshward_rpcs", "RPCs answered, by method and status code", ("method", "code"))
        self.rpc_seconds = Histogram("meshward_rpc_duration_seconds", "Time from request to answer", ("method",))
        self.http_requests = Counter(
            "meshward_http_requests", "Requests to the admin API, by route and status", ("method", "route", "status")
        )
        self.refusals = Refusals()
        self.decisions = Counter(
            "meshward_authz_decisions",
            "Decisions; cause is policy, no_policy, no_match, unknown_workload, banned, unauthenticated, peer, "
            "malformed, provider or error",
            ("outcome", "cause"),
        )
        self.observations = Counter(
            "meshward_authz_observations",
            "Results of policies that decide nothing; watch is audit, dry_run_deny or dry_run_allow",
            ("watch", "result"),
        )
        self.authentications = Counter(
            "meshward_authz_authentications",
            "Requests with tokens; result is verified, kept (verified before), or what is wrong with a token",
            ("result",),
        )
        self.credentials = Counter(
            "meshward_authz_credentials",
            "Requests with credentials that are no JWTs; result is accepted, or why one is not",
            ("result",),
        )
        self.introspections = Counter(
            "meshward_authz_introspections",
            "Questions to authorization servers about tokens; result is ok, refused or unavailable",
            ("server", "result"),
        )
        self.api_keys = Gauge("meshward_authz_api_keys", "API keys, with those that ended in the last week")
        self.policies = Gauge("meshward_authz_policies", "Active policies")
        self.provider_revisions = Gauge(
            "meshward_authz_provider_info",
            "1 for the active policies of a provider, and their bundle's revision",
            ("provider", "revision"),
        )
        self.issuances = Counter(
            "meshward_ca_issuances", "Certificates asked for, by surface and result", ("surface", "result")
        )
        self.bans = Gauge("meshward_ca_bans", "Bans of identities and certificates")
        self.crl_entries = Gauge("meshward_ca_crl_entries", "Certificates on the revocation lists that sidecars get")
        self.crl_missing = Gauge(
            "meshward_ca_crl_missing", "Signing authorities in use without a revocation list, so that none is sent"
        )
        self.crl_unlisted = Gauge(
            "meshward_ca_crl_unlisted", "Banned certificates on no list, as no replica has their authority's key"
        )
        self.authority_expiry = Gauge(
            "meshward_ca_authority_expiry_timestamp_seconds", "When an authority's certificate ends", ("authority",)
        )
        self.plug_in_refused = Gauge(
            "meshward_ca_plug_in_refused", "1 while the files of the plug-in CA are refused, 0 otherwise"
        )
        self.oldest_svid = Gauge(
            "meshward_ca_oldest_svid_timestamp_seconds",
            "When the oldest SVID that has not ended was issued, 0 if there is none",
        )
        self.jwks_fetched = Gauge(
            "meshward_jwks_fetched_timestamp_seconds",
            "When the keys of an issuer of JWTs were last fetched",
            ("issuer",),
        )
        self.kubernetes_calls = Counter(
            "meshward_kubernetes_calls",
            "Calls to the API server of a cluster; result is ok, refused, not_found or unavailable",
            ("cluster", "call", "result"),
        )
        self.kubernetes_available = Gauge(
            "meshward_kubernetes_available", "Whether the API server of a cluster answers: 1 or 0", ("cluster",)
        )
        self.agent_svid_expiry = Gauge(
            "meshward_agent_svid_expiry_timestamp_seconds", "When the SVID that the agent holds ends"
        )
        self.mesh_connections = Gauge(
            "meshward_mesh_connections",
            "Open connections to a mesh port, proven or unproven",
            ("port", "state"),
        )
        self.mesh_connections_closed = Counter(
            "meshward_mesh_connections_closed",
            "Connections closed because their peers proved nothing",
            ("port", "reason"),
        )
        self.sds_streams = Gauge("meshward_sds_streams", "Open SDS streams")
        self.sds_replies = Counter("meshward_sds_replies", "What sidecars said to what was sent", ("reply",))
        self.limits = Counter("meshward_quota_decisions", "Rate limit decisions by domain and code", ("domain", "code"))
        self.counters_available = Gauge(
            "meshward_quota_store_available", "Whether a server of the counter store counts: 1 or 0", ("server",)
        )
        self.counters_bypassed = Counter(
            "meshward_quota_store_bypassed",
            "Hits answered by the limit's own policy because they could not be counted: deny, allow or lease",
            ("policy", "outcome"),
        )
        self.counters_over = Counter(
            "meshward_quota_known_over_limit", "Hits refused without asking the store, as their window is used up", ()
        )
        self.quota_configs = Gauge("meshward_quota_configs", "Active quota configurations")
        self.rules = RuleCounters()
        self.config_loads = Counter("meshward_config_loads", "Documents applied or refused", ("kind", "result"))
        self.xds_connected = Gauge(
            "meshward_xds_connected", "Whether the management server of the documents answers", ("kind",)
        )
        self.xds_responses = Counter(
            "meshward_xds_responses", "Responses of the management server, accepted or refused", ("kind", "result")
        )
        self.config_stale = Gauge(
            "meshward_config_stale", "Whether the documents in use are those that were kept in a file", ("kind",)
        )
        self._registry = CollectorRegistry()
        for family in vars(self).copy().values():
            if isinstance(family, Counter | Gauge | Histogram | RuleCounters):
                self._registry.register(family)

    def render(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self._registry)
