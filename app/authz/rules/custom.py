"""CUSTOM policies: providers decide before the workload's DENY and ALLOW policies do.

Istio asks one provider for a workload. Here several can be named, and a request passes if all of them let it. As in
Istio, whose filters ask before `jwt_authn`, their rules are about the headers that the client sent.
"""

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace

from app.authz.model import Cause, CheckInput, Verdict
from app.authz.providers import NO_CHANGES, Answer, Ask, Changes, ProvidedDecision
from app.authz.rules.candidates import CUSTOM, Reading
from app.authz.rules.changed_headers import ChangedHeaders
from app.authz.rules.compile import CompiledRule
from app.authz.rules.index import WorkloadRules
from app.core.decision import Decision, Outcome

Asked = Verdict | Changes

# How much of a provider's own reason is reported: its beginning says what went wrong.
MAX_REASON = 512


def rules_that_ask(rules: WorkloadRules, readings: Iterable[Reading]) -> tuple[CompiledRule, ...]:
    """Return the first rule for each provider that is to be asked, under any of the request's readings."""
    found: dict[str, CompiledRule] = {}
    for reading, matched in readings:
        sent = _as_sent(reading)
        if matched[CUSTOM] is not None or sent is not reading:
            for rule in rules.candidates.matches(CUSTOM, sent):
                found.setdefault(rule.provider, rule)
    return tuple(found.values())


def _as_sent(request: CheckInput) -> CheckInput:
    """Return the request with its tokens, and without the headers that they set."""
    headers = request.headers
    return replace(request, headers=headers.sent) if isinstance(headers, ChangedHeaders) else request


def ask(providers: Mapping[str, Ask], rules: Iterable[CompiledRule], request: CheckInput) -> Asked | Awaitable[Asked]:
    """Return the denial of the first provider that denies, or what they change in a request that all let pass.

    It is to be awaited where a provider has to wait.
    """
    asking, changes = iter(rules), NO_CHANGES
    for rule in asking:
        answer = _answer(providers, rule, request)
        if not isinstance(answer, Answer):
            return _ask_later(providers, answer, rule, asking, request, changes)
        if answer.denial:
            return _denied(rule, answer)
        if answer.changes is not NO_CHANGES:
            changes = changes + answer.changes
    return changes


async def _ask_later(
    providers: Mapping[str, Ask],
    waiting: Awaitable[Answer],
    rule: CompiledRule,
    asking: Iterable[CompiledRule],
    request: CheckInput,
    changes: Changes,
) -> Asked:
    answer = await waiting
    if answer.denial:
        return _denied(rule, answer)
    found = ask(providers, asking, request)
    others = await found if not isinstance(found, Verdict | Changes) else found
    return others if isinstance(others, Verdict) else changes + answer.changes + others


def _answer(providers: Mapping[str, Ask], rule: CompiledRule, request: CheckInput) -> Answer | Awaitable[Answer]:
    provider = providers.get(rule.provider)
    if provider is None:
        return Answer("it is not in the settings: add it to authz.providers", undecided=True)
    return provider(request)


def with_changes(verdict: Verdict, changes: Changes) -> Verdict:
    """Return the verdict; where it lets the request pass, with the changes beside those that it has."""
    decision = verdict.decision
    if decision.outcome is Outcome.DENY or changes == NO_CHANGES:
        return verdict
    if isinstance(decision, ProvidedDecision):
        changes = decision.changes + changes
    return replace(verdict, decision=_provided(decision, changes))


def _denied(rule: CompiledRule, answer: Answer) -> Verdict:
    decision = rule.verdict.decision
    decision = replace(decision, reason=f"{decision.reason}: {answer.denial[:MAX_REASON]}")
    if answer.changes != NO_CHANGES:
        decision = _provided(decision, answer.changes)
    return Verdict(decision, Cause.ERROR if answer.undecided else Cause.PROVIDER)


def _provided(decision: Decision, changes: Changes) -> ProvidedDecision:
    return ProvidedDecision(
        decision.outcome, decision.reason, decision.policy, decision.rule, decision.observed, changes
    )
