"""Server reflection, v1 and v1alpha, by grpcio's own servicer: which services are here, and their descriptors."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha_pb2

from app.core.errors import ResourceExhaustedError
from app.core.rates import RateLimit
from app.proto.reflection import reflection_pb2
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Authentication, Kind, Rpc

SERVICE_V1 = "grpc.reflection.v1.ServerReflection"
SERVICE_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
METHOD = "ServerReflectionInfo"
# A small request has a large answer. A client that reads every descriptor asks once for each of a few dozen files.
MAX_REQUESTS_PER_STREAM = 256


class Reflection:
    """Answers reflection requests about `services`, in both versions of the protocol."""

    def __init__(self, services: Iterable[str]) -> None:
        from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - loads grpcio, where it is needed alone

        self._servicer = reflection.aio.ReflectionServicer(services)

    def rpcs(self, authentication: Authentication, rate_limit: RateLimit | None) -> Iterator[Rpc]:
        """Yield the rows of both services for the route table."""
        for service, messages in ((SERVICE_V1, reflection_pb2), (SERVICE_V1ALPHA, v1alpha_pb2)):
            types = (messages.ServerReflectionRequest, messages.ServerReflectionResponse)
            yield Rpc(service, METHOD, Kind.BIDI_STREAM, *types, self.info, authentication, rate_limit)

    def info(self, requests: AsyncIterator[Any], context: CallContext) -> AsyncGenerator[Message, None]:
        """Answer each request in order, unknown names as errors. Raises ResourceExhaustedError after too many."""
        responses: AsyncGenerator[Message, None] = self._servicer.ServerReflectionInfo(_bounded(requests), context)
        return responses


async def _bounded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    answered = 0
    async for request in requests:
        if answered >= MAX_REQUESTS_PER_STREAM:
            raise ResourceExhaustedError(f"a stream has at most {MAX_REQUESTS_PER_STREAM} requests: open another")
        # The servicer knows the messages of v1alpha, which those of v1 are on the wire.
        yield v1alpha_pb2.ServerReflectionRequest.FromString(request.SerializeToString())
        answered += 1
