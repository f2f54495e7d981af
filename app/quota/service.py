"""Quota's use cases: decide whether a request is within its limits. Their document store keeps the configurations."""

from collections.abc import Awaitable, Mapping, Sequence

from app.core.clock import Clock
from app.core.errors import PreconditionError
from app.documents.ports import DocumentSource
from app.documents.store import DocumentStore, Snapshot
from app.quota.model import Answer, Code, Descriptor, Hit, Outcome, QuotaConfig
from app.quota.ports import CounterStore
from app.quota.rules.answer import NOT_LIMITED, answer_of, hits_of
from app.quota.rules.match import AppliedLimit, CompiledConfig, compile_config, limits_of
from app.quota.rules.parse import QUOTA_KIND
from app.telemetry.metrics import Metrics

Domains = Mapping[str, CompiledConfig]
QuotaStore = DocumentStore[QuotaConfig, CompiledConfig, Domains]


class QuotaService:
    """Answers from memory, by the active configurations of `documents`: the last set that was read whole and valid."""

    def __init__(self, source: DocumentSource, counters: CounterStore, clock: Clock, metrics: Metrics) -> None:
        self._counters, self._metrics = counters, metrics
        self.documents: QuotaStore = DocumentStore(
            QUOTA_KIND,
            source,
            compile_document=compile_config,
            build_index=lambda compiled: {key.name: config for key, config in compiled.items()},
            on_change=self._free_counters,
            clock=clock,
            metrics=metrics,
        )

    def should_rate_limit(
        self, domain: str, descriptors: Sequence[Descriptor], hits_addend: int
    ) -> Answer | Awaitable[Answer]:
        """Count one request and answer it; `hits_addend` (0 reads as 1) holds where a descriptor has no number itself.

        The answer itself, or an awaitable of it where the counters have to be fetched. A descriptor that no limit
        applies to is within it, and so is every one of a domain that is not configured. Raises PreconditionError before
        the configurations are loaded; UnavailableError, or the awaitable does, if the counters cannot be reached.
        """
        snapshot = self.documents.snapshot
        if snapshot is None:
            raise PreconditionError("no rate limit configuration loaded")
        configured = snapshot.index.get(domain)
        if configured is None:
            return Answer(Code.OK, (NOT_LIMITED,) * len(descriptors), domain_known=False)
        limits = limits_of(configured, descriptors)
        hits = [
            Hit(limit.limit_id, descriptor.entries, limit.algorithm, hits_of(descriptor.hits, hits_addend))
            for descriptor, limit in zip(descriptors, limits, strict=True)
            if limit is not None and limit.algorithm is not None
        ]
        outcomes = self._counters.add(hits) if hits else []
        return answer_of(limits, outcomes) if isinstance(outcomes, list) else _answer_later(limits, outcomes)

    def _free_counters(self, snapshot: Snapshot[QuotaConfig, CompiledConfig, Domains]) -> None:
        self._metrics.quota_configs.set((), len(snapshot.index))
        self._counters.retain({limit for config in snapshot.index.values() for limit in config.limits})


async def _answer_later(limits: Sequence[AppliedLimit | None], outcomes: Awaitable[list[Outcome]]) -> Answer:
    return answer_of(limits, await outcomes)
