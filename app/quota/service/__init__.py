"""Quota's use cases: decide whether a request is within its limits. Their document store keeps the configurations."""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

from app.core.clock import Clock
from app.core.errors import NotFoundError, PermissionDeniedError, PreconditionError
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import Compiler, Difference, DocumentStore
from app.quota.model import MAX_UINT32, Answer, Descriptor, Hit, LimitId, Modes, Outcome, QuotaConfig, Status
from app.quota.ports import CounterStore, PreparedHits
from app.quota.rules.answer import NOT_LIMITED, answer_of
from app.quota.rules.callers import CallerGrant, may_count
from app.quota.rules.describe import describe_config
from app.quota.rules.explain import Explanation, explain
from app.quota.rules.explain_limits import explain_limits
from app.quota.rules.limitador import (
    LIMIT_KIND,
    CompiledLimit,
    ConditionalLimit,
    LimitIndex,
    Namespace,
    compile_limit,
    index_limits,
    match_limits,
)
from app.quota.rules.match import MatchedDescriptor, MatchedRequest, hits_of, join, match_limit, match_request
from app.quota.rules.parse import QUOTA_KIND
from app.quota.rules.tree import NO_MODES, CompiledConfig, compile_config, find_limit
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics

# Callers and domains whose right to count is remembered.
MAX_KNOWN_CALLERS = 4096

Domains = Mapping[str, CompiledConfig]
LimitStore = DocumentStore[ConditionalLimit, CompiledLimit, LimitIndex]
QuotaStore = DocumentStore[QuotaConfig, CompiledConfig, Domains]


class QuotaService:
    """Answers from memory, by the active configurations of `documents`: the last set that was read whole and valid."""

    def __init__(  # noqa: PLR0913 - each is a part of its own, or an option
        self,
        source: DocumentSource,
        counters: CounterStore,
        clock: Clock,
        metrics: Metrics,
        *,
        max_hits: int = MAX_UINT32,
        callers: Sequence[CallerGrant] = (),
        modes: Modes = NO_MODES,
        limits: DocumentSource | None = None,
        offload: Offload = in_thread,
    ) -> None:
        """`max_hits` is the most that one descriptor may count; `callers` are those who may count, by domain.

        `limits` has limits in limitador's schema, if there are any.
        """
        self._counters, self._metrics, self._max_hits, self._modes = counters, metrics, max_hits, modes
        self._callers = tuple(callers)
        self._may_count: dict[tuple[SpiffeId | None, str], bool] = {}
        self.documents: QuotaStore = DocumentStore(
            QUOTA_KIND,
            source,
            Compiler(partial(compile_config, near_ratio=modes.near_ratio), _updated, offload),
            on_change=self._changed,
            clock=clock,
            metrics=metrics,
        )
        self.limits: LimitStore | None = None
        if limits is not None:
            self.limits = DocumentStore(
                LIMIT_KIND,
                limits,
                Compiler(partial(compile_limit, near_ratio=modes.near_ratio), _limits_updated, offload),
                on_change=self._changed,
                clock=clock,
                metrics=metrics,
            )
        self.changes = 0

    def match(self, domain: str, descriptors: Sequence[Descriptor], hits_addend: int) -> MatchedRequest:
        """Return the request with the limits that apply to it by the active configurations.

        `hits_addend` (0 reads as 1) applies where a descriptor has no number itself. Raises PreconditionError before
        the configurations are loaded.
        """
        snapshot = self.documents.snapshot
        if snapshot is None:
            raise PreconditionError("no rate limit configuration loaded")
        config = snapshot.index.get(domain)
        if config is None and self.limits is not None:
            return self.match_limits(domain, descriptors, hits_of(None, hits_addend))
        return match_request(domain, config, descriptors, hits_addend, self._max_hits, self._modes)

    def independent(self, domain: str) -> CompiledConfig | None:
        """Return the active configuration of a domain, if each descriptor has its limit whatever the others are."""
        config = self.documents.snapshot.index.get(domain) if self.documents.snapshot else None
        return config if config and config.independent else None

    def match_descriptor(self, config: CompiledConfig, descriptor: Descriptor) -> MatchedDescriptor:
        """Return a descriptor, without hits and a limit of its own, with its limit by an independent `config`."""
        return match_limit(config, descriptor, find_limit(config.root, descriptor.entries), 0, 0, self._max_hits)

    def join(self, domain: str, descriptors: Sequence[MatchedDescriptor]) -> MatchedRequest:
        """Return the request of what `match_descriptor` returned for each of its descriptors."""
        return join(domain, descriptors, self._modes)

    def match_limits(self, domain: str, descriptors: Sequence[Descriptor], hits: int) -> MatchedRequest:
        """Return the request with the limits in limitador's schema that apply to it.

        Raises PreconditionError before they are loaded.
        """
        if self.limits is None or self.limits.snapshot is None:
            raise PreconditionError("no rate limit configuration loaded")
        namespace = self.limits.snapshot.index.namespaces.get(domain)
        if namespace is None:
            return match_request(domain, None, descriptors, hits, self._max_hits)
        return match_limits(domain, namespace, descriptors, hits, self._max_hits, self._modes)

    def limits_of(self, domain: str) -> list[ConditionalLimit]:
        """Return the limits in limitador's schema of a domain."""
        namespace = self._namespace(domain)
        return [each.limit for each in namespace.all()] if namespace else []

    def _namespace(self, domain: str) -> Namespace | None:
        return self.limits.snapshot.index.namespaces.get(domain) if self.limits and self.limits.snapshot else None

    def prepare(self, hits: Sequence[Hit]) -> PreparedHits:
        """Return the hits of a request as `count` takes them, where a request is counted again and again."""
        return self._counters.prepare(hits)

    def should_rate_limit(self, principal: Principal, request: MatchedRequest) -> Answer | Awaitable[Answer]:
        """Count one request of `principal` and answer it.

        The answer itself, or an awaitable of it where the counters have to be fetched. A descriptor that no limit
        applies to is within it, and so is every one of a domain that is not configured. Raises PermissionDeniedError,
        with nothing counted, if the caller may not count in the domain. Counters that cannot be reached are answered by
        their limits' `when_away`.
        """
        outcomes = self.count(principal, request, self.prepare(request.hits))
        return self.answer(request, outcomes) if isinstance(outcomes, list) else self._answer_later(request, outcomes)

    def count(
        self, principal: Principal, request: MatchedRequest, prepared: PreparedHits
    ) -> list[Outcome] | Awaitable[list[Outcome]]:
        """Count one request of `principal`, whose hits are `prepared`, and return their outcomes for `answer`.

        As `should_rate_limit` in everything else.
        """
        if self._callers and request.domain_known:
            self.check_caller(principal, request.domain)
        return self._counters.count(prepared, request.joint) if prepared else []

    def check_caller(self, principal: Principal, domain: str) -> None:
        """Raise PermissionDeniedError if `principal` may not count in the domain."""
        known = principal.spiffe_id, domain
        allowed = self._may_count.get(known)
        if allowed is None:
            if len(self._may_count) >= MAX_KNOWN_CALLERS:
                self._may_count.clear()
            allowed = self._may_count[known] = may_count(self._callers, domain, principal.name)
        if not allowed:
            raise PermissionDeniedError(
                f"{principal.name} may not count in the domain {domain!r}: quota.callers lists who may"
            )

    @property
    def answer_seconds(self) -> float:
        """The longest that an awaitable of an answer takes."""
        return self._counters.answer_seconds

    def describe(self) -> Iterator[str]:
        """Yield a line for each limit of the active configurations."""
        snapshot = self.documents.snapshot
        for config in snapshot.index.values() if snapshot else ():
            yield from describe_config(config)

    async def explain(self, domain: str, descriptors: Sequence[Descriptor]) -> list[tuple[Explanation, Status]]:
        """Return which limit applies to each descriptor, and why not the others, and what its counter is at.

        Of limits in limitador's schema, each that applies to the request. Nothing is counted. Raises NotFoundError if
        the domain has no limits.
        """
        snapshot = self.documents.snapshot
        config = snapshot.index.get(domain) if snapshot else None
        namespace = self._namespace(domain)
        if config is not None:
            probes = match_request(domain, config, [each._replace(hits=0) for each in descriptors], 0, self._max_hits)
            explanations = explain(config, descriptors)
        elif namespace is not None:
            probes = match_limits(domain, namespace, descriptors, 0, self._max_hits)
            explanations = explain_limits(namespace, descriptors, probes)
        else:
            raise NotFoundError(f"the domain {domain!r} has no limits: every request passes")
        outcomes = self._counters.add(probes.hits) if probes.hits else []
        answer = answer_of(probes, outcomes if isinstance(outcomes, list) else await outcomes)
        return list(zip(explanations, answer.statuses or (NOT_LIMITED,), strict=True))

    def answer(self, request: MatchedRequest, outcomes: list[Outcome]) -> Answer:
        """Return the answer to a request whose hits have these outcomes, which metrics count once."""
        self.note(request, outcomes)
        return answer_of(request, outcomes, self._modes)

    def note(self, request: MatchedRequest, outcomes: list[Outcome]) -> None:
        """Have metrics count the hits of a request."""
        rules = self._metrics.rules
        known = rules.series
        place = 0
        for _, counts, _ in request.descriptors:
            if counts is None:
                continue
            hit, (limit, rule, most_near) = counts
            allowed, remaining, _, _ = outcomes[place]
            place += 1
            series = known.get(rule) or rules.open(request.domain, rule)
            hits = max(hit.hits, 0)  # slots that are given back are no hits
            if allowed:
                series.within += hits
                near = most_near - remaining
                if near > 0:
                    series.near += min(near, hits)
            else:
                series.over += hits
                if limit.shadow_mode:
                    series.shadow += hits

    async def _answer_later(self, request: MatchedRequest, outcomes: Awaitable[list[Outcome]]) -> Answer:
        return self.answer(request, await outcomes)

    async def _changed(self, _snapshot: object) -> None:
        """Free the counters and the metrics of limits that are gone; `changes` grows with every change.

        What that are is found out in a thread, and freed in steps: there can be hundreds of thousands of limits, and a
        million counters.
        """
        self.changes += 1
        change = self.changes
        configs = self.documents.snapshot.index if self.documents.snapshot else {}
        namespaces = self.limits.snapshot.index.namespaces if self.limits and self.limits.snapshot else {}
        self._metrics.quota_configs.set((), len(configs))
        limit_ids, rules = await asyncio.to_thread(_names_of, configs, namespaces)
        if change == self.changes:  # else the change after it sees to this
            self._metrics.rules.configure(rules)
            await self._counters.retain(limit_ids)


def _names_of(configs: Domains, namespaces: Mapping[str, Namespace]) -> tuple[frozenset[LimitId], frozenset[str]]:
    """Return the identities of all limits, and their names in metrics."""
    limits = [limit.applied for namespace in namespaces.values() for limit in namespace.all()]
    limit_ids = chain.from_iterable(config.limits for config in configs.values())
    rules = chain.from_iterable(config.rules for config in configs.values())
    return (
        frozenset(chain(limit_ids, (limit.limit_id for limit in limits))),
        frozenset(chain(rules, (limit.rule for limit in limits))),
    )


def _updated(before: Domains | None, difference: Difference[CompiledConfig]) -> Domains:
    domains = dict(before or {})
    for key in difference.removed:
        del domains[key.name]
    return domains | {key.name: config for key, config in difference.added.items()}


def _limits_updated(before: LimitIndex | None, difference: Difference[CompiledLimit]) -> LimitIndex:
    kept = {key: limit for key, limit in before.limits.items() if key not in difference.removed} if before else {}
    return index_limits(kept | dict(difference.added))
