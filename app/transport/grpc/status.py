"""gRPC status codes, and the one place where errors become them."""

from enum import IntEnum

from app.core.errors import (
    ConflictError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    MeshwardError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)


class Code(IntEnum):
    """The status codes of gRPC (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CODE_OF_ERROR: dict[type[MeshwardError], Code] = {
    InvalidInputError: Code.INVALID_ARGUMENT,
    UnauthenticatedError: Code.UNAUTHENTICATED,
    PermissionDeniedError: Code.PERMISSION_DENIED,
    NotFoundError: Code.NOT_FOUND,
    ConflictError: Code.ALREADY_EXISTS,
    PreconditionError: Code.FAILED_PRECONDITION,
    ResourceExhaustedError: Code.RESOURCE_EXHAUSTED,
    UnimplementedError: Code.UNIMPLEMENTED,
    UnavailableError: Code.UNAVAILABLE,
    DeadlineExceededError: Code.DEADLINE_EXCEEDED,
    InternalError: Code.INTERNAL,
}


class RpcError(MeshwardError):
    """An error with a status of its own, for the few that a protocol's contract fixes by number."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: MeshwardError) -> Code:
    """Return the status code of `error`: its own for an RpcError, its kind's otherwise."""
    if isinstance(error, RpcError):
        return error.code
    for kind in type(error).__mro__:
        if kind in CODE_OF_ERROR:
            return CODE_OF_ERROR[kind]
    return Code.INTERNAL
