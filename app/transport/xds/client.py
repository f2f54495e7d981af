"""An xDS client: the resources of one type, all of them at once, from a management server over its aggregated stream.

State of the world (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol). Each response is accepted or
refused as a whole, with the reason; what was accepted last stays while the server is away.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.rpc.code_pb2 import INVALID_ARGUMENT
from google.rpc.status_pb2 import Status

from app.core.clock import Sleep
from app.core.errors import InvalidInputError, MeshwardError
from app.core.net import Address
from app.core.signals import Latest
from app.telemetry.metrics import Metrics

# Seconds between attempts to connect: from the first to the last, doubled each time, and each shortened by up to a
# half, so that the clients of a server that was away do not come back together.
FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
# A connection that is lost without a trace is noticed by a ping after so many milliseconds. Servers written in Go close
# the connection of a client that pings more often than every five minutes.
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 330_000, 20_000
# Bytes of a reason that is sent to the server, and characters of one that it gave.
MAX_REFUSAL, MAX_REASON = 4096, 300
# A file with header fields or with a key.
MAX_FILE_BYTES = 1 << 20

_HEADER = re.compile(r"([a-z0-9_.-]{1,128}):[ \t]*([\x20-\x7e]{0,8192})")

log = structlog.get_logger(__name__)

Apply = Callable[[Sequence[Any]], Awaitable[None]]
"""Takes every resource, each an Any, or raises a MeshwardError that says why none of them is."""


@dataclass(frozen=True, slots=True)
class ManagementServer:
    """A management server, and how it is called.

    `ca`, `certificate` and `key` are PEM files, each read when a connection is opened; without `tls` they mean nothing,
    without `ca` public authorities are trusted. The server's certificate must have `name`, or the host of the address.
    `headers` is a file with a header field on each line, sent with the call.
    """

    address: Address
    node_id: str
    node_metadata: Mapping[str, str] = field(default_factory=dict)
    tls: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None
    headers: Path | None = None
    max_message_bytes: int = 4 << 20


class DiscoveryClient:
    """Gets the resources of the type `type_url` and passes them to `apply`, until cancelled.

    `kind` is what metrics and logs call them.
    """

    def __init__(
        self,
        server: ManagementServer,
        type_url: str,
        kind: str,
        apply: Apply,
        metrics: Metrics,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._server, self._type_url, self._kind, self._apply = server, type_url, kind, apply
        self._metrics, self._sleep = metrics, sleep
        self._version = ""
        self._pause = FIRST_PAUSE
        self._failure = Latest("")

    async def run(self) -> None:
        """Connect, and connect again after a pause whenever the stream has ended, until cancelled."""
        while True:
            try:
                reason = await self._follow()
            finally:
                self._metrics.xds_connected.set((self._kind,), 0)
            if self._failure.set(reason):
                log.error("xds_disconnected", kind=self._kind, server=str(self._server.address), reason=reason)
            await self._sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, keeps no secret
            self._pause = min(self._pause * 2, LAST_PAUSE)

    async def _follow(self) -> str:
        """Answer the responses of one stream, and return why it ended."""
        try:
            async with self._channel() as channel:
                metadata = _header_fields(self._server.headers)
                stream = AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(metadata=metadata)
                await stream.write(self._first_request())
                while True:
                    response = await stream.read()
                    if response is grpc.aio.EOF:
                        return f"{(await stream.code()).name}: {(await stream.details())[:MAX_REASON]}".rstrip(": ")
                    self._set_connected()
                    await stream.write(await self._answer(response))
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {(error.details() or '')[:MAX_REASON]}".rstrip(": ")
        except asyncio.InvalidStateError:  # written to a stream that has ended meanwhile
            return "the stream ended"
        except OSError as error:
            return f"cannot read {error.filename}: {error.strerror}"
        except InvalidInputError as error:
            return error.message

    def _set_connected(self) -> None:
        self._metrics.xds_connected.set((self._kind,), 1)
        if self._failure.set("") or not self._version:
            log.info("xds_connected", kind=self._kind, server=str(self._server.address))

    def _first_request(self) -> DiscoveryRequest:
        node = Node(id=self._server.node_id, user_agent_name="meshward")
        node.metadata.update(self._server.node_metadata)
        return DiscoveryRequest(node=node, type_url=self._type_url, version_info=self._version)

    async def _answer(self, response: DiscoveryResponse) -> DiscoveryRequest:
        """Have the resources of a response applied and return the request that accepts it, or refuses it."""
        try:
            if response.type_url != self._type_url:
                raise InvalidInputError(f"the type {response.type_url[:MAX_REASON]!r} was not asked for")
            await self._apply(response.resources)
        except MeshwardError as error:
            self._metrics.xds_responses.add((self._kind, "refused"))
            version = response.version_info[:MAX_REASON]
            log.error("xds_refused", kind=self._kind, version=version, reason=error.message)  # noqa: TRY400 - no crash
            problems = "; ".join(dict.fromkeys([error.message, *map(str, error.violations)]))
            detail = Status(code=INVALID_ARGUMENT, message=problems[:MAX_REFUSAL])
            return self._reply(response, error_detail=detail)
        self._version, self._pause = response.version_info, FIRST_PAUSE
        self._metrics.xds_responses.add((self._kind, "accepted"))
        return self._reply(response)

    def _reply(self, response: DiscoveryResponse, **detail: Any) -> DiscoveryRequest:
        return DiscoveryRequest(
            type_url=self._type_url, version_info=self._version, response_nonce=response.nonce, **detail
        )

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[grpc.aio.Channel]:
        server = self._server
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", server.max_message_bytes),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if not server.tls:
            channel = grpc.aio.insecure_channel(str(server.address), options)
        else:
            if server.name is not None:
                options.append(("grpc.ssl_target_name_override", server.name))
            files = [None if path is None else _content(path) for path in (server.ca, server.key, server.certificate)]
            channel = grpc.aio.secure_channel(str(server.address), grpc.ssl_channel_credentials(*files), options)
        async with channel:
            yield channel


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES)


def _header_fields(path: Path | None) -> tuple[tuple[str, str], ...]:
    """Return the header fields in a file. Raises OSError, InvalidInputError without the line, which may be a secret."""
    found = []
    for number, line in enumerate(_content(path).decode("ascii", "replace").splitlines() if path else ()):
        if line.strip():
            header = _HEADER.fullmatch(line.strip())
            if header is None:
                raise InvalidInputError(f"{path}: line {number + 1} is no header field: write name: value")
            found.append((header[1], header[2]))
    return tuple(found)
