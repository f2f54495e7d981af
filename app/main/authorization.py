"""The parts that answer checks, constructed from settings and joined; nothing is started here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from app.authz.model import AuthzOptions, Matching, UnknownWorkload
from app.authz.rpc.destination import Gateways
from app.authz.rules.credential_rules import CREDENTIAL_AUTHENTICATION_KIND
from app.authz.rules.jwt_rules import REQUEST_AUTHENTICATION_KIND, KeysFrom
from app.authz.rules.peers import PEER_AUTHENTICATION_KIND
from app.authz.service.authentication import RequestAuthenticator
from app.authz.service.credential_sources import CredentialSources
from app.authz.service.credentials import CredentialAuthenticator
from app.authz.service.peers import PeerAuthenticator
from app.core.clock import Clock
from app.core.last_good import LastGoodFile
from app.core.offload import Offload
from app.documents.kind import DocumentKind
from app.documents.ports import DocumentSource
from app.issuers.guard import Guard
from app.issuers.key_sets import KeySets
from app.issuers.keys import KeySetSource
from app.issuers.sources import DiscoveredJwks, Fetcher, JwksUrl
from app.settings import AuthzSettings, Settings
from app.telemetry.metrics import Metrics

SourceOf = Callable[[DocumentKind[Any], Path | None], DocumentSource]
"""Returns where the documents of a kind come from: a directory, if one is given, or the database."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """What is asked about sender and peer of a request before policies are, and where each has its documents."""

    requests: RequestAuthenticator
    credentials: CredentialAuthenticator
    peers: PeerAuthenticator
    sources: CredentialSources
    key_sets: KeySets[KeysFrom]
    request_source: DocumentSource
    credential_source: DocumentSource
    peer_source: DocumentSource


def authz_options(settings: Settings) -> AuthzOptions:
    """Return how policies are applied."""
    return AuthzOptions(
        root_namespace=settings.authz.root_namespace,
        trust_domain=settings.trust_domain.name,
        trust_domain_aliases=tuple(alias.name for alias in settings.authz.trust_domain_aliases),
        unknown_workload=UnknownWorkload(settings.authz.unknown_workload),
        matching=Matching(settings.authz.matching),
        providers=frozenset(settings.authz.providers),
    )


def gateways_of(settings: AuthzSettings) -> Gateways:
    """Return which callers speak for which namespaces besides their own."""
    return Gateways({caller: frozenset(namespaces) for caller, namespaces in settings.gateways.items()})


def make_authentication(
    settings: AuthzSettings,
    source_of: SourceOf,
    file: LastGoodFile,
    sources: CredentialSources,
    clock: Clock,
    metrics: Metrics,
    *,
    offload: Offload,
) -> Authentication:
    """Return what authenticates requests and peers; `file` keeps the keys that were fetched."""
    guard = Guard(settings.jwks_allowed_networks)
    key_sets: KeySets[KeysFrom] = KeySets(
        partial(_keys_source, guard=guard, ca_file=settings.jwks_ca_file),
        clock,
        metrics,
        file,
        name_of=attrgetter("name"),
    )
    requests = source_of(REQUEST_AUTHENTICATION_KIND, settings.policies_dir)
    peers = source_of(PEER_AUTHENTICATION_KIND, settings.policies_dir)
    root, unknown = settings.root_namespace, UnknownWorkload(settings.unknown_workload)
    authenticator = RequestAuthenticator(
        requests,
        key_sets,
        clock,
        metrics,
        root_namespace=root,
        unknown_workload=unknown,
        offload=offload,
    )
    credentials = source_of(CREDENTIAL_AUTHENTICATION_KIND, settings.policies_dir)
    credential_authenticator = CredentialAuthenticator(
        credentials,
        authenticator,
        sources,
        clock,
        metrics,
        root_namespace=root,
        unknown_workload=unknown,
        offload=offload,
    )
    return Authentication(
        authenticator,
        credential_authenticator,
        PeerAuthenticator(peers, clock, metrics, root, offload),
        sources,
        key_sets,
        requests,
        credentials,
        peers,
    )


def _keys_source(place: KeysFrom, guard: Guard, ca_file: Path | None) -> KeySetSource:
    fetcher = Fetcher(ca_file, seconds=place.timeout, guard=guard)
    return JwksUrl(place.url, fetcher) if place.url else DiscoveredJwks(place.issuer, fetcher)
