"""Server reflection, v1 and v1alpha: which services are here, and their descriptors."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha_pb2

from app.core.errors import ResourceExhaustedError
from app.core.rates import RateLimit
from app.proto.reflection import reflection_pb2
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Authentication, Kind, Rpc
from app.transport.grpc.status import Code

SERVICE_V1 = "grpc.reflection.v1.ServerReflection"
SERVICE_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
METHOD = "ServerReflectionInfo"
# Longest name that is looked up; fully qualified names are far shorter.
MAX_NAME = 512
# A small request has a large answer. A client that reads every descriptor asks once for each of a few dozen files.
MAX_REQUESTS_PER_STREAM = 256


class Reflection:
    """Answers reflection requests about `services`, in both versions of the protocol."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pool = descriptor_pool.Default()

    def rpcs(self, authentication: Authentication, rate_limit: RateLimit | None) -> Iterator[Rpc]:
        """Yield the rows of both services for the route table."""
        for service, messages in ((SERVICE_V1, reflection_pb2), (SERVICE_V1ALPHA, v1alpha_pb2)):
            types = (messages.ServerReflectionRequest, messages.ServerReflectionResponse)
            handler = partial(self.info, messages.ServerReflectionResponse)
            yield Rpc(service, METHOD, Kind.BIDI_STREAM, *types, handler, authentication, rate_limit)

    async def info(
        self, response_type: Callable[..., Message], requests: AsyncIterator[Any], _context: CallContext
    ) -> AsyncIterator[Message]:
        """Answer each request in order, unknown names as errors. Raises ResourceExhaustedError after too many."""
        answered = 0
        async for request in requests:
            if answered >= MAX_REQUESTS_PER_STREAM:
                raise ResourceExhaustedError(f"a stream has at most {MAX_REQUESTS_PER_STREAM} requests: open another")
            response = response_type(valid_host=request.host, original_request=request)
            self._answer(request, response)
            yield response
            answered += 1

    def _answer(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
            response.list_services_response.SetInParent()
            return
        try:
            if kind == "all_extension_numbers_of_type":
                self._extension_numbers(request.all_extension_numbers_of_type, response)
            else:
                files = _with_dependencies(self._file(kind, request))
                response.file_descriptor_response.file_descriptor_proto.extend(files)
        except KeyError:
            response.error_response.error_code = Code.NOT_FOUND.value
            response.error_response.error_message = "nothing of that name is known here"

    def _file(self, kind: str | None, request: Any) -> FileDescriptor:
        if kind == "file_by_filename":
            return self._pool.FindFileByName(request.file_by_filename[:MAX_NAME])
        if kind == "file_containing_symbol":
            return self._pool.FindFileContainingSymbol(request.file_containing_symbol[:MAX_NAME])
        if kind == "file_containing_extension":
            asked = request.file_containing_extension
            extendee = self._pool.FindMessageTypeByName(asked.containing_type[:MAX_NAME])
            extension: Any = self._pool.FindExtensionByNumber(extendee, asked.extension_number)
            file: FileDescriptor = extension.file
            return file
        raise KeyError(kind)

    def _extension_numbers(self, name: str, response: Any) -> None:
        extendee = self._pool.FindMessageTypeByName(name[:MAX_NAME])
        numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(extendee))
        response.all_extension_numbers_response.base_type_name = name
        response.all_extension_numbers_response.extension_number.extend(numbers)


def _with_dependencies(file: FileDescriptor) -> list[bytes]:
    """Return the file and all that it imports, serialized, the file itself first."""
    found: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current.name not in found:
            found[current.name] = current.serialized_pb
            waiting.extend(current.dependencies)
    return list(found.values())
