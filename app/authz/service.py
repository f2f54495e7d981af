"""Authorization's use cases: decide whether a request may pass. Their document store keeps the policies."""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from app.authz.model import AuthorizationPolicy, AuthzOptions, Cause, CheckInput, Verdict
from app.authz.ports import MakeEngine, PolicyEngine
from app.authz.rules.compile import CompiledPolicy, compile_policy
from app.authz.rules.parse import policy_kind
from app.core.clock import Clock
from app.core.decision import Decision, Outcome
from app.core.errors import MeshwardError
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import Compiler, Difference, DocumentStore
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics

# How much of a request's own text goes into a line of the decision log.
MAX_FACT = 256

_NOT_LOADED = Verdict(Decision(Outcome.DENY, "the policies are not loaded yet"), Cause.ERROR)
_FAILED = Verdict(Decision(Outcome.DENY, "internal error; Meshward's log has the cause"), Cause.ERROR)

PolicyStore = DocumentStore[AuthorizationPolicy, CompiledPolicy, PolicyEngine]

Banned = Callable[[str, str], MeshwardError | None]
"""Returns why the identity (`example.org/ns/shop/sa/cart`) or its serial number is banned, None if it is not."""

_log = structlog.get_logger(__name__)


def _facts(request: CheckInput) -> dict[str, str]:
    """Return what the decision log records about a request."""
    ids = request.headers.get("x-request-id") or ("",)
    facts = {
        "source": request.source.principal if request.source else "",
        "namespace": request.workload.namespace if request.workload else "",
        "method": request.method or "",
        "path": request.path or "",
        "host": request.host or "",
        "request_id": ids[0],
    }
    return {name: value[:MAX_FACT] for name, value in facts.items() if value}


class PolicyService:
    """Answers from memory, by the active policies of `documents`: the last set that was read whole and found valid."""

    def __init__(  # noqa: PLR0913 - each is a part or a value of the composition root
        self,
        source: DocumentSource,
        clock: Clock,
        metrics: Metrics,
        options: AuthzOptions,
        decisions: DecisionLog,
        make_engine: MakeEngine,
        *,
        offload: Offload = in_thread,
        banned: Banned = lambda _identity, _serial: None,
    ) -> None:
        self._metrics, self._decisions, self._banned = metrics, decisions, banned
        self._make_engine, self._options = make_engine, options
        self.documents: PolicyStore = DocumentStore(
            policy_kind(options.providers),
            source,
            Compiler(partial(compile_policy, options=options), self._engine, offload),
            on_change=lambda snapshot: metrics.policies.set((), len(snapshot.documents)),
            clock=clock,
            metrics=metrics,
        )

    def _engine(self, before: PolicyEngine | None, difference: Difference[CompiledPolicy]) -> PolicyEngine:
        if before is None:
            return self._make_engine(difference.added.values(), self._options)
        return before.changed(difference.removed.values(), difference.added.values())

    def check(self, request: CheckInput) -> Decision | Awaitable[Decision]:
        """Return whether `request` may pass, to be awaited where the engine has to wait for something.

        Neither raises: whatever goes wrong is a denial. Cancelling the wait does raise CancelledError.
        """
        snapshot, source = self.documents.snapshot, request.source
        if snapshot is None:
            return self._record(_NOT_LOADED)
        try:
            if source is not None and (error := self._banned(source.principal, source.serial)):
                return self._record(Verdict(Decision(Outcome.DENY, error.message), Cause.BANNED), request)
            verdict = snapshot.index.evaluate(request)
        except Exception:  # noqa: BLE001 - the sidecar would decide on an error, and may let the request pass
            return self.failed()
        return self._record(verdict, request) if isinstance(verdict, Verdict) else self._check_later(verdict, request)

    async def _check_later(self, verdict: Awaitable[Verdict], request: CheckInput) -> Decision:
        try:
            return self._record(await verdict, request)
        except Exception:  # noqa: BLE001 - as above
            return self.failed()

    def malformed(self, problem: str) -> Decision:
        """Return the denial of a check whose request cannot be read; `problem` says why."""
        reason = f"the request cannot be evaluated: {problem}"
        return self._record(Verdict(Decision(Outcome.DENY, reason), Cause.MALFORMED))

    def failed(self) -> Decision:
        """Return the denial of a check that raised the exception being handled, which is logged."""
        _log.exception("check_failed")
        return self._record(_FAILED)

    def _record(self, verdict: Verdict, request: CheckInput | None = None) -> Decision:
        self._metrics.decisions.add(verdict.labels)
        decision = verdict.decision
        if decision.observed:
            for each in decision.observed:
                self._metrics.observations.add((each.watch.value, each.result))
        if self._decisions.wants(decision):
            self._decisions.write(decision, _facts(request) if request else {})
        return decision
