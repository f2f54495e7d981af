"""Envoy's rate limit service (envoy/service/ratelimit/v3/rls.proto), as envoyproxy/ratelimit answers it."""

from collections.abc import Awaitable
from functools import lru_cache
from typing import Any, NamedTuple

from envoy.service.ratelimit.v3 import rls_pb2

from app.core.errors import InvalidInputError, PreconditionError, Violation
from app.quota.model import (
    MAX_DESCRIPTORS,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_VALUE_LENGTH,
    Answer,
    Code,
    Descriptor,
    Entry,
    RateLimit,
    Status,
    Unit,
)
from app.quota.rpc.headers import HeaderStyle, headers_of
from app.quota.service import QuotaService
from app.telemetry.families import OTHER
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.status import Code as StatusCode
from app.transport.grpc.status import RpcError

# Requests that were read recently: the bytes of one are read faster than its fields, and many are the same.
MAX_KNOWN_REQUESTS = 2048
MAX_KNOWN_REQUEST = 1024

_RequestMessage: Any = rls_pb2.RateLimitRequest
_Response: Any = rls_pb2.RateLimitResponse
_OK: int = _Response.OK
_OVER_LIMIT: int = _Response.OVER_LIMIT
_WITHIN = Code.OK
_ERROR = OTHER, "error"
_UNIT_NUMBERS: dict[int, int] = {unit.seconds: _Response.RateLimit.Unit.Value(unit.name) for unit in Unit}
# envoy.type.v3.RateLimitUnit, whose numbers are not those of the answer's unit.
_OVERRIDE_UNITS: dict[int, Unit] = {
    1: Unit.SECOND,
    2: Unit.MINUTE,
    3: Unit.HOUR,
    4: Unit.DAY,
    5: Unit.MONTH,
    6: Unit.YEAR,
}


class RateLimitRpc:
    """The handlers of `envoy.service.ratelimit.v3.RateLimitService`; `headers` selects those that clients are sent."""

    def __init__(self, service: QuotaService, metrics: Metrics, headers: HeaderStyle = HeaderStyle.OFF) -> None:
        self._service = service
        self._decisions = metrics.limits
        self._headers = headers

    def ShouldRateLimit(self, request: Any, context: CallContext) -> Any:  # noqa: ARG002, N802 - the RPC's name
        """Answer a RateLimitRequest with a RateLimitResponse, or an awaitable of it where counters are fetched.

        Raises, or the awaitable does, RpcError UNKNOWN, with the texts of envoyproxy/ratelimit, for an empty domain, no
        descriptors and no configuration loaded; InvalidInputError for a request beyond a bound or an override without a
        unit; UnavailableError if the counters cannot be reached. The sidecar decides on an error by its failure mode.
        """
        try:
            serialized = request.SerializeToString()
            read = _read if len(serialized) > MAX_KNOWN_REQUEST else _known_request
            domain, descriptors, hits_addend = read(serialized)
            answer = self._service.should_rate_limit(domain, descriptors, hits_addend)
        except PreconditionError as error:
            self._decisions.add(_ERROR)
            raise RpcError(StatusCode.UNKNOWN, error.message) from error
        except Exception:
            self._decisions.add(_ERROR)
            raise
        return self._respond(domain, answer) if isinstance(answer, Answer) else self._respond_later(domain, answer)

    async def _respond_later(self, domain: str, answer: Awaitable[Answer]) -> Any:
        try:
            counted = await answer
        except Exception:
            self._decisions.add(_ERROR)
            raise
        return self._respond(domain, counted)

    def _respond(self, domain: str, answer: Answer) -> Any:
        self._decisions.add(_labels(domain, answer))
        response = _Response()
        response.overall_code = _OK if answer.code is _WITHIN else _OVER_LIMIT
        statuses = response.statuses
        for status in answer.statuses:
            _write_status(status, statuses.add())
        if self._headers is not HeaderStyle.OFF:
            for key, value in headers_of(self._headers, answer.statuses):
                response.response_headers_to_add.add(key=key, value=value)
        return response


class _Request(NamedTuple):
    """What a RateLimitRequest asks."""

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits_addend: int


def _read(serialized: bytes) -> _Request:
    request = _RequestMessage.FromString(serialized)
    if not request.domain:
        raise RpcError(StatusCode.UNKNOWN, "rate limit domain must not be empty")
    messages = request.descriptors
    if not messages:
        raise RpcError(StatusCode.UNKNOWN, "rate limit descriptor list must not be empty")
    if len(messages) > MAX_DESCRIPTORS:
        raise _refusal("descriptors", f"are more than {MAX_DESCRIPTORS}")
    descriptors = tuple([_descriptor(message, index) for index, message in enumerate(messages)])
    return _Request(request.domain, descriptors, request.hits_addend)


_known_request = lru_cache(maxsize=MAX_KNOWN_REQUESTS)(_read)


def _descriptor(message: Any, index: int) -> Descriptor:
    # There may be none, against the contract of ratelimit.proto: Envoy sends it so where `skip_if_absent` skipped all.
    entries = tuple([(entry.key, entry.value) for entry in message.entries])
    if len(entries) > MAX_ENTRIES:
        raise _refusal(f"descriptors[{index}].entries", f"are more than {MAX_ENTRIES}")
    for key, value in entries:
        if len(key) > MAX_KEY_LENGTH or len(value) > MAX_VALUE_LENGTH:
            raise _entry_refusal(index, entries)
    hits = message.hits_addend.value if message.HasField("hits_addend") else None
    override = _override(message.limit, index) if message.HasField("limit") else None
    return Descriptor(entries, hits, override)


def _override(limit: Any, index: int) -> RateLimit:
    unit = _OVERRIDE_UNITS.get(limit.unit)
    if unit is None:
        raise _refusal(f"descriptors[{index}].limit.unit", f"must be a unit of time, not {limit.unit}")
    return RateLimit(unit, limit.requests_per_unit)


def _entry_refusal(index: int, entries: tuple[Entry, ...]) -> InvalidInputError:
    for number, (key, value) in enumerate(entries):
        path = f"descriptors[{index}].entries[{number}]"
        if len(key) > MAX_KEY_LENGTH:
            return _refusal(f"{path}.key", f"must have at most {MAX_KEY_LENGTH} characters")
        if len(value) > MAX_VALUE_LENGTH:
            return _refusal(f"{path}.value", f"must have at most {MAX_VALUE_LENGTH} characters")
    raise AssertionError("one of the entries was found to be out of bounds")


def _refusal(path: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"rate limit request is not valid: {path} {problem}", Violation(path, problem))


def _labels(domain: str, answer: Answer) -> tuple[str, str]:
    """Return the decision's domain and code; what callers make up is not a label."""
    if not answer.domain_known:
        return OTHER, "domain_not_found"
    if answer.code is _WITHIN:
        return domain, "ok"
    return domain, "over_limit" if all(status.counted for status in answer.statuses) else "no_room"


def _write_status(status: Status, message: Any) -> None:
    code, limit, remaining, reset_seconds, _ = status
    message.code = _OK if code is _WITHIN else _OVER_LIMIT
    message.limit_remaining = remaining
    if limit is None:
        return
    current = message.current_limit
    current.requests_per_unit = limit.requests_per_unit
    current.unit = _UNIT_NUMBERS[limit.unit.seconds]
    if limit.name:
        current.name = limit.name
    message.duration_until_reset.seconds = reset_seconds
