"""The response headers that report limits to clients, in either family of rate limit headers."""

from collections.abc import Sequence
from enum import Enum

from app.quota.model import RateLimit, Status

Header = tuple[str, str]


class HeaderStyle(Enum):
    """Which headers are sent.

    DRAFT03: `x-ratelimit-limit`, `-remaining` and `-reset` of draft-polli-ratelimit-headers-03, as Envoy's own filter
    writes them. IETF: `ratelimit-policy` and `ratelimit` of draft-ietf-httpapi-ratelimit-headers.
    """

    OFF = "off"
    DRAFT03 = "draft03"
    IETF = "ietf"
    BOTH = "both"


def headers_of(style: HeaderStyle, statuses: Sequence[Status]) -> tuple[Header, ...]:
    """Return the headers for a request's statuses, none if no limit applied.

    What remains and when it resets is that of the descriptor with the least remaining, the first of several.
    """
    if style is HeaderStyle.OFF:
        return ()
    limited = [(status.limit, status) for status in statuses if status.limit]
    if not limited:
        return ()
    found: tuple[Header, ...] = ()
    if style is not HeaderStyle.IETF:
        found += _draft03(limited)
    if style is not HeaderStyle.DRAFT03:
        found += _ietf(limited)
    return found


def _least(limited: list[tuple[RateLimit, Status]]) -> int:
    return min(range(len(limited)), key=lambda index: limited[index][1].remaining)


def _draft03(limited: list[tuple[RateLimit, Status]]) -> tuple[Header, ...]:
    limit, status = limited[_least(limited)]
    policies = [str(limit.requests_per_unit)]
    for each, _ in limited:
        name = f';name="{each.name}"' if each.name else ""
        policies.append(f"{each.requests_per_unit};w={each.unit.seconds}{name}")
    return (
        ("x-ratelimit-limit", ", ".join(policies)),
        ("x-ratelimit-remaining", str(status.remaining)),
        ("x-ratelimit-reset", str(status.reset_seconds)),
    )


def _ietf(limited: list[tuple[RateLimit, Status]]) -> tuple[Header, ...]:
    names = _names([limit for limit, _ in limited])
    least = _least(limited)
    status = limited[least][1]
    policies = (
        f'"{name}";q={limit.requests_per_unit};w={limit.unit.seconds}'
        for name, (limit, _) in zip(names, limited, strict=True)
    )
    return (
        ("ratelimit-policy", ", ".join(policies)),
        ("ratelimit", f'"{names[least]}";r={status.remaining};t={status.reset_seconds}'),
    )


def _names(limits: Sequence[RateLimit]) -> list[str]:
    """Return a unique name for each policy: the limit's own or its unit, with a number where it repeats."""
    names: list[str] = []
    for limit in limits:
        name = base = limit.name or f"per-{limit.unit.name.lower()}"
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names
