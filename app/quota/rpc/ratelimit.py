"""Envoy's rate limit service (envoy/service/ratelimit/v3/rls.proto), as envoyproxy/ratelimit answers it."""

from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple

from envoy.service.ratelimit.v3 import rls_pb2

from app.core.errors import PermissionDeniedError, PreconditionError
from app.quota.model import Answer, Code, Outcome
from app.quota.ports import PreparedHits
from app.quota.rpc.headers import HeaderOptions, headers_of
from app.quota.rpc.messages import (
    MAX_PLAIN_REQUEST,
    AnswerWriter,
    StatusHead,
    parse_message,
    read_descriptor,
    read_request,
    split_request,
    write_within,
)
from app.quota.rpc.metadata import write_metadata
from app.quota.rpc.recurring import Recurring
from app.quota.rules.match import MatchedDescriptor, MatchedRequest
from app.quota.rules.tree import CompiledConfig
from app.quota.service import QuotaService
from app.telemetry.families import OTHER, CounterSeries
from app.telemetry.metrics import Metrics
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Prepared, Soon
from app.transport.grpc.status import Code as StatusCode
from app.transport.grpc.status import RpcError

# Requests that are known, of up to MAX_PLAIN_REQUEST bytes: a sidecar sends the same ones again, whose bytes are
# compared faster than read and matched.
MAX_KNOWN_REQUESTS = 16_384
# The same of descriptors, each with its domain.
MAX_KNOWN_DESCRIPTORS = 16_384
# Domains that are known by their bytes. With more, all are read again.
MAX_KNOWN_DOMAINS = 64

_WITHIN = Code.OK
_ERROR = OTHER, "error"
# A domain that is not configured is not a label.
_UNKNOWN_DOMAIN = OTHER, "domain_not_found"
NO_HEADERS = HeaderOptions()


class _Known(NamedTuple):
    """A request that was matched: its hits as the store takes them, and its statuses as far as they are known.

    `within` counts those that are within their limits.
    """

    matched: MatchedRequest
    prepared: PreparedHits
    statuses: Sequence[StatusHead]
    within: CounterSeries


class _Domain(NamedTuple):
    """A domain that is configured; `within` counts its requests that are within their limits."""

    config: CompiledConfig
    within: CounterSeries


_KnownDescriptor = tuple[MatchedDescriptor, PreparedHits, StatusHead]


class RateLimitRpc:
    """The handlers of `envoy.service.ratelimit.v3.RateLimitService`, which take serialized requests.

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
        self._plain = not headers.families and not dynamic_metadata
        self._writer = AnswerWriter()
        # What was matched since the last change of the configurations, by the serialized request and domain.
        self._changes = 0
        self._known: Recurring[bytes, _Known] = Recurring(MAX_KNOWN_REQUESTS)
        self._descriptors: Recurring[tuple[bytes, bytes], _KnownDescriptor] = Recurring(MAX_KNOWN_DESCRIPTORS)
        self._domains: dict[bytes, _Domain] = {}

    def ShouldRateLimit(self, request: bytes, context: CallContext) -> Prepared | Soon:  # noqa: N802 - the RPC's name
        """Answer a RateLimitRequest with a RateLimitResponse, or an awaitable of it where counters are fetched.

        Both are serialized. Raises, or the awaitable does, RpcError UNKNOWN, with the texts of envoyproxy/ratelimit,
        for an empty domain, no descriptors and no configuration loaded; InvalidInputError for what is no request or
        beyond a bound, an override without a unit or negative hits; PermissionDeniedError if the caller may not count
        in the domain. Counters that cannot be reached are answered by their limits' `when_away`. The sidecar decides on
        an error by its failure mode.
        """
        try:
            if self._service.changes != self._changes:
                self._forget()
            known = self._known.get(request) or self._match(request)
            outcomes = self._service.count(context.principal, known.matched, known.prepared)
        except PermissionDeniedError:
            self._decisions.add((known.matched.domain, "caller_refused"))
            raise
        except PreconditionError as error:
            self._decisions.add(_ERROR)
            raise RpcError(StatusCode.UNKNOWN, error.message) from error
        except Exception:
            self._decisions.add(_ERROR)
            raise
        if isinstance(outcomes, list):
            return self._respond(request, known, outcomes)
        return Soon(self._respond_later(request, known, outcomes), self._service.answer_seconds)

    def _forget(self) -> None:
        self._changes = self._service.changes
        self._known.clear()
        self._descriptors.clear()
        self._domains.clear()

    def _match(self, request: bytes) -> _Known:
        known = self._match_plain(request)
        if known is None:
            matched = self._service.match(*read_request(request))
            within = self._decisions.series((matched.domain, "ok") if matched.domain_known else _UNKNOWN_DOMAIN)
            heads = [self._writer.head(each) for each in matched.descriptors]
            known = _Known(matched, self._service.prepare(matched.hits), heads, within)
        if len(request) <= MAX_PLAIN_REQUEST:
            self._known.offer(request, known)
        return known

    def _match_plain(self, request: bytes) -> _Known | None:
        """Return the request, descriptor by descriptor, None if that is not possible.

        Users of one route have some of their descriptors in common, which are known then.
        """
        split = split_request(request)
        if split is None:
            return None
        domain = self._domains.get(split[0]) or self._open(split[0])
        if domain is None:
            return None
        matched: list[MatchedDescriptor] = []
        prepared: list[Any] = []
        heads: list[StatusHead] = []
        for serialized in split[1]:
            key = split[0], serialized
            known = self._descriptors.get(key) or self._match_descriptor(domain, key)
            if known is None:
                return None
            matched.append(known[0])
            prepared += known[1]
            heads.append(known[2])
        return _Known(self._service.join(domain.config.domain, matched), prepared, heads, domain.within)

    def _open(self, serialized: bytes) -> _Domain | None:
        try:
            name = serialized.decode()
        except UnicodeDecodeError:
            return None
        config = self._service.independent(name)
        if config is None:
            return None
        domain = _Domain(config, self._decisions.series((name, "ok")))
        if len(self._domains) >= MAX_KNOWN_DOMAINS:
            self._domains.clear()
        self._domains[serialized] = domain
        return domain

    def _match_descriptor(self, domain: _Domain, key: tuple[bytes, bytes]) -> _KnownDescriptor | None:
        descriptor = read_descriptor(key[1])
        if descriptor is None:
            return None
        matched = self._service.match_descriptor(domain.config, descriptor)
        hits = (matched.counts[0],) if matched.counts else ()
        known = matched, self._service.prepare(hits), self._writer.head(matched)
        self._descriptors.offer(key, known)
        return known

    async def _respond_later(self, request: bytes, known: _Known, outcomes: Awaitable[list[Outcome]]) -> Prepared:
        try:
            counted = await outcomes
        except Exception:
            self._decisions.add(_ERROR)
            raise
        return self._respond(request, known, counted)

    def _respond(self, request: bytes, known: _Known, outcomes: list[Outcome]) -> Prepared:
        if self._plain:
            written = write_within(known.statuses, outcomes)
            if written is not None:  # every descriptor is within its limit: nothing is to be decided
                self._service.note(known.matched, outcomes)
                known.within.count += 1
                return Prepared(written)
        matched = known.matched
        answer = self._service.answer(matched, outcomes)
        self._decisions.add(_labels(matched, answer))
        written = self._writer.write(answer.code, answer.statuses)
        return Prepared(written if self._plain else written + self._extras(request, matched, answer))

    def _extras(self, request: bytes, matched: MatchedRequest, answer: Answer) -> bytes:
        """Return the fields that follow the statuses."""
        response: Any = rls_pb2.RateLimitResponse()
        for key, value in headers_of(self._headers, answer.code, answer.statuses):
            response.response_headers_to_add.add(key=key, value=value)
        if self._dynamic_metadata:
            write_metadata(parse_message(request), matched, answer, response.dynamic_metadata)
        extras: bytes = response.SerializeToString()
        return extras


def _labels(matched: MatchedRequest, answer: Answer) -> tuple[str, str]:
    """Return the decision's domain and code."""
    if not answer.domain_known:
        return _UNKNOWN_DOMAIN
    if answer.code is _WITHIN:
        return matched.domain, "over_limit_shadowed" if answer.shadowed else "ok"
    refusal = matched.refusal
    if refusal is not None:
        return matched.domain, refusal.value
    refusing = [status for status in answer.statuses if status.code is Code.OVER_LIMIT]
    return matched.domain, "over_limit" if any(status.exact for status in refusing) else "over_shared_counter"
