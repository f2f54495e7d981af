"""Limits in limitador's schema: each with conditions and variables, found without asking every one of its namespace."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from app.core.errors import InvalidInputError
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey
from app.documents.reader import Reader
from app.quota.model import MAX_UINT32, CounterKey, Descriptor, FixedWindow, Hit, LimitId, Modes, RateLimit
from app.quota.rules.algorithms import MAX_SECONDS
from app.quota.rules.cel import (
    Bindings,
    EvaluationError,
    ExhaustedError,
    Expression,
    as_text,
    equalities,
    evaluate,
    parse_expression,
)
from app.quota.rules.fields import MAX_NAME_LENGTH, read_domain, read_integer, read_name
from app.quota.rules.match import MatchedDescriptor, MatchedRequest, Refusal, all_or_none, refused_hit
from app.quota.rules.tree import NO_MODES, AppliedLimit, CountedLimit, counted_limit

# Conditions of one limit, and variables.
MAX_EXPRESSIONS = 32
# Limits in all namespaces, and one as JSON.
MAX_LIMITS = 10_000
MAX_LIMIT_BYTES = 64 * 1024
# How limitador 1 writes conditions, `req.method == 'GET'`, and variables, `user_id`: with the key of an entry.
_KEY = r"(?!(?:descriptors|true|false|null)\b)[A-Za-z_][A-Za-z0-9_.-]*"
_OLD_CONDITION = re.compile(rf"\s*({_KEY})\s*(==|!=)\s*('[^'\\]*'|\"[^\"\\]*\")\s*")
_OLD_VARIABLE = re.compile(_KEY)
# Bytes of the digest that identifies a limit.
_ID_BYTES = 20


@dataclass(frozen=True, slots=True)
class ConditionalLimit:
    """Up to `max_value` in each window of `seconds` for each value of `variables`, where every condition holds.

    `conditions` and `variables` are the texts of the expressions. `id` is an operator's own, shown and nothing else.
    """

    namespace: str
    max_value: int
    seconds: int
    name: str = ""
    conditions: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    id: str = ""

    @property
    def limit_id(self) -> LimitId:
        """What identifies the limit: everything but its names and its number, as in limitador."""
        parts = [self.namespace, self.seconds, sorted(self.conditions), sorted(self.variables)]
        return blake2b(json.dumps(["limitador", *parts]).encode(), digest_size=_ID_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class CompiledLimit:
    """A limit with its expressions; `applied` is as it applies to a request."""

    limit: ConditionalLimit
    conditions: tuple[Expression, ...]
    variables: tuple[Expression, ...]
    algorithm: FixedWindow
    applied: AppliedLimit
    counted: CountedLimit


@dataclass(frozen=True, slots=True)
class Namespace:
    """The limits of a namespace: `by_value` those that need an entry of a descriptor to have a value, and the `others`.

    The keys of `by_value` are the descriptor's place and the entry's key.
    """

    by_value: dict[tuple[int, str], dict[str, list[CompiledLimit]]] = field(default_factory=dict)
    others: list[CompiledLimit] = field(default_factory=list)

    def add(self, limit: CompiledLimit) -> None:
        """Add a limit."""
        needed = next((found for condition in limit.conditions for found in equalities(condition)), None)
        if needed is None:
            self.others.append(limit)
        else:
            place, key, value = needed
            self.by_value.setdefault((place, key), {}).setdefault(value, []).append(limit)

    def all(self) -> Iterator[CompiledLimit]:
        """Yield every limit."""
        yield from self.others
        for values in self.by_value.values():
            for limits in values.values():
                yield from limits

    def candidates(self, descriptors: Bindings) -> Iterator[CompiledLimit]:
        """Yield the limits whose conditions may hold."""
        for (place, key), values in self.by_value.items():
            value = descriptors[place].get(key) if place < len(descriptors) else None
            if value is not None:
                yield from values.get(value, ())
        yield from self.others


def compile_limit(limit: ConditionalLimit, near_ratio: float = NO_MODES.near_ratio) -> CompiledLimit:
    """Return the limit with its expressions parsed; what is over `near_ratio` of it is near to it."""
    algorithm = FixedWindow(limit.max_value, limit.seconds)
    rate_limit = RateLimit(None, limit.max_value, limit.name, algorithm=algorithm)
    rule = f"{limit.namespace}.{limit.name or limit.limit_id[:8]}"
    return CompiledLimit(
        limit,
        tuple(map(_expression_of, limit.conditions)),
        tuple(map(_expression_of, limit.variables)),
        algorithm,
        AppliedLimit(rate_limit, limit.limit_id, algorithm, rule),
        counted_limit(rate_limit, rule, near_ratio),
    )


@dataclass(frozen=True, slots=True)
class LimitIndex:
    """Every limit, and those of each namespace."""

    limits: Mapping[DocumentKey, CompiledLimit]
    namespaces: Mapping[str, Namespace]


def index_limits(limits: Mapping[DocumentKey, CompiledLimit]) -> LimitIndex:
    """Return the limits by their namespace."""
    found: dict[str, Namespace] = {}
    for each in limits.values():
        found.setdefault(each.limit.namespace, Namespace()).add(each)
    return LimitIndex(limits, found)


def match_limits(
    name: str,
    namespace: Namespace,
    descriptors: Sequence[Descriptor],
    hits: int,
    max_hits: int,
    modes: Modes = NO_MODES,
) -> MatchedRequest:
    """Return the request with every limit that applies to it: those whose conditions hold and whose variables exist.

    With more than `max_hits` it is over each of them, and over a limit of which that is too costly to find out.
    """
    bindings = [dict(descriptor.entries) for descriptor in descriptors]
    matched = [_match_limit(each, bindings, hits, max_hits) for each in namespace.candidates(bindings)]
    applying = tuple([each for each in matched if each is not None])
    return MatchedRequest(name, True, applying, all_or_none(applying, modes))


def _match_limit(limit: CompiledLimit, descriptors: Bindings, hits: int, max_hits: int) -> MatchedDescriptor | None:
    """Return the limit with its hit for a request, None if it does not apply."""
    applied, algorithm = limit.applied, limit.algorithm
    try:
        key = _counter_of(limit, descriptors)
    except ExhaustedError:
        # Its counter is not known: nothing is counted, not even by a report.
        hit = Hit(applied.limit_id, (), replace(algorithm, requests=0, counts_refused=False), max(hits, 1))
        return MatchedDescriptor(applied, (hit, limit.counted), Refusal.CONDITION_TOO_COSTLY)
    if key is None:
        return None
    hit = Hit(applied.limit_id, key, algorithm, hits)
    if hits > max_hits:
        return MatchedDescriptor(applied, (refused_hit(hit, max_hits), limit.counted), Refusal.TOO_MANY_HITS)
    return MatchedDescriptor(applied, (hit, limit.counted))


def _counter_of(limit: CompiledLimit, descriptors: Bindings) -> CounterKey | None:
    """Return the values that the limit counts by, None if it does not apply. Raises ExhaustedError."""
    try:
        if not all(evaluate(condition, descriptors) is True for condition in limit.conditions):
            return None
        return tuple(as_text(evaluate(variable, descriptors)) for variable in limit.variables)
    except EvaluationError:
        return None


def _read_limit(document: Reader) -> ConditionalLimit:
    document.null_is_absent = True
    namespace = read_domain(document, "namespace", MAX_NAME_LENGTH)
    given_id = document.scalar("id") or ""
    if len(given_id) > MAX_NAME_LENGTH:
        document.refuse("id", f"is longer than {MAX_NAME_LENGTH} characters")
    name = read_name(document)
    limit = ConditionalLimit(
        namespace,
        read_integer(document, "max_value", 0, MAX_UINT32),
        read_integer(document, "seconds", 1, MAX_SECONDS),
        name,
        _expressions(document, "conditions"),
        _expressions(document, "variables"),
        given_id,
    )
    document.close()
    return limit


def _expressions(document: Reader, name: str) -> tuple[str, ...]:
    found = []
    for path, item in document.items(name, MAX_EXPRESSIONS):
        if not isinstance(item, str):
            document.problems.add(path, "must be a string with an expression")
            continue
        try:
            _expression_of(item)
        except InvalidInputError as error:
            document.problems.add(path, error.message)
        found.append(item)
    return tuple(found)


def _expression_of(text: str) -> Expression:
    """Return the expression that a condition or variable is, in the form of limitador 1 too. Raises InvalidInputError.

    There a key stands for itself; it is that of the first descriptor.
    """
    if old := _OLD_CONDITION.fullmatch(text):
        key, operator, value = old.groups()
        return parse_expression(f"descriptors[0]['{key}'] {operator} {value}")
    if _OLD_VARIABLE.fullmatch(text):
        return parse_expression(f"descriptors[0]['{text}']")
    return parse_expression(text)


def _key_of(limit: ConditionalLimit) -> DocumentKey:
    return DocumentKey(limit.namespace, limit.limit_id)


def _is_key(key: DocumentKey) -> bool:
    return bool(key.namespace and key.name)


LIMIT_KIND = DocumentKind(
    name="limit",
    noun="limit",
    plural="limits",
    key_field="namespace",
    read=_read_limit,
    key_of=_key_of,
    is_key=_is_key,
    max_documents=MAX_LIMITS,
    max_bytes=MAX_LIMIT_BYTES,
)
