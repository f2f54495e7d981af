"""Cursor pagination: a page has the key to continue after, so that changes in between skip and repeat nothing."""

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from app.core.errors import InvalidInputError, MeshwardError, Violation

DEFAULT_PAGE_SIZE = 100
# Bounds the memory and time that one request can ask for.
MAX_PAGE_SIZE = 1000
# Keys are names and ids; no cursor of this service is longer.
MAX_CURSOR_LENGTH = 4096

# A count of 63 bits has no more digits.
MAX_NUMBER_DIGITS = 18

Item = TypeVar("Item")
View = TypeVar("View")

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Items on a page")]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR_LENGTH, description="`next_cursor` of the previous page")]


class Page(BaseModel, Generic[Item]):
    """Some items in key order; `next_cursor` is absent on the last page."""

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


def page_of(found: Sequence[Item], limit: int, view: Callable[[Item], View], key: Callable[[Item], str]) -> Page[View]:
    """Return the page of what was found when one item more than `limit` was asked for."""
    items = found[:limit]
    following = encode_cursor(key(items[-1])) if len(found) > limit else None
    return Page(items=[view(item) for item in items], next_cursor=following)
