"""Quota's use cases: answer whether a request is within its limits, and keep the configurations that say so."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field

from app.core.clock import Clock
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    Violation,
)
from app.quota.model import Answer, Code, Descriptor, Hit, Outcome, StoredConfig
from app.quota.ports import ConfigRepository, ConfigTransactions, CounterStore
from app.quota.rules.answer import NOT_LIMITED, answer_of, hits_of
from app.quota.rules.match import AppliedLimit, CompiledConfig, compile_config, limits_of
from app.quota.rules.parse import domain_problem, parse_config
from app.telemetry.metrics import Metrics

CONFIG_KIND = "quota"


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Every configuration in force, compiled, and the revision that it is of."""

    revision: int
    domains: Mapping[str, tuple[int, CompiledConfig]] = field(default_factory=dict)


class QuotaService:
    """Answers from memory; what it answers by is the last configuration that was read whole and found valid."""

    def __init__(
        self, transactions: ConfigTransactions, counters: CounterStore, clock: Clock, metrics: Metrics
    ) -> None:
        self._transactions = transactions
        self._counters = counters
        self._clock = clock
        self._metrics = metrics
        self._snapshot: _Snapshot | None = None
        self._changing = asyncio.Lock()

    @property
    def loaded(self) -> bool:
        """Whether the configurations have been read since the start, even if there are none."""
        return self._snapshot is not None

    # The hot path.

    def should_rate_limit(
        self, domain: str, descriptors: Sequence[Descriptor], hits_addend: int
    ) -> Answer | Awaitable[Answer]:
        """Count one request and answer it; `hits_addend` (0 reads as 1) holds where a descriptor has no number itself.

        The answer itself, or an awaitable of it where the counters have to be fetched. A descriptor that no limit
        applies to is within it, and so is every one of a domain that is not configured. Raises PreconditionError before
        the configurations are loaded; UnavailableError, or the awaitable does, if the counters cannot be reached.
        """
        if self._snapshot is None:
            raise PreconditionError("no rate limit configuration loaded")
        configured = self._snapshot.domains.get(domain)
        if configured is None:
            return Answer(Code.OK, (NOT_LIMITED,) * len(descriptors), domain_known=False)
        limits = limits_of(configured[1], descriptors)
        hits = [
            Hit(limit.limit_id, descriptor.entries, limit.algorithm, hits_of(descriptor.hits, hits_addend))
            for descriptor, limit in zip(descriptors, limits, strict=True)
            if limit is not None and limit.algorithm is not None
        ]
        outcomes = self._counters.add(hits) if hits else []
        return answer_of(limits, outcomes) if isinstance(outcomes, list) else _answer_later(limits, outcomes)

    # The configurations.

    async def load(self) -> None:
        """Read every configuration, at the start.

        Raises InternalError naming the domain if a stored one is not valid, UnavailableError if the database is away.
        """
        await self.refresh()

    async def refresh(self) -> bool:
        """Read every configuration if one was changed since, by this replica or another; return whether it was.

        All or nothing: if a stored configuration is not valid, what was in force stays in force and InternalError names
        the domain. Raises UnavailableError if the database is away.
        """
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.revision()
                if self._snapshot is not None and self._snapshot.revision == revision:
                    return False
                stored = await repository.all()
            self._install(await asyncio.to_thread(self._compile, revision, stored))
            return True

    async def put(
        self, domain: str, document: Mapping[str, object], expected_revision: int | None = None
    ) -> tuple[StoredConfig, bool]:
        """Put `document` in force for `domain` in place of what it had; return what is stored, and whether it is new.

        With `expected_revision` only if that is the revision of what is stored. Raises InvalidInputError for what is
        wrong with the document or if it is another domain's, ConflictError if the revision is another one,
        UnavailableError if the database is away. The change takes effect on the next call, all of it or none.
        """
        try:
            await asyncio.to_thread(_check, domain, document)
        except InvalidInputError:
            self._metrics.config_loads.add((CONFIG_KIND, "error"))
            raise
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                before = await repository.get(domain)
                _expect(domain, before, expected_revision)
                config = StoredConfig(domain, dict(document), revision, self._clock.now())
                await repository.put(config)
                snapshot = await self._snapshot_of(repository, revision)
            self._install(snapshot)
            return config, before is None

    async def delete(self, domain: str, expected_revision: int | None = None) -> None:
        """Remove the limits of `domain`; what asks about it passes from then on.

        Raises NotFoundError if it has none, ConflictError if `expected_revision` is given and not what is stored,
        UnavailableError if the database is away.
        """
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                before = await repository.get(domain)
                if before is None:
                    raise _not_found(domain)
                _expect(domain, before, expected_revision)
                await repository.delete(domain)
                snapshot = await self._snapshot_of(repository, revision)
            self._install(snapshot)

    async def get(self, domain: str) -> StoredConfig:
        """Return what is stored for `domain`. Raises NotFoundError or UnavailableError."""
        async with self._transactions() as repository:
            config = await repository.get(domain)
        if config is None:
            raise _not_found(domain)
        return config

    async def page(self, after: str | None, limit: int) -> list[StoredConfig]:
        """Return up to `limit` configurations in order of domain, those after the domain `after`."""
        async with self._transactions() as repository:
            return await repository.page(after, limit)

    async def _snapshot_of(self, repository: ConfigRepository, revision: int) -> _Snapshot:
        """Compile what the transaction leaves stored; it holds the sequence of revisions, so nobody changes it now."""
        return await asyncio.to_thread(self._compile, revision, await repository.all())

    def _compile(self, revision: int, stored: Sequence[StoredConfig]) -> _Snapshot:
        held = self._snapshot.domains if self._snapshot else {}
        domains: dict[str, tuple[int, CompiledConfig]] = {}
        for config in stored:
            compiled = held.get(config.domain)
            if compiled is None or compiled[0] != config.revision:
                compiled = config.revision, self._compile_stored(config)
            domains[config.domain] = compiled
        return _Snapshot(revision, domains)

    def _compile_stored(self, config: StoredConfig) -> CompiledConfig:
        try:
            return compile_config(parse_config(config.document))
        except InvalidInputError as error:
            self._metrics.config_loads.add((CONFIG_KIND, "error"))
            raise InternalError(
                f"the stored quota configuration of domain {config.domain!r} is not valid: put it anew or delete it",
                *error.violations,
            ) from error

    def _install(self, snapshot: _Snapshot) -> None:
        self._snapshot = snapshot
        self._counters.retain({limit for _, config in snapshot.domains.values() for limit in config.limits})
        self._metrics.config_loads.add((CONFIG_KIND, "success"))


def _check(domain: str, document: Mapping[str, object]) -> None:
    problem = domain_problem(domain)
    if problem:
        raise InvalidInputError(f"domain in the path {problem}", Violation("domain", problem))
    config = parse_config(document)
    if config.domain != domain:
        problem = f"must be {domain!r}, the domain in the path"
        raise InvalidInputError(f"the document is for domain {config.domain!r}", Violation("domain", problem))
    compile_config(config)


async def _answer_later(limits: Sequence[AppliedLimit | None], outcomes: Awaitable[list[Outcome]]) -> Answer:
    return answer_of(limits, await outcomes)


def _expect(domain: str, stored: StoredConfig | None, expected_revision: int | None) -> None:
    if expected_revision is not None and (stored is None or stored.revision != expected_revision):
        raise ConflictError(f"the quota configuration of domain {domain!r} was changed since it was read: read it anew")


def _not_found(domain: str) -> NotFoundError:
    return NotFoundError(f"there is no quota configuration of domain {domain!r}")
