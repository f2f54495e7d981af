"""What policies that decide nothing make of a request: AUDIT, and the dry run of ALLOW and DENY policies.

A dry run tells what would follow if the policies in it were all there are of their action: a DENY that matches denies,
and of ALLOW policies one has to match. So does Istio, whose proxy evaluates them as shadow rules.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.authz.model import CheckInput, Verdict
from app.authz.rules.compile import CompiledRule
from app.authz.rules.index import RuleTables, WatchedRules
from app.core.decision import Observation, Watch


def with_observations(verdict: Verdict, watched: WatchedRules, readings: Sequence[CheckInput]) -> Verdict:
    """Return the verdict, and in its decision what the rules found, which have to be seen under each of `readings`."""
    found = (_observe(watch, rules, readings) for watch, rules in watched.rules)
    observed = tuple(each for each in found if each is not None)
    return replace(verdict, decision=replace(verdict.decision, observed=observed)) if observed else verdict


def _observe(watch: Watch, rules: RuleTables, readings: Iterable[CheckInput]) -> Observation | None:
    matched = [rules.first(reading) for reading in readings]
    if watch is Watch.DRY_RUN_ALLOW:
        return Observation(watch, "denied") if None in matched else _of_rule(watch, "allowed", matched[0])
    rule = next(filter(None, matched), None)
    if watch is Watch.AUDIT:
        return None if rule is None else _of_rule(watch, "matched", rule)
    return _of_rule(watch, "allowed" if rule is None else "denied", rule)


def _of_rule(watch: Watch, result: str, rule: CompiledRule | None) -> Observation:
    decision = None if rule is None else rule.verdict.decision
    return Observation(watch, result, decision.policy, decision.rule) if decision else Observation(watch, result)
