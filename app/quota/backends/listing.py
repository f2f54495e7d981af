"""The keys of counters in memory: how they are kept in little of it, and the first of many in their order."""

import asyncio
from collections.abc import Iterable, Sequence
from heapq import nsmallest

from app.quota.model import CounterKey, KeptKey

# Keys that are put in order on the event loop; more are in a thread.
MAX_KEYS_AT_ONCE = 1000

Kept = str | bytes
"""A key as it is kept: its values in one text, which takes less than they do, or a digest of it."""


def joined(key: CounterKey) -> str:
    """Return the values of a key in one text, each after its length: no other key has the same."""
    return "".join([f"{len(part)}:{part}" for part in key])


def name_of(kept: Kept) -> KeptKey:
    """Return the key that is kept, or its digest."""
    if not isinstance(kept, str):
        return kept
    parts: list[str] = []
    rest = kept
    while rest:
        length, _, rest = rest.partition(":")
        parts.append(rest[: int(length)])
        rest = rest[int(length) :]
    return tuple(parts)


async def first_keys(keys: Sequence[Kept], past: Kept | None, count: int) -> list[Kept]:
    """Return the first `count` of `keys` in their order, of those after `past` if it is not None."""
    if len(keys) <= MAX_KEYS_AT_ONCE:
        return _first(keys, past, count)
    return await asyncio.to_thread(_first, keys, past, count)


def _first(keys: Iterable[Kept], past: Kept | None, count: int) -> list[Kept]:
    after = None if past is None else _order(past)
    return nsmallest(count, [key for key in keys if after is None or _order(key) > after], key=_order)


def _order(key: Kept) -> tuple[str, Kept]:
    return type(key).__name__, key
