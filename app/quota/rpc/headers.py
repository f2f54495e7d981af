"""The response headers that report limits to clients: three families of them, and Retry-After."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from app.quota.model import Code, Concurrency, RateLimit, Status, Total

Header = tuple[str, str]


class HeaderFamily(Enum):
    """Which headers are sent.

    DRAFT03: `x-ratelimit-limit`, `-remaining` and `-reset` of draft-polli-ratelimit-headers-03, as Envoy's own filter
    writes them. IETF: `ratelimit-policy` and `ratelimit` of draft-ietf-httpapi-ratelimit-headers. PLAIN: a number each,
    as envoyproxy/ratelimit writes them. RETRY_AFTER: `retry-after` (RFC 9110, section 10.2.3) where the request is
    refused.
    """

    DRAFT03 = "draft03"
    IETF = "ietf"
    PLAIN = "plain"
    RETRY_AFTER = "retry-after"


@dataclass(frozen=True, slots=True)
class HeaderOptions:
    """The families that are sent, in this order, and the names of the plain ones."""

    families: tuple[HeaderFamily, ...] = ()
    limit: str = "ratelimit-limit"
    remaining: str = "ratelimit-remaining"
    reset: str = "ratelimit-reset"


def headers_of(options: HeaderOptions, code: Code, statuses: Sequence[Status]) -> tuple[Header, ...]:
    """Return the headers of an answer with `code`, none if no limit applied.

    They report the limit that refused the request, of several the one that resets last; of a request that passes the
    one with the least remaining, the first of several. One that never resets has no window, and no time to wait for.
    """
    limited = [(status.limit, status) for status in statuses if status.limit]
    if not limited:
        return ()
    reported = _reported([status for _, status in limited])
    found: list[Header] = []
    for family in options.families:
        if family is HeaderFamily.DRAFT03:
            found += _draft03(limited, reported)
        elif family is HeaderFamily.IETF:
            found += _ietf(limited, reported)
        elif family is HeaderFamily.PLAIN:
            found += _plain(options, *limited[reported])
        elif code is Code.OVER_LIMIT and not isinstance(limited[reported][0].algorithm, Total):
            found.append(("retry-after", str(limited[reported][1].reset_seconds)))
    return tuple(found)


def _reported(statuses: Sequence[Status]) -> int:
    refusing = [index for index, status in enumerate(statuses) if status.code is Code.OVER_LIMIT]
    if refusing:
        return max(refusing, key=lambda index: statuses[index].reset_seconds)
    return min(range(len(statuses)), key=lambda index: statuses[index].remaining)


def _plain(options: HeaderOptions, limit: RateLimit, status: Status) -> Iterator[Header]:
    yield options.limit, str(limit.requests_per_unit)
    yield options.remaining, str(status.remaining)
    yield options.reset, str(status.reset_seconds)


def _draft03(limited: Sequence[tuple[RateLimit, Status]], reported: int) -> Iterator[Header]:
    limit, status = limited[reported]
    policies = [str(limit.requests_per_unit)]
    for each, _ in limited:
        name = f';name="{each.name}"' if each.name else ""
        window = "" if isinstance(each.algorithm, Total) else f";w={each.seconds}"
        policies.append(f"{each.requests_per_unit}{window}{name}")
    yield "x-ratelimit-limit", ", ".join(policies)
    yield "x-ratelimit-remaining", str(status.remaining)
    yield "x-ratelimit-reset", str(status.reset_seconds)


def _ietf(limited: Sequence[tuple[RateLimit, Status]], reported: int) -> Iterator[Header]:
    """Yield the fields of draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
    names = _names([limit for limit, _ in limited])
    limit, status = limited[reported]
    policies = (
        f'"{name}";q={each.requests_per_unit}{_quota_unit(each)}'
        for name, (each, _) in zip(names, limited, strict=True)
    )
    yield "ratelimit-policy", ", ".join(policies)
    reset = "" if isinstance(limit.algorithm, Total) else f";t={status.reset_seconds}"
    yield "ratelimit", f'"{names[reported]}";r={status.remaining}{reset}'


def _quota_unit(limit: RateLimit) -> str:
    """Return what the quota is counted in, requests unless it is said, and its window, if it has one."""
    if isinstance(limit.algorithm, Concurrency):
        return ';qu="concurrent-requests"'
    return "" if isinstance(limit.algorithm, Total) else f";w={limit.seconds}"


def _name_of(limit: RateLimit) -> str:
    match limit.algorithm:
        case Concurrency():
            return "concurrent"
        case Total():
            return "total"
    return f"per-{limit.unit.name.lower()}" if limit.unit else f"per-{limit.seconds}-seconds"


def _names(limits: Sequence[RateLimit]) -> list[str]:
    """Return a unique name for each policy: the limit's own or its unit, with a number where it repeats."""
    names: list[str] = []
    for limit in limits:
        name = base = limit.name or _name_of(limit)
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names
