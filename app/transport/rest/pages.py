"""Cursor pagination: a page has the key to continue after, so that changes in between skip and repeat nothing."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from app.core.errors import InvalidInputError, Violation

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


def decode_cursor(cursor: str | None, fits: Callable[[str], bool] = bool) -> str | None:
    """Return the key to continue after, None for the first page.

    Raises InvalidInputError if it is not a cursor, or its key is not one of this list by `fits`.
    """
    if cursor is None:
        return None
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise _unknown_cursor() from error
    if not fits(key):
        raise _unknown_cursor()
    return key


def decode_number(cursor: str | None) -> int | None:
    """Return the number to continue after in a list that is ordered by numbers. Raises InvalidInputError."""
    key = decode_cursor(cursor, is_number)
    return None if key is None else int(key)


def is_number(text: str) -> bool:
    """Whether `text` is a count."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS


def page_of(found: Sequence[Item], limit: int, view: Callable[[Item], View], key: Callable[[Item], str]) -> Page[View]:
    """Return the page of what was found when one item more than `limit` was asked for."""
    items = found[:limit]
    following = encode_cursor(key(items[-1])) if len(found) > limit else None
    return Page(items=[view(item) for item in items], next_cursor=following)


def _unknown_cursor() -> InvalidInputError:
    return InvalidInputError(
        "cursor was not made by this service", Violation("cursor", "send the next_cursor of the previous page")
    )
