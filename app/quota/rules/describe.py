"""What is configured, in words for operators."""

from collections.abc import Iterator

from app.quota.model import Limit, RateLimit
from app.quota.rules.tree import AppliedLimit, CompiledConfig, Node


def describe_config(config: CompiledConfig) -> Iterator[str]:
    """Yield a line for each limit of a domain, in the form of envoyproxy/ratelimit's `/rlconfig`."""
    for applied in limits_below(config.root):
        yield f"{applied.rule}: {describe_limit(applied.limit)}"


def describe_limit(limit: Limit) -> str:
    """Return a limit in words."""
    if not isinstance(limit, RateLimit):
        return "unlimited"
    modes = f"shadow_mode: {_flag(limit.shadow_mode)}, quota_mode: {_flag(limit.quota_mode)}"
    unit = limit.unit.name if limit.unit else f"{limit.seconds} seconds"
    return f"unit={unit} requests_per_unit={limit.requests_per_unit}, {modes}"


def limits_below(node: Node) -> Iterator[AppliedLimit]:
    """Yield every limit of `node` and below it."""
    if node.limit is not None:
        yield node.limit
    for child in (*node.exact.values(), *node.bare.values()):
        yield from limits_below(child)


def _flag(value: bool) -> str:  # noqa: FBT001 - it is what is printed
    return str(value).lower()


def as_unicode(text: str) -> str:
    """Return a text that a client wrote, with a mark for each half of a character that JSON can spell."""
    return text.encode(errors="replace").decode()
