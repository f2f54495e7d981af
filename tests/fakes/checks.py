"""Checks as Envoy sends them, and a service with active policies to answer them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from envoy.service.auth.v3 import external_auth_pb2

from app.authz.model import AuthzOptions, Matching
from app.authz.ports import PolicyEngine
from app.authz.providers import Ask
from app.authz.rules.evaluate import NativeEngine
from app.authz.service import PolicyService
from app.authz.service.api_keys import ApiKeys
from app.authz.service.authentication import RequestAuthenticator
from app.authz.service.credential_sources import CredentialSources
from app.authz.service.credentials import CredentialAuthenticator
from app.authz.service.peers import PeerAuthenticator
from app.core.errors import NotFoundError
from app.core.last_good import LastGoodFile
from app.documents.model import DocumentKey
from app.documents.parser import parse_documents
from app.documents.store import DocumentStore
from app.issuers.key_sets import KeySets
from app.spiffe.bans import BanLookup, NoBans
from app.spiffe.principal import ANONYMOUS
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics
from tests.fakes.api_keys import MemoryApiKeys
from tests.fakes.clock import ManualClock
from tests.fakes.context import call_context
from tests.fakes.documents import MemoryDocuments
from tests.fakes.principals import OPERATOR

FRONT = "spiffe://cluster.local/ns/web/sa/front"
API = "spiffe://cluster.local/ns/shop/sa/api"


class NothingKept(LastGoodFile):
    """In the place of the file that keeps keys."""

    def __init__(self) -> None:
        super().__init__(Path("nothing"), "jwks", "memory")

    def read(self, _decode):
        raise NotFoundError("nothing is kept")

    def write(self, _items):
        """Keep nothing."""


class Policies(PolicyService):
    """The service, changed by an operator."""

    def __init__(
        self,
        source=None,
        options=None,
        metrics=None,
        clock=None,
        decisions="off",
        engine=None,
        bans=None,
        providers=None,
        key_sets=None,
        sources=None,
        servers=None,
        reviewers=None,
    ):
        """`key_sets` are the sources of the keys that request authentications name, by their URL or issuer.

        `sources` judges credentials; without, they are the API keys of `api_keys`, `servers` and `reviewers`.
        """
        clock = clock or ManualClock()
        metrics, root = metrics or Metrics(), (options or AuthzOptions()).root_namespace
        self.key_sets = KeySets(lambda place: (key_sets or {})[str(place)], clock, metrics, NothingKept())
        self.requests = RequestAuthenticator(MemoryDocuments(), self.key_sets, clock, metrics, root_namespace=root)
        self.api_keys = ApiKeys(MemoryApiKeys(), clock, metrics)
        self.credentials = CredentialAuthenticator(
            MemoryDocuments(),
            self.requests,
            sources or CredentialSources(self.api_keys, servers or {}, reviewers or {}, "main"),
            clock,
            metrics,
            root_namespace=root,
        )
        self.peers = PeerAuthenticator(MemoryDocuments(), clock, metrics, root)
        log = DecisionLog(decisions, clock.monotonic)
        make_engine = partial(NativeEngine.of, providers=providers) if engine is None else lambda *_: engine
        super().__init__(
            source or MemoryDocuments(),
            clock,
            metrics,
            replace(options or AuthzOptions(matching=Matching.STRICT), providers=frozenset(providers or ())),
            log,
            make_engine,
            bans=bans or NoBans(),
            senders=self.credentials,
            peers=self.peers,
        )

    async def refresh(self):
        stores = (self.requests.documents, self.credentials.documents, self.peers.documents, self.documents)
        for store in stores:
            await store.refresh()
        await self.api_keys.refresh()

    async def apply(self, text: str):
        """Apply documents, each by its kind."""
        documents = parse_documents(text.encode())
        stores: dict[str, DocumentStore[Any, Any, Any]] = {
            "RequestAuthentication": self.requests.documents,
            "CredentialAuthentication": self.credentials.documents,
            "PeerAuthentication": self.peers.documents,
            "AuthorizationPolicy": self.documents,
        }
        for kind, store in stores.items():
            if mine := [each for each in documents if each.get("kind", "AuthorizationPolicy") == kind]:
                await store.apply(OPERATOR, mine)

    async def delete(self, namespace: str, name: str):
        await self.documents.delete(OPERATOR, DocumentKey(namespace, name))


async def policy_service(
    text: str = "",
    options: AuthzOptions | None = None,
    metrics: Metrics | None = None,
    engine: PolicyEngine | None = None,
    bans: BanLookup | None = None,
    providers: Mapping[str, Ask] | None = None,
    key_sets=None,
    clock=None,
    sources=None,
    servers=None,
    reviewers=None,
):
    service = Policies(
        options=options,
        metrics=metrics,
        engine=engine,
        bans=bans,
        providers=providers,
        key_sets=key_sets,
        clock=clock,
        sources=sources,
        servers=servers,
        reviewers=reviewers,
    )
    await service.refresh()
    if text:
        await service.apply(text)
    return service


def check_request(
    path: str = "/",
    *,
    method: str = "GET",
    host: str = "shop.example.org",
    principal: str = FRONT,
    certificate: str = "",
    destination: str = API,
    headers: dict[str, str] | None = None,
    raw_headers: list[tuple[str, bytes]] | None = None,
    labels: dict[str, str] | None = None,
    extensions: dict[str, str] | None = None,
):
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = "10.1.2.3"
    attributes.source.address.socket_address.port_value = 40000
    attributes.source.principal = principal
    attributes.source.certificate = quote(certificate)
    attributes.destination.address.socket_address.address = "10.9.9.9"
    attributes.destination.address.socket_address.port_value = 8080
    attributes.destination.principal = destination
    attributes.destination.labels.update({"app": "shop"} if labels is None else labels)
    attributes.context_extensions.update(extensions or {})
    http = attributes.request.http
    http.method, http.path, http.host, http.protocol = method, path, host, "HTTP/1.1"
    http.headers.update(headers or {})
    for key, value in raw_headers or []:
        http.header_map.headers.add(key=key, raw_value=value)
    return request


def context(caller=None):
    return call_context(principal=caller or ANONYMOUS)


def check_answer(rpc, request, caller=None) -> external_auth_pb2.CheckResponse:
    """What the sidecar reads."""
    answer = rpc.Check(request.SerializeToString(), context(caller))
    return external_auth_pb2.CheckResponse.FromString(answer.SerializeToString())
