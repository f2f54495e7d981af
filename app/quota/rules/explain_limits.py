"""Which limits in limitador's schema apply to a request, and why the others do not."""

from collections.abc import Sequence

from app.quota.model import Descriptor
from app.quota.rules.cel import Bindings, EvaluationError, ExhaustedError, as_text, evaluate
from app.quota.rules.explain import MAX_MISSES, Explanation, Miss, Step
from app.quota.rules.limitador import CompiledLimit, Namespace
from app.quota.rules.match import MatchedRequest

_APPLIES = "its conditions hold, and its variables have values"
_TOO_COSTLY = "its conditions or variables are too costly to evaluate, so that it refuses the request"


def explain_limits(
    namespace: Namespace, descriptors: Sequence[Descriptor], matched: MatchedRequest
) -> tuple[Explanation, ...]:
    """Return why each limit of `matched` applies, in its order, the first with some that do not; one if none does."""
    bindings = [dict(descriptor.entries) for descriptor in descriptors]
    applying = {each.applied.limit_id for each in matched.descriptors if each.applied}
    passed_by = [each for each in namespace.all() if each.applied.limit_id not in applying]
    misses = tuple(Miss(each.applied.rule, _why_not(each, bindings)) for each in passed_by[:MAX_MISSES])
    others = len(passed_by) - len(misses)
    if not applying:
        step = Step(matched.domain, None, "no limit of the namespace applies", misses, others)
        return (Explanation((), (step,), None, step.how),)
    found: list[Explanation] = []
    for applied, counts, refusal in matched.descriptors:
        if applied is not None and counts is not None:
            how = _TOO_COSTLY if refusal else _APPLIES
            step = (
                Step(matched.domain, applied.rule, how)
                if found
                else Step(matched.domain, applied.rule, how, misses, others)
            )
            found.append(Explanation((), (step,), applied.limit, how, applied.rule, counts[0].key))
    return tuple(found)


def _why_not(limit: CompiledLimit, descriptors: Bindings) -> str:
    for text, condition in zip(limit.limit.conditions, limit.conditions, strict=True):
        try:
            if evaluate(condition, descriptors) is not True:
                return f"{text} is not true"
        except (EvaluationError, ExhaustedError) as error:
            return f"{text} has no value: {error.message}"
    for text, variable in zip(limit.limit.variables, limit.variables, strict=True):
        try:
            as_text(evaluate(variable, descriptors))
        except (EvaluationError, ExhaustedError) as error:
            return f"{text} has no value: {error.message}"
    return "it applies"
