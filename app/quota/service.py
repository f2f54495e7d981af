"""Quota's use cases: decide whether a request is within its limits. Their document store keeps the configurations."""

from collections.abc import Awaitable, Iterator, Mapping, Sequence

from app.core.clock import Clock
from app.core.errors import NotFoundError, PermissionDeniedError, PreconditionError
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import Compiler, Difference, DocumentStore, Snapshot
from app.quota.model import MAX_UINT32, Answer, Descriptor, Modes, Outcome, QuotaConfig
from app.quota.ports import CounterStore
from app.quota.rules.answer import answer_of
from app.quota.rules.callers import CallerGrant, may_count
from app.quota.rules.describe import describe_config
from app.quota.rules.explain import Explanation, explain
from app.quota.rules.match import NO_MODES, CompiledConfig, MatchedRequest, compile_config, match_request
from app.quota.rules.parse import QUOTA_KIND
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics

# Callers and domains whose right to count is remembered.
MAX_KNOWN_CALLERS = 4096

Domains = Mapping[str, CompiledConfig]
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
        offload: Offload = in_thread,
    ) -> None:
        """`max_hits` is the most that one descriptor may count; `callers` are those who may count, by domain."""
        self._counters, self._metrics, self._max_hits, self._modes = counters, metrics, max_hits, modes
        self._callers = tuple(callers)
        self._may_count: dict[tuple[SpiffeId | None, str], bool] = {}
        self.documents: QuotaStore = DocumentStore(
            QUOTA_KIND,
            source,
            Compiler(compile_config, _updated, offload),
            on_change=self._free_counters,
            clock=clock,
            metrics=metrics,
        )

    def match(self, domain: str, descriptors: Sequence[Descriptor], hits_addend: int) -> MatchedRequest:
        """Return the request with the limits that apply to it by the active configurations.

        `hits_addend` (0 reads as 1) applies where a descriptor has no number itself. Raises PreconditionError before
        the configurations are loaded.
        """
        snapshot = self.documents.snapshot
        if snapshot is None:
            raise PreconditionError("no rate limit configuration loaded")
        return match_request(domain, snapshot.index.get(domain), descriptors, hits_addend, self._max_hits, self._modes)

    def should_rate_limit(self, principal: Principal, request: MatchedRequest) -> Answer | Awaitable[Answer]:
        """Count one request of `principal` and answer it.

        The answer itself, or an awaitable of it where the counters have to be fetched. A descriptor that no limit
        applies to is within it, and so is every one of a domain that is not configured. Raises PermissionDeniedError,
        with nothing counted, if the caller may not count in the domain, UnavailableError, or the awaitable does, if
        the counters cannot be reached.
        """
        if self._callers and request.domain_known:
            self._authorize(principal, request.domain)
        outcomes = self._counters.add(request.hits) if request.hits else []
        return self._answer(request, outcomes) if isinstance(outcomes, list) else self._answer_later(request, outcomes)

    def describe(self) -> Iterator[str]:
        """Yield a line for each limit of the active configurations."""
        snapshot = self.documents.snapshot
        for config in snapshot.index.values() if snapshot else ():
            yield from describe_config(config)

    def explain(self, domain: str, descriptors: Sequence[Descriptor]) -> tuple[Explanation, ...]:
        """Return which limit applies to each descriptor, and why not the others; nothing is counted.

        Raises NotFoundError if the domain is not configured.
        """
        snapshot = self.documents.snapshot
        config = snapshot.index.get(domain) if snapshot else None
        if config is None:
            raise NotFoundError(f"the domain {domain!r} has no configuration: every request passes")
        return explain(config, descriptors)

    def _answer(self, request: MatchedRequest, outcomes: list[Outcome]) -> Answer:
        if outcomes:
            self._count_rules(request, outcomes)
        return answer_of(request, outcomes, self._modes)

    def _count_rules(self, request: MatchedRequest, outcomes: list[Outcome]) -> None:
        rules = self._metrics.rules
        known = rules.series
        for counted, hit, outcome in zip(request.counted, request.hits, outcomes, strict=True):
            series = known.get(counted.rule) or rules.open(request.domain, counted.rule)
            hits = max(hit.hits, 0)  # slots that are given back are no hits
            if outcome.allowed:
                series.within += hits
                near = counted.near - outcome.remaining
                if near > 0:
                    series.near += min(near, hits)
            else:
                series.over += hits
                if counted.limit.shadow_mode:
                    series.shadow += hits

    async def _answer_later(self, request: MatchedRequest, outcomes: Awaitable[list[Outcome]]) -> Answer:
        return self._answer(request, await outcomes)

    def _authorize(self, principal: Principal, domain: str) -> None:
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

    def _free_counters(self, snapshot: Snapshot[QuotaConfig, CompiledConfig, Domains]) -> None:
        self._metrics.quota_configs.set((), len(snapshot.index))
        self._counters.retain({limit for config in snapshot.index.values() for limit in config.limits})
        self._metrics.rules.configure({rule for config in snapshot.index.values() for rule in config.rules})


def _updated(before: Domains | None, difference: Difference[CompiledConfig]) -> Domains:
    domains = dict(before or {})
    for key in difference.removed:
        del domains[key.name]
    return domains | {key.name: config for key, config in difference.added.items()}
