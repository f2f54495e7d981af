"""Runs pairs of policies and requests through a real Envoy, and returns what each of the two decided."""

import asyncio
import random
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from envoy.service.auth.v3 import external_auth_pb2

from app.authz.model import AuthzOptions, Matching, UnknownWorkload
from app.authz.rpc.check import AuthorizationRpc
from app.core.net import Address
from app.spiffe.id import TrustDomain
from app.telemetry.metrics import Metrics
from app.transport.grpc.admission import Authenticator, RateLimiter
from app.transport.grpc.application import GrpcApplication
from app.transport.grpc.routes import UNLIMITED, Authentication, Kind, Rpc
from app.transport.mesh import MeshApplication
from app.transport.serving import MeshListener
from app.transport.sockets import listen
from tests.fakes.authz import engine_of
from tests.fakes.checks import policy_service
from tests.fakes.clock import ManualClock
from tests.support.differential import mesh, policies
from tests.support.differential.aim import aimed
from tests.support.differential.clients import PAIR_HEADER, Client, touch
from tests.support.differential.traffic import Request, random_connections, random_requests
from tests.support.envoy_process import EnvoyProcess
from tests.support.ports import free_ports

# Each set of policies of connections needs a listener of its own.
MAX_TCP_SETS = 100


@dataclass(frozen=True)
class Pair:
    """The policies of a workload, by their number, and a request."""

    number: int
    request: Request


@dataclass(frozen=True)
class Judgement:
    """What Envoy decided on a pair, and what our engine did in each kind of matching; whether AUDIT rules matched."""

    envoy: bool
    istio: bool
    strict: bool
    audited: tuple[bool, bool]
    reasons: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether there is no difference, and the strict one is none laxer."""
        return self.envoy == self.istio and not (self.strict and not self.envoy) and len(set(self.audited)) == 1


class _Judge:
    """Answers checks as `istio` decides, and keeps what everybody decided."""

    def __init__(self, rpcs, filters, tokens, hops):
        self._rpcs, self._filters, self._tokens, self._hops = rpcs, filters, tokens, hops
        self.judged = {}

    def check(self, request, context):
        attributes = request.attributes
        number = int(attributes.context_extensions[mesh.SET_EXTENSION] or context.text(mesh.SET_HEADER))
        at = attributes.destination.address.socket_address
        hops = self._hops.get(at.port_value, 0)
        at.port_value = self._tokens.get(at.port_value, at.port_value)
        payload = request.SerializeToString()
        answers = [rpc.Check(payload, context) for rpc in self._rpcs[number, hops]]
        # Answers that are kept ready are bytes.
        read = [external_auth_pb2.CheckResponse.FromString(each.SerializeToString()) for each in answers]
        envoy, audited = self._envoy(number, attributes)
        istio, strict = (each.status.code == 0 for each in read)
        reasons = tuple(each.dynamic_metadata["meshward.reason"] for each in read)
        audits = audited, "meshward.audit" in read[0].dynamic_metadata
        self.judged[_key(attributes)] = Judgement(envoy, istio, strict, audits, reasons)
        return answers[0]

    def _envoy(self, number, attributes):
        http = attributes.request.HasField("http")
        found = attributes.metadata_context.filter_metadata[mesh.HTTP_RBAC if http else mesh.TCP_RBAC]
        present = mesh.shadow(self._filters[number]["http" if http else "tcp"] or [], {})
        results = {place: dict(found).get(f"{place}_shadow_engine_result") for place in present}
        if None in results.values():
            raise AssertionError(f"Envoy has no result of {results} in {found}")
        allowed = results.get("DENY", "allowed") == "allowed" and results.get("ALLOW", "allowed") == "allowed"
        return allowed, results.get("LOG") == "denied"


def _key(attributes):
    """The pair that a check is of: its number, or of a connection the address that it comes from."""
    for header in attributes.request.http.header_map.headers:
        if header.key == PAIR_HEADER:
            return int(header.raw_value)
    peer = attributes.source.address.socket_address
    return peer.address, peer.port_value


OPTIONS = AuthzOptions(
    root_namespace=policies.NAMESPACE,
    trust_domain=policies.TRUST_DOMAINS[0],
    trust_domain_aliases=policies.TRUST_DOMAINS[1:],
    # A TCP check over plaintext has nothing that names its destination.
    unknown_workload=UnknownWorkload.ROOT,
)


def random_pairs(sets, requests, connections, seed):
    """Return so many requests and connections to workloads with these sets of policies, most of them meant to match."""
    over_tcp = [number for number, found in enumerate(sets) if not policies.is_about_metadata(found)][:MAX_TCP_SETS]
    rng = random.Random(seed)
    return [
        *(
            Pair(index % len(sets), aimed(rng, each, sets[index % len(sets)]))
            for index, each in enumerate(random_requests(requests, seed))
        ),
        *(
            Pair(over_tcp[index % len(over_tcp)], each)
            for index, each in enumerate(random_connections(connections, seed))
        ),
    ]


async def judge(pairs, sets, filters, directory):
    """Return what was decided on each of the pairs, in their order; None where Envoy refused the request itself.

    `sets` are the policies by the number of their workload, `filters` what Istio's builder makes of them.
    """
    tcp = sorted({pair.number for pair in pairs if not pair.request.method})
    names = ["mtls", "plain", "as_sent", *tcp]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    tokens = {"mtls": policies.MTLS, "plain": policies.PLAIN, "as_sent": policies.AS_SENT}
    judge_ = _Judge(
        {
            (number, hops): [AuthorizationRpc(service, trusted_hops=hops) for service in services]
            for number, found in sets.items()
            for services in [[await _service(found, matching) for matching in Matching]]
            for hops in set(mesh.TRUSTED_HOPS.values())
        },
        filters,
        {port: tokens.get(name, policies.TCP) for name, port in ports.items()},
        {port: mesh.TRUSTED_HOPS.get(name, 0) for name, port in ports.items()},
    )
    certificates = mesh.Certificates()
    http_sets = {number: each["http"] or [] for number, each in filters.items()}
    tcp_sets = {number: filters[number]["tcp"] or [] for number in tcp}
    async with _served(judge_) as port:
        made = mesh.bootstrap(http_sets, tcp_sets, port, ports, certificates)
        async with EnvoyProcess.started(made, directory):
            keys = await _sent(pairs, ports, certificates)
    return [judge_.judged.get(key) for key in keys]


async def _sent(pairs, ports, certificates):
    """Send everything, each peer one request after the other, and return the key of each pair."""
    keys = list(range(len(pairs)))
    queues = defaultdict(list)
    for index, pair in enumerate(pairs):
        queues[pair.request.peer].append(index)

    async def requests(peer, indexes):
        client = Client(peer, ports[peer.listener], certificates)
        for index in indexes:
            await client.send(pairs[index].number, index, pairs[index].request)
        await client.close()

    async def connections(peer, indexes):
        for index in indexes:
            keys[index] = await touch(peer, ports[pairs[index].number], certificates)

    await asyncio.gather(
        *((connections if peer.listener == "tcp" else requests)(peer, each) for peer, each in queues.items())
    )
    return keys


async def _service(found, matching):
    options = replace(OPTIONS, matching=matching)
    engine = engine_of(policies.documents(found), options)
    return await policy_service(options=options, engine=engine)


@asynccontextmanager
async def _served(judge_):
    clock = ManualClock()
    rpc = Rpc(
        "envoy.service.auth.v3.Authorization",
        "Check",
        Kind.UNARY,
        external_auth_pb2.CheckRequest,
        external_auth_pb2.CheckResponse,
        judge_.check,
        Authentication.MESH,
        UNLIMITED,
    )
    authenticator = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=clock, attestors=())
    grpc = GrpcApplication([rpc], authenticator=authenticator, limiter=RateLimiter(clock.monotonic), metrics=Metrics())
    listener = MeshListener(listen(Address("127.0.0.1", 0)), MeshApplication(grpc, [], authenticator))
    await listener.start()
    try:
        yield listener.port
    finally:
        await listener.stop()
