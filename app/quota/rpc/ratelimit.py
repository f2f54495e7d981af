"""Envoy's rate limit service (envoy/service/ratelimit/v3/rls.proto), as envoyproxy/ratelimit answers it."""

from collections.abc import Awaitable, Sequence
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from app.core.errors import InvalidInputError, PermissionDeniedError, PreconditionError, Violation
from app.quota.model import (
    MAX_DESCRIPTORS,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_VALUE_LENGTH,
    Answer,
    Code,
    Descriptor,
    RateLimit,
    Status,
    Unit,
)
from app.quota.rpc.headers import HeaderOptions, headers_of
from app.quota.rpc.metadata import write_metadata
from app.quota.rules.match import MatchedRequest
from app.quota.service import QuotaService
from app.telemetry.families import OTHER
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Soon
from app.transport.grpc.status import Code as StatusCode
from app.transport.grpc.status import RpcError

# Requests that are known: a sidecar sends the same ones again, whose bytes are compared faster than read and matched.
MAX_KNOWN_REQUESTS = 2048
MAX_KNOWN_REQUEST = 1024
# A descriptor's `is_negative_hits`, which newer Envoys can send and our messages do not have.
_IS_NEGATIVE_HITS = 4

_Response: Any = rls_pb2.RateLimitResponse
_OK: int = _Response.OK
_OVER_LIMIT: int = _Response.OVER_LIMIT
_WITHIN = Code.OK
_ERROR = OTHER, "error"
NO_HEADERS = HeaderOptions()
_UNIT_NUMBERS: dict[Unit | None, int] = {
    None: _Response.RateLimit.UNKNOWN,
    **{unit: _Response.RateLimit.Unit.Value(unit.name) for unit in Unit},
}
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
    """The handlers of `envoy.service.ratelimit.v3.RateLimitService`.

    `headers` selects those that clients are sent. With `dynamic_metadata` an answer has the request and its quota mode
    violations.
    """

    def __init__(
        self,
        service: QuotaService,
        metrics: Metrics,
        headers: HeaderOptions = NO_HEADERS,
        *,
        dynamic_metadata: bool = False,
    ) -> None:
        self._service = service
        self._decisions = metrics.limits
        self._headers = headers
        self._dynamic_metadata = dynamic_metadata
        # By the serialized request: what was matched since the last change of the configurations; what came once.
        self._changes = 0
        self._known: dict[bytes, MatchedRequest] = {}
        self._seen: set[bytes] = set()

    def ShouldRateLimit(self, request: Any, context: CallContext) -> Any:  # noqa: N802 - the RPC's name
        """Answer a RateLimitRequest with a RateLimitResponse, or an awaitable of it where counters are fetched.

        Raises, or the awaitable does, RpcError UNKNOWN, with the texts of envoyproxy/ratelimit, for an empty domain, no
        descriptors and no configuration loaded; InvalidInputError for a request beyond a bound, an override without a
        unit or negative hits; PermissionDeniedError if the caller may not count in the domain. Counters that cannot
        be reached are answered by their limits' `when_away`. The sidecar decides on an error by its failure mode.
        """
        try:
            matched = self._match(request)
            answer = self._service.should_rate_limit(context.principal, matched)
        except PermissionDeniedError:
            self._decisions.add((request.domain, "caller_refused"))
            raise
        except PreconditionError as error:
            self._decisions.add(_ERROR)
            raise RpcError(StatusCode.UNKNOWN, error.message) from error
        except Exception:
            self._decisions.add(_ERROR)
            raise
        if isinstance(answer, Answer):
            return self._respond(request, matched, answer)
        return Soon(self._respond_later(request, matched, answer), self._service.answer_seconds)

    def _match(self, request: Any) -> MatchedRequest:
        if self._service.changes != self._changes:
            self._changes = self._service.changes
            self._known.clear()
        serialized = request.SerializeToString()
        known = self._known.get(serialized)
        if known is not None:
            return known
        matched = self._service.match(request.domain, _descriptors(request, len(serialized)), request.hits_addend)
        if len(serialized) <= MAX_KNOWN_REQUEST:
            self._keep(serialized, matched)
        return matched

    def _keep(self, serialized: bytes, matched: MatchedRequest) -> None:
        """Keep a request that comes a second time: to keep each one costs more than it saves where users are many."""
        if len(self._known) + len(self._seen) >= MAX_KNOWN_REQUESTS:
            self._known.clear()
            self._seen.clear()
        if serialized in self._seen:
            self._seen.remove(serialized)
            self._known[serialized] = matched
        else:
            self._seen.add(serialized)

    async def _respond_later(self, request: Any, matched: MatchedRequest, answer: Awaitable[Answer]) -> Any:
        try:
            counted = await answer
        except Exception:
            self._decisions.add(_ERROR)
            raise
        return self._respond(request, matched, counted)

    def _respond(self, request: Any, matched: MatchedRequest, answer: Answer) -> Any:
        self._decisions.add(_labels(matched, answer))
        response = _Response()
        response.overall_code = _OK if answer.code is _WITHIN else _OVER_LIMIT
        statuses = response.statuses
        for status in answer.statuses:
            _write_status(status, statuses.add())
        if self._headers.families:
            for key, value in headers_of(self._headers, answer.code, answer.statuses):
                response.response_headers_to_add.add(key=key, value=value)
        if self._dynamic_metadata:
            write_metadata(request, matched, answer, response.dynamic_metadata)
        return response


def _descriptors(request: Any, size: int) -> list[Descriptor]:
    """Return the descriptors of a request of `size` bytes."""
    if not request.domain:
        raise RpcError(StatusCode.UNKNOWN, "rate limit domain must not be empty")
    messages = request.descriptors
    if not messages:
        raise RpcError(StatusCode.UNKNOWN, "rate limit descriptor list must not be empty")
    if len(messages) > MAX_DESCRIPTORS:
        raise _refusal("descriptors", f"are more than {MAX_DESCRIPTORS}")
    descriptors = [_descriptor(message, index) for index, message in enumerate(messages)]
    if size > MAX_KEY_LENGTH:  # what is shorter as a whole has neither a key nor a value that is too long
        _check_lengths(descriptors)
    return descriptors


def _descriptor(message: Any, index: int) -> Descriptor:
    # There may be none, against the contract of ratelimit.proto: Envoy sends it so where `skip_if_absent` skipped all.
    entries = tuple([(entry.key, entry.value) for entry in message.entries])
    if len(entries) > MAX_ENTRIES:
        raise _refusal(f"descriptors[{index}].entries", f"are more than {MAX_ENTRIES}")
    hits = message.hits_addend.value if message.HasField("hits_addend") else None
    unknown_fields: Any = UnknownFieldSet(message)
    gives_back = False
    for unknown in unknown_fields:
        if unknown.field_number == _IS_NEGATIVE_HITS:
            gives_back = bool(unknown.data)
    override = _override(message.limit, index) if message.HasField("limit") else None
    return Descriptor(entries, hits, override, gives_back)


def _check_lengths(descriptors: Sequence[Descriptor]) -> None:
    for index, descriptor in enumerate(descriptors):
        for number, (key, value) in enumerate(descriptor.entries):
            path = f"descriptors[{index}].entries[{number}]"
            if len(key) > MAX_KEY_LENGTH:
                raise _refusal(f"{path}.key", f"must have at most {MAX_KEY_LENGTH} characters")
            if len(value) > MAX_VALUE_LENGTH:
                raise _refusal(f"{path}.value", f"must have at most {MAX_VALUE_LENGTH} characters")


def _override(limit: Any, index: int) -> RateLimit:
    unit = _OVERRIDE_UNITS.get(limit.unit)
    if unit is None:
        raise _refusal(f"descriptors[{index}].limit.unit", f"must be a unit of time, not {limit.unit}")
    return RateLimit(unit, limit.requests_per_unit)


def _refusal(path: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"rate limit request is not valid: {path} {problem}", Violation(path, problem))


def _labels(matched: MatchedRequest, answer: Answer) -> tuple[str, str]:
    """Return the decision's domain and code; a domain that is not configured is not a label."""
    if not answer.domain_known:
        return OTHER, "domain_not_found"
    if answer.code is _WITHIN:
        return matched.domain, "over_limit_shadowed" if answer.shadowed else "ok"
    if matched.excessive:
        return matched.domain, "too_many_hits"
    refusing = [status for status in answer.statuses if status.code is Code.OVER_LIMIT]
    return matched.domain, "over_limit" if any(status.exact for status in refusing) else "over_shared_counter"


def _write_status(status: Status, message: Any) -> None:
    code, limit, remaining, reset_seconds, _ = status
    message.code = _OK if code is _WITHIN else _OVER_LIMIT
    message.limit_remaining = remaining
    if limit is None:
        return
    current = message.current_limit
    current.requests_per_unit = limit.requests_per_unit
    current.unit = _UNIT_NUMBERS[limit.unit]
    if limit.name:
        current.name = limit.name
    message.duration_until_reset.seconds = reset_seconds
