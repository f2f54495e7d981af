"""The decision: CUSTOM first, then DENY, then ALLOW; if matching is strict, for every reading of the request.

Istio's order (AuthorizationPolicy, "Access Control"): a CUSTOM policy that matches has its provider asked, whose denial
denies (`rules.custom`); a DENY policy that matches denies; with no ALLOW policy the request is allowed; an ALLOW policy
that matches allows; otherwise it is denied. What AUDIT policies and dry runs find goes with the decision and never
changes it.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product

from app.authz.model import AuthzOptions, Cause, CheckInput, Matching, UnknownWorkload, Verdict, Workload
from app.authz.providers import Ask, Changes
from app.authz.rules.candidates import ALLOW, AUDIT, DENY, Matched, Reading
from app.authz.rules.compile import CompiledPolicy, CompiledRule
from app.authz.rules.custom import Asked, ask, rules_that_ask, with_changes
from app.authz.rules.index import PolicyIndex, WorkloadRules
from app.authz.rules.nodes import headers_of
from app.authz.rules.watch import with_observations
from app.core.decision import Decision, Outcome

# Headers by which frameworks let a request name a method other than the one it was sent with.
METHOD_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
# Methods that are tried for one request. No framework takes more than one; the rest of a list is ignored.
MAX_METHODS = 4

_NO_POLICY = Verdict(Decision(Outcome.ALLOW, "no ALLOW policy applies to the workload"), Cause.NO_POLICY)
_NO_MATCH = Verdict(Decision(Outcome.DENY, "no rule of the workload's ALLOW policies matches"), Cause.NO_MATCH)
_UNKNOWN = Verdict(
    Decision(
        Outcome.DENY,
        "the destination workload is missing: the check has neither destination.principal nor meshward.namespace",
    ),
    Cause.UNKNOWN_WORKLOAD,
)
_UNKNOWN_LABELS = Verdict(
    Decision(
        Outcome.DENY,
        "the destination workload's labels are missing, and policies select by labels: "
        "the check has neither destination.labels nor meshward.labels",
    ),
    Cause.UNKNOWN_WORKLOAD,
)


@dataclass(frozen=True, slots=True)
class NativeEngine:
    """Evaluates Istio's policies in this process; a verdict is ready at once unless a provider has to be asked."""

    index: PolicyIndex
    options: AuthzOptions
    providers: Mapping[str, Ask] = field(default_factory=dict[str, Ask])
    _strict: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_strict", self.options.matching is Matching.STRICT)

    @staticmethod
    def of(
        policies: Iterable[CompiledPolicy], options: AuthzOptions, providers: Mapping[str, Ask] | None = None
    ) -> "NativeEngine":
        """Return the engine for `policies`, whose CUSTOM ones have `providers` asked by their names."""
        return NativeEngine(PolicyIndex(policies, options.root_namespace), options, providers or {})

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> "NativeEngine":
        """Return the engine without the policies `removed` and with those `added`; this one stays as it is."""
        return NativeEngine(self.index.changed(removed, added), self.options, self.providers)

    def evaluate(self, request: CheckInput) -> Verdict | Awaitable[Verdict]:
        """Return the verdict on `request`; if matching is strict, a denial if it is denied under any reading of it.

        It is to be awaited where a CUSTOM policy matches under any reading.
        """
        workload = request.connection.workload
        if workload is None or workload.labels is None:
            known = self._known(workload)
            if isinstance(known, Verdict):
                return known
            workload = known
        shortlist = self.index.shortlist(workload, request)
        rules = shortlist.rules
        matched = rules.candidates.first_matches(request, shortlist.found)
        others = self._other_readings(rules, workload, request) if self._strict else ()
        if rules.has_custom_policy:
            asking = rules_that_ask(rules, ((request, matched), *others))
            if asking:
                asked = ask(self.providers, asking, request)
                if isinstance(asked, Verdict | Changes):
                    return _asked(asked, rules, (request, matched), others)
                return _asked_later(asked, rules, (request, matched), others)
        return _decide(rules, request, matched, others)

    def _known(self, workload: Workload | None) -> Workload | Verdict:
        """Return what stands for a workload of which not everything is known, or the denial if rules depend on that."""
        if workload is None:
            return _UNKNOWN if self.options.unknown_workload is UnknownWorkload.DENY else self.index.root
        return _UNKNOWN_LABELS if self.index.selects_by_labels(workload.namespace) else workload

    def _other_readings(self, rules: WorkloadRules, workload: Workload, request: CheckInput) -> tuple[Reading, ...]:
        others = _methods(request) if rules.looks_at_methods else ()
        if not others and not request.other_paths:
            return ()
        # Without the first of them, which is the request as it is.
        pairs = islice(product((None, *request.other_paths), (request.method, *others)), 1, None)
        readings = [replace(request, reading=reading, method=method) for reading, method in pairs]
        shortlists = [self.index.shortlist(workload, reading).found for reading in readings]
        return tuple(zip(readings, map(rules.candidates.first_matches, readings, shortlists), strict=True))


async def _asked_later(
    waiting: Awaitable[Asked], rules: WorkloadRules, reading: Reading, others: Sequence[Reading]
) -> Verdict:
    return _asked(await waiting, rules, reading, others)


def _asked(found: Asked, rules: WorkloadRules, reading: Reading, others: Sequence[Reading]) -> Verdict:
    if isinstance(found, Verdict):
        return with_observations(found, rules.watches, [matched for _, matched in (reading, *others)])
    return with_changes(_decide(rules, *reading, others), found)


def _decide(rules: WorkloadRules, request: CheckInput, matched: Matched, others: Sequence[Reading]) -> Verdict:
    verdict = _evaluate_reading(rules, request, matched)
    if others and verdict.decision.outcome is not Outcome.DENY:
        verdicts = (_evaluate_reading(rules, *other) for other in others)
        verdict = next((each for each in verdicts if each.decision.outcome is Outcome.DENY), verdict)
    if matched[AUDIT] is None and not rules.has_dry_run and not others:
        return verdict
    return with_observations(verdict, rules.watches, [matched, *(found for _, found in others)])


def _evaluate_reading(rules: WorkloadRules, request: CheckInput, matched: Matched) -> Verdict:
    denied = matched[DENY]
    if denied is not None:
        return denied.verdict if request.forwarded_headers is None else _denial(denied, request)
    if not rules.has_allow_policy:
        return _NO_POLICY
    allowed = matched[ALLOW]
    if allowed is not None:
        return allowed.verdict
    return _NO_MATCH if request.forwarded_headers is None else _no_match(rules, request)


def _denial(rule: CompiledRule, request: CheckInput) -> Verdict:
    """Return the rule's verdict, whose reason names the headers without which the rule is taken to match."""
    if request.method is None:
        return _naming(rule.verdict, METHOD_OVERRIDES, request)
    if rule.node.holds(replace(request, forwarded_headers=None)):
        return rule.verdict
    return _naming(rule.verdict, headers_of(rule.node), request)


def _no_match(rules: WorkloadRules, request: CheckInput) -> Verdict:
    overrides = METHOD_OVERRIDES if request.method is None else ()
    return _naming(_NO_MATCH, (*rules.allow_headers, *overrides), request)


def _naming(verdict: Verdict, headers: Iterable[str], request: CheckInput) -> Verdict:
    names = ", ".join(sorted(filter(request.lacks, headers)))
    if not names:
        return verdict
    reason = f"{verdict.decision.reason}; not known, because the proxy does not say that it forwards them: {names}"
    return replace(verdict, decision=replace(verdict.decision, reason=reason))


def _methods(request: CheckInput) -> tuple[str | None, ...]:
    """Return the methods that the request names in headers, other than its own; None if such a header is missing."""
    if request.forwarded_headers is not None and any(map(request.lacks, METHOD_OVERRIDES)):
        return (None,)  # which stands for any method
    get = request.headers.get
    values = [value for header in METHOD_OVERRIDES if (found := get(header)) is not None for value in found]
    if not values:
        return ()
    named = (method.strip().upper() for value in values for method in value.split(",", MAX_METHODS))
    return tuple(islice(dict.fromkeys(method for method in named if method not in {"", request.method}), MAX_METHODS))
