"""Documents in envoyproxy/ratelimit's schema become configurations, or a list of everything that is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.errors import InvalidInputError, Violation
from app.quota.model import (
    MAX_DOMAIN_LENGTH,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_UINT32,
    ConfigDescriptor,
    Limit,
    QuotaConfig,
    RateLimit,
    Unit,
    Unlimited,
)

# Characters of a value that is written in a configuration.
MAX_CONFIG_VALUE_LENGTH = 4096
# Stars in one pattern: bounds the work of matching one value.
MAX_WILDCARDS = 8
# Characters of a limit's name, which is sent in response headers.
MAX_NAME_LENGTH = 128
# Violations that are told of one document; whoever has more will come back.
MAX_VIOLATIONS = 100

_UNITS = {unit.name: unit for unit in Unit}
_ROOT = frozenset({"domain", "descriptors"})
_DESCRIPTOR = frozenset({"key", "value", "rate_limit", "descriptors", "shadow_mode"})
_RATE_LIMIT = frozenset({"unit", "requests_per_unit", "unlimited", "name", "replaces"})
_REPLACES = frozenset({"name"})
# Fields of envoyproxy/ratelimit that change what is decided or told, and so cannot be left unread.
_UNSUPPORTED = frozenset({"quota_mode", "share_threshold", "value_to_metric", "detailed_metric", "metadata"})


def parse_config(document: Mapping[str, object]) -> QuotaConfig:
    """Return the configuration that `document` describes.

    Raises InvalidInputError with a violation for each field at fault: one that is unknown, missing, empty, of the
    wrong type or not supported; a descriptor that stands twice among its siblings; an invalid unit; an unlimited limit
    with a unit or a number; a limit that replaces itself or nothing.
    """
    reader = _Reader()
    reader.check_fields("", document, _ROOT)
    domain = reader.text("", document, "domain", MAX_DOMAIN_LENGTH)
    problem = domain_problem(domain) if domain else None
    if problem:
        reader.refuse("domain", problem)
    descriptors = reader.descriptors("", document, depth=1)
    if reader.violations:
        told = reader.violations[:MAX_VIOLATIONS]
        of = f" of domain {domain!r}" if domain else ""
        count = f"{len(reader.violations)} fields are" if len(reader.violations) > 1 else "a field is"
        raise InvalidInputError(f"quota configuration{of} is not valid: {count} wrong; the first: {told[0]}", *told)
    return QuotaConfig(domain, descriptors)


def domain_problem(domain: str) -> str | None:
    """Return what keeps `domain` from being a domain's name, None if nothing does."""
    if not domain or len(domain) > MAX_DOMAIN_LENGTH:
        return f"must have 1 to {MAX_DOMAIN_LENGTH} characters"
    if not domain.isprintable() or domain != domain.strip():
        return "must have printable characters only, and no space around them"
    return None


@dataclass(slots=True)
class _Reader:
    """Reads fields and keeps every violation, each with its path."""

    violations: list[Violation] = field(default_factory=list)

    def refuse(self, path: str, problem: str) -> None:
        self.violations.append(Violation(path, problem))

    def check_fields(self, path: str, mapping: Mapping[str, object], known: frozenset[str]) -> None:
        for name in mapping:
            if name in known:
                continue
            if name in _UNSUPPORTED and known is not _ROOT:
                self.refuse(_join(path, name), "is not supported; remove it")
            else:
                self.refuse(_join(path, name), f"is not a field here; the fields are {', '.join(sorted(known))}")

    def text(self, path: str, mapping: Mapping[str, object], name: str, longest: int) -> str:
        """Return the required text `name`, empty if it was refused."""
        value = mapping.get(name)
        where = _join(path, name)
        if name not in mapping:
            self.refuse(where, "is required")
        elif not isinstance(value, str):
            self.refuse(where, "must be a string")
        elif not 1 <= len(value) <= longest:
            self.refuse(where, "must not be empty" if not value else f"is longer than {longest} characters")
        else:
            return value
        return ""

    def flag(self, path: str, mapping: Mapping[str, object], name: str) -> bool:
        value = mapping.get(name, False)
        if not isinstance(value, bool):
            self.refuse(_join(path, name), "must be true or false")
            return False
        return value

    def mappings(self, path: str, mapping: Mapping[str, object], name: str) -> list[tuple[str, Mapping[str, object]]]:
        """Return the mappings in the optional list `name`, each with its path."""
        value = mapping.get(name, [])
        where = _join(path, name)
        if not isinstance(value, list):
            self.refuse(where, "must be a list")
            return []
        found: list[tuple[str, Mapping[str, object]]] = []
        for index, item in enumerate(value):
            if isinstance(item, dict):
                found.append((f"{where}[{index}]", item))
            else:
                self.refuse(f"{where}[{index}]", "must be a mapping of fields")
        return found

    def descriptors(self, path: str, mapping: Mapping[str, object], depth: int) -> tuple[ConfigDescriptor, ...]:
        items = self.mappings(path, mapping, "descriptors")
        if items and depth > MAX_ENTRIES:
            self.refuse(_join(path, "descriptors"), f"stand deeper than {MAX_ENTRIES} in each other")
            return ()
        found: list[ConfigDescriptor] = []
        seen: dict[tuple[str, str | None], str] = {}
        for where, item in items:
            descriptor = self.descriptor(where, item, depth)
            composite = descriptor.key, descriptor.value
            if descriptor.key and composite in seen:
                self.refuse(where, f"has the same key and value as {seen[composite]}")
            seen.setdefault(composite, where)
            found.append(descriptor)
        return tuple(found)

    def descriptor(self, path: str, item: Mapping[str, object], depth: int) -> ConfigDescriptor:
        self.check_fields(path, item, _DESCRIPTOR)
        key = self.text(path, item, "key", MAX_KEY_LENGTH)
        if "*" in key:
            self.refuse(_join(path, "key"), "must not have a '*'; patterns stand in value")
        shadow_mode = self.flag(path, item, "shadow_mode")
        limit = self.limit(path, item, shadow_mode=shadow_mode)
        if shadow_mode and not isinstance(limit, RateLimit) and "rate_limit" not in item:
            self.refuse(_join(path, "shadow_mode"), "needs a rate_limit beside it; nested descriptors have their own")
        return ConfigDescriptor(key, self.value(path, item), limit, self.descriptors(path, item, depth + 1))

    def value(self, path: str, item: Mapping[str, object]) -> str | None:
        """Return the optional value, None if there is none; an empty one means none, as in envoyproxy/ratelimit."""
        value = item.get("value", "")
        where = _join(path, "value")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # documents keep only integers whose text is this one
        if not isinstance(value, str):
            self.refuse(where, "must be a string: put it in quotes")
        elif len(value) > MAX_CONFIG_VALUE_LENGTH:
            self.refuse(where, f"is longer than {MAX_CONFIG_VALUE_LENGTH} characters")
        elif value.count("*") > MAX_WILDCARDS:
            self.refuse(where, f"has more than {MAX_WILDCARDS} wildcards")
        else:
            return value or None
        return None

    def limit(self, path: str, item: Mapping[str, object], *, shadow_mode: bool) -> Limit | None:
        if "rate_limit" not in item:
            return None
        path, found = _join(path, "rate_limit"), item["rate_limit"]
        if not isinstance(found, dict):
            self.refuse(path, "must be a mapping of fields")
            return None
        self.check_fields(path, found, _RATE_LIMIT)
        name = self.name(path, found)
        replaces = self.replaces(path, found, name)
        if self.flag(path, found, "unlimited"):
            for contradicting in sorted({"unit", "requests_per_unit"} & found.keys()):
                self.refuse(_join(path, contradicting), "must not stand beside unlimited")
            return Unlimited(name, replaces)
        unit, number = self.unit(path, found), self.requests_per_unit(path, found)
        return RateLimit(unit, number, name, replaces, shadow_mode)

    def unit(self, path: str, found: Mapping[str, object]) -> Unit:
        """Return the unit; one that was refused reads as seconds, of a configuration that is not made."""
        text = found.get("unit")
        unit = _UNITS.get(text.upper()) if isinstance(text, str) else None
        if unit is None:
            units = ", ".join(unit.name.lower() for unit in Unit)
            given = "is required" if "unit" not in found else "is not a unit of time"
            self.refuse(_join(path, "unit"), f"{given}; use one of {units}")
        return unit or Unit.SECOND

    def requests_per_unit(self, path: str, found: Mapping[str, object]) -> int:
        number = found.get("requests_per_unit")
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_UINT32:
            return number
        problem = "is required" if "requests_per_unit" not in found else f"must be an integer from 0 to {MAX_UINT32}"
        self.refuse(_join(path, "requests_per_unit"), problem)
        return 0

    def name(self, path: str, found: Mapping[str, object]) -> str:
        """Return the optional name: it is sent in header values, so it must be one there without escapes."""
        name = found.get("name", "")
        where = _join(path, "name")
        if not isinstance(name, str):
            self.refuse(where, "must be a string")
        elif len(name) > MAX_NAME_LENGTH:
            self.refuse(where, f"is longer than {MAX_NAME_LENGTH} characters")
        elif not _fits_header(name):
            self.refuse(where, "must be printable ASCII without quotes and backslashes")
        else:
            return name
        return ""

    def replaces(self, path: str, found: Mapping[str, object], name: str) -> frozenset[str]:
        names = set()
        for where, item in self.mappings(path, found, "replaces"):
            self.check_fields(where, item, _REPLACES)
            replaced = self.text(where, item, "name", MAX_NAME_LENGTH)
            if replaced and replaced == name:
                self.refuse(_join(where, "name"), "is the name of the limit itself")
            names.add(replaced)
        return frozenset(names)


def _fits_header(name: str) -> bool:
    return name.isascii() and name.isprintable() and '"' not in name and "\\" not in name


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
