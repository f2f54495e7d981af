"""Cursor pagination: a page has the key to continue after, so that changes in between skip and repeat nothing."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.core.errors import InvalidInputError, MeshwardError, Violation

DEFAULT_PAGE_SIZE = 100
# Bounds the memory and time that one request can ask for.
MAX_PAGE_SIZE = 1000
# The length of the items of a page; a single item may be longer.
MAX_PAGE_BYTES = 1 << 20
# Items that are read, and rendered, at once: that does not hold the event loop.
ITEMS_AT_ONCE = 50
# Keys are names and ids; no cursor of this service is longer.
MAX_CURSOR_LENGTH = 4096

# A count of 63 bits has no more digits.
MAX_NUMBER_DIGITS = 18

Item = TypeVar("Item")
Key = TypeVar("Key")

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Items on a page")]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR_LENGTH, description="`next_cursor` of the previous page")]


class Page(BaseModel, Generic[Item]):
    """Some items in key order, as the OpenAPI document shows them; `next_cursor` is null on the last page."""

    items: Sequence[Item]
    next_cursor: str | None = None


def encode_cursor(key: str) -> str:
    """Return the opaque form of the key of the last item on a page."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, parse: Callable[[str], Item]) -> Item | None:
    """Return the key as `parse` reads it, None for the first page. Raises InvalidInputError where `parse` raises."""
    if cursor is None:
        return None
    try:
        return parse(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode())
    except (ValueError, MeshwardError) as error:
        raise InvalidInputError(
            "cursor was not made by this service", Violation("cursor", "send the next_cursor of the previous page")
        ) from error


def parse_number(key: str) -> int:
    """Return the number that a key of a list in the order of numbers is. Raises ValueError."""
    if not key.isascii() or not key.isdigit() or len(key) > MAX_NUMBER_DIGITS:
        raise ValueError("not a count")
    return int(key)


class ItemsResponse(StreamingResponse):
    """A list as it is sent: in pieces, between which the event loop does other work."""

    def __init__(
        self, items: Sequence[Item], render: Callable[[Item], str], *, status: int = 200, more: str = ""
    ) -> None:
        """`render` returns an item as JSON; `more` are further fields of the body."""
        super().__init__(_pieces(items, render, more), status, media_type="application/json")


async def page_of(
    fetch: Callable[[Key | None, int], Awaitable[Sequence[Item]]],
    cursor: str | None,
    limit: int,
    *,
    parse: Callable[[str], Key],
    key: Callable[[Item], str],
    render: Callable[[Item], str],
    size: Callable[[Item], int] = lambda _: 0,
) -> ItemsResponse:
    """Return the page of at most `limit` items after `cursor`, whose key is as `key` writes and `parse` reads it.

    There are fewer where they are longer than MAX_PAGE_BYTES, but one at least. `fetch` returns at most so many items
    after a key, `size` the length of an item.
    """
    after = decode_cursor(cursor, parse)
    items: list[Item] = []
    left = MAX_PAGE_BYTES
    more = True
    while more and len(items) <= limit and left >= 0:
        wanted = min(ITEMS_AT_ONCE, limit + 1 - len(items))
        found = await fetch(parse(key(items[-1])) if items else after, wanted)
        items += found
        left -= sum(map(size, found))
        more = len(found) == wanted
    shown = _within_bounds(items, limit, size)
    following = encode_cursor(key(shown[-1])) if len(shown) < len(items) else None
    return ItemsResponse(shown, render, more=f',"next_cursor":{json.dumps(following)}')


def _within_bounds(items: Sequence[Item], limit: int, size: Callable[[Item], int]) -> Sequence[Item]:
    total = 0
    for number, item in enumerate(items[:limit]):
        total += size(item)
        if number and total > MAX_PAGE_BYTES:
            return items[:number]
    return items[:limit]


async def _pieces(items: Sequence[Item], render: Callable[[Item], str], more: str) -> AsyncIterator[str]:
    yield '{"items":['
    for start in range(0, len(items), ITEMS_AT_ONCE):
        yield ("," if start else "") + ",".join(map(render, items[start : start + ITEMS_AT_ONCE]))
        await asyncio.sleep(0)
    yield f"]{more}}}"
