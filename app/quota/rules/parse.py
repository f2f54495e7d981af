"""Documents in envoyproxy/ratelimit's schema become configurations, or a list of everything that is wrong with them."""

from collections.abc import Iterator, Mapping, Sequence

from app.core.errors import Violation
from app.documents.kind import DocumentKind
from app.documents.model import DocumentKey
from app.documents.parser import MAX_EXPANDED_CHARACTERS, MAX_NODES
from app.documents.reader import Reader
from app.quota.model import (
    MAX_DOMAIN_LENGTH,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_UINT32,
    ConfigDescriptor,
    Limit,
    QuotaConfig,
    RateLimit,
    Unlimited,
)
from app.quota.rules.algorithms import read_away, read_window
from app.quota.rules.fields import MAX_NAME_LENGTH, domain_problem, read_domain, read_integer, read_name

# Characters of a value that is written in a configuration.
MAX_CONFIG_VALUE_LENGTH = 4096
# Stars in one pattern: bounds the work of matching one value.
MAX_WILDCARDS = 8
# Domains: each is read and compiled by itself.
MAX_CONFIGS = 10_000
# One configuration as JSON; the parser takes no longer text.
MAX_CONFIG_BYTES = MAX_EXPANDED_CHARACTERS


def _read_config(document: Reader) -> QuotaConfig:
    """Return the configuration.

    As in envoyproxy/ratelimit a null is read as an absent field, and a number or a boolean where a text is expected as
    its text. Noted as problems: a field that is unknown, missing, empty, of the wrong type or not supported; a
    descriptor whose key and value, joined, are those of a sibling; an invalid unit; an unlimited limit with a unit; a
    limit that replaces itself or nothing; share_threshold without a wildcard.
    """
    document.null_is_absent = True
    domain = read_domain(document, "domain", MAX_DOMAIN_LENGTH)
    descriptors = _read_descriptors(document, depth=1)
    document.close()
    return QuotaConfig(domain, descriptors)


def _read_descriptors(parent: Reader, depth: int) -> tuple[ConfigDescriptor, ...]:
    if depth > MAX_ENTRIES and parent.value.get("descriptors"):
        parent.refuse("descriptors", f"are nested deeper than {MAX_ENTRIES}")
        return ()
    found: list[ConfigDescriptor] = []
    seen: dict[str, int] = {}
    for index, (path, item) in enumerate(parent.items("descriptors", MAX_NODES)):
        reader = parent.open(item, path)
        if reader is None:
            continue
        descriptor = _read_descriptor(reader, depth)
        # What envoyproxy/ratelimit identifies siblings by, in metrics as well.
        composite = descriptor.key if descriptor.value is None else f"{descriptor.key}_{descriptor.value}"
        first = seen.setdefault(composite, index)
        if descriptor.key and first != index:
            same = f"{parent.at('descriptors')}[{first}]"
            parent.problems.add(
                path, f"has the same key and value, joined to {composite[:MAX_NAME_LENGTH]!r}, as {same}"
            )
        found.append(descriptor)
    return tuple(found)


def _read_descriptor(descriptor: Reader, depth: int) -> ConfigDescriptor:
    if descriptor.take("metadata") is not None:
        descriptor.refuse("metadata", "is not supported; to remove it changes what answers carry")
    key = descriptor.required_text("key", MAX_KEY_LENGTH)
    if "*" in key:
        descriptor.refuse("key", "must not have a '*'; patterns belong in value")
    value = _read_value(descriptor)
    share_threshold = descriptor.flag("share_threshold")
    if share_threshold and "*" not in (value or ""):
        descriptor.refuse("share_threshold", "needs a value with a '*' beside it, whose values are to count together")
    shadow_mode, quota_mode = descriptor.flag("shadow_mode"), descriptor.flag("quota_mode")
    rate_limit = descriptor.child("rate_limit")
    limit = _read_limit(rate_limit, shadow_mode=shadow_mode, quota_mode=quota_mode) if rate_limit else None
    value_to_metric, detailed_metric = descriptor.flag("value_to_metric"), descriptor.flag("detailed_metric")
    nested = _read_descriptors(descriptor, depth + 1)
    descriptor.close()
    return ConfigDescriptor(key, value, limit, nested, share_threshold, value_to_metric, detailed_metric)


def _read_value(descriptor: Reader) -> str | None:
    """Return the optional value, None if there is none; an empty one means none, as in envoyproxy/ratelimit."""
    value = descriptor.scalar("value") or ""
    if len(value) > MAX_CONFIG_VALUE_LENGTH:
        descriptor.refuse("value", f"is longer than {MAX_CONFIG_VALUE_LENGTH} characters")
    elif value.count("*") > MAX_WILDCARDS:
        descriptor.refuse("value", f"has more than {MAX_WILDCARDS} wildcards")
    else:
        return value or None
    return None


def _read_limit(limit: Reader, *, shadow_mode: bool, quota_mode: bool) -> Limit:
    name = read_name(limit)
    replaces = _read_replaces(limit, name)
    if limit.flag("unlimited"):
        if limit.take("unit") is not None:
            limit.refuse("unit", "must not be set beside unlimited")
        if limit.has("requests_per_unit"):
            read_integer(limit, "requests_per_unit", 0, MAX_UINT32)
        limit.close()
        return Unlimited(name, replaces)
    number = read_integer(limit, "requests_per_unit", 0, MAX_UINT32)
    unit, algorithm = read_window(limit, number)
    away = read_away(limit, algorithm)
    limit.close()
    return RateLimit(unit, number, name, replaces, shadow_mode, quota_mode, algorithm, away)


def _read_replaces(limit: Reader, name: str) -> frozenset[str]:
    names = set()
    for reader in limit.children("replaces", MAX_NODES):
        replaced = reader.required_text("name", MAX_NAME_LENGTH)
        if replaced and replaced == name:
            reader.refuse("name", "is the name of the limit itself")
        names.add(replaced)
        reader.close()
    return frozenset(names)


def merged(documents: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    """Return the one configuration that several of a domain are together: the descriptors of all, in their order."""
    lists = [each.get("descriptors") for each in documents]
    descriptors = [descriptor for each in lists if isinstance(each, list) for descriptor in each]
    return {**documents[0], "descriptors": descriptors}


def _warnings_of(config: QuotaConfig) -> Sequence[Violation]:
    """Return a warning for each limit that replaces a name that no limit of its domain has, as a misspelled one."""
    placed = list(_limits_of("", config.descriptors))
    names = {limit.name for _, limit in placed}
    return tuple(
        Violation(f"{path}.replaces", f"no limit of the domain is called {', '.join(map(repr, sorted(unknown)))}")
        for path, limit in placed
        if (unknown := limit.replaces - names)
    )


def _limits_of(parent: str, descriptors: Sequence[ConfigDescriptor]) -> Iterator[tuple[str, Limit]]:
    for index, descriptor in enumerate(descriptors):
        path = f"{parent}descriptors[{index}]"
        if descriptor.limit is not None:
            yield f"{path}.rate_limit", descriptor.limit
        yield from _limits_of(f"{path}.", descriptor.descriptors)


def _key_of(config: QuotaConfig) -> DocumentKey:
    return DocumentKey("", config.domain)


def _is_key(key: DocumentKey) -> bool:
    return not key.namespace and domain_problem(key.name) is None


QUOTA_KIND = DocumentKind(
    name="quota",
    noun="quota configuration",
    plural="quota configurations",
    key_field="domain",
    read=_read_config,
    key_of=_key_of,
    is_key=_is_key,
    max_documents=MAX_CONFIGS,
    max_bytes=MAX_CONFIG_BYTES,
    warnings_of=_warnings_of,
)
