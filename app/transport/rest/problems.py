"""Errors as problem details (RFC 9457), and the one place where errors become HTTP statuses."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.core import errors
from app.core.errors import InvalidInputError, MeshwardError, Violation

MEDIA_TYPE = "application/problem+json"
# Violations in one response; the rest of them follow when these are corrected.
MAX_VIOLATIONS = 100
# When to retry after 503, in seconds.
RETRY_AFTER = "1"

STATUS_OF_ERROR: dict[type[MeshwardError], HTTPStatus] = {
    errors.InvalidInputError: HTTPStatus.BAD_REQUEST,
    errors.UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    errors.PermissionDeniedError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.ConflictError: HTTPStatus.CONFLICT,
    errors.PreconditionError: HTTPStatus.CONFLICT,
    errors.ResourceExhaustedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.UnimplementedError: HTTPStatus.NOT_IMPLEMENTED,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_log = structlog.get_logger(__name__)


class HttpError(MeshwardError):
    """An error with a status of its own, for the few that HTTP itself fixes by number."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: MeshwardError) -> HTTPStatus:
    """Return the status of `error`: its own for an HttpError, its kind's otherwise."""
    if isinstance(error, HttpError):
        return error.status
    for kind in type(error).__mro__:
        if kind in STATUS_OF_ERROR:
            return STATUS_OF_ERROR[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(
    status: HTTPStatus,
    detail: str,
    request_id: str,
    violations: Sequence[Violation] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the response; `type` is a URN by the status's name, `urn:meshward:problem:not-found`."""
    body: dict[str, Any] = {
        "type": f"urn:meshward:problem:{status.phrase.lower().replace(' ', '-')}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "request_id": request_id,
    }
    if violations:
        body["violations"] = [_violation(item) for item in violations[:MAX_VIOLATIONS]]
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def _violation(item: Violation) -> dict[str, Any]:
    line = {} if item.line is None else {"line": item.line}
    return {"path": item.path, "problem": item.problem} | line


def from_error(request: Request, error: MeshwardError) -> JSONResponse:
    """Return the problem for `error`; one of the server's own is logged with its cause as well."""
    status = status_of(error)
    headers = {}
    if status is HTTPStatus.CONFLICT and "if-match" in request.headers:
        status = HTTPStatus.PRECONDITION_FAILED
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="meshward"'
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning(
            "request_failed",
            problem=error.message,
            cause=repr(error.__cause__),
            exc_info=status is HTTPStatus.INTERNAL_SERVER_ERROR,
        )
    return problem(status, error.message, request_id_of(request), error.violations, headers)


def from_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    """Return the problem for a refusal of the framework: unknown route or method, unreadable body."""
    if isinstance(error.__cause__, MeshwardError):
        return from_error(request, error.__cause__)
    status = HTTPStatus(error.status_code)
    detail = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.url.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} does not allow {request.method}",
    }.get(status, error.detail)
    return problem(status, detail, request_id_of(request), headers=error.headers)


def from_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    """Return the problem for invalid parameters or an invalid body, with the path of each violation."""
    details = error.errors()
    if isinstance(error.body, bytes) and any(tuple(item["loc"]) == ("body",) for item in details):
        return from_error(
            request,
            HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be JSON: send content-type: application/json"),
        )
    violations = [Violation(path_of(item["loc"]), item["msg"].removeprefix("Value error, ")) for item in details]
    message = f"the request is not valid: {violations[0]}" if violations else "the request is not valid"
    return from_error(request, InvalidInputError(message, *violations))


def path_of(location: Sequence[str | int]) -> str:
    """Return the path of a value, such as `spec.rules[0].to`, without a prefix for the body."""
    names = list(location[1:]) if location and location[0] == "body" else list(location)
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names)
    return path.removeprefix(".") or "body"


def request_id_of(request: Request) -> str:
    """Return the id under which the request is logged."""
    return str(request.scope.get("state", {}).get("request_id", ""))
