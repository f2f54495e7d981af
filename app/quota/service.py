"""Quota's use cases: decide whether a request is within its limits. Their document store keeps the configurations."""

from collections.abc import Awaitable, Mapping, Sequence

from app.core.clock import Clock
from app.core.errors import PreconditionError
from app.documents.ports import DocumentSource
from app.documents.store import DocumentStore, Snapshot
from app.quota.model import MAX_UINT32, Answer, Descriptor, Outcome, QuotaConfig
from app.quota.ports import CounterStore
from app.quota.rules.answer import answer_of
from app.quota.rules.match import CompiledConfig, MatchedRequest, compile_config, match_request
from app.quota.rules.parse import QUOTA_KIND
from app.telemetry.metrics import Metrics

Domains = Mapping[str, CompiledConfig]
QuotaStore = DocumentStore[QuotaConfig, CompiledConfig, Domains]


class QuotaService:
    """Answers from memory, by the active configurations of `documents`: the last set that was read whole and valid."""

    def __init__(
        self,
        source: DocumentSource,
        counters: CounterStore,
        clock: Clock,
        metrics: Metrics,
        *,
        max_hits: int = MAX_UINT32,
    ) -> None:
        """`max_hits` is the most that one descriptor may count."""
        self._counters, self._metrics, self._max_hits = counters, metrics, max_hits
        self.documents: QuotaStore = DocumentStore(
            QUOTA_KIND,
            source,
            compile_document=compile_config,
            build_index=lambda compiled: {key.name: config for key, config in compiled.items()},
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
        return match_request(domain, snapshot.index.get(domain), descriptors, hits_addend, self._max_hits)

    def should_rate_limit(self, request: MatchedRequest) -> Answer | Awaitable[Answer]:
        """Count one request and answer it.

        The answer itself, or an awaitable of it where the counters have to be fetched. A descriptor that no limit
        applies to is within it, and so is every one of a domain that is not configured. Raises UnavailableError, or the
        awaitable does, if the counters cannot be reached.
        """
        outcomes = self._counters.add(request.hits) if request.hits else []
        return answer_of(request, outcomes) if isinstance(outcomes, list) else _answer_later(request, outcomes)

    def _free_counters(self, snapshot: Snapshot[QuotaConfig, CompiledConfig, Domains]) -> None:
        self._metrics.quota_configs.set((), len(snapshot.index))
        self._counters.retain({limit for config in snapshot.index.values() for limit in config.limits})


async def _answer_later(request: MatchedRequest, outcomes: Awaitable[list[Outcome]]) -> Answer:
    return answer_of(request, await outcomes)
