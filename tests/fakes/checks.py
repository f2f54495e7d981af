"""Checks as Envoy sends them, and a service with active policies to answer them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from envoy.service.auth.v3 import external_auth_pb2

from app.authz.model import Ask, AuthzOptions
from app.authz.ports import PolicyEngine
from app.authz.rules.evaluate import NativeEngine
from app.authz.service import PolicyService
from app.documents.model import DocumentKey
from app.documents.parser import parse_documents
from app.spiffe.bans import BanLookup, NoBans
from app.spiffe.principal import ANONYMOUS
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics
from tests.fakes.clock import ManualClock
from tests.fakes.context import call_context
from tests.fakes.documents import MemoryDocuments
from tests.fakes.principals import OPERATOR

FRONT = "spiffe://cluster.local/ns/web/sa/front"
API = "spiffe://cluster.local/ns/shop/sa/api"


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
    ):
        clock = clock or ManualClock()
        log = DecisionLog(decisions, clock.monotonic)
        make_engine = partial(NativeEngine.of, providers=providers) if engine is None else lambda *_: engine
        super().__init__(
            source or MemoryDocuments(),
            clock,
            metrics or Metrics(),
            replace(options or AuthzOptions(), providers=frozenset(providers or ())),
            log,
            make_engine,
            banned=(bans or NoBans()).refusal,
        )

    async def apply(self, text: str):
        return await self.documents.apply(OPERATOR, parse_documents(text.encode()))

    async def delete(self, namespace: str, name: str):
        await self.documents.delete(OPERATOR, DocumentKey(namespace, name))


async def policy_service(
    text: str = "",
    options: AuthzOptions | None = None,
    metrics: Metrics | None = None,
    engine: PolicyEngine | None = None,
    bans: BanLookup | None = None,
    providers: Mapping[str, Ask] | None = None,
):
    service = Policies(options=options, metrics=metrics, engine=engine, bans=bans, providers=providers)
    await service.documents.refresh()
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
    return external_auth_pb2.CheckResponse.FromString(rpc.Check(request, context(caller)).SerializeToString())
