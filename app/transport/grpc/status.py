"""gRPC status codes, and the one place where errors become them."""

from grpclib.const import Status

from app.core import errors
from app.core.errors import MeshwardError

Code = Status
"""The status codes of gRPC (grpc/doc/statuscodes.md)."""

CODE_OF_ERROR: dict[type[MeshwardError], Code] = {
    errors.InvalidInputError: Code.INVALID_ARGUMENT,
    errors.UnauthenticatedError: Code.UNAUTHENTICATED,
    errors.PermissionDeniedError: Code.PERMISSION_DENIED,
    errors.NotFoundError: Code.NOT_FOUND,
    errors.ConflictError: Code.ALREADY_EXISTS,
    errors.PreconditionError: Code.FAILED_PRECONDITION,
    errors.ResourceExhaustedError: Code.RESOURCE_EXHAUSTED,
    errors.UnimplementedError: Code.UNIMPLEMENTED,
    errors.UnavailableError: Code.UNAVAILABLE,
    errors.DeadlineExceededError: Code.DEADLINE_EXCEEDED,
    errors.InternalError: Code.INTERNAL,
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
