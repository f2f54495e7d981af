"""What a request counts: the limit of each of its descriptors, the counter, and how many hits."""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from app.core.errors import InvalidInputError, Violation
from app.quota.model import (
    Algorithm,
    Concurrency,
    CounterKey,
    Descriptor,
    FixedWindow,
    Hit,
    Limit,
    Modes,
    RateLimit,
    Unlimited,
)
from app.quota.rules.algorithms import algorithm_of
from app.quota.rules.joint import AllOrNone
from app.quota.rules.tree import NO_MODES, AppliedLimit, CompiledConfig, CountedLimit, counted_limit, find_limit


class Refusal(Enum):
    """Why a descriptor is over its limit, whatever is counted: by the name that metrics have for it.

    TOO_MANY_HITS: more than a request may have. CONDITION_TOO_COSTLY: a bound on evaluations was reached before it was
    known whether the limit applies, or which counter it has.
    """

    TOO_MANY_HITS = "too_many_hits"
    CONDITION_TOO_COSTLY = "condition_too_costly"


class MatchedDescriptor(NamedTuple):
    """A descriptor of a request with its limit, None if none applies.

    `counts` is None, or what is to be counted, with what metrics need to know of the limit. With a `refusal` that is a
    hit that the limit refuses.
    """

    applied: AppliedLimit | None
    counts: tuple[Hit, CountedLimit] | None = None
    refusal: Refusal | None = None


class MatchedRequest(NamedTuple):
    """A request with its descriptors matched.

    `joint` is how its hits go together, None if each is counted for itself.
    """

    domain: str
    domain_known: bool
    descriptors: tuple[MatchedDescriptor, ...]
    joint: AllOrNone | None = None

    @property
    def hits(self) -> tuple[Hit, ...]:
        """The hits that are to be counted, in the order of the descriptors."""
        return tuple([each.counts[0] for each in self.descriptors if each.counts])

    @property
    def refusal(self) -> Refusal | None:
        """Why a descriptor is over its limit whatever is counted, None if there is none."""
        return next((each.refusal for each in self.descriptors if each.refusal), None)


NOT_LIMITED = MatchedDescriptor(None)


def match_request(
    domain: str,
    config: CompiledConfig | None,
    descriptors: Sequence[Descriptor],
    hits_addend: int,
    max_hits: int,
    modes: Modes = NO_MODES,
) -> MatchedRequest:
    """Return the request with the limits of its domain's `config`, None if the domain is not configured.

    A descriptor with more than `max_hits` is over its limit, whatever that is, and counts as that many. Raises
    InvalidInputError if one gives back what its limit does not lend.
    """
    if config is None:
        return MatchedRequest(domain, domain_known=False, descriptors=(NOT_LIMITED,) * len(descriptors))
    limits = limits_of(config, descriptors)
    matched = [
        match_limit(config, descriptor, applied, index, hits_addend, max_hits)
        for index, (descriptor, applied) in enumerate(zip(descriptors, limits, strict=True))
    ]
    return join(domain, matched, modes)


def join(domain: str, descriptors: Sequence[MatchedDescriptor], modes: Modes) -> MatchedRequest:
    """Return the request of matched descriptors: its hits go together unless the modes count what is refused."""
    joint = None if modes.count_refused else all_or_none(descriptors, modes)
    return MatchedRequest(domain, True, tuple(descriptors), joint)


def all_or_none(descriptors: Sequence[MatchedDescriptor], modes: Modes) -> AllOrNone:
    """Return how the hits of descriptors go together: a limit in shadow or quota mode refuses nothing."""
    limits = [each.counts[1].limit for each in descriptors if each.counts]
    return AllOrNone([not (modes.quota or limit.shadow_mode or limit.quota_mode) for limit in limits])


def match_limit(
    config: CompiledConfig,
    descriptor: Descriptor,
    applied: AppliedLimit | None,
    index: int,
    hits_addend: int,
    max_hits: int,
) -> MatchedDescriptor:
    """Return the descriptor at `index` of a request, to which `applied` applies; see `match_request`."""
    if applied is None:
        return NOT_LIMITED
    limit, algorithm = applied.limit, applied.algorithm
    if algorithm is None or isinstance(limit, Unlimited):
        return MatchedDescriptor(applied)
    number = hits_of(descriptor.hits, hits_addend)
    if descriptor.gives_back:
        _check_can_give_back(algorithm, index)
        number = -min(number, max_hits)
    hit = Hit(applied.limit_id, _counter_key(config, descriptor, applied), algorithm, number, limit.away)
    counted = applied.counted or _counted_by(config, limit, applied.levels, descriptor)
    if number > max_hits:
        return MatchedDescriptor(applied, (refused_hit(hit, max_hits), counted), Refusal.TOO_MANY_HITS)
    return MatchedDescriptor(applied, (hit, counted))


def _check_can_give_back(algorithm: Algorithm, index: int) -> None:
    if not isinstance(algorithm, Concurrency):
        path, problem = f"descriptors[{index}].is_negative_hits", "needs a limit with the algorithm concurrency"
        raise InvalidInputError(f"rate limit request is not valid: {path} {problem}", Violation(path, problem))


def _counted_by(
    config: CompiledConfig, limit: RateLimit, levels: Sequence[str | None] | None, descriptor: Descriptor
) -> CountedLimit:
    """Return what metrics need to know of a limit whose name there takes values of the request."""
    if levels:
        names = [
            level if level is not None else f"{key}_{value}" if value else key
            for level, (key, value) in zip(levels, descriptor.entries, strict=True)
        ]
    else:
        names = [f"{key}_{value}" for key, value in descriptor.entries]
    return counted_limit(limit, ".".join([config.domain, *names]), config.near_ratio)


def refused_hit(hit: Hit, max_hits: int) -> Hit:
    """Return `hit` with `max_hits` and a limit that none of them fits into."""
    return hit._replace(algorithm=replace(hit.algorithm, requests=0), hits=max_hits)


def _counter_key(config: CompiledConfig, descriptor: Descriptor, applied: AppliedLimit) -> CounterKey:
    override = descriptor.override
    if override is not None and applied.limit_id == config.overrides[override.unit]:
        return tuple([part for entry in descriptor.entries for part in entry])  # a limit that fixes no keys
    values = [value for _, value in descriptor.entries]
    for index, pattern in applied.shared:
        values[index] = pattern
    return tuple(values)


def hits_of(descriptor_hits: int | None, request_hits: int) -> int:
    """Return what a descriptor counts: its own number if it has one, where 0 is a probe, else the request's, or 1."""
    return (request_hits or 1) if descriptor_hits is None else descriptor_hits


def limits_of(config: CompiledConfig, descriptors: Sequence[Descriptor]) -> list[AppliedLimit | None]:
    """Return the limit of each descriptor of one request.

    An override applies in place of the configured limit. A limit whose name another limit of the request replaces is
    dropped: its descriptor has none. What is `Unlimited` stays so.
    """
    root = config.root
    found: list[AppliedLimit | None] = []
    replaced: frozenset[str] = frozenset()
    for descriptor in descriptors:
        applied = find_limit(root, descriptor.entries)
        if descriptor.override is not None:
            applied = _override(config, descriptor, descriptor.override, applied)
        found.append(applied)
        if applied is not None and applied.limit.replaces:
            replaced |= applied.limit.replaces
    if not replaced:
        return found
    return [applied if applied is None or _stays(applied.limit, replaced) else None for applied in found]


def _stays(limit: Limit, replaced: frozenset[str]) -> bool:
    return limit.name not in replaced or isinstance(limit, Unlimited)


def _override(
    config: CompiledConfig, descriptor: Descriptor, limit: RateLimit, configured: AppliedLimit | None
) -> AppliedLimit:
    """Return `limit` as it applies.

    It shares the counter of the configured limit where both have the same unit and count the same values.
    """
    algorithm = algorithm_of(limit)
    entries = descriptor.entries
    limit_id = config.overrides[limit.unit]
    if (
        configured
        and isinstance(configured.algorithm, FixedWindow)
        and configured.algorithm.seconds == algorithm.seconds
        and all(entries[index][1] == pattern for index, pattern in configured.shared)
    ):
        limit_id = configured.limit_id
    levels = (None,) * len(entries)
    return AppliedLimit(limit, limit_id, algorithm, levels=levels)
