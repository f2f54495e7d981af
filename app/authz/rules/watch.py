"""What policies that decide nothing make of a request: AUDIT, and the dry run of ALLOW and DENY policies.

A dry run tells what would follow if the policies in it were all there are of their action: a DENY that matches denies,
and of ALLOW policies one has to match. So does Istio, whose proxy evaluates them as shadow rules.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.authz.model import Verdict
from app.authz.rules.candidates import Matched
from app.authz.rules.compile import CompiledRule
from app.core.decision import Observation, Watch


def with_observations(verdict: Verdict, watches: Iterable[tuple[Watch, int]], readings: Sequence[Matched]) -> Verdict:
    """Return the verdict, and in its decision what the rules found, which have to be seen under each of `readings`.

    `watches` have the role of the rules of each.
    """
    observed: list[Observation] = []
    for watch, role in watches:
        found = _observe(watch, [matched[role] for matched in readings])
        if found is not None:
            observed.append(found)
    return replace(verdict, decision=replace(verdict.decision, observed=tuple(observed))) if observed else verdict


def _observe(watch: Watch, matched: Sequence[CompiledRule | None]) -> Observation | None:
    rule = next((each for each in matched if each is not None), None)
    if watch is Watch.AUDIT:
        return None if rule is None else _of_rule(watch, "matched", rule)
    if watch is Watch.DRY_RUN_ALLOW:
        return Observation(watch, "denied") if None in matched else _of_rule(watch, "allowed", rule)
    return _of_rule(watch, "allowed" if rule is None else "denied", rule)


def _of_rule(watch: Watch, result: str, rule: CompiledRule | None) -> Observation:
    decision = None if rule is None else rule.verdict.decision
    return Observation(watch, result, decision.policy, decision.rule) if decision else Observation(watch, result)
