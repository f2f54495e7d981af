"""The sources of credentials, from settings."""

from app.authz.service.api_keys import ApiKeys
from app.authz.service.credential_sources import CredentialSources
from app.authz.service.introspection import Introspection
from app.core.clock import Clock
from app.issuers.guard import Guard
from app.issuers.introspection import EndpointOptions, HttpIntrospection
from app.main.kubernetes import Kubernetes
from app.settings import Settings
from app.telemetry.metrics import Metrics


def make_credential_sources(
    settings: Settings, api_keys: ApiKeys, kubernetes: Kubernetes | None, clock: Clock, metrics: Metrics
) -> CredentialSources:
    """Return what judges the credentials of each kind of source; nothing is asked yet."""
    guard = Guard(settings.authz.jwks_allowed_networks)
    servers = {}
    for name, server in settings.authz.authorization_servers.items():
        options = EndpointOptions(
            name,
            server.introspection_url,
            server.client_id,
            server.client_secret_file,
            server.client_auth,
            server.timeout_ms / 1000,
            server.ca_file,
        )
        endpoint = HttpIntrospection(options, guard, clock, metrics)
        servers[name] = Introspection(endpoint, server.issuer, server.cache_seconds, clock)
    reviewers = {} if kubernetes is None else kubernetes.reviewers
    return CredentialSources(api_keys, servers, reviewers, settings.kubernetes.cluster_id)
