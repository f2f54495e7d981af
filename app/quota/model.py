"""The values of quota: a domain's configuration, a sidecar's request, its answer."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

# Entries that one descriptor may have, in a request and in a configuration: a document can nest no deeper.
MAX_ENTRIES = 100
# Characters of a domain; Envoy Gateway's are `namespace/gateway/listener`. In UTF-8 it fits an index.
MAX_DOMAIN_LENGTH = 512
# Characters of an entry's key, which operators write.
MAX_KEY_LENGTH = 1024
# Characters of an entry's value. Clients write it, and a request that is refused may be let through by the sidecar
# (failure_mode_deny is off by default), so this is far above the 60 KiB of headers that Envoy takes by default.
MAX_VALUE_LENGTH = 1024 * 1024
# Descriptors in one request; a route's and a gateway's rate limit actions make a few.
MAX_DESCRIPTORS = 128
# The largest count and limit that the API can carry: an unsigned 32-bit integer.
MAX_UINT32 = 2**32 - 1


class Unit(Enum):
    """The length of a window, in seconds. Months have 30 days and years 365, as in envoyproxy/ratelimit."""

    SECOND = 1
    MINUTE = 60
    HOUR = 60 * 60
    DAY = 24 * 60 * 60
    WEEK = 7 * 24 * 60 * 60
    MONTH = 30 * 24 * 60 * 60
    YEAR = 365 * 24 * 60 * 60

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """Up to `requests` in each window of `seconds`. Windows start at multiples of their length since the epoch.

    Hits that are refused count unless `counts_refused` is False.
    """

    requests: int
    seconds: int
    counts_refused: bool = True


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """Up to `requests` in each day, week (from Monday on), month or year of the calendar in the time zone `zone`."""

    requests: int
    unit: Unit
    zone: str
    counts_refused: bool = True

    @property
    def seconds(self) -> int:
        """The length of the window as answers report it; that of the calendar may be a little different."""
        return self.unit.seconds


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Up to `requests` in the last `seconds`, from the counts of two fixed windows.

    The hits of the window before count in proportion to the part of it that is within the last `seconds`.
    """

    requests: int
    seconds: int


@dataclass(frozen=True, slots=True)
class SlidingLog:
    """Up to `requests` in any `seconds`, exactly: the time of each hit is kept."""

    requests: int
    seconds: int


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Up to `burst` tokens, all of them at first, that `requests` are added to in `seconds`. A hit takes one."""

    requests: int
    seconds: int
    burst: int


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Up to `requests` at the same time. A hit takes a slot, -1 gives it back; after `seconds` it is free anyway."""

    requests: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Total:
    """Up to `requests` for ever: the count never starts again."""

    requests: int

    @property
    def seconds(self) -> int:
        """The length of the window as answers report it: the longest that they can."""
        return MAX_UINT32


Algorithm = FixedWindow | CalendarWindow | SlidingWindow | SlidingLog | TokenBucket | Concurrency | Total
"""How a limit is counted, with the parameters: all that a counter store knows of the limit."""


class Away(Enum):
    """How a descriptor is answered while the counters cannot be reached.

    DENY: over the limit. ALLOW: within it. LEASE: by a share of the limit that this process was granted beforehand.
    """

    DENY = "deny"
    ALLOW = "allow"
    LEASE = "lease"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many requests may pass, by `algorithm`, or in each window of `unit` if that is None.

    `unit` is None where the window is none. `name` is empty or the name that answers carry; a limit that `replaces`
    another by name makes that one void in a
    request that matches both. In `shadow_mode` what is over the limit is counted and passes; in `quota_mode` it passes
    too, and the answer lists it as a violation. `away` decides while the counters cannot be reached.
    """

    unit: Unit | None
    requests_per_unit: int
    name: str = ""
    replaces: frozenset[str] = frozenset()
    shadow_mode: bool = False
    quota_mode: bool = False
    algorithm: Algorithm | None = None
    away: Away = Away.DENY

    @property
    def seconds(self) -> int:
        """The length of the window, as answers report it."""
        if self.algorithm is not None:
            return self.algorithm.seconds
        return self.unit.seconds if self.unit else 0


@dataclass(frozen=True, slots=True)
class Unlimited:
    """The limit that is none: nothing is counted, everything passes."""

    name: str = ""
    replaces: frozenset[str] = frozenset()


Limit = RateLimit | Unlimited


@dataclass(frozen=True, slots=True)
class ConfigDescriptor:
    """One node of a domain's tree. `value` is None for any value, else the exact value or a pattern with `*`.

    With `share_threshold` all values that fit the pattern count together. With `value_to_metric` the request's value is
    in the name that metrics have for the limits at and below the node, with `detailed_metric` every value is in that of
    the node's own limit.
    """

    key: str
    value: str | None
    limit: Limit | None
    descriptors: tuple["ConfigDescriptor", ...] = ()
    share_threshold: bool = False
    value_to_metric: bool = False
    detailed_metric: bool = False


@dataclass(frozen=True, slots=True)
class QuotaConfig:
    """The limits of one domain."""

    domain: str
    descriptors: tuple[ConfigDescriptor, ...]


# The values below are made several times for every request: named tuples, which cost half of a frozen dataclass.

Entry = tuple[str, str]
"""Key and value."""


class Descriptor(NamedTuple):
    """What a request asks to count.

    `hits` is None where the request's own number applies; 0 asks without counting. `override` is a limit that the
    sidecar brought with it, in place of the configured one. With `gives_back` the hits are slots of a `Concurrency`
    that are free again.
    """

    entries: tuple[Entry, ...]
    hits: int | None = None
    override: RateLimit | None = None
    gives_back: bool = False


LimitId = str
"""Identifies a limit among those of every domain: a digest of its domain, its place in the configuration, its unit."""


CounterKey = tuple[str, ...]
"""Identifies a counter among those of its limit: the values of a descriptor's entries, whose keys the limit fixes."""


class Hit(NamedTuple):
    """`hits` to be counted by `algorithm`, under the limit `limit_id`, in the counter `key`.

    They are fewer than 0 to give back slots of a `Concurrency` alone. `away` decides where they cannot be counted.
    """

    limit_id: LimitId
    key: CounterKey
    algorithm: Algorithm
    hits: int
    away: Away = Away.DENY


class Outcome(NamedTuple):
    """What the counter of a hit came to, the hit included.

    `allowed` is False if the limit is exceeded. `remaining` requests are left until the counter resets in
    `reset_seconds`, at least 1. `exact` is False where keys share a counter because there was no room: then the count
    may be more than that of the key, never less.
    """

    allowed: bool
    remaining: int
    reset_seconds: int
    exact: bool = True


KeptKey = CounterKey | bytes
"""What a store keeps a counter under: its key, or a digest of one that is too long to be kept."""

CounterName = tuple[LimitId, KeptKey]
"""Identifies a counter among those of every limit, as its store lists it."""


class LiveCounter(NamedTuple):
    """A counter that something is counted in: `used` of its limit, until it resets in so many seconds.

    `resets_in` is None where it never does.
    """

    name: CounterName
    used: int
    resets_in: int | None


class CounterPage(NamedTuple):
    """Some counters, and the cursor of the page after them; None on the last page."""

    counters: tuple[LiveCounter, ...]
    following: str | None


class Code(Enum):
    """What was decided about a descriptor, or about a request as a whole."""

    OK = "ok"
    OVER_LIMIT = "over_limit"


class Status(NamedTuple):
    """The answer to one descriptor.

    `limit` is None if none applies or it is `Unlimited`, whose `remaining` is the largest number there is. The other
    fields are those of the counter's `Outcome`.
    """

    code: Code
    limit: RateLimit | None = None
    remaining: int = 0
    reset_seconds: int = 0
    exact: bool = True


class Answer(NamedTuple):
    """The answer to a request: over the limit if any of its descriptors is. Statuses are in the request's order.

    `violations` are the places of those that are over a limit in quota mode. `shadowed` is whether the request was over
    a limit and passes because every limit is in shadow mode.
    """

    code: Code
    statuses: tuple[Status, ...]
    domain_known: bool
    violations: tuple[int, ...] = ()
    shadowed: bool = False


class Modes(NamedTuple):
    """Modes that apply to every limit.

    In shadow mode the statuses are as without it, and every request passes; in quota mode every limit is in it. What is
    over `near_ratio` of a limit is counted as near to it. Unless they `count_refused`, requests that are refused are
    counted under none of their limits.
    """

    shadow: bool = False
    quota: bool = False
    near_ratio: float = 0.8
    count_refused: bool = True
