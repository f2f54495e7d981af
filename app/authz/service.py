"""Authorization's use cases: answer whether a request may pass, and keep the policies that say so."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from app.authz.model import (
    AppliedPolicy,
    AuthorizationPolicy,
    AuthzOptions,
    Cause,
    Change,
    CheckInput,
    StoredPolicy,
    Verdict,
)
from app.authz.ports import PolicyKey, PolicyRepository, PolicyTransactions
from app.authz.rules.compile import CompiledPolicy, compile_policy
from app.authz.rules.evaluate import evaluate
from app.authz.rules.index import PolicyIndex
from app.authz.rules.parse import parse_policies, parse_policy
from app.core.clock import Clock
from app.core.decision import Decision, Outcome
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    Violation,
)
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics

CONFIG_KIND = "policy"
# A mesh of a thousand services with ten policies each; compiled they take some tens of megabytes.
MAX_POLICIES = 10_000
# One policy as JSON; what etcd would store of one is not much more.
MAX_POLICY_BYTES = 256 * 1024

# How much of a request's own text goes into a line of the decision log.
MAX_FACT = 256

_NOT_LOADED = Verdict(Decision(Outcome.DENY, "the policies are not loaded yet"), Cause.ERROR)
_FAILED = Verdict(Decision(Outcome.DENY, "a fault of Meshward's own; its log has the cause"), Cause.ERROR)

_log = structlog.get_logger(__name__)


def _facts(request: CheckInput) -> dict[str, str]:
    """Return what a line of the decision log says of a request."""
    ids = request.headers.get("x-request-id") or ("",)
    facts = {
        "source": request.source.principal if request.source else "",
        "namespace": request.workload.namespace if request.workload else "",
        "method": request.method,
        "path": request.path or "",
        "host": request.host or "",
        "request_id": ids[0],
    }
    return {name: value[:MAX_FACT] for name, value in facts.items() if value}


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Every policy in force, compiled, with its version; their index; and the revision that they are of."""

    revision: int
    policies: Mapping[str, tuple[int, CompiledPolicy]]
    index: PolicyIndex


class PolicyService:
    """Answers from memory; what it answers by is the last set of policies that was read whole and found valid."""

    def __init__(
        self,
        transactions: PolicyTransactions,
        clock: Clock,
        metrics: Metrics,
        options: AuthzOptions,
        decisions: DecisionLog | None = None,
    ) -> None:
        self._decisions = decisions or DecisionLog("off", clock.monotonic)
        self._transactions = transactions
        self._clock = clock
        self._metrics = metrics
        self._options = options
        self._snapshot: _Snapshot | None = None
        self._changing = asyncio.Lock()

    @property
    def loaded(self) -> bool:
        """Whether the policies have been read since the start, even if there are none."""
        return self._snapshot is not None

    # The hot path.

    def check(self, request: CheckInput) -> Decision:
        """Return whether `request` may pass. Never raises: whatever goes wrong is a denial."""
        snapshot = self._snapshot
        if snapshot is None:
            return self._told(_NOT_LOADED)
        try:
            return self._told(evaluate(snapshot.index, request, self._options), request)
        except Exception:  # noqa: BLE001 - an error would be the sidecar's to decide on, which may let the request pass
            return self.failed()

    def malformed(self, problem: str) -> Decision:
        """Return the denial of a check whose request cannot be read; `problem` says why."""
        return self._told(Verdict(Decision(Outcome.DENY, f"the request cannot be judged: {problem}"), Cause.MALFORMED))

    def failed(self) -> Decision:
        """Return the denial of a check that raised the exception being handled, which is logged."""
        _log.exception("check_failed")
        return self._told(_FAILED)

    def _told(self, verdict: Verdict, request: CheckInput | None = None) -> Decision:
        self._metrics.decisions.add(verdict.labels)
        decision = verdict.decision
        if self._decisions.wants(decision):
            self._decisions.write(decision, _facts(request) if request else {})
        return decision

    # The policies.

    async def load(self) -> None:
        """Read every policy, at the start.

        Raises InternalError naming the policy if a stored one is not valid, UnavailableError if the database is away.
        """
        await self.refresh()

    async def refresh(self) -> bool:
        """Read every policy if one was changed since, by this replica or another; return whether it was.

        All or nothing: if a stored policy is not valid, what was in force stays in force and InternalError names it.
        Raises UnavailableError if the database is away.
        """
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.revision()
                if self._snapshot is not None and self._snapshot.revision == revision:
                    return False
                stored = await repository.all()
            held = self._snapshot.policies if self._snapshot else {}
            self._install(await asyncio.to_thread(self._compile, revision, stored, held))
            return True

    async def validate(self, documents: Sequence[dict[str, object]]) -> tuple[AuthorizationPolicy, ...]:
        """Return the policies that `documents` spell, and change nothing. Raises InvalidInputError."""
        return await asyncio.to_thread(_parse, documents)

    async def apply(self, documents: Sequence[dict[str, object]]) -> tuple[AppliedPolicy, ...]:
        """Put every policy in `documents` in force, or none; return what became of each, in their order.

        Raises InvalidInputError with all that is wrong with them, ResourceExhaustedError beyond MAX_POLICIES,
        UnavailableError if the database is away. The change takes effect on the next check.
        """
        policies = await self._valid(documents)
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                applied = [
                    await self._put(repository, policy, document, revision)
                    for policy, document in zip(policies, documents, strict=True)
                ]
                await _check_count(repository)
                snapshot = await self._snapshot_after(repository, revision, policies, applied)
            self._install(snapshot)
        for each in applied:
            _log.info("policy_applied", policy=f"{each.policy.namespace}/{each.policy.name}", change=each.change.value)
        return tuple(applied)

    async def replace(
        self, namespace: str, name: str, document: dict[str, object], expected_version: int | None = None
    ) -> AppliedPolicy:
        """Put `document` in force as the policy `namespace`/`name`.

        With `expected_version` only if that is the version of what is stored. Raises as `apply` does, InvalidInputError
        if the document is another policy's, ConflictError if the version is another one.
        """
        (policy,) = policies = await self._valid([document])
        if (policy.namespace, policy.name) != (namespace, name):
            problem = f"must be {namespace}/{name}, as in the path, not {policy.key}"
            raise InvalidInputError(f"the document is policy {policy.key}", Violation("metadata", problem))
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                _expect(namespace, name, await repository.get(namespace, name), expected_version)
                applied = await self._put(repository, policy, document, revision)
                await _check_count(repository)
                snapshot = await self._snapshot_after(repository, revision, policies, [applied])
            self._install(snapshot)
        _log.info("policy_applied", policy=policy.key, change=applied.change.value)
        return applied

    async def delete(self, namespace: str, name: str, expected_version: int | None = None) -> None:
        """Take the policy out of force, with `expected_version` only if that is the version of what is stored.

        Raises NotFoundError if there is none, ConflictError if the version is another one, UnavailableError if the
        database is away. The change takes effect on the next check.
        """
        async with self._changing:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                stored = await repository.get(namespace, name)
                if stored is None:
                    raise _not_found(namespace, name)
                _expect(namespace, name, stored, expected_version)
                await repository.delete(namespace, name)
                snapshot = await self._snapshot_after(repository, revision, (), (), without=f"{namespace}/{name}")
            self._install(snapshot)
        _log.info("policy_deleted", policy=f"{namespace}/{name}")

    async def get(self, namespace: str, name: str) -> StoredPolicy:
        """Return the stored policy. Raises NotFoundError or UnavailableError."""
        async with self._transactions() as repository:
            stored = await repository.get(namespace, name)
        if stored is None:
            raise _not_found(namespace, name)
        return stored

    async def page(self, after: PolicyKey | None, limit: int, namespace: str | None = None) -> list[StoredPolicy]:
        """Return up to `limit` policies after the key `after`, in order of key; of one namespace if it is given."""
        async with self._transactions() as repository:
            return await repository.page(after, limit, namespace)

    async def _valid(self, documents: Sequence[dict[str, object]]) -> tuple[AuthorizationPolicy, ...]:
        try:
            return await self.validate(documents)
        except InvalidInputError:
            self._metrics.config_loads.add((CONFIG_KIND, "error"))
            raise

    async def _put(
        self, repository: PolicyRepository, policy: AuthorizationPolicy, document: dict[str, object], revision: int
    ) -> AppliedPolicy:
        before = await repository.get(policy.namespace, policy.name)
        if before is not None and before.document == document:
            return AppliedPolicy(before, Change.UNCHANGED)
        stored = StoredPolicy(policy.namespace, policy.name, document, revision, self._clock.now())
        await repository.put(stored)
        return AppliedPolicy(stored, Change.UPDATED if before else Change.CREATED)

    async def _snapshot_after(
        self,
        repository: PolicyRepository,
        revision: int,
        policies: Sequence[AuthorizationPolicy],
        applied: Sequence[AppliedPolicy],
        without: str = "",
    ) -> _Snapshot:
        """Return what is in force once the transaction, which holds the sequence of revisions, has committed."""
        held = self._snapshot
        if held is None or held.revision != revision - 1:
            known = held.policies if held else {}
            return await asyncio.to_thread(self._compile, revision, await repository.all(), known)
        after = {key: entry for key, entry in held.policies.items() if key != without}
        changed = zip(policies, [each.policy.version for each in applied], strict=True)
        return await asyncio.to_thread(self._add, revision, after, changed)

    def _add(
        self,
        revision: int,
        after: dict[str, tuple[int, CompiledPolicy]],
        changed: Iterable[tuple[AuthorizationPolicy, int]],
    ) -> _Snapshot:
        for policy, version in changed:
            after[policy.key] = version, compile_policy(policy, self._options)
        return self._snapshot_of(revision, after)

    def _compile(
        self, revision: int, stored: Iterable[StoredPolicy], held: Mapping[str, tuple[int, CompiledPolicy]]
    ) -> _Snapshot:
        after: dict[str, tuple[int, CompiledPolicy]] = {}
        for policy in stored:
            key = f"{policy.namespace}/{policy.name}"
            known = held.get(key)
            current = known is not None and known[0] == policy.version
            after[key] = known if known and current else (policy.version, self._compile_stored(key, policy))
        return self._snapshot_of(revision, after)

    def _compile_stored(self, key: str, policy: StoredPolicy) -> CompiledPolicy:
        try:
            return compile_policy(parse_policy(dict(policy.document)), self._options)
        except InvalidInputError as error:
            self._metrics.config_loads.add((CONFIG_KIND, "error"))
            raise InternalError(
                f"the stored policy {key} is not valid: put it anew or delete it", *error.violations
            ) from error

    def _snapshot_of(self, revision: int, policies: Mapping[str, tuple[int, CompiledPolicy]]) -> _Snapshot:
        compiled = {key: policy for key, (_, policy) in policies.items()}
        return _Snapshot(revision, policies, PolicyIndex(compiled, self._options.root_namespace))

    def _install(self, snapshot: _Snapshot) -> None:
        self._snapshot = snapshot
        self._metrics.config_loads.add((CONFIG_KIND, "success"))
        self._metrics.policies.set((), len(snapshot.policies))


def _parse(documents: Sequence[dict[str, object]]) -> tuple[AuthorizationPolicy, ...]:
    policies = parse_policies(documents)
    for policy, document in zip(policies, documents, strict=True):
        if len(json.dumps(document)) > MAX_POLICY_BYTES:
            raise InvalidInputError(
                f"policy {policy.key} is longer than {MAX_POLICY_BYTES} bytes: write it as several policies",
                Violation("", f"{policy.key} is longer than {MAX_POLICY_BYTES} bytes"),
            )
    return policies


async def _check_count(repository: PolicyRepository) -> None:
    if await repository.count() > MAX_POLICIES:
        raise ResourceExhaustedError(f"there would be more than {MAX_POLICIES} policies: delete some first")


def _expect(namespace: str, name: str, stored: StoredPolicy | None, expected_version: int | None) -> None:
    if expected_version is not None and (stored is None or stored.version != expected_version):
        raise ConflictError(f"policy {namespace}/{name} was changed since it was read: read it anew")


def _not_found(namespace: str, name: str) -> NotFoundError:
    return NotFoundError(f"there is no policy {namespace}/{name}")
