"""A management server that sends rate limit configurations over xDS's aggregated stream, as a test has it."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.any_pb2 import Any

from app.proto.ratelimit.rls_conf_pb2 import RateLimitConfig
from app.quota.backends.xds import TYPE_URL


def config(domain, *descriptors, name=""):
    """A configuration; each descriptor is a mapping with the fields of the message."""
    return RateLimitConfig(name=name or domain, domain=domain, descriptors=descriptors)


class ManagementServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Sends the current configurations to each stream, and again whenever they are `set`. Keeps the `requests`."""

    def __init__(self):
        self.requests = []
        self.metadata = []
        self.port = 0
        self._version = 0
        self._resources = []
        self._changed = asyncio.Event()
        self._ended = 0

    def set(self, *configs, type_url=TYPE_URL):
        """Send the configurations as the next version."""
        self._version += 1
        self._resources = [
            each if isinstance(each, Any) else Any(type_url=type_url, value=each.SerializeToString())
            for each in configs
        ]
        self._wake()

    def end_streams(self):
        """End every stream that is open."""
        self._ended += 1
        self._wake()

    async def StreamAggregatedResources(self, requests, context):  # noqa: N802 - the name of the RPC
        self.metadata.append(dict(context.invocation_metadata()))
        ended = self._ended
        reader = asyncio.create_task(self._read(requests))
        sent = 0
        try:
            while self._ended == ended:
                changed = self._changed
                if sent != self._version:
                    sent = self._version
                    yield DiscoveryResponse(
                        version_info=str(sent), nonce=f"nonce-{sent}", type_url=TYPE_URL, resources=self._resources
                    )
                await changed.wait()
        finally:
            reader.cancel()

    async def _read(self, requests):
        async for request in requests:
            self.requests.append(request)
            self._wake()

    def _wake(self):
        self._changed.set()
        self._changed = asyncio.Event()

    async def answered(self, version):
        """The request that accepts or refuses a version."""
        while True:
            for request in self.requests:
                if request.response_nonce == f"nonce-{version}":
                    return request
            await self._changed.wait()


@asynccontextmanager
async def management_server(port=0, credentials=None):
    server, servicer = grpc.aio.server(), ManagementServer()
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{port}"
    servicer.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(None)
