"""Messages of gRPC for policies, read by a file with the descriptors of services, as `protoc` writes it.

`protoc --include_imports --descriptor_set_out=services.pb shop.proto`; OPA-Envoy's `proto-descriptor`.
"""

import asyncio
from pathlib import Path
from typing import Any

import structlog
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from app.core.bounded_files import read_regular
from app.core.errors import InvalidInputError, UnavailableError

# All services of a mesh; those of Envoy, some 1,000 files, have 2 MiB.
MAX_DESCRIPTOR_BYTES = 16 * 1024 * 1024

_log = structlog.get_logger(__name__)


class GrpcMessages:
    """Reads messages as the file describes them; a file that is not valid leaves the one before active."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: bytes | None = None
        self._problem: InvalidInputError | None = None
        self._pool: Any = None

    @property
    def loaded(self) -> bool:
        """Whether a file was read."""
        return self._pool is not None

    async def refresh(self) -> None:
        """Read the file, and make it active if it was changed.

        Raises InvalidInputError if it is not a set of descriptors, UnavailableError if it cannot be read.
        """
        content = await asyncio.to_thread(self._read)
        if content != self._content:
            self._content, self._problem = content, None
            try:
                self._pool = await asyncio.to_thread(_pool_of, content)
            except InvalidInputError as error:
                self._problem = InvalidInputError(f"{self._path} {error.message}")
                raise self._problem from error
            _log.info("descriptors_loaded", file=str(self._path))
        elif self._problem is not None:
            raise self._problem.with_traceback(None)

    def _read(self) -> bytes:
        try:
            content = read_regular(self._path, MAX_DESCRIPTOR_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"cannot read {self._path}: {error.strerror or error}") from error
        if len(content) > MAX_DESCRIPTOR_BYTES:
            raise InvalidInputError(f"{self._path} is longer than {MAX_DESCRIPTOR_BYTES} bytes")
        return content

    def __call__(self, service: str, method: str, message: bytes) -> object:
        """Return the message that the method is called with, as `ReadMessage` does."""
        if self._pool is None:
            raise InvalidInputError("the descriptors of gRPC services are not loaded yet")
        known = _method(self._pool, service, method)
        if known is None or known.client_streaming:
            return None
        try:
            read = message_factory.GetMessageClass(known.input_type).FromString(message)
            if not read.IsInitialized():
                raise InvalidInputError("the message lacks a required field")
            return MessageToDict(read, descriptor_pool=self._pool)
        except (DecodeError, JsonError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"the message is not one of {known.input_type.full_name}") from error


def _method(pool: Any, service: str, method: str) -> descriptor.MethodDescriptor | None:
    try:
        found: descriptor.ServiceDescriptor = pool.FindServiceByName(service)
    except KeyError:
        return None
    return found.methods_by_name.get(method)


def _pool_of(content: bytes) -> Any:
    """Return the descriptors, each file after those that it imports."""
    try:
        files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(content).file}
    except DecodeError as error:
        raise InvalidInputError("is not a set of descriptors, as protoc writes with --descriptor_set_out") from error
    if not any(file.service for file in files.values()):
        raise InvalidInputError("has the descriptor of no service")
    pool = descriptor_pool.DescriptorPool()
    waiting = list(files.values())
    added: set[str] = set()
    while waiting:
        ready = [file for file in waiting if added.issuperset(file.dependency)]
        if not ready:
            raise InvalidInputError(f"lacks what {waiting[0].name} imports: use protoc with --include_imports")
        try:
            for file in ready:
                pool.Add(file)
                pool.FindFileByName(file.name)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError("has descriptors that contradict each other") from error
        added.update(file.name for file in ready)
        waiting = [file for file in waiting if file.name not in added]
    return pool
