"""Authorization's use cases: decide whether a request may pass. Their document store keeps the policies."""

from collections.abc import Awaitable
from functools import partial
from typing import Protocol

import structlog

from app.authz.identity import Identity
from app.authz.model import NO_CLAIMS, AuthorizationPolicy, AuthzOptions, Cause, CheckInput, Verdict
from app.authz.ports import MakeEngine, PolicyEngine
from app.authz.providers import NO_CHANGES
from app.authz.rules.authentication import principal_of
from app.authz.rules.compile import CompiledPolicy, compile_policy
from app.authz.rules.concealed import concealing
from app.authz.rules.custom import with_changes
from app.authz.rules.parse import policy_kind
from app.authz.service.authentication import Authenticated, Sender, with_note
from app.core.clock import Clock
from app.core.decision import Decision, Outcome
from app.core.errors import MeshwardError
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import Compiler, Difference, DocumentStore
from app.spiffe.bans import BanLookup
from app.telemetry.decisions import DecisionLog
from app.telemetry.metrics import Metrics

# How much of a request's own text goes into a line of the decision log.
MAX_FACT = 256

_NOT_LOADED = Verdict(Decision(Outcome.DENY, "the policies are not loaded yet"), Cause.ERROR)
_FAILED = Verdict(Decision(Outcome.DENY, "internal error; Meshward's log has the cause"), Cause.ERROR)

PolicyStore = DocumentStore[AuthorizationPolicy, CompiledPolicy, PolicyEngine]

_ALLOW = Outcome.ALLOW
_log = structlog.get_logger(__name__)


def _facts(request: CheckInput) -> dict[str, str]:
    """Return what the decision log records about a request."""
    ids = request.headers.get("x-request-id") or ("",)
    source, workload = request.connection.source, request.connection.workload
    facts = {
        "source": source.principal if source else "",
        "namespace": workload.namespace if workload else "",
        "method": request.method or "",
        "path": request.path or "",
        "host": request.host or "",
        "request_principal": principal_of(request.claims or NO_CLAIMS),
        "request_id": ids[0],
    }
    return {name: value[:MAX_FACT] for name, value in facts.items() if value}


def _evaluate(engine: PolicyEngine, request: CheckInput, sender: Sender) -> Verdict | Awaitable[Verdict]:
    """Return the verdict on the request, which gets its sender's claims, with what the tokens change in it."""
    if sender is None:
        return engine.evaluate(request)
    if isinstance(sender, Verdict):
        return sender
    if sender.claims is not request.claims:
        # The request was made for this check and nothing has looked at it: a copy of it takes a tenth of the check.
        object.__setattr__(request, "claims", sender.claims)
    if sender.changes is not NO_CHANGES:
        object.__setattr__(request, "headers", sender.headers_of(request))
    if sender.concealed is not NO_CHANGES and request.attributes is not None:
        object.__setattr__(request, "attributes", concealing(request.attributes, sender.concealed))
    verdict = engine.evaluate(request)
    if not isinstance(verdict, Verdict):
        return _later(verdict, sender)
    if sender.changes is not NO_CHANGES:
        return sender.changed(verdict)
    return with_note(verdict, sender.note)


async def _later(verdict: Awaitable[Verdict], sender: Authenticated) -> Verdict:
    return with_note(with_changes(await verdict, sender.changes), sender.note)


class Senders(Protocol):
    """Knows who sends requests, by what they have of them; not asked while it is not `active`."""

    @property
    def active(self) -> bool:
        """Whether `authenticate` may return anything but None."""

    def authenticate(self, request: CheckInput, /) -> Sender | Awaitable[Sender]:
        """Return who sends a request, or the denial if what it has is not accepted."""


class PeerDemands(Protocol):
    """Knows what workloads demand of their peers; not asked while it is not `active`."""

    @property
    def active(self) -> bool:
        """Whether `refusal` may return anything but None."""

    def refusal(self, request: CheckInput, /) -> Verdict | None:
        """Return the denial of a request whose peer did not prove what its workload demands."""


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
        bans: BanLookup,
        senders: Senders,
        peers: PeerDemands,
    ) -> None:
        self._metrics, self._series = metrics, metrics.decisions.series
        self._decisions, self._logs_allowed = decisions, decisions.allowed
        self._bans, self._senders, self._peers = bans, senders, peers
        self._make_engine, self._options, self.matching = make_engine, options, options.matching
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
        snapshot, source = self.documents.snapshot, request.connection.source
        if snapshot is None:
            return self._record(_NOT_LOADED)
        try:
            if self._bans.any and source is not None and (error := self._ban_of(source)):
                return self._record(Verdict(Decision(Outcome.DENY, error.message), Cause.BANNED), request)
            if self._peers.active and (refused := self._peers.refusal(request)):
                return self._record(refused, request)
            sender = self._senders.authenticate(request) if self._senders.active else None
            if sender is not None and not isinstance(sender, Authenticated | Verdict):
                return self._check_sender(sender, snapshot.index, request)
            engine = snapshot.index
            verdict = engine.evaluate(request) if sender is None else _evaluate(engine, request, sender)
        except Exception:  # noqa: BLE001 - the sidecar would decide on an error, and may let the request pass
            return self.failed()
        return self._record(verdict, request) if isinstance(verdict, Verdict) else self._check_later(verdict, request)

    async def _check_sender(self, waiting: Awaitable[Sender], engine: PolicyEngine, request: CheckInput) -> Decision:
        try:
            verdict = _evaluate(engine, request, await waiting)
            return self._record(verdict if isinstance(verdict, Verdict) else await verdict, request)
        except Exception:  # noqa: BLE001 - as above
            return self.failed()

    def _ban_of(self, source: Identity) -> MeshwardError | None:
        """Return why the source is banned, by its certificate or one of its names."""
        names = source.principals or (source.principal,)
        return next(filter(None, (self._bans.refusal(name, source.serial) for name in names)), None)

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
        self._series(verdict.labels).count += 1
        decision = verdict.decision
        if decision.observed or decision.outcome is not _ALLOW or self._logs_allowed:
            self._report(decision, request)
        return decision

    def _report(self, decision: Decision, request: CheckInput | None) -> None:
        for each in decision.observed:
            self._metrics.observations.add((each.watch.value, each.result))
        if self._decisions.wants(decision):
            self._decisions.write(decision, _facts(request) if request else {})
