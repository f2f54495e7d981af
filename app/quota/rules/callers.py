"""Which callers may have hits counted in a domain: with hits of their own they use up the limits of others."""

from collections.abc import Sequence
from typing import NamedTuple

from app.quota.rules.tree import WILDCARD, compile_pattern


class CallerGrant(NamedTuple):
    """A caller, by the name of its principal, that may count in a domain; both are patterns where they have a `*`."""

    domain: str
    caller: str


def may_count(grants: Sequence[CallerGrant], domain: str, caller: str) -> bool:
    """Return whether `caller` may count in `domain`: any may in a domain that no grant is for."""
    admitted = [grant.caller for grant in grants if _fits(grant.domain, domain)]
    return not admitted or any(_fits(pattern, caller) for pattern in admitted)


def _fits(pattern: str, text: str) -> bool:
    return compile_pattern(pattern).matches(text) if WILDCARD in pattern else pattern == text
