"""The one error root and its few kinds.

A kind says what the caller can do about it. It becomes a gRPC status in `app.transport.grpc.status` and an
HTTP status in `app.transport.rest.problems`, and nowhere else. No library's exception passes a feature's edge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with an input: where it stands (`spec.rules[0].to`) and what is wrong with it.

    `line` is that of the path in the text that was given, counted from 1, None if it is not known.
    """

    path: str
    problem: str
    line: int | None = None

    @property
    def place(self) -> str:
        """Where it stands, for people: `line 7: spec.rules[0].to`."""
        return ": ".join([f"line {self.line}"] * (self.line is not None) + [self.path] * bool(self.path))

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else self.problem


class MeshwardError(Exception):
    """Root of every error that Meshward raises on purpose.

    `message` is one sentence that says what failed, where, and what to do. `violations` names each field at fault.
    `reason`, one of a few words in the code, is counted where a request is refused; by default the kind is.
    """

    def __init__(self, message: str, *violations: Violation, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations
        self.reason = reason


class InvalidInputError(MeshwardError):
    """The request, document, setting or file is wrong; sending it again will not help."""


class UnauthenticatedError(MeshwardError):
    """The caller did not prove who it is."""


class PermissionDeniedError(MeshwardError):
    """The caller is known and may not do this."""


class NotFoundError(MeshwardError):
    """There is no such thing."""


class ConflictError(MeshwardError):
    """It exists already, or has changed since the caller read it."""


class PreconditionError(MeshwardError):
    """The system is not in the state that the call needs; change that state first."""


class ResourceExhaustedError(MeshwardError):
    """A limit on size, count or rate was reached. `retry_seconds` is after how long it will not be, None if unknown."""

    def __init__(
        self, message: str, *violations: Violation, reason: str = "", retry_seconds: float | None = None
    ) -> None:
        super().__init__(message, *violations, reason=reason)
        self.retry_seconds = retry_seconds


class UnimplementedError(MeshwardError):
    """No such method or feature here."""


class UnavailableError(MeshwardError):
    """Something that the call needs is away for now; the same call may succeed later."""


class DeadlineExceededError(MeshwardError):
    """The caller's time ran out before the answer was ready."""


class InternalError(MeshwardError):
    """A fault of Meshward's own. The cause is in the log, not in the answer."""


@contextmanager
def located(path: str) -> Iterator[None]:
    """Add `path`, the option or field that the block reads, to the InvalidInputError that the block raises."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}", Violation(path, error.message)) from error
