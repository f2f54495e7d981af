"""Why a limit applies to a descriptor, or why none does: the walk of `find_limit`, with what it passed by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from app.quota.model import CounterKey, Descriptor, Entry, Limit
from app.quota.rules.match import match_request
from app.quota.rules.tree import AppliedLimit, CompiledConfig, Node

# Descriptors that a step lists among those that it passed by; a configuration can have tens of thousands side by side.
MAX_MISSES = 10


@dataclass(frozen=True, slots=True)
class Miss:
    """A descriptor of the configuration that an entry passed by, and why."""

    descriptor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one entry of the request's descriptor came to.

    `matched` is the descriptor of the configuration, key and value joined by `_`, None if there is none; `how` says by
    what, or what is missing. `misses` are some of those with the same key, `others` is how many more there are.
    """

    entry: str
    matched: str | None
    how: str
    misses: tuple[Miss, ...] = ()
    others: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """What applies to one descriptor of a request.

    `limit` is None if no limit applies; `reason` says why it does, or why not. `rule` is what metrics call the limit,
    `counter` the values that it counts by; both are empty without a limit that counts.
    """

    entries: tuple[Entry, ...]
    steps: tuple[Step, ...]
    limit: Limit | None
    reason: str
    rule: str = ""
    counter: CounterKey = ()


def explain(config: CompiledConfig, descriptors: Sequence[Descriptor]) -> tuple[Explanation, ...]:
    """Return what applies to each descriptor of one request."""
    matched = match_request(config.domain, config, descriptors, 1, 1)
    found = []
    for descriptor, (applied, counts, _) in zip(descriptors, matched.descriptors, strict=True):
        steps, node = _walk(config.root, descriptor.entries)
        reason = _reason(steps, node, descriptor, applied)
        limit = applied.limit if applied else None
        if counts is None:
            found.append(Explanation(descriptor.entries, steps, limit, reason))
        else:
            hit, counted = counts
            found.append(Explanation(descriptor.entries, steps, limit, reason, counted.rule, hit.key))
    return tuple(found)


def _walk(root: Node, entries: Sequence[Entry]) -> tuple[tuple[Step, ...], Node | None]:
    """Return the steps up to the first that finds nothing, and the node that all lead to, None if one finds nothing."""
    steps: list[Step] = []
    node = root
    for key, value in entries:
        child, name, how = _choose(node, key, value)
        misses = list(islice(_misses(node, key, value, name), MAX_MISSES))
        others = sum(1 for _ in _misses(node, key, value, name)) - len(misses)
        steps.append(Step(f"{key}={value}", name if child else None, how, tuple(misses), others))
        if child is None:
            return tuple(steps), None
        node = child
    return tuple(steps), node


def _choose(node: Node, key: str, value: str) -> tuple[Node | None, str, str]:
    """Return the child that an entry leads to, its name, and by what it is the one, or why there is none."""
    if (child := node.exact.get((key, value))) is not None:
        return child, f"{key}_{value}", "its value is the same"
    for pattern, candidate in node.patterns.get(key, ()):
        if pattern.matches(value):
            return candidate, f"{key}_{pattern.text}", "the first pattern that fits, in the order of the file"
    if (child := node.bare.get(key)) is not None:
        return child, key, "it takes any value"
    keys = {each for each, _ in node.exact} | node.bare.keys()
    if key in keys:
        return None, "", "no descriptor with this key has the value"
    if not keys:
        return None, "", "the descriptor before has none below it"
    return None, "", f"no descriptor has this key; the keys here are {', '.join(sorted(keys)[:MAX_MISSES])}"


def _misses(node: Node, key: str, value: str, chosen: str) -> Iterator[Miss]:
    """Yield the descriptors with the key that are not the chosen one: patterns first, which are few."""
    patterns = dict.fromkeys(pattern.text for pattern, _ in node.patterns.get(key, ()))
    fitting = {pattern.text for pattern, _ in node.patterns.get(key, ()) if pattern.matches(value)}
    for text in patterns:
        if f"{key}_{text}" != chosen:
            yield Miss(f"{key}_{text}", "another one comes first" if text in fitting else "the value does not fit")
    if key in node.bare and chosen != key:
        yield Miss(key, "one with the value comes first")
    for each, text in node.exact:
        if each == key and text not in patterns and text != value:
            yield Miss(f"{key}_{text}", "the value is another one")


def _reason(steps: Sequence[Step], node: Node | None, descriptor: Descriptor, applied: AppliedLimit | None) -> str:
    if descriptor.override is not None:
        return "the request brings its own limit, which applies in place of the configured one"
    if node is None:
        return f"nothing is configured for {steps[-1].entry}: {steps[-1].how}"
    if node.limit is None:
        return f"the last entry leads to a descriptor without a rate_limit{_below(node)}"
    if applied is None:
        return f"another limit of the request replaces {node.limit.limit.name!r}"
    return "the last entry leads to it"


def _below(node: Node) -> str:
    keys = sorted({key for key, _ in node.exact} | node.bare.keys())
    return f"; those below it need a further entry, with the key {' or '.join(keys[:MAX_MISSES])}" if keys else ""
